"""The configuration of a segmentation job: typed, from a preset, the checkpoint, a YAML file and key=value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from omegaconf import DictConfig

from sdhubert_ray.composing import compose, given_values, merge, read_parts
from sdhubert_ray.errors import UserError, require_choice
from sdhubert_ray.output import OutputOptions
from sdhubert_ray.speech.audio import POPULATION, SOXR, AudioOptions
from sdhubert_ray.speech.presets import EncoderOptions, SegmentationOptions, get_preset
from sdhubert_ray.speech.rate import rate_keys
from sdhubert_ray.speech.spans import SpeechOptions
from sdhubert_ray.speech.syllables import MEAN, SEGMENTERS, SyllableOptions
from sdhubert_ray.speech.windows import WindowOptions
from sdhubert_ray.storage.entries import SCHEMES

DEVICES = ("auto", "cpu", "cuda")
AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16")
STALL_SECONDS = 60.0
"""A run on a cluster that has become smaller is planned anew when nothing was committed for this long."""
RESEGMENT_SECTIONS = ("speech", "syllables")
"""Their options work on features that are there already."""


@dataclass(frozen=True)
class TaskResources:
    """What one worker of a CPU stage takes from the cluster.

    Attributes:
        cpus: CPUs reserved.
        memory_gib: memory reserved, GiB; without it the cluster cannot keep itself from running out.
        workers: how many run at once at most; none takes what is free.
    """

    cpus: float = 1.0
    memory_gib: float = 0.5
    workers: int | None = None


@dataclass(frozen=True)
class EncoderResources:
    """What one encoder takes from the cluster, and how many there are.

    Attributes:
        cpus: CPUs reserved.
        gpus: GPUs reserved where the device is cuda; 0.5 lets two encoders share one.
        memory_gib: memory reserved, GiB.
        min_workers: encoders at least; none takes as many as there can be.
        max_workers: encoders at most, for clusters that grow; none takes one per GPU, or what CPUs and memory allow.
        initial_workers: encoders to begin with; none takes `min_workers`.
    """

    cpus: float = 1.0
    gpus: float = 1.0
    memory_gib: float = 3.0
    min_workers: int | None = None
    max_workers: int | None = None
    initial_workers: int | None = None


@dataclass(frozen=True)
class Resources:
    """How the work is laid out; none of it changes results.

    Attributes:
        batch_seconds: padded audio per forward call on a GPU, seconds.
        unit_seconds: audio per unit of work, seconds; a unit is decoded, encoded, cut and committed together. None fits
            them to the work and the workers, from 10 to 600 s.
        unit_rows: rows per unit at most.
        decode: workers that fetch and decode.
        encode: workers that hold the model.
        cut: workers that cut and commit.
    """

    batch_seconds: float = 80.0
    unit_seconds: float | None = None
    unit_rows: int = 256
    decode: TaskResources = field(default_factory=TaskResources)
    encode: EncoderResources = field(default_factory=EncoderResources)
    cut: TaskResources = field(default_factory=TaskResources)

    def __post_init__(self) -> None:
        values = {key: getattr(self, key) for key in ("batch_seconds", "unit_seconds", "unit_rows")}
        for name, stage in (("decode", self.decode), ("encode", self.encode), ("cut", self.cut)):
            values |= {f"{name}.{key}": value for key, value in asdict(stage).items()}
        for key, value in values.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"resources.{key} is {value}; it has to be a positive number")
        low, start, high = (
            self.encode.min_workers,
            self.encode.initial_workers,
            self.encode.max_workers,
        )
        ordered = [value for value in (low, start, high) if value is not None]
        if ordered != sorted(ordered):
            raise ValueError(
                f"resources.encode has min_workers {low}, initial_workers {start} and max_workers {high}; "
                "they have to be in this order"
            )


@dataclass(frozen=True)
class SourceOptions(AudioOptions):
    """How audio is found, read and normalised; where it is found is nothing that a checkpoint may say.

    Attributes:
        schemes: of the URIs that a manifest may name; those beside the manifest itself may always be named.
    """

    schemes: tuple[str, ...] = SCHEMES

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "schemes", tuple(self.schemes))


@dataclass(frozen=True)
class JobConfig:
    """All of a segmentation job but its input and output.

    Attributes:
        preset: `readme` or `paper`: the defaults of the five sections that follow.
        checkpoint: a path or URI, `bundled` (small, in the package), or `sdhubert_base` (the released one).
        device: `auto` takes a GPU where there is one.
        dtype: precision of the encoder; `auto` takes the fastest that the machine or cluster has, bfloat16 or float32.
        max_failed: more rows unreadable, missing or failed end the run with exit code 3.
        quantizer: a folder or URI of `sdhubert cluster`: syllables get its units; none leaves them without.
        foreign_quantizer: take one that was made from features of another checkpoint or layer.
        rate: syllables per second of audio that the segmenter is tuned to on a sample; none takes its options as they
            are.
    """

    preset: str = "readme"
    checkpoint: str = "sdhubert_base"
    device: str = "auto"
    dtype: str = "float32"
    max_failed: int = 0
    quantizer: str | None = None
    foreign_quantizer: bool = False
    rate: float | None = None
    audio: SourceOptions = field(default_factory=SourceOptions)
    windows: WindowOptions = field(default_factory=WindowOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    speech: SpeechOptions = field(default_factory=SpeechOptions)
    syllables: SyllableOptions = field(default_factory=SyllableOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        require_choice("device", self.device, DEVICES)
        require_choice("dtype", self.dtype, DTYPES)
        if self.max_failed < 0:
            raise ValueError(f"max_failed is {self.max_failed}; it cannot be negative")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate is {self.rate}; it has to be a positive number of syllables per second")

    @property
    def segmentation(self) -> SegmentationOptions:
        """The options that change segments."""
        audio = AudioOptions(**{option.name: getattr(self.audio, option.name) for option in fields(AudioOptions)})
        return SegmentationOptions(audio, self.windows, self.encoder, self.speech, self.syllables)

    def identity(self, checkpoint_sha256: str, quantizer_sha256: str | None = None) -> dict[str, object]:
        """What decides the results: the weights, the segmentation, the precision, what the table holds, the units."""
        # No key without a quantizer: outputs from before there were any can go on.
        units: dict[str, object] = {"quantizer": {"sha256": quantizer_sha256}} if quantizer_sha256 else {}
        options = asdict(self.segmentation)
        options["syllables"] = that_count(options["syllables"])
        for name, usual in (("resampler", SOXR), ("normalisation", POPULATION)):
            if options["audio"][name] == usual:  # as before there were others
                del options["audio"][name]
        return {
            "checkpoint_sha256": checkpoint_sha256,
            "dtype": self.dtype,
            **({} if self.rate is None else {"rate": self.rate}),
            **options,
            "output": {
                "frame_features": self.output.frame_features,
                "segment_features": self.output.segment_features,
            },
            **units,
        }


def that_count(syllables: Mapping[str, object]) -> dict[str, object]:
    """The options of the segmenter alone, of all that `SyllableOptions` has: those of others change nothing.

    Min-cut's are as before there were others.
    """
    name = str(syllables["segmenter"])
    section = SEGMENTERS[name]
    pooling = {} if syllables["pooling"] == MEAN else {"pooling": syllables["pooling"]}  # as before there were others
    if section is not None:
        return {"segmenter": name, section: syllables[section], **pooling}
    others = {"segmenter", *SEGMENTERS.values()} | ({"pooling"} - set(pooling))
    if syllables["max_frames"] is None:  # no key without it: outputs from before there was one can go on
        others.add("max_frames")
    return {key: value for key, value in syllables.items() if key not in others}


def flags_of_output(formats: Sequence[str] | None, frame_features: str | None, precision: str) -> dict[str, object]:
    """The keys of --format and --frame-features; `files` has frame features, of `precision` if none is given."""
    needed = precision if formats and "files" in formats else None
    return {"output.formats": [*formats] if formats else None, "output.frame_features": frame_features or needed}


def given(flags: Mapping[str, object]) -> dict[str, object]:
    """Those of some keys that are not None: the others are as file, preset and checkpoint have them."""
    return {key: value for key, value in flags.items() if value is not None}


def load_config(
    path: str | None,
    overrides: Sequence[str],
    flags: Mapping[str, object],
    carried: Mapping[str, Mapping[str, object]],
    saved: Mapping[str, object] | None = None,
) -> JobConfig:
    """Compose a configuration, the later winning: preset, checkpoint, YAML file, key=value, command-line flags.

    Args:
        path: a YAML file, or None.
        overrides: `section.option=value` each.
        flags: dotted key -> value, from flags that were given.
        carried: the segmentation options that the checkpoint carries.
        saved: the configuration of a run whose features are there; it takes the place of the preset, and a preset
            that is given counts for `RESEGMENT_SECTIONS` only.

    Raises:
        UserError: an unknown key (naming the near one), a value of the wrong type or out of range, an option of another
            segmenter than the one that is chosen, or a rate beside the option that it decides.
    """
    given = read_parts(path, overrides, flags)
    preset = get_preset(str(merge(JobConfig, given).preset))
    defaults: list[Mapping[str, object]] = [asdict(preset), carried]
    if saved is not None:
        chosen = RESEGMENT_SECTIONS if any("preset" in part for part in given) else ()
        defaults = [saved, *({name: part[name] for name in chosen if name in part} for part in defaults)]
    config = compose(JobConfig, [*defaults, *given])
    words = given[1:] if path else given  # a file may hold all options that there are
    _refuse_unused(config.syllables.segmenter, words)
    if config.rate is not None:
        _refuse_tuned(rate_keys(config.syllables.segmenter), words)
    return config


def _refuse_tuned(keys: Sequence[str], given: Sequence[DictConfig]) -> None:
    """Refuse options that are given beside the rate that is to decide them."""
    said = {key for part in given for key in given_values(part)}
    for key in keys:
        if key in said:
            raise UserError(f"{key} is given beside a rate, which decides it; leave out one of both")


def _refuse_unused(segmenter: str, given: Sequence[DictConfig]) -> None:
    """Refuse options of a segmenter that is not the one: they would do nothing, and nobody would see."""
    own = SEGMENTERS[segmenter]
    for part in given:
        for key in map(str, part.get("syllables") or {}):
            section = key if key in SEGMENTERS.values() else None
            if key not in ("segmenter", "pooling") and section != own:
                whose = next(name for name, value in SEGMENTERS.items() if value == section)
                raise UserError(
                    f"syllables.{key} is for the segmenter {whose}, but syllables.segmenter is {segmenter}; "
                    "leave it out, or choose that one"
                )
