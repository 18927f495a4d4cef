"""Windows over a piece of audio, and the overlap-add of their features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sdhubert_ray.speech.audio import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE
from sdhubert_ray.speech.decoders import Samples

Features = npt.NDArray[np.floating]

ENCODER_SAMPLES = 400
"""Samples that the first frame of the encoder sees; each further frame needs 320 more."""
_FADE_FRAMES = 5


class Window(NamedTuple):
    """Samples [start, end) of a piece; the first `skipped` of them repeat what the window before has covered."""

    start: int
    end: int
    skipped: int


@dataclass(frozen=True)
class WindowOptions:
    """How a piece is framed into windows.

    Attributes:
        window_seconds: length of a window; none encodes the whole piece at once.
        overlap_seconds: what neighbouring windows share.
        pad_samples: zero samples put on both sides of each window, after the z-score.
    """

    window_seconds: float | None = 5.0
    overlap_seconds: float = 0.5
    pad_samples: int = 160

    def __post_init__(self) -> None:
        if self.window_seconds is None:
            if self.pad_samples < 0:
                raise ValueError(f"windows.pad_samples is {self.pad_samples}; it cannot be negative")
            return
        # floor((320 f + 2 pad - 400) / 320) + 1 = f frames for a window of f
        if self.pad_samples < 40:
            raise ValueError(
                f"windows.pad_samples is {self.pad_samples}; windows keep all their frames with 40 or more"
            )
        for name, seconds in (
            ("window_seconds", self.window_seconds),
            ("overlap_seconds", self.overlap_seconds),
        ):
            if not 0 <= seconds < math.inf or abs(seconds * FRAME_RATE - round(seconds * FRAME_RATE)) > 1e-9:
                raise ValueError(f"windows.{name} is {seconds:g}; it has to be a multiple of {1 / FRAME_RATE:g} s")
        if not 2 <= self.overlap_frames <= self.window_frames // 2:
            raise ValueError(
                f"windows.overlap_seconds is {self.overlap_seconds:g}; "
                f"it has to lie between {2 / FRAME_RATE:g} and half of windows.window_seconds"
            )

    @property
    def window_frames(self) -> int:
        """Frames in a full window."""
        if self.window_seconds is None:
            raise ValueError("whole pieces have no window length")
        return round(self.window_seconds * FRAME_RATE)

    @property
    def overlap_frames(self) -> int:
        """Frames that neighbouring windows share."""
        return round(self.overlap_seconds * FRAME_RATE)


def count_frames(num_samples: int, options: WindowOptions) -> int:
    """Tell how many frames a piece of `num_samples` 16 kHz samples has.

    floor(n / 320) with padded windows; of a whole piece without padding floor((n - 400) / 320) + 1.
    """
    seen = (num_samples + 2 * options.pad_samples - ENCODER_SAMPLES) // FRAME_SAMPLES + 1
    return max(0, min(num_samples // FRAME_SAMPLES, seen))


def lay_windows(num_samples: int, options: WindowOptions, phase: int = 0) -> list[Window]:
    """Lay windows over `num_samples` samples, from the start until one reaches the end.

    A last window (not the first) of under half the length is moved back to full length; `skipped` says how far.

    Args:
        num_samples: length of the piece at 16 kHz.
        options: the windows.
        phase: of `grid_phase`; unless 0, the first window ends early, so that the second begins after as many samples.
    """
    if options.window_seconds is None:
        return [Window(0, num_samples, 0)]
    length = options.window_frames * FRAME_SAMPLES
    overlap = options.overlap_frames * FRAME_SAMPLES
    windows = []
    start, end = 0, phase + overlap if phase else length
    while end < num_samples:
        windows.append(Window(start, end, 0))
        start = end - overlap
        end = start + length
    if windows and num_samples - start < length // 2:
        moved = max(0, num_samples - length)
        windows.append(Window(moved, num_samples, start - moved))
    else:
        windows.append(Window(start, num_samples, 0))
    return windows


def grid_phase(offset: float, options: WindowOptions) -> int:
    """Samples from `offset` seconds of a file to the next start of a window laid over the whole file.

    So the windows of a later piece are those that the file in one piece would have, wherever the joint is.
    """
    if options.window_seconds is None:
        return 0
    hop = options.window_frames - options.overlap_frames
    return -round(offset * FRAME_RATE) % hop * FRAME_SAMPLES


def cut_windows(samples: Samples, options: WindowOptions, phase: int = 0) -> list[Samples]:
    """Cut (n,) z-scored samples into its windows, each padded with zeros on both sides."""
    windows = lay_windows(len(samples), options, phase)
    return [np.pad(samples[window.start : window.end], options.pad_samples) for window in windows]


class Joint(NamedTuple):
    """Where a window's features go: rows [first, last) of them to frames [begin, end) of the piece.

    The first `shared` frames are blended with what the window before has put there.
    """

    first: int
    last: int
    begin: int
    end: int
    shared: int


def lay_joints(counts: Sequence[int], num_samples: int, options: WindowOptions, phase: int = 0) -> list[Joint]:
    """Tell where the features of each window go, of as many frames as `counts` says; arguments as `overlap_add`."""
    windows = lay_windows(num_samples, options, phase)
    if len(counts) != len(windows):
        raise ValueError(f"{len(counts)} feature arrays for {len(windows)} windows")
    total = count_frames(num_samples, options)
    joints = []
    for index, (window, count) in enumerate(zip(windows, counts, strict=True)):
        first = window.skipped // FRAME_SAMPLES
        begin = (window.start + window.skipped) // FRAME_SAMPLES
        end = min(begin + count - first, total)
        shared = min(options.overlap_frames, total - begin) if index else 0
        joints.append(Joint(first, first + end - begin, begin, end, shared))
    return joints


def fade_in(options: WindowOptions) -> npt.NDArray[np.float64]:
    """Weight of the new window in the m frames that neighbours share: (m,) float64, see `overlap_add`."""
    ramp = np.minimum(np.arange(options.overlap_frames) / _FADE_FRAMES, 1.0)
    weight: npt.NDArray[np.float64] = ramp / (ramp + ramp[::-1])
    return weight


def overlap_add(parts: Sequence[Features], num_samples: int, options: WindowOptions, phase: int = 0) -> Features:
    """Blend the features of a piece's windows into one sequence.

    In frames i = 0 .. m-1 that neighbours share (m = 25), the new window weighs min(i/5, 1) and the old one
    min((m-1-i)/5, 1), divided by their sum.

    Args:
        parts: (t_w, D) of each window of `lay_windows(num_samples, options, phase)`, in order.
        num_samples: length of the piece in 16 kHz samples.
        options: the windows.
        phase: of `grid_phase`.

    Returns:
        (count_frames(num_samples, options), D), the dtype of the parts.
    """
    joints = lay_joints([len(part) for part in parts], num_samples, options, phase)
    total = count_frames(num_samples, options)
    if len(parts) == 1:
        return parts[0][:total]
    weight = fade_in(options).astype(parts[0].dtype)[:, None]
    blended = np.empty((total, parts[0].shape[1]), dtype=parts[0].dtype)
    for part, joint in zip(parts, joints, strict=True):
        fresh, seam = part[joint.first : joint.last], joint.begin + joint.shared
        if joint.shared:
            new = weight[: joint.shared]
            blended[joint.begin : seam] = (1 - new) * blended[joint.begin : seam] + new * fresh[: joint.shared]
        blended[seam : joint.end] = fresh[joint.shared :]
    return blended


def frame_amplitude(samples: Samples, num_frames: int) -> npt.NDArray[np.float32]:
    """Mean |sample| of each frame i, over [320 i, 320 (i+1)): (num_frames,) float32 from (n,) z-scored samples."""
    whole = np.abs(samples[: num_frames * FRAME_SAMPLES]).reshape(num_frames, FRAME_SAMPLES)
    mean: npt.NDArray[np.float64] = whole.mean(axis=1, dtype=np.float64)
    return mean.astype(np.float32)


def padded_samples(num_samples: int) -> int:
    """The length to which a window is padded in a batch: whole seconds, and 20 ms for the window's own padding."""
    extra = FRAME_SAMPLES
    return -(-max(num_samples - extra, 1) // SAMPLE_RATE) * SAMPLE_RATE + extra
