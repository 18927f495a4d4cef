"""How the units of an output are used: rates and entropies, in memory that does not grow with the recordings."""

import numpy as np
import numpy.typing as npt

from sdhubert_ray.metrics import UnitRates, unit_rates


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
