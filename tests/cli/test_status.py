"""`sdhubert status` of a run under way: percent and time left, in one measure."""

import json
import re
from pathlib import Path

import pytest
from commands import sdhubert
from outputs import RUN, make_row, make_run, make_table, plan_units

from sdhubert_ray.output import Lease, publish_plan


@pytest.fixture
def under_way(tmp_path: Path) -> Path:
    """An output with 2 of 10 rows done; the 8 that are left have 36 s of audio each."""
    output = tmp_path / "out"
    make_run(output, (1, [make_row("a#0"), make_row("b#0", status="unreadable", error="no audio", num_frames=0)]))
    left = [make_table([make_row(f"{name}#0", duration=36.0) for name in names]) for names in ("cdef", "ghij")]
    publish_plan(str(output), plan_units(left, tmp_path / "staged"), 2, RUN, "input")
    return output


def write_progress(output: Path, **progress: float) -> None:
    """What the run that is at work has done, as its next heartbeat would tell it."""
    path = output / "lease.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "progress": progress}))


def test_one_measure_for_what_is_done_and_left(under_way: Path) -> None:
    told = sdhubert("status", under_way).stdout
    assert re.search(r"done +20 % \(2 of 10 rows\)", told)
    assert re.search(r"time left +nobody is at work \(8 rows\)", told)
    assert re.search(r"recordings +2 \(1 ok, 1 unreadable\)", told)
    lease = Lease(str(under_way), "run")
    try:
        write_progress(under_way, rows=2, audio_seconds=72.0, seconds=30.0)
        told = sdhubert("status", under_way).stdout
        assert re.search(r"state +running \(process", told)
        assert re.search(r"time left +about 2 min \(8 rows\)", told)  # 288 s of audio at 2.4 times real time
        assert "0.1 rows/s, 2.4 times real time" in told
        found = json.loads(sdhubert("status", under_way, "--json").stdout)
        assert (found["percent_done"], found["seconds_to_go"], found["rows_left"]) == (20, 120, 8)
    finally:
        lease.release()


def test_time_goes_by_rows_where_lengths_are_not_known(under_way: Path) -> None:
    for path in (under_way / "manifest").glob("00002.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "unit_seconds": [0.0, 144.0]}))
    lease = Lease(str(under_way), "run")
    try:
        write_progress(under_way, rows=2, audio_seconds=72.0, seconds=30.0)
        found = json.loads(sdhubert("status", under_way, "--json").stdout)
        assert found["seconds_to_go"] == 120  # 8 rows at 2 in half a minute
        write_progress(under_way, rows=4, audio_seconds=72.0, seconds=30.0)
        assert json.loads(sdhubert("status", under_way, "--json").stdout)["seconds_to_go"] == 60
    finally:
        lease.release()


def test_a_run_that_has_done_nothing_yet_tells_no_time(under_way: Path) -> None:
    lease = Lease(str(under_way), "run")
    try:
        assert json.loads(sdhubert("status", under_way, "--json").stdout)["seconds_to_go"] is None
        assert "not known yet" in sdhubert("status", under_way).stdout
    finally:
        lease.release()
