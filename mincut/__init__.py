"""Segments of consecutive frames: minimum normalised cut, greedy, least squared error. Needs NumPy only."""

import numpy as np
from numpy.typing import NDArray

from mincut import _mincut
from mincut.checks import checked_count
from mincut.greedy import greedy_segments
from mincut.sse import sse_cut

__all__ = ["PROJECT", "greedy_segments", "min_cut", "sse_cut"]

PROJECT = "sdhubert_ray"
"""Whose module this is: others are called so, too."""


def min_cut(
    similarity: NDArray[np.float32] | NDArray[np.float64],
    num_segments: int,
    max_frames: int | None = None,
    min_frames: int = 1,
) -> NDArray[np.int64]:
    """Cut n consecutive frames into segments that are alike inside and unlike the rest.

    The cost of a segment [j, i) is that of a normalised cut (Shi and Malik, 2000), as used for the
    syllables of speech by Peng et al. (2023, arXiv 2305.11435):

        within(j, i) = sum S[j:i, j:i] / 2
        cut(j, i)    = sum S[j:i, :j] + sum S[j:i, i:]
        C[0, 0] = 0,  C[i, k] = min over j < i of C[j, k - 1] + cut(j, i) / (cut(j, i) + within(j, i))

    for i in 1..n - 1, and the result is traced back from C[n - 1, num_segments]. As published, the last
    segment thus ends before frame n - 1. Equal values go to the smallest j. All sums are in float64; time
    is O(n L num_segments), with L = max_frames or else n; memory, beside the similarity, O(n L + n num_segments).
    The GIL is released.

    Args:
        similarity: (n, n) float32 or float64, all entries positive and finite, in any unit and any memory
            layout. It need not be symmetric. It is only read.
        num_segments: from 1 to n - 1.
        max_frames: no segment is longer; none leaves them as long as they get. Where no segment of that result is
            longer, the results are the same.
        min_frames: no segment is shorter.

    Returns:
        (num_segments + 1,) int64 boundaries in frames, ascending, the first 0, the last n - 1. Segment k is
        [boundaries[k], boundaries[k + 1]).

    Raises:
        ValueError: if similarity is not 2-D, square, non-empty, float32 or float64, finite and positive, if
            its sums could overflow, if num_segments is not an integer from 1 to n - 1, if max_frames is not an
            integer, or so small that num_segments of them do not reach frame n - 1, or if min_frames is not an integer
            of 1 or more, or so large that num_segments of them go beyond.
    """
    matrix = _checked_similarity(similarity)
    n = len(matrix)
    num_segments = _checked_num_segments(num_segments, n)
    longest = _checked_max_frames(max_frames, num_segments, n)
    shortest = _checked_min_frames(min_frames, num_segments, n)
    boundaries = np.empty(num_segments + 1, np.int64)
    _mincut.cut(
        matrix,
        row_sums=matrix.sum(axis=1),
        sums=np.empty((2, n)),
        costs=np.empty((n, longest)),
        best=np.empty((num_segments + 1, n - num_segments)),
        boundaries=boundaries,
        shortest=shortest,
    )
    return boundaries


def _checked_similarity(similarity: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (n, n) matrix as contiguous float64, or raise ValueError."""
    given = np.asarray(similarity)
    if given.ndim != 2:
        raise ValueError(f"similarity must be a 2-D matrix, but its shape is {given.shape}")
    if given.shape[0] != given.shape[1]:
        raise ValueError(f"similarity must be square, but its shape is {given.shape}")
    if given.size == 0:
        raise ValueError("similarity must not be empty, but its shape is (0, 0)")
    if given.dtype not in (np.float32, np.float64):
        raise ValueError(f"similarity must be float32 or float64, but its dtype is {given.dtype}")
    matrix = np.ascontiguousarray(given, np.float64)
    # Two passes see everything: a NaN anywhere makes the minimum NaN, and then the comparison fails.
    limit = _largest_allowed(len(matrix))
    if not (matrix.min() > 0 and matrix.max() <= limit):
        raise ValueError(_what_is_wrong(matrix, limit))
    return matrix


def _largest_allowed(n: int) -> float:
    """Return the entry up to which every sum of an (n, n) matrix is finite in float64."""
    return float(np.finfo(np.float64).max) / (2 * n * n)


def _what_is_wrong(matrix: NDArray[np.float64], limit: float) -> str:
    """Return a sentence on the first entry that is not in (0, limit]."""
    row, column = np.argwhere(~((matrix > 0) & (matrix <= limit)))[0].tolist()
    value = float(matrix[row, column])
    where = f"similarity[{row}, {column}] is {value}"
    if not np.isfinite(value):
        return f"similarity must be finite, but {where}"
    if value <= 0:
        return f"similarity must be positive, but {where}"
    return f"similarity must not exceed {limit:.3g}, where its sums overflow, but {where}"


def _checked_num_segments(num_segments: int, n: int) -> int:
    """Return num_segments as int, or raise ValueError."""
    if isinstance(num_segments, bool) or not isinstance(num_segments, int | np.integer):
        raise ValueError(f"num_segments must be an integer, but it is {num_segments!r}")
    if n == 1:
        raise ValueError("similarity of a single frame cannot be cut: it must be (2, 2) or larger")
    if not 1 <= num_segments <= n - 1:
        raise ValueError(f"num_segments must be from 1 to {n - 1} for {n} frames, but it is {num_segments}")
    return int(num_segments)


def _checked_max_frames(max_frames: int | None, num_segments: int, n: int) -> int:
    """Return how long segments may be, n - 1 at most, or raise ValueError."""
    if max_frames is None:
        return n - 1
    if isinstance(max_frames, bool) or not isinstance(max_frames, int | np.integer):
        raise ValueError(f"max_frames must be an integer or None, but it is {max_frames!r}")
    least = -(-(n - 1) // num_segments)
    if max_frames < least:
        raise ValueError(
            f"max_frames must be {least} or more for {num_segments} segments of {n} frames, but it is {max_frames}"
        )
    return min(int(max_frames), n - 1)


def _checked_min_frames(min_frames: int, num_segments: int, n: int) -> int:
    """Return how long segments have to be, or raise ValueError."""
    shortest = checked_count("min_frames", min_frames, 1)
    if shortest * num_segments > n - 1:
        raise ValueError(
            f"min_frames must be {(n - 1) // num_segments} or less for {num_segments} segments of {n} frames, "
            f"but it is {shortest}"
        )
    return shortest
