"""The three segmentations straight from their definitions: slow, obvious, and what the kernels are tested against."""

import math
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
    similarity: NDArray[np.floating[Any]], num_segments: int, max_frames: int | None = None, min_frames: int = 1
) -> tuple[NDArray[np.int64], float]:
    """Return what `mincut.min_cut` returns, and the objective C[n - 1, num_segments].

    Args:
        similarity: (n, n), all entries positive and finite.
        num_segments: from 1 to n - 1.
        max_frames: of a segment; num_segments of them reach frame n - 1. None: n.
        min_frames: of a segment; num_segments of them do not go beyond frame n - 1.

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
        starts = range(max(0, i - longest), i - min_frames + 1)
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


def cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the cosine of two vectors, 1e-8 added to each squared norm."""
    return float(x @ y) / (_norm(x) * _norm(y))


def greedy_reference(
    features: NDArray[np.floating[Any]], norm_threshold: float, merge_threshold: float, reset_count: bool = False
) -> list[tuple[int, int]]:
    """Return what `mincut.greedy_segments` returns, of (n, d) features."""
    x = np.asarray(features, np.float64)
    spans: list[tuple[int, int]] = []
    start, centroid, count = None, np.zeros(0), 0
    for t in range(len(x)):
        if _norm(x[t]) < norm_threshold:
            if start is not None:
                spans.append((start, t))
            start, count = None, 0
        elif start is not None and cosine(centroid, x[t]) >= merge_threshold:
            centroid, count = (count * centroid + x[t]) / (count + 1), count + 1
        else:
            if start is not None:
                spans.append((start, t))
            start, centroid, count = t, x[t], 1 if reset_count else count + 1
    if start is not None:
        spans.append((start, len(x)))
    for k in range(len(spans) - 1):
        (start, boundary), (after, end) = spans[k], spans[k + 1]
        if boundary != after:
            continue
        left, right = x[start:boundary].mean(axis=0), x[boundary:end].mean(axis=0)
        if cosine(left, right) >= merge_threshold:
            spans[k], spans[k + 1] = (start, start), (start, end)
            continue
        low = max(start, boundary - max(1, (boundary - start) // 2))
        high = min(end, boundary + max(1, (end - boundary) // 2))
        sums = [sum(cosine(x[t], left if t < place else right) for t in range(low, high)) for place in range(low, high)]
        place = low + int(np.argmax(sums))
        spans[k], spans[k + 1] = (start, place), (place, end)
    return [(start, end) for start, end in spans if start < end]


def chunk_error(features: NDArray[np.float64], start: int, end: int) -> float:
    """Return the squared distances of the frames [start, end) to their mean, over the dimensions."""
    chunk = features[start:end]
    error: float = ((chunk - chunk.mean(axis=0)) ** 2).sum() / features.shape[1]
    return error


def sse_reference(
    features: NDArray[np.floating[Any]], max_error: float, min_frames: int = 3, max_frames: int = 35
) -> list[int]:
    """Return what `mincut.sse_cut` returns, of (n, d) features."""
    x = np.asarray(features, np.float64)
    n = len(x)
    most = max(1, int(0.2 * n))
    best: list[dict[int, tuple[float, list[int]]]] = [{0: (0.0, [0])}]  # error and boundaries by end, for each K
    for _ in range(most):
        found: dict[int, tuple[float, list[int]]] = {}
        for end in range(n + 1):
            for length in range(min_frames, max_frames + 1):
                if end - length in best[-1]:
                    before, boundaries = best[-1][end - length]
                    error = before + chunk_error(x, end - length, end)
                    if end not in found or error < found[end][0]:
                        found[end] = (error, [*boundaries, end])
        best.append(found)
    counts = [k for k in range(max(1, most // 3), most + 1) if n in best[k]]
    if not counts:
        return [0, n]
    low, high, chosen = counts[0], counts[-1], counts[0]
    while low <= high:
        middle = (low + high) // 2
        chunks = pairwise(best[middle][n][1])
        errors = [chunk_error(x, start, end) / (end - start) for start, end in chunks]
        if np.quantile(errors, 0.75) > max_error:
            chosen, low = middle, middle + 1
        else:
            high = middle - 1
    return best[chosen][n][1]


def _norm(x: NDArray[np.float64]) -> float:
    return math.sqrt(float((x**2).sum()) + 1e-8)
