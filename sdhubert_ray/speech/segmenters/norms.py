"""Cuts at peaks of the norm, as in ZeroSyl, and at valleys of a level."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdhubert_ray.speech.segmenters.joining import between, joined
from sdhubert_ray.speech.spans import Spans


@dataclass(frozen=True)
class PeakOptions:
    """Which peaks of the norm are boundaries; the defaults are ZeroSyl's.

    Attributes:
        window_frames: of the moving average, odd.
        prominence: of a peak at least, in standard deviations of the norm over the piece.
    """

    window_frames: int = 3
    prominence: float = 0.45

    def __post_init__(self) -> None:
        if self.window_frames < 1 or self.window_frames % 2 == 0:
            raise ValueError(
                f"syllables.norm_peaks.window_frames is {self.window_frames}; it has to be an odd number of frames"
            )
        if not 0 <= self.prominence < math.inf:
            raise ValueError(f"syllables.norm_peaks.prominence is {self.prominence}; it has to be 0 or more")


@dataclass(frozen=True)
class ValleyOptions:
    """Which valleys of a level are boundaries.

    Attributes:
        smoothing: standard deviation of the Gaussian that smooths the level, frames.
        prominence: of a valley at least, as a share of the range of the smooth level.
    """

    smoothing: float = 2.0
    prominence: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.smoothing < math.inf:
            raise ValueError(f"smoothing is {self.smoothing}; it has to be a positive number of frames")
        if not 0 <= self.prominence <= 1:
            raise ValueError(f"prominence is {self.prominence}; it has to be from 0 to 1")


def norm_peaks(
    _features: npt.NDArray[np.floating], norms: npt.NDArray[np.float32], spans: Spans, *, options: PeakOptions
) -> Spans:
    """A `Segmenter`: spans are cut where the norm has its peaks.

    Norms are z-scored over all frames and averaged over `window_frames`, the first and last repeated beyond the ends.
    """
    from scipy.signal import find_peaks  # it takes a while, and few need it

    if not len(spans):  # as where all norms are alike, and scaled ones are -inf
        return spans.copy()
    level = norms.astype(np.float64)
    deviation = level.std()
    if not deviation > 0:  # all alike: there are no peaks
        return spans.copy()
    half = options.window_frames // 2
    padded = np.pad((level - level.mean()) / deviation, half, mode="edge")
    smooth = np.convolve(padded, np.full(options.window_frames, 1 / options.window_frames), mode="valid")
    peaks, _ = find_peaks(smooth, prominence=options.prominence)
    return _cut_at(peaks, spans)


def valleys(
    _features: npt.NDArray[np.floating], norms: npt.NDArray[np.float32], spans: Spans, *, options: ValleyOptions
) -> Spans:
    """A `Segmenter`: spans are cut where the smooth norm, or another level in its place, has its valleys."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    if not len(norms):
        return spans.copy()
    smooth = gaussian_filter1d(norms, options.smoothing)
    found, _ = find_peaks(-smooth, prominence=options.prominence * float(np.ptp(smooth)))
    return _cut_at(found, spans)


def _cut_at(places: npt.NDArray[np.int64], spans: Spans) -> Spans:
    """Spans cut at those of some ascending frames that lie within."""
    return joined(between([start, *places[(places > start) & (places < end)], end]) for start, end in spans.tolist())
