"""Checkpoints as folders, as the Hugging Face hub has them: ours, without a pickle, and those of transformers.

Reading the folder needs no torch, making one does.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from sdhubert_ray import storage
from sdhubert_ray.encoder import layouts
from sdhubert_ray.encoder.official import UPSTREAM_KEY, Checkpoint, parse_config
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.systems import TRANSFORMERS

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CARD, WEIGHTS, CONFIG)
"""In the order in which they are written: without a config the folder is no checkpoint yet."""

_PREPROCESSOR, _PICKLED = "preprocessor_config.json", "pytorch_model.bin"
_MODEL_TYPE = "sdhubert"
"""None that transformers knows: its own classes have no CLS state, and would take the weights for another model's."""


def read_folder(name: str, folder: str) -> Checkpoint:
    """Read a checkpoint from a folder of `pack_folder`, or of an encoder of transformers.

    Args:
        name: what the user called it.
        folder: its path or URI, such as `hf://USER/NAME`.

    Raises:
        UserError: it holds none, or a damaged one.
        OSError: it cannot be read.
    """
    config_uri, weights_uri = storage.join(folder, CONFIG), storage.join(folder, WEIGHTS)
    config = _read_config(name, config_uri)
    if config is not None and config.get("model_type") in layouts.MODEL_TYPES:
        return _read_transformers(name, folder, config)
    if config is None or config.get("model_type") != _MODEL_TYPE:
        raise UserError(
            f"checkpoint {name} is a folder; name the .pt file in it, or a folder of `sdhubert export --hub`, or one "
            f"of transformers whose config.json has a model_type of {', '.join(layouts.MODEL_TYPES)}"
        )
    found = parse_config(name, {"state_dict": {}, **config})
    if found.upstream is None:
        raise UserError(f"config {config_uri} of checkpoint {name} has no {UPSTREAM_KEY!r}; export it again")
    try:
        data = storage.read_bytes(weights_uri)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {name} has no {WEIGHTS} beside its config; export it again") from error
    return Checkpoint(name, data, found.upstream, found.options)


def _read_config(name: str, uri: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(uri)
    except ValueError as error:
        raise UserError(f"config {uri} of checkpoint {name} cannot be read ({error})") from error


def _read_transformers(name: str, folder: str, config: Mapping[str, Any]) -> Checkpoint:
    preprocessor = _read_config(name, storage.join(folder, _PREPROCESSOR))
    if preprocessor is None:
        raise UserError(
            f"checkpoint {name} is a folder; name the .pt file in it, or, if it is of transformers, copy its "
            f"{_PREPROCESSOR} too, which says whether samples are normalised"
        )
    defaults = layouts.describe_folder(name, config, preprocessor)
    for file in (WEIGHTS, _PICKLED):
        try:
            data = storage.read_bytes(storage.join(folder, file))
        except FileNotFoundError:
            continue
        return Checkpoint(name, data, config, {}, TRANSFORMERS, defaults)
    raise UserError(f"checkpoint {name} has neither {WEIGHTS} nor {_PICKLED} beside its config.json; copy one of them")


def pack_folder(checkpoint: Checkpoint, title: str, made: Mapping[str, str]) -> dict[str, bytes]:
    """The files of such a folder, by name in the order of `FILES`.

    Args:
        checkpoint: in the official format.
        title: of the card.
        made: what the card tells of its origin: label -> text.

    Raises:
        UserError: the checkpoint is damaged.
    """
    import safetensors.torch

    from sdhubert_ray.encoder.checkpoint import unpickle

    content = unpickle(checkpoint.name, checkpoint.data)
    state = {key: value.detach().clone().contiguous() for key, value in content["state_dict"].items()}
    config = {
        "model_type": _MODEL_TYPE,
        "sdhubert_ray": version("sdhubert_ray"),
        "config": content["config"],
        UPSTREAM_KEY: dict(checkpoint.upstream),
        "segmentation": {section: dict(values) for section, values in checkpoint.options.items()},
    }
    try:
        told = json.dumps(config, indent=1).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise UserError(
            f"checkpoint {checkpoint.name} has a `config` that is no JSON ({error}); export it again"
        ) from error
    facts = {
        "layers": str(checkpoint.upstream.get("num_hidden_layers")),
        "width": str(checkpoint.upstream.get("hidden_size")),
        "weights": f"{sum(value.numel() for value in state.values()):,}",
        **made,
    }
    card = _CARD.format(
        title=title,
        facts="\n".join(f"| {label} | {text} |" for label, text in facts.items()),
        options="\n".join(_list_options(checkpoint.options)) or "(those of the preset `readme`)",
    )
    return {CARD: card.encode(), WEIGHTS: safetensors.torch.save(state, {"format": "pt"}), CONFIG: told}


def _list_options(options: Mapping[str, Mapping[str, object]]) -> list[str]:
    return [
        f"{section}.{name}={json.dumps(value)}" for section, values in options.items() for name, value in values.items()
    ]


_CARD = """\
---
library_name: sdhubert_ray
pipeline_tag: feature-extraction
tags:
- speech
- syllables
- hubert
- sd-hubert
---

# {title}

A speech encoder whose frame features fall apart into syllables, in the form of
[SD-HuBERT](https://arxiv.org/abs/2310.10803): a HubertModel with a CLS state before its layers. It takes audio at
16 kHz and gives 50 frames a second.

## Use

```python
from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter

segmenter = SDHuBERTSegmenter("hf://USER/{title}")  # or the path of a copy of this folder
outputs = MincutWrapper()(segmenter("speech.wav"))
outputs["segments"]  # (S, 2) seconds
```

or `sdhubert segment AUDIO OUTPUT --checkpoint hf://USER/{title}`. transformers alone cannot load it.

## What it is

| | |
|---|---|
{facts}

Options that it brings, and that are taken unless others are given:

```
{options}
```

## Data, licence and figures

To be told by whoever publishes it: what speech it has heard, under which licence it may be used (`license:` above), and
how well it finds syllables (`sdhubert evaluate boundary`).
"""
