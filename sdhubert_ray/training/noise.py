"""What a student hears of a crop: the crop itself, or with noise or other speech in it; and where its segments are.

Both are drawn and found by the processes that read crops: nothing here needs a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdhubert_ray.speech.audio import FRAME_RATE
from sdhubert_ray.speech.decoders import Samples

# Ranges of Sylber's public configuration: of the level of noise and of other speech, as a standard deviation beside the
# crop's, which is 1, and of where in the crop the other speech begins or ends.
_NOISE_LEVEL, _SPEECH_LEVEL, _PLACE = (0.05, 0.7), (0.05, 0.2), (0.0, 0.7)
_SLOPE = (0.0, 2.0)
"""Noise has a power spectrum of 1 / f^slope: from white over pink to brown."""
_NOISE, _MERGE = 7, 8  # what is drawn from a seed


class Heard(TypedDict):
    """What a batch of B crops has for the objective `segments`.

    Attributes:
        heard: (B, N) float32 samples, as the student hears them.
        merge_threshold: (B,) float64, of each crop's greedy segments.
        segment: (B, T) int64, which of the given segments a frame is of, counted from 0 in each crop; -1: of none.
    """

    heard: Tensor
    merge_threshold: Tensor
    segment: Tensor


@dataclass(frozen=True)
class Hearing:
    """Draws what the student hears of the crops of a batch; it crosses to the processes that read.

    Attributes:
        kernels: kernel and stride of each convolution of the extractor, which say how many frames a crop has.
        noise_share: share of the crops that have noise or other speech.
        mix_share: share of these that have other speech.
        merge_threshold: range that a crop's merge threshold is drawn from.
    """

    kernels: tuple[tuple[int, int], ...]
    noise_share: float
    mix_share: float
    merge_threshold: tuple[float, float]

    def wants_other(self, seed: int) -> bool:
        """Whether a crop with this seed has other speech in it, which has to be read."""
        kind, of_these = np.random.default_rng((seed, _NOISE)).random(2)
        return bool(kind < self.noise_share and of_these < self.mix_share)

    def hear(self, samples: Samples, seed: int, other: Samples | None) -> Samples:
        """(n,) float32 of a crop, z-scored, by its seed: as it is, or with (m,) other speech or noise.

        Where other speech could not be had, it is noise.
        """
        random = np.random.default_rng((seed, _NOISE))
        kind, _ = random.random(2)
        if kind >= self.noise_share:
            return samples
        if other is None:
            level = random.uniform(*_NOISE_LEVEL)
            return samples + np.float32(level) * draw_noise(len(samples), random.uniform(*_SLOPE), random)
        level, place = random.uniform(*_SPEECH_LEVEL), random.uniform(*_PLACE)
        added = np.zeros_like(samples)
        added[: len(other)] = other[: len(samples)]
        edge = round(place * len(samples))
        if random.random() < 0.5:
            added[:edge] = 0
        else:
            added[len(samples) - edge :] = 0
        return samples + np.float32(level) * added

    def draw_merge_threshold(self, seed: int) -> float:
        """Of a crop with this seed."""
        return float(np.random.default_rng((seed, _MERGE)).uniform(*self.merge_threshold))

    def count_frames(self, num_samples: int) -> int:
        """Frames of so many samples, as the encoder's `count_frames`."""
        for kernel, stride in self.kernels:
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    def draw(
        self,
        crops: Sequence[Samples],
        seeds: Sequence[int],
        others: Sequence[Samples | None],
        segments: Sequence[npt.NDArray[np.integer]],
        length: int,
    ) -> Heard:
        """What a batch has, of crops padded to `length` samples.

        Args:
            crops: (n,) float32 each, z-scored.
            seeds: of each.
            others: other speech for each, where it `wants_other`.
            segments: (S, 2) frames [start, end) of each crop, see `segments_in_crop`; (0, 2) where none are given.
            length: N.
        """
        heard = np.zeros((len(crops), length), np.float32)
        segment = np.full((len(crops), self.count_frames(length)), -1, np.int64)
        for row, (samples, seed, other) in enumerate(zip(crops, seeds, others, strict=True)):
            heard[row, : len(samples)] = self.hear(samples, seed, other)
            for number, (start, end) in enumerate(segments[row]):
                segment[row, start:end] = number
        thresholds = [self.draw_merge_threshold(seed) for seed in seeds]
        return Heard(
            heard=torch.from_numpy(heard),
            merge_threshold=torch.tensor(thresholds, dtype=torch.float64),
            segment=torch.from_numpy(segment),
        )


def draw_noise(count: int, slope: float, random: np.random.Generator) -> Samples:
    """(count,) float32 of Gaussian noise with a power spectrum of 1 / f^slope and a standard deviation of 1."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum[0] = 0
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, count)
    scaled: Samples = (noise / noise.std()).astype(np.float32)
    return scaled


def segments_in_crop(segments: npt.NDArray[np.float64], start: float, num_frames: int) -> npt.NDArray[np.int64]:
    """Which frames of a crop the segments of its recording are.

    Frame j of a recording lies 10 ms before frame j of a crop that begins with it, as that has no zeros in front: frame
    i of a crop is frame 50 start + 1/2 + i of its recording, rounded where the crop does not begin between two frames.

    Args:
        segments: (S, 2) seconds of the recording's file, in order.
        start: where the crop begins, seconds of the file.
        num_frames: T, frames of the crop.

    Returns:
        (S', 2) frames [start, end) of the crop, of those that have any in it.
    """
    frames = np.floor(segments * FRAME_RATE - start * FRAME_RATE + 1e-6).astype(np.int64).clip(0, num_frames)
    inside: npt.NDArray[np.int64] = frames[frames[:, 1] > frames[:, 0]]
    return inside
