"""What `sdhubert show` writes: pictures, pages with sound, TextGrids."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sdhubert_ray.cli.console import console, note
from sdhubert_ray.cli.targets import check_file
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.evaluation import Reference
    from sdhubert_ray.looking import Seen
    from sdhubert_ray.output import FileResult
    from sdhubert_ray.output.formats import FurtherTiers
    from sdhubert_ray.viewing.view import View

_IMAGES, _PAGE, _GRID = (".png", ".svg"), ".html", ".textgrid"
_DRAWN_SECONDS = 60.0
"""Of a longer recording so much is drawn, unless --start and --end say otherwise."""


@dataclass(frozen=True)
class Shown:
    """A recording that is printed, and can be drawn.

    Attributes:
        result: its syllables.
        truth: its reference, or None.
        look: gives what a picture shows of it, which may take a while.
    """

    result: "FileResult"
    truth: "Reference | None"
    look: "Callable[[], Seen]"


def check_target(path: str, overwrite: bool, count: int) -> None:
    """Refuse a file that cannot be drawn into, before any work.

    Args:
        path: its name.
        overwrite: it may be replaced.
        count: recordings that are to be drawn.

    Raises:
        UserError: its ending is none that is known, or holds one recording only; or as `check_file`.
    """
    ending = PurePosixPath(path).suffix.lower()
    if ending not in (*_IMAGES, _PAGE, _GRID):
        raise UserError(f"{path} is no name for a picture; it has to end with .png, .svg, .html or .TextGrid")
    if count > 1 and ending != _PAGE:
        raise UserError(f"{path} can hold one recording, not {count}; name one, or a .html for several")
    check_file(path, overwrite)
    if shows_frames(path):
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise UserError("drawing needs matplotlib; pip install 'sdhubert_ray[viz]'") from error


def shows_frames(path: str) -> bool:
    """Tell whether a file shows more of a recording than its syllables."""
    return PurePosixPath(path).suffix.lower() != _GRID


def draw(
    path: str, recordings: Sequence[Shown], start: float, end: float | None, further: "FurtherTiers | None"
) -> None:
    """Draw recordings from `start` to `end` seconds into a file, or write the TextGrid of one. Raises UserError."""
    from sdhubert_ray import storage

    if not shows_frames(path):
        from sdhubert_ray.output.formats import to_textgrid

        (only,) = recordings
        data = to_textgrid(only.result, further(only.result.id) if further else ()).encode()
    else:
        data = _paint(PurePosixPath(path).suffix.lower(), recordings, start, end)
    storage.put(path, data)
    console.print(f"written to {path}", soft_wrap=True)


def _paint(ending: str, recordings: Sequence[Shown], start: float, end: float | None) -> bytes:
    from sdhubert_ray.viewing.page import to_svg, write_page
    from sdhubert_ray.viewing.plot import draw as draw_view

    views = [_view(shown, start, end) for shown in recordings]
    drawings = [draw_view(view) for view in views]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if ending == _PAGE:
            data = write_page(list(zip(views, drawings, strict=True))).encode()
        elif ending == ".svg":
            data = to_svg(drawings[0])
        else:
            buffer = io.BytesIO()
            drawings[0].figure.savefig(buffer, format="png")
            data = buffer.getvalue()
    if any("missing from font" in str(warning.message) for warning in said):
        note("note: the font of the picture lacks some characters of names or labels; they are drawn as boxes")
    return data


def _view(shown: Shown, start: float, end: float | None) -> "View":
    from sdhubert_ray.viewing.view import Labelled, look

    seen, truth = shown.look(), shown.truth
    result = seen.result
    last = result.offset + result.duration
    begin = max(start, result.offset)
    until = min(last, begin + _DRAWN_SECONDS if end is None else end)
    title = f"{result.id}: {len(result.segments)} syllables, checkpoint {PurePosixPath(seen.checkpoint).name}"
    if (begin, until) != (result.offset, last):
        title += f", {begin:.2f} to {until:.2f} s of {last:.2f}"
    if end is None and until < last:
        drawn = f"{begin:.1f} to {until:.1f} s are drawn (--start, --end)"
        note(f"note: {result.id} is {result.duration:.1f} s long; {drawn}")
    reference = None if truth is None else Labelled(truth.syllables, truth.labels)
    samples = seen.read(begin, until)
    return look(
        samples, result.segments, begin, until, units=result.units, frames=seen.frames, reference=reference, title=title
    )
