"""Norm cut, silence filter and span limit against the definitions written out one frame at a time."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdhubert_ray.speech.spans import SpeechOptions, find_speech, runs, scale_norm, split_span
from sdhubert_ray.speech.windows import frame_amplitude

seeds = st.integers(0, 2**32 - 1)
masks = st.lists(st.booleans(), max_size=60).map(lambda values: np.array(values, dtype=np.bool_))


def percentile(values, percent):
    """Between the two nearest of the sorted values, on a straight line."""
    ordered = sorted(float(value) for value in values)
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def runs_by_definition(mask):
    found, at = [], 0
    for value, group in groupby(bool(value) for value in mask):
        length = len(list(group))
        if value:
            found.append((at, at + length))
        at += length
    return found


def split_by_definition(start, end, norm, limit):
    if end - start <= limit:
        return [(start, end)]
    second_half = range(start + limit // 2, start + limit)
    lowest = min(norm[frame] for frame in second_half)
    cut = next(frame for frame in second_half if norm[frame] == lowest)
    return [(start, cut), *split_by_definition(cut, end, norm, limit)]


def speech_like_norm(seed, frames):
    """Loud and soft stretches, so that there are spans of many lengths."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.uniform(0, 4, frames), rng.integers(1, 9, frames))[:frames]
    return (level + rng.uniform(0, 0.5, frames)).astype(np.float32)


@given(masks)
def test_runs_are_the_maximal_stretches_of_the_mask(mask):
    found = runs(mask)
    assert found.dtype == np.int64
    assert found.shape == (len(found), 2)
    assert [tuple(span) for span in found.tolist()] == runs_by_definition(mask)


@given(st.integers(1, 300), seeds)
def test_relative_norm_lies_between_the_percentiles(frames, seed):
    norm = speech_like_norm(seed, frames)
    low, high = percentile(norm, 1), percentile(norm, 99)
    assume(high - low > 1e-3)
    scaled = scale_norm(norm, "relative")
    assert scaled.dtype == np.float32
    # Not clipped: the loudest frame lies above 1, the softest below 0.
    np.testing.assert_allclose(scaled, [(float(value) - low) / (high - low) for value in norm], atol=1e-5)


@given(seeds, st.floats(0.01, 100), st.floats(-50, 50))
def test_relative_norm_does_not_see_scale_and_offset(seed, scale, offset):
    norm = speech_like_norm(seed, 100)
    other = (norm.astype(np.float64) * scale + offset).astype(np.float32)
    np.testing.assert_allclose(scale_norm(other, "relative"), scale_norm(norm, "relative"), atol=2e-3 / min(scale, 1))


def test_absolute_norm_stays_as_it_is():
    norm = speech_like_norm(0, 50)
    np.testing.assert_array_equal(scale_norm(norm, "absolute"), norm)


@pytest.mark.parametrize("frames", [1, 2, 500])
def test_constant_norm_is_no_speech(frames):
    for threshold in (0.1, -1e30):
        speech = find_speech(
            np.full(frames, 3.5, np.float32),
            np.ones(frames, np.float32),
            SpeechOptions(normcut_threshold=threshold),
        )
        assert not speech.mask.any()
        assert speech.spans.shape == (0, 2)


@pytest.mark.parametrize("strategy", ["relative", "absolute"])
def test_no_frames_are_no_speech(strategy):
    nothing = np.zeros(0, np.float32)
    speech = find_speech(nothing, nothing, SpeechOptions(normcut_strategy=strategy))
    assert speech.norm.shape == speech.mask.shape == (0,)
    assert (speech.spans.shape, speech.spans.dtype) == ((0, 2), np.int64)


@settings(deadline=None)
@given(
    start=st.integers(0, 50),
    length=st.integers(1, 400),
    half=st.integers(1, 40),
    seed=seeds,
    ties=st.booleans(),
)
def test_spans_over_the_limit_are_split_where_the_norm_is_lowest(start, length, half, seed, ties):
    rng = np.random.default_rng(seed)
    norm = rng.uniform(0, 1, start + length).astype(np.float32)
    if ties:
        norm = np.round(norm * 3)
    pieces = list(split_span(start, start + length, norm, 2 * half))
    assert pieces == split_by_definition(start, start + length, norm, 2 * half)
    assert all(0 < end - begin <= 2 * half for begin, end in pieces)


