"""Boundary figures, purity and their intervals, against slow obvious ways to the same numbers."""

import itertools
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from evaluation_inputs import EVALUATION, golden_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from sdhubert_ray.metrics import (
    SHIFTS,
    TOLERANCE,
    BoundaryCounts,
    Interval,
    bootstrap_boundaries,
    bootstrap_purity,
    count_onsets_offsets,
    count_sdhubert,
    match_boundaries,
    match_segments,
    onset_offset_boundaries,
    purity,
    resampling,
    score_boundaries,
    sdhubert_boundaries,
    syllable_information,
    tune_shift,
)
from sdhubert_ray.metrics import pairs as pairing

EXPECTED = json.loads((EVALUATION / "expected.json").read_text())
# Hundredths, as annotations are: many pairs are exactly a tolerance apart, as far as float64 goes.
TIMES = st.lists(st.integers(0, 150), max_size=25).map(lambda values: np.unique(values) / 100)


@st.composite
def intervals(draw, most=6):
    edges = draw(st.lists(st.integers(0, 60), min_size=0, max_size=2 * most, unique=True))
    edges = sorted(edges[: len(edges) // 2 * 2])
    return np.array(edges, np.float64).reshape(-1, 2) / 20


def golden(split):
    """Syllables, labels, segments and units of each utterance."""
    entries = json.loads((EVALUATION / f"syllables_{split}.json").read_text()).values()
    rows = {row["id"]: row for row in golden_rows(split)}
    return [
        (
            np.array([[float(one["start"]), float(one["end"])] for one in entry["syllables"]]),
            [one["label"] for one in entry["syllables"]],
            rows[entry["file_name"]]["segments"],
            rows[entry["file_name"]]["units"],
        )
        for entry in entries
    ]


def total(counts):
    return BoundaryCounts(*np.sum([(one.matched, one.reference, one.predicted) for one in counts], axis=0).tolist())


def test_golden_boundaries_at_the_golden_shift():
    best = tune_shift([(syllables, segments) for syllables, _, segments, _ in golden("val")])
    assert best is not None
    assert best[0] == pytest.approx(EXPECTED["best_shift"], abs=1e-9)
    counts = total(count_sdhubert(syllables, segments, best[0]) for syllables, _, segments, _ in golden("test"))
    wanted = EXPECTED["boundary"]
    assert (counts.matched, counts.reference, counts.predicted) == (306, 448, 359)
    scores = score_boundaries(counts)
    for ours, theirs in zip(
        (scores.precision, scores.recall, scores.f1, scores.over_segmentation, scores.r1, scores.r2, scores.r_value),
        ("prec", "recall", "f1", "os", "r1", "r2", "r_val"),
        strict=True,
    ):
        assert ours == pytest.approx(wanted[theirs], abs=1e-9)


def test_golden_purity():
    labels, units, names = [], [], {}
    for syllables, texts, segments, found in golden("test"):
        rows, columns, _ = match_segments(syllables, segments)
        labels += [names.setdefault(re.sub(r"\d", "", texts[row]), len(names)) for row in rows]
        units += found[columns].tolist()
    assert len(labels) == EXPECTED["matched"]
    cluster, syllable = purity(np.array(labels), np.array(units))
    assert cluster == pytest.approx(EXPECTED["cluster_purity"], abs=1e-9)
    assert syllable == pytest.approx(EXPECTED["syllable_purity"], abs=1e-9)


@given(TIMES, TIMES, st.sampled_from([0.0, *SHIFTS]), st.booleans())
def test_two_pointers_find_as_many_pairs_as_any_matching(reference, predicted, shift, strict):
    apart = np.abs((reference + shift)[:, None] - predicted)
    near = apart < TOLERANCE if strict else apart <= TOLERANCE
    most = 0
    if near.size:
        most = int((maximum_bipartite_matching(csr_array(near), perm_type="column") >= 0).sum())
    assert match_boundaries(reference + shift, predicted, TOLERANCE, strict=strict) == most
    assert match_boundaries(predicted, reference + shift, TOLERANCE, strict=strict) == most


def test_a_pair_on_the_edge_is_judged_in_float64():
    # In float64 0.35 - 0.3 is below 0.05, and 1.1 - 1.05 above.
    assert match_boundaries(np.array([0.35]), np.array([0.3]), TOLERANCE) == 1
    assert match_boundaries(np.array([1.1]), np.array([1.05]), TOLERANCE) == 0
    # In whole milliseconds both are 50 apart, which is not less than 50.
    for start, other in ((0.35, 0.3), (1.1, 1.05)):
        assert count_onsets_offsets(np.array([[start, 3.0]]), np.array([[other, 4.0]])).matched == 0
        assert count_onsets_offsets(np.array([[start, 3.0]]), np.array([[other + 0.001, 4.0]])).matched == 1


def test_boundaries_of_each_protocol():
    syllables, segments = np.array([[0.1, 0.25], [0.25, 0.4]]), np.array([[0.1004, 0.2], [0.2, 0.3]])
    reference, predicted = sdhubert_boundaries(syllables, segments, 0.01)
    np.testing.assert_allclose(reference, [0.11, 0.26, 0.41])
    np.testing.assert_array_equal(predicted, [0.1004, 0.2])
    reference, predicted = onset_offset_boundaries(syllables, segments)
    np.testing.assert_array_equal(reference, [100, 250, 400])
    np.testing.assert_array_equal(predicted, [100, 200, 300])
    # Rounded, not cut off: 0.57 s are a little less than 570 ms in float64.
    np.testing.assert_array_equal(onset_offset_boundaries(np.array([[0.0007, 0.57]]), segments)[0], [1, 570])
    nothing = np.zeros((0, 2))
    assert count_sdhubert(nothing, nothing) == count_onsets_offsets(nothing, nothing) == BoundaryCounts(0, 0, 0)
    assert count_sdhubert(syllables, nothing) == BoundaryCounts(0, 3, 0)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_scores_are_the_formulas(matched, more_reference, more_predicted):
    counts = BoundaryCounts(matched, matched + more_reference, matched + more_predicted)
    scores = score_boundaries(counts)
    if not matched:
        assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)
        assert scores.over_segmentation is scores.r_value is scores.r1 is scores.r2 is None
        return
    precision, recall = matched / counts.predicted, matched / counts.reference
    over = recall / precision - 1
    r1, r2 = math.hypot(1 - recall, over), (recall - 1 - over) / math.sqrt(2)
    assert scores.f1 == pytest.approx(2 * matched / (counts.predicted + counts.reference))
    assert scores.over_segmentation == pytest.approx(counts.predicted / counts.reference - 1)
    assert scores.r_value == pytest.approx(1 - (abs(r1) + abs(r2)) / 2)
    if not more_reference and not more_predicted:
        assert scores.r_value == scores.f1 == 1


def test_the_shift_that_segments_are_late_by_is_found():
    random = np.random.default_rng(0)
    starts = np.cumsum(random.uniform(0.15, 0.4, 200))
    syllables = np.stack([starts[:-1], starts[1:]], axis=1)
    late = syllables + 0.03 + random.uniform(-0.048, 0.048, (199, 1))
    shift, r_value = tune_shift([(syllables, late)])
    assert shift == pytest.approx(0.03, abs=0.006)
    assert r_value == max(score_boundaries(count_sdhubert(syllables, late, one)).r_value for one in SHIFTS.tolist())


def test_of_equal_shifts_the_smallest_is_taken():
    one = np.array([[1.0, 2.0]])
    # At -0.05 it is 0.95 - 1.0, which is more than 0.05 apart in float64.
    assert tune_shift([(one, one)])[0] == SHIFTS[1]
    assert tune_shift([(one, one + 5)]) is None
    assert tune_shift([]) is None


@given(intervals(), intervals())
@settings(max_examples=60)
def test_segments_are_assigned_with_the_greatest_total(syllables, segments):
    rows, columns, overlaps = match_segments(syllables, segments)
    assert len(rows) == len(columns) == len(overlaps) == min(len(syllables), len(segments))
    assert len({*rows}) == len(rows)
    assert len({*columns}) == len(columns)

    def score(row, column):
        inter = min(syllables[row, 1], segments[column, 1]) - max(syllables[row, 0], segments[column, 0])
        union = max(syllables[row, 1], segments[column, 1]) - min(syllables[row, 0], segments[column, 0])
        return inter, inter / (union + 1e-4)

    found = [score(row, column) for row, column in zip(rows, columns, strict=True)]
    np.testing.assert_array_equal(overlaps, [inter for inter, _ in found])
    few, many = sorted((len(syllables), len(segments)))
    turned = len(syllables) > len(segments)
    if math.perm(many, few) > 5000:
        return
    best = max(
        sum(score(*((there, here) if turned else (here, there)))[1] for here, there in enumerate(order))
        for order in itertools.permutations(range(many), few)
    )
    assert sum(value for _, value in found) == pytest.approx(best, abs=1e-9)


def test_an_assignment_prefers_a_pair_apart_to_none():
    rows, columns, overlaps = match_segments(np.array([[0.0, 1.0]]), np.array([[3.0, 4.0]]))
    assert (rows.tolist(), columns.tolist(), overlaps.tolist()) == ([0], [0], [-2.0])


def slow_information(pairs):
    """SNMI by its definition, a sum over the table of joint shares; NaN with one syllable only."""
    joint = Counter(pairs)
    labels, units = Counter(label for label, _ in pairs), Counter(unit for _, unit in pairs)
    total = len(pairs)
    mutual = sum(n / total * math.log(n * total / labels[label] / units[unit]) for (label, unit), n in joint.items())
    entropy = -sum(n / total * math.log(n / total) for n in labels.values())
    return mutual / entropy if len(labels) > 1 else math.nan


def slow_purity(pairs):
    cells = Counter(pairs)
    cluster = sum(max(n for (label, _), n in cells.items() if label == one) for one in {label for label, _ in pairs})
    syllable = sum(max(n for (_, unit), n in cells.items() if unit == one) for one in {unit for _, unit in pairs})
    return cluster / len(pairs), syllable / len(pairs)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=60))
