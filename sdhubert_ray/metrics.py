"""How well segments and units meet reference syllables: boundaries, purity, and their bootstrap intervals.

All figures are sums over utterances, so an utterance is a row of counts, and a resample is a weighting of the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOLERANCE = 0.05
"""Seconds between two boundaries that are the same."""
SHIFTS = np.arange(-0.05, 0.05, 0.005)
"""Seconds that a reference may be shifted by."""
LEVEL = 0.95
_UNION_FLOOR = 1e-4
_WEIGHTS_AT_ONCE = 4_000_000
_CELLS_AT_ONCE = 8_000_000
_TRIPLETS_AT_ONCE = 4096


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


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval of a figure; None where no resample has the figure, or there are not two utterances."""

    low: float | None
    high: float | None


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


def match_boundaries(reference: Floats, predicted: Floats, tolerance: float, *, strict: bool = False) -> int:
    """Count the pairs that match, each boundary in one at most: two pointers, a match advances both, else the earlier.

    On sorted boundaries this is the most that any pairing has.

    Args:
        reference: (n,) sorted.
        predicted: (m,) sorted, in the same unit.
        tolerance: the most that the two of a pair may differ, abs(reference - predicted) <= tolerance in float64.
        strict: they have to differ by less.
    """
    left, right = reference.tolist(), predicted.tolist()
    matched = at = to = 0
    while at < len(left) and to < len(right):
        apart = abs(left[at] - right[to])
        if apart < tolerance or (apart == tolerance and not strict):
            matched, at, to = matched + 1, at + 1, to + 1
        elif left[at] < right[to]:
            at += 1
        else:
            to += 1
    return matched


def count_sdhubert(syllables: Floats, segments: Floats, shift: float = 0.0) -> BoundaryCounts:
    """Count an utterance's boundaries by the protocol `sdhubert`. Arguments as `sdhubert_boundaries`."""
    reference, predicted = sdhubert_boundaries(syllables, segments, shift)
    return BoundaryCounts(match_boundaries(reference, predicted, TOLERANCE), len(reference), len(predicted))


def count_onsets_offsets(syllables: Floats, segments: Floats) -> BoundaryCounts:
    """Count an utterance's boundaries by the protocol `onsets_offsets`; a match is less than 50 ms apart."""
    reference, predicted = onset_offset_boundaries(syllables, segments)
    matched = match_boundaries(reference, predicted, TOLERANCE * 1000, strict=True)
    return BoundaryCounts(matched, len(reference), len(predicted))


def score_boundaries(counts: BoundaryCounts) -> BoundaryScores:
    """Make figures of summed counts."""
    columns = np.array([[counts.matched], [counts.reference], [counts.predicted]])
    values = [float(column[0]) for column in _boundary_figures(columns)]
    return BoundaryScores(*values[:3], *(value if counts.matched else None for value in values[3:]))


def tune_shift(utterances: Sequence[tuple[Floats, Floats]]) -> tuple[float, float] | None:
    """Choose the shift of `SHIFTS` with the greatest R-value, the smallest of equals.

    Args:
        utterances: syllables (R, 2) and segments (P, 2) of each, seconds.

    Returns:
        the shift in seconds and its R-value, or None where nothing matches at any shift.
    """
    unshifted = [sdhubert_boundaries(syllables, segments) for syllables, segments in utterances]
    best: tuple[float, float] | None = None
    for shift in SHIFTS.tolist():
        matched = sum(match_boundaries(left + shift, right, TOLERANCE) for left, right in unshifted)
        sizes = (sum(len(left) for left, _ in unshifted), sum(len(right) for _, right in unshifted))
        r_value = score_boundaries(BoundaryCounts(matched, *sizes)).r_value
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
    drawn = [weights @ counts for weights in _resample(len(counts), resamples, seed)]
    if not drawn:
        return dict.fromkeys(names, Interval(None, None))
    values = _boundary_figures(np.concatenate(drawn).T)
    return {name: _interval(column) for name, column in zip(names, values, strict=True)}


