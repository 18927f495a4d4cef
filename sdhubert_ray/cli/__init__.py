"""The command line: `sdhubert segment` and `sdhubert show`.

Heavy imports happen inside the commands, so that `--help` and errors come at once.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from sdhubert_ray.execute import Job, Summary

EXIT_UNFINISHED, EXIT_USAGE, EXIT_FAILED_ROWS = 1, 2, 3

app = typer.Typer(
    help="Speech audio to syllables, with SD-HuBERT on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(markup=False, highlight=False)
_SHOWN_FAILURES = 20


@app.callback()
def _root() -> None:
    """Keep the name of the command on the line even while there are few."""


@app.command()
def segment(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A file, a folder (recursive), a glob, or a manifest.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A folder: new, or one to resume.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as syllables.syl_dur=0.2")
    ] = None,
    config: Annotated[str | None, typer.Option(help="A YAML file of the same keys.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A path or URI, sdhubert_base (default), or bundled (random weights).")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="readme (default) or paper.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="parquet (always written), files, textgrid; may be repeated."),
    ] = None,
    frame_features: Annotated[
        str | None, typer.Option(help="Keep the features of all frames: float32 or float16.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu or cuda.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")] = None,
    max_failed: Annotated[
        int | None,
        typer.Option(help="More unreadable, missing or failed recordings exit with 3 (default 0)."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local (this process), ray, or auto: ray from 10 minutes of audio.")
    ] = "auto",
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="Of a Ray cluster; without one Ray starts here.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where another run has been.")] = False,
) -> None:
    """Segment speech into syllables: a folder of audio in, a dataset of syllables out.

    Run again with the same configuration, it does what is left.
    """
    source_of_address = context.get_parameter_source("address")
    if engine == "local" and source_of_address is not None and source_of_address.name == "ENVIRONMENT":
        address = None  # set for other work; only an --address of this command contradicts
    flags = {
        "checkpoint": checkpoint,
        "preset": preset,
        "device": device,
        "dtype": dtype,
        "max_failed": max_failed,
        "output.frame_features": frame_features or ("float32" if formats and "files" in formats else None),
        "output.formats": formats or None,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    # What can be mended is told before torch is loaded, which takes seconds.
    from sdhubert_ray.config import load_config
    from sdhubert_ray.manifest import list_input

    config_now = load_config(config, overrides or [], given, {})
    listing = list_input(source)

    from sdhubert_ray.execute import prepare_job
    from sdhubert_ray.weights import fetch_checkpoint

    weights = fetch_checkpoint(config_now.checkpoint)
    job = prepare_job(
        load_config(config, overrides or [], given, weights.options),
        weights,
        source,
        listing,
        output,
        engine=engine,
        address=address,
        overwrite=overwrite,
    )
    summary = _run_with_progress(job)
    _print_summary(summary)
    if summary.num_failed > job.config.max_failed:
        raise typer.Exit(EXIT_FAILED_ROWS)


@app.command()
def show(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="An output folder of `sdhubert segment`.")],
    recording: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Which recording; the first by default.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="Draw waveform, self-similarity and boundaries (needs kept frame features)."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Syllables to print.")] = 12,
) -> None:
    """Print the syllables of a recording, and draw it."""
    from sdhubert_ray.output import join_pieces, read_files

    columns = [
        "id",
        "uri",
        "piece",
        "offset",
        "duration",
        "status",
        "error",
        "num_frames",
        "segments",
        "units",
    ]
    for pieces in read_files(output, [*columns, "frame_features", "mask"] if png else columns):
        if recording in (None, pieces.column("id")[0].as_py()):
            break
    else:
        raise UserError(f"{output} has no recording {recording!r}; ids are paths relative to the input, with ending")
    result = join_pieces(pieces)
    print(f"{result.id}: {result.status}, {result.duration:.2f} s, {len(result.segments)} syllables")
    table = Table()
    for heading in ("syllable", "start (s)", "end (s)", *(("unit",) if result.units is not None else ())):
        table.add_column(heading, justify="right")
    for number, (start, end) in enumerate(result.segments[:limit]):
        unit = [str(result.units[number])] if result.units is not None else []
        table.add_row(str(number + 1), f"{start:.2f}", f"{end:.2f}", *unit)
    console.print(table)
    if len(result.segments) > limit:
        console.print(f"... and {len(result.segments) - limit} more (--limit)")
    if png:
        _draw(png, pieces)


def main() -> None:
    """Run the command line; a UserError becomes one sentence and exit code 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app()
    except UserError as error:
        _complain(str(error))
        sys.exit(EXIT_USAGE)


