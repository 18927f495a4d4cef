"""`sdhubert export`: from a training run to a checkpoint for `sdhubert segment`."""

from typing import Annotated

import typer

from sdhubert_ray.cli.options import one_of
from sdhubert_ray.cli.running import waiting
from sdhubert_ray.cli.targets import Replace, check_file, check_folder


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run of `sdhubert train`, or of a checkpoint in it; with --hub also any checkpoint.",
        ),
    ],
    target: Annotated[str, typer.Argument(metavar="OUT.pt", help="The file or URI to write; with --hub a folder.")],
    which: Annotated[
        str, typer.Option(autocompletion=one_of("best", "last"), help="best (of the validations) or last.")
    ] = "best",
    hub: Annotated[
        bool, typer.Option("--hub", help="Write a folder for the Hugging Face hub: card, config, safetensors.")
    ] = False,
    overwrite: Replace = False,
) -> None:
    """Export the trained encoder as one file, in the official format, with the options to segment with."""
    from sdhubert_ray.training.export import export_checkpoint, export_folder

    if hub:
        from sdhubert_ray.encoder.hub import FILES

        check_folder(target, FILES, overwrite)
        with waiting("exporting"):
            exported = export_folder(run, target, which)
    else:
        check_file(target, overwrite, ".pt")
        with waiting("exporting"):
            exported = export_checkpoint(run, target, which)
    step = f"step {exported.step} ({exported.source})" if exported.step else exported.source
    print(f"{step} exported: sdhubert segment --checkpoint {exported.target} ...")
