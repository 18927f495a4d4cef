"""What a figure shows of a recording: the arrays of a stretch of time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sdhubert_ray.errors import UserError
from sdhubert_ray.speech import FRAME_RATE, Samples

MOST_SECONDS = 120.0
"""A figure shows no more of a recording."""
_LEAST_SECONDS = 0.02


class Labelled(NamedTuple):
    """Intervals (R, 2) in seconds, and the label of each."""

    intervals: npt.NDArray[np.float64]
    labels: Sequence[str]

    def within(self, begin: float, end: float) -> "Labelled":
        """Those that reach into [begin, end) seconds."""
        kept = reach_into(self.intervals, begin, end)
        return Labelled(self.intervals[kept], [self.labels[number] for number in kept])


@dataclass(frozen=True)
class Frames:
    """What an encoder tells of a recording, at 50 Hz.

    Attributes:
        begin: of the first frame, seconds.
        features: (T, D), zero outside speech, or None.
        norm: (T,) as compared with the threshold, or None.
        threshold: frames of a larger norm are speech; None where it is not known.
    """

    begin: float = 0.0
    features: npt.NDArray[np.floating] | None = None
    norm: npt.NDArray[np.floating] | None = None
    threshold: float | None = None

    def within(self, begin: float, end: float) -> "Frames":
        """Those that reach into [begin, end) seconds."""
        first = max(0, int(np.floor((begin - self.begin) * FRAME_RATE + 1e-6)))
        last = max(first, int(np.ceil((end - self.begin) * FRAME_RATE - 1e-6)))
        return replace(
            self,
            begin=self.begin + first / FRAME_RATE,
            features=None if self.features is None else self.features[first:last],
            norm=None if self.norm is None else self.norm[first:last],
        )


@dataclass(frozen=True)
class View:
    """A stretch of a recording with its syllables.

    Attributes:
        title: put above.
        begin: of the stretch, seconds.
        end: of the stretch, seconds.
        samples: (n,) float32 at 16 kHz, from `begin` on.
        segments: (S, 2) seconds, those that reach into it.
        numbers: (S,) of these in the recording, from 1.
        units: (S,), or None where there are none.
        frames: what the encoder tells, or nothing.
        reference: syllables as they are, or None.
    """

    title: str
    begin: float
    end: float
    samples: Samples
    segments: npt.NDArray[np.float64]
    numbers: npt.NDArray[np.int64]
    units: npt.NDArray[np.integer] | None
    frames: Frames
    reference: Labelled | None


def look(
    samples: Samples,
    segments: npt.NDArray[np.float64],
    begin: float,
    end: float,
    *,
    units: npt.NDArray[np.integer] | None = None,
    frames: Frames | None = None,
    reference: Labelled | None = None,
    title: str = "",
) -> View:
    """Take a stretch of a recording.

    Args:
        samples: (n,) float32 at 16 kHz, from `begin` on.
        segments: (S, 2) seconds, of the whole recording.
        begin: of the stretch, seconds.
        end: of the stretch, seconds.
        units: (S,) of the segments.
        frames: of the whole recording.
        reference: of the whole recording.
        title: put above.

    Raises:
        UserError: the stretch is longer than a figure shows, or units are not one a segment.
    """
    if end - begin > MOST_SECONDS:
        raise UserError(
            f"a figure shows {MOST_SECONDS:g} s at most, not {end - begin:.2f} s; choose them by start and end"
        )
    if units is not None and len(units) != len(segments):
        raise UserError(f"there are {len(units)} units for {len(segments)} segments; give one for each")
    end = max(end, begin + _LEAST_SECONDS)  # an axis needs a length, whatever the recording
    kept = reach_into(segments, begin, end)
    return View(
        title,
        begin,
        end,
        samples,
        segments[kept],
        kept + 1,
        None if units is None else units[kept],
        (frames or Frames()).within(begin, end),
        None if reference is None else reference.within(begin, end),
    )


def reach_into(intervals: npt.NDArray[np.float64], begin: float, end: float) -> npt.NDArray[np.int64]:
    """The numbers of the (S, 2) intervals that share more than a point with [begin, end) seconds."""
    return np.flatnonzero((intervals[:, 1] > begin) & (intervals[:, 0] < end))
