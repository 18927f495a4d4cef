"""Where checkpoints come from: the bundled one, the released one, a path or URI; and the encoder's shape."""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdhubert_ray import storage
from sdhubert_ray.composing import configs_folder
from sdhubert_ray.encoder.hub import read_folder
from sdhubert_ray.encoder.layouts import check_preset, recognise
from sdhubert_ray.encoder.official import Checkpoint, CheckpointConfig, parse_config, peek
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.speech.systems import SDHUBERT

if TYPE_CHECKING:  # torch takes seconds, and whoever refuses a checkpoint's name needs none
    from torch import Tensor

BUNDLED = "bundled"
RANDOM, TINY = "random", "tiny"
RELEASED = "sdhubert_base"
_RELEASED_DRIVE_ID = "1u2jTdAck8qD6ZEb5bqHfvUNsN-9DgGfg"
# Encoders whose config is in this package, so that they need no network.
_BASE_UPSTREAM = "facebook/hubert-base-ls960"
_KNOWN_UPSTREAMS = {_BASE_UPSTREAM: "hubert-base-ls960.json"}
_RANDOM_UPSTREAMS = {RANDOM: "hubert-base-ls960.json", TINY: "hubert-tiny.json"}
_MIN_RELEASED_BYTES = 100 << 20
_DOWNLOAD_TIMEOUT_SECONDS = 60.0
_MAX_REASON = 300
_HUB, _HUB_DEFAULT = "hf://", "main"
# A path of a file that is not there should not be looked for elsewhere.
_HUB_NAME = r"[\w.-]+/[\w.-]+(?<!\.pt)(?<!\.pth)(?<!\.ckpt)(?<!\.bin)(?<!\.safetensors)(@[\w./-]+)?"
_DIGEST_MARK = "@sha256:"
_DIGEST_ENDING = ".sha256"

logger = logging.getLogger(__name__)

_ASSETS = Path(__file__).parent.parent / "assets"


class Upstream(NamedTuple):
    """A HuBERT to begin training with.

    Attributes:
        name: what the user called it.
        config: the values of its HubertConfig.
        weights: the state dict of its HubertModel, and `cls_token` where it has one; none for random ones.
    """

    name: str
    config: dict[str, Any]
    weights: "dict[str, Tensor] | None"


def fetch_checkpoint(name: str, preset: str = "readme") -> Checkpoint:
    """Read a checkpoint by name, path or URI.

    Args:
        name: `bundled` (small, docs/bundled.md), `sdhubert_base` (downloaded once into the cache), a path, or any URI
            that fsspec knows, of a file or of a folder with config.json and model.safetensors, or USER/NAME of the hub;
            of an SD-HuBERT or another system (`layouts.LAYOUTS`). A file (there that of the weights) is refused if it
            has another digest than `@sha256:HEX` behind the name, where that is given.
        preset: that it is to be used with.

    Raises:
        UserError: it cannot be had, is no checkpoint, or one that the preset is not for, or its file has another digest
            than was given or, of one that was downloaded, than it had then; the message names the ways out.
    """
    asked, mark, digest = name.partition(_DIGEST_MARK)
    if mark and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UserError(f"checkpoint {name}: {digest!r} is no SHA-256; it has 64 hexadecimal digits")
    if asked in (BUNDLED, RELEASED):  # before anything is downloaded
        check_preset(preset, name, SDHUBERT)
    if asked == BUNDLED:
        uri = str(_ASSETS / "bundled.pt")
    elif asked == RELEASED:
        uri = _download_released(digest)
    else:
        uri = asked
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        if re.fullmatch(_HUB_NAME, asked):
            return _fetch_from_hub(name, asked, digest)
        raise UserError(f"checkpoint {name} does not exist; give a path or URI, {RELEASED} or {BUNDLED}") from error
    except IsADirectoryError:
        return _fetch_folder(name, uri, digest)
    except OSError as error:
        raise UserError(f"checkpoint {name} cannot be read ({error})") from error
    _check_digest(name, data, digest or (_kept_digest(uri) if asked == RELEASED else None))
    content = read_content(name, data)
    foreign = recognise(name, content)
    if foreign is not None:
        return Checkpoint(name, data, foreign.upstream, {}, foreign.layout, foreign.defaults)
    found = parse_config(name, content)
    shape = found.upstream if found.upstream is not None else _read_upstream(found.speech_upstream, uri)
    return Checkpoint(name, data, shape, found.options)


