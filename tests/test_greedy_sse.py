"""The kernels of greedy segments and of the least squared error: golden values, their definitions, what is refused."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN

from mincut import greedy_segments, min_cut, sse_cut
from mincut.reference import chunk_error, greedy_reference, min_cut_reference, sse_reference

SEGMENTERS = GOLDEN / "segmenters.npz"
seeds = st.integers(0, 2**32 - 1)


def drift(seed, frames, width, step, offset=2.0):
    """A random walk around a point that is not the origin: neighbours are alike, and boundaries are found late."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.standard_normal((frames, width)) * step, axis=0) + offset * rng.standard_normal(width)
    return walk.astype(np.float32)


def as_pairs(segments):
    assert segments.dtype == np.int64
    return [tuple(segment) for segment in segments.tolist()]


def golden_cases():
    values = np.load(SEGMENTERS)
    assert sum(name.startswith("greedy_") for name in values.files) == 2 * 16
    return values


# -- golden


@pytest.mark.parametrize("case", range(16))
def test_golden_greedy(case):
    values = golden_cases()
    found = greedy_segments(values[f"greedy_{case}_features"], 2.6, 0.8)
    np.testing.assert_array_equal(found, values[f"greedy_{case}_segments"])


@pytest.mark.parametrize("case", range(16))
@pytest.mark.parametrize("rate", ["8.33Hz", "6.25Hz", "5.0Hz"])
def test_golden_sse(case, rate):
    values = golden_cases()
    found = sse_cut(values[f"ssedp_{case}_features"], float(values[f"ssedp_{case}_delta_{rate}"]))
    np.testing.assert_array_equal(found, values[f"ssedp_{case}_borders_{rate}"])


# -- against the definitions


@settings(deadline=None, max_examples=200)
@given(
    seed=seeds,
    frames=st.integers(1, 60),
    width=st.integers(2, 19),  # of 1, cosines are 1 or -1 but for rounding, which would decide
    step=st.sampled_from([0.2, 0.5, 1.0]),
    quiet=st.sampled_from([0.0, 1.0, 2.6, 5.0]),
    alike=st.floats(0.05, 0.99),
    reset=st.booleans(),
)
def test_greedy_equals_the_definition(seed, frames, width, step, quiet, alike, reset):
    features = drift(seed, frames, width, step)
    features.flags.writeable = False
    found = greedy_segments(features, quiet, alike, reset)
    assert as_pairs(found) == greedy_reference(features, quiet, alike, reset)
    assert (found[:, 0] < found[:, 1]).all()
    assert (found[1:, 0] >= found[:-1, 1]).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    frames=st.integers(1, 60),
    width=st.integers(1, 6),
    error=st.floats(0, 2),
    shortest=st.integers(1, 5),
    beyond=st.integers(0, 30),
)
def test_sse_equals_the_definition(seed, frames, width, error, shortest, beyond):
    features = drift(seed, frames, width, 0.5)
    features.flags.writeable = False
    found = sse_cut(features, error, shortest, shortest + beyond)
    assert found.dtype == np.int64
    assert found.tolist() == sse_reference(features, error, shortest, shortest + beyond)


