"""The options that a rate decides: of all values that there are the nearest, by trying them all."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.rate import RATE_OPTIONS, Spoken, rate_keys, tune_rate, with_own_values
from sdhubert_ray.speech.segmenters import GreedyOptions
from sdhubert_ray.speech.syllables import SEGMENTERS, BandedOptions, SyllableOptions, find_syllables

seeds = st.integers(0, 2**32 - 1)
segmenters = st.sampled_from(sorted(SEGMENTERS))


def spoken(seed: int, frames: int = 300) -> list[Spoken]:
    """Three recordings of random walks, each with two spans of speech and a pause."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(3):
        features = np.cumsum(rng.standard_normal((frames, 6)) * 0.5, axis=0).astype(np.float32) + 2
        middle = int(rng.integers(frames // 3, frames // 2))
        spans = np.array([[5, middle], [middle + 10, frames - 5]])
        found.append(Spoken(features, np.linalg.norm(features, axis=1), spans, frames / 50))
    return found


def options_of(segmenter: str) -> SyllableOptions:
    return SyllableOptions(segmenter=segmenter, greedy=GreedyOptions(norm_threshold=0))


def count(recordings: Sequence[Spoken], options: SyllableOptions) -> int:
    return sum(len(find_syllables(one.features, one.norms, one.spans, options).frames) for one in recordings)


def counts(recordings: Sequence[Spoken], options: SyllableOptions, values: Sequence[float]) -> list[int]:
    name = RATE_OPTIONS[options.segmenter].name
    return [count(recordings, with_own_values(options, {name: value})) for value in values]


def some_values(segmenter: str) -> Sequence[float]:
    """Both ends and some between of what may be given; of greedy all of two decimals."""
    values = RATE_OPTIONS[segmenter].values
    if segmenter == "greedy":
        return [round(hundredths / 100, 2) for hundredths in range(101)]
    return [*values[:: len(values) // 40], values[-1]]


def test_every_segmenter_has_an_option_for_it() -> None:
    assert set(RATE_OPTIONS) == set(SEGMENTERS)
    given_options = SyllableOptions()
    for segmenter in SEGMENTERS:
        for key in rate_keys(segmenter):
            value: object = asdict(given_options)
            for part in key.split(".")[1:]:
                assert isinstance(value, dict)
                value = value[part]
            assert isinstance(value, float), key


@settings(max_examples=25)
@given(seed=seeds, segmenter=segmenters, share=st.floats(0, 1))
def test_no_value_is_nearer_to_the_rate(seed: int, segmenter: str, share: float) -> None:
    recordings, options = spoken(seed), options_of(segmenter)
    seconds = sum(one.seconds for one in recordings)
    if cuts := RATE_OPTIONS[segmenter].cuts:
        options = with_own_values(options, {"syl_dur": cuts[0]})
    tried = counts(recordings, options, some_values(segmenter))
    wanted = min(tried) + share * (max(tried) - min(tried))
    tuned = tune_rate(recordings, options, wanted / seconds)
    assert count(recordings, tuned.options) == round(tuned.rate * seconds)
    error = abs(count(recordings, tuned.options) - wanted)
    assert error <= min(abs(found - wanted) for found in tried) + 1e-9
    # All else is as it was.
    kept = {key.rpartition(".")[2]: 0.1 for key in rate_keys(segmenter)}
    assert with_own_values(tuned.options, kept) == with_own_values(options, kept)


@settings(max_examples=25)
@given(seed=seeds, segmenter=st.sampled_from(sorted({*SEGMENTERS} - {"greedy"})))
def test_each_value_finds_as_many_as_the_one_before_it(seed: int, segmenter: str) -> None:
    found = counts(spoken(seed, 120), options_of(segmenter), some_values(segmenter))
    assert found == sorted(found)
    assert found[0] < found[-1]


@pytest.mark.parametrize("segmenter", ["min-cut", "min-cut-banded"])
def test_the_cut_is_the_coarsest_that_has_enough_segments(segmenter: str) -> None:
    recordings, options = spoken(3), options_of(segmenter)
    seconds, cuts = sum(one.seconds for one in recordings), RATE_OPTIONS[segmenter].cuts
    assert sorted(cuts, reverse=True) == list(cuts)
    unmerged = [
        count(recordings, with_own_values(options, {"syl_dur": length, "merge_threshold": None})) for length in cuts
    ]
    assert unmerged[1] < unmerged[3]
    wanted = unmerged[3] - 1
    tuned = tune_rate(recordings, options, wanted / seconds)
    expected = next(length for length, found in zip(cuts, unmerged, strict=True) if found >= wanted)
    assert with_own_values(tuned.options, {"syl_dur": expected}) == tuned.options
    assert round(tuned.rate * seconds) == wanted
    # One that the longest segment does not allow is left out.
    short = replace(options, max_frames=7, banded=BandedOptions(0.12, max_frames=7))
    tuned = tune_rate(recordings, short, 4)
    assert with_own_values(tuned.options, {"syl_dur": 0.14}) == tuned.options


@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_a_rate_out_of_reach_is_refused_with_those_that_are_not(segmenter: str) -> None:
    recordings, options = spoken(1), options_of(segmenter)
    for rate in (0.001, 49.9):
        with pytest.raises(UserError, match=rf"^rate is {rate:g}, but by .* reaches .* syllables per second") as caught:
            tune_rate(recordings, options, rate)
        low, high = (float(word) for word in str(caught.value).partition("reaches ")[2].split()[:3:2])
        assert rate < low < high or low < high < rate
        for named in (low, high):  # what is named can be had
            assert tune_rate(recordings, options, named).rate == pytest.approx(named, abs=0.1)


def test_too_little_speech_is_told() -> None:
    recordings = [one._replace(spans=one.spans[:1]) for one in spoken(1, 100)]
    with pytest.raises(UserError, match=r"there are \d\.\d s of speech in a sample of 6 s of audio, and a rate"):
        tune_rate(recordings, SyllableOptions(), 4)
    with pytest.raises(UserError, match=r"there are 0\.0 s of speech in a sample of 0 s"):
        tune_rate([], SyllableOptions(), 4)
