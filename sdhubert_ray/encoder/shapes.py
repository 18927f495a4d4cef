"""The config of an encoder whose file has none: by the shapes of its weights, or the settings of its training."""

import re
from collections.abc import Mapping
from typing import Any

from sdhubert_ray.errors import UserError

_HEAD_WIDTH = 64  # of every published encoder of the kind
_STRIDES = [5, 2, 2, 2, 2, 2, 2]


class Shapes:
    """The shapes of a file's weights, by our names."""

    def __init__(self, name: str, title: str, weights: Mapping[str, Any]) -> None:
        """`name` and `title` are what messages call the checkpoint and its kind, `weights` has our names."""
        self._name, self._title = name, title
        self._found = {
            key.removeprefix("speech_model."): getattr(value, "shape", None) for key, value in weights.items()
        }

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def of(self, *names: str) -> tuple[int, ...]:
        """The shape of a weight that has one of these names. Raises UserError where there is none."""
        for key in names:
            shape = self._found.get(key)
            if shape is not None and all(isinstance(length, int) and length > 0 for length in shape):
                return tuple(shape)
        raise UserError(f"checkpoint {self._name} looks like {self._title}, but lacks key {names[0]!r}; it is damaged")

    def count(self, pattern: str) -> int:
        """How many numbers stand in the group of a pattern."""
        found = {match[1] for key in self._found if (match := re.match(pattern, key))}
        return len(found)

    def refuse(self, reason: str) -> UserError:
        """Why there is no such encoder."""
        return UserError(f"checkpoint {self._name} looks like {self._title}, but {reason}")

    def convolutions(self, weight: str) -> list[tuple[int, ...]]:
        """Shapes of the seven convolutions of an extractor, whose strides no file tells."""
        count = self.count(weight.replace(".", r"\.").replace("{}", r"(\d+)"))
        if count != len(_STRIDES):
            raise self.refuse(f"its extractor has {count} convolutions, not {len(_STRIDES)}")
        return [self.of(weight.format(index)) for index in range(count)]


def of_hubert(shapes: Shapes) -> dict[str, Any]:
    """The config of a HuBERT of the base kind. Raises UserError where shapes are of none."""
    convolutions = shapes.convolutions("feature_extractor.conv_layers.{}.conv.weight")
    (width,) = shapes.of("encoder.layer_norm.weight")
    positions = shapes.of(
        "encoder.pos_conv_embed.conv.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    )
    if width % _HEAD_WIDTH:
        raise shapes.refuse(f"its states have {width} values, no multiple of {_HEAD_WIDTH}, the width of its heads")
    return {
        "model_type": "hubert",
        "hidden_size": width,
        "num_hidden_layers": shapes.count(r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": shapes.of("encoder.layers.0.feed_forward.intermediate_dense.weight")[0],
        "conv_dim": [shape[0] for shape in convolutions],
        "conv_kernel": [shape[-1] for shape in convolutions],
        "conv_stride": _STRIDES,
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in shapes,
        "feat_extract_norm": "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in shapes else "group",
        "num_conv_pos_embeddings": positions[-1],
        "num_conv_pos_embedding_groups": width // positions[1],
    }


def of_data2vec(shapes: Shapes) -> dict[str, Any]:
    """That of a data2vec 2.0. Raises UserError where shapes are of none."""
    convolutions = shapes.convolutions("extractor.{}.conv.weight")
    (width,) = shapes.of("norm.weight")
    positions = shapes.of("positions.1.weight")
    prenet, main = shapes.count(r"prenet\.(\d+)\."), shapes.count(r"layers\.(\d+)\.")
    return {
        "model_type": "data2vec2",
        "hidden_size": width,
        "num_hidden_layers": prenet + main,
        "prenet_layers": prenet,
        "num_attention_heads": max(shapes.of("distance_scale")),
        "intermediate_size": shapes.of("layers.0.wide.weight")[0],
        "conv_dim": [shape[0] for shape in convolutions],
        "conv_kernel": [shape[-1] for shape in convolutions],
        "conv_stride": _STRIDES,
        "position_layers": shapes.count(r"positions\.(\d+)\."),
        "position_kernel": positions[-1],
        "position_groups": width // positions[1],
    }


def of_wavlm(name: str, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """That of a WavLM of which `cfg` are the settings. Raises UserError for one that cannot be built."""
    convolutions = _parse_convolutions(name, cfg.get("conv_feature_layers"))
    known = {
        "hidden_size": "encoder_embed_dim",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_embed_dim",
        "num_conv_pos_embeddings": "conv_pos",
        "num_conv_pos_embedding_groups": "conv_pos_groups",
        "num_buckets": "num_buckets",
        "max_bucket_distance": "max_distance",
    }
    values: dict[str, Any] = {"model_type": "wavlm"}
    for ours, theirs in known.items():
        value = cfg.get(theirs)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"checkpoint {name} looks like a WavLM, but cfg.{theirs} is {value!r}, not a whole number")
        values[ours] = value
    if not cfg.get("gru_rel_pos"):
        raise UserError(f"checkpoint {name} looks like a WavLM, but its relative positions have no gates (gru_rel_pos)")
    return {
        **values,
        "conv_dim": [dim for dim, _, _ in convolutions],
        "conv_kernel": [kernel for _, kernel, _ in convolutions],
        "conv_stride": [stride for _, _, stride in convolutions],
        "conv_bias": bool(cfg.get("conv_bias")),
        "feat_extract_norm": "layer" if cfg.get("extractor_mode") == "layer_norm" else "group",
        "do_stable_layer_norm": bool(cfg.get("layer_norm_first")),
    }


def _parse_convolutions(name: str, text: object) -> list[tuple[int, int, int]]:
    """The (channels, kernel, stride) that a sum of lists says, such as `[(512,10,5)] + [(512,3,2)] * 4`."""
    found: list[tuple[int, int, int]] = []
    compact = re.sub(r"\s", "", text) if isinstance(text, str) else ""
    for part in compact.split("+"):
        match = re.fullmatch(r"\[\((\d+),(\d+),(\d+)\)\](?:\*(\d+))?", part)
        if not match:
            raise UserError(
                f"checkpoint {name} looks like a WavLM, but cfg.conv_feature_layers is {text!r}, no sum of lists of "
                "(channels, kernel, stride)"
            )
        dim, kernel, stride = (int(number) for number in match.group(1, 2, 3))
        found += [(dim, kernel, stride)] * int(match[4] or 1)
    return found
