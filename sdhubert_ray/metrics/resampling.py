"""Bootstrap intervals: utterances are drawn anew, with their counts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEVEL = 0.95
_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval of a figure; None where no resample has the figure, or there are not two utterances."""

    low: float | None
    high: float | None


def resample(num_utterances: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each utterance is drawn in each resample, (B, U), a part of the resamples at a time."""
    if num_utterances < 2:
        return
    random = np.random.default_rng(seed)
    shares = np.full(num_utterances, 1 / num_utterances)
    at_once = max(1, _WEIGHTS_AT_ONCE // num_utterances)
    for first in range(0, resamples, at_once):
        yield random.multinomial(num_utterances, shares, size=min(at_once, resamples - first))


def interval_of(values: Floats) -> Interval:
    """The 95 % percentile interval of resampled values, NaN left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(None, None)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def ratio(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Floats:
    """Their quotient; NaN where the whole is 0."""
    ratio: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole != 0)
    return ratio
