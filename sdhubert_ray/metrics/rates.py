"""How much unit sequences say: rates, entropies, bitrates."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import xlogy

from sdhubert_ray.metrics.resampling import Floats, Interval, Ints, interval_of, ratio, resample

_CELLS_AT_ONCE = 8_000_000


@dataclass(frozen=True)
class UnitRates:
    """Figures of unit sequences.

    Attributes:
        tokens: units in all sequences.
        rate: tokens per second of audio, Hz.
        rate_in_segments: tokens per second within segments, Hz.
        bitrate: rate x log2 of the number of units, bit/s.
        entropy: of the units' frequencies, bits per token.
        entropy_bitrate: rate x entropy, bit/s: what an ideal code of single units needs.
        perplexity: 2 to the entropy.
        used: units that occur.
        unused: units that do not.
    """

    tokens: int
    rate: float
    rate_in_segments: float
    bitrate: float
    entropy: float
    entropy_bitrate: float
    perplexity: float
    used: int
    unused: int


def unit_entropy(counts: npt.NDArray[np.int64]) -> float:
    """Entropy of the frequencies of units that occur so often, (n_units,), bits per token; 0 without tokens."""
    used = counts[counts > 0]
    share = used / max(int(used.sum()), 1)
    return max(0.0, -float((share * np.log2(share)).sum()))


def unit_rates(counts: npt.NDArray[np.int64], audio_seconds: float, segment_seconds: float) -> UnitRates:
    """Figures of units that occur so often, (n_units,), in so much audio; without tokens or audio they are 0."""
    tokens = int(counts.sum())
    used = counts[counts > 0]
    entropy = unit_entropy(counts)
    rate = tokens / audio_seconds if audio_seconds else 0.0
    return UnitRates(
        tokens=tokens,
        rate=rate,
        rate_in_segments=tokens / segment_seconds if segment_seconds else 0.0,
        bitrate=rate * float(np.log2(len(counts))),
        entropy=entropy,
        entropy_bitrate=rate * entropy,
        perplexity=2.0**entropy,
        used=len(used),
        unused=len(counts) - len(used),
    )


def bootstrap_rates(counts: csr_array, seconds: Floats, resamples: int, seed: int) -> tuple[Interval, Interval]:
    """95 % intervals of the token rate (Hz) and of rate x entropy (bit/s), over utterances.

    Units that are drawn twice make sequences look more alike than they are: the interval of rate x entropy is moved to
    have its value as the mean of the resamples.

    Args:
        counts: (U, n_units) how often each unit is in each utterance.
        seconds: (U,) audio of each.
        resamples: how many times utterances are drawn anew; 0 gives no intervals.
        seed: of the draws.
    """
    at_once = max(1, _CELLS_AT_ONCE // max(1, counts.shape[1]))
    drawn: list[tuple[Floats, Floats]] = []
    for weights in resample(len(seconds), resamples, seed):
        for first in range(0, len(weights), at_once):
            drawn.append(_rates(weights[first : first + at_once], counts, seconds))
    if not drawn:
        return Interval(None, None), Interval(None, None)
    rate, bits = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    known = bits[~np.isnan(bits)]
    value = float(_rates(np.ones((1, len(seconds)), np.int64), counts, seconds)[1][0])
    return interval_of(rate), interval_of(np.maximum(known - known.mean() + value, 0.0) if len(known) else known)


def _rates(weights: Ints, counts: csr_array, seconds: Floats) -> tuple[Floats, Floats]:
    """Token rate and rate x entropy, (B,) each, of weightings (B, U) of the utterances; NaN without audio."""
    units = np.ascontiguousarray(weights @ counts)
    tokens, audio = units.sum(axis=1), weights @ seconds
    # tokens x entropy, in bits.
    bits = (xlogy(tokens, tokens) - xlogy(units, units).sum(axis=1)) / np.log(2)
    return ratio(tokens, audio), ratio(bits, audio)
