"""Where the time of a run goes: each second is in one place."""

import json

import pytest
from commands import sdhubert
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.output.tables import WORK
from sdhubert_ray.runs.profile import Stopwatch

SECONDS = st.floats(0, 1e4)
UNITS = st.lists(st.tuples(SECONDS, SECONDS, st.tuples(*[SECONDS] * len(WORK))), max_size=8)


@settings(max_examples=100)
@given(list_seconds=SECONDS, units=UNITS, after=SECONDS)
def test_marks_follow_each_other_and_units_are_stages_and_what_lies_between(list_seconds, units, after):
    listed = 1.7e9
    watch = Stopwatch(list_seconds, listed)
    ends = [listed]
    for offset, between, stages in units:
        began = listed + offset
        ended = began + sum(stages) + between
        report = dict(zip((f"{stage}_seconds" for stage in WORK), stages, strict=True))
        taken = watch.add({**report, "unit_began": began, "unit_ended": ended})
        assert taken == pytest.approx(sum(stages))
        ends.append(ended)
    watch.stop(max(ends) + after)
    profile = watch.profile
    assert profile.list_seconds == list_seconds
    on_the_clock = profile.start_seconds + profile.work_seconds + profile.finish_seconds
    assert on_the_clock == pytest.approx(max(ends) + after - listed, abs=1e-4)
    if units:
        assert profile.start_seconds == pytest.approx(min(offset for offset, *_ in units), abs=1e-4)
    whole = sum(sum(stages) + between for _, between, stages in units)
    assert profile.unit_seconds == pytest.approx(whole, abs=1e-4)
    assert 0 <= profile.encoder_share <= 1
    assert profile.units_at_once <= len(units) + 1e-6 or profile.work_seconds < 1e-4


def test_clocks_of_two_nodes_may_differ():
    """The unit was committed on a node whose clock is behind."""
    watch = Stopwatch(0.0, 100.0)
    watch.add({**dict.fromkeys((f"{stage}_seconds" for stage in WORK), 1.0), "unit_began": 99.0, "unit_ended": 98.0})
    watch.stop(97.0)
    profile = watch.profile
    assert (profile.start_seconds, profile.work_seconds, profile.finish_seconds) == (0, 1, 0)
    assert (profile.between_seconds, profile.unit_seconds) == (0, 4)


def test_a_run_tells_where_its_time_went(golden, tiny_checkpoint, tmp_path):
    audio, output, figures = golden / "audio" / "synth_0.flac", tmp_path / "out", tmp_path / "figures.json"
    command = ["segment", audio, output, "--checkpoint", tiny_checkpoint, "--profile", "--json", figures]
    done = sdhubert(*command)
    assert "on the clock" in done.stdout
    assert "units at once" in done.stdout
    told = json.loads(figures.read_text())
    profile = told["profile"]
    assert told["totals"]["num_files"] == told["rows_done"] == 1
    recorded = json.loads((output / "run.json").read_text())["summary"]["profile"]
    for name in ("list_seconds", "start_seconds", "work_seconds", "stage_seconds", "between_seconds"):
        assert profile[name] == recorded[name]
    assert sum(profile["stage_seconds"].values()) + profile["between_seconds"] <= 1.001 * profile["work_seconds"]
    assert 0 < profile["encoder_share"] < 1
    assert profile["units_at_once"] <= 1.001
    again = sdhubert(*command)
    assert "nothing was left to do" in again.stdout
    assert json.loads(figures.read_text())["rows_done"] == 0


def test_figures_replace_figures_only(golden, tiny_checkpoint, tmp_path):
    command = ["segment", golden / "audio" / "synth_0.flac", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    (tmp_path / "notes.json").write_text("{}")
    assert "holds no figures" in sdhubert(*command, "--json", tmp_path / "notes.json", expect=2).stderr
    assert "no folder" in sdhubert(*command, "--json", tmp_path / "nowhere" / "f.json", expect=2).stderr
    assert "--plan" in sdhubert(*command, "--profile", "--plan", expect=2).stderr
    sdhubert(*command, "--json", tmp_path / "f.json", "--plan")
    assert json.loads((tmp_path / "f.json").read_text())["metric"] == "plan"
    assert not (tmp_path / "out").exists()
