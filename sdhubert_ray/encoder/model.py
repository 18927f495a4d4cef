"""Encoders whose network is one of transformers': HuBERT, wav2vec 2.0 and WavLM; with a CLS state, SD-HuBERT."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.func import functional_call

from sdhubert_ray.encoder.convolutions import SpectralConvolution, fold_weight_norm, normed_convolution
from sdhubert_ray.encoder.protocol import Encoder, valid
from sdhubert_ray.encoder.wavlm import run_wavlm_layers
from sdhubert_ray.errors import UserError, first_line

try:
    from transformers import HubertConfig, HubertModel, PreTrainedConfig, PreTrainedModel
    from transformers.models.hubert.modeling_hubert import HubertEncoderLayer
except (OSError, RuntimeError) as error:  # it imports torchaudio where that is installed
    raise UserError(
        f"transformers does not load ({first_line(error)}); if that is of torchaudio, uninstall it, or install a torch "
        "of the same build"
    ) from error

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions of inference by name; the half types cross the pipeline as float16."""

HUBERT, WAV2VEC2, WAVLM = "hubert", "wav2vec2", "wavlm"
_ABSENT = {
    "conv_pos_batch_norm": "a batch norm before its positional convolution",
    "add_adapter": "an adapter behind its layers",
    "adapter_attn_dim": "adapters of languages in its layers",
}


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
    """An SD-HuBERT with random weights, of the values of a HubertConfig as its config.json has them.

    Raises:
        ValueError: there is no such encoder; the message is one line, without a full stop.
    """
    encoder = build_transformer(values, SDHuBERT)
    assert isinstance(encoder, SDHuBERT)
    return encoder


def build_transformer(values: Mapping[str, Any], kind: "type[TransformersEncoder]") -> "TransformersEncoder":
    """An encoder with random weights, of the values of its config.json, whose `model_type` says which network.

    Raises:
        ValueError: there is no such encoder; the message is one line, without a full stop.
    """
    try:
        config = _classes(str(values.get("model_type", HUBERT)))[0].from_dict(dict(values))
        # It takes a boolean mask as it is. WavLM knows one way only, which `wavlm` has another for.
        config._attn_implementation = "eager" if config.model_type == WAVLM else "sdpa"
        return kind(config)
    except (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, StrictDataclassError) as error:
        raise ValueError(" ".join(str(error).split()).rstrip(".")) from error


