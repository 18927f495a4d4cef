"""Layer, thresholds and shift, chosen on validation recordings; and the file that is delivered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from recipes.small.options import ChooseOptions
from sdhubert_ray import storage
from sdhubert_ray.encoder.checkpoint import pack_checkpoint
from sdhubert_ray.encoder.official import Checkpoint
from sdhubert_ray.evaluation.tuning import Tuned, encode_references, make_grid, tune_segmentation
from sdhubert_ray.speech.presets import PRESETS, SegmentationOptions
from sdhubert_ray.speech.spans import SpeechOptions


def choose(checkpoint: Checkpoint, root: str, options: ChooseOptions) -> Tuned:
    """The best options on the validation recordings below the folder or URI `root`."""
    base, width, last = PRESETS["readme"], checkpoint.upstream["hidden_size"], checkpoint.upstream["num_hidden_layers"]
    layers = sorted({*options.layers, last})
    corpora = [
        encode_references(checkpoint, storage.join(root, name), root, layers, base) for name in options.references
    ]
    norms = [SpeechOptions("absolute", round(norm * width**0.5, 2), silence_threshold=None) for norm in options.norms]
    grid = make_grid([(layer, last) for layer in options.layers], width)
    return tune_segmentation(corpora, base, replace(grid, speech=norms))


def deliver(name: str, upstream: Mapping[str, Any], weights: Mapping[str, Tensor], tuned: Tuned | None) -> bytes:
    """The file of a checkpoint: float16, with the options that were chosen, where they were."""
    half = {key: value.half() for key, value in weights.items()}
    return pack_checkpoint({"speech_upstream": name}, upstream, half, {} if tuned is None else chosen(tuned.options))


def chosen(options: SegmentationOptions) -> dict[str, dict[str, object]]:
    """What was chosen: section -> field -> value."""
    encoder, speech, syllables = options.encoder, options.speech, options.syllables
    return {
        "encoder": {"layer": encoder.layer, "normcut_layer": encoder.normcut_layer},
        "speech": {
            "normcut_strategy": speech.normcut_strategy,
            "normcut_threshold": speech.normcut_threshold,
            "silence_threshold": speech.silence_threshold,
        },
        "syllables": {
            "syl_dur": syllables.syl_dur,
            "drop_frames": syllables.drop_frames,
            "merge_threshold": syllables.merge_threshold,
        },
    }
