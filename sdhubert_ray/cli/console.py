"""What the commands print, and how they end."""

import contextlib
import io
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console, RenderableType

from sdhubert_ray.errors import UserError
from sdhubert_ray.events import SAID_ALWAYS, JsonLines

EXIT_UNFINISHED, EXIT_USAGE, EXIT_FAILED_ROWS = 1, 2, 3

_PIPED_WIDTH = 1000
"""Columns where nobody looks: paths are not cut."""


@dataclass
class _Manner:
    """How much is said.

    Attributes:
        quiet: only warnings, errors and JSON that was asked for.
        debug: traces of errors, and what the libraries tell.
        out: where JSON goes that was asked for; None: standard output.
    """

    quiet: bool = False
    debug: bool = False
    out: TextIO | None = None


_LEFT_OUT = "RAY_DEDUP_LOGS_SKIP_REGEX"
"""What Ray, when it is imported, takes for lines of its workers not to be shown."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_manner = _Manner()
_interrupted = threading.Event()


def choose_width(is_terminal: bool) -> int | None:
    """Columns of a stream; None is what rich finds. It takes COLUMNS=0, which some jobs set, for a width."""
    if not is_terminal:
        return _PIPED_WIDTH
    return 80 if os.environ.get("COLUMNS") == "0" else None


class _Printer:
    """Standard output as it is when something is printed: it may have been redirected since the command began."""

    def print(self, *what: RenderableType, soft_wrap: bool = False) -> None:
        """Print tables and lines; in colour on a terminal alone, and not where NO_COLOR is set."""
        Console(markup=False, highlight=False, width=choose_width(sys.stdout.isatty())).print(
            *what, soft_wrap=soft_wrap
        )


console = _Printer()


class _Plain(io.TextIOWrapper):
    """A stream that is to have no colours: those that libraries print all the same, as Ray does, end here."""

    def write(self, text: str) -> int:
        """Write without them."""
        return super().write(_COLOUR.sub("", text))


def begin_anew() -> None:
    """Say what is said by default: each command begins so."""
    _manner.quiet, _manner.debug, _manner.out = False, False, None
    os.environ.setdefault(_LEFT_OUT, SAID_ALWAYS)  # by its workers; what this process's core says, `connected` sieves
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
    out, err = sys.stdout, sys.stderr
    if isinstance(out, io.TextIOWrapper) and out is sys.__stdout__ and not _is_coloured(out):
        sys.stdout = _Plain(out.buffer, out.encoding, out.errors, line_buffering=True)
    if isinstance(err, io.TextIOWrapper) and err is sys.__stderr__:
        # A descriptor of its own: what C code writes to the usual one can be told from it, see `runs.connect`.
        kind = io.TextIOWrapper if _is_coloured(err) else _Plain
        own = os.fdopen(os.dup(err.fileno()), "wb", buffering=0)
        sys.stderr = kind(own, err.encoding, err.errors, write_through=True)


def _is_coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")


def choose_manner(*, quiet: bool, debug: bool) -> None:
    """Take the flags --quiet and --debug of a command; one that another command runs has those of that one, too."""
    _manner.quiet |= quiet
    _manner.debug |= debug
    if debug:
        if os.environ.get(_LEFT_OUT) == SAID_ALWAYS:
            del os.environ[_LEFT_OUT]
        log_as("json" if logs_are_json() else "text")


def is_quiet() -> bool:
    """Whether only warnings, errors and JSON that was asked for are to be seen."""
    return _manner.quiet


@contextlib.contextmanager
def speaking(json_to_stdout: bool) -> Iterator[None]:
    """What a command prints within, for people, goes where it disturbs nobody.

    Args:
        json_to_stdout: standard output is for JSON; the rest goes to stderr.
    """
    with contextlib.ExitStack() as stack:
        if json_to_stdout or _manner.quiet:
            before, _manner.out = _manner.out, _manner.out or sys.stdout
            stack.callback(setattr, _manner, "out", before)
            elsewhere = stack.enter_context(Path(os.devnull).open("w")) if _manner.quiet else sys.stderr
            stack.enter_context(contextlib.redirect_stdout(elsewhere))
        yield


def print_json(text: str) -> None:
    """Print JSON that was asked for, whatever else is not to be said."""
    print(text, file=_manner.out or sys.stdout, flush=True)


def interrupt(_: int, __: FrameType | None) -> None:
    """Handle the signals that end a run: what it holds is given back."""
    _interrupted.set()
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raise an interrupt that was lost: one that falls into a decoder's callback goes no further."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


class _ToStderr(logging.StreamHandler[TextIO]):
    """Logs to stderr as it is when something is logged: a progress bar has its lines printed above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there
        """Where to."""
        return sys.stderr


class _Once(logging.Filter):
    """Lets each warning through once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it has not been seen yet."""
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        new = text not in self._seen
        self._seen.add(text)
        return new


def log_as(log_format: str) -> None:
    """Log to stderr: warnings as text, each once, or all events as JSON lines."""
    if log_format not in ("text", "json"):
        raise UserError(f"--log-format is {log_format!r}; it has to be text or json")
    is_json = log_format == "json"
    handler = _ToStderr()
    handler.setFormatter(JsonLines() if is_json else logging.Formatter("%(message)s"))
    if not is_json:
        handler.addFilter(_Once())
    logging.basicConfig(handlers=[handler], level=logging.INFO if _manner.debug else logging.WARNING, force=True)
    own = logging.DEBUG if _manner.debug else logging.INFO if is_json else logging.WARNING
    logging.getLogger("sdhubert_ray").setLevel(own)


def logs_are_json() -> bool:
    """Tell whether stderr takes JSON lines."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def note(message: str) -> None:
    """Say on stderr what is worth knowing."""
    if logs_are_json():
        logging.getLogger("sdhubert_ray").warning(message)
    elif not _manner.quiet or not message.startswith("note: "):
        print(message, file=sys.stderr)


def complain(message: str) -> None:
    """Say on stderr what is wrong, in the course of an exception; with --debug its trace, too."""
    if _manner.debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if logs_are_json():
        logging.getLogger("sdhubert_ray").error(message)
    else:
        print(f"sdhubert: {message}", file=sys.stderr)
