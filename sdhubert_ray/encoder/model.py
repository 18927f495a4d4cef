"""The SD-HuBERT encoder: hidden states of a window that do not depend on what it is batched with."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.func import functional_call
from transformers import HubertConfig, HubertModel
from transformers.models.hubert.modeling_hubert import HubertEncoderLayer, HubertGroupNormConvLayer

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

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions of inference by name; the half types cross the pipeline as float16."""

OutOfMemoryError = torch.OutOfMemoryError
"""Raised by a GPU that cannot hold even one window."""

logger = logging.getLogger(__name__)


def build_encoder(values: Mapping[str, Any]) -> "SDHuBERT":
    """An encoder with random weights, of the values of a HubertConfig as its config.json has them.

    Raises:
        ValueError: there is no such encoder; the message is one line, without a full stop.
    """
    try:
        config = HubertConfig.from_dict(dict(values))
        config._attn_implementation = "sdpa"  # it takes a boolean mask as it is
        return SDHuBERT(config)
    except (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, StrictDataclassError) as error:
        raise ValueError(" ".join(str(error).split()).rstrip(".")) from error


class SDHuBERT(nn.Module):
    """HuBERT with a learned CLS vector in front of its transformer layers.

    Statistics over time, the positional convolution and attention see valid samples and frames only, so that a
    window has the same states alone and in any batch.
    """

    def __init__(self, config: HubertConfig) -> None:
        """Build with random weights, see `build_encoder`; `checkpoint.load_model` fills in trained ones."""
        super().__init__()
        if config.do_stable_layer_norm:
            raise ValueError("the encoder has pre-norm layers (do_stable_layer_norm); SD-HuBERT's are post-norm")
        if config.conv_pos_batch_norm:
            raise ValueError("the encoder has a batch norm before its positional convolution (conv_pos_batch_norm)")
        self.speech_model = HubertModel(config)
        self.cls_token = nn.Parameter(torch.randn(config.hidden_size))

    @property
    def hidden_size(self) -> int:
        """Width D of the hidden states."""
        return int(self.speech_model.config.hidden_size)

    @property
    def num_layers(self) -> int:
        """Number of transformer layers present."""
        return len(self.speech_model.encoder.layers)

    def keep_layers(self, count: int) -> None:
        """Forget transformer layers past the first `count`: inference needs none above the states it reads."""
        self.speech_model.encoder.layers = self.speech_model.encoder.layers[:count]

    def count_frames(self, num_samples: Tensor) -> Tensor:
        """Frames of windows of (B,) int64 samples: (B,) int64."""
        for kernel, stride in self._kernels():
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    def project(self, samples: Tensor, num_samples: Tensor) -> Tensor:
        """Convolutional extractor and projection: (B, N) samples of (B,) valid lengths to (B, T, D), zero beyond."""
        states = samples.masked_fill(~_valid(num_samples, samples.shape[1]), 0)[:, None]
        for layer, (kernel, stride) in zip(
            self.speech_model.feature_extractor.conv_layers, self._kernels(), strict=True
        ):
            num_samples = (num_samples - kernel) // stride + 1
            if isinstance(layer, HubertGroupNormConvLayer):
                states = layer.activation(_valid_group_norm(layer.conv(states), num_samples, layer.layer_norm))
            else:
                # Kernels lie within the valid samples for every valid frame: nothing beyond can leak in.
                states = layer(states)
        frames: Tensor = self.speech_model.feature_projection(states.transpose(1, 2))
        return frames * _valid(num_samples, frames.shape[1])[..., None]

    def contextualise(self, frames: Tensor, num_frames: Tensor) -> Iterator[Tensor]:
        """Transformer over (B, T, D) projected frames, zero beyond (B,) valid ones.

        Yields:
            hidden_states[0], [1], ...: (B, 1 + T, D), the CLS state at position 0.
        """
        states = self.enter(frames)
        yield states
        yield from run_layers(states, num_frames, self.speech_model.encoder.layers)

    def enter(self, frames: Tensor) -> Tensor:
        """hidden_states[0] of (B, T, D) projected frames: (B, 1 + T, D), with dropout where this is trained."""
        return self.put_cls(self.speech_model.encoder.dropout(self.embed(frames)))

    def embed(self, frames: Tensor) -> Tensor:
        """Give (B, T, D) projected frames, zero beyond the valid ones, their positions, and normalise them."""
        embedded: Tensor = self.speech_model.encoder.layer_norm(frames + self._positions(frames))
        return embedded

    def _positions(self, frames: Tensor) -> Tensor:
        """Positional convolution of (B, T, D) projected frames, on a CPU in float32.

        oneDNN computes some grouped convolutions in bfloat16 wrongly where the CPU has AMX (torch 2.13).
        """
        convolution = self.speech_model.encoder.pos_conv_embed
        positions: Tensor
        if frames.device.type == "cpu":
            weights = {name: value.float() for name, value in convolution.named_parameters()}
            with torch.autocast("cpu", enabled=False):
                positions = functional_call(convolution, weights, (frames.float(),)).to(frames.dtype)
        else:
            positions = convolution(frames)
        return positions

    def put_cls(self, states: Tensor) -> Tensor:
        """Put the CLS vector in front of (B, T, D) states: (B, 1 + T, D)."""
        cls = self.cls_token.to(states.dtype).expand(len(states), 1, -1)
        return torch.cat([cls, states], dim=1)

    def forward(self, samples: Tensor, num_samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Hidden states of a batch of windows.

        Args:
            samples: (B, N) z-scored 16 kHz samples, any value beyond the valid ones.
            num_samples: (B,) int64, how many are valid.
            layers: which hidden states.

        Returns:
            (B, 1 + T, D) for each of `layers`, valid for position 0 (CLS) and the window's `count_frames` after it.
        """
        num_frames = self.count_frames(num_samples)
        kept: dict[int, Tensor] = {}
        last = max(layers)
        for index, states in enumerate(self.contextualise(self.project(samples, num_samples), num_frames)):
            kept[index] = states if index in layers else states[:0]
            if index == last:
                break
        return [kept[layer] for layer in layers]

    def _kernels(self) -> list[tuple[int, int]]:
        config = self.speech_model.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))


def run_layers(states: Tensor, num_frames: Tensor, layers: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Yield what each transformer layer makes of (B, 1 + T, D) states: the CLS and (B,) frames after it are valid."""
    mask = _valid(num_frames + 1, states.shape[1])[:, None, None]
    for layer in layers:
        states = layer(states, attention_mask=mask)
        yield states


def run_to_cls(states: Tensor, num_frames: Tensor, layers: nn.ModuleList) -> tuple[Tensor, Tensor]:
    """CLS state (B, D) after all layers, and the (B, 1 + T, D) states that the last of them has seen.

    The last layer is computed for the CLS state alone: no other of its states decides anything.
    """
    for earlier in run_layers(states, num_frames, layers[:-1]):
        states = earlier
    last = cast(HubertEncoderLayer, layers[-1])
    mask, cls = _valid(num_frames + 1, states.shape[1])[:, None, None], states[:, :1]
    attended, _ = last.attention(cls, key_value_states=states, attention_mask=mask)
    cls = last.layer_norm(cls + last.dropout(attended))
    cls = last.final_layer_norm(cls + last.feed_forward(cls))
    return cls[:, 0], states


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


def _valid(counts: Tensor, length: int) -> Tensor:
    """(B, length) bool: position < count."""
    return torch.arange(length, device=counts.device) < counts[:, None]


def _valid_group_norm(states: Tensor, counts: Tensor, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm with one channel per group over the first `counts` (B,) positions of (B, C, T) states.

    Statistics are taken in float32. `states` is overwritten: at this layer a second of audio is 3,200 frames of
    every channel, and a copy more is half a gigabyte.
    """
    beyond = ~_valid(counts, states.shape[2])[:, None]
    count = counts[:, None, None].float()
    mean = states.masked_fill_(beyond, 0).sum(2, keepdim=True, dtype=torch.float32) / count
    deviation = states.sub_(mean.to(states.dtype)).masked_fill_(beyond, 0)
    length = torch.linalg.vector_norm(deviation, dim=2, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(length.square() / count + norm.eps) * norm.weight[None, :, None].float()
    return torch.addcmul(norm.bias[None, :, None].to(states.dtype), deviation, scale.to(states.dtype))
