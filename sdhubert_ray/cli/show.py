"""`sdhubert show`: the syllables of a recording, printed and drawn."""

import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sdhubert_ray.cli.console import console
from sdhubert_ray.cli.drawing import Shown, check_target, draw, shows_frames
from sdhubert_ray.cli.options import Rename, split_rename
from sdhubert_ray.cli.targets import Replace
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from sdhubert_ray.evaluation import Reference
    from sdhubert_ray.looking import Seen
    from sdhubert_ray.output import FileResult

_SHOWN_IDS = 3
_COLUMNS = ("id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units")


def show(
    target: Annotated[
        str, typer.Argument(metavar="AUDIO|OUTPUT", help="An audio file, or an output folder of `sdhubert segment`.")
    ],
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Recordings of OUTPUT (default: its first).")
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Draw: .png, .svg, .html (with sound), or .TextGrid."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Segments AUDIO (default: bundled); of OUTPUT: where it is now.")
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="True syllables to show beside: JSON, a TextGrid, a folder of them."),
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Of references that are TextGrids.")] = None,
    rename: Rename = None,
    start: Annotated[float, typer.Option(min=0, help="Show from this second on.")] = 0.0,
    end: Annotated[
        float | None, typer.Option(help="Show up to this second; 120 are drawn at most, by default 60.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Syllables to print.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per recording.")] = False,
    overwrite: Replace = False,
) -> None:
    """Print the syllables of an audio file, or of recordings of an output, and draw them."""
    if end is not None and not start < end < math.inf:
        raise UserError(f"--start is {start:g} and --end {end:g}; the end has to come after the start")
    if tier is not None and references is None:
        raise UserError("--tier is of references; name them with --references")
    if picture:
        check_target(picture, overwrite, len(ids or ()))
    find = None if references is None else _reference_finder(references, tier, split_rename(rename))
    shown: list[Shown] = []
    found = _find(target, ids, checkpoint, picture is not None and shows_frames(picture), find)
    for result, look in found:
        if start and start >= result.offset + result.duration:
            raise UserError(
                f"recording {result.id} is {result.duration:.2f} s long, and has nothing at --start {start:g}"
            )
        shown.append(Shown(result, None if find is None else find(result.id), look))
    for one in shown:
        if as_json:
            print(json.dumps(_record(one, start, end)))
        else:
            _print_table(one, start, end, limit)
    if picture:
        from sdhubert_ray.evaluation.tiers import FurtherTiers

        further = None if references is None else FurtherTiers(references, split_rename(rename))
        draw(picture, shown, start, end, further)


def _find(
    target: str,
    ids: Sequence[str] | None,
    checkpoint: str | None,
    with_frames: bool,
    find: "Callable[[str], Reference] | None",
) -> "Iterator[tuple[FileResult, Callable[[], Seen]]]":
    """The recordings that are meant, and what looks closer at each."""
    from sdhubert_ray import storage

    if storage.is_folder(target):
        yield from _find_in_output(target, ids or [None], checkpoint, with_frames)
    elif not storage.exists(target):
        raise UserError(f"{target} is not there; name an audio file, or an output folder of `sdhubert segment`")
    elif ids:
        raise UserError(f"{target} is one recording; leave out {ids[0]!r}, or name an output folder")
    else:
        from sdhubert_ray.looking import file_id, segment_file

        if find is not None:
            find(file_id(target))  # which takes less time than to segment it
        seen = segment_file(target, checkpoint or "bundled")
        yield seen.result, lambda: seen


def _find_in_output(
    output: str, ids: Sequence[str | None], checkpoint: str | None, with_frames: bool
) -> "Iterator[tuple[FileResult, Callable[[], Seen]]]":
    from sdhubert_ray.output import join_pieces, read_files

    for recording in ids:
        # Frame features are large, and only a picture shows them.
        columns = [*_COLUMNS, *(("frame_features", "norm", "mask") if with_frames else ())]
        pieces = next(read_files(output, columns, only=recording), None)
        if pieces is None:
            raise UserError(f"{output} has no recording {recording!r}; {_near_ids(output, recording)}")

        def look(pieces: "pa.Table" = pieces) -> "Seen":
            from sdhubert_ray.looking import revisit

            return revisit(output, pieces, checkpoint)

        yield join_pieces(pieces), look


def _reference_finder(references: str, tier: str | None, rename: tuple[str, str]) -> "Callable[[str], Reference]":
    """What finds the reference of a recording; UserError where there is none."""
    from sdhubert_ray.evaluation import find_reference, find_rename, load_references, renamed

    found = [renamed(reference, *rename) for reference in load_references(references, tier)]

    def find(recording: str) -> "Reference":
        truth = find_reference(found, recording)
        if truth is None:
            way = find_rename([reference.file_name for reference in found], [recording])
            raise UserError(
                f"{references} has no reference for recording {recording!r}; those there are called like "
                f"{found[0].file_name!r}" + (f"; it has one with --rename {shlex.quote(way)}" if way else "")
            )
        return truth

    return find


def _print_table(shown: Shown, start: float, end: float | None, limit: int) -> None:
    result, truth = shown.result, shown.truth
    print(f"{result.id}: {result.status}, {result.duration:.2f} s, {len(result.segments)} syllables")
    rows = [(number, None) for number in range(len(result.segments))] if truth is None else _pair(result, truth)
    rows = [row for row in rows if _is_within(result, truth, row, start, end)]
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
    if limit:
        console.print(table)
    if len(rows) > limit:
        console.print(f"... and {len(rows) - limit} more (--limit)")
    if truth is not None:
        _print_agreement(result, truth)


def _is_within(
    result: "FileResult",
    truth: "Reference | None",
    row: tuple[int | None, int | None],
    start: float,
    end: float | None,
) -> bool:
    """Tell whether a segment or the true syllable beside it reaches into what is shown."""
    number, true = row
    times = [] if number is None else [result.segments[number]]
    times += [] if truth is None or true is None else [truth.syllables[true]]
    return any(stop > start and (end is None or begin < end) for begin, stop in times)


def _record(shown: Shown, start: float, end: float | None) -> dict[str, object]:
    """A recording as JSON has it, times in seconds of the file."""
    result, truth = shown.result, shown.truth
    syllables = []
    for number, (begin, stop) in enumerate(result.segments.tolist()):
        if _is_within(result, None, (number, None), start, end):
            unit = None if result.units is None else int(result.units[number])
            syllables.append({"number": number + 1, "start": begin, "end": stop, "unit": unit})
    record: dict[str, object] = {
        "id": result.id,
        "status": result.status,
        "error": result.error,
        "duration": result.duration,
        "syllables": syllables,
    }
    if truth is not None:
        record["reference"] = [
            {"start": begin, "end": stop, "label": label}
            for number, ((begin, stop), label) in enumerate(zip(truth.syllables.tolist(), truth.labels, strict=True))
            if _is_within(result, truth, (None, number), start, end)
        ]
    return record


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
