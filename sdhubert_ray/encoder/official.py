"""The official format of checkpoints, but for their tensors: read without torch, which takes seconds to import.

The format is a zip archive of torch: `data.pkl` is a dict with `config`, `state_dict` and, of exported ones, `upstream`
and `segmentation`; the tensors lie beside it.
"""

import hashlib
import io
import json
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from sdhubert_ray.encoder.layouts import check_preset
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import CHANGES, PRESETS, Options, with_values
from sdhubert_ray.speech.systems import SDHUBERT, VG_HUBERT

UPSTREAM_KEY = "upstream"
_MOST_PLAIN_BYTES = 16 << 20
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
# What readers of zip and pickle raise on files that are damaged or something else.
_PEEK_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)


class _Shaped(NamedTuple):
    """Stands for a tensor, of which it has the shape."""

    shape: tuple[int, ...]


def _stand_in(_storage: object, _offset: object, shape: object, *_: object) -> _Shaped:
    return _Shaped(shape if isinstance(shape, tuple) else ())


@dataclass(frozen=True)
class Checkpoint:
    """An encoder as read from its file.

    Attributes:
        name: what the user called it.
        data: the bytes of the file.
        upstream: the values of the encoder's config; of an SD-HuBERT, those of its `speech_upstream`.
        options: segmentation options that it carries (section -> field -> value), to replace the preset's.
        layout: whose file it is, `layouts.SDHUBERT` or one of `layouts.LAYOUTS`.
        defaults: options of another system's encoder, which a preset that says otherwise replaces.
    """

    name: str
    data: bytes
    upstream: Mapping[str, Any]
    options: Mapping[str, Mapping[str, object]]
    layout: str = SDHUBERT
    defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def carried(self, preset: str) -> Options:
        """The options that come with it, less those that a preset of another system's encoder says itself.

        Raises:
            UserError: there is no such preset, or it is for another system's checkpoint.
        """
        check_preset(preset, self.name, self.layout)
        if self.layout == SDHUBERT:
            return self.options
        own = CHANGES[preset]
        return {
            section: {name: value for name, value in values.items() if name not in own.get(section, {})}
            for section, values in self.defaults.items()
        }

    @property
    def has_cls(self) -> bool:
        """Whether there is a CLS state in front of those of the frames."""
        return self.layout in (SDHUBERT, VG_HUBERT)

    @cached_property
    def sha256(self) -> str:
        """Identity of the weights and the encoder's shape: a hex digest."""
        digest = hashlib.sha256(self.data)
        digest.update(json.dumps(dict(self.upstream), sort_keys=True).encode())
        return digest.hexdigest()


class CheckpointConfig(NamedTuple):
    """The parts of a checkpoint that are no weights.

    Attributes:
        speech_upstream: name of its encoder, on the hub or of a folder.
        upstream: the values of its HubertConfig, where the file holds them: exported ones do, the official does not.
        options: segmentation options that it carries.
    """

    speech_upstream: str
    upstream: Mapping[str, Any] | None
    options: Mapping[str, Mapping[str, object]]


def peek(data: bytes) -> object | None:
    """What a file of torch holds, with a stand-in for every tensor; None: only torch can tell. Nothing is executed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Torch's own reader knows no case.
            (entry,) = (entry for entry in archive.infolist() if entry.filename.lower().endswith("/data.pkl"))
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _MOST_PLAIN_BYTES:
                return None
            pickled = archive.read(entry)
        if any(code.name in _PUTS and int(place or 0) > len(pickled) for code, place, _ in pickletools.genops(pickled)):
            return None  # the unpickler would make room for as many
        found: object = _Peeking(io.BytesIO(pickled)).load()
    except _PEEK_ERRORS:  # torch is asked then, and says what is wrong
        return None
    return found


class _Peeking(pickle.Unpickler):
    """Knows plain values and what tensors are made with, and of these makes nothing."""

    def persistent_load(self, _: object) -> None:
        """The values of a tensor, which are left where they are."""

    def find_class(self, module: str, name: str) -> type[object] | Callable[..., object]:
        """Only what torch's own files name."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *parts: _stand_in(*parts)  # a new one each time: a pickle may write on it
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name.endswith("Storage"):
            return object
        raise pickle.UnpicklingError(f"{module}.{name}")


def check_content(name: str, content: object) -> dict[str, Any]:
    """A checkpoint's content, which is a dict of `config` and `state_dict`.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict) or "config" not in content:
        raise UserError(f"checkpoint {name} is not a dict of `config` and `state_dict`; was it exported?")
    return content


def parse_config(name: str, content: object) -> CheckpointConfig:
    """The parts of a checkpoint that are no weights, of what it holds.

    Raises:
        UserError: not a checkpoint in the official format.
    """
    content = check_content(name, content)
    config = content["config"]
    if not isinstance(config, dict) or not isinstance(config.get("speech_upstream"), str):
        raise UserError(f"checkpoint {name} names no `speech_upstream` in its `config`; export it again")
    options = content.get("segmentation", {})
    if not isinstance(options, dict) or not all(isinstance(section, dict) for section in options.values()):
        raise UserError(f"checkpoint {name} has segmentation options that are no mapping of sections; export it again")
    try:
        with_values(PRESETS["readme"], options)
    except UserError as error:
        raise UserError(f"checkpoint {name} carries segmentation options that are refused: {error}") from error
    upstream = content.get(UPSTREAM_KEY)
    if upstream is not None and not isinstance(upstream, dict):
        raise UserError(f"checkpoint {name} has an {UPSTREAM_KEY!r} that is no encoder's config; export it again")
    try:
        json.dumps(upstream, sort_keys=True)
    except (TypeError, ValueError) as error:
        what = f"has an {UPSTREAM_KEY!r} that is no JSON ({error})"
        raise UserError(f"checkpoint {name} {what}; export it again") from error
    return CheckpointConfig(config["speech_upstream"], upstream, options)
