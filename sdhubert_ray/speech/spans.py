"""Where there is speech: the norm cut, the silence filter, and spans of frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sdhubert_ray.errors import require_choice
from sdhubert_ray.speech.audio import FRAME_RATE

Spans = npt.NDArray[np.int64]

STRATEGIES = ("relative", "absolute")


@dataclass(frozen=True)
class SpeechOptions:
    """What counts as speech.

    Attributes:
        normcut_strategy: `relative` scales norms between their 1st and 99th percentile, `absolute` does not.
        normcut_threshold: frames of a larger (scaled) norm are speech.
        silence_threshold: spans whose mean |z-scored sample| is not above this are dropped; none keeps all.
        min_span_frames: shorter spans are dropped, in 20 ms frames.
        max_span_seconds: longer spans are split where the norm is lowest (min-cut is quadratic in the span).
    """

    normcut_strategy: str = "relative"
    normcut_threshold: float = 0.1
    silence_threshold: float | None = 0.02
    min_span_frames: int = 2
    max_span_seconds: float = 30.0

    def __post_init__(self) -> None:
        require_choice("speech.normcut_strategy", self.normcut_strategy, STRATEGIES)
        if not np.isfinite(self.normcut_threshold):
            raise ValueError(f"speech.normcut_threshold is {self.normcut_threshold}; it has to be a finite number")
        if self.min_span_frames < 0:
            raise ValueError(f"speech.min_span_frames is {self.min_span_frames}; it cannot be negative")
        if self.silence_threshold is not None and not self.silence_threshold >= 0:
            raise ValueError(f"speech.silence_threshold is {self.silence_threshold}; it has to be none, or 0 or more")
        if not 1 <= self.max_span_seconds < np.inf:
            raise ValueError(f"speech.max_span_seconds is {self.max_span_seconds:g}; it has to be 1 or more")


class Speech(NamedTuple):
    """Where there is speech in a piece of T frames.

    Attributes:
        norm: (T,) float32, as compared with the threshold (scaled if `relative`).
        mask: (T,) bool, norm > threshold.
        spans: (P, 2) int64 frames [start, end), after the filters, none longer than the limit.
    """

    norm: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    spans: Spans


def find_speech(
    raw_norm: npt.NDArray[np.float32], amplitude: npt.NDArray[np.float32], options: SpeechOptions
) -> Speech:
    """Find the speech of a piece.

    Args:
        raw_norm: (T,) float32, L2 norm of each frame's norm-cut state.
        amplitude: (T,) float32, mean |z-scored sample| of each frame.
        options: thresholds.
    """
    norm = scale_norm(raw_norm, options.normcut_strategy)
    mask = norm > options.normcut_threshold
    spans = runs(mask)
    spans = spans[spans[:, 1] - spans[:, 0] >= options.min_span_frames]
    if options.silence_threshold is not None and len(spans):
        loudness = np.array([amplitude[start:end].mean(dtype=np.float64) for start, end in spans])
        spans = spans[loudness > options.silence_threshold]
    limit = round(options.max_span_seconds * FRAME_RATE)
    pieces = [piece for start, end in spans for piece in split_span(int(start), int(end), norm, limit)]
    return Speech(norm, mask, np.array(pieces, dtype=np.int64).reshape(-1, 2))


def scale_norm(raw_norm: npt.NDArray[np.float32], strategy: str) -> npt.NDArray[np.float32]:
    """Scale (T,) norms: `relative` (norm - p1) / (p99 - p1), percentiles over all frames; `absolute` leaves them.

    Where p99 = p1 there is no speech: -inf, which lies under any threshold.
    """
    if strategy == "absolute" or not len(raw_norm):
        return raw_norm
    low, high = np.percentile(raw_norm.astype(np.float64), (1, 99))
    if high == low:
        return np.full_like(raw_norm, -np.inf)
    scaled: npt.NDArray[np.float32] = ((raw_norm - low) / (high - low)).astype(np.float32)
    return scaled


def runs(mask: npt.NDArray[np.bool_]) -> Spans:
    """The maximal runs of True in (T,) bool: (P, 2) int64, [start, end)."""
    edges = np.diff(mask.astype(np.int8), prepend=0, append=0)
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1).astype(np.int64)


def split_span(start: int, end: int, norm: npt.NDArray[np.float32], limit: int) -> Iterator[tuple[int, int]]:
    """Split frames [start, end) so that no part is longer than `limit` frames.

    Each cut is at the frame of lowest norm (the first of equals) in the second half of the first `limit` frames.
    """
    while end - start > limit:
        half = start + limit // 2
        cut = half + int(np.argmin(norm[half : start + limit]))
        yield start, cut
        start = cut
    yield start, end
