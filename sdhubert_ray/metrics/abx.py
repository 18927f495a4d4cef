"""Spoken-sentence ABX: is what says the same nearer than what does not?"""

import numpy as np
import numpy.typing as npt

from sdhubert_ray.metrics.resampling import Floats, Interval, interval_of

_TRIPLETS_AT_ONCE = 4096


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
    return interval_of(np.random.default_rng(seed).binomial(total, correct / total, resamples) / total)


def _cosines(a: Floats, b: Floats) -> Floats:
    """Cosine similarity row by row of (M, D) and (M, D); 0 where a vector is 0."""
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    products = (a * b).sum(axis=1)
    cosines: Floats = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return cosines