def test_default_limit_is_thirty_seconds():
    norm = np.linspace(2, 1, 4000, dtype=np.float32)
    norm[1100] = norm[700] = 0.5  # only the first lies in the second half of the first 30 s
    speech = find_speech(norm, np.ones(4000, np.float32), SpeechOptions("absolute", 0.1, None, 0))
    assert speech.mask.all()
    assert speech.spans[0].tolist() == [0, 1100]
    assert speech.spans[1].tolist() == [1100, 1100 + 1499]
    assert speech.spans[-1, 1] == 4000
    assert np.all(speech.spans[:, 1] - speech.spans[:, 0] <= 1500)
    exact = find_speech(norm[:1500], np.ones(1500, np.float32), SpeechOptions("absolute", 0.1, None, 0))
    assert exact.spans.tolist() == [[0, 1500]]


@settings(deadline=None)
@given(
    frames=st.integers(1, 300),
    seed=seeds,
    strategy=st.sampled_from(["relative", "absolute"]),
    threshold=st.floats(0.05, 2),
    silence=st.one_of(st.none(), st.floats(0, 0.05)),
    shortest=st.integers(0, 5),
    limit=st.sampled_from([1.0, 2.0, 30.0]),
)
def test_speech_is_found_as_defined(frames, seed, strategy, threshold, silence, shortest, limit):
    """From samples, as the silence filter is defined: mean |sample| over [320 a, 320 b) of each span."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.choice([0.001, 0.02, 0.03, 1], frames), 320)
    samples = (rng.standard_normal(320 * frames) * loudness).astype(np.float32)
    raw = speech_like_norm(seed, frames)
    options = SpeechOptions(strategy, threshold, silence, shortest, limit)
    speech = find_speech(raw, frame_amplitude(samples, frames), options)

    if strategy == "relative":
        low, high = percentile(raw, 1), percentile(raw, 99)
        assume(high - low > 1e-3)
        norm = np.array([(float(value) - low) / (high - low) for value in raw])
    else:
        norm = raw.astype(np.float64)
    assume(np.abs(norm - threshold).min() > 1e-5)
    mask = [value > threshold for value in norm]
    spans = []
    for start, end in runs_by_definition(mask):
        mean = np.mean(np.abs(samples[320 * start : 320 * end].astype(np.float64)))
        assume(silence is None or abs(mean - silence) > 1e-6)
        if end - start >= shortest and (silence is None or mean > silence):
            spans.extend(split_by_definition(start, end, speech.norm, round(50 * limit)))

    np.testing.assert_allclose(speech.norm, norm, atol=1e-5)
    np.testing.assert_array_equal(speech.mask, mask)  # whatever spans were removed
    assert [tuple(span) for span in speech.spans.tolist()] == spans


def test_inputs_are_left_alone():
    norm, amplitude = speech_like_norm(1, 200), np.ones(200, np.float32)
    norm.flags.writeable = amplitude.flags.writeable = False
    assert len(find_speech(norm, amplitude, SpeechOptions()).spans)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"normcut_strategy": "relativ"}, "normcut_strategy"),
        ({"normcut_threshold": float("nan")}, "normcut_threshold"),
        ({"normcut_threshold": float("inf")}, "normcut_threshold"),
        ({"min_span_frames": -1}, "min_span_frames"),
        ({"max_span_seconds": 0.5}, "max_span_seconds"),
        ({"max_span_seconds": float("nan")}, "max_span_seconds"),
        ({"max_span_seconds": float("inf")}, "max_span_seconds"),
        ({"silence_threshold": float("nan")}, "silence_threshold"),
    ],
)
def test_bad_options_are_refused_by_name(values, key):
    with pytest.raises(ValueError, match=rf"speech\.{key} is "):
        SpeechOptions(**values)
