"""Units against reference syllables: assignment, how pure each is of the other, and what units tell of syllables."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.special import xlogy

from sdhubert_ray.metrics.resampling import Floats, Interval, Ints, interval_of, ratio, resample

_UNION_FLOOR = 1e-4
_CELLS_AT_ONCE = 8_000_000
_NO_INTERVALS = (Interval(None, None), Interval(None, None), Interval(None, None))


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
    cluster, syllable, _ = cells.figures(np.ones((1, 1), np.int64))
    return float(cluster[0]), float(syllable[0])


def syllable_information(syllables: Ints, units: Ints) -> float | None:
    """Syllable-normalised mutual information (SNMI): I(syllable; unit) / H(syllable), from the counts of pairs.

    As phone-normalised mutual information of HuBERT (Hsu et al., arXiv 2106.07447), of syllables. 0 where units tell
    nothing of the syllable, 1 where they tell it; None without pairs or with one syllable only.

    Args:
        syllables: (n,) a number for each label, 0 or more.
        units: (n,) 0 or more.
    """
    if not len(syllables):
        return None
    cells = _Cells(syllables, units, np.zeros(len(syllables), np.int64), 1)
    value = float(cells.figures(np.ones((1, 1), np.int64))[2][0])
    return None if np.isnan(value) else value


def bootstrap_purity(
    syllables: Ints, units: Ints, utterances: Ints, num_utterances: int, resamples: int, seed: int
) -> tuple[Interval, Interval, Interval]:
    """95 % intervals of cluster purity, syllable purity and SNMI: percentiles, moved to have the figure as mean.

    Utterances are drawn. Drawing one twice repeats its rare pairs, which raises each of the three by itself: by more
    than the interval is wide where most pairs are rare. So only the spread of the resamples is taken, not where they
    lie.

    Args:
        syllables: (n,) a number for each label, 0 or more.
        units: (n,) 0 or more.
        utterances: (n,) the utterance that a pair is of, from 0.
        num_utterances: U, with those that have no pair.
        resamples: how many times utterances are drawn anew; 0 gives no intervals.
        seed: of the draws.
    """
    if not len(syllables):
        return _NO_INTERVALS
    cells = _Cells(syllables, units, utterances, num_utterances)
    at_once = max(1, _CELLS_AT_ONCE // cells.size)
    drawn: list[tuple[Floats, Floats, Floats]] = []
    for weights in resample(num_utterances, resamples, seed):
        for first in range(0, len(weights), at_once):
            drawn.append(cells.figures(weights[first : first + at_once]))
    if not drawn:
        return _NO_INTERVALS
    found = cells.figures(np.ones((1, num_utterances), np.int64))
    cluster, syllable, information = (
        _moved(np.concatenate(parts), float(value[0]))
        for parts, value in zip(zip(*drawn, strict=True), found, strict=True)
    )
    return cluster, syllable, information


def _moved(values: Floats, mean: float) -> Interval:
    """The interval of resampled shares, moved to have this mean."""
    known = values[~np.isnan(values)]
    return interval_of(np.clip(known - known.mean() + mean, 0, 1) if len(known) else known)


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

    def figures(self, weights: Ints) -> tuple[Floats, Floats, Floats]:
        """Cluster purity, syllable purity and SNMI, (B,) each, of weightings (B, U) of the utterances.

        NaN without a pair, SNMI also without two syllables.
        """
        by_syllable, by_unit = weights @ self._by_syllable, weights @ self._by_unit
        total = by_syllable.sum(axis=1)
        cluster = np.maximum.reduceat(by_syllable, self._first_of_syllable, axis=1).sum(axis=1)
        syllable = np.maximum.reduceat(by_unit, self._first_of_unit, axis=1).sum(axis=1)
        # n log n of counts: total x entropy is that of the total less those of its parts.
        whole, together = _n_log_n(total), _n_log_n(by_syllable).sum(axis=1)
        of_syllables = _n_log_n(np.add.reduceat(by_syllable, self._first_of_syllable, axis=1)).sum(axis=1)
        of_units = _n_log_n(np.add.reduceat(by_unit, self._first_of_unit, axis=1)).sum(axis=1)
        entropy = np.where(whole > of_syllables, whole - of_syllables, 0.0)
        information = ratio(whole - of_syllables - of_units + together, entropy)
        return ratio(cluster, total), ratio(syllable, total), np.clip(information, 0, 1)


def _n_log_n(counts: Ints) -> Floats:
    # Rows that lie together are summed alike, however many there are.
    values: Floats = np.ascontiguousarray(xlogy(counts, counts))
    return values
