"""Weights of checkpoints: read, check strictly, build the model. Nothing in a checkpoint is ever executed."""

import io
import lzma
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sdhubert_ray.encoder.data2vec2 import build_data2vec
from sdhubert_ray.encoder.layouts import LAYOUTS, rename_keys, rename_state
from sdhubert_ray.encoder.model import DTYPES, SDHuBERT, TransformersEncoder, build_transformer
from sdhubert_ray.encoder.official import UPSTREAM_KEY, Checkpoint, check_content
from sdhubert_ray.encoder.protocol import Encoder
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.speech.systems import SDHUBERT, SYLBOOST, TRANSFORMERS

# State of the training that a checkpoint may hold and that inference has no use for.
_TRAINING_KEYS = frozenset(
    ("masked_spec_embed", "speech_model.masked_spec_embed", "temp_s", "temp_t", "center", "center_momentum_")
)
_UPSTREAM_PREFIX = "speech_model."
_HEAD_PREFIXES = ("layernorm.", "final_proj.", "final_lin.")

# What torch's readers of zip and pickle raise on files that are damaged or something else.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


# The official file says it as torch did in 2023.
_OFFICIAL_ENDINGS = {
    "conv.parametrizations.weight.original0": "conv.weight_g",
    "conv.parametrizations.weight.original1": "conv.weight_v",
}


def pack_checkpoint(
    config: Mapping[str, object],
    upstream: Mapping[str, Any],
    state: Mapping[str, Tensor],
    segmentation: Mapping[str, Mapping[str, object]],
) -> bytes:
    """The bytes of a checkpoint in the official format, which holds its encoder's config too.

    Args:
        config: options of the model, with its `speech_upstream`.
        upstream: values of the HubertConfig.
        state: state dict of an `SDHuBERT`, under today's names.
        segmentation: options that it should be used with: section -> field -> value.
    """
    buffer = io.BytesIO()
    official = {
        "config": dict(config),
        UPSTREAM_KEY: dict(upstream),
        "state_dict": {_official_name(key): value.detach().clone() for key, value in state.items()},
        "segmentation": {section: dict(values) for section, values in segmentation.items()},
    }
    torch.save(official, buffer)
    return buffer.getvalue()


def _official_name(name: str) -> str:
    for ending, old in _OFFICIAL_ENDINGS.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + old
    return name


def _todays_name(name: str) -> str:
    for ending, old in _OFFICIAL_ENDINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + ending
    return name


def load_model(checkpoint: Checkpoint, options: EncoderOptions, dtype: str, device: str) -> Encoder:
    """Build the encoder for inference: eval mode, no layer past the ones that `options` read.

    On a GPU this process then computes float32 as float32, also where torch would round it to TF32, as in convolutions.

    Raises:
        UserError: a missing or extra key, a wrong shape, or a layer that the encoder does not have.
    """
    try:
        with torch.device("meta"):  # without memory: the weights of the file are taken as they are
            model = _build(checkpoint)
    except ValueError as error:
        whose = "its speech_upstream config" if checkpoint.layout == SDHUBERT else "its config"
        raise UserError(f"checkpoint {checkpoint.name}: no encoder of {whose} ({error})") from error
    _fill(model, read_state(checkpoint), checkpoint)
    last = max(options.layer, options.normcut_layer)
    if last > model.num_layers:
        key = "layer" if options.layer == last else "normcut_layer"
        raise UserError(f"encoder.{key} is {last}, but checkpoint {checkpoint.name} has {model.num_layers} layers")
    model.keep_layers(last)
    model.fold()
    forbid_tf32()
    model.requires_grad_(False).eval().to(device=device, dtype=DTYPES[dtype])
    if device == "cpu":
        model.transform_positions()
    return model


def _build(checkpoint: Checkpoint) -> Encoder:
    if checkpoint.layout == SYLBOOST:
        return build_data2vec(checkpoint.upstream)
    return build_transformer(checkpoint.upstream, SDHuBERT if checkpoint.has_cls else TransformersEncoder)


