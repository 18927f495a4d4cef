"""Greedy segments: frames are taken together while they are like the mean so far. Needs NumPy only."""

import numpy as np
from numpy.typing import NDArray

from mincut import _greedy
from mincut.checks import checked_features, checked_number, refuse_infinite


def greedy_segments(
    features: NDArray[np.floating], norm_threshold: float, merge_threshold: float, reset_count: bool = False
) -> NDArray[np.int64]:
    """Segment n consecutive frames as Sylber does (Cho et al. 2024, arXiv 2410.07168).

    With |x| = sqrt(sum x^2 + 1e-8) and cos(x, y) = x . y / (|x| |y|):

    1. From the first frame on, a frame x with |x| < norm_threshold ends the segment before it, and is in none. A frame
       with cos(centroid, x) >= merge_threshold joins the segment: the centroid becomes (c centroid + x) / (c + 1),
       and c + 1 its count. Any other begins a segment, with itself as centroid. As published, the count then runs on,
       c + 1, where one would expect 1: only a frame that follows a quiet one has count 1.
    2. Then for each two segments k, k + 1 that meet, in order, their means taken over what they are by now: if those
       are of that similarity, both become one. If not, their boundary moves between the middles of both to the first
       place that makes the sum of the cosines of each frame and the mean of its side greatest. A segment that is left
       without frames is left out.

    Sums are in float64; time is O(n d). The GIL is released.

    Args:
        features: (n, d) float16, float32 or float64, finite. They are taken as float32.
        norm_threshold: 0 or more; 0 has no quiet frames.
        merge_threshold: from 0 to 1.
        reset_count: the count of every segment begins at 1.

    Returns:
        (S, 2) int64 frames [start, end), in order, not empty, not overlapping.

    Raises:
        ValueError: an argument that is none of that.
    """
    matrix = checked_features(features)
    quiet = checked_number("norm_threshold", norm_threshold, 0)
    alike = checked_number("merge_threshold", merge_threshold, 0, 1)
    n, width = matrix.shape
    segments, norms = np.empty((n, 2), np.int64), np.empty(n)
    count = _greedy.find(
        matrix,
        norm_threshold=quiet,
        merge_threshold=alike,
        reset_count=bool(reset_count),
        norms=norms,
        sums=np.empty((n, width)),
        first_counts=np.empty(n),
        contrast=np.empty(width),
        segments=segments,
    )
    refuse_infinite(features, matrix, norms)
    found = segments[:count]
    return found[found[:, 0] < found[:, 1]]
