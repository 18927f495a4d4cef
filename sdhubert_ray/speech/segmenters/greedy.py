"""Greedy segments, as in Sylber (Cho et al. 2024, arXiv 2410.07168)."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import mincut
from sdhubert_ray.speech.segmenters.joining import joined
from sdhubert_ray.speech.spans import Spans


@dataclass(frozen=True)
class GreedyOptions:
    """How frames are taken together; the defaults are Sylber's.

    Attributes:
        norm_threshold: frames whose features have a smaller norm are in no segment; 0 leaves that to the spans.
        merge_threshold: cosine similarity from which a frame joins a segment, and neighbours become one.
        reset_count: begin the count of frames of every centroid at 1; as published it runs on from the one before.
    """

    norm_threshold: float = 2.6
    merge_threshold: float = 0.8
    reset_count: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.norm_threshold < math.inf:
            raise ValueError(f"syllables.greedy.norm_threshold is {self.norm_threshold}; it has to be 0 or more")
        if not 0 <= self.merge_threshold <= 1:
            raise ValueError(f"syllables.greedy.merge_threshold is {self.merge_threshold}; it has to be from 0 to 1")


def greedy(
    features: npt.NDArray[np.floating], _norms: npt.NDArray[np.float32], spans: Spans, *, options: GreedyOptions
) -> Spans:
    """A `Segmenter`: see `mincut.greedy_segments`; each span by itself."""
    rules = (options.norm_threshold, options.merge_threshold, options.reset_count)
    return joined(mincut.greedy_segments(features[start:end], *rules) + start for start, end in spans)
