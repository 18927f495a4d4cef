"""The files of other systems: whose a file is, what its weights are called, and how it wants its samples.

Nothing is guessed: a key is used, or it is among those that are known to be of no use here, or the file is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sdhubert_ray.encoder.shapes import Shapes, of_data2vec, of_hubert, of_wavlm
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import Options, get_preset
from sdhubert_ray.speech.systems import SDHUBERT, SYLBER, SYLBOOST, SYSTEMS, TRANSFORMERS, VG_HUBERT, WAVLM

MODEL_TYPES = ("hubert", "wav2vec2", "wavlm")
"""The `model_type` of the folders of transformers that are read."""

_LAYER_SHARE = 0.75

_WHOLE: Mapping[str, object] = {"window_seconds": None, "pad_samples": 0}


@dataclass(frozen=True)
class Layout:
    """How the files of a system name their weights.

    Attributes:
        title: what the file is called in a message.
        unused: matches the beginnings of keys that are of no use here.
        renames: what is replaced in a key, one after the other, to get that of our encoder.
    """

    title: str
    unused: re.Pattern[str]
    renames: tuple[tuple[re.Pattern[str], str], ...] = ()

    def rename(self, key: str) -> str | None:
        """The name of a weight in our encoder; None where it is of no use."""
        if self.unused.match(key):
            return None
        for pattern, by in self.renames:
            key = pattern.sub(by, key)
        return key


class Recognised(NamedTuple):
    """A file of another system.

    Attributes:
        layout: one of `LAYOUTS`.
        upstream: the values of its encoder's config.
        defaults: options by which its encoder gets what it was trained with; a preset may say otherwise.
    """

    layout: str
    upstream: Mapping[str, Any]
    defaults: Options


def _renames(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), by) for pattern, by in pairs)


_FAIRSEQ = (
    (r"^(?:encoder\.)?pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2(?:\.1)?\.", r"\1.layer_norm."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
# transformers takes both names of a normalised weight.
_OURS = (r"^(?!cls_token)", "speech_model.")
_HEADS = r"lm_head\.|classifier\.|projector\.|layer_weights|quantizer\.|project_q\.|project_hid\.|final_proj\."

LAYOUTS: Mapping[str, Layout] = {
    VG_HUBERT: Layout(
        "a VG-HuBERT",
        re.compile(r"(?:project_(?:q|k|inp)|final_proj|quantizer|input_quantizer|target_glu)\.|mask_emb$"),
        _renames(*_FAIRSEQ, _OURS),
    ),
    SYLBER: Layout("a Sylber", re.compile(r"masked_spec_embed$"), _renames(_OURS)),
    WAVLM: Layout(
        "a WavLM",
        re.compile(r"mask_emb$|final_proj\.|label_embs_concat$"),
        _renames(
            *_FAIRSEQ,
            (r"\.grep_linear\.", ".gru_rel_pos_linear."),
            (r"\.grep_a$", ".gru_rel_pos_const"),
            (r"\.relative_attention_bias\.", ".rel_attn_embed."),
            _OURS,
        ),
    ),
    SYLBOOST: Layout(
        "a SylBoost",
        re.compile(r"modality_encoders\.AUDIO\.decoder\.|_ema$"),
        _renames(
            (r"^modality_encoders\.AUDIO\.", ""),
            (r"^context_encoder\.blocks\.", "prenet."),
            (r"^blocks\.", "layers."),
            (r"^relative_positional_encoder\.(\d+)\.0\.", r"positions.\1."),
            (r"^local_encoder\.conv_layers\.(\d+)\.0\.", r"extractor.\1.conv."),
            (r"^local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"extractor.\1.norm."),
            (r"^project_features\.1\.", "projection.norm."),
            (r"^project_features\.2\.", "projection.linear."),
            (r"^alibi_scale$", "distance_scale"),
            (r"^context_encoder\.norm\.", "norm."),
            (r"\.attn\.qkv\.", ".qkv."),
            (r"\.attn\.proj\.", ".out."),
            (r"\.norm1\.", ".attention_norm."),
            (r"\.norm2\.", ".final_norm."),
            (r"\.mlp\.fc1\.", ".wide."),
            (r"\.mlp\.fc2\.", ".narrow."),
        ),
    ),
    TRANSFORMERS: Layout(
        "a model of transformers",
        re.compile(rf"(?:(?:hubert|wav2vec2|wavlm)\.)?masked_spec_embed$|{_HEADS}"),
        _renames((r"^(?:hubert|wav2vec2|wavlm)\.", ""), _OURS),
    ),
}


def recognise(name: str, content: object) -> Recognised | None:
    """Whose a pickled file is; None: of none of these systems.

    Args:
        name: of the checkpoint, for messages.
        content: of the file, its tensors or stand-ins that have their `shape`.

    Raises:
        UserError: it is of one of them, but not all of it, or of a shape that this system does not have.
    """
    found = _find_state(content)
    if found is None:
        return None
    layout, state = found
    if layout == WAVLM:
        assert isinstance(content, dict)
        return Recognised(layout, of_wavlm(name, content["cfg"]), _WAVLM_DEFAULTS)
    shapes = Shapes(name, LAYOUTS[layout].title, rename_keys(name, layout, state))
    if layout == SYLBOOST:
        return Recognised(layout, of_data2vec(shapes), _SYLBOOST_DEFAULTS)
    values = of_hubert(shapes)
    if layout == VG_HUBERT:
        return Recognised(layout, values, _VG_DEFAULTS)
    last = values["num_hidden_layers"]
    return Recognised(layout, values, {**_SYLBER_DEFAULTS, "encoder": {"layer": last, "normcut_layer": last}})


def check_preset(preset: str, name: str, layout: str) -> None:
    """Refuse a preset that was for the encoder of another system than checkpoint `name` is of.

    Raises:
        UserError: so it is, or there is no such preset.
    """
    get_preset(preset)
    system = SYSTEMS[preset]
    if system.layouts and layout not in system.layouts:
        wanted = " or ".join(_title(one) for one in system.layouts)
        raise UserError(
            f"preset {preset} is for {wanted}, but checkpoint {name} is {_title(layout)}; give --checkpoint one of them"
        )


def _title(layout: str) -> str:
    return "an SD-HuBERT" if layout == SDHUBERT else LAYOUTS[layout].title


def rename_state(name: str, content: object) -> dict[str, Any]:
    """The weights in the pickled file of another system, under the names of our encoder.

    Raises:
        UserError: two of its keys are one of ours.
    """
    found = _find_state(content)
    assert found is not None  # it was recognised before
    layout, state = found
    renamed = rename_keys(name, layout, state)
    if layout == VG_HUBERT and "cls_token" in renamed:
        renamed["cls_token"] = renamed["cls_token"].reshape(-1)  # (1, 1, D) in the file
    return renamed


def rename_keys(name: str, layout: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the names of our encoder, less those that are of no use.

    Raises:
        UserError: two of the keys are one of ours.
    """
    renamed: dict[str, Any] = {}
    for key, value in state.items():
        ours = LAYOUTS[layout].rename(key)
        if ours in renamed:
            raise UserError(f"checkpoint {name} has key {key!r} twice, by two names; it is damaged")
        if ours is not None:
            renamed[ours] = value
    return renamed


