"""The SD-HuBERT encoder: hidden states of a window that do not depend on what it is batched with."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.func import functional_call

from sdhubert_ray.encoder.convolutions import SpectralConvolution, normed_convolution
from sdhubert_ray.errors import UserError, first_line

try:
    from transformers import HubertConfig, HubertModel
    from transformers.models.hubert.modeling_hubert import HubertEncoderLayer, HubertGroupNormConvLayer
except (OSError, RuntimeError) as error:  # it imports torchaudio where that is installed
    raise UserError(
        f"transformers does not load ({first_line(error)}); if that is of torchaudio, uninstall it, or install a torch "
        "of the same build"
    ) from error

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions of inference by name; the half types cross the pipeline as float16."""

logger = logging.getLogger(__name__)

Count = TypeVar("Count", int, Tensor)


def fastest_dtype(device: str) -> str:
    """The precision that a device multiplies fastest in, of those with float32's boundaries (docs/performance.md)."""
    if device == "cpu":
        has = torch.cpu.get_capabilities()
        # What the two kinds of CPU call their products in bfloat16. Without them they are several times slower.
        fast = any(has.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    else:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


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

    def transform_positions(self) -> None:
        """Convolve positions by Fourier transforms from now on, for inference on a CPU; training has other kernels."""
        convolution = self.speech_model.encoder.pos_conv_embed
        convolution.register_module("conv", SpectralConvolution(convolution.conv))

    def count_frames(self, num_samples: Count) -> Count:
        """Frames of windows of (B,) int64 samples: (B,) int64; or of one window, without a tensor."""
        for kernel, stride in self._kernels():
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    def project(self, samples: Tensor, num_samples: Tensor | None) -> Tensor:
        """Convolutional extractor and projection: (B, N) samples of (B,) valid lengths to (B, T, D), zero beyond.

        Of windows that are all full, `num_samples` is None: nothing has to be masked.
        """
        if num_samples is not None:
            samples = samples.masked_fill(~_valid(num_samples, samples.shape[1]), 0)
        states = samples[:, None]
        for layer, (kernel, stride) in zip(
            self.speech_model.feature_extractor.conv_layers, self._kernels(), strict=True
        ):
            if num_samples is not None:
                num_samples = (num_samples - kernel) // stride + 1
            if isinstance(layer, HubertGroupNormConvLayer):
                states = layer.activation(normed_convolution(samples, num_samples, layer.conv, layer.layer_norm))
            else:
                # Kernels lie within the valid samples for every valid frame: nothing beyond can leak in.
                states = layer(states)
        frames: Tensor = self.speech_model.feature_projection(states.transpose(1, 2))
        return frames if num_samples is None else frames * _valid(num_samples, frames.shape[1])[..., None]

    def contextualise(self, frames: Tensor, num_frames: Tensor | None) -> Iterator[Tensor]:
        """Transformer over (B, T, D) projected frames, zero beyond (B,) valid ones; None: all are valid.

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

    def forward(self, samples: Tensor, num_samples: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """Hidden states of a batch of windows.

        Args:
            samples: (B, N) z-scored 16 kHz samples, any value beyond the valid ones.
            num_samples: (B,) int64, how many are valid; None: all, so that attention has no mask and may take its
                flash kernel.
            layers: which hidden states.

        Returns:
            (B, 1 + T, D) for each of `layers`, valid for position 0 (CLS) and the window's `count_frames` after it.
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

    def _kernels(self) -> list[tuple[int, int]]:
        config = self.speech_model.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))


def run_layers(states: Tensor, num_frames: Tensor | None, layers: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Yield what each transformer layer makes of (B, 1 + T, D) states.

    The CLS and (B,) frames after it are valid; None: all are.
    """
    mask = None if num_frames is None else _valid(num_frames + 1, states.shape[1])[:, None, None]
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


def _valid(counts: Tensor, length: int) -> Tensor:
    """(B, length) bool: position < count."""
    return torch.arange(length, device=counts.device) < counts[:, None]
