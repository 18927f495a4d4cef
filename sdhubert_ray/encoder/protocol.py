"""What every encoder is: samples in, hidden states out, the same for a window alone and in any batch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Count = TypeVar("Count", int, Tensor)


class Encoder(nn.Module, ABC):
    """A speech encoder of 16 kHz samples, 50 frames a second.

    How samples are normalised and padded before is none of its own: those are options (`audio.`, `windows.`), which
    a checkpoint carries.

    Attributes:
        prefix: how many states are in front of those of the frames: 1 where there is a CLS state, else 0.
    """

    prefix: int = 0

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Width D of the hidden states."""

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """Number of transformer layers present."""

    @property
    @abstractmethod
    def kernels(self) -> Sequence[tuple[int, int]]:
        """Kernel and stride of each convolution of the extractor, in samples of its input."""

    @abstractmethod
    def keep_layers(self, count: int) -> None:
        """Forget transformer layers past the first `count`: inference needs none above the states it reads."""

    @abstractmethod
    def fold(self) -> None:
        """Compute what hangs on the weights alone once, and not in every call; for inference."""

    def transform_positions(self) -> None:
        """Convolve positions in the way that is fastest on a CPU, from now on; for inference."""

    @abstractmethod
    def project(self, samples: Tensor, num_samples: Tensor | None) -> Tensor:
        """Convolutional extractor and projection: (B, N) samples of (B,) valid lengths to (B, T, D), zero beyond.

        Of windows that are all full, `num_samples` is None: nothing has to be masked.
        """

    @abstractmethod
    def contextualise(self, frames: Tensor, num_frames: Tensor | None) -> Iterator[Tensor]:
        """Transformer over (B, T, D) projected frames, zero beyond (B,) valid ones; None: all are valid.

        Yields:
            hidden_states[0], [1], ...: (B, prefix + T, D).
        """

    def count_frames(self, num_samples: Count) -> Count:
        """Frames of windows of (B,) int64 samples: (B,) int64; or of one window, without a tensor."""
        for kernel, stride in self.kernels:
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    def forward(self, samples: Tensor, num_samples: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """Hidden states of a batch of windows.

        Args:
            samples: (B, N) 16 kHz samples, any value beyond the valid ones.
            num_samples: (B,) int64, how many are valid; None: all, so that attention has no mask and may take its
                flash kernel.
            layers: which hidden states.

        Returns:
            (B, prefix + T, D) for each of `layers`, valid for the prefix and the window's `count_frames` after it.
        """
        num_frames = None if num_samples is None else self.count_frames(num_samples)
        kept: dict[int, Tensor] = {}
        last = max(layers)
        for index, states in enumerate(self.contextualise(self.project(samples, num_samples), num_frames)):
            if index in layers:
                kept[index] = states
            if index == last:
                break
        return [kept[layer] for layer in layers]


def valid(counts: Tensor, length: int) -> Tensor:
    """(B, length) bool: position < count."""
    return torch.arange(length, device=counts.device) < counts[:, None]
