"""Speech spans to syllables: min-cut over frame similarities and merging, or another segmenter; mean pooling."""

import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import mincut
from sdhubert_ray.errors import UserError, require_choice
from sdhubert_ray.speech.audio import FRAME_RATE
from sdhubert_ray.speech.segmenters import (
    GreedyOptions,
    PeakOptions,
    Segmenter,
    SseOptions,
    UniformOptions,
    greedy,
    least_error,
    norm_peaks,
    uniform,
)
from sdhubert_ray.speech.spans import Spans

if getattr(mincut, "PROJECT", None) != "sdhubert_ray":  # such as the original system's, in the working folder
    raise UserError(
        f"{mincut.__file__} is another module `mincut` than that of sdhubert_ray, and hides it; work in another "
        "folder, or take that one out of PYTHONPATH"
    )

_SIMILARITY_FLOOR = 1e-7
# What the original's callers give to merge nothing.
_BEYOND_COSINE = 1.1
_BANDED_MERGE_MINIMUM = 3
MIN_CUT = "min-cut"
SEGMENTERS = {
    MIN_CUT: None,
    "min-cut-banded": "banded",
    "greedy": "greedy",
    "sse-dp": "sse_dp",
    "norm-peaks": "norm_peaks",
    "uniform": "uniform",
}
"""What may be `syllables.segmenter`, and the section of `syllables` that holds its options, if it has one."""
MEAN, INNER, UNIT = "mean", "inner", "unit"
POOLINGS = (MEAN, INNER, UNIT)
"""What a syllable's feature is, of the mean over its frames: `mean` itself; `inner` leaves the first and the last frame
out, where others are, and is standardised over dimensions (SylBoost); `unit` has the length 1 (ZeroSyl)."""


@dataclass(frozen=True)
class BandedOptions:
    """How spans are cut by min-cut into segments of bounded length; the defaults are SylReg's.

    Attributes:
        syl_dur: seconds per segment of the initial cut.
        merge_threshold: neighbours of at least this cosine similarity are merged while 3 remain; none merges nothing.
        min_frames: no segment of the cut is shorter.
        max_frames: no segment of the cut is longer, but that its last frame is added to the last one.
    """

    syl_dur: float = 0.15
    merge_threshold: float | None = 0.7
    min_frames: int = 3
    max_frames: int = 35

    def __post_init__(self) -> None:
        if not (self.syl_dur > 0 and math.isfinite(self.syl_dur)):
            raise ValueError(f"syllables.banded.syl_dur is {self.syl_dur}; it has to be a positive number of seconds")
        if self.merge_threshold is not None and not abs(self.merge_threshold) <= _BEYOND_COSINE:
            raise ValueError(
                f"syllables.banded.merge_threshold is {self.merge_threshold:g}; cosine similarities go from -1 to 1"
            )
        if self.min_frames < 1:
            raise ValueError(f"syllables.banded.min_frames is {self.min_frames}; it has to be 1 frame or more")
        # So many segments of the longest, or of the shortest, have to be as long as a span of any length.
        least = max(2 * self.min_frames - 1, math.ceil(self.syl_dur * FRAME_RATE - 1e-9))
        if self.max_frames < least:
            raise ValueError(
                f"syllables.banded.max_frames is {self.max_frames}; with syllables.banded.syl_dur {self.syl_dur:g} "
                f"and syllables.banded.min_frames {self.min_frames} it has to be {least} frames or more"
            )


