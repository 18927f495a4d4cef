"""Windows through the encoder in batches: few shapes, few empty rows, and nothing on a GPU waits for the host."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdhubert_ray.encoder.protocol import Encoder
from sdhubert_ray.speech import SAMPLE_RATE, Samples
from sdhubert_ray.speech.windows import padded_samples
from sdhubert_ray.threads import torch_threads

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Windows that the encoder has read together.

    Attributes:
        members: which windows, B numbers.
        counts: the valid frames of each.
        states: (B, prefix + T, D) of each layer that is read, on the model's device.
    """

    members: list[int]
    counts: list[int]
    states: list[Tensor]


def forward(model: Encoder, windows: Sequence[Samples], layers: Sequence[int], batch_seconds: float) -> Iterator[Batch]:
    """Batches of windows through the model, the shortest windows first; on a GPU they are not waited for.

    Args:
        model: in eval mode, on its device and in its precision.
        windows: (n,) float32 z-scored samples each.
        layers: the hidden states to read.
        batch_seconds: see `encode_windows`; 0 on a CPU computes each window alone, in the order they are given.

    Raises:
        torch.OutOfMemoryError: the GPU cannot hold one window.
    """
    if not batch_seconds and next(model.parameters()).device.type == "cpu":
        yield from _forward_alone(model, windows, layers)
        return
    alike: dict[tuple[int, bool], list[int]] = {}
    for index, window in enumerate(windows):
        length = padded_samples(len(window))
        alike.setdefault((length, len(window) < length), []).append(index)
    for (length, masked), members in sorted(alike.items()):
        most = largest_batch(length, batch_seconds)
        left = members
        while left:
            rows = batch_rows(len(left), most)
            batch = left[:rows]
            made = _try_batch(model, [windows[index] for index in batch], length, rows, masked, layers)
            if made is None:
                most = rows // 2
                torch.cuda.empty_cache()
                logger.warning("the GPU's memory is too small; going on with %d windows of %d samples", most, length)
                continue
            yield Batch(batch, *made)
            left = left[rows:]


def largest_batch(length: int, batch_seconds: float) -> int:
    """The most windows of `length` padded samples at once, a power of two: `batch_seconds` of whole seconds or less."""
    return 1 << max(int(batch_seconds) // (length // SAMPLE_RATE), 1).bit_length() - 1


def batch_rows(left: int, most: int) -> int:
    """Rows of the next batch where `left` windows are left: `most` or a power of two below, as shapes should be few.

    The least that holds them all, if at most a quarter of it stays empty: a call of a few rows takes as long as one of
    some more. Else the largest that is full.
    """
    enough = 1 << (left - 1).bit_length()
    rows = enough if 4 * left >= 3 * enough else enough // 2
    return min(rows, most)


def _forward_alone(model: Encoder, windows: Sequence[Samples], layers: Sequence[int]) -> Iterator[Batch]:
    """Windows as many at once as torch has threads, each in a thread of its own; as `forward` yields them.

    Never one window in several threads: products of some shapes then have other last bits, and a window would hang on
    how many others there are.
    """

    def forward(index: int) -> Batch:
        window = windows[index]
        return Batch([index], *_forward_batch(model, [window], padded_samples(len(window)), 1, True, layers))

    if torch.get_num_threads() == 1:
        yield from map(forward, range(len(windows)))
    elif windows:
        with torch_threads(min(torch.get_num_threads(), len(windows))) as pool:
            yield from pool.map(forward, range(len(windows)))


def _try_batch(
    model: Encoder, windows: list[Samples], length: int, rows: int, masked: bool, layers: Sequence[int]
) -> tuple[list[int], list[Tensor]] | None:
    """`_forward_batch`, or None where memory is too small for more than one row.

    Returning lets go of what the exception holds: the tensors of the calls that it went through.
    """
    try:
        return _forward_batch(model, windows, length, rows, masked, layers)
    except torch.OutOfMemoryError:
        if rows == 1:
            raise
        return None


def _forward_batch(
    model: Encoder, windows: list[Samples], length: int, rows: int, masked: bool, layers: Sequence[int]
) -> tuple[list[int], list[Tensor]]:
    """The valid frames of each window, and its states; rows beyond the windows are computed and left out.

    Unless they are `masked`, all windows have `length` samples: attention may take its fastest kernel then.
    """
    parameter = next(model.parameters())
    pinned = parameter.is_cuda  # so that copies to the GPU are not waited for
    samples = torch.zeros((rows, length), pin_memory=pinned)
    for row, window in zip(samples.numpy(), windows, strict=False):
        row[: len(window)] = window
    num_samples = None
    if masked:
        lengths = [len(window) for window in windows] + [length] * (rows - len(windows))
        num_samples = torch.tensor(lengths, pin_memory=pinned).to(parameter.device, non_blocking=True)
    with torch.inference_mode():
        samples = samples.to(parameter.device, non_blocking=True).to(parameter.dtype)
        outputs = model(samples, num_samples, layers)
    counts = [model.count_frames(len(window)) for window in windows]
    return counts, [states[: len(windows)] for states in outputs]