def _fetch_from_hub(name: str, repository: str, digest: str) -> Checkpoint:
    try:
        return _fetch_folder(name, f"{_HUB}{repository}", digest)
    except UserError as error:
        raise UserError(f"checkpoint {name} is no path here, and cannot be had from the hub: {error}") from error


def _fetch_folder(name: str, uri: str, digest: str) -> Checkpoint:
    try:
        checkpoint = read_folder(name, uri)
    except OSError as error:
        raise UserError(f"checkpoint {name} cannot be read ({error})") from error
    _check_digest(name, checkpoint.data, digest or None)
    return checkpoint


def read_config(name: str, data: bytes) -> CheckpointConfig:
    """Read the parts of a checkpoint that are no weights.

    Raises:
        UserError: not a checkpoint in the official format.
    """
    return parse_config(name, read_content(name, data))


def read_content(name: str, data: bytes) -> object:
    """What a checkpoint's file holds, its tensors or stand-ins that have their `shape`.

    Raises:
        UserError: it is damaged, or would have to be executed.
    """
    content = peek(data)
    if content is None:
        from sdhubert_ray.encoder.checkpoint import load_plain

        content = load_plain(name, data)
    return content


def cache_folder() -> Path:
    """Where downloads are kept: $SDHUBERT_CACHE, or sdhubert_ray in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdhubert_ray"
    return Path(os.environ.get("SDHUBERT_CACHE") or default)


def _reason(error: Exception) -> str:
    """What an error says, on one line, without the errors nested in it."""
    text = " ".join(str(error).partition(" (Caused by")[0].split()) or type(error).__name__
    return text[:_MAX_REASON]


def _kept_digest(uri: str) -> str | None:
    """The digest that was written beside a file when it was downloaded, as `sha256sum` has it; None: there is none."""
    try:
        text = storage.read_bytes(f"{uri}{_DIGEST_ENDING}").decode(errors="replace")
    except FileNotFoundError:
        return None
    return text.split(maxsplit=1)[0] if text.strip() else None


def _check_digest(name: str, data: bytes, wanted: str | None) -> None:
    if wanted is None:
        return
    found = hashlib.sha256(data).hexdigest()
    if found != wanted.lower():
        raise UserError(
            f"the file of checkpoint {name} has the SHA-256 {found}, not {wanted.lower()}: it is another file, was "
            "changed or is damaged; fetch it again"
        )


def _download_released(digest: str) -> str:
    target = cache_folder() / f"{RELEASED}.pt"
    if target.exists():
        return str(target)
    import gdown
    import requests
    import urllib3

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whatever a broken download leaves is in this folder, and gone with it.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            partial = Path(folder) / target.name
            # The file is public. A jar of cookies in the home is one for all processes, and a half-written one warns.
            gdown.download(
                id=_RELEASED_DRIVE_ID, output=str(partial), timeout=_DOWNLOAD_TIMEOUT_SECONDS, use_cookies=False
            )
            if partial.stat().st_size < _MIN_RELEASED_BYTES:
                raise OSError(f"{partial.stat().st_size} bytes came, which is no checkpoint")
            data = partial.read_bytes()
            _check_digest(RELEASED, data, digest or None)
            kept = hashlib.sha256(data).hexdigest()
            storage.put(f"{target}{_DIGEST_ENDING}", f"{kept}  {target.name}\n".encode())
            partial.replace(target)
            logger.warning("downloaded %s: SHA-256 %s", target, kept)
    except (OSError, requests.RequestException, urllib3.exceptions.HTTPError, gdown.exceptions.DownloadError) as error:
        raise UserError(
            f"the released checkpoint {RELEASED} needs a download, which is not possible ({_reason(error)}); "
            f"--checkpoint {BUNDLED} is at hand, small, and finds syllables too; or give --checkpoint a path, or fetch "
            f"Google Drive file {_RELEASED_DRIVE_ID} to {target} where there is a network"
        ) from error
    return str(target)


def is_checkpoint(name: str) -> bool:
    """Whether a `speech_upstream` is the path or URI of a checkpoint's file, of ours or of another system."""
    return name.endswith((".pt", ".pth", ".ckpt"))


