"""Segmenters of other systems and baselines: features, norms and spans in, frames out. Min-cut is in `syllables`."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sdhubert_ray.speech.segmenters.greedy import GreedyOptions, greedy
from sdhubert_ray.speech.segmenters.least_error import SseOptions, least_error
from sdhubert_ray.speech.segmenters.norms import PeakOptions, ValleyOptions, norm_peaks, valleys
from sdhubert_ray.speech.segmenters.uniform import UniformOptions, uniform
from sdhubert_ray.speech.spans import Spans

__all__ = [
    "GreedyOptions",
    "PeakOptions",
    "Segmenter",
    "SseOptions",
    "UniformOptions",
    "ValleyOptions",
    "greedy",
    "least_error",
    "norm_peaks",
    "uniform",
    "valleys",
]


class Segmenter(Protocol):
    """What every segmenter is, once its options are bound."""

    def __call__(self, features: npt.NDArray[np.floating], norms: npt.NDArray[np.float32], spans: Spans, /) -> Spans:
        """Cut speech into syllables.

        Args:
            features: (T, D) floating, one row per frame.
            norms: (T,) float32, what tells speech of each frame.
            spans: (P, 2) frames [start, end), not empty, in order.

        Returns:
            (S, 2) int64 frames [start, end), in order, each within a span.
        """
