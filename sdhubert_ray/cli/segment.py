"""`sdhubert segment`: audio in, a dataset of syllables out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from sdhubert_ray.cli.console import log_as
from sdhubert_ray.cli.help import MORE
from sdhubert_ray.cli.options import (
    CHECKPOINTS,
    DEVICES,
    DTYPES,
    PRESETS,
    Address,
    ConfigFile,
    EngineName,
    Formats,
    Input,
    Limit,
    LogFormat,
    Output,
    Overwrite,
    Rate,
    Rename,
    Split,
    Where,
    choose_address,
    one_of,
    read_piped,
    select,
    split_arguments,
)
from sdhubert_ray.cli.plan import print_plan
from sdhubert_ray.cli.references import Beside, find_tiers, with_tiers
from sdhubert_ray.cli.running import do_job, print_found, waiting
from sdhubert_ray.cli.targets import JsonFile, check_figures
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.runs.config import JobConfig

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as syllables.syl_dur=0.2")]
CheckpointName = Annotated[
    str | None,
    typer.Option(
        autocompletion=CHECKPOINTS,
        help="sdhubert_base (default), bundled (small, no download), a path, a URI, or a hub name.",
    ),
]
QuantizerName = Annotated[
    str | None, typer.Option(help="A folder or URI of `sdhubert cluster`: syllables get its units.")
]
Preset = Annotated[
    str | None,
    typer.Option(
        autocompletion=PRESETS,
        help="readme (default), paper, or a system's, such as sylber.",
    ),
]
EncoderLayer = Annotated[
    int | None, typer.Option(min=0, help="Hidden states that are the features: encoder.layer.", rich_help_panel=MORE)
]
FrameFeatures = Annotated[
    str | None,
    typer.Option(
        autocompletion=one_of("float32", "float16"), help="Keep the features of all frames: float32 or float16."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(autocompletion=DEVICES, help="auto (default), cpu or cuda."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        autocompletion=DTYPES,
        help="float32 (default), bfloat16, float16, or auto: bfloat16 where it is fast.",
        rich_help_panel=MORE,
    ),
]
MaxFailed = Annotated[
    int | None,
    typer.Option(help="More unreadable, missing or failed recordings exit with 3 (default 0).", rich_help_panel=MORE),
]
Retry = Annotated[
    list[str] | None,
    typer.Option(
        autocompletion=one_of("failed", "missing", "unreadable"),
        help="Do failed, missing or unreadable rows again; repeatable.",
    ),
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Try a sample and tell what the run would take; write nothing.")]


def segment(
    context: typer.Context,
    source: Input,
    output: Output,
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: CheckpointName = None,
    quantizer: QuantizerName = None,
    preset: Preset = None,
    encoder_layer: EncoderLayer = None,
    rate: Rate = None,
    formats: Formats = None,
    references: Beside = None,
    rename: Rename = None,
    frame_features: FrameFeatures = None,
    device: Device = None,
    dtype: Dtype = None,
    max_failed: MaxFailed = None,
    where: Where = None,
    limit: Limit = None,
    split: Split = None,
    engine: EngineName = "auto",
    address: Address = None,
    retry: Retry = None,
    plan: PlanOnly = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print where the time went.", rich_help_panel=MORE)
    ] = False,
    json_file: JsonFile = None,
    overwrite: Overwrite = False,
    log_format: LogFormat = "text",
) -> None:
    """Segment speech into syllables: audio in, a dataset of syllables out.

    Run again with the same configuration, it does what is left.
    """
    log_as(log_format)
    if plan and profile:
        raise UserError("--plan runs nothing that --profile could tell of; leave out one")
    if json_file:
        check_figures(json_file)
    inputs, output, words = split_arguments(source, output, overrides or [])
    # What can be mended is told before torch is loaded, which takes seconds.
    from sdhubert_ray.runs.config import flags_of_output, given, load_config
    from sdhubert_ray.runs.segmenting import prepare_segmenting

    of_run = {"checkpoint": checkpoint, "quantizer": quantizer, "preset": preset, "device": device, "dtype": dtype}
    numbers = {"encoder.layer": encoder_layer, "rate": rate, "max_failed": max_failed}
    flags = given({**of_run, **numbers, **flags_of_output(formats, frame_features, "float32")})

    def compose(carried: Mapping[str, Mapping[str, object]]) -> "JobConfig":
        return load_config(config, words, flags, carried)

    tiers = find_tiers(references, rename, compose({}))
    with waiting("planning") as counted:
        job = prepare_segmenting(
            inputs,
            output,
            compose,
            selection=select(where, limit, split),
            piped=[] if retry else read_piped(inputs),
            engine=engine,
            address=choose_address(context, engine, address),
            overwrite=overwrite,
            retry=retry or (),
            on_listing=counted,
        )
        job = with_tiers(job, tiers)
    print_found(job)
    if plan:
        try:
            print_plan(job, json_file)
        finally:
            job.discard()
    else:
        do_job(job, profile, json_file)
