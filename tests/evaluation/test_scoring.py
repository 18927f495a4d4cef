"""Reports: sums over utterances, groups that add up, rates, and what is refused."""

import pytest
from evaluation_inputs import random_utterances, utterance
from hypothesis import given
from hypothesis import strategies as st

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation import Joined, evaluate_boundary, evaluate_purity, scoring, tune_on
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
    alone = evaluate_purity(Joined(joined.utterances[::3]), NO_INTERVALS)
    assert alone.protocols == report.by["speaker"]["g0"]


def test_the_shift_is_of_one_protocol_only():
    joined = Joined((utterance([(1, 2)], "A", [(1.08, 2.08)]),))
    unshifted, shifted = (evaluate_boundary(joined, shift, NO_INTERVALS).protocols for shift in (0.0, 0.04))
    assert [one["sdhubert"].matched for one in (unshifted, shifted)] == [0, 1]
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
    ]
    touching = evaluate_purity(Joined((utterance([(0, 1)], "A", [(1, 2)], [4]),)), NO_INTERVALS).protocols
    assert [one.pairs for one in touching.values()] == [1, 0]
    assert found["sdhubert"].cluster_purity.value == found["sdhubert"].syllable_purity.value == 1


def test_purity_needs_units_for_all_segments(monkeypatch):
    for units in (None, [1]):
        with pytest.raises(UserError, match=r"a\.wav have no units; run `sdhubert tokenize`"):
            evaluate_purity(Joined((utterance([(0, 1)], "A", [(0, 1), (1, 2)], units),)), NO_INTERVALS)
    empty = evaluate_purity(Joined((utterance([(0, 1)], "A", []),)), NO_INTERVALS).protocols["sdhubert"]
    assert (empty.pairs, empty.unmatched_syllables, empty.cluster_purity.value) == (0, 1, None)
    monkeypatch.setattr(scoring, "_MAX_PAIRS", 1)
    with pytest.raises(UserError, match=r"a\.wav has 2 segments and 1 syllables, too many"):
        evaluate_purity(Joined((utterance([(0, 1)], "A", [(0, 1), (1, 2)], [0, 0]),)), NO_INTERVALS)


def test_rates_are_per_second_of_audio():
    one = utterance([(0, 1)], "A", [(0, 1), (1, 2), (2, 3), (3, 4)], [0, 1, 2, 3], duration=2.0)
    lost = utterance([(0, 1)], "A", [], duration=0.0)
    rate = measure_rate(Joined((one, lost)))
    assert (rate.segments, rate.seconds, rate.hertz, rate.units_in_use) == (4, 2.0, 2.0, 4)
    assert rate.bits_per_second == rate.entropy_bits_per_second == 4.0
    same = utterance([(0, 1)], "A", [(0, 1), (1, 2)], [3, 3], duration=1.0)
    rate = measure_rate(Joined((same,)), 4096)
    assert (rate.bits_per_second, rate.entropy_bits_per_second) == (24.0, 0.0)
    without = measure_rate(Joined((utterance([(0, 1)], "A", [(0, 1)]),)))
    assert (without.hertz, without.units_in_use, without.bits_per_second) == (0.1, None, None)
    assert measure_rate(Joined((lost,))).hertz is None


def test_a_shift_cannot_be_tuned_where_nothing_matches():
    with pytest.raises(UserError, match=r"val\.json is matched at any shift"):
        tune_on(Joined((utterance([(0, 1)], "A", [(5, 6)]),)), "val.json")
