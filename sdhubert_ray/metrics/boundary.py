"""Boundaries against reference boundaries, within a tolerance: the protocols `sdhubert` and `onsets_offsets`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from sdhubert_ray.metrics.resampling import Floats, Interval, Ints, interval_of, ratio, resample

TOLERANCE = 0.05
"""Seconds between two boundaries that are the same."""
SHIFTS = np.arange(-0.05, 0.05, 0.005)
"""Seconds that a reference may be shifted by."""


@dataclass(frozen=True)
class BoundaryCounts:
    """What boundary figures are made of.

    Attributes:
        matched: pairs of a reference and a predicted boundary.
        reference: reference boundaries.
        predicted: predicted boundaries.
    """

    matched: int
    reference: int
    predicted: int


@dataclass(frozen=True)
class BoundaryScores:
    """Figures of boundary detection; without a match precision, recall and f1 are 0, and the others None.

    Attributes:
        precision: matched / predicted.
        recall: matched / reference.
        f1: their harmonic mean.
        over_segmentation: recall / precision - 1.
        r_value: 1 - (|r1| + |r2|) / 2.
        r1: distance from the ideal point, sqrt((1 - recall)^2 + over_segmentation^2).
        r2: distance from the line of no insertions, (recall - 1 - over_segmentation) / sqrt(2).
    """

    precision: float
    recall: float
    f1: float
    over_segmentation: float | None
    r_value: float | None
    r1: float | None
    r2: float | None


def sdhubert_boundaries(syllables: Floats, segments: Floats, shift: float = 0.0) -> tuple[Floats, Floats]:
    """Boundaries of an utterance by the protocol `sdhubert`: seconds, sorted.

    Args:
        syllables: (R, 2) seconds.
        segments: (P, 2) seconds.
        shift: seconds added to the reference.

    Returns:
        the unique starts and ends of the syllables, shifted, and the unique starts of the segments.
    """
    return np.unique(syllables) + shift, np.unique(segments[:, 0])


def onset_offset_boundaries(syllables: Floats, segments: Floats) -> tuple[Floats, Floats]:
    """Boundaries by the protocol `onsets_offsets`: unique starts and ends of both, whole milliseconds, sorted."""
    return np.unique(np.rint(syllables * 1000)), np.unique(np.rint(segments * 1000))


def pair_boundaries(
    reference: Floats, predicted: Floats, tolerance: float, *, strict: bool = False
) -> list[tuple[int, int]]:
    """The pairs that match, each boundary in one at most: two pointers, a match advances both, else the earlier.

    On sorted boundaries these are the most that any pairing has.

    Args:
        reference: (n,) sorted.
        predicted: (m,) sorted, in the same unit.
        tolerance: the most that the two of a pair may differ, abs(reference - predicted) <= tolerance in float64.
        strict: they have to differ by less.

    Returns:
        indices of the two of each pair, ascending.
    """
    left, right = reference.tolist(), predicted.tolist()
    pairs = []
    at = to = 0
    while at < len(left) and to < len(right):
        apart = abs(left[at] - right[to])
        if apart < tolerance or (apart == tolerance and not strict):
            pairs.append((at, to))
            at, to = at + 1, to + 1
        elif left[at] < right[to]:
            at += 1
        else:
            to += 1
    return pairs


def match_boundaries(reference: Floats, predicted: Floats, tolerance: float, *, strict: bool = False) -> int:
    """Count the pairs of `pair_boundaries`."""
    return len(pair_boundaries(reference, predicted, tolerance, strict=strict))


def count_sdhubert(
    syllables: Floats, segments: Floats, shift: float = 0.0, tolerance: float = TOLERANCE
) -> BoundaryCounts:
    """Count an utterance's boundaries by the protocol `sdhubert`; a match is `tolerance` seconds apart at most.

    Other arguments as `sdhubert_boundaries`.
    """
    reference, predicted = sdhubert_boundaries(syllables, segments, shift)
    return BoundaryCounts(match_boundaries(reference, predicted, tolerance), len(reference), len(predicted))


def count_onsets_offsets(syllables: Floats, segments: Floats, tolerance: float = TOLERANCE) -> BoundaryCounts:
    """Count an utterance's boundaries by the protocol `onsets_offsets`; a match is under `tolerance` seconds apart."""
    reference, predicted = onset_offset_boundaries(syllables, segments)
    matched = match_boundaries(reference, predicted, tolerance * 1000, strict=True)
    return BoundaryCounts(matched, len(reference), len(predicted))


