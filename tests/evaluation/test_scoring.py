"""Reports: sums over utterances, groups that add up, rates, and what is refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from evaluation_inputs import random_utterances, utterance
from hypothesis import given
from hypothesis import strategies as st

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation import Joined, evaluate_boundary, evaluate_purity, purity, scoring, tune_on
from sdhubert_ray.evaluation.scoring import Bootstrap, measure_rate

NO_INTERVALS = Bootstrap(0)


@given(st.integers(0, 1000))
def test_groups_add_up_to_the_whole(seed):
    joined = Joined(tuple(random_utterances(seed, 9)), by=("speaker",))
    for report, names in (
        (evaluate_boundary(joined, 0.01, NO_INTERVALS), ("utterances", "matched", "reference", "predicted")),
        (evaluate_purity(joined, NO_INTERVALS), ("utterances", "pairs", "unmatched_syllables", "unmatched_segments")),
    ):
        assert list(report.by["speaker"]) == ["g0", "g1", "g2"]
        for protocol, whole in report.protocols.items():
            for name in names:
                parts = [getattr(group[protocol], name) for group in report.by["speaker"].values()]
                assert sum(parts) == getattr(whole, name)
    report = evaluate_boundary(joined, 0.01, NO_INTERVALS)
    for name, whole in report.syllables.items():
        for count in ("utterances", "matched", "reference", "predicted"):
            parts = [getattr(group[name], count) for group in report.syllables_by["speaker"].values()]
            assert sum(parts) == getattr(whole, count)
    report = evaluate_purity(joined, NO_INTERVALS)
    alone = evaluate_purity(Joined(joined.utterances[::3]), NO_INTERVALS)
    assert alone.protocols == report.by["speaker"]["g0"]


def test_each_shift_is_of_one_protocol_only():
    joined = Joined((utterance([(1, 2), (2, 3)], "AB", [(1.08, 2.08), (2.08, 3.08)]),))
    within = evaluate_boundary(joined, 0.0, NO_INTERVALS, zerosyl_shift=0.04)
    assert [one.matched for one in within.protocols.values()] == [0, 0, 1]
    # Its tokens end in the same boundary; spans are not shifted.
    assert [within.syllables[name].matched for name in ("zerosyl_tokens", "findsylls_spans")] == [2, 0]
    unshifted, shifted = (evaluate_boundary(joined, shift, NO_INTERVALS).protocols for shift in (0.0, 0.04))
    assert [one["sdhubert"].matched for one in (unshifted, shifted)] == [0, 2]
    assert [one["zerosyl"].matched for one in (unshifted, shifted)] == [0, 0]
    assert [one["onsets_offsets"].matched for one in (unshifted, shifted)] == [0, 0]
    assert unshifted["sdhubert"].r_value.value is None
    assert unshifted["sdhubert"].f1.value == 0


def test_digits_are_removed_from_labels_and_pairs_apart_are_told():
    joined = Joined(
        (
            utterance([(0, 1), (1, 2), (5, 6)], ["HH-EH1", "B", "C"], [(0, 1), (1, 2)], [4, 5]),
            utterance([(0, 1)], ["HH-EH0"], [(3, 4), (7, 8)], [4, 4]),
        )
    )
    found = evaluate_purity(joined, NO_INTERVALS).protocols
    assert found["sdhubert"].syllable_types == 2
    assert [(one.pairs, one.unmatched_syllables, one.unmatched_segments) for one in found.values()] == [
        (3, 1, 1),
        (2, 2, 2),
        (4, 2, 0),
    ]
    # Every segment has a label by `zerosyl`, those of the second recording that of silence; stress is kept.
    assert [one.syllable_types for one in found.values()] == [2, 2, 3]
    touching = evaluate_purity(Joined((utterance([(0, 1)], "A", [(1, 2)], [4]),)), NO_INTERVALS).protocols
    assert [one.pairs for one in touching.values()] == [1, 0, 1]
    assert found["sdhubert"].cluster_purity.value == found["sdhubert"].syllable_purity.value == 1


def test_purity_needs_units_for_all_segments(monkeypatch):
    for units in (None, [1]):
        with pytest.raises(UserError, match=r"a\.wav have no units; run `sdhubert tokenize`"):
            evaluate_purity(Joined((utterance([(0, 1)], "A", [(0, 1), (1, 2)], units),)), NO_INTERVALS)
    empty = evaluate_purity(Joined((utterance([(0, 1)], "A", []),)), NO_INTERVALS).protocols["sdhubert"]
    assert (empty.pairs, empty.unmatched_syllables, empty.cluster_purity.value) == (0, 1, None)
    monkeypatch.setattr(purity, "_MAX_PAIRS", 1)
    with pytest.raises(UserError, match=r"a\.wav has 2 segments and 1 syllables, too many"):
        evaluate_purity(Joined((utterance([(0, 1)], "A", [(0, 1), (1, 2)], [0, 0]),)), NO_INTERVALS)


def test_rates_are_per_second_of_audio():
    one = utterance([(0, 1)], "A", [(0, 1), (1, 2), (2, 3), (3, 4)], [0, 1, 2, 3], duration=2.0)
    lost = utterance([(0, 1)], "A", [], duration=0.0)
    rate = measure_rate(Joined((one, lost)), NO_INTERVALS)
    assert (rate.segments, rate.seconds, rate.hertz, rate.units_in_use) == (4, 2.0, 2.0, 4)
    assert rate.bits_per_second == rate.entropy_bits_per_second == 4.0
    same = utterance([(0, 1)], "A", [(0, 1), (1, 2)], [3, 3], duration=1.0)
    rate = measure_rate(Joined((same,)), NO_INTERVALS, 4096)
    assert (rate.bits_per_second, rate.entropy_bits_per_second) == (24.0, 0.0)
    without = measure_rate(Joined((utterance([(0, 1)], "A", [(0, 1)]),)), NO_INTERVALS)
    assert (without.hertz, without.units_in_use, without.bits_per_second) == (0.1, None, None)
    assert measure_rate(Joined((lost,)), NO_INTERVALS).hertz is None


def test_a_shift_cannot_be_tuned_where_nothing_matches():
    with pytest.raises(UserError, match=r"val\.json is matched at any shift"):
        tune_on(Joined((utterance([(0, 1)], "A", [(5, 6)]),)), "val.json")


def test_both_shifts_are_tuned_each_for_its_protocol():
    syllables = [(1.0, 1.5), (1.5, 2.0), (2.0, 2.5)]
    segments = [(1.0, 1.42), (1.42, 1.94), (1.94, 2.5)]
    both, within = tune_on(Joined((utterance(syllables, "ABC", segments),)), "val.json")
    assert (both.source, within.source, within.utterances, within.r_value) == ("tuned", "tuned", 1, 1)
    # 1.42 comes near 1.5 where the reference is moved by 30 ms or more, of which the smallest shift is taken.
    assert within.seconds == -0.05
    report = evaluate_boundary(
        Joined((utterance(syllables, "ABC", segments),)), both.seconds, NO_INTERVALS, zerosyl_shift=within.seconds
    )
    assert report.protocols["zerosyl"].r_value.value == 1
    # Nothing lies between single syllables, so that there is nothing to tune on.
    single = tune_on(Joined((utterance([(0, 1)], "A", [(0, 1)]),)), "val.json")[1]
    assert single == scoring.Shift()


def test_nuclei_are_counted_where_vowels_are_known():
    known, unknown = utterance([(0, 1)], "A", [(0, 1), (1, 2)]), utterance([(0, 1)], "A", [(0, 1)])
    known = replace(known, reference=replace(known.reference, nuclei=np.array([[0.4, 0.6]])))
    assert "findsylls_nuclei" not in evaluate_boundary(Joined((unknown,)), 0.0, NO_INTERVALS).syllables
    groups = (replace(known, groups=("x",)), replace(unknown, groups=("y",)))
    report = evaluate_boundary(Joined(groups, by=("speaker",)), 0.0, NO_INTERVALS)
    found = report.syllables["findsylls_nuclei"]
    assert (found.utterances, found.matched, found.reference, found.predicted) == (1, 1, 1, 2)
    assert ["findsylls_nuclei" in group for group in report.syllables_by["speaker"].values()] == [True, False]


def test_intervals_of_rates_are_those_of_resamples():
    joined = Joined(tuple(random_utterances(3, 40)))
    rate = measure_rate(joined, Bootstrap(300, seed=5))
    sizes, units = [len(one.segments) for one in joined.utterances], [one.units for one in joined.utterances]
    hertz, bits = [], []
    for drawn in np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=300):
        counts = Counter(np.concatenate([np.repeat(one, times) for one, times in zip(units, drawn, strict=True)]))
        entropy = -sum(n / counts.total() * np.log2(n / counts.total()) for n in counts.values())
        hertz.append(drawn @ sizes / 400)
        bits.append(hertz[-1] * entropy)
    assert rate.hertz_interval == pytest.approx(np.quantile(hertz, [0.025, 0.975]))
    moved = np.array(bits) - np.mean(bits) + rate.entropy_bits_per_second
    assert rate.entropy_interval == pytest.approx(np.quantile(moved, [0.025, 0.975]))
    without = Joined(tuple(replace(one, units=None) for one in joined.utterances))
    assert measure_rate(without, Bootstrap(300, seed=5)).hertz_interval == rate.hertz_interval
