"""Syllables and nuclei, as the package findsylls (3.3) counts them in `evaluate_segmentation`."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from sdhubert_ray.metrics.boundary import TOLERANCE, BoundaryCounts
from sdhubert_ray.metrics.overlaps import overlapping
from sdhubert_ray.metrics.resampling import Floats


def count_spans(syllables: Floats, segments: Floats, tolerance: float = TOLERANCE) -> BoundaryCounts:
    """Count an utterance's spans: segments assigned to syllables, with both ends within the tolerance.

    They are assigned one to one, with the greatest sum of intersection over union; only then ends are compared. What
    does not overlap is no pair.

    Args:
        syllables: (R, 2) seconds, sorted by start.
        segments: (P, 2) seconds.
        tolerance: the most that two starts or two ends may differ, seconds, in float64.
    """
    rows, columns, overlaps = overlapping(syllables, segments)
    matched = 0
    if len(rows):
        unions = np.maximum(syllables[rows, 1], segments[columns, 1]) - np.minimum(
            syllables[rows, 0], segments[columns, 0]
        )
        # Each segment may stay alone, with a partner of its own for 1, which the others are worth more than.
        alone = np.arange(len(segments))
        worth = np.concatenate([1 + overlaps / unions, np.ones(len(segments))])
        cells = np.concatenate([columns, alone]), np.concatenate([rows, len(syllables) + alone])
        shape = len(segments), len(syllables) + len(segments)
        # int32, as the matching of scipy 1.13 takes no other.
        choices = csr_array((worth, (cells[0].astype(np.int32), cells[1].astype(np.int32))), shape=shape)
        chosen, partners = min_weight_full_bipartite_matching(choices, maximize=True)
        chosen, partners = chosen[partners < len(syllables)], partners[partners < len(syllables)]
        near = np.abs(segments[chosen] - syllables[partners]) <= tolerance
        matched = int(near.all(axis=1).sum())
    return BoundaryCounts(matched, len(syllables), len(segments))


def count_nuclei(nuclei: Floats, segments: Floats, tolerance: float = TOLERANCE) -> BoundaryCounts:
    """Count an utterance's nuclei: vowels that a segment has its middle in, or within the tolerance of.

    A vowel takes the first middle that it can have, and any further are insertions, even where the next vowel takes
    them; the middle between two vowels that both take it counts for both. So predicted are the matched and the
    insertions, and not always as many as there are segments.

    Args:
        nuclei: (V, 2) seconds, vowels and syllabic consonants.
        segments: (P, 2) seconds, of distinct middles.
        tolerance: seconds.
    """
    middles = np.sort(segments.mean(axis=1))
    first = np.searchsorted(middles, nuclei[:, 0] - tolerance, side="left")
    behind = np.searchsorted(middles, nuclei[:, 1] + tolerance, side="right")
    found = behind > first
    further = {
        middle for begin, end in zip(first[found], behind[found], strict=True) for middle in range(begin + 1, end)
    }
    matched = int(found.sum())
    insertions = len(middles) - len({*first[found].tolist()} - further)
    return BoundaryCounts(matched, len(nuclei), matched + insertions)
