"""Perturbations of projected frames: masked spans, or a stretch in time; padding is never touched.

They are drawn by the processes that read crops, and applied where the model is: nothing here needs one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

VIEWS = ("student", "teacher")
"""Who sees the perturbed frames; the two are perturbed independently."""


@dataclass(frozen=True)
class MaskOptions:
    """Masking of spans of frames, by the rule of wav2vec 2.0 and HuBERT.

    Attributes:
        share: share of the samples that are perturbed in this way.
        ratio: frames masked, as a share of the valid ones, where no spans overlap.
        span: frames of a span.
    """

    share: float
    ratio: float
    span: int

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.ratio <= 1:
            raise ValueError(f"masking has share {self.share} and ratio {self.ratio}; both have to be 0 to 1")
        if self.span < 1:
            raise ValueError(f"masking has spans of {self.span} frames; they have to be 1 or more")


@dataclass(frozen=True)
class PerturbationOptions:
    """How samples are perturbed; those that are not masked are stretched.

    Attributes:
        long_masks: few long spans.
        short_masks: more and shorter ones.
        anchor: range of the anchor of a stretch, as a share of the valid length.
        rate: range of the factor by which one side of the anchor is rescaled.
    """

    long_masks: MaskOptions = field(default_factory=lambda: MaskOptions(share=0.4, ratio=0.2, span=10))
    short_masks: MaskOptions = field(default_factory=lambda: MaskOptions(share=0.4, ratio=0.3, span=5))
    anchor: tuple[float, float] = (0.2, 0.8)
    rate: tuple[float, float] = (0.8, 1.5)

    def __post_init__(self) -> None:
        if self.long_masks.share + self.short_masks.share > 1 + 1e-9:
            raise ValueError("the shares of long and short masks are more than 1 together")
        if not 0 <= self.anchor[0] <= self.anchor[1] <= 1:
            raise ValueError(f"the anchor of a stretch is in {self.anchor}; that has to be a range within 0 to 1")
        if not 0 < self.rate[0] <= self.rate[1]:
            raise ValueError(f"the rate of a stretch is in {self.rate}; that has to be a range above 0")


class Perturbation(NamedTuple):
    """What is done to each of T frames: out[t] = (1 - weight) * frames[lower] + weight * frames[lower + 1], or masked.

    Attributes:
        lower: (B, T) int64.
        weight: (B, T) float32, 0 to 1; 0 where `lower` is the last valid frame.
        masked: (B, T) bool, frames that become the mask vector.
    """

    lower: Tensor
    weight: Tensor
    masked: Tensor


@dataclass(frozen=True)
class Perturbing:
    """Draws how student and teacher see the crops of a batch; it crosses to the processes that read.

    Attributes:
        kernels: kernel and stride of each convolution of the extractor, which say how many frames a crop has.
        views: those of `VIEWS` that are perturbed; the others see the frames as they are.
        options: what is drawn from.
    """

    kernels: tuple[tuple[int, int], ...]
    views: tuple[str, ...] = VIEWS
    options: PerturbationOptions = field(default_factory=PerturbationOptions)

    def draw(self, seeds: Tensor, num_samples: Tensor, length: int) -> dict[str, Perturbation]:
        """Of crops with (B,) int64 seeds and valid samples, padded to `length` samples: by the names of `VIEWS`."""
        num_frames, padded = self.count_frames(num_samples), int(self.count_frames(torch.tensor(length)))
        return {
            view: draw_perturbations(seeds, num_frames, padded, self.options, view)
            if view in self.views
            else no_perturbation(len(seeds), padded)
            for view in VIEWS
        }

    def count_frames(self, num_samples: Tensor) -> Tensor:
        """Frames of so many samples, int64 each, as the encoder's `count_frames`."""
        for kernel, stride in self.kernels:
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples


