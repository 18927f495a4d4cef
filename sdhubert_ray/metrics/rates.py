"""How much unit sequences say: rates, entropies, bitrates."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
