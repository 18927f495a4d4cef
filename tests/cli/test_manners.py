"""How much a command says, and where: --quiet, --debug, --json, warnings, what nobody has foreseen."""

import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from commands import SDHUBERT, complaint, sdhubert

from sdhubert_ray.cli import console
from sdhubert_ray.events import SAID_ALWAYS


@pytest.fixture
def speech_folder(golden: Path, tmp_path: Path) -> Path:
    """One good recording, and one that is none."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/good.flac").symlink_to(golden / "audio/synth_0.flac")
    (tmp_path / "audio/bad.flac").write_bytes(b"no audio")
    return tmp_path / "audio"


def test_quiet_leaves_warnings_and_errors(speech_folder: Path, tmp_path: Path) -> None:
    command = ("segment", speech_folder, tmp_path / "out", "--checkpoint", "bundled", "--quiet")
    done = sdhubert(*command, expect=3)
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["unreadable"]
    assert sdhubert("status", tmp_path / "out", "--quiet").stdout == ""
    assert json.loads(sdhubert("status", tmp_path / "out", "--quiet", "--json").stdout)["state"] == "finished"
    assert "holds no run" in complaint(sdhubert("status", tmp_path / "none", "--quiet", expect=2))
    assert "recordings" in sdhubert("status", tmp_path / "out").stdout  # a command is quiet for itself alone


def test_json_to_standard_output_is_alone_there(speech_folder: Path, tmp_path: Path) -> None:
    command = ("segment", speech_folder, tmp_path / "out", "--checkpoint", "bundled", "--json", "-")
    done = sdhubert(*command, expect=3)
    figures = json.loads(done.stdout)
    assert (figures["metric"], figures["totals"]["statuses"]) == ("segment", {"ok": 1, "unreadable": 1})
    assert "real-time factor" in done.stderr
    plan = sdhubert(*command, "--plan", "--overwrite")
    assert json.loads(plan.stdout)["rows"] == 2
    assert "This is an estimate" in plan.stderr


def test_json_of_units(golden: Path, tmp_path: Path) -> None:
    table = tmp_path / "out"
    sdhubert("segment", golden / "audio", table, "--checkpoint", "bundled")
    found = json.loads(sdhubert("status", table, "--json").stdout)
    sizes = ("--n-clusters", "4", "--n-units", "2", "--device", "cpu")
    done = sdhubert("cluster", table, tmp_path / "units", *sizes, "--json", "-")
    assert json.loads(done.stdout)["quantizer"]["n_units"] == 2
    sdhubert("tokenize", table, "--quantizer", tmp_path / "units", "--device", "cpu", "--json", tmp_path / "figures")
    figures = json.loads((tmp_path / "figures").read_text())
    assert figures["metric"] == "tokenize"
    assert figures["units"]["tokens"] == found["num_syllables"]
    assert figures["merged"]["tokens"] < found["num_syllables"]


def test_debug_shows_the_trace_of_a_refusal(tmp_path: Path) -> None:
    done = sdhubert("status", tmp_path / "none", "--debug", expect=2)
    assert "Traceback" in done.stderr
    assert "holds no run" in complaint(done)


def test_what_nobody_has_foreseen_is_a_sentence_and_a_trace_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no luck\nnone at all")

    monkeypatch.setattr("sdhubert_ray.output.read_run", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = complaint(sdhubert("status", tmp_path, expect=1))
    (trace,) = tmp_path.glob("*.trace")
    assert said == f"sdhubert: RuntimeError: no luck; nobody has foreseen this: its trace is in {trace}"
    assert "none at all" in trace.read_text()
    assert "Traceback" in sdhubert("status", tmp_path, "--debug", expect=1).stderr


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    root, own = logging.getLogger(), logging.getLogger("sdhubert_ray")
    before = root.handlers, root.level, own.level
    root.handlers = []
    try:
        console.log_as("text")
        for number in (1, 1, 2):
            logging.getLogger("sdhubert_ray.anything").warning("node %d was lost", number)
            logging.getLogger("sdhubert_ray.anything").error("worker %d has ended", 1)
    finally:
        root.handlers, root.level, own.level = before
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "node" in line] == ["node 1 was lost", "node 2 was lost"]
    assert len(lines) == 5


@pytest.mark.seconds
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_none_to_print_to(closed: str, tmp_path: Path) -> None:
    number = {"stdout": 1, "stderr": 2}[closed]
    command = f"{shlex.quote(str(SDHUBERT))} status {shlex.quote(str(tmp_path))} {number}>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert ("holds no run" in done.stderr) == (closed == "stdout")


@pytest.mark.seconds
def test_colours_of_others_end_where_nobody_looks() -> None:
    """As Ray's, which has them in all that its workers print."""
    code = (
        "import sys\n"
        "from sdhubert_ray.cli import console\n"
        "console.begin_anew()\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    print('\\x1b[36m(worker pid=1)\\x1b[0m done', file=stream)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == "(worker pid=1) done\n"


def test_what_rays_workers_always_say_is_left_out_but_with_debug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "RAY_DEDUP_LOGS_SKIP_REGEX"
    monkeypatch.setenv(name, "")  # so that it is put back
    monkeypatch.delenv(name)
    sdhubert("--version")
    assert os.environ[name] == SAID_ALWAYS
    sdhubert("status", tmp_path, "--debug", expect=2)
    assert name not in os.environ
    monkeypatch.setenv(name, "mine")
    sdhubert("status", tmp_path, "--debug", expect=2)
    assert os.environ[name] == "mine"