def fetch_upstream(name: str, read: Callable[[str], bytes] = storage.read_bytes) -> Upstream:
    """Read the encoder that a training begins with.

    Args:
        name: a name on the hub, with `@REVISION` (a commit, tag or branch) behind it if need be; or a folder or URI of
            a HubertModel or Wav2Vec2Model (config.json and its weights); a checkpoint: `bundled`, `sdhubert_base`, or
            the path or URI of a file, of another system too; or random weights: a folder with config.json alone,
            `random` (as hubert-base), `tiny`.
        read: reads weights of a folder; they are large, and the workers of a machine may share them.

    Raises:
        UserError: it cannot be had; the message names the ways out.
    """
    values: dict[str, Any]
    weights: dict[str, Tensor] | None
    if name in (BUNDLED, RELEASED) or is_checkpoint(name):
        from sdhubert_ray.encoder.checkpoint import read_upstream_weights

        checkpoint = fetch_checkpoint(name)
        values, weights = dict(checkpoint.upstream), read_upstream_weights(checkpoint)
    elif name in _RANDOM_UPSTREAMS:
        values, weights = _own_config(_RANDOM_UPSTREAMS[name]), None
    elif (found := _read_folder_config(name)) is not None:
        values, weights = found, _read_folder_weights(name, read)
    else:
        values, weights = _read_hub(name)
    return Upstream(name, values, weights)


def _read_upstream(upstream: str, checkpoint_uri: str) -> dict[str, Any]:
    """The HubertConfig values of a `speech_upstream`: a folder beside the checkpoint, an absolute one, or a hub name.

    A folder of the working directory is none of these: it is another one wherever the command is called.
    """
    is_absolute = upstream.startswith("/") or "://" in upstream
    folder = checkpoint_uri.rpartition("/")[0] if "/" in checkpoint_uri else "."
    beside = upstream if is_absolute else storage.join(folder, upstream)
    values = _read_folder_config(beside)
    if values is not None:
        return values
    if upstream in _KNOWN_UPSTREAMS:
        return _own_config(_KNOWN_UPSTREAMS[upstream])
    if not is_absolute and Path(upstream).is_dir():  # which transformers would take for it
        raise UserError(
            f"speech_upstream {upstream!r} of checkpoint {checkpoint_uri} is a folder of the working directory, which "
            f"may be another encoder's; put its config.json into {beside}"
        )
    from transformers import HubertConfig

    try:
        repository, _, revision = upstream.partition("@")
        return dict(HubertConfig.from_pretrained(repository, revision=revision or _HUB_DEFAULT).to_dict())
    except (OSError, ValueError) as error:
        raise UserError(
            f"speech_upstream {upstream!r} of checkpoint {checkpoint_uri} is neither a folder beside it nor on the hub "
            f"({first_line(error)}); put its config.json into {beside}"
        ) from error


def _read_folder_config(folder: str) -> dict[str, Any] | None:
    """The values of a folder's config.json; none if it has no such file."""
    config_uri = storage.join(folder, "config.json")
    try:
        return storage.read_json(config_uri)
    except (OSError, ValueError) as error:
        raise UserError(f"speech_upstream config {config_uri} cannot be read ({error})") from error


def _read_folder_weights(folder: str, read: Callable[[str], bytes]) -> "dict[str, Tensor] | None":
    """The state dict of a folder's HubertModel; none if it holds no weights."""
    import safetensors
    import safetensors.torch

    from sdhubert_ray.encoder.checkpoint import read_weights

    for name in ("model.safetensors", "pytorch_model.bin"):
        uri = storage.join(folder, name)
        try:
            data = read(uri)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"speech_upstream weights {uri} cannot be read ({error})") from error
        if name.endswith(".bin"):
            return read_weights(uri, data)
        try:
            return dict(safetensors.torch.load(data))
        except safetensors.SafetensorError as error:
            raise UserError(f"speech_upstream weights {uri} are damaged ({error})") from error
    return None


def _read_hub(name: str) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    from transformers import AutoModel

    try:
        repository, _, revision = name.partition("@")
        model, info = AutoModel.from_pretrained(repository, revision=revision or _HUB_DEFAULT, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"speech_upstream {name!r} is neither a folder with a config.json nor can it be had from the hub "
            f"({first_line(error)}); copy its config.json and weights into a folder and name that, "
            f"or begin with {BUNDLED}, or with random weights: {RANDOM} or {TINY}"
        ) from error
    lacking = sorted(key for key in info["missing_keys"] if key != "masked_spec_embed")
    if lacking:  # which transformers has made at random
        raise UserError(f"speech_upstream {name!r} lacks key {lacking[0]!r} of its own config; take another revision")
    return dict(model.config.to_dict()), dict(model.state_dict())


def _own_config(name: str) -> dict[str, Any]:
    return dict(json.loads((configs_folder() / name).read_text()))
