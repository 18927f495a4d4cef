"""What the commands print, and how they end."""

import logging
import os
import sys
import threading
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sdhubert_ray.errors import UserError
from sdhubert_ray.events import JsonLines

EXIT_UNFINISHED, EXIT_USAGE, EXIT_FAILED_ROWS = 1, 2, 3

_PIPED_WIDTH = 1000
"""Columns where nobody looks: paths are not cut."""


def _choose_width(is_terminal: bool) -> int | None:
    """Columns of a stream; None is what rich finds. It takes COLUMNS=0, which some jobs set, for a width."""
    if not is_terminal:
        return _PIPED_WIDTH
    return 80 if os.environ.get("COLUMNS") == "0" else None


console = Console(markup=False, highlight=False, width=_choose_width(sys.stdout.isatty()))
_interrupted = threading.Event()


def interrupt(_: int, __: FrameType | None) -> None:
    """Handle the signals that end a run: what it holds is given back."""
    _interrupted.set()
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raise an interrupt that was lost: one that falls into a decoder's callback goes no further."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def log_as(log_format: str) -> None:
    """Log to stderr: warnings as text, or all events as JSON lines."""
    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format!r}; it has to be text or json")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("sdhubert_ray").setLevel(logging.INFO if log_format == "json" else logging.WARNING)


def logs_are_json() -> bool:
    """Tell whether stderr takes JSON lines."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def progress_bar(title: str, amounts: str = "", hidden: bool = False) -> Progress:
    """A bar on stderr, if that is a terminal: title, bar, how much of how much, time gone and to go.

    Args:
        title: what is done, as rich formats it: "{task.description}" for a bar per task.
        amounts: what stands behind the counts, likewise.
        hidden: show none, as where Ray Data draws its own.
    """
    columns: list[ProgressColumn] = [TextColumn(title), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(amounts)] if amounts else []
    columns += [TimeElapsedColumn(), TimeRemainingColumn()]
    return Progress(
        *columns, console=Console(stderr=True, width=_choose_width(True)), disable=hidden or not sys.stderr.isatty()
    )


def note(message: str) -> None:
    """Say on stderr what is worth knowing."""
    if logs_are_json():
        logging.getLogger("sdhubert_ray").warning(message)
    else:
        print(message, file=sys.stderr)


def complain(message: str) -> None:
    """Say on stderr what is wrong."""
    if logs_are_json():
        logging.getLogger("sdhubert_ray").error(message)
    else:
        print(f"sdhubert: {message}", file=sys.stderr)
