"""All options of the recipe. Nothing here imports torch or Ray: what is misspelt is told at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEAST_SECONDS = 0.3
"""Of a recording in a crop."""

_Check = Callable[[Any], str | None]
"""What a value has to be, if it is not that."""


def _positive(value: float) -> str | None:
    return None if value > 0 else "more than 0"


def _not_negative(value: float) -> str | None:
    return None if value >= 0 else "0 or more"


def _share(value: float) -> str | None:
    return None if 0 <= value <= 1 else "from 0 to 1"


def _range(least: float) -> _Check:
    def check(value: tuple[float, float]) -> str | None:
        return None if least <= value[0] <= value[1] else f"[least, most], from {least:g} on"

    return check


def _all(check: _Check) -> _Check:
    return lambda values: next((told for told in map(check, values) if told), None)


def _require(section: str, options: object, checks: Mapping[str, _Check]) -> None:
    for name, check in checks.items():
        value = getattr(options, name)
        if (wanted := check(value)) is not None:
            raise ValueError(f"{section}.{name} is {value}; it has to be {wanted}")


@dataclass(frozen=True)
class PrepareOptions:
    """What training has.

    Attributes:
        split: of the manifest, whose recordings with a transcript are aligned.
        synthetic_minutes: how much is said by flite.
        stretch: range of the factor of all durations of synthetic speech.
        pitch: range of the mean of its fundamental frequency, Hz; every second sentence has what the voice has.
        words: range of the number of words of a synthetic sentence.
    """

    split: str = "train"
    synthetic_minutes: float = 90.0
    stretch: tuple[float, float] = (0.7, 1.25)
    pitch: tuple[float, float] = (80.0, 220.0)
    words: tuple[int, int] = (3, 16)

    def __post_init__(self) -> None:
        ranges = {"stretch": _range(0.1), "pitch": _range(20.0), "words": _range(1)}
        _require("prepare", self, {"synthetic_minutes": _not_negative, **ranges})


@dataclass(frozen=True)
class PerturbOptions:
    """How much waveforms are perturbed; ranges are [least, most], shares are of the crops.

    Attributes:
        pitch: factor of pitch and formants together.
        tempo: factor of the tempo.
        tempo_share: whose tempo is drawn by itself; that of the others follows the pitch.
        channel_share: through a filter drawn for it.
        telephone_share: of those, limited to the band of a telephone.
        channel_gain: standard deviation of the filter's gain at its corners, dB.
        room_share: in a room drawn for it.
        room_seconds: reverberation time, until it is 60 dB weaker.
        noise_share: with noise.
        noise_ratio: speech over noise, dB.
        floor_ratio: speech over the noise that all others have, dB.
        clip_share: whose peaks are cut off.
        gain: factor of the z-scored crop, as a crop is not its recording.
    """

    pitch: tuple[float, float] = (0.8, 1.25)
    tempo: tuple[float, float] = (0.8, 1.3)
    tempo_share: float = 0.6
    channel_share: float = 0.4
    telephone_share: float = 0.2
    channel_gain: float = 6.0
    room_share: float = 0.25
    room_seconds: tuple[float, float] = (0.1, 0.6)
    noise_share: float = 0.6
    noise_ratio: tuple[float, float] = (0.0, 30.0)
    floor_ratio: tuple[float, float] = (35.0, 70.0)
    clip_share: float = 0.05
    gain: tuple[float, float] = (0.7, 1.4)

    def __post_init__(self) -> None:
        shares = ("tempo_share", "channel_share", "telephone_share", "room_share", "noise_share", "clip_share")
        _require("perturb", self, dict.fromkeys(shares, _share))
        _require("perturb", self, dict.fromkeys(("pitch", "tempo", "gain"), _range(0.1)))
        _require("perturb", self, {"room_seconds": _range(0.0), "channel_gain": _not_negative})
        _require("perturb", self, dict.fromkeys(("noise_ratio", "floor_ratio"), _range(-100.0)))


@dataclass(frozen=True)
class CropOptions:
    """What crops are made of.

    Attributes:
        seconds: length of a crop.
        synthetic_share: of the crops, made of synthetic speech.
        empty_share: of the crops, without any speech.
        pause: seconds between recordings that are put together, the most.
    """

    seconds: float = 5.0
    synthetic_share: float = 0.3
    empty_share: float = 0.06
    pause: float = 0.4
    perturb: PerturbOptions = field(default_factory=PerturbOptions)

    def __post_init__(self) -> None:
        if self.seconds <= LEAST_SECONDS:
            raise ValueError(f"crops.seconds is {self.seconds:g}; it has to be more than {LEAST_SECONDS:g}")
        _require("crops", self, {"synthetic_share": _share, "empty_share": _share, "pause": _not_negative})


@dataclass(frozen=True)
class ObjectiveOptions:
    """What states are asked for.

    Attributes:
        reach: frames that pairs are apart, the most.
        margin: cosine that is neither of the same syllable nor of another.
        sharpness: of the logit, by cosine.
        norm_margin: norm over sqrt(D) that is neither speech nor none.
        norm_sharpness: of the logit, by norm over sqrt(D).
        parts_weight: of the phones of onset, nucleus and coda, whose loss is in nats a frame.
    """

    reach: int = 20
    margin: float = 0.4
    sharpness: float = 8.0
    norm_margin: float = 0.5
    norm_sharpness: float = 10.0
    parts_weight: float = 0.1

    def __post_init__(self) -> None:
        _require("objective", self, {"reach": _positive, "sharpness": _positive, "norm_sharpness": _positive})
        _require("objective", self, {"parts_weight": _not_negative})


@dataclass(frozen=True)
class TrainOptions:
    """How the encoder is trained.

    Attributes:
        steps: of the optimizer.
        batch_size: crops of a step, of all workers.
        lr: its peak; it rises for `warmup` steps and falls by half a cosine to 0.
        warmup: steps.
        weight_decay: of AdamW.
        clip: norm of the gradient, the most.
        average: decay of the average of the weights, which is what is kept.
        checkpoint_every: steps.
        workers: processes; each has a GPU where the cluster has one for each.
        readers: processes beside each that make crops.
    """

    steps: int = 3600
    batch_size: int = 8
    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    clip: float = 1.0
    average: float = 0.999
    checkpoint_every: int = 250
    workers: int = 1
    readers: int = 1
    crops: CropOptions = field(default_factory=CropOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "warmup", "checkpoint_every", "workers")
        _require("train", self, dict.fromkeys((*counts, "lr", "clip"), _positive))
        _require("train", self, {"readers": _not_negative, "weight_decay": _not_negative, "average": _share})
        if self.batch_size % self.workers:
            raise ValueError(f"train.workers is {self.workers}; it has to divide train.batch_size, {self.batch_size}")


@dataclass(frozen=True)
class ChooseOptions:
    """What is tried on the validation recordings, beside what `make_grid` has.

    Attributes:
        references: files of syllables beside the manifest; each has the same weight.
        layers: whose states are cut. The norm that tells speech is of the last one, which learnt to.
        norms: thresholds of the norm, over sqrt(D). They are absolute: noise alone is no speech then.
    """

    references: tuple[str, ...] = ("syllables_librispeech_validation.json", "syllables_timit_validation.json")
    layers: tuple[int, ...] = (6, 5)
    norms: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7)

    def __post_init__(self) -> None:
        for name in ("references", "layers", "norms"):
            if not getattr(self, name):
                raise ValueError(f"choose.{name} is empty; name at least one")
        _require("choose", self, {"layers": _all(_not_negative), "norms": _all(_positive)})


@dataclass(frozen=True)
class RecipeConfig:
    """All options of the recipe."""

    seed: int = 0
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    choose: ChooseOptions = field(default_factory=ChooseOptions)
