"""The minimum cut straight from its definition: slow, obvious, and what the kernel is tested against."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def segment_cost(similarity: NDArray[np.float64], start: int, end: int) -> float:
    """Return the normalised cut of the segment [start, end) of an (n, n) similarity."""
    within = similarity[start:end, start:end].sum() / 2
    cut = similarity[start:end, :start].sum() + similarity[start:end, end:].sum()
    return float(cut / (cut + within))


def objective(similarity: NDArray[np.floating[Any]], boundaries: ArrayLike) -> float:
    """Return the summed cost of the segments between (K + 1,) ascending boundaries, in frames."""
    matrix = np.asarray(similarity, np.float64)
    frames = [int(frame) for frame in np.asarray(boundaries)]
    return sum(segment_cost(matrix, start, end) for start, end in pairwise(frames))


def min_cut_reference(
    similarity: NDArray[np.floating[Any]], num_segments: int, max_frames: int | None = None
) -> tuple[NDArray[np.int64], float]:
    """Return what `mincut.min_cut` returns, and the objective C[n - 1, num_segments].

    Args:
        similarity: (n, n), all entries positive and finite.
        num_segments: from 1 to n - 1.
        max_frames: of a segment; num_segments of them reach frame n - 1. None: n.

    Returns:
        (num_segments + 1,) int64 boundaries in frames, and their objective.
    """
    matrix = np.asarray(similarity, np.float64)
    n = len(matrix)
    longest = n if max_frames is None else max_frames
    best = np.full((n, num_segments + 1), np.inf)
    previous = np.zeros((n, num_segments + 1), np.int64)
    best[0, 0] = 0.0
    for i in range(1, n):
        starts = range(max(0, i - longest), i)
        costs = {j: segment_cost(matrix, j, i) for j in starts}
        for k in range(1, num_segments + 1):
            for j in starts:
                value = best[j, k - 1] + costs[j]
                if value < best[i, k]:
                    best[i, k] = value
                    previous[i, k] = j
    boundaries = [n - 1]
    for k in range(num_segments, 0, -1):
        boundaries.append(int(previous[boundaries[-1], k]))
    return np.array(boundaries[::-1], np.int64), float(best[n - 1, num_segments])
