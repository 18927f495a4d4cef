"""Two convolutions that take longer than their products have to: of samples, and of positions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

_TRANSFORM_KERNELS = 3
"""Kernels to a transform: all frames of a window of 5 s are in one, with a kernel of 128."""


def normed_convolution(samples: Tensor, num_frames: Tensor | None, conv: nn.Conv1d, norm: nn.GroupNorm) -> Tensor:
    """Convolve samples, and normalise each channel over its valid frames.

    A channel is linear in the samples below its kernel: their mean and covariance give the channel's, and what the norm
    does is done to the kernels. So the largest array of the encoder, 3,200 frames a second of every channel, is written
    once. A bias of `conv` is in every mean, and goes with it.

    Args:
        samples: (B, N), finite.
        num_frames: (B,) int64, how many are valid of each; None where all are.
        conv: one channel to C, without padding.
        norm: of C groups.

    Returns:
        (B, C, T) in the dtype of `samples`, before the activation; whatever lies beyond the valid frames is finite.
    """
    patches = samples.unfold(1, conv.kernel_size[0], conv.stride[0])
    if num_frames is None:
        weights = samples.new_full(patches.shape[:2], 1 / patches.shape[1], dtype=torch.float64)
    else:
        valid = torch.arange(patches.shape[1], device=samples.device) < num_frames[:, None]
        weights = valid.double() / num_frames[:, None]
    # In float64: near silence the mean is all there is, and the variance what is left of its square.
    exact = patches.double()
    mean = torch.einsum("bt,btk->bk", weights, exact)
    around = exact - mean[:, None]
    covariance = torch.einsum("bt,btk,btl->bkl", weights, around, around)
    kernels = conv.weight[:, 0].double()
    variance = torch.einsum("ck,bkl,cl->bc", kernels, covariance, kernels)
    scale = norm.weight * torch.rsqrt(variance.clamp_min(0) + norm.eps)
    shift = norm.bias - scale * (mean @ kernels.T)
    normed = torch.cat([scale[..., None] * kernels, shift[..., None]], dim=2)
    ones = torch.ones_like(patches[..., :1])
    return torch.bmm(normed.to(samples.dtype), torch.cat([patches, ones], dim=2).transpose(1, 2))


class SpectralConvolution(nn.Module):
    """A convolution of stride 1 with a long kernel, by Fourier transforms of overlapping blocks (overlap-save).

    HuBERT-base's of positions takes a twentieth of the products, an eighth of the time on a CPU, and rounds less.

    Attributes:
        spectrum: (F, G, C / G, D / G) complex64: of the kernels, by frequency and group.
        bias: (D, 1) float32.
    """

    spectrum: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv1d) -> None:
        """Transform the kernels of `conv`: C channels to D, in G groups, with zeros on both sides."""
        super().__init__()
        self._kernel, self._padding = conv.kernel_size[0], int(conv.padding[0])
        self._size = _TRANSFORM_KERNELS * self._kernel
        kernels = conv.weight.detach().double().reshape(conv.groups, -1, *conv.weight.shape[1:]).flip(-1)
        spectrum = torch.fft.rfft(kernels, n=self._size).permute(3, 0, 2, 1)
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("spectrum", spectrum.to(torch.complex64).contiguous())
        self.register_buffer("bias", bias.float()[:, None])

    def forward(self, states: Tensor) -> Tensor:
        """Convolve (B, C, T) float32 states: (B, D, T + 2 padding - kernel + 1)."""
        batch, channels, length = states.shape
        groups = self.spectrum.shape[1]
        count = length + 2 * self._padding - self._kernel + 1
        step = self._size - self._kernel + 1
        blocks = -(-count // step)
        after = blocks * step + self._kernel - 1 - length - self._padding
        overlapping = F.pad(states, (self._padding, after)).unfold(2, self._size, step)
        transformed = torch.fft.rfft(overlapping.contiguous())  # (B, C, blocks, F)
        rows = transformed.view(batch, groups, channels // groups, blocks, -1).permute(4, 1, 0, 3, 2).flatten(2, 3)
        products = torch.matmul(rows, self.spectrum)  # (F, G, B * blocks, D / G)
        apart = products.view(*products.shape[:2], batch, blocks, -1).permute(2, 1, 4, 3, 0).flatten(1, 2)
        # The first values of a block hang on what was before it.
        convolved: Tensor = torch.fft.irfft(apart, n=self._size)[..., self._kernel - 1 :]
        return convolved.flatten(2)[..., :count] + self.bias


def fold_weight_norm(conv: Any) -> None:  # noqa: ANN401 - torch does not type what a parametrization holds
    """Compute a normalised weight once, not in every call: `weight = v * g / norm(v)`.

    The norm is summed in float64 by NumPy, whose sums do not hang on how many threads there are. Those of torch do, in
    the last bits: results would differ between a process of all cores and a worker of one.
    """
    parts = conv.parametrizations.weight
    magnitude, direction = (part.detach().double().cpu().numpy() for part in (parts.original0, parts.original1))
    others = tuple(axis for axis, length in enumerate(magnitude.shape) if length == 1)
    norm = np.sqrt(np.sum(np.square(direction), axis=others, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of zeros are NaN, as torch has it
        weight = torch.from_numpy(direction * (magnitude / norm)).to(parts.original1.dtype)
    parametrize.remove_parametrizations(conv, "weight")
    conv.weight = nn.Parameter(weight)
