"""Segmenters beside min-cut: golden values, spans, and the rule by which one is chosen."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN
from scipy.signal import find_peaks

from mincut.reference import min_cut_reference
from sdhubert_ray.speech.mel import log_mel, mel_levels
from sdhubert_ray.speech.segmenters import (
    GreedyOptions,
    PeakOptions,
    SseOptions,
    UniformOptions,
    ValleyOptions,
    norm_peaks,
    uniform,
    valleys,
)
from sdhubert_ray.speech.syllables import (
    POOLINGS,
    SEGMENTERS,
    BandedOptions,
    SyllableOptions,
    bind_segmenter,
    cut_syllables,
    find_syllables,
    pool_frames,
    similarity_of,
)

seeds = st.integers(0, 2**32 - 1)
WHOLE = {"greedy": GreedyOptions(norm_threshold=0)}


def speech(seed, frames, width=6):
    rng = np.random.default_rng(seed)
    features = np.cumsum(rng.standard_normal((frames, width)) * 0.5, axis=0).astype(np.float32) + 2
    return features, np.linalg.norm(features, axis=1)


def whole(frames):
    return np.array([[0, frames]])


def options_of(name, **values):
    return SyllableOptions(segmenter=name, **values)


@pytest.mark.parametrize("case", range(16))
def test_golden_norm_peaks(case):
    values = np.load(GOLDEN / "segmenters.npz")
    features = values[f"peaks_{case}_features"]
    norms = np.linalg.norm(features, axis=1)
    found = find_syllables(features, norms, whole(len(features)), options_of("norm-peaks")).frames
    np.testing.assert_array_equal([0, *found[:, 1]], values[f"peaks_{case}_boundaries"])


@pytest.mark.parametrize("case", range(16))
def test_golden_greedy_and_sse(case):
    values = np.load(GOLDEN / "segmenters.npz")
    features = values[f"greedy_{case}_features"]
    found = find_syllables(features, np.zeros(len(features)), whole(len(features)), options_of("greedy")).frames
    np.testing.assert_array_equal(found, values[f"greedy_{case}_segments"])
    features = values[f"ssedp_{case}_features"]
    rules = SseOptions(float(values[f"ssedp_{case}_delta_6.25Hz"]))
    found = bind_segmenter(options_of("sse-dp", sse_dp=rules))(features, np.zeros(0), whole(len(features)))
    np.testing.assert_array_equal([0, *found[:, 1]], values[f"ssedp_{case}_borders_6.25Hz"])


@settings(deadline=None, max_examples=40)
@given(seed=seeds, lengths=st.lists(st.integers(1, 40), max_size=4), gap=st.integers(0, 3))
def test_every_segmenter_cuts_within_each_span_and_pools_means(seed, lengths, gap):
    spans = np.zeros((len(lengths), 2), np.int64)
    at = 0
    for row, length in zip(spans, lengths, strict=True):
        row[:] = (at + gap, at + gap + length)
        at = row[1]
    features, norms = speech(seed, at + gap + 1)
    for array in (features, norms, spans):
        array.flags.writeable = False
    for name in SEGMENTERS:
        syllables = find_syllables(features, norms, spans, options_of(name, **WHOLE))
        assert (syllables.frames.dtype, syllables.features.dtype) == (np.int64, np.float32), name
        assert syllables.features.shape == (len(syllables.frames), 6)
        tiled = [np.zeros(0, np.int64), *(np.arange(start, end) for start, end in syllables.frames)]
        expected = [np.zeros(0, np.int64), *(np.arange(start, end) for start, end in spans)]
        # Every one but greedy, which has a threshold of its own, leaves no frame of a span out.
        np.testing.assert_array_equal(np.concatenate(tiled), np.concatenate(expected), err_msg=name)
        assert {int(start) for start, _ in spans} <= {int(start) for start, _ in syllables.frames}, name
        for (start, end), mean in zip(syllables.frames, syllables.features, strict=True):
            np.testing.assert_allclose(mean, features[start:end].mean(axis=0), atol=1e-5)


def test_min_cut_is_what_it_was():
    features, norms = speech(1, 200)
    spans = np.array([[3, 90], [95, 200]])
    for options in (SyllableOptions(), SyllableOptions(0.2, 0.3, max_frames=20)):
        expected = cut_syllables(features, spans, options)
        found = find_syllables(features, norms, spans, options)
        np.testing.assert_array_equal(found.frames, expected.frames)
        np.testing.assert_array_equal(found.features, expected.features)
        np.testing.assert_array_equal(bind_segmenter(options)(features, norms, spans), expected.frames)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    frames=st.integers(1, 60),
    shortest=st.integers(1, 6),
    beyond=st.integers(0, 12),
    syl_dur=st.sampled_from([0.02, 0.1, 0.15]),
)
def test_banded_cut_equals_the_definition(seed, frames, shortest, beyond, syl_dur):
    longest = max(2 * shortest - 1, 8) + beyond
    rules = BandedOptions(syl_dur, None, shortest, longest)
    features, norms = speech(seed, frames)
    found = bind_segmenter(options_of("min-cut-banded", banded=rules))(features, norms, whole(frames))
    if frames <= shortest:
        expected = [0, frames]
    else:
        count = min(int(np.ceil(frames / 50 / syl_dur)), (frames - 1) // shortest)
        count = max(count, 1, int(np.ceil((frames - 1) / longest)))
        expected, _ = min_cut_reference(similarity_of(features.astype(np.float64)), count, longest, shortest)
        expected[-1] = frames
    np.testing.assert_array_equal([0, *found[:, 1]], expected)


def test_banded_segments_are_merged_while_three_remain():
    features = np.ones((60, 4), np.float32)
    found = find_syllables(features, np.ones(60), whole(60), options_of("min-cut-banded"))
    assert len(found.frames) == 2
    kept = options_of("min-cut-banded", banded=BandedOptions(merge_threshold=None))
    assert len(find_syllables(features, np.ones(60), whole(60), kept).frames) == 8


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_recording_without_speech_has_no_syllables(name):
    """Of norms that are all alike the scaled ones are -inf."""
    nothing = np.zeros((0, 2), np.int64)
    found = find_syllables(np.zeros((20, 4), np.float32), np.full(20, -np.inf, np.float32), nothing, options_of(name))
    assert (found.frames.shape, found.features.shape) == ((0, 2), (0, 4))


@settings(deadline=None, max_examples=40)
@given(seed=seeds, frames=st.integers(1, 80), window=st.sampled_from([1, 3, 7]), prominence=st.floats(0, 1))
def test_norm_peaks_equal_the_definition(seed, frames, window, prominence):
    norms = np.random.default_rng(seed).uniform(1, 9, frames).astype(np.float32)
    found = norm_peaks(np.zeros((frames, 1)), norms, whole(frames), options=PeakOptions(window, prominence))
    level = norms.astype(np.float64)
    smooth = []
    for t in range(frames):
        near = [level[min(max(t + step, 0), frames - 1)] for step in range(-(window // 2), window // 2 + 1)]
        smooth.append(np.mean(near))
    peaks = find_peaks(np.array(smooth), prominence=prominence * level.std() + 1e-12)[0]
    np.testing.assert_array_equal([0, *found[:, 1]], [0, *peaks, frames])


def test_norms_that_are_all_alike_have_no_peaks():
    spans = np.array([[0, 4], [5, 9]])
    np.testing.assert_array_equal(norm_peaks(np.zeros((9, 1)), np.ones(9), spans, options=PeakOptions()), spans)


def test_uniform_segments():
    spans = np.array([[0, 25], [30, 40], [41, 42]])
    found = uniform(np.zeros((42, 1)), np.zeros(42), spans, options=UniformOptions())
    assert found.tolist() == [[0, 10], [10, 20], [20, 25], [30, 40], [41, 42]]
    found = uniform(np.zeros((42, 1)), np.zeros(42), spans[:1], options=UniformOptions(), frame_rate=100)
    assert found.tolist() == [[0, 20], [20, 25]]


def test_valleys_of_the_mel_level_lie_between_bursts_of_sound():
    rng = np.random.default_rng(0)
    bursts = np.concatenate([np.concatenate([rng.standard_normal(3200), np.zeros(1600)]) for _ in range(4)])
    level = mel_levels(log_mel(bursts.astype(np.float32)))
    assert (level.shape, level.dtype) == ((60,), np.float32)
    found = valleys(np.zeros((60, 1)), level, whole(60), options=ValleyOptions(1.0))
    assert found[:, 1].tolist() == pytest.approx([12, 27, 42, 60], abs=1)
    assert valleys(np.zeros((60, 1)), np.ones(60), whole(60), options=ValleyOptions()).tolist() == [[0, 60]]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: GreedyOptions(norm_threshold=-1), r"greedy\.norm_threshold is -1"),
        (lambda: GreedyOptions(norm_threshold=float("nan")), r"greedy\.norm_threshold is nan"),
        (lambda: GreedyOptions(merge_threshold=1.5), r"greedy\.merge_threshold is 1.5"),
        (lambda: SseOptions(max_error=-1), r"sse_dp\.max_error is -1"),
        (lambda: SseOptions(min_frames=0), r"sse_dp\.min_frames is 0"),
        (lambda: SseOptions(min_frames=9, max_frames=8), r"sse_dp\.max_frames is 8"),
        (lambda: PeakOptions(window_frames=2), r"norm_peaks\.window_frames is 2"),
        (lambda: PeakOptions(prominence=-1), r"norm_peaks\.prominence is -1"),
        (lambda: UniformOptions(0.001), r"uniform\.seconds is 0.001"),
        (lambda: BandedOptions(syl_dur=0), r"banded\.syl_dur is 0"),
        (lambda: BandedOptions(merge_threshold=2), r"banded\.merge_threshold is 2"),
        (lambda: BandedOptions(min_frames=0), r"banded\.min_frames is 0"),
        (lambda: BandedOptions(min_frames=5, max_frames=8), r"banded\.max_frames is 8"),
        (lambda: BandedOptions(max_frames=7), r"banded\.max_frames is 7"),
        (lambda: SyllableOptions(segmenter="greed"), r"segmenter is 'greed'"),
        (lambda: ValleyOptions(smoothing=0), "smoothing is 0"),
        (lambda: ValleyOptions(prominence=2), "prominence is 2"),
    ],
)
def test_bad_options_are_refused_by_name(make, key):
    with pytest.raises(ValueError, match=rf"^(syllables\.)?{key}"):
        make()


# -- pooling


@given(seed=st.integers(0, 2**16), count=st.integers(1, 6), width=st.integers(2, 9))
def test_features_are_pooled_as_they_were_published(seed, count, width):
    features = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    inside = features[1:-1] if count > 2 else features
    means = [sum(map(Fraction, column)) / len(column) for column in inside.astype(float).T.tolist()]
    middle = sum(means) / width
    deviation = math.sqrt(sum((mean - middle) ** 2 for mean in means) / (width - 1))
    inner = [float(mean - middle) / deviation for mean in means]
    np.testing.assert_allclose(pool_frames(features, "inner"), inner, rtol=1e-5, atol=1e-6)
    plain = features.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(pool_frames(features, "mean"), plain, rtol=1e-6)
    unit = pool_frames(features, "unit")
    np.testing.assert_allclose(np.linalg.norm(unit), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(plain), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_where_there_is_nothing_to_divide_by_zeros_are_left(pooling):
    assert pool_frames(np.zeros((3, 4), np.float32), pooling).tolist() == [0, 0, 0, 0]
    assert np.isfinite(pool_frames(np.ones((3, 4), np.float16), pooling)).all()
    assert pool_frames(np.ones((3, 1), np.float32), "inner").tolist() == [0]


@pytest.mark.parametrize("segmenter", SEGMENTERS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_segmenter_is_pooled_so_and_cuts_as_before(segmenter, pooling):
    features = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32) * 3
    given = (features, np.linalg.norm(features, axis=1), np.array([[2, 30], [33, 60]]))
    plain = find_syllables(*given, SyllableOptions(segmenter=segmenter))
    found = find_syllables(*given, SyllableOptions(segmenter=segmenter, pooling=pooling))
    np.testing.assert_array_equal(found.frames, plain.frames)
    expected = [pool_frames(features[start:end], pooling) for start, end in plain.frames]
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
