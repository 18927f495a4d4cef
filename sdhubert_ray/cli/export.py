"""`sdhubert export`: from a training run to a checkpoint for `sdhubert segment`."""

from typing import Annotated

import typer

from sdhubert_ray.cli.targets import Replace, check_file


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The folder of a run of `sdhubert train`, or of a checkpoint in it.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT.pt", help="The file or URI to write.")],
    which: Annotated[str, typer.Option(help="best (of the validations) or last.")] = "best",
    overwrite: Replace = False,
) -> None:
    """Export the trained encoder as one file, in the official format, with the options to segment with."""
    from sdhubert_ray.training.export import export_checkpoint

    check_file(target, overwrite, ".pt")
    exported = export_checkpoint(run, target, which)
    print(f"step {exported.step} ({exported.source}) exported: sdhubert segment --checkpoint {exported.target} ...")
