"""`sdhubert benchmark`: from a corpus to the paper's table."""

import shlex
from pathlib import PurePosixPath
from typing import Annotated

import typer

from sdhubert_ray.cli.console import EXIT_FAILED_ROWS
from sdhubert_ray.cli.help import MORE, SETTINGS, Command, Group
from sdhubert_ray.cli.options import CHECKPOINTS, ENGINES, PRESETS, Address, choose_address
from sdhubert_ray.errors import UserError

_EXAMPLES = """
sdhubert benchmark librispeech LibriSpeech
sdhubert benchmark librispeech LibriSpeech --checkpoint my.pt --output results --preset readme
"""
benchmark = typer.Typer(
    cls=Group,
    help="From a corpus to the paper's table, in one command.",
    no_args_is_help=True,
    context_settings=SETTINGS,
    epilog=_EXAMPLES,
)


@benchmark.callback()
def _group() -> None:
    """A group, though there is one benchmark so far."""


@benchmark.command(cls=Command, epilog=_EXAMPLES)
def librispeech(
    context: typer.Context,
    root: Annotated[str, typer.Argument(metavar="ROOT", help="LibriSpeech: a folder or URI with train-clean-100 ...")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Of the segmentation: syllables.syl_dur=0.2")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(autocompletion=CHECKPOINTS, help="A path or URI, bundled, or sdhubert_base.")
    ] = "sdhubert_base",
    output: Annotated[str | None, typer.Option(help="The folder of all results (default: ROOT/segments/NAME).")] = None,
    preset: Annotated[str, typer.Option(autocompletion=PRESETS, help="paper or readme.")] = "paper",
    validation_syllables: Annotated[
        str | None,
        typer.Option(help="Reference syllables to tune the shift on (default: ROOT/syllables_validation.json)."),
    ] = None,
    test_syllables: Annotated[
        str | None, typer.Option(help="Reference syllables to report on (default: ROOT/syllables_test.json).")
    ] = None,
    train: Annotated[
        str, typer.Option(help="What is clustered: a split below ROOT, or a list of relative flac paths.")
    ] = "train-clean-100",
    validation: Annotated[
        str | None,
        typer.Option(help="A list of relative flac paths (default: the files of its reference).", rich_help_panel=MORE),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(help="A list of relative flac paths (default: the files of its reference).", rich_help_panel=MORE),
    ] = None,
    triplets: Annotated[
        str | None, typer.Option(help="Triplets of spoken-sentence ABX; without, it is left out.")
    ] = None,
    n_clusters: Annotated[int, typer.Option(help="Centers of k-means.")] = 16384,
    n_units: Annotated[int, typer.Option(help="Units that the centers are reduced to.")] = 4096,
    engine: Annotated[str, typer.Option(autocompletion=ENGINES, help="local (this process), ray, or auto.")] = "auto",
    address: Address = None,
) -> None:
    """Segment, cluster, give units, evaluate: each step is a command that is printed, and resumes where it was left."""
    from sdhubert_ray import storage
    from sdhubert_ray.evaluation.librispeech import (
        BenchmarkOptions,
        check_options,
        list_commands,
        list_parts,
        write_lists,
    )

    name = PurePosixPath(checkpoint).stem
    options = BenchmarkOptions(
        root=storage.absolute(root),
        output=storage.absolute(output or storage.join(root, f"segments/{name}")),
        checkpoint=checkpoint,
        preset=preset,
        overrides=tuple(overrides or ()),
        validation_syllables=validation_syllables or storage.join(root, "syllables_validation.json"),
        test_syllables=test_syllables or storage.join(root, "syllables_test.json"),
        train=train,
        validation=validation,
        test=test,
        triplets=triplets,
        n_clusters=n_clusters,
        n_units=n_units,
        engine=engine,
        address=choose_address(context, engine, address),
    )
    paths = list_parts(options)  # what it refuses is told before torch is loaded, which takes seconds
    check_options(options)
    write_lists(options, paths)
    counts = ", ".join(f"{len(names)} {part}" for part, names in paths.items())
    print(f"{counts} recordings; results in {options.output}")
    for arguments in list_commands(options):
        _run(arguments)


def _run(arguments: list[str]) -> None:
    """Run a command in this process. Exits as it does."""
    from sdhubert_ray.cli import app

    print(f"\n$ sdhubert {shlex.join(arguments)}")
    code = typer.main.get_command(app).main(arguments, "sdhubert", standalone_mode=False)
    if code == EXIT_FAILED_ROWS and arguments[0] == "segment":
        raise UserError(
            f"some recordings of {arguments[1]} could not be read; mend them, or allow them with max_failed=N as a "
            "further argument, then run this again"
        )
    if code:
        raise typer.Exit(code)
