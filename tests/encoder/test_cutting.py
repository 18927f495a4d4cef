"""Many minimum cuts at once in torch, against the kernel."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import seeds

from mincut import min_cut
from mincut.reference import objective
from sdhubert_ray.encoder.cutting import min_cuts, similarities
from sdhubert_ray.speech.syllables import SyllableOptions, initial_cut


def uniform(n, rng):
    """A similarity whose optimum is unique."""
    return rng.uniform(0.1, 1.0, (n, n))


def padded(matrices):
    n = max(map(len, matrices))
    similarity = torch.zeros(len(matrices), n, n, dtype=torch.float64)
    for row, matrix in enumerate(matrices):
        similarity[row, : len(matrix), : len(matrix)] = torch.from_numpy(matrix)
    return similarity


@st.composite
def batches(draw):
    """Spans of other lengths and numbers of segments each, and a longest segment that suffices for all."""
    frames = draw(st.lists(st.integers(2, 40), min_size=1, max_size=5))
    segments = [draw(st.integers(1, count - 1)) for count in frames]
    least = max(-(-(count - 1) // cut) for count, cut in zip(frames, segments, strict=True))
    return frames, segments, draw(st.integers(least, 45))


@given(batches(), seeds)
def test_cuts_of_a_batch_are_those_of_the_kernel(batch, seed):
    frames, segments, max_frames = batch
    rng = np.random.default_rng(seed)
    matrices = [uniform(n, rng) for n in frames]
    for found, matrix, count in zip(
        min_cuts(padded(matrices), frames, segments, max_frames), matrices, segments, strict=True
    ):
        expected = min_cut(matrix, count, max_frames)
        assert found.dtype == np.int64
        assert objective(matrix, found) == pytest.approx(objective(matrix, expected), abs=1e-12)
        np.testing.assert_array_equal(found, expected)


@given(batches(), seeds)
def test_ties_go_where_the_kernel_sends_them(batch, seed):
    """Sums of small integers are the same in any order."""
    frames, segments, max_frames = batch
    rng = np.random.default_rng(seed)
    matrices = [rng.integers(1, 3, (n, n)).astype(np.float64) for n in frames]
    for found, matrix, count in zip(
        min_cuts(padded(matrices), frames, segments, max_frames), matrices, segments, strict=True
    ):
        np.testing.assert_array_equal(found, min_cut(matrix, count, max_frames))


@given(batches(), seeds)
def test_a_limit_that_no_segment_reaches_changes_nothing(batch, seed):
    frames, segments, _ = batch
    rng = np.random.default_rng(seed)
    matrices = [uniform(n, rng) for n in frames]
    expected = [min_cut(matrix, count) for matrix, count in zip(matrices, segments, strict=True)]
    longest = int(max(np.diff(boundaries).max() for boundaries in expected))
    longest = max(longest, *(-(-(n - 1) // count) for n, count in zip(frames, segments, strict=True)))
    for found, boundaries in zip(min_cuts(padded(matrices), frames, segments, longest), expected, strict=True):
        np.testing.assert_array_equal(found, boundaries)


@given(st.lists(st.integers(2, 120), min_size=1, max_size=4), seeds, st.sampled_from([torch.float32, torch.float16]))
def test_spans_of_features_are_cut_as_on_the_host(frames, seed, dtype):
    """Whatever lies beyond a span's frames."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(np.cumsum(rng.standard_normal((len(frames), max(frames), 6)), axis=1)).to(dtype)
    options = SyllableOptions(max_frames=12, keep_last_frame=False)
    segments = [min(max(-(-n // 5), 1), n - 1) for n in frames]  # 0.1 s each
    cuts = min_cuts(similarities(features, frames), frames, segments, 12)
    for span, n, found in zip(features, frames, cuts, strict=True):
        expected = initial_cut(span[:n].double().numpy(), options)
        np.testing.assert_array_equal(found[:-1], expected[:, 0])
        assert found[-1] == expected[-1, 1]


def test_similarity_is_that_of_the_definition_and_zero_beyond():
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 3)))
    found = similarities(features, [5, 3])
    short = features[1, :3] @ features[1, :3].T
    torch.testing.assert_close(found[1, :3, :3], short - short.min() + 1e-7, rtol=0, atol=1e-15)
    assert (found[0] > 0).all()
    assert found[1, 3:].count_nonzero() == found[1, :, 3:].count_nonzero() == 0


def test_no_span_gives_no_cut():
    assert min_cuts(torch.zeros(0, 0, 0, dtype=torch.float64), [], [], 50) == []


@pytest.mark.parametrize(
    ("segments", "max_frames", "message"),
    [
        ([3, 0], 50, "num_segments must be from 1 to 8 for 9 frames, but it is 0"),
        ([3, 9], 50, "num_segments must be from 1 to 8 for 9 frames, but it is 9"),
        ([3, 2], 5, "max_frames must be 7 or more for 3 segments of 20 frames, but it is 5"),
    ],
)
def test_what_cannot_be_had_is_refused(segments, max_frames, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        min_cuts(padded([np.ones((20, 20)), np.ones((9, 9))]), [20, 9], segments, max_frames)
