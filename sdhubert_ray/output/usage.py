"""How the units of an output are used: rates and entropies, in memory that does not grow with the recordings."""

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


def unit_rates(counts: npt.NDArray[np.int64], audio_seconds: float, segment_seconds: float) -> UnitRates:
    """Figures of units that occur so often, (n_units,), in so much audio; without tokens or audio they are 0."""
    tokens = int(counts.sum())
    used = counts[counts > 0]
    share = used / max(tokens, 1)
    entropy = max(0.0, -float((share * np.log2(share)).sum()))
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


class UnitUsage:
    """Counts of units, as they are and with runs of equal ones merged.

    Attributes:
        recordings: that were counted.
        left_out: recordings that failed.
        audio_seconds: in the former.
        segment_seconds: the part of it within segments.
    """

    def __init__(self, num_units: int) -> None:
        self.recordings = 0
        self.left_out = 0
        self.audio_seconds = 0.0
        self.segment_seconds = 0.0
        self._counts = np.zeros(num_units, np.int64)
        self._merged = np.zeros(num_units, np.int64)

    def add(self, units: npt.NDArray[np.int32], audio_seconds: float, segment_seconds: float) -> None:
        """Count the units (N,) of one recording."""
        self.recordings += 1
        self.audio_seconds += audio_seconds
        self.segment_seconds += segment_seconds
        if len(units):
            np.add.at(self._counts, units, 1)
            np.add.at(self._merged, units[np.concatenate([[True], units[1:] != units[:-1]])], 1)

    def rates(self, merged: bool = False) -> UnitRates:
        """The figures of all, or of all with runs of equal units merged."""
        counts = self._merged if merged else self._counts
        return unit_rates(counts, self.audio_seconds, self.segment_seconds)
