"""Pieces through the encoder without their windows' states leaving the device: overlap-add and norms in torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdhubert_ray.encoder.batches import forward
from sdhubert_ray.encoder.protocol import Encoder
from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.speech.windows import (
    Features,
    WindowOptions,
    count_frames,
    fade_in,
    frame_amplitude,
    lay_joints,
)


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


def encode_on_device(
    model: Encoder,
    pieces: Sequence[Samples],
    cut: Sequence[Sequence[Samples]],
    windows: WindowOptions,
    layers: EncoderOptions,
    batch_seconds: float,
    phases: Sequence[int],
) -> list[EncodedPiece]:
    """What `inference.encode_pieces` gives, for any device; norms are summed in torch's order, not in NumPy's.

    Of each piece (T, D) features and (T,) norms come back, copied while the next batch is computed; nothing else is
    waited for. The device holds the states of the pieces that are not complete.

    Args:
        model: in eval mode, on its device and in its precision.
        pieces: (n,) float32 z-scored samples each.
        cut: their windows.
        windows: how they were cut.
        layers: to read.
        batch_seconds: as for `encode_windows`.
        phases: of `grid_phase`, one a piece.

    Raises:
        torch.OutOfMemoryError: the GPU cannot hold one window, or the states.
    """
    parameter = next(model.parameters())
    kept_as = torch.float32 if parameter.dtype == torch.float32 else torch.float16
    owners = [piece for piece, part in enumerate(cut) for _ in part]
    missing = [len(part) for part in cut]
    parts: list[dict[int, list[Tensor]]] = [{} for _ in cut]
    reading = list(dict.fromkeys((layers.layer, layers.normcut_layer)))
    copies = HostCopies(parameter.device)
    arriving: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.inference_mode():
        for batch in forward(model, [window for part in cut for window in part], reading, batch_seconds):
            states = [layer[:, model.prefix :].to(kept_as) for layer in batch.states]
            for row, (index, count) in enumerate(zip(batch.members, batch.counts, strict=True)):
                piece = owners[index]
                parts[piece][index] = [layer[row, :count] for layer in states]
                missing[piece] -= 1
                if missing[piece]:
                    continue
                whole = [part for _, part in sorted(parts[piece].items())]
                parts[piece].clear()
                blended = [
                    blend(of_layer, len(pieces[piece]), windows, phases[piece]) for of_layer in zip(*whole, strict=True)
                ]
                norms = torch.linalg.vector_norm(blended[-1].float(), dim=1)
                arriving[piece] = copies.start(blended[0]), copies.start(norms)
    amplitudes = [frame_amplitude(samples, count_frames(len(samples), windows)) for samples in pieces]
    copies.wait()
    return [
        EncodedPiece(arriving[piece][0].numpy(), arriving[piece][1].numpy(), amplitude)
        for piece, amplitude in enumerate(amplitudes)
    ]


def blend(parts: Sequence[Tensor], num_samples: int, options: WindowOptions, phase: int = 0) -> Tensor:
    """`speech.windows.overlap_add` of (t_w, D) tensors, on their device, in the same order: (T, D)."""
    joints = lay_joints([len(part) for part in parts], num_samples, options, phase)
    total = count_frames(num_samples, options)
    if len(parts) == 1:
        return parts[0][:total]
    # A copy from the host's ordinary memory would be waited for: a pinned one is not.
    host = torch.from_numpy(fade_in(options)).to(parts[0].dtype)[:, None]
    weight = (host.pin_memory() if parts[0].is_cuda else host).to(parts[0].device, non_blocking=True)
    blended = parts[0].new_empty((total, parts[0].shape[1]))
    for part, joint in zip(parts, joints, strict=True):
        fresh, seam = part[joint.first : joint.last], joint.begin + joint.shared
        if joint.shared:
            new, old = weight[: joint.shared], blended[joint.begin : seam]
            blended[joint.begin : seam] = (1 - new) * old + new * fresh[: joint.shared]
        blended[seam : joint.end] = fresh[joint.shared :]
    return blended


class HostCopies:
    """Copies of a device's tensors in the host's memory, made beside what the device computes next.

    A CPU's tensors are there already.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, tensor: Tensor) -> Tensor:
        """The copy, whose values are there after `wait`."""
        if self._stream is None:
            return tensor
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._stream):
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)  # its memory is not given to others before
        return host

    def wait(self) -> None:
        """Until all copies are made."""
        if self._stream is not None:
            self._stream.synchronize()
