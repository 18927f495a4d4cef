"""What is counted of an output, and which recordings are looked at."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from evaluation_inputs import make_output, make_row
from hypothesis import given

from sdhubert_ray.output import FileResult
from sdhubert_ray.reporting.survey import Survey, nice_step, survey


def result_of(segments, units=None, duration=10.0, status="ok", file_id="a"):
    segments = np.reshape(np.array(segments, np.float64), (-1, 2))
    units = None if units is None else np.array(units, np.int32)
    return FileResult(file_id, "/a", status, None, duration, 500, segments, None, units)


def surveyed(*results):
    found = Survey()
    for one in results:
        found.add(one)
    return found


frames = st.lists(st.integers(1, 60), max_size=30)


@given(st.lists(frames, max_size=5))
def test_every_syllable_is_in_the_bin_of_its_frames(lengths):
    results = []
    for some in lengths:
        ends = np.cumsum(some) * 0.02
        results.append(result_of(np.stack([ends - np.array(some) * 0.02, ends], axis=1)))
    found = {one.title: one for one in surveyed(*results).histograms()}.get("Length of syllables")
    every = [length for some in lengths for length in some]
    if not every:
        assert found is None
        return
    for (low, high), count in zip(itertools.pairwise(found.edges), found.counts, strict=True):
        assert count == sum(low < 20 * length < high for length in every)
    assert found.beyond == sum(length >= 40 for length in every)
    assert sum(found.counts) + found.beyond == len(every)
    if max(every) < 40:
        assert found.middle == 20 * sorted(every)[(len(every) - 1) // 2]


@given(st.lists(st.floats(0.1, 5000), min_size=1, max_size=60))
def test_every_recording_is_in_the_bin_of_its_length(durations):
    found = surveyed(*(result_of([], duration=seconds) for seconds in durations))
    (length,) = (one for one in found.histograms() if one.title == "Length of recordings")
    assert sum(length.counts) + length.beyond == len(durations)
    assert length.beyond == sum(seconds > length.edges[-1] for seconds in durations if length.beyond)
    for (low, high), count in list(zip(itertools.pairwise(length.edges), length.counts, strict=True))[:-1]:
        assert count == sum(low <= seconds < high for seconds in durations)
    assert len(length.counts) <= 30
    assert length.middle == pytest.approx(np.median(durations))


@given(st.floats(1e-6, 1e6))
def test_steps_are_round_and_not_much_longer_than_asked(least):
    step = nice_step(least)
    assert least * 0.999 <= step <= 2.5 * least
    assert round(step / 10.0 ** np.floor(np.log10(step)), 6) in (1, 2, 2.5, 5, 10)


def test_units_are_counted_the_commonest_first():
    segments = [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]
    found = surveyed(result_of(segments, [7, 2, 7]), result_of(segments, [2, 7, 0]), result_of([], []))
    counted = found.unit_counts(10)
    assert counted.counts == [(7, 3), (2, 2), (0, 1)]
    assert counted.num_units == 10
    shares = np.array([3, 2, 1]) / 6
    assert counted.perplexity == pytest.approx(2 ** -(shares * np.log2(shares)).sum())
    assert surveyed(result_of(segments)).unit_counts(10) is None


def test_recordings_that_failed_are_in_no_figure():
    found = surveyed(result_of([(0, 1)], status="failed"))
    assert found.histograms() == []
    assert found.audio_seconds == 0


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    rows = [make_row(f"{number:03d}.wav", [(0, 0.2)]) for number in range(60)]
    rows += [make_row(f"gone{number}.wav", status="missing") for number in range(9)]
    return make_output(tmp_path_factory.mktemp("survey") / "out", rows[:30], rows[30:])


def ids_of(found):
    return [result.id for result in found.sample]


def test_a_sample_is_the_same_each_time_and_has_some_of_each_status(output):
    counted = []
    found = survey(output, 20, (), lambda: counted.append(1))
    assert len(counted) == 69
    assert ids_of(found) == ids_of(survey(output, 20, (), lambda: None))
    assert len(ids_of(found)) == 20
    assert sum(name.startswith("gone") for name in ids_of(found)) == 2
    larger = ids_of(survey(output, 40, (), lambda: None))
    assert {*ids_of(found)} < {*larger}
    everything = ids_of(survey(output, 1000, (), lambda: None))
    assert len(everything) == 69


def test_what_is_not_ok_fills_a_sample_where_there_is_nothing_else(tmp_path):
    rows = [make_row(f"{number}.wav", status="truncated" if number % 2 else "silent") for number in range(20)]
    found = survey(make_output(tmp_path / "out", rows), 18, (), lambda: None)
    assert len(found.sample) == 18


def test_what_has_to_be_in_a_sample_comes_first(output):
    wanted = ["044.wav", "011.wav"]
    assert {*ids_of(survey(output, 5, wanted, lambda: None))[:2]} == {*wanted}
    assert len(ids_of(survey(output, 5, wanted, lambda: None))) == 5