def _complain(message: str) -> None:
    print(f"sdhubert: {message}", file=sys.stderr)


def _run_with_progress(job: "Job") -> "Summary":
    from sdhubert_ray.execute import IncompleteRunError, run_job

    rows, done = job.manifest.num_rows, job.manifest.num_rows - job.remaining.num_rows
    ignored = f", {job.listing.ignored} other files ignored" if job.listing.ignored else ""
    print(f"{job.listing.table.num_rows} recordings in {rows} pieces{ignored}; engine {job.engine}")
    if done:
        print(f"{done} of {rows} pieces are done already and skipped")
    columns = (
        TextColumn("segmenting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pieces, {task.fields[hours]:.2f} h"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("segmenting", total=rows, completed=done, hours=0.0)
        hours = 0.0

        def advance(count: int, seconds: float) -> None:
            nonlocal hours
            hours += seconds / 3600
            bar.update(task, advance=count, hours=hours)

        try:
            return run_job(job, advance)
        except IncompleteRunError as error:
            _complain(f"{error}; the same command resumes")
            raise typer.Exit(EXIT_UNFINISHED) from error
        except KeyboardInterrupt as error:
            _complain("interrupted; the same command resumes")
            raise typer.Exit(EXIT_UNFINISHED) from error


def _print_summary(summary: "Summary") -> None:
    table = Table(show_header=False, box=None)
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    table.add_row("recordings", f"{summary.num_files} ({statuses})")
    table.add_row("audio", f"{summary.audio_seconds / 3600:.3f} hours")
    rate = summary.num_syllables / summary.speech_seconds if summary.speech_seconds else 0.0
    table.add_row("syllables", f"{summary.num_syllables} ({rate:.2f} per second of speech)")
    if summary.rows_done:
        factor = summary.wall_seconds / summary.run_audio_seconds if summary.run_audio_seconds else 0.0
        table.add_row(
            "this run",
            f"{summary.rows_done} pieces in {summary.wall_seconds:.1f} s, real-time factor {factor:.4f}",
        )
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.stage_seconds.items())
        table.add_row("work per stage", stages)
    else:
        table.add_row("this run", "nothing was left to do")
    table.add_row("output", summary.output)
    console.print(table, soft_wrap=True)
    for name, status, error in summary.failures[:_SHOWN_FAILURES]:
        print(f"{status}: {name}: {error}", file=sys.stderr)
    if summary.num_failed > _SHOWN_FAILURES:
        print(f"... and {summary.num_failed - _SHOWN_FAILURES} more, in run.json", file=sys.stderr)


def _draw(path: Path, pieces: "pa.Table") -> None:
    from sdhubert_ray import storage
    from sdhubert_ray.audio import Span, read_audio
    from sdhubert_ray.output import join_pieces
    from sdhubert_ray.tables import read_ragged, read_vectors

    if "frame_features" not in pieces.column_names:
        raise UserError("the output keeps no frame features to draw; segment with --frame-features float16")
    first = pieces.slice(0, 1)
    features, mask = read_vectors(first.column("frame_features"))[0], read_ragged(first.column("mask"))[0]
    result = join_pieces(first)
    if features is None or mask is None:
        raise UserError(f"recording {result.id} has nothing to draw: it is {result.status}")
    try:
        from sdhubert_ray.plot import draw_segments
    except ImportError as error:
        raise UserError("drawing needs matplotlib; pip install 'sdhubert_ray[viz]'") from error
    offset = first.column("offset")[0].as_py()
    with storage.open_binary(result.uri) as file:
        audio = read_audio(file, Span(offset, offset + result.duration))
    title = f"{result.id}: {len(result.segments)} syllables"
    figure = draw_segments(audio.samples, features * mask[:, None], result.segments - offset, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    console.print(f"drawn to {path}", soft_wrap=True)