def test_purity_is_what_counting_gives(pairs):
    labels, units = np.array(pairs).T
    assert purity(labels, units) == pytest.approx(slow_purity(pairs))
    # Other numbers for the same labels and units change nothing.
    assert purity(labels * 7 + 3, units[::1] + 100) == purity(labels, units)
    information = syllable_information(labels, units)
    assert (math.nan if information is None else information) == pytest.approx(slow_information(pairs), nan_ok=True)


def test_units_that_tell_the_syllable_have_all_of_its_information():
    labels = np.array([0, 0, 1, 1, 2])
    assert syllable_information(labels, labels + 5) == 1
    assert syllable_information(labels, np.array([0, 1, 2, 3, 4])) == pytest.approx(1)
    assert syllable_information(labels, np.zeros(5, np.int64)) == 0
    # Two syllables, of one bit, in four pairs: the unit is theirs in three, so it tells 1 - 3/4 h(1/3) bit, where
    # h(1/3) = log2(3) - 2/3.
    told = syllable_information(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    assert told == pytest.approx(1 - 0.75 * (math.log2(3) - 2 / 3))


def test_purity_of_nothing():
    nothing = np.zeros(0, np.int64)
    assert purity(nothing, nothing) is None
    assert syllable_information(nothing, nothing) is None
    assert bootstrap_purity(nothing, nothing, nothing, 5, 10, 0) == (Interval(None, None),) * 3


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
def test_weighted_purity_is_that_of_utterances_drawn_again(rows):
    labels, units, utterances = np.array(rows).T
    weights = np.array([[2, 0, 1, 1], [1, 1, 1, 1]])
    figures = pairing._Cells(labels, units, utterances, 4).figures(weights)
    for drawn, *found in zip(weights, *figures, strict=True):
        pairs = [(label, unit) for label, unit, utterance in rows for _ in range(drawn[utterance])]
        if pairs:
            assert found == pytest.approx([*slow_purity(pairs), slow_information(pairs)], nan_ok=True)
        else:
            assert np.isnan(found).all()


def test_intervals_of_boundaries_are_percentiles_of_resamples():
    random = np.random.default_rng(1)
    counts = np.sort(random.integers(0, 20, (40, 3)))[:, [0, 2, 1]]
    found = bootstrap_boundaries(counts, 400, seed=7)
    drawn = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=400)
    scores = [score_boundaries(BoundaryCounts(*(weights @ counts).tolist())) for weights in drawn]
    for name, interval in found.items():
        wanted = np.quantile([getattr(one, name) for one in scores], [0.025, 0.975])
        np.testing.assert_allclose([interval.low, interval.high], wanted, rtol=1e-12)