def match_segments(syllables: Floats, segments: Floats) -> tuple[Ints, Ints, Floats]:
    """Assign segments to syllables, one to one, with the greatest sum of overlap / (union + 1e-4).

    Overlap = min(ends) - max(starts), negative for a pair apart, and union = max(ends) - min(starts), so that every
    segment, or every syllable if they are fewer, has a partner. It takes 24 R P bytes, and time that grows with the
    third power: 1,000 of each take under a second, 5,000 about half a minute.

    Args:
        syllables: (R, 2) seconds.
        segments: (P, 2) seconds.

    Returns:
        indices of the syllables, ascending, those of their segments, and overlaps in seconds; (min(R, P),) each.
    """
    starts, ends = syllables[:, :1], syllables[:, 1:]
    overlap = np.minimum(ends, segments[:, 1]) - np.maximum(starts, segments[:, 0])
    union = np.maximum(ends, segments[:, 1]) - np.minimum(starts, segments[:, 0])
    rows, columns = linear_sum_assignment(overlap / (union + _UNION_FLOOR), maximize=True)
    return rows.astype(np.int64), columns.astype(np.int64), overlap[rows, columns]


def purity(syllables: Ints, units: Ints) -> tuple[float, float] | None:
    """Cluster purity and syllable purity of pairs, or None where there are none.

    Cluster purity is the share of pairs whose unit is the commonest of their syllable; syllable purity that of pairs
    whose syllable is the commonest of their unit.

    Args:
        syllables: (n,) a number for each label, 0 or more.
        units: (n,) 0 or more.
    """
    if not len(syllables):
        return None
    cells = _Cells(syllables, units, np.zeros(len(syllables), np.int64), 1)
    cluster, syllable = cells.purities(np.ones((1, 1), np.int64))
    return float(cluster[0]), float(syllable[0])


