"""Commands that are interrupted or killed: how they end, what they say, what is told of them afterwards."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import sdhubert
from forks import COMMAND, FORKS, Script
from outputs import keys_in


@FORKS
@pytest.mark.parametrize(
    ("engine", "sent"),
    [
        ("local", signal.SIGINT),
        ("local", signal.SIGTERM),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.ray),
        pytest.param("ray", signal.SIGTERM, marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_interrupted_run_says_how_to_go_on(
    engine: str, sent: signal.Signals, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "audio").mkdir()
    for number in range(200):
        shutil.copy(golden / "audio/synth_4.flac", tmp_path / "audio" / f"{number:03d}.flac")
    command = ["segment", tmp_path / "audio", tmp_path / "out", "--engine", engine, "--checkpoint", "bundled"]
    process = Script(COMMAND, *command, "resources.unit_rows=1", "resources.encode.max_workers=1")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out" / "commits").glob("0*.parquet")):
        assert process.returncode is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = process.children()
    process.send_signal(sent)
    done = process.wait(120)
    assert done.returncode == 1, done.stderr
    assert "sdhubert: interrupted; the same command resumes" in done.stderr
    # One that falls into a callback of the decoder is printed there, and raised again when the unit is done.
    assert "Traceback" not in done.stderr.partition("Exception ignored from cffi callback")[0]
    assert "core_worker" not in done.stderr  # Ray's own
    assert "\x1b" not in done.stdout + done.stderr
    assert 0 < len(keys_in(tmp_path / "out")) < 200
    assert not (tmp_path / "out" / "lease.json").exists()
    assert bool(children) == (engine == "ray")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.parametrize("module", ["typer", "rich", "sdhubert_ray.cli.segment", "torch", "transformers"])
def test_an_interrupt_while_a_command_is_loaded_ends_with_1(module: str, tmp_path: Path, golden: Path) -> None:
    """Ctrl-C falls where a module is imported: at the very beginning, or when torch is, which takes seconds."""
    code = (
        "import importlib.abc, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "class Interrupts(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            sys.meta_path.remove(self)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from sdhubert_ray.__main__ import main\n"
        "main()\n"
    )
    command = ["segment", str(golden / "audio"), str(tmp_path / "out"), "--checkpoint", "bundled", "--engine", "local"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("sdhubert: interrupted; the same command ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_interrupt_that_a_callback_has_swallowed_comes_again() -> None:
    code = (
        "import os, signal\n"
        "from sdhubert_ray.cli.console import interrupt, raise_if_interrupted\n"
        "raise_if_interrupted()\n"
        "signal.signal(signal.SIGTERM, interrupt)\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\nexcept KeyboardInterrupt:\n    print('first')\n"
        "try:\n    raise_if_interrupted()\nexcept KeyboardInterrupt:\n    print('again')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["first", "again"]


@FORKS
def test_status_of_a_run_under_way_and_of_a_killed_one(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(150):
        shutil.copy(golden / "audio/synth_4.flac", tmp_path / "audio" / f"{number:03d}.flac")
    (tmp_path / "audio" / "000.flac").write_bytes(b"no audio")
    command = ["segment", tmp_path / "audio", tmp_path / "out", "--engine", "local", "--checkpoint", "bundled"]
    process = Script(COMMAND, *command, "resources.unit_rows=1")
    try:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "out" / "commits").glob("0*.parquet"))) < 2:
            assert process.returncode is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        running = json.loads(sdhubert("status", tmp_path / "out", "--json").stdout)
    finally:
        process.kill()
    killed = json.loads(sdhubert("status", tmp_path / "out", "--json").stdout)
    assert (running["state"], killed["state"]) == ("running", "interrupted")
    assert running["holder"]["pid"] == process.pid
    for found in (running, killed):
        assert found["num_rows"] >= 2
        assert found["num_rows"] + found["rows_left"] == 150
        assert found["reasons"][0]["status"] == "unreadable"
        assert found["reasons"][0]["rows"] == 1
