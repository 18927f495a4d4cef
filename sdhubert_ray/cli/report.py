"""`sdhubert report`: what an output holds, as one page to read, look at and listen to."""

from collections.abc import Callable
from typing import Annotated

import typer

from sdhubert_ray.cli.console import console, raise_if_interrupted
from sdhubert_ray.cli.evaluate import By, TierName
from sdhubert_ray.cli.options import Rename, split_rename
from sdhubert_ray.cli.progress import Phase, progress
from sdhubert_ray.cli.targets import Replace, check_file

_ENDING = ".html"


def report(
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help="An output of `sdhubert segment`, a RUN of `sdhubert train`, or a file of `sdhubert evaluate --json`.",
        ),
    ],
    file: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The page.")] = "report.html",
    sample: Annotated[int, typer.Option(min=1, help="Recordings to look at and listen to.")] = 200,
    references: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="True syllables, as `sdhubert evaluate` takes them, to be shown beside."),
    ] = None,
    rename: Rename = None,
    tier: TierName = None,
    by: By = None,
    overwrite: Replace = False,
) -> None:
    """Make one page of an output: figures, and a sample of recordings to look at and listen to.

    It is one file that opens anywhere and asks for nothing else.
    """
    from sdhubert_ray import storage
    from sdhubert_ray.reporting import ReportOptions, gather, to_html

    check_file(file, overwrite, _ENDING)
    options = ReportOptions(sample, references, tier, split_rename(rename), tuple(dict.fromkeys(by or [])))
    with progress() as shown:

        def begin(name: str, length: int) -> Callable[[], None]:
            phase = shown.begin(Phase(name, "recordings", length))

            def advance() -> None:
                raise_if_interrupted()
                phase.advance()

            return advance

        page = gather(target, options, begin)
    size = 0
    parts = []
    for part in to_html(page):
        parts.append(part)
        size += len(part)
    storage.put(file, parts)
    for told in page.notes:
        console.print(told, soft_wrap=True)
    console.print(f"the report is in {file} ({size / 1e6:.1f} MB)", soft_wrap=True)