def bootstrap_purity(
    syllables: Ints, units: Ints, utterances: Ints, num_utterances: int, resamples: int, seed: int
) -> tuple[Interval, Interval]:
    """95 % intervals of cluster and syllable purity, over utterances: percentiles, moved to have the purity as mean.

    Drawing an utterance twice repeats its rare pairs, which raises purity by itself: by more than the interval is wide
    where most pairs are rare. So only the spread of the resamples is taken, not where they lie.

    Args:
        syllables: (n,) a number for each label, 0 or more.
        units: (n,) 0 or more.
        utterances: (n,) the utterance that a pair is of, from 0.
        num_utterances: U, with those that have no pair.
        resamples: how many times utterances are drawn anew; 0 gives no intervals.
        seed: of the draws.
    """
    if not len(syllables):
        return Interval(None, None), Interval(None, None)
    cells = _Cells(syllables, units, utterances, num_utterances)
    at_once = max(1, _CELLS_AT_ONCE // cells.size)
    drawn: list[tuple[Floats, Floats]] = []
    for weights in _resample(num_utterances, resamples, seed):
        for first in range(0, len(weights), at_once):
            drawn.append(cells.purities(weights[first : first + at_once]))
    if not drawn:
        return Interval(None, None), Interval(None, None)
    found = cells.purities(np.ones((1, num_utterances), np.int64))
    cluster, syllable = (
        _interval(np.clip(np.concatenate(parts) - np.nanmean(np.concatenate(parts)) + value, 0, 1))
        for parts, value in zip(zip(*drawn, strict=True), found, strict=True)
    )
    return cluster, syllable


class _Cells:
    """Pairs counted by (syllable, unit) and utterance, in the order of syllables and in that of units."""

    def __init__(self, syllables: Ints, units: Ints, utterances: Ints, num_utterances: int) -> None:
        pairs, cell = np.unique(np.stack([syllables, units]), axis=1, return_inverse=True)
        self.size = pairs.shape[1]
        by_unit = np.lexsort((pairs[0], pairs[1]))
        rank = np.empty(self.size, np.int64)
        rank[by_unit] = np.arange(self.size)
        ones, shape = np.ones(len(syllables), np.int64), (num_utterances, self.size)
        self._by_syllable = csr_array((ones, (utterances, cell.ravel())), shape=shape)
        self._by_unit = csr_array((ones, (utterances, rank[cell.ravel()])), shape=shape)
        self._first_of_syllable = np.unique(pairs[0], return_index=True)[1]
        self._first_of_unit = np.unique(pairs[1][by_unit], return_index=True)[1]

    def purities(self, weights: Ints) -> tuple[Floats, Floats]:
        """Cluster and syllable purity, (B,) each, of weightings (B, U) of the utterances; NaN without a pair."""
        by_syllable = weights @ self._by_syllable
        total = by_syllable.sum(axis=1)
        cluster = np.maximum.reduceat(by_syllable, self._first_of_syllable, axis=1).sum(axis=1)
        syllable = np.maximum.reduceat(weights @ self._by_unit, self._first_of_unit, axis=1).sum(axis=1)
        return _ratio(cluster, total), _ratio(syllable, total)


def _boundary_figures(counts: Ints) -> list[Floats]:
    """The fields of `BoundaryScores` of (3, B) summed counts, (B,) each; NaN for None."""
    matched, reference, predicted = counts
    precision = np.where(matched, _ratio(matched, predicted), 0.0)
    recall = np.where(matched, _ratio(matched, reference), 0.0)
    f1 = np.where(matched, _ratio(2 * precision * recall, precision + recall), 0.0)
    over = _ratio(recall, precision) - 1
    r1 = np.sqrt((1 - recall) ** 2 + over**2)
    r2 = (recall - 1 - over) / np.sqrt(2)
    return [precision, recall, f1, over, 1 - (np.abs(r1) + np.abs(r2)) / 2, r1, r2]


def _ratio(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Floats:
    """Their quotient; NaN where the whole is 0."""
    ratio: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole != 0)
    return ratio


def _resample(num_utterances: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each utterance is drawn in each resample, (B, U), a part of the resamples at a time."""
    if num_utterances < 2:
        return
    random = np.random.default_rng(seed)
    shares = np.full(num_utterances, 1 / num_utterances)
    at_once = max(1, _WEIGHTS_AT_ONCE // num_utterances)
    for first in range(0, resamples, at_once):
        yield random.multinomial(num_utterances, shares, size=min(at_once, resamples - first))


def _interval(values: Floats) -> Interval:
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(None, None)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def ssabx_margins(x: npt.NDArray[np.floating], p: npt.NDArray[np.floating], n: npt.NDArray[np.floating]) -> Floats:
    """How much nearer P is to X than N: cos(X, P) - cos(X, N) of each of M triplets.

    Over 0 a triplet is correct; 0 is a tie. The same vectors as P and as N give exactly 0.

    Args:
        x: (M, D) embeddings.
        p: (M, D), those that should be near to X.
        n: (M, D), those that should not.

    Returns:
        (M,) float64.
    """
    margins = np.zeros(len(x))
    for begin in range(0, len(x), _TRIPLETS_AT_ONCE):
        rows = slice(begin, begin + _TRIPLETS_AT_ONCE)
        one, positive, negative = (side[rows].astype(np.float64) for side in (x, p, n))
        margins[rows] = _cosines(one, positive) - _cosines(one, negative)
    return margins


def bootstrap_share(correct: int, total: int, resamples: int, seed: int) -> Interval:
    """95 % percentile interval of the share of correct triplets, over triplets.

    Among `total` triplets drawn anew the number of correct ones is binomial, and is drawn as such.

    Args:
        correct: triplets.
        total: triplets.
        resamples: how many times triplets are drawn anew; 0 gives no interval.
        seed: of the draws.
    """
    if total < 2:
        return Interval(None, None)
    return _interval(np.random.default_rng(seed).binomial(total, correct / total, resamples) / total)


def _cosines(a: Floats, b: Floats) -> Floats:
    """Cosine similarity row by row of (M, D) and (M, D); 0 where a vector is 0."""
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    products = (a * b).sum(axis=1)
    cosines: Floats = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return cosines