def score_boundaries(counts: BoundaryCounts) -> BoundaryScores:
    """Make figures of summed counts."""
    columns = np.array([[counts.matched], [counts.reference], [counts.predicted]])
    values = [float(column[0]) for column in _boundary_figures(columns)]
    return BoundaryScores(*values[:3], *(value if counts.matched else None for value in values[3:]))


def tune_shift(utterances: Sequence[tuple[Floats, Floats]], tolerance: float = TOLERANCE) -> tuple[float, float] | None:
    """Choose the shift of `SHIFTS` with the greatest R-value, the smallest of equals.

    Args:
        utterances: syllables (R, 2) and segments (P, 2) of each, seconds.
        tolerance: the most that the two of a pair may differ, seconds.

    Returns:
        the shift in seconds and its R-value, or None where nothing matches at any shift.
    """
    unshifted = [sdhubert_boundaries(syllables, segments) for syllables, segments in utterances]
    sizes = (sum(len(left) for left, _ in unshifted), sum(len(right) for _, right in unshifted))

    def count(shift: float) -> BoundaryCounts:
        return BoundaryCounts(
            sum(match_boundaries(left + shift, right, tolerance) for left, right in unshifted), *sizes
        )

    return best_shift(count)


def best_shift(count: Callable[[float], BoundaryCounts]) -> tuple[float, float] | None:
    """Choose the shift of `SHIFTS` with the greatest R-value, the smallest of equals.

    Args:
        count: the counts of all utterances at a shift in seconds.

    Returns:
        the shift in seconds and its R-value, or None where nothing matches at any shift.
    """
    best: tuple[float, float] | None = None
    for shift in SHIFTS.tolist():
        r_value = score_boundaries(count(shift)).r_value
        if r_value is not None and (best is None or r_value > best[1]):
            best = shift, r_value
    return best


def bootstrap_boundaries(counts: Ints, resamples: int, seed: int) -> dict[str, Interval]:
    """95 % percentile intervals of the fields of `BoundaryScores`, over utterances.

    Args:
        counts: (U, 3) matched, reference, predicted of each utterance.
        resamples: how many times utterances are drawn anew; 0 gives no intervals.
        seed: of the draws.
    """
    names = [field.name for field in fields(BoundaryScores)]
    drawn = [weights @ counts for weights in resample(len(counts), resamples, seed)]
    if not drawn:
        return dict.fromkeys(names, Interval(None, None))
    values = _boundary_figures(np.concatenate(drawn).T)
    return {name: interval_of(column) for name, column in zip(names, values, strict=True)}


def _boundary_figures(counts: Ints) -> list[Floats]:
    """The fields of `BoundaryScores` of (3, B) summed counts, (B,) each; NaN for None."""
    matched, reference, predicted = counts
    precision = np.where(matched, ratio(matched, predicted), 0.0)
    recall = np.where(matched, ratio(matched, reference), 0.0)
    f1 = np.where(matched, ratio(2 * precision * recall, precision + recall), 0.0)
    over = ratio(recall, precision) - 1
    r1 = np.sqrt((1 - recall) ** 2 + over**2)
    r2 = (recall - 1 - over) / np.sqrt(2)
    return [precision, recall, f1, over, 1 - (np.abs(r1) + np.abs(r2)) / 2, r1, r2]
