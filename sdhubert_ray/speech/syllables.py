"""Speech spans to syllables: min-cut over frame similarities, merging of similar neighbours, mean pooling."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import mincut
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import FRAME_RATE
from sdhubert_ray.speech.spans import Spans

if getattr(mincut, "PROJECT", None) != "sdhubert_ray":  # such as the original system's, in the working folder
    raise UserError(
        f"{mincut.__file__} is another module `mincut` than that of sdhubert_ray, and hides it; work in another "
        "folder, or take that one out of PYTHONPATH"
    )

_SIMILARITY_FLOOR = 1e-7
# What the original's callers give to merge nothing.
_BEYOND_COSINE = 1.1


@dataclass(frozen=True)
class SyllableOptions:
    """How spans are cut and merged.

    Attributes:
        syl_dur: seconds per segment of the initial cut.
        merge_threshold: neighbours of at least this cosine similarity are merged; none merges nothing, nor does more
            than 1, as the original has it.
        min_cut_minimum: a span of fewer frames is one segment, uncut.
        keep_last_frame: the objective ends at a span's last frame; true moves the last boundary behind it.
        drop_frames: segments of this many frames or fewer are dropped after the cut (unless all are); 0 drops none.
        merge_minimum: merging goes on only while at least this many segments remain.
        max_frames: segments of the cut have this many frames at most (before `keep_last_frame` adds one): long spans
            take less time; none leaves them as long as they get.
    """

    syl_dur: float = 0.1
    merge_threshold: float | None = 0.4
    min_cut_minimum: int = 1
    keep_last_frame: bool = True
    drop_frames: int = 0
    merge_minimum: int = 2
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if not (self.syl_dur > 0 and math.isfinite(self.syl_dur)):
            raise ValueError(f"syllables.syl_dur is {self.syl_dur}; it has to be a positive number of seconds")
        if self.merge_threshold is not None and not abs(self.merge_threshold) <= _BEYOND_COSINE:
            raise ValueError(
                f"syllables.merge_threshold is {self.merge_threshold:g}; cosine similarities go from -1 to 1, "
                f"{_BEYOND_COSINE} merges nothing"
            )
        if self.min_cut_minimum < 1:
            raise ValueError(f"syllables.min_cut_minimum is {self.min_cut_minimum}; it has to be 1 frame or more")
        if self.drop_frames < 0:
            raise ValueError(f"syllables.drop_frames is {self.drop_frames}; it cannot be negative")
        if self.merge_minimum < 2:
            raise ValueError(f"syllables.merge_minimum is {self.merge_minimum}; two segments are needed to merge")
        least = math.ceil(self.syl_dur * FRAME_RATE - 1e-9)
        if self.max_frames is not None and self.max_frames < least:
            raise ValueError(
                f"syllables.max_frames is {self.max_frames}; with syllables.syl_dur {self.syl_dur:g} "
                f"it has to be {least} frames or more"
            )


class Syllables(NamedTuple):
    """Syllables of a piece.

    Attributes:
        frames: (S, 2) int64, [start, end) frames.
        features: (S, D) float32, mean over the frames of each.
    """

    frames: Spans
    features: npt.NDArray[np.float32]


def cut_syllables(
    features: npt.NDArray[np.floating], spans: Spans, options: SyllableOptions, frame_rate: float = FRAME_RATE
) -> Syllables:
    """Cut each speech span into syllables.

    Args:
        features: (T, D) floating, one row per frame.
        spans: (P, 2) frames [start, end), not empty, in order.
        options: the rules.
        frame_rate: frames per second, Hz.
    """
    frames: list[Spans] = []
    pooled: list[npt.NDArray[np.float64]] = []
    for start, end in spans:
        # One conversion: similarity, merging and pooling all sum in float64.
        span = features[start:end].astype(np.float64)
        segments, means = merge(span, initial_cut(span, options, frame_rate), options)
        frames.append(segments + start)
        pooled.append(means)
    if not frames:
        return Syllables(np.zeros((0, 2), np.int64), np.zeros((0, features.shape[1]), np.float32))
    return Syllables(np.concatenate(frames), np.concatenate(pooled).astype(np.float32))


def initial_cut(features: npt.NDArray[np.float64], options: SyllableOptions, frame_rate: float = FRAME_RATE) -> Spans:
    """Cut one span of (n, D) float64 features by normalised cut: (S, 2) frames [start, end) of the span.

    K = ceil(n / frame_rate / syl_dur) segments, at most n - 1; similarity S = X X^T - min(X X^T) + 1e-7
    (Peng et al. 2023, arXiv 2305.11435).
    """
    n = len(features)
    if n == 1 or n < options.min_cut_minimum:
        return np.array([[0, n]], dtype=np.int64)
    count = math.ceil(min(n / frame_rate / options.syl_dur, n))
    similarity = features @ features.T
    similarity = similarity - similarity.min() + _SIMILARITY_FLOOR
    boundaries = mincut.min_cut(similarity, min(max(count, 1), n - 1), options.max_frames)
    if options.keep_last_frame:
        boundaries[-1] = n
    segments = np.stack([boundaries[:-1], boundaries[1:]], axis=1)
    long_enough = segments[:, 1] - segments[:, 0] > options.drop_frames
    return segments[long_enough] if long_enough.any() else segments


def merge(
    features: npt.NDArray[np.float64], segments: Spans, options: SyllableOptions
) -> tuple[Spans, npt.NDArray[np.float64]]:
    """Merge the most similar neighbours (the first of equals) while their cosine similarity reaches the threshold.

    A merged segment reaches from the start of the first to the end of the second, and its feature is the mean
    over all its frames, those of a dropped segment between them included.

    Args:
        features: (n, D) float64 of the span.
        segments: (S, 2) frames [start, end) of the span, in order.
        options: threshold and minimum.

    Returns:
        (S', 2) segments and (S', D) float64 means.
    """
    bounds = [(int(start), int(end)) for start, end in segments]
    means = [features[start:end].mean(axis=0) for start, end in bounds]
    if options.merge_threshold is not None and len(bounds) >= options.merge_minimum:
        similarity = [_cosine(left, right) for left, right in itertools.pairwise(means)]
        while len(bounds) >= options.merge_minimum:
            best = int(np.argmax(similarity))
            if similarity[best] < options.merge_threshold:
                break
            start, end = bounds[best][0], bounds[best + 1][1]
            bounds[best : best + 2] = [(start, end)]
            means[best : best + 2] = [features[start:end].mean(axis=0)]
            del similarity[best]
            for pair in (best - 1, best):
                if 0 <= pair < len(similarity):
                    similarity[pair] = _cosine(means[pair], means[pair + 1])
    return np.array(bounds, dtype=np.int64), np.stack(means)


def to_seconds(frames: Spans, offset: float = 0.0, frame_rate: float = FRAME_RATE) -> npt.NDArray[np.float64]:
    """Times in seconds of (S, 2) frames of a piece that begins at `offset` seconds of its file."""
    # Pieces begin on the frame grid: counting in whole frames gives the same float64 as a file in one piece.
    first = offset * frame_rate
    if abs(first - round(first)) < 1e-6:
        return (frames + round(first)) / frame_rate
    return frames / frame_rate + offset


def _cosine(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    scale = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / scale if scale else 0.0
