"""Chunks of the least squared error, as in SylBoost (Baade et al. 2024, arXiv 2410.04029)."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import mincut
from sdhubert_ray.speech.segmenters.joining import between, joined
from sdhubert_ray.speech.spans import Spans


@dataclass(frozen=True)
class SseOptions:
    """How chunks are chosen; the defaults are those of SylBoost at 6.25 Hz.

    Attributes:
        max_error: chunks are added while the upper quartile of their mean squared deviations is larger; SylBoost has
            0.0033 for 8.33 Hz, 0.0028 for 6.25 Hz and 0.0019 for 5 Hz.
        min_frames: no chunk is shorter, but for a span that is.
        max_frames: no chunk is longer, but for a span that cannot be cut so.
    """

    max_error: float = 0.0028
    min_frames: int = 3
    max_frames: int = 35

    def __post_init__(self) -> None:
        if not 0 <= self.max_error < math.inf:
            raise ValueError(f"syllables.sse_dp.max_error is {self.max_error}; it has to be 0 or more")
        if self.min_frames < 1:
            raise ValueError(f"syllables.sse_dp.min_frames is {self.min_frames}; it has to be 1 frame or more")
        if self.max_frames < self.min_frames:
            raise ValueError(
                f"syllables.sse_dp.max_frames is {self.max_frames}; with syllables.sse_dp.min_frames {self.min_frames} "
                "it cannot be less"
            )


def least_error(
    features: npt.NDArray[np.floating], _norms: npt.NDArray[np.float32], spans: Spans, *, options: SseOptions
) -> Spans:
    """A `Segmenter`: see `mincut.sse_cut`; each span by itself."""
    rules = (options.max_error, options.min_frames, options.max_frames)
    return joined(between(mincut.sse_cut(features[start:end], *rules)) + start for start, end in spans)
