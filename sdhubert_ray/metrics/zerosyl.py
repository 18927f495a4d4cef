"""ZeroSyl's protocol: boundaries and tokens within runs of speech, and the syllable that each segment is of.

Visser et al., arXiv 2602.15537; counted as by `zerosyl evaluate boundaries` and `zerosyl evaluate clustering` of the
package zerosyl 1.0.5.
"""

from collections.abc import Iterator

import numpy as np

from sdhubert_ray.metrics.boundary import TOLERANCE, BoundaryCounts, match_boundaries
from sdhubert_ray.metrics.overlaps import overlapping
from sdhubert_ray.metrics.resampling import Floats, Ints

_JOINT_SECONDS = 1e-3
"""Syllables further apart than this have a silence between them."""


def speech_runs(syllables: Floats) -> list[Floats]:
    """Part syllables where a silence of more than 1 ms lies between them.

    Args:
        syllables: (R, 2) seconds, sorted by start.

    Returns:
        for each run of n syllables its start and the ends of its syllables, (n + 1,) seconds, ascending.
    """
    if not len(syllables):
        return []
    reached = np.maximum.accumulate(syllables[:, 1])
    parts = np.split(syllables, np.flatnonzero(syllables[1:, 0] > reached[:-1] + _JOINT_SECONDS) + 1)
    return [np.concatenate([part[:1, 0], np.sort(part[:, 1])]) for part in parts]


def count_zerosyl(
    syllables: Floats, segments: Floats, shift: float = 0.0, tolerance: float = TOLERANCE
) -> tuple[BoundaryCounts, BoundaryCounts]:
    """Count an utterance's boundaries and tokens by the protocol `zerosyl`.

    A predicted boundary is the start of a segment, or the end of the last; shifted, and in seconds of two decimals. Of
    these count the ones in a run of speech, by more than the tolerance from its edges; of the reference the boundaries
    between the syllables of a run. The edges themselves are given to both sides, and are no boundaries.

    A token is what lies between two neighbours of these boundaries and edges. It is found where both its ends are
    within the tolerance. The first token of a run begins at 0 s on both sides, as in the package.

    Args:
        syllables: (R, 2) seconds, sorted by start.
        segments: (P, 2) seconds, in order.
        shift: seconds added to the reference, that is taken from the segments; ZeroSyl's `constant_shift` with the
            other sign. Odd multiples of 5 ms put frames of 20 ms between two decimals: they are rounded either way,
            there too.
        tolerance: the most that the two of a pair may differ, seconds, in float64.

    Returns:
        boundaries and tokens.
    """
    edges = [*segments[:, 0].tolist(), *segments[:, 1].tolist()[-1:]]
    # Of Python's floats, which are rounded as their digits say; in the middle NumPy's go another way.
    predicted = np.array(sorted(round(edge - shift, 2) for edge in edges))
    boundaries, tokens = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for run in speech_runs(syllables):
        inner = predicted[(predicted > run[0] + tolerance) & (predicted < run[-1] - tolerance)]
        boundaries += [match_boundaries(run[1:-1], inner, tolerance), len(run) - 2, len(inner)]
        found = np.concatenate([[0.0], inner, run[-1:]])
        truth = np.concatenate([[0.0], run[1:]])
        tokens += [_match_tokens(truth, found, tolerance), len(truth) - 1, len(found) - 1]
    return BoundaryCounts(*boundaries.tolist()), BoundaryCounts(*tokens.tolist())


def overlapped_syllables(syllables: Floats, segments: Floats) -> Ints:
    """The syllable that each segment overlaps most, the first of equals; -1 where a silence has more of it.

    Silence is what lies between two runs of speech, before the first and after the last.

    Args:
        syllables: (R, 2) seconds, sorted by start.
        segments: (P, 2) seconds.

    Returns:
        (P,) indices.
    """
    runs = speech_runs(syllables)
    bounds = np.array([-np.inf, *(edge for run in runs for edge in (run[0], run[-1])), np.inf])
    intervals = np.concatenate([syllables, bounds.reshape(-1, 2)])
    numbers = np.concatenate([np.arange(len(syllables)), np.full(len(runs) + 1, -1)])
    order = np.argsort(intervals[:, 0], kind="stable")
    rows, columns, overlaps = overlapping(intervals[order], segments)
    best = np.lexsort((rows, -overlaps, columns))
    _, firsts = np.unique(columns[best], return_index=True)
    found = np.full(len(segments), -1)
    found[columns[best][firsts]] = numbers[order][rows[best][firsts]]
    return found


def _match_tokens(truth: Floats, found: Floats, tolerance: float) -> int:
    """Count tokens both of whose ends match, each in one pair at most, between (n + 1,) and (m + 1,) ascending times.

    The next that is not too early for a token is the only one that it can have: what comes later is later at both ends.
    """
    left = list(_bounded(truth, tolerance))
    matched = at = 0
    for start, end in zip(found[:-1].tolist(), found[1:].tolist(), strict=True):
        while at < len(left) and (left[at][1] < start or left[at][3] < end):
            at += 1
        if at < len(left) and left[at][0] <= start and left[at][2] <= end:
            matched, at = matched + 1, at + 1
    return matched


def _bounded(times: Floats, tolerance: float) -> Iterator[tuple[float, float, float, float]]:
    """The least and the greatest start, and end, that match each token."""
    low, high = (times - tolerance).tolist(), (times + tolerance).tolist()
    return zip(low[:-1], high[:-1], low[1:], high[1:], strict=True)
