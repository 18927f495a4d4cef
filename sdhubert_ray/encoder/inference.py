"""Windows and whole pieces through the encoder: what they are does not depend on what they are batched with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdhubert_ray.encoder.batches import forward
from sdhubert_ray.encoder.blending import EncodedPiece, encode_on_device
from sdhubert_ray.encoder.protocol import Encoder
from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.speech.windows import (
    Features,
    WindowOptions,
    count_frames,
    cut_windows,
    frame_amplitude,
    overlap_add,
)

__all__ = [
    "EncodedPiece",
    "OutOfMemoryError",
    "PooledPiece",
    "batch_seconds_on",
    "encode_pieces",
    "encode_windows",
    "pool_pieces",
]

OutOfMemoryError = torch.OutOfMemoryError
"""Raised by a GPU that cannot hold even one window."""


def batch_seconds_on(device: str, batch_seconds: float) -> float:
    """The batch to use on a device: as asked for on a GPU, single windows on a CPU.

    A CPU gains nothing by larger batches, and alone a window is computed in one shape, to the same last bit, for ever.
    """
    return 0.0 if device == "cpu" else batch_seconds


def encode_pieces(
    model: Encoder,
    pieces: Sequence[Samples],
    windows: WindowOptions,
    layers: EncoderOptions,
    batch_seconds: float,
    phases: Sequence[int] | None = None,
) -> list[EncodedPiece]:
    """Encode z-scored pieces, (n,) float32 each: the windows of all of them are packed into common batches.

    `phases` (of `windows.grid_phase`, none: all 0) says where each piece lies on the window grid of its file.
    """
    phases = [0] * len(pieces) if phases is None else phases
    cut = [cut_windows(samples, windows, phase) for samples, phase in zip(pieces, phases, strict=True)]
    if next(model.parameters()).device.type != "cpu":
        return encode_on_device(model, pieces, cut, windows, layers, batch_seconds, phases)
    states = iter(encode_windows(model, [window for piece in cut for window in piece], layers, batch_seconds))
    encoded = []
    for samples, phase, piece in zip(pieces, phases, cut, strict=True):
        parts = [next(states) for _ in piece]
        features = overlap_add([features for features, _ in parts], len(samples), windows, phase)
        if layers.layer == layers.normcut_layer:
            normed = features
        else:
            normed = overlap_add([normed for _, normed in parts], len(samples), windows, phase)
        norm = np.linalg.norm(normed.astype(np.float32), axis=1)
        amplitude = frame_amplitude(samples, count_frames(len(samples), windows))
        encoded.append(EncodedPiece(features, norm, amplitude))
    return encoded


def encode_windows(
    model: Encoder, windows: Sequence[Samples], options: EncoderOptions, batch_seconds: float
) -> list[tuple[Features, Features]]:
    """Encode windows of any lengths in few, full batches.

    Windows are padded to whole seconds and batched with those of the same padded length; a batch has 1, 2, 4, 8 ...
    rows (`batches.batch_rows`), so that a GPU sees few shapes.

    Args:
        model: in eval mode, on its device and in its precision.
        windows: (n,) float32 z-scored samples each, at least 400.
        options: the layers to read.
        batch_seconds: seconds of audio per forward call, windows counted in whole seconds, at least one window. Where
            a GPU's memory does not hold that many, half of it is tried.

    Returns:
        for each window, in order, (T, D) states of `layer` and of `normcut_layer`: float32, or float16 where the
        model computes in a half type.

    Raises:
        OutOfMemoryError: the GPU cannot hold one window.
    """
    half = next(model.parameters()).dtype != torch.float32
    found: dict[int, tuple[Features, Features]] = {}
    for batch in forward(model, windows, (options.layer, options.normcut_layer), batch_seconds):
        features, normed = (_to_numpy(layer[:, model.prefix :], half) for layer in batch.states)
        for row, (index, count) in enumerate(zip(batch.members, batch.counts, strict=True)):
            found[index] = features[row, :count], normed[row, :count]
    return [found[index] for index in range(len(windows))]


class PooledPiece(NamedTuple):
    """A piece as a whole, in each of L layers.

    Attributes:
        means: (L, D) float32, mean over its frames.
        cls: (L, D) float32, its CLS state; None where the encoder has none.
    """

    means: npt.NDArray[np.float32]
    cls: npt.NDArray[np.float32] | None


def pool_pieces(
    model: Encoder, pieces: Sequence[Samples], pad_samples: int, layers: Sequence[int], batch_seconds: float
) -> list[PooledPiece]:
    """Encode z-scored pieces, (n,) float32 each, as one window each, and keep only what they are as a whole.

    Args:
        model: as for `encode_windows`.
        pieces: likewise.
        pad_samples: zero samples put on both sides of each piece.
        layers: the L hidden states to read.
        batch_seconds: as for `encode_windows`.

    Raises:
        OutOfMemoryError: the GPU cannot hold one piece.
    """
    whole = WindowOptions(window_seconds=None, pad_samples=pad_samples)
    windows = [np.pad(samples, pad_samples) for samples in pieces]
    found: dict[int, tuple[Tensor, Tensor | None]] = {}
    for batch in forward(model, windows, layers, batch_seconds):
        for row, index in enumerate(batch.members):
            frames = slice(model.prefix, model.prefix + count_frames(len(pieces[index]), whole))
            # Sums in float64: rounded to float32, they are the same whatever the order of the terms.
            means = torch.stack([layer[row, frames].mean(0, dtype=torch.float64) for layer in batch.states])
            cls = torch.stack([layer[row, 0] for layer in batch.states]).float() if model.prefix else None
            found[index] = means.float(), cls
    # Only here: a GPU would be waited for at each.
    pooled = [found[index] for index in range(len(pieces))]
    return [PooledPiece(means.cpu().numpy(), None if cls is None else cls.cpu().numpy()) for means, cls in pooled]


def _to_numpy(states: Tensor, half: bool) -> Features:
    array: npt.NDArray[np.floating] = states.to(torch.float16 if half else torch.float32).cpu().numpy()
    return array
