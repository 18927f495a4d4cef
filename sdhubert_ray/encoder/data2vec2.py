"""data2vec 2.0 for speech (Baevski et al. 2022, arXiv 2212.07525), as SylBoost and SylReg-Distill have it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdhubert_ray.encoder.protocol import Encoder, valid

DATA2VEC2 = "data2vec2"
_EPS = 1e-5


@dataclass(frozen=True)
class Data2VecConfig:
    """The shape of a data2vec 2.0 encoder; the defaults are those of its base model.

    Attributes:
        hidden_size: width D of the states.
        num_hidden_layers: transformer layers, those of the prenet included.
        prenet_layers: how many of them are the prenet's.
        num_attention_heads: of each layer.
        intermediate_size: width of the feed-forward networks.
        conv_dim: channels of each convolution of the extractor.
        conv_kernel: samples or frames of each.
        conv_stride: likewise.
        position_layers: convolutions of the positional encoder.
        position_kernel: frames of each, an odd number.
        position_groups: of each.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    prenet_layers: int = 4
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_layers: int = 5
    position_kernel: int = 19
    position_groups: int = 16


def build_data2vec(values: Mapping[str, Any]) -> "Data2Vec2":
    """An encoder with random weights, of the values of a `Data2VecConfig` and its `model_type`.

    Raises:
        ValueError: there is no such encoder; the message is one line, without a full stop.
    """
    known = {option.name for option in fields(Data2VecConfig)}
    unknown = set(values) - known - {"model_type"}
    if unknown:
        raise ValueError(f"its config has the unknown {sorted(unknown)[0]!r}")
    try:
        return Data2Vec2(Data2VecConfig(**{name: value for name, value in values.items() if name in known}))
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(" ".join(str(error).split()).rstrip(".")) from error