def describe_folder(name: str, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Options:
    """The options by which an encoder of transformers gets what it was trained with.

    Its states are those of the layer at three quarters of its depth (9 of 12, 18 of 24), which syllables are best
    found in where nothing else is known (Cho et al. 2023, arXiv 2310.10803, for HuBERT-base).

    Args:
        name: of the checkpoint.
        config: its config.json.
        preprocessor: its preprocessor_config.json.

    Raises:
        UserError: it takes other samples than 16 kHz, or one of the two does not say what it has to.
    """
    rate, normalised, layers = (
        preprocessor.get("sampling_rate"),
        preprocessor.get("do_normalize"),
        config.get("num_hidden_layers"),
    )
    if rate != 16_000:
        raise UserError(f"checkpoint {name} takes samples at {rate} Hz, says its preprocessor_config.json; not 16000")
    if not isinstance(normalised, bool):
        raise UserError(f"preprocessor_config.json of checkpoint {name} has no do_normalize that is true or false")
    if not isinstance(layers, int):
        raise UserError(f"config.json of checkpoint {name} has no num_hidden_layers that is a whole number")
    layer = round(layers * _LAYER_SHARE)
    audio = {"normalisation": "population", "variance_floor": 1e-7} if normalised else {"normalisation": "none"}
    return {"audio": audio, "encoder": {"layer": layer, "normcut_layer": layer}}


# What the system that the file is of does with samples, and which states it takes.
_VG_DEFAULTS: Options = {
    "audio": {"normalisation": "none"},
    "windows": _WHOLE,
    "encoder": {"layer": 9, "normcut_layer": 9},
}
_SYLBER_DEFAULTS: Options = {"audio": {"normalisation": "sample"}, "windows": _WHOLE}
_SYLBOOST_DEFAULTS: Options = {
    "audio": {"normalisation": "none"},
    "windows": _WHOLE,
    "encoder": {"layer": 11, "normcut_layer": 11},
}
_WAVLM_DEFAULTS: Options = {
    "audio": {"normalisation": "population", "variance_floor": 1e-5},
    "windows": {"window_seconds": None, "pad_samples": 40},
    "encoder": {"layer": 22, "normcut_layer": 13},
}


def _find_state(content: object) -> tuple[str, Mapping[str, Any]] | None:
    """The layout of a file's content, and the weights in it, without what all their names begin with."""
    if not isinstance(content, Mapping):
        return None
    for key, layout in (("audio_encoder", VG_HUBERT), ("dual_encoder", VG_HUBERT), ("model_seg", SYLBOOST)):
        state = content.get(key)
        if isinstance(state, Mapping):
            begins = {"dual_encoder": "audio_encoder.", "model_seg": "model."}.get(key, "")
            # Of the two that see and hear only the one that hears is asked for.
            return layout, {one.removeprefix(begins): value for one, value in _named(state) if one.startswith(begins)}
    cfg, model = content.get("cfg"), content.get("model")
    if isinstance(cfg, Mapping) and isinstance(model, Mapping) and cfg.get("relative_position_embedding"):
        return WAVLM, dict(_named(model))
    if "cls_token" in content and "post_extract_proj.weight" in content:
        return VG_HUBERT, dict(_named(content))
    if "feature_projection.projection.weight" in content and "encoder.layer_norm.weight" in content:
        return SYLBER, dict(_named(content))
    return None


def _named(state: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    return ((key, value) for key, value in state.items() if isinstance(key, str))