class TransformersEncoder(Encoder):
    """HuBERT, wav2vec 2.0 or WavLM, with layers that are normalised behind or before what they add.

    Statistics over time, the positional convolution and attention see valid samples and frames only, so that a
    window has the same states alone and in any batch. States are those that layers give on, as transformers 5 has them:
    where layers normalise what they take, the norm behind the last of them is not in its states.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        """Build with random weights, see `build_transformer`; `checkpoint.load_model` fills in trained ones."""
        super().__init__()
        for name, what in _ABSENT.items():
            if getattr(config, name, None):
                raise ValueError(f"the encoder has {what} ({name})")
        self.speech_model: Any = _classes(config.model_type)[1](config)

    @property
    def hidden_size(self) -> int:
        """Width D of the hidden states."""
        return int(self.speech_model.config.hidden_size)

    @property
    def num_layers(self) -> int:
        """Number of transformer layers present."""
        return len(self.speech_model.encoder.layers)

    @property
    def kernels(self) -> Sequence[tuple[int, int]]:
        """Kernel and stride of each convolution of the extractor."""
        config = self.speech_model.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def keep_layers(self, count: int) -> None:
        """Forget transformer layers past the first `count`."""
        self.speech_model.encoder.layers = self.speech_model.encoder.layers[:count]

    def fold(self) -> None:
        """Compute the kernels of positions once, and leave out what is for training only."""
        if hasattr(self.speech_model, "masked_spec_embed"):
            del self.speech_model.masked_spec_embed  # a training device, which files may leave out
        fold_weight_norm(self.speech_model.encoder.pos_conv_embed.conv)

    def transform_positions(self) -> None:
        """Convolve positions by Fourier transforms from now on, for inference on a CPU; training has other kernels."""
        convolution = self.speech_model.encoder.pos_conv_embed
        convolution.register_module("conv", SpectralConvolution(convolution.conv))

    def project(self, samples: Tensor, num_samples: Tensor | None) -> Tensor:
        """Convolutional extractor and projection: (B, N) samples of (B,) valid lengths to (B, T, D), zero beyond."""
        if num_samples is not None:
            samples = samples.masked_fill(~valid(num_samples, samples.shape[1]), 0)
        states = samples[:, None]
        for layer, (kernel, stride) in zip(self.speech_model.feature_extractor.conv_layers, self.kernels, strict=True):
            if num_samples is not None:
                num_samples = (num_samples - kernel) // stride + 1
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                states = layer.activation(normed_convolution(samples, num_samples, layer.conv, layer.layer_norm))
            else:
                # Kernels lie within the valid samples for every valid frame: nothing beyond can leak in.
                states = layer(states)
        projected = self.speech_model.feature_projection(states.transpose(1, 2))
        frames: Tensor = projected[0] if isinstance(projected, tuple) else projected  # HuBERT's tells no more
        return frames if num_samples is None else frames * valid(num_samples, frames.shape[1])[..., None]

    def contextualise(self, frames: Tensor, num_frames: Tensor | None) -> Iterator[Tensor]:
        """Transformer over (B, T, D) projected frames, zero beyond (B,) valid ones; None: all are valid."""
        states = self.enter(frames)
        yield states
        counts = None if num_frames is None else num_frames + self.prefix
        run = run_wavlm_layers if self.speech_model.config.model_type == WAVLM else run_layers
        yield from run(states, counts, self.speech_model.encoder.layers)

    def enter(self, frames: Tensor) -> Tensor:
        """hidden_states[0] of (B, T, D) projected frames: (B, prefix + T, D), with dropout where this is trained."""
        entered: Tensor = self.speech_model.encoder.dropout(self.embed(frames))
        return entered

    def embed(self, frames: Tensor) -> Tensor:
        """Give (B, T, D) projected frames, zero beyond the valid ones, their positions; normalise them if layers do."""
        embedded = frames + self._positions(frames)
        if self.speech_model.config.do_stable_layer_norm:
            return embedded
        normed: Tensor = self.speech_model.encoder.layer_norm(embedded)
        return normed

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


class SDHuBERT(TransformersEncoder):
    """HuBERT with a learned CLS vector in front of its transformer layers."""

    prefix = 1

    def __init__(self, config: PreTrainedConfig) -> None:
        """Build with random weights, see `build_encoder`; `checkpoint.load_model` fills in trained ones."""
        if config.do_stable_layer_norm:
            raise ValueError("the encoder has pre-norm layers (do_stable_layer_norm); SD-HuBERT's are post-norm")
        if config.model_type == WAVLM:
            raise ValueError("the encoder is a WavLM, whose positions have no place for a CLS state")
        super().__init__(config)
        self.cls_token = nn.Parameter(torch.randn(self.hidden_size))

    def enter(self, frames: Tensor) -> Tensor:
        """hidden_states[0] of (B, T, D) projected frames: (B, 1 + T, D), with dropout where this is trained."""
        return self.put_cls(super().enter(frames))

    def put_cls(self, states: Tensor) -> Tensor:
        """Put the CLS vector in front of (B, T, D) states: (B, 1 + T, D)."""
        cls = self.cls_token.to(states.dtype).expand(len(states), 1, -1)
        return torch.cat([cls, states], dim=1)


def run_layers(states: Tensor, counts: Tensor | None, layers: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Yield what each transformer layer makes of (B, T, D) states, of which (B,) counts are valid; None: all are."""
    mask = None if counts is None else valid(counts, states.shape[1])[:, None, None]
    for layer in layers:
        states = layer(states, attention_mask=mask)
        yield states


def run_to_cls(states: Tensor, num_frames: Tensor, layers: nn.ModuleList) -> tuple[Tensor, Tensor]:
    """CLS state (B, D) after all layers, and the (B, 1 + T, D) states that the last of them has seen.

    The last layer is computed for the CLS state alone: no other of its states decides anything.
    """
    for earlier in run_layers(states, num_frames + 1, layers[:-1]):
        states = earlier
    last = cast(HubertEncoderLayer, layers[-1])
    mask, cls = valid(num_frames + 1, states.shape[1])[:, None, None], states[:, :1]
    attended, _ = last.attention(cls, key_value_states=states, attention_mask=mask)
    cls = last.layer_norm(cls + last.dropout(attended))
    cls = last.final_layer_norm(cls + last.feed_forward(cls))
    return cls[:, 0], states


def _classes(model_type: str) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """The config and the network of a `model_type`; each is imported when it is asked for."""
    if model_type == HUBERT:
        return HubertConfig, HubertModel
    if model_type == WAV2VEC2:
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        return Wav2Vec2Config, Wav2Vec2Model
    if model_type == WAVLM:
        from transformers import WavLMConfig, WavLMModel

        return WavLMConfig, WavLMModel
    raise ValueError(f"its model_type is {model_type!r}, not one of {HUBERT}, {WAV2VEC2}, {WAVLM}")
