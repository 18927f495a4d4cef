"""Segments of one length: what any other segmenter has to be better than."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdhubert_ray.speech.audio import FRAME_RATE
from sdhubert_ray.speech.segmenters.joining import between, joined
from sdhubert_ray.speech.spans import Spans


@dataclass(frozen=True)
class UniformOptions:
    """How long segments are.

    Attributes:
        seconds: of each; the last of a span is what is left. They are rounded to whole frames.
    """

    seconds: float = 0.2

    def __post_init__(self) -> None:
        if not 1 / FRAME_RATE <= self.seconds < math.inf:
            raise ValueError(
                f"syllables.uniform.seconds is {self.seconds}; it has to be a frame, {1 / FRAME_RATE:g} s, or more"
            )


def uniform(
    _features: npt.NDArray[np.floating],
    _norms: npt.NDArray[np.float32],
    spans: Spans,
    *,
    options: UniformOptions,
    frame_rate: float = FRAME_RATE,
) -> Spans:
    """A `Segmenter`: every span is cut after so many seconds each."""
    step = max(1, round(options.seconds * frame_rate))
    return joined(between([*range(start, end, step), end]) for start, end in spans.tolist())
