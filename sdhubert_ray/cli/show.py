"""`sdhubert show`: the syllables of a recording, printed and drawn."""

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sdhubert_ray.cli.console import console
from sdhubert_ray.cli.options import Rename, split_rename
from sdhubert_ray.cli.targets import Replace, check_file
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from sdhubert_ray.evaluation import Reference
    from sdhubert_ray.output import FileResult

_SHOWN_IDS = 3


def show(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="An output folder of `sdhubert segment`.")],
    recording: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Which recording; the first by default.")
    ] = None,
    png: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw waveform, self-similarity and boundaries (needs kept frame features)."),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="True syllables, as `sdhubert evaluate` takes them, to be shown beside."),
    ] = None,
    rename: Rename = None,
    limit: Annotated[int, typer.Option(min=0, help="Syllables to print.")] = 12,
    overwrite: Replace = False,
) -> None:
    """Print the syllables of a recording, and draw it."""
    from sdhubert_ray.output import join_pieces, read_files

    if png:
        check_file(png, overwrite, ".png")
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
    wanted = [*columns, "member", "frame_features", "mask"] if png else columns
    pieces = next(read_files(output, wanted, only=recording), None)
    if pieces is None:
        raise UserError(f"{output} has no recording {recording!r}; {_near_ids(output, recording)}")
    result = join_pieces(pieces)
    truth = None if references is None else _reference_of(result.id, references, split_rename(rename))
    print(f"{result.id}: {result.status}, {result.duration:.2f} s, {len(result.segments)} syllables")
    rows = [(number, None) for number in range(len(result.segments))] if truth is None else _pair(result, truth)
    table = Table()
    headings = ["syllable", "start (s)", "end (s)", *(("unit",) if result.units is not None else ())]
    for heading in [*headings, *(("true start (s)", "true end (s)", "label") if truth else ())]:
        table.add_column(heading, justify="right")
    for number, true in rows[:limit]:
        cells = [""] * len(headings)
        if number is not None:
            cells = [str(number + 1), *_seconds(result.segments[number])]
            cells += [str(result.units[number])] if result.units is not None else []
        if truth is not None and true is not None:
            cells += [*_seconds(truth.syllables[true]), escape(truth.labels[true])]
        table.add_row(*cells)
    console.print(table)
    if len(rows) > limit:
        console.print(f"... and {len(rows) - limit} more (--limit)")
    if truth is not None:
        _print_agreement(result, truth)
    if png:
        _draw(png, pieces, truth)


def _reference_of(recording: str, references: str, rename: tuple[str, str]) -> "Reference":
    from sdhubert_ray.evaluation import find_reference, find_rename, load_references, renamed

    found = [renamed(reference, *rename) for reference in load_references(references)]
    truth = find_reference(found, recording)
    if truth is None:
        way = find_rename([reference.file_name for reference in found], [recording])
        raise UserError(
            f"{references} has no reference for recording {recording!r}; those there are called like "
            f"{found[0].file_name!r}" + (f"; it has one with --rename {shlex.quote(way)}" if way else "")
        )
    return truth


def _pair(result: "FileResult", truth: "Reference") -> list[tuple[int | None, int | None]]:
    """Segments and true syllables in order of time, those that overlap most side by side."""
    from sdhubert_ray.metrics import match_segments

    of_truth, of_segments, overlaps = match_segments(truth.syllables, result.segments)
    pairs = zip(of_segments.tolist(), of_truth.tolist(), overlaps, strict=True)
    partners = {number: true for number, true, shared in pairs if shared > 0}
    rows: list[tuple[float, int | None, int | None]] = [
        (float(start), number, partners.get(number)) for number, (start, _) in enumerate(result.segments)
    ]
    left = set(range(len(truth.syllables))) - set(partners.values())
    rows += [(float(truth.syllables[true, 0]), None, true) for true in left]
    return [(number, true) for _, number, true in sorted(rows, key=lambda row: row[0])]


def _print_agreement(result: "FileResult", truth: "Reference") -> None:
    from sdhubert_ray.metrics import TOLERANCE, count_sdhubert, score_boundaries

    scores = score_boundaries(count_sdhubert(truth.syllables, result.segments))
    r_value = "none" if scores.r_value is None else f"{scores.r_value:.2f}"
    console.print(
        f"boundaries within {1000 * TOLERANCE:.0f} ms of those of {len(truth.labels)} true syllables: "
        f"F1 {scores.f1:.2f}, R-value {r_value}, precision {scores.precision:.2f}, recall {scores.recall:.2f} "
        "(protocol sdhubert, not shifted)",
        soft_wrap=True,
    )


def _seconds(interval: Iterable[float]) -> list[str]:
    return [f"{seconds:.2f}" for seconds in interval]


def _near_ids(output: str, recording: str | None) -> str:
    """What recordings are called that are there."""
    from difflib import get_close_matches

    from sdhubert_ray.output import read_files

    ids = [table.column("id")[0].as_py() for table in read_files(output, ["id"])]
    if not ids:
        return "it has no recordings yet"
    near = get_close_matches(recording or "", ids, _SHOWN_IDS, 0.5)
    told = ", ".join(repr(name) for name in near or ids[:_SHOWN_IDS])
    return f"did you mean {told}?" if near else f"its {len(ids)} recordings are called like {told}"


def _draw(path: str, pieces: "pa.Table", truth: "Reference | None") -> None:
    from sdhubert_ray.corpus.shards import open_audio
    from sdhubert_ray.output import join_pieces
    from sdhubert_ray.output.tables import read_ragged, read_vectors
    from sdhubert_ray.speech.audio import Span, read_audio

    if "frame_features" not in pieces.column_names:
        raise UserError("the output keeps no frame features to draw; segment with --frame-features float16")
    first = pieces.slice(0, 1)
    features, mask = read_vectors(first.column("frame_features"))[0], read_ragged(first.column("mask"))[0]
    result = join_pieces(first)
    if features is None or mask is None:
        raise UserError(f"recording {result.id} has nothing to draw: it is {result.status}")
    try:
        from sdhubert_ray.viewing.plot import Labelled, draw_segments
    except ImportError as error:
        raise UserError("drawing needs matplotlib; pip install 'sdhubert_ray[viz]'") from error
    offset = first.column("offset")[0].as_py()
    with open_audio(result.uri, first.column("member")[0].as_py(), None, None, None) as file:
        audio = read_audio(file, Span(offset, offset + result.duration))
    title = f"{result.id}: {len(result.segments)} syllables"
    true = None if truth is None else Labelled(truth.syllables - offset, truth.labels)
    figure = draw_segments(audio.samples, features * mask[:, None], result.segments - offset, title, true)
    figure.savefig(path, dpi=120)
    console.print(f"drawn to {path}", soft_wrap=True)