@settings(deadline=None, max_examples=60)
@given(seed=seeds, frames=st.integers(2, 20), data=st.data())
def test_min_cut_of_bounded_segments_equals_the_definition(seed, frames, data):
    shortest = data.draw(st.integers(1, frames - 1))
    count = data.draw(st.integers(1, (frames - 1) // shortest))
    longest = data.draw(st.integers(-(-(frames - 1) // count), frames))
    similarity = np.random.default_rng(seed).uniform(0.1, 1, (frames, frames))
    found = min_cut(similarity, count, max(longest, shortest), shortest)
    expected, _ = min_cut_reference(similarity, count, max(longest, shortest), shortest)
    np.testing.assert_array_equal(found, expected)
    assert np.diff(found).min() >= shortest


@settings(deadline=None, max_examples=30)
@given(seed=seeds, frames=st.integers(3, 12), error=st.floats(0, 1))
def test_chunks_have_the_least_error_of_all_of_their_number(seed, frames, error):
    features = drift(seed, frames, 3, 0.5).astype(np.float64)
    found = sse_cut(features, error, 1, frames).tolist()

    def total(boundaries):
        return sum(chunk_error(features.astype(np.float32).astype(np.float64), *pair) for pair in boundaries)

    inner = itertools.combinations(range(1, frames), len(found) - 2)
    least = min(total(itertools.pairwise([0, *cut, frames])) for cut in inner)
    assert total(itertools.pairwise(found)) == pytest.approx(least, abs=1e-9)


# -- by hand


def turned(*degrees):
    """Frames of two values and norm 5, in these directions."""
    angles = np.radians(degrees)
    return 5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_the_count_runs_on_as_published_or_is_reset():
    """The centroid of the second segment, begun at -105, is at -109 with counts 3 and 4, or at -112.5 with 1 and 2.

    So the frame at -75 is within 36.9 degrees of it, whose cosine is 0.8, or not.
    """
    features = turned(-45, -75, -105, -120, -75, -75)
    assert as_pairs(greedy_segments(features, 1, 0.8)) == [(0, 6)]
    assert as_pairs(greedy_segments(features, 1, 0.8, reset_count=True)) == [(0, 2), (2, 4), (4, 6)]


def test_a_boundary_moves_to_where_frames_are_like_the_other_side():
    """Frame 6, at -30, is within the threshold of what is before it, and more like frame 7."""
    features = turned(-20, 0, -30, 0, -10, 0, -30, -40)
    assert as_pairs(greedy_segments(features, 1, 0.9, reset_count=True)) == [(0, 6), (6, 8)]
    assert as_pairs(greedy_segments(features[:7], 1, 0.9, reset_count=True)) == [(0, 7)]


def test_quiet_frames_are_in_no_segment_and_part_those_around_them():
    features = np.array([[0.1, 0], [9, 0], [9, 0], [0.1, 0], [9, 0], [0.1, 0]])
    assert as_pairs(greedy_segments(features, 1, 0.8)) == [(1, 3), (4, 5)]
    assert as_pairs(greedy_segments(features, 0, 0.8)) == [(0, 6)]
    assert greedy_segments(features, 10, 0.8).shape == (0, 2)


def test_frames_of_zeros_stand_alone_and_nothing_is_divided_by_nothing():
    assert as_pairs(greedy_segments(np.zeros((3, 4)), 0, 0.8)) == greedy_reference(np.zeros((3, 4)), 0, 0.8)


@pytest.mark.parametrize("frames", [1, 2])
def test_what_is_shorter_than_a_chunk_is_one(frames):
    assert sse_cut(np.ones((frames, 4)), 0.1).tolist() == [0, frames]


def test_equal_frames_have_as_few_chunks_as_there_may_be():
    assert len(sse_cut(np.ones((60, 4), np.float32), 0.1)) == 60 * 0.2 // 3 + 1
    assert len(sse_cut(np.ones((60, 4), np.float32), 0.0)) == 60 * 0.2 // 3 + 1


def test_more_error_allowed_gives_no_more_chunks():
    counts = [len(sse_cut(drift(1, 200, 8, 0.5), error)) for error in (0.01, 0.1, 0.3, 1.0, 10.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_precision_and_layout(dtype):
    features = drift(3, 80, 9, 0.4).astype(np.float16).astype(dtype)
    plain = features.astype(np.float32)
    for given_features in (features, np.asfortranarray(features), np.repeat(features, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(greedy_segments(given_features, 1, 0.8), greedy_segments(plain, 1, 0.8))
        np.testing.assert_array_equal(sse_cut(given_features, 0.1), sse_cut(plain, 0.1))


# -- what is refused


@pytest.mark.parametrize(
    ("features", "what"),
    [
        (np.zeros(5), r"2-D matrix, but their shape is \(5,\)"),
        (np.zeros((0, 5)), r"must not be empty, but their shape is \(0, 5\)"),
        (np.zeros((5, 0)), r"must not be empty"),
        (np.zeros((5, 2), np.int64), "their dtype is int64"),
        (np.array([[0.0, np.nan]]), r"features\[0, 1\] is nan"),
        (np.array([[0.0], [np.inf]]), r"features\[1, 0\] is inf"),
        (np.array([[0.0], [1e300]]), r"features\[1, 0\] is 1e\+300"),
    ],
)
def test_bad_features_are_refused(features, what):
    for function in (lambda: greedy_segments(features, 1, 0.8), lambda: sse_cut(features, 0.1)):
        with pytest.raises(ValueError, match=what):
            function()


FEATURES = np.ones((20, 3), np.float32)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda: greedy_segments(FEATURES, -1, 0.8), "norm_threshold must be 0 or more, but it is -1"),
        (lambda: greedy_segments(FEATURES, np.nan, 0.8), "norm_threshold must be 0 or more, but it is nan"),
        (lambda: greedy_segments(FEATURES, np.inf, 0.8), "norm_threshold must be 0 or more, but it is inf"),
        (lambda: greedy_segments(FEATURES, "1", 0.8), "norm_threshold must be a number, but it is '1'"),
        (lambda: greedy_segments(FEATURES, True, 0.8), "norm_threshold must be a number"),
        (lambda: greedy_segments(FEATURES, 1, 1.5), "merge_threshold must be from 0 to 1, but it is 1.5"),
        (lambda: greedy_segments(FEATURES, 1, -0.1), "merge_threshold must be from 0 to 1"),
        (lambda: sse_cut(FEATURES, -0.1), "max_error must be 0 or more"),
        (lambda: sse_cut(FEATURES, 0.1, 0), "min_frames must be 1 or more, but it is 0"),
        (lambda: sse_cut(FEATURES, 0.1, 3.0), "min_frames must be an integer"),
        (lambda: sse_cut(FEATURES, 0.1, 5, 4), "max_frames must be 5 or more, but it is 4"),
        (lambda: min_cut(np.ones((20, 20)), 4, min_frames=5), "min_frames must be 4 or less for 4 segments of 20"),
        (lambda: min_cut(np.ones((20, 20)), 4, min_frames=0), "min_frames must be 1 or more"),
    ],
)
def test_bad_options_are_refused(function, what):
    with pytest.raises(ValueError, match=what):
        function()