def forbid_tf32() -> None:
    """Have torch compute products and convolutions of float32 with all its digits; TF32 has ten bits of them."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def load_plain(name: str, data: bytes) -> Any:  # noqa: ANN401 - whatever it holds
    """Read a file that torch has pickled, onto the CPU.

    Raises:
        UserError: it is damaged, or would have to be executed.
    """
    if not data:
        raise UserError(f"checkpoint {name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it is about to refuse
            _check_sums(data)
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        reason = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        if isinstance(error, pickle.UnpicklingError):  # whose own words advise to execute it
            reason = "it holds other things than tensors and plain values"
        raise UserError(f"checkpoint {name} cannot be read without executing it, or is damaged ({reason})") from error


def _check_sums(data: bytes) -> None:
    """Compare the checksums of an archive, which torch does not."""
    if not zipfile.is_zipfile(io.BytesIO(data)):  # as of torch before 1.6
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if not any(entry.CRC for entry in archive.infolist()):  # torch can be told to write none
            return
        broken = archive.testzip()
    if broken is not None:
        raise OSError(f"{broken} in it is not what was written")


def read_weights(name: str, data: bytes) -> dict[str, Tensor]:
    """Read a state dict that torch has pickled.

    Raises:
        UserError: it is damaged, would have to be executed, or is something else.
    """
    content = load_plain(name, data)
    if not isinstance(content, dict) or not all(torch.is_tensor(value) for value in content.values()):
        raise UserError(f"weights {name} are no dict of named tensors")
    return content


def read_upstream_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict of a checkpoint's HubertModel, under today's names, and its CLS vector: a training's beginning.

    Raises:
        UserError: not a checkpoint in the official format.
    """
    return {
        _todays_name(key.removeprefix(_UPSTREAM_PREFIX)): value.float()
        for key, value in read_state(checkpoint).items()
        if key.startswith((_UPSTREAM_PREFIX, "cls_token")) and not _is_training_state(key)
    }


def _fill(model: Encoder, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    name, ours = checkpoint.name, checkpoint.layout == SDHUBERT
    # Half precision is for smaller files: what is computed of weights before they are used is not rounded to it.
    used = {
        key: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        for key, value in state.items()
        if not (ours and _is_training_state(key))
    }
    try:
        result = model.load_state_dict(used, strict=False, assign=True)
    except RuntimeError as error:
        mismatch = str(error).split("\n\t")[-1].strip().rstrip(".")
        what = "its speech_upstream" if ours else "its config"
        raise UserError(f"checkpoint {name} does not fit {what}: {mismatch}") from error
    missing = [key for key in result.missing_keys if not _is_training_state(key)]
    what = "it is no SD-HuBERT of its speech_upstream"
    if not ours:
        what = f"it is not {LAYOUTS[checkpoint.layout].title} of its shape"
    for problem, keys in (("lacks", missing), ("has the unknown", result.unexpected_keys)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"checkpoint {name} {problem} key {keys[0]!r}{more}; {what}")


def _is_training_state(key: str) -> bool:
    return key in _TRAINING_KEYS or key.startswith(_HEAD_PREFIXES)


def read_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict of a checkpoint, of a pickled file or of one in safetensors, under the names of our encoder.

    Raises:
        UserError: it is damaged, or no checkpoint.
    """
    name, layout = checkpoint.name, checkpoint.layout
    if layout == TRANSFORMERS:
        return rename_keys(name, layout, _read_tensors(name, checkpoint.data))
    if layout != SDHUBERT:
        return rename_state(name, load_plain(name, checkpoint.data))
    if _is_safetensors(checkpoint.data):
        return _read_tensors(name, checkpoint.data)
    state: dict[str, Tensor] = unpickle(name, checkpoint.data)["state_dict"]
    return state


def _read_tensors(name: str, data: bytes) -> dict[str, Tensor]:
    if not _is_safetensors(data):
        return read_weights(name, data)
    try:
        return dict(safetensors.torch.load(data))
    except safetensors.SafetensorError as error:
        raise UserError(f"the weights of checkpoint {name} are damaged ({error}); fetch them again") from error


def _is_safetensors(data: bytes) -> bool:
    """Tell by its first bytes: the length of a header, which is JSON. Archives and pickles begin otherwise."""
    return data[8:9] == b"{"


def unpickle(name: str, data: bytes) -> dict[str, Any]:
    """The content of a checkpoint, with its tensors, named each. Raises UserError."""
    content = check_content(name, load_plain(name, data))
    bad = [key for key, value in content["state_dict"].items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if bad:
        raise UserError(f"checkpoint {name} has {bad[0]!r} in its state_dict, which is no named tensor")
    return content
