"""The options of a segmentation together, and the published sets of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import AudioOptions
from sdhubert_ray.speech.spans import SpeechOptions
from sdhubert_ray.speech.syllables import SyllableOptions
from sdhubert_ray.speech.windows import WindowOptions

Options = Mapping[str, Mapping[str, object]]
"""Single options: section -> field -> value."""


@dataclass(frozen=True)
class EncoderOptions:
    """Which hidden states are used; 0 is the input of the transformer, l the output of its layer l.

    Attributes:
        layer: the states that are the features.
        normcut_layer: the states whose norm tells speech.
    """

    layer: int = 9
    normcut_layer: int = 11

    def __post_init__(self) -> None:
        for name in ("layer", "normcut_layer"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"encoder.{name} is {value!r}; layers are whole numbers, counted from 0")


@dataclass(frozen=True)
class SegmentationOptions:
    """All that changes the segments of a recording, but for the weights."""

    audio: AudioOptions = field(default_factory=AudioOptions)
    windows: WindowOptions = field(default_factory=WindowOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    speech: SpeechOptions = field(default_factory=SpeechOptions)
    syllables: SyllableOptions = field(default_factory=SyllableOptions)


_WHOLE_SPEECH: Mapping[str, object] = {  # nothing is taken for silence
    "normcut_strategy": "absolute",
    "normcut_threshold": -1.0,
    "silence_threshold": None,
    "min_span_frames": 0,
    "max_span_seconds": 3600.0,
}
_WHOLE_WINDOWS: Mapping[str, object] = {"window_seconds": None, "pad_samples": 0}
_BY_THE_MINUTE = 60.0
"""Seconds. Attention to whole recordings takes memory by their square: longer ones are cut where it is quiet."""


def _sylboost(max_error: float) -> Options:
    return {
        "audio": {"normalisation": "none", "piece_seconds": _BY_THE_MINUTE},
        "windows": _WHOLE_WINDOWS,
        "encoder": {"layer": 11, "normcut_layer": 11},
        "speech": _WHOLE_SPEECH,
        "syllables": {"segmenter": "sse-dp", "sse_dp": {"max_error": max_error}, "pooling": "inner"},
    }


CHANGES: Mapping[str, Options] = {
    # What the original's page describes: the field defaults.
    "readme": {},
    # What the paper reports: whole utterances, an absolute threshold, short segments dropped.
    "paper": {
        "audio": {"variance_floor": 1e-7},
        "windows": _WHOLE_WINDOWS,
        "speech": {
            "normcut_strategy": "absolute",
            "normcut_threshold": 2.0,
            "silence_threshold": None,
            "min_span_frames": 0,
        },
        "syllables": {
            "syl_dur": 0.2,
            "merge_threshold": 0.3,
            "min_cut_minimum": 5,
            "keep_last_frame": False,
            "drop_frames": 2,
            "merge_minimum": 3,
        },
    },
    # Systems as they were published; `systems` tells of each.
    "sd-hubert": {},
    "hubert": {},
    "sylber": {
        "audio": {"normalisation": "sample", "piece_seconds": _BY_THE_MINUTE},
        "windows": _WHOLE_WINDOWS,
        "encoder": {"layer": 9, "normcut_layer": 9},
        "speech": _WHOLE_SPEECH,
        "syllables": {"segmenter": "greedy"},
    },
    "sylboost-8.33": _sylboost(0.0033),
    "sylboost-6.25": _sylboost(0.0028),
    "sylboost-5.0": _sylboost(0.0019),
    "vg-hubert": {
        "audio": {"normalisation": "none", "piece_seconds": _BY_THE_MINUTE},
        "windows": _WHOLE_WINDOWS,
        "encoder": {"layer": 9, "normcut_layer": 9},
        "speech": _WHOLE_SPEECH,
        "syllables": {"syl_dur": 0.2, "merge_threshold": 0.3, "keep_last_frame": False, "merge_minimum": 3},
    },
    "zerosyl": {
        "audio": {"normalisation": "population", "variance_floor": 1e-5, "piece_seconds": _BY_THE_MINUTE},
        "windows": {"window_seconds": None, "pad_samples": 40},
        "encoder": {"layer": 22, "normcut_layer": 13},
        "speech": _WHOLE_SPEECH,
        "syllables": {"segmenter": "norm-peaks", "pooling": "unit"},
    },
}
"""What each preset changes of the field defaults."""


def get_preset(name: str) -> SegmentationOptions:
    """Look up a preset.

    Raises:
        UserError: there is no such preset.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UserError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}") from None


def with_values(options: SegmentationOptions, values: Mapping[str, Mapping[str, object]]) -> SegmentationOptions:
    """Replace single options: `values` maps a section (`speech`) to its fields and their new values.

    Raises:
        UserError: an unknown section or field, or a value that is refused.
    """
    sections = {section.name for section in fields(SegmentationOptions)}
    for section, changes in values.items():
        if section not in sections:
            raise UserError(f"unknown options {section!r}; the sections are {', '.join(sorted(sections))}")
        options = replace(options, **{section: _with_changes(section, getattr(options, section), changes)})
    return options


def _with_changes(key: str, current: Any, changes: Mapping[str, object]) -> Any:  # noqa: ANN401 - any options
    """One section with changes, those of the sections within it included."""
    values = dict(changes)
    for name, value in changes.items():
        if name not in {known.name for known in fields(current)}:
            raise UserError(f"unknown option {key}.{name}")
        inner = getattr(current, name)
        if is_dataclass(inner) and isinstance(value, Mapping):
            values[name] = _with_changes(f"{key}.{name}", inner, value)
        else:
            _check_type(f"{key}.{name}", value, get_type_hints(type(current))[name])
    try:
        return replace(current, **values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{error}") from error


def _check_type(key: str, value: object, hint: Any) -> None:  # noqa: ANN401 - a type or a union of types
    allowed = get_args(hint) or (hint,)
    if float in allowed:
        allowed = (*allowed, int)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in allowed)
        raise UserError(f"{key} is {value!r}; it has to be {names}")


PRESETS: Mapping[str, SegmentationOptions] = {
    name: with_values(SegmentationOptions(), changes) for name, changes in CHANGES.items()
}
