"""`sdhubert train`: a corpus in, checkpoints out."""

import importlib.util
import uuid
from typing import Annotated

import typer

from sdhubert_ray.cli.console import log_as
from sdhubert_ray.cli.options import Address, LogFormat, one_of
from sdhubert_ray.cli.progress import Phase, progress
from sdhubert_ray.cli.running import ended_early, waiting
from sdhubert_ray.errors import UserError


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as data.root_dir=LIBRISPEECH_ROOT")
    ] = None,
    config_name: Annotated[
        str,
        typer.Option(
            autocompletion=one_of("sdhubert_base", "sdhubert_paper", "sdhubert_tiny", "sylber_stage1", "sylber_stage2"),
            help="sdhubert_base (as the public code), sdhubert_paper, sdhubert_tiny (a trial), sylber_stage1, "
            "sylber_stage2, or a YAML file.",
        ),
    ] = "sdhubert_base",
    output: Annotated[
        str | None, typer.Option(help="A folder or URI: new, or one to resume; outputs/NAME if not given.")
    ] = None,
    address: Address = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove another run that is there.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Train SD-HuBERT or Sylber by self-distillation, on this machine or a Ray cluster.

    Run again, it goes on from the last checkpoint, at the same place in the data.
    """
    log_as(log_format)
    missing = [name for name in ("lightning", "tensorboardX") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"training needs {missing[0]}; pip install 'sdhubert_ray[train]'")
    from sdhubert_ray.training.options import load_train_config

    config = load_train_config(config_name, overrides or [], {})
    if output is None and address is not None:
        raise UserError("on a cluster the run needs a place that all nodes can reach; give --output")
    from sdhubert_ray.training.runs import prepare_run

    with ended_early():
        with waiting("listing"):
            run = prepare_run(config, output or f"outputs/{config.name}", uuid.uuid4().hex[:12], overwrite)
        found = run.found
        short = f", {found['too_short']} too short and left out" if found["too_short"] else ""
        without = found.get("without_segments", 0)  # runs of before there were any do not tell
        short += f", {without} without segments and left out" if without else ""
        print(f"{found['num_train']} recordings to train with, {found['num_val']} to validate with{short}")
        if run.begun is not None:
            print(f"going on from step {run.begun.step} of {config.max_steps}")
        from sdhubert_ray.training.loop import train as train_run  # Ray, Lightning and torch: seconds
        from sdhubert_ray.training.metrics import last_step

        begun = run.begun.step if run.begun else 0
        with progress(lambda: last_step(run.output)) as shown:
            shown.begin(Phase("training", "steps", config.max_steps, begun))
            step = train_run(run, address)
    print(f"{step} steps are done: {run.output}")
