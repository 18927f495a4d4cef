"""References beside predictions: the figures are those of `sdhubert evaluate`, the marks are what they count."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from evaluation_inputs import EVALUATION, golden_rows, make_output, make_row, write_references
from hypothesis import given

from sdhubert_ray.evaluation import JoinOptions, evaluate_boundary, join, load_references
from sdhubert_ray.evaluation.scoring import Bootstrap
from sdhubert_ray.metrics import count_onsets_offsets, match_boundaries, pair_boundaries
from sdhubert_ray.reporting.agreement import References, compare

times = (
    st.lists(st.integers(0, 200).map(lambda number: number / 20), max_size=20, unique=True).map(sorted).map(np.array)
)


@given(times, times, st.sampled_from([0.05, 0.12]), st.booleans())
def test_pairs_are_near_and_as_many_as_are_counted(reference, predicted, tolerance, strict):
    pairs = pair_boundaries(reference, predicted, tolerance, strict=strict)
    assert len(pairs) == match_boundaries(reference, predicted, tolerance, strict=strict)
    for side in (0, 1):
        assert all(one[side] < other[side] for one, other in itertools.pairwise(pairs))
    for left, right in pairs:
        apart = abs(reference[left] - predicted[right])
        assert apart < tolerance if strict else apart <= tolerance
    left_out = {*range(len(reference))} - {left for left, _ in pairs}
    spare = {*range(len(predicted))} - {right for _, right in pairs}
    assert not any(abs(reference[one] - predicted[other]) < tolerance for one in left_out for other in spare)


@pytest.fixture(scope="module")
def golden_output(tmp_path_factory):
    return make_output(tmp_path_factory.mktemp("golden") / "out", golden_rows("test"), carried=("speaker",))


@pytest.fixture(scope="module")
def agreement(golden_output):
    return compare(golden_output, References(str(EVALUATION / "syllables_test.json"), by=("speaker",)))


def test_figures_are_those_of_evaluate(agreement, golden_output):
    joined = join(load_references(str(EVALUATION / "syllables_test.json")), golden_output, JoinOptions(by=("speaker",)))
    report = evaluate_boundary(joined, 0.0, Bootstrap())
    tables = {table.title: table for table in agreement.tables}
    f1 = next(row for row in tables["Boundaries"].rows if row[0] == "F1 %")
    assert [cell.split()[0] for cell in f1[1:]] == [f"{100 * one.f1.value:.1f}" for one in report.protocols.values()]
    f1 = next(row for row in tables["Syllables"].rows if row[0] == "F1 %")
    assert [cell.split()[0] for cell in f1[1:]] == [f"{100 * one.f1.value:.1f}" for one in report.syllables.values()]
    by = {row[0]: row for row in tables["By speaker"].rows}
    for speaker, groups in report.by["speaker"].items():
        assert by[speaker][1] == groups["sdhubert"].utterances
        assert by[speaker][2] == pytest.approx(100 * groups["sdhubert"].f1.value, abs=0.051)
    shown = [row[2] for row in tables["By speaker"].rows]
    assert shown == sorted(shown)


def test_lengths_add_up_to_all(agreement):
    table = next(table for table in agreement.tables if table.title == "By length")
    assert sum(row[1] for row in table.rows) == len(agreement.utterances)
    assert {row[0] for row in table.rows} <= {"under 2 s", "2 to 5 s", "5 to 10 s", "10 to 20 s", "20 s and more"}


def test_the_worst_come_first_and_marks_are_what_is_not_matched(agreement):
    table = next(table for table in agreement.tables if table.links)
    assert [row[1] for row in table.rows] == sorted(row[1] for row in table.rows)
    for name, f1, _, _, missed, extra, _ in table.rows:
        one = agreement.utterances[name]
        counts = count_onsets_offsets(one.reference.syllables, one.segments)
        assert (missed, extra) == (counts.reference - counts.matched, counts.predicted - counts.matched)
        truth = agreement.truth_of(name, 0.0, 1000.0)
        assert (len(truth.missed), len(truth.extra), truth.f1) == (missed, extra, f1)
        assert len(truth.labels) * 2 == len(truth.times) == 2 * len(one.reference.labels)


def test_an_excerpt_has_the_references_and_marks_within_it(tmp_path):
    output = make_output(tmp_path / "out", [make_row("a.wav", [(2.0, 2.5), (4.0, 4.2)], offset=2.0, duration=3.0)])
    names = {"a.wav": [(1.0, 1.5, "before"), (1.9, 2.52, "first"), (3.0, 3.4, "unseen"), (4.6, 5.6, "cut")]}
    agreement = compare(output, References(write_references(tmp_path / "r.json", names)))
    truth = agreement.truth_of("a.wav", 2.0, 3.0)
    assert truth.labels == ["first", "unseen", "cut"]
    assert truth.times == [-100, 520, 1000, 1400, 2600, 3600]
    assert truth.missed == [1000, 1400, 2600]
    assert truth.extra == [0, 2000, 2200]
    assert agreement.truth_of("b.wav", 0.0, 1.0) is None


def test_references_without_a_recording_are_told(tmp_path):
    output = make_output(tmp_path / "out", [make_row("a.wav", [(0, 1)])])
    names = {"a.wav": [(0, 1, "x")], "b.wav": [(0, 1, "x")]}
    agreement = compare(output, References(write_references(tmp_path / "r.json", names)))
    assert agreement.notes == ["References without a recording are left out: 1, such as b.wav."]