class Data2Vec2(Encoder):
    """Convolutions with layer norms, positions by convolutions, and layers whose attention fades with distance.

    Layers are normalised behind what they add; the first are those of the prenet. States that are not valid are
    zero wherever a convolution over time could see them.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        """Build with random weights, see `build_data2vec`; `checkpoint.load_model` fills in trained ones."""
        super().__init__()
        if config.position_kernel % 2 == 0:
            raise ValueError(f"its position_kernel is {config.position_kernel}, not an odd number")
        if config.prenet_layers > config.num_hidden_layers:
            raise ValueError(f"its prenet has {config.prenet_layers} of {config.num_hidden_layers} layers")
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(f"{config.num_attention_heads} heads do not divide its hidden_size {config.hidden_size}")
        self._config = config
        width, channels = config.hidden_size, (1, *config.conv_dim)
        self.extractor = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv1d(before, after, kernel, stride, bias=False), "norm": nn.LayerNorm(after)})
            for before, after, (kernel, stride) in zip(channels[:-1], config.conv_dim, self.kernels, strict=True)
        )
        self.projection = nn.ModuleDict(
            {"norm": nn.LayerNorm(config.conv_dim[-1]), "linear": nn.Linear(config.conv_dim[-1], width)}
        )
        kernel, groups = config.position_kernel, config.position_groups
        self.positions = nn.ModuleDict(
            {str(1 + index): nn.Conv1d(width, width, kernel, groups=groups) for index in range(config.position_layers)}
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.distance_scale = nn.Parameter(torch.ones(1, 1, config.num_attention_heads, 1, 1))
        self.prenet = nn.ModuleList(_Layer(config) for _ in range(config.prenet_layers))
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers - config.prenet_layers))
        self._slopes = alibi_slopes(config.num_attention_heads)

    @property
    def hidden_size(self) -> int:
        """Width D of the hidden states."""
        return self._config.hidden_size

    @property
    def num_layers(self) -> int:
        """Number of transformer layers present, those of the prenet included."""
        return len(self.prenet) + len(self.layers)

    @property
    def kernels(self) -> Sequence[tuple[int, int]]:
        """Kernel and stride of each convolution of the extractor."""
        return list(zip(self._config.conv_kernel, self._config.conv_stride, strict=True))

    def keep_layers(self, count: int) -> None:
        """Forget transformer layers past the first `count`."""
        self.layers = self.layers[: max(0, count - len(self.prenet))]
        self.prenet = self.prenet[:count]

    def fold(self) -> None:
        """Leave all as it is: nothing that takes time hangs on the weights alone."""

    def project(self, samples: Tensor, num_samples: Tensor | None) -> Tensor:
        """Convolutional extractor and projection: (B, N) samples of (B,) valid lengths to (B, T, D), zero beyond."""
        if num_samples is not None:
            samples = samples.masked_fill(~valid(num_samples, samples.shape[1]), 0)
        states = samples[:, None]
        for layer in self.extractor:
            assert isinstance(layer, nn.ModuleDict)
            # Kernels lie within the valid samples for every valid frame: nothing beyond can leak in.
            states = F.gelu(layer["norm"](layer["conv"](states).transpose(1, 2)).transpose(1, 2))
        frames: Tensor = self.projection["linear"](self.projection["norm"](states.transpose(1, 2)))
        if num_samples is None:
            return frames
        return frames * valid(self.count_frames(num_samples), frames.shape[1])[..., None]

    def contextualise(self, frames: Tensor, num_frames: Tensor | None) -> Iterator[Tensor]:
        """Transformer over (B, T, D) projected frames, zero beyond (B,) valid ones; None: all are valid."""
        inside = None if num_frames is None else valid(num_frames, frames.shape[1])
        states: Tensor = self.norm(frames + self._place(frames, inside))
        yield states
        places = torch.arange(frames.shape[1], device=frames.device)
        distances = (places - places[:, None]).abs()
        scale = torch.tensor(self._slopes, device=frames.device) * self.distance_scale.flatten().clamp_min(0).float()
        bias = (-scale[:, None, None] * distances)[None]
        if inside is not None:
            bias = bias.masked_fill(~inside[:, None, None], -math.inf)
        bias = bias.to(frames.dtype)
        for layer in (*self.prenet, *self.layers):
            states = layer(states, bias)
            yield states

    def _place(self, frames: Tensor, inside: Tensor | None) -> Tensor:
        """What convolutions make of (B, T, D) frames; each sees zeros beyond the valid ones, as at any end."""
        # In float32 on a CPU, whose library computes some of these in bfloat16 wrongly (model.py).
        states = frames.float() if frames.device.type == "cpu" else frames
        for convolution in self.positions.values():
            assert isinstance(convolution, nn.Conv1d)
            weight, bias = (part.to(states.dtype) for part in convolution.parameters())
            padding, groups = self._config.position_kernel // 2, self._config.position_groups
            convolved = F.conv1d(states.transpose(1, 2), weight, bias, padding=padding, groups=groups).transpose(1, 2)
            states = F.gelu(F.layer_norm(convolved, convolved.shape[-1:]))
            if inside is not None:
                states = states * inside[..., None]
        return states.to(frames.dtype)


class _Layer(nn.Module):
    """A transformer layer whose parts are normalised behind what they add."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self._heads = config.num_attention_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=_EPS)
        self.wide, self.narrow = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)
        self.final_norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) states; `bias` (B or 1, H, T, T) is added to what attention weighs."""
        apart = self.qkv(states).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(apart[0], apart[1], apart[2], attn_mask=bias)
        states = self.attention_norm(states + self.out(attended.transpose(1, 2).flatten(2)))
        normed: Tensor = self.final_norm(states + self.narrow(F.gelu(self.wide(states))))
        return normed


def alibi_slopes(heads: int) -> list[float]:
    """How fast the attention of each head fades with distance (Press et al. 2022, arXiv 2108.12409).

    2^(-8 i / n), i = 1 .. n, where n heads are a power of two; else those of the next lower power of two, and every
    second one of the next higher.
    """
    if heads < 1:
        raise ValueError(f"it has {heads} attention heads")
    below = 1 << heads.bit_length() - 1
    slopes = [2 ** (-8 * index / below) for index in range(1, below + 1)]
    between = [2 ** (-4 * index / below) for index in range(1, 2 * below, 2)]
    return slopes + between[: heads - below]
