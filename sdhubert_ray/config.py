"""The configuration of a segmentation job: typed, from a preset, the checkpoint, a YAML file and key=value."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from sdhubert_ray import storage
from sdhubert_ray.audio import AudioOptions
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import OutputOptions
from sdhubert_ray.presets import EncoderOptions, SegmentationOptions, get_preset
from sdhubert_ray.speech import SpeechOptions
from sdhubert_ray.syllables import SyllableOptions
from sdhubert_ray.windows import WindowOptions

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Resources:
    """How the work is laid out; none of it changes results.

    Attributes:
        encoders: encoder workers; none takes one per GPU, or what CPUs and memory allow.
        batch_seconds: padded audio per forward call, seconds.
        unit_seconds: audio per unit of work, seconds; a unit is decoded, encoded, cut and committed together.
        unit_rows: rows per unit at most.
        encoder_memory_gib: memory that one encoder worker may use, GiB.
    """

    encoders: int | None = None
    batch_seconds: float = 80.0
    unit_seconds: float = 600.0
    unit_rows: int = 256
    encoder_memory_gib: float = 3.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"resources.{option.name} is {value}; it has to be a positive number")


@dataclass(frozen=True)
class JobConfig:
    """All of a segmentation job but its input and output.

    Attributes:
        preset: `readme` or `paper`: the defaults of the five sections that follow.
        checkpoint: a path or URI, `bundled` (small, random weights), or `sdhubert_base` (the released one).
        device: `auto` takes a GPU where there is one.
        dtype: precision of the encoder.
        max_failed: more rows unreadable, missing or failed end the run with exit code 3.
    """

    preset: str = "readme"
    checkpoint: str = "sdhubert_base"
    device: str = "auto"
    dtype: str = "float32"
    max_failed: int = 0
    audio: AudioOptions = field(default_factory=AudioOptions)
    windows: WindowOptions = field(default_factory=WindowOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    speech: SpeechOptions = field(default_factory=SpeechOptions)
    syllables: SyllableOptions = field(default_factory=SyllableOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        for key, value, known in (("device", self.device, DEVICES), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"{key} is {value!r}; it has to be one of {', '.join(known)}")
        if self.max_failed < 0:
            raise ValueError(f"max_failed is {self.max_failed}; it cannot be negative")

    @property
    def segmentation(self) -> SegmentationOptions:
        """The options that change segments."""
        return SegmentationOptions(self.audio, self.windows, self.encoder, self.speech, self.syllables)

    def identity(self, checkpoint_sha256: str) -> dict[str, object]:
        """What decides the results: the weights, the segmentation, the precision, and what the table holds."""
        return {
            "checkpoint_sha256": checkpoint_sha256,
            "dtype": self.dtype,
            **asdict(self.segmentation),
            "output": {
                "frame_features": self.output.frame_features,
                "segment_features": self.output.segment_features,
            },
        }


def load_config(
    path: str | None,
    overrides: Sequence[str],
    flags: Mapping[str, object],
    carried: Mapping[str, Mapping[str, object]],
) -> JobConfig:
    """Compose a configuration, the later winning: preset, checkpoint, YAML file, key=value, command-line flags.

    Args:
        path: a YAML file, or None.
        overrides: `section.option=value` each.
        flags: dotted key -> value, from flags that were given.
        carried: the segmentation options that the checkpoint carries.

    Raises:
        UserError: an unknown key (naming the near one), a value of the wrong type or out of range.
    """
    schema = _schema()
    given = [_read_yaml(path)] if path else []
    given += [_read_override(text) for text in overrides]
    given += [_from_dotted(key, value) for key, value in flags.items()]
    try:
        for section in schema:
            if OmegaConf.is_dict(schema[section]):
                for part in given:
                    if section in part and not OmegaConf.is_dict(part[section]):
                        raise UserError(f"config key {section!s} is a section, it cannot be {part[section]!r}")
        user = OmegaConf.merge(schema, *given)
        preset = asdict(get_preset(str(user.preset)))
        config = OmegaConf.to_object(OmegaConf.merge(schema, preset, dict(carried), *given))
    except ConfigKeyError as error:
        raise UserError(_unknown_key(str(error.full_key))) from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config key {error.full_key or '?'}: {reason}") from error
    except ValueError as error:  # a section's own check, which names the key
        raise UserError(str(error)) from error
    if not isinstance(config, JobConfig):
        raise TypeError(f"configuration became a {type(config).__name__}")
    return config


def _schema() -> DictConfig:
    schema: DictConfig = OmegaConf.structured(JobConfig)
    # Frozen dataclasses make read-only nodes, on every level; here they are only a schema to merge into.
    for node in (schema, *(schema[key] for key in schema if OmegaConf.is_config(schema[key]))):
        OmegaConf.set_readonly(node, False)
    return schema


def _read_yaml(path: str) -> DictConfig:
    try:
        loaded = OmegaConf.create(storage.read_bytes(path).decode())
    except FileNotFoundError as error:
        raise UserError(f"config file {path} does not exist") from error
    except (OSError, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(f"config file {path} cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"config file {path} is no mapping of keys to values")
    return loaded


def _read_override(text: str) -> DictConfig:
    key, separator, _ = text.partition("=")
    if not separator or not key:
        raise UserError(f"{text!r} is no override; write key=value, for example syllables.syl_dur=0.2")
    try:
        return DictConfig(OmegaConf.from_dotlist([text]))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(f"override {text!r} cannot be read ({str(error).splitlines()[0]})") from error


def _from_dotted(key: str, value: object) -> DictConfig:
    config = OmegaConf.create({})
    OmegaConf.update(config, key, value)
    return config


def _unknown_key(key: str) -> str:
    known = _dotted_keys(JobConfig())
    if key in known:
        section, _, option = key.partition(".")
        return f"config key {key!r} stands in a file as one word; write {option} in the section {section}:"
    near = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = near or difflib.get_close_matches(key, known, 1, 0.5)
    short = {name.rpartition(".")[2]: name for name in known}
    near = near or [short[name] for name in difflib.get_close_matches(key.rpartition(".")[2], short, 1)]
    return f"unknown config key {key!r}" + (
        f"; did you mean {near[0]!r}?" if near else f"; keys are {', '.join(known)}"
    )


def _dotted_keys(options: Any, prefix: str = "") -> list[str]:  # noqa: ANN401 - any options dataclass
    keys: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        inner = _dotted_keys(value, f"{prefix}{option.name}.") if is_dataclass(value) else [f"{prefix}{option.name}"]
        keys += inner
    return keys
