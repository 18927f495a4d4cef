"""Checkpoints as folders, as the Hugging Face hub has them: config.json, model.safetensors and a card, no pickle.

Reading the folder needs no torch, making one does.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version

from sdhubert_ray import storage
from sdhubert_ray.encoder.official import UPSTREAM_KEY, Checkpoint, parse_config
from sdhubert_ray.errors import UserError

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CARD, WEIGHTS, CONFIG)
"""In the order in which they are written: without a config the folder is no checkpoint yet."""

_MODEL_TYPE = "sdhubert"
"""None that transformers knows: its own classes have no CLS state, and would take the weights for another model's."""


def read_folder(name: str, folder: str) -> Checkpoint:
    """Read a checkpoint from such a folder.

    Args:
        name: what the user called it.
        folder: its path or URI, such as `hf://USER/NAME`.

    Raises:
        UserError: it holds none, or a damaged one.
        OSError: it cannot be read.
    """
    config_uri, weights_uri = storage.join(folder, CONFIG), storage.join(folder, WEIGHTS)
    try:
        config = storage.read_json(config_uri)
    except ValueError as error:
        raise UserError(f"config {config_uri} of checkpoint {name} cannot be read ({error})") from error
    if config is None or config.get("model_type") != _MODEL_TYPE:
        raise UserError(
            f"checkpoint {name} is a folder; name the .pt file in it, or a folder of `sdhubert export --hub`"
        )
    found = parse_config(name, {"state_dict": {}, **config})
    if found.upstream is None:
        raise UserError(f"config {config_uri} of checkpoint {name} has no {UPSTREAM_KEY!r}; export it again")
    try:
        data = storage.read_bytes(weights_uri)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {name} has no {WEIGHTS} beside its config; export it again") from error
    return Checkpoint(name, data, found.upstream, found.options)


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
