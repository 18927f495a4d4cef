"""How far a command is: what a bar and a line tell, and that a line comes where nobody looks."""

import json
import threading
from pathlib import Path

import hypothesis.strategies as st
import pytest
from clocks import Clock
from commands import sdhubert
from hypothesis import given
from segments import clustered, write_segments

from sdhubert_ray.cli import progress
from sdhubert_ray.cli.progress import Phase, percent, tell_seconds


def test_a_phase_tells_how_far_how_fast_and_how_long() -> None:
    clock = Clock()
    phase = Phase("segmenting", "rows", 40, 10, clock=clock.monotonic)
    assert phase.describe() == "25 % (10 of 40 rows), 0 s gone"
    clock.now += 4
    phase.advance(10, text="0.50 h of audio")
    assert phase.describe() == "50 % (20 of 40 rows), 2.5 rows/s, 8 s left, 0.50 h of audio"
    assert phase.fields()["seconds_left"] == 8


def test_time_goes_with_the_effort_where_it_is_known() -> None:
    """The longest come first: a row of ten, which has taken nine tenths of the time."""
    clock = Clock()
    phase = Phase("segmenting", "rows", 10, effort=1000.0, clock=clock.monotonic)
    clock.now += 90
    phase.advance(1, effort=900.0)
    assert phase.seconds_left == pytest.approx(10)


def test_what_has_no_total_tells_what_is_done() -> None:
    clock = Clock()
    phase = Phase("listing", "rows", clock=clock.monotonic)
    clock.now += 200
    phase.advance(100_000)
    assert phase.describe() == "100000 rows, 500 rows/s, 3 min gone"
    assert Phase("counting", clock=clock.monotonic).describe() == "0 s gone"


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_all_is_done_only_when_all_is_done(done: int, more: int) -> None:
    assert percent(done, done + more) != "100 %"
    assert percent(more, more) == "100 %"


def test_lengths_of_time() -> None:
    assert [tell_seconds(one) for one in (0, 119, 120, 7100, 7200)] == ["0 s", "119 s", "2 min", "118 min", "2.0 h"]


class Waits:
    """Waits no time, so many times; then it lets the work end, and ends."""

    def __init__(self, times: int) -> None:
        self._left = times
        self.asked: list[float] = []
        self.begun, self.over = threading.Event(), threading.Event()

    def __call__(self, seconds: float) -> bool:
        assert self.begun.wait(60)
        self.asked.append(seconds)
        self._left -= 1
        if self._left < 0:
            self.over.set()
        return self._left < 0


def test_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    waits = Waits(2)
    looks = iter((3, 7))
    with progress.progress(look=lambda: next(looks), wait=waits) as shown:
        shown.begin(Phase("training", "steps", 10, clock=Clock().monotonic))
        waits.begun.set()
        assert waits.over.wait(60)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "training: 30 % (3 of 10 steps), 0 steps/s, 0 s gone",
        "training: 70 % (7 of 10 steps), 0 steps/s, 0 s gone",
    ]
    assert waits.asked == [30.0, 30.0, 30.0]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every millisecond."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.001)


@pytest.mark.usefixtures("impatient")
def test_a_piped_run_gives_signs_of_life(golden: Path, tmp_path: Path) -> None:
    command = ("segment", golden / "audio", tmp_path / "out", "--checkpoint", "bundled")
    done = sdhubert(*command)
    assert "segmenting: " in done.stderr
    assert "% (" in done.stderr
    assert "segmenting: " not in done.stdout
    assert "segmenting: " not in sdhubert(*command, "--overwrite", "--quiet").stderr
    lines = sdhubert(*command, "--overwrite", "--log-format", "json").stderr.splitlines()
    beats = [line for line in map(json.loads, lines) if line.get("event") == "progress"]
    assert {"segmenting", "planning"} <= {beat["phase"] for beat in beats}


@pytest.mark.usefixtures("impatient")
def test_other_commands_do_too(golden: Path, tmp_path: Path) -> None:
    assert "looking at recordings: " in sdhubert("manifest", golden / "audio", tmp_path / "m.parquet").stderr
    table = write_segments(str(tmp_path / "table"), clustered(4000, 16, 24), rows=100)
    sizes = ("--n-clusters", "24", "--n-units", "8", "--device", "cpu")
    said = sdhubert("cluster", table, tmp_path / "units", *sizes).stderr
    assert "k-means: " in said
    assert "inertia per vector" in said
    sdhubert("segment", golden / "audio", tmp_path / "out", "--checkpoint", "bundled")
    sdhubert("cluster", tmp_path / "out", tmp_path / "few", "--n-clusters", "4", "--n-units", "2", "--device", "cpu")
    said = sdhubert("tokenize", tmp_path / "out", "--quantizer", tmp_path / "few", "--device", "cpu").stderr
    assert "tokenizing: " in said or "counting and writing: " in said


def test_k_means_says_nothing_of_its_steps_by_itself(tmp_path: Path) -> None:
    table = write_segments(str(tmp_path / "table"), clustered(400, 4, 8), rows=10)
    done = sdhubert("cluster", table, tmp_path / "units", "--n-clusters", "8", "--n-units", "4", "--device", "cpu")
    assert done.stderr == ""
