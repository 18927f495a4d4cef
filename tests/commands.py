"""Commands as a user types them: in this process, or each in one of its own where that is the point."""

import contextlib
import io
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from sdhubert_ray import cli
from sdhubert_ray.cli import console

SDHUBERT = Path(sys.executable).parent / "sdhubert"

Done = subprocess.CompletedProcess[str]


def sdhubert(*arguments: str | Path, expect: int | tuple[int, ...] = 0) -> Done:
    """Run a command in this process, from the parsing of its arguments to its exit code.

    With the fixture `ray_cluster` it joins that cluster. Python and torch are started once for all tests so; each
    command has one test with `sdhubert_process`.
    """
    command = [str(SDHUBERT), *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with _as_it_was(), redirected[0], redirected[1], mock.patch.object(sys, "argv", command):
        try:
            cli.main()
        except SystemExit as ending:
            code = ending.code or 0
    assert isinstance(code, int), code
    return _checked(Done(command, code, out.getvalue(), err.getvalue()), expect)


def sdhubert_process(*arguments: str | Path, expect: int = 0, **options: object) -> Done:
    """Run a command in a process of its own; `options` as `subprocess.run` takes them."""
    command = [str(SDHUBERT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)
    return _checked(done, expect)


def complaint(done: Done) -> str:
    """The one sentence that a refused command says."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("sdhubert: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def _checked(done: Done, expect: int | tuple[int, ...]) -> Done:
    assert done.returncode in (expect if isinstance(expect, tuple) else (expect,)), done.stdout + done.stderr
    assert "--debug" in done.args or "Traceback" not in done.stderr
    return done


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Put back what a command sets for the whole process: loggers, handlers of signals, an interrupt it has seen."""
    loggers = [logging.getLogger(name) for name in (None, "sdhubert_ray", "ray.data", "ray.data._internal.progress")]
    before = [(logger, logger.level, logger.handlers) for logger in loggers]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for logger in loggers:
        logger.handlers = []
    try:
        yield
    finally:
        for logger, level, kept in before:
            logger.setLevel(level)
            logger.handlers = kept
        for number, handler in handlers.items():
            signal.signal(number, handler)
        console._interrupted.clear()