def draw_perturbations(
    seeds: Tensor, num_frames: Tensor, length: int, options: PerturbationOptions, which: str
) -> Perturbation:
    """Draw the perturbation of each sample from its own seed: it depends on nothing else.

    Args:
        seeds: (B,) int64, one per sample, on the CPU.
        num_frames: (B,) int64 valid frames, on the CPU.
        length: T, frames of the padded batch.
        options: what is drawn from.
        which: `student` or `teacher`.
    """
    lower = np.tile(np.arange(length, dtype=np.int64), (len(seeds), 1))
    weight = np.zeros((len(seeds), length), dtype=np.float32)
    masked = np.zeros((len(seeds), length), dtype=np.bool_)
    view = VIEWS.index(which)
    for row, (seed, valid) in enumerate(zip(_as_ints(seeds), _as_ints(num_frames), strict=True)):
        generator = np.random.default_rng((seed % 2**64, view))
        kind = generator.random()
        if kind < options.long_masks.share:
            masked[row, :valid] = draw_masks(valid, options.long_masks, generator)
        elif kind < options.long_masks.share + options.short_masks.share:
            masked[row, :valid] = draw_masks(valid, options.short_masks, generator)
        else:
            lower[row, :valid], weight[row, :valid] = draw_stretch(valid, options, generator)
    return Perturbation(*map(torch.from_numpy, (lower, weight, masked)))


def no_perturbation(batch: int, length: int) -> Perturbation:
    """Leave the frames of a batch as they are."""
    lower = torch.arange(length).repeat(batch, 1)
    return Perturbation(lower, torch.zeros(batch, length), torch.zeros(batch, length, dtype=torch.bool))


def draw_masks(valid: int, options: MaskOptions, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which of T = `valid` frames are masked: (T,) bool.

    floor(ratio T / span + u) spans, u uniform in [0, 1), but no more than there are places for a start; starts are
    drawn without replacement, so spans may overlap but none is drawn twice. Fewer frames than a span are not masked.
    """
    masked = np.zeros(valid, dtype=np.bool_)
    places = valid - options.span + 1
    if places < 1:
        return masked
    spans = min(int(options.ratio * valid / options.span + generator.random()), places)
    starts = generator.choice(places, size=spans, replace=False)
    masked[(starts[:, None] + np.arange(options.span)).ravel()] = True
    return masked


def draw_stretch(
    valid: int, options: PerturbationOptions, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Where each of T = `valid` frames comes from: (T,) int64 and (T,) float32, see `Perturbation`.

    With frames at positions 0..T-1, an anchor a = share * (T - 1) and a rate r: the left side [0, a] becomes
    [0, r a], the right side fills the rest; or the same seen from the end. Where r a is past the end, the side that
    is rescaled fills all, and what would come after is lost.
    """
    last = valid - 1
    anchor = generator.uniform(*options.anchor) * last
    rate = generator.uniform(*options.rate)
    left = generator.random() < 0.5
    if last < 1:
        return np.zeros(valid, dtype=np.int64), np.zeros(valid, dtype=np.float32)
    source = _stretch_left(valid, anchor, rate) if left else last - _stretch_left(valid, last - anchor, rate)[::-1]
    lower = np.clip(np.floor(source), 0, last - 1).astype(np.int64)
    weight = np.clip(source - lower, 0, 1)
    at_end = weight == 1  # so that the last valid frame does not look at what follows it
    return lower + at_end, np.where(at_end, 0, weight).astype(np.float32)


def perturb(frames: Tensor, perturbation: Perturbation, mask_vector: Tensor) -> Tensor:
    """Apply perturbations to (B, T, D) frames on their device; (D,) takes the place of masked frames."""
    batch, length, width = frames.shape
    rows = torch.arange(batch, device=frames.device)[:, None]
    upper = (perturbation.lower + 1).clamp_(max=length - 1)
    weight = perturbation.weight.to(frames.dtype)[..., None]
    stretched = torch.lerp(frames[rows, perturbation.lower], frames[rows, upper], weight)
    return torch.where(perturbation.masked[..., None], mask_vector.to(frames.dtype).expand(width), stretched)


def _stretch_left(valid: int, anchor: float, rate: float) -> npt.NDArray[np.float64]:
    """Source position of each frame, where [0, anchor] is rescaled by `rate`."""
    last = valid - 1
    places = np.arange(valid, dtype=np.float64)
    moved = anchor * rate
    if moved >= last:
        return places / rate
    right = anchor + (places - moved) * (last - anchor) / (last - moved)
    return np.where(places <= moved, places / rate, right)


def _as_ints(values: Tensor) -> Sequence[int]:
    numbers: list[int] = values.tolist()
    return numbers
