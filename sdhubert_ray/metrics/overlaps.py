"""Which intervals of two lists overlap, and by how much."""

import numpy as np

from sdhubert_ray.metrics.resampling import Floats, Ints


def overlapping(syllables: Floats, segments: Floats) -> tuple[Ints, Ints, Floats]:
    """All pairs that share more than a point of time, in memory that grows with their number alone.

    Args:
        syllables: (R, 2) seconds, sorted by start; they may overlap, and begin or end at infinity.
        segments: (P, 2) seconds, in any order.

    Returns:
        indices of the syllable and of the segment of each pair, and their overlaps in seconds; segment after segment,
        the syllables of each in their order.
    """
    ends = np.maximum.accumulate(syllables[:, 1])
    first = np.searchsorted(ends, segments[:, 0], side="right")
    behind = np.searchsorted(syllables[:, 0], segments[:, 1], side="left")
    counts = np.maximum(behind - first, 0)
    columns = np.repeat(np.arange(len(segments)), counts)
    rows = np.arange(len(columns)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    apart = np.minimum(syllables[rows, 1], segments[columns, 1]) - np.maximum(syllables[rows, 0], segments[columns, 0])
    there = apart > 0
    return rows[there], columns[there], apart[there]
