"""`sdhubert show`: the syllables of a recording, printed and drawn."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sdhubert_ray.cli.console import console
from sdhubert_ray.cli.targets import Replace, check_file
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

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


def _draw(path: str, pieces: "pa.Table") -> None:
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
        from sdhubert_ray.viewing.plot import draw_segments
    except ImportError as error:
        raise UserError("drawing needs matplotlib; pip install 'sdhubert_ray[viz]'") from error
    offset = first.column("offset")[0].as_py()
    with open_audio(result.uri, first.column("member")[0].as_py(), None, None, None) as file:
        audio = read_audio(file, Span(offset, offset + result.duration))
    title = f"{result.id}: {len(result.segments)} syllables"
    figure = draw_segments(audio.samples, features * mask[:, None], result.segments - offset, title)
    figure.savefig(path, dpi=120)
    console.print(f"drawn to {path}", soft_wrap=True)