@dataclass(frozen=True)
class SyllableOptions:
    """How spans are cut and merged. What is not in a section of its own is for the segmenter `min-cut`.

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
        segmenter: one of `SEGMENTERS`.
        pooling: what a syllable's feature is with any segmenter, one of `POOLINGS`.
        banded: options of the segmenter `min-cut-banded`.
        greedy: of `greedy`.
        sse_dp: of `sse-dp`.
        norm_peaks: of `norm-peaks`.
        uniform: of `uniform`.
    """

    syl_dur: float = 0.1
    merge_threshold: float | None = 0.4
    min_cut_minimum: int = 1
    keep_last_frame: bool = True
    drop_frames: int = 0
    merge_minimum: int = 2
    max_frames: int | None = None
    segmenter: str = MIN_CUT
    pooling: str = MEAN
    banded: BandedOptions = field(default_factory=BandedOptions)
    greedy: GreedyOptions = field(default_factory=GreedyOptions)
    sse_dp: SseOptions = field(default_factory=SseOptions)
    norm_peaks: PeakOptions = field(default_factory=PeakOptions)
    uniform: UniformOptions = field(default_factory=UniformOptions)

    def __post_init__(self) -> None:
        require_choice("syllables.segmenter", self.segmenter, tuple(SEGMENTERS))
        require_choice("syllables.pooling", self.pooling, POOLINGS)
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
        features: (S, D) float32, of the frames of each, see `POOLINGS`.
    """

    frames: Spans
    features: npt.NDArray[np.float32]


def find_syllables(
    features: npt.NDArray[np.floating],
    norms: npt.NDArray[np.float32],
    spans: Spans,
    options: SyllableOptions,
    frame_rate: float = FRAME_RATE,
) -> Syllables:
    """Cut each speech span into syllables by the segmenter that the options name.

    Args:
        features: (T, D) floating, one row per frame.
        norms: (T,) float32, norms of the states that tell speech.
        spans: (P, 2) frames [start, end), not empty, in order.
        options: the segmenter and its rules.
        frame_rate: frames per second, Hz.
    """
    if options.segmenter != MIN_CUT:
        frames = bind_segmenter(options, frame_rate)(features, norms, spans)
    elif options.pooling == MEAN:
        return cut_syllables(features, spans, options, frame_rate)
    else:
        frames = cut_syllables(features, spans, options, frame_rate).frames
    return pool(features, frames, options.pooling)


def pool(features: npt.NDArray[np.floating], frames: Spans, pooling: str = MEAN) -> Syllables:
    """Syllables of (S, 2) frames [start, end), each with the feature of its (T, D) frames, see `POOLINGS`."""
    pooled = [pool_frames(features[start:end], pooling) for start, end in frames]
    return Syllables(frames, np.stack(pooled) if pooled else np.zeros((0, features.shape[1]), np.float32))


def pool_frames(features: npt.NDArray[np.floating], pooling: str) -> npt.NDArray[np.float32]:
    """The feature of a syllable of (n, D) frames, n at least 1: (D,) float32.

    With `inner` (m - mean(m)) / std(m), std with D - 1, of the mean m over frames 1 .. n - 2, or over all if they are
    one or two (Baade et al. 2025, arXiv 2410.04029); with `unit` m / norm(m) (Visser et al. 2026, arXiv 2602.15537).
    Where there is nothing to divide by, zeros are left.
    """
    inside = features[1:-1] if pooling == INNER and len(features) > 2 else features
    mean: npt.NDArray[np.float64] = inside.mean(axis=0, dtype=np.float64)
    if pooling == INNER:
        mean = mean - mean.mean()
        scale = math.sqrt(float(mean @ mean) / max(len(mean) - 1, 1))
    else:
        scale = float(np.linalg.norm(mean)) if pooling == UNIT else 1.0
    return (mean / scale if scale else mean).astype(np.float32)


def bind_segmenter(options: SyllableOptions, frame_rate: float = FRAME_RATE) -> Segmenter:
    """The segmenter that the options name, with its own ones bound."""
    segmenters: dict[str, Segmenter] = {
        MIN_CUT: partial(_min_cut, options=options, frame_rate=frame_rate),
        "min-cut-banded": partial(_min_cut_banded, options=options.banded, frame_rate=frame_rate),
        "greedy": partial(greedy, options=options.greedy),
        "sse-dp": partial(least_error, options=options.sse_dp),
        "norm-peaks": partial(norm_peaks, options=options.norm_peaks),
        "uniform": partial(uniform, options=options.uniform, frame_rate=frame_rate),
    }
    return segmenters[options.segmenter]


def _min_cut(
    features: npt.NDArray[np.floating],
    _norms: npt.NDArray[np.float32],
    spans: Spans,
    *,
    options: SyllableOptions,
    frame_rate: float,
) -> Spans:
    return cut_syllables(features, spans, options, frame_rate).frames


def _min_cut_banded(
    features: npt.NDArray[np.floating],
    _norms: npt.NDArray[np.float32],
    spans: Spans,
    *,
    options: BandedOptions,
    frame_rate: float,
) -> Spans:
    rules = banded_merging(options)
    found = [np.zeros((0, 2), np.int64)]
    for start, end in spans:
        span = features[start:end].astype(np.float64)
        found.append(merge(span, banded_cut(span, options, frame_rate), rules)[0] + start)
    return np.concatenate(found)


def banded_merging(options: BandedOptions) -> SyllableOptions:
    """The rules by which `merge` merges what `banded_cut` gives."""
    return SyllableOptions(options.syl_dur, options.merge_threshold, merge_minimum=_BANDED_MERGE_MINIMUM)


def banded_cut(features: npt.NDArray[np.float64], options: BandedOptions, frame_rate: float = FRAME_RATE) -> Spans:
    """Cut one span of (n, D) float64 features into segments of bounded length: (S, 2) frames [start, end) of it."""
    n = len(features)
    if n <= options.min_frames:
        return np.array([[0, n]], np.int64)
    count = _count_segments(n, options.syl_dur, frame_rate)
    # At the frame rate of the encoder neither bound changes the count but in spans of a few frames.
    count = min(count, max(1, (n - 1) // options.min_frames))
    count = max(count, -(-(n - 1) // options.max_frames))
    boundaries = mincut.min_cut(similarity_of(features), count, options.max_frames, options.min_frames)
    boundaries[-1] = n
    return np.stack([boundaries[:-1], boundaries[1:]], axis=1)


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
    count = _count_segments(n, options.syl_dur, frame_rate)
    boundaries = mincut.min_cut(similarity_of(features), count, options.max_frames)
    if options.keep_last_frame:
        boundaries[-1] = n
    segments = np.stack([boundaries[:-1], boundaries[1:]], axis=1)
    long_enough = segments[:, 1] - segments[:, 0] > options.drop_frames
    return segments[long_enough] if long_enough.any() else segments


def similarity_of(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """X X^T - min(X X^T) + 1e-7 of (n, D) float64 features X."""
    products = features @ features.T
    similarity: npt.NDArray[np.float64] = products - products.min() + _SIMILARITY_FLOOR
    return similarity


def _count_segments(n: int, syl_dur: float, frame_rate: float) -> int:
    """ceil(n / frame_rate / syl_dur), 1 to n - 1."""
    return min(max(math.ceil(min(n / frame_rate / syl_dur, n)), 1), n - 1)


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