def test_intervals_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    random = np.random.default_rng(2)
    counts = np.sort(random.integers(0, 20, (40, 3)))[:, [0, 2, 1]]
    pairs = random.integers(0, 9, (2, 300)), np.sort(random.integers(0, 40, 300))
    whole = bootstrap_boundaries(counts, 100, 0), bootstrap_purity(*pairs[0], pairs[1], 40, 100, 0)
    monkeypatch.setattr(resampling, "_WEIGHTS_AT_ONCE", 130)
    monkeypatch.setattr(pairing, "_CELLS_AT_ONCE", 200)
    assert (bootstrap_boundaries(counts, 100, 0), bootstrap_purity(*pairs[0], pairs[1], 40, 100, 0)) == whole
    assert bootstrap_boundaries(counts, 100, 1) != whole[0]


def test_no_intervals_of_a_single_utterance_or_without_a_match():
    nothing = Interval(None, None)
    assert {*bootstrap_boundaries(np.array([[1, 2, 3]]), 100, 0).values()} == {nothing}
    assert {*bootstrap_boundaries(np.array([[1, 2, 3], [1, 2, 3]]), 0, 0).values()} == {nothing}
    found = bootstrap_boundaries(np.array([[0, 2, 3], [0, 2, 3]]), 10, 0)
    assert found["f1"] == Interval(0.0, 0.0)
    assert found["r_value"] == nothing
    one = np.zeros(3, np.int64)
    assert bootstrap_purity(one, one, one, 1, 100, 0) == (nothing,) * 3


def test_intervals_of_purity_are_as_wide_as_samples_differ():
    """Many rare pairs, where plain percentiles would leave out the purity itself."""

    def sample(random):
        labels = random.zipf(1.3, 20_000)
        labels = labels[labels < 2000][:9000]
        units = np.where(random.random(9000) < 0.4, random.integers(0, 2000, 9000), labels * 3 % 2000)
        return labels.astype(np.int64), units.astype(np.int64)

    random = np.random.default_rng(3)
    labels, units = sample(random)
    value = purity(labels, units)
    found = bootstrap_purity(labels, units, np.repeat(np.arange(300), 30), 300, 200, 0)
    others = np.array([purity(*sample(random)) for _ in range(60)])
    assert found[2].low < syllable_information(labels, units) < found[2].high
    for side in (0, 1):
        assert found[side].low < value[side] < found[side].high
        spread = np.subtract(*np.quantile(others[:, side], [0.975, 0.025]))
        assert 0.7 * spread < found[side].high - found[side].low < 2.5 * spread
