"""Windows and whole pieces through the encoder: what they are does not depend on what they are batched with."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.speech import SAMPLE_RATE, Samples
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.speech.windows import (
    Features,
    WindowOptions,
    count_frames,
    cut_windows,
    frame_amplitude,
    overlap_add,
    padded_samples,
)
from sdhubert_ray.threads import torch_threads

OutOfMemoryError = torch.OutOfMemoryError
"""Raised by a GPU that cannot hold even one window."""

logger = logging.getLogger(__name__)


def batch_seconds_on(device: str, batch_seconds: float) -> float:
    """The batch to use on a device: as asked for on a GPU, single windows on a CPU.

    A CPU gains nothing by larger batches, and alone a window is computed in one shape, to the same last bit, for ever.
    """
    return 0.0 if device == "cpu" else batch_seconds


class EncodedPiece(NamedTuple):
    """A piece of T frames at 50 Hz.

    Attributes:
        features: (T, D) float32 or float16, states of `layer`, blended over windows.
        raw_norm: (T,) float32, L2 norm of the blended states of `normcut_layer`.
        amplitude: (T,) float32, mean |z-scored sample|.
    """

    features: Features
    raw_norm: npt.NDArray[np.float32]
    amplitude: npt.NDArray[np.float32]


def encode_pieces(
    model: SDHuBERT,
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
    model: SDHuBERT, windows: Sequence[Samples], options: EncoderOptions, batch_seconds: float
) -> list[tuple[Features, Features]]:
    """Encode windows of any lengths in few, full batches.

    Windows are padded to whole seconds and batched with those of the same padded length, so that the shape a
    window is computed in depends on nothing but itself.

    Args:
        model: in eval mode, on its device and in its precision.
        windows: (n,) float32 z-scored samples each, at least 400.
        options: the layers to read.
        batch_seconds: seconds of padded audio per forward call, at least one window. Where a GPU's memory does not
            hold that many, half of it is tried.

    Returns:
        for each window, in order, (T, D) states of `layer` and of `normcut_layer`: float32, or float16 where the
        model computes in a half type.

    Raises:
        OutOfMemoryError: the GPU cannot hold one window.
    """
    half = next(model.parameters()).dtype != torch.float32
    found: dict[int, tuple[Features, Features]] = {}
    for members, counts, states in _forward(model, windows, (options.layer, options.normcut_layer), batch_seconds):
        features, normed = (_to_numpy(layer[:, 1:], half) for layer in states)
        for row, (index, count) in enumerate(zip(members, counts, strict=True)):
            found[index] = features[row, :count], normed[row, :count]
    return [found[index] for index in range(len(windows))]


class PooledPiece(NamedTuple):
    """A piece as a whole, in each of L layers.

    Attributes:
        means: (L, D) float32, mean over its frames.
        cls: (L, D) float32, its CLS state.
    """

    means: npt.NDArray[np.float32]
    cls: npt.NDArray[np.float32]


def pool_pieces(
    model: SDHuBERT, pieces: Sequence[Samples], pad_samples: int, layers: Sequence[int], batch_seconds: float
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
    found: dict[int, PooledPiece] = {}
    for members, _, states in _forward(model, windows, layers, batch_seconds):
        for row, index in enumerate(members):
            frames = slice(1, 1 + count_frames(len(pieces[index]), whole))
            # Sums in float64: rounded to float32, they are the same whatever the order of the terms.
            means = torch.stack([layer[row, frames].mean(0, dtype=torch.float64) for layer in states])
            cls = torch.stack([layer[row, 0] for layer in states])
            found[index] = PooledPiece(means.float().cpu().numpy(), cls.float().cpu().numpy())
    return [found[index] for index in range(len(pieces))]


def _forward(
    model: SDHuBERT, windows: Sequence[Samples], layers: Sequence[int], batch_seconds: float
) -> Iterator[tuple[list[int], list[int], list[Tensor]]]:
    """Batches of windows through the model, as `encode_windows` describes.

    Yields:
        the windows of a batch (which ones, and the frames of each), and their states of `layers`: (B, 1 + T, D) each.
    """
    if not batch_seconds and next(model.parameters()).device.type == "cpu":
        yield from _forward_alone(model, windows, layers)
        return
    buckets: dict[int, list[int]] = {}
    for index, window in enumerate(windows):
        buckets.setdefault(padded_samples(len(window)), []).append(index)
    for length, members in sorted(buckets.items()):
        size = max(1, int(batch_seconds * SAMPLE_RATE) // length)
        left = members
        while left:
            batch = left[:size]
            try:
                counts, states = _forward_batch(model, [windows[index] for index in batch], length, size, layers)
            except OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
                torch.cuda.empty_cache()
                logger.warning("the GPU's memory is too small; going on with %d windows of %d samples", size, length)
                continue
            yield batch, counts, states
            left = left[size:]


def _forward_alone(
    model: SDHuBERT, windows: Sequence[Samples], layers: Sequence[int]
) -> Iterator[tuple[list[int], list[int], list[Tensor]]]:
    """Windows as many at once as torch has threads, each in a thread of its own; as `_forward` yields them.

    Never one window in several threads: products of some shapes then have other last bits, and a window would hang on
    how many others there are.
    """

    def forward(index: int) -> tuple[list[int], list[int], list[Tensor]]:
        window = windows[index]
        return [index], *_forward_batch(model, [window], padded_samples(len(window)), 1, layers)

    if torch.get_num_threads() == 1:
        yield from map(forward, range(len(windows)))
    elif windows:
        with torch_threads(min(torch.get_num_threads(), len(windows))) as pool:
            yield from pool.map(forward, range(len(windows)))


def _forward_batch(
    model: SDHuBERT, windows: list[Samples], length: int, size: int, layers: Sequence[int]
) -> tuple[list[int], list[Tensor]]:
    parameter = next(model.parameters())
    # A GPU picks its kernels by the shape of the batch: a full one, though partly empty, keeps results the same.
    rows = size if parameter.is_cuda else len(windows)
    samples = np.zeros((rows, length), dtype=np.float32)
    lengths = np.full(rows, length, dtype=np.int64)
    for row, window in enumerate(windows):
        samples[row, : len(window)] = window
        lengths[row] = len(window)
    num_samples = torch.from_numpy(lengths).to(parameter.device)
    with torch.inference_mode():
        outputs = model(torch.from_numpy(samples).to(parameter), num_samples, layers)
        counts = model.count_frames(num_samples)[: len(windows)].tolist()
        return counts, [states[: len(windows)] for states in outputs]


def _to_numpy(states: Tensor, half: bool) -> Features:
    array: npt.NDArray[np.floating] = states.to(torch.float16 if half else torch.float32).cpu().numpy()
    return array
