"""A command on a terminal, and in a pipe: bars and colours, or none."""

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from commands import SDHUBERT, sdhubert_process

pytestmark = [pytest.mark.seconds, pytest.mark.xdist_group("processes")]

COLOUR = re.compile(r"\x1b\[[0-9;]*?(3[0-7]|38|4[0-7]|48|9[0-7])(;[0-9;]*)?m")


def on_terminal(*arguments: str | Path, **environment: str) -> str:
    """What a command shows on a terminal of 100 columns, which both of its streams are."""
    ours, its = pty.openpty()
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [SDHUBERT, *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environment},
    )
    os.close(its)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                part = terminal.read(4096)
            except OSError:  # Linux's way to tell that nobody has the other end any more
                break
            if not part:
                break
            shown += part
    assert process.wait(60) == 0, shown
    return shown.decode()


def test_a_terminal_gets_bars_and_colours_unless_it_is_to_have_none(golden: Path, tmp_path: Path) -> None:
    command = ("segment", golden / "audio", tmp_path / "out", "--checkpoint", "bundled", "--engine", "local")
    shown = on_terminal(*command)
    assert "segmenting" in shown
    assert "━" in shown
    assert "% (" in shown
    assert COLOUR.search(shown)
    plain = on_terminal(*command, "--overwrite", NO_COLOR="1")
    assert "━" in plain
    assert not COLOUR.search(plain)
    quiet = on_terminal(*command, "--overwrite", "--quiet")
    assert quiet == ""


def test_a_pipe_gets_neither(golden: Path, tmp_path: Path) -> None:
    done = sdhubert_process(
        "segment", golden / "audio", tmp_path / "out", "--checkpoint", "bundled", "--engine", "local"
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "━" not in done.stdout + done.stderr
