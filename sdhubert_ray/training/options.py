"""The configuration of a training run: typed, from a named or own YAML file and key=value; the original's keys work."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from sdhubert_ray.composing import compose, configs_folder, read_parts
from sdhubert_ray.errors import UserError, require_choice
from sdhubert_ray.speech.audio import MIN_SAMPLES, SAMPLE_RATE
from sdhubert_ray.storage.entries import SCHEMES
from sdhubert_ray.training.objectives import OF_SENTENCE, SENTENCE, SegmentsOptions, check_objective, refuse_unused
from sdhubert_ray.training.originals import in_our_places

TEACHERS = ("ema", "frozen")
PRECISIONS = ("auto", "float32", "bfloat16")
USE_GPU = ("auto", "true", "false")

DEFAULT_CONFIG = "sdhubert_base"

_SECONDS_BELOW = 1000.0
"""A `sample_len` under this is in seconds, from here on in samples."""
MOST_BAD_SHARE = 0.9
"""The most that `max_bad_share` can allow: with next to nothing to read, there is nothing to train with."""
MOST_READERS = 6
"""Processes that read for one worker, where nobody says how many: at 6 ms a crop a thousand crops a second."""


@dataclass(frozen=True)
class LossCoefficients:
    """What each part of the loss is multiplied with.

    Attributes:
        distillation_loss: the cross entropy between teacher and student.
    """

    distillation_loss: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("model.loss_coefs", self, ("distillation_loss",))


@dataclass(frozen=True)
class ModelOptions:
    """The model, its teacher, its loss and its learning rate.

    Attributes:
        speech_upstream: what training begins with: a name on the hub, or a folder of a HubertModel (config.json with
            weights), `bundled`; or random weights: a folder with config.json alone, `random` (as hubert-base), `tiny`.
        reinit_layers: transformer layers, counted from 0, that begin anew (Xavier normal).
        ema_decay: share of the teacher that stays in a step.
        final_dim: width of the projection head.
        freeze_extractor: the convolutional extractor is not trained.
        freeze_pos_embedding: the positional convolution is not trained.
        center_momentum: share of the center that stays in a step; the first takes its mean, and 1 never has a center.
        perturb_teacher: the teacher's input is perturbed too.
        teacher: `ema` follows the student, `frozen` stays the initial copy.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax.
        dropout: of transformer layers; none takes what the upstream's config says.
        lr: learning rate at the start.
        warmup_steps: steps in which the learning rate rises from 0 to `lr`, before its cosine.
        T_max: steps of the cosine, after which the learning rate stays at its end.
        gamma: the learning rate at the end, as a share of `lr`; 1 keeps it as it is.
        loss_coefs: factors of the parts of the loss.
    """

    speech_upstream: str = "facebook/hubert-base-ls960"
    reinit_layers: tuple[int, ...] = (9, 10, 11)
    ema_decay: float = 0.999
    final_dim: int = 2048
    freeze_extractor: bool = True
    freeze_pos_embedding: bool = True
    center_momentum: float = 0.9
    perturb_teacher: bool = True
    teacher: str = "ema"
    student_temperature: float = 0.2
    teacher_temperature: float = 0.05
    dropout: float | None = None
    lr: float = 1e-4
    warmup_steps: int = 0
    T_max: int = 200_000
    gamma: float = 0.1
    loss_coefs: LossCoefficients = field(default_factory=LossCoefficients)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reinit_layers", tuple(self.reinit_layers))  # from YAML it comes as a list
        require_choice("model.teacher", self.teacher, TEACHERS)
        _check_range("model", self, ("ema_decay", "center_momentum", "gamma"), 0.0, 1.0)
        if self.dropout is not None:
            _check_range("model", self, ("dropout",), 0.0, 1.0)
        _check_positive("model", self, ("final_dim", "student_temperature", "teacher_temperature", "lr", "T_max"))
        _check_range("model", self, ("warmup_steps",), 0, math.inf)
        if any(layer < 0 for layer in self.reinit_layers):
            raise ValueError(f"model.reinit_layers is {list(self.reinit_layers)}; layers are counted from 0")


@dataclass(frozen=True)
class OptimOptions:
    """The optimizer, beside the learning rate.

    Attributes:
        weight_decay: of AdamW.
        betas: of AdamW.
        eps: of AdamW.
        gradient_clip_val: largest norm of a gradient; 0 does not clip.
        accumulate_grad_batches: batches whose gradients make one step.
        max_skipped_steps: steps whose loss or gradient is infinite or NaN are skipped; so many in a row end the run.
        precision: `bfloat16` computes in autocast, with weights and loss in float32; `auto` does so on a GPU.
        compile: let torch.compile make the kernels; none is made on a CPU.
    """

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    gradient_clip_val: float = 0.5
    accumulate_grad_batches: int = 1
    max_skipped_steps: int = 10
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        require_choice("optim.precision", self.precision, PRECISIONS)
        _check_positive("optim", self, ("eps", "accumulate_grad_batches", "max_skipped_steps"))
        _check_range("optim", self, ("weight_decay", "gradient_clip_val"), 0.0, math.inf)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas is {list(self.betas)}; it has to be two numbers, 0 or more and under 1")


@dataclass(frozen=True)
class DataOptions:
    """The recordings, and how crops of them are read.

    Attributes:
        root_dir: a folder or URI in LibriSpeech's layout (train-clean-100, ...); or give `source`.
        train_splits: its folders to train with; with `source`, values of the column `split`, none takes all.
        val_splits: its folders to validate with.
        source: anything that `sdhubert segment` takes: a folder, a glob, tars, Parquet, a manifest; any URI.
        val_source: the same, to validate with; none holds back `val_share` of `source`.
        schemes: of the URIs that a manifest may name; those beside the manifest itself may always be named.
        val_share: share of the recordings of `source` that are held back for validation, chosen by their ids.
        batch_size: crops per worker and batch.
        val_batch_size: recordings per batch of the validation, two crops of each, which are compared with
            those of the others: scores of different sizes do not compare.
        num_workers: processes per worker that read crops; 0 reads them in the worker itself, none takes as many as
            the CPUs of a worker leave beside it, 1 to 6.
        sample_len: length of a crop: in seconds if under 1000, else in samples at 16 kHz.
        prefetch: batches that are read ahead by each of `num_workers`.
        max_bad_share: more recordings that cannot be read, as a share of those read, end the run.
    """

    root_dir: str | None = None
    train_splits: tuple[str, ...] = ("train-clean-100", "train-clean-360", "train-other-500")
    val_splits: tuple[str, ...] = ("dev-clean",)
    source: str | None = None
    val_source: str | None = None
    schemes: tuple[str, ...] = SCHEMES
    val_share: float = 0.01
    batch_size: int = 100
    val_batch_size: int = 50
    num_workers: int | None = None
    sample_len: float = 5.01
    prefetch: int = 2
    max_bad_share: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_splits", tuple(self.train_splits))
        object.__setattr__(self, "val_splits", tuple(self.val_splits))
        object.__setattr__(self, "schemes", tuple(self.schemes))
        _check_positive("data", self, ("batch_size", "val_batch_size", "prefetch", "sample_len"))
        _check_range("data", self, ("val_share",), 0.0, 1.0)
        _check_range("data", self, ("max_bad_share",), 0.0, MOST_BAD_SHARE)
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"data.num_workers is {self.num_workers}; it cannot be negative")
        if self.crop_samples < MIN_SAMPLES:
            raise ValueError(f"data.sample_len is {self.sample_len}; a crop needs 0.1 seconds or more")
        if self.root_dir is not None and self.source is not None:
            raise ValueError("data.root_dir and data.source name the recordings twice; give one of them")

    @property
    def crop_samples(self) -> int:
        """Length of a crop, samples at 16 kHz."""
        in_seconds = self.sample_len < _SECONDS_BELOW
        return round(self.sample_len * SAMPLE_RATE) if in_seconds else round(self.sample_len)


@dataclass(frozen=True)
class ScalingOptions:
    """The workers; their number x `data.batch_size` x `optim.accumulate_grad_batches` is the batch that counts.

    Attributes:
        num_workers: processes that train, one per GPU where there are GPUs.
        min_workers: go on with as few as these where nodes are lost, and grow back (elastic); none waits for all.
        use_gpu: `auto` takes GPUs where the cluster has any when the run begins.
        cpus_per_worker: CPUs reserved for each, for it and the processes that read its data; none takes one and
            `data.num_workers` (6 if that is none), or as many as the nodes have for all.
        memory_gib: memory reserved for each, GiB.
        max_failures: how often workers may die before the run ends; -1 never ends it.
    """

    num_workers: int = 1
    min_workers: int | None = None
    use_gpu: str = "auto"
    cpus_per_worker: float | None = None
    memory_gib: float | None = None
    max_failures: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "use_gpu", self.use_gpu.lower())  # YAML's true comes as True
        require_choice("scaling.use_gpu", self.use_gpu, USE_GPU)
        _check_positive("scaling", self, ("num_workers",))
        for key in ("cpus_per_worker", "memory_gib"):
            if getattr(self, key) is not None:
                _check_positive("scaling", self, (key,))
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(f"scaling.min_workers is {self.min_workers}; it has to be 1 to {self.num_workers}")
        if self.max_failures < -1:
            raise ValueError(f"scaling.max_failures is {self.max_failures}; it has to be -1 or more")


@dataclass(frozen=True)
class CheckpointOptions:
    """What is kept of a run.

    Attributes:
        every_steps: steps from one checkpoint to the next.
        keep: how many of the latest are kept, beside the best one.
    """

    every_steps: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        _check_positive("checkpoint", self, ("every_steps", "keep"))


@dataclass(frozen=True)
class TrainConfig:
    """All of a training run but where it is written to.

    Attributes:
        objective: `sentence`, the CLS states of crops (SD-HuBERT), or `segments`, the frames of segments (Sylber).
        name: of the run; it names the folder below `outputs` that is written to, unless one is given.
        seed: of weights that begin at random, of the order and crops of the recordings, of perturbations and dropout.
        max_steps: steps of the optimizer.
        val_check_interval: steps from one validation to the next.
        limit_val_batches: batches of a validation at most, of all workers; a share of them if a fraction up to 1.0.
        log_every_n_steps: steps from one line of the logs to the next.
        resume_ckpt: a checkpoint folder of a run to begin with; a run that has checkpoints goes on with its own.
    """

    objective: str = SENTENCE
    name: str = "sdhubert_paper"
    seed: int = 0
    max_steps: int = 200_000
    val_check_interval: int = 1000
    limit_val_batches: int | float = 50
    log_every_n_steps: int = 10
    resume_ckpt: str | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    segments: SegmentsOptions = field(default_factory=SegmentsOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    data: DataOptions = field(default_factory=DataOptions)
    scaling: ScalingOptions = field(default_factory=ScalingOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)

    def __post_init__(self) -> None:
        check_objective(self.objective)
        positive = ("max_steps", "val_check_interval", "limit_val_batches", "log_every_n_steps")
        for key in positive:
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"{key} is {getattr(self, key)}; it has to be a positive number")
        if not self.name or "/" in self.name or self.name in (".", ".."):
            raise ValueError(f"name is {self.name!r}; it has to be the name of a folder")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it has to be 0 or more")

    def identity(self) -> dict[str, object]:
        """What decides the weights that come out: a run is resumed with the same only."""
        data = {key: value for key, value in asdict(self.data).items() if key not in _LAYOUT_DATA}
        model = asdict(self.model)
        optim = {key: value for key, value in asdict(self.optim).items() if key not in _LAYOUT_OPTIM}
        of_objective: dict[str, object] = {}
        if self.objective != SENTENCE:
            model = {key: value for key, value in model.items() if key not in OF_SENTENCE}
            of_objective = {"objective": self.objective, "segments": asdict(self.segments)}
        for options, defaults in ((model, ModelOptions()), (optim, OptimOptions())):
            for key in _LATER & options.keys():
                if options[key] == getattr(defaults, key):
                    del options[key]
        return {
            "seed": self.seed,
            **of_objective,
            "model": model,
            "optim": optim,
            "data": {**data, "sample_len": self.data.crop_samples},
            "global_batch": self.global_batch,
            "resume_ckpt": self.resume_ckpt,
        }

    @property
    def num_readers(self) -> int:
        """Processes per worker that read crops: one at least, so that reading and training overlap, unless told."""
        if self.data.num_workers is not None:
            return self.data.num_workers
        return min(MOST_READERS, max(1, int(self.scaling.cpus_per_worker or 1) - 1))

    @property
    def global_batch(self) -> int:
        """Crops per step of the optimizer, of all workers."""
        return self.scaling.num_workers * self.data.batch_size * self.optim.accumulate_grad_batches


_LAYOUT_DATA = frozenset(("batch_size", "num_workers", "prefetch", "max_bad_share", "schemes"))
_LAYOUT_OPTIM = frozenset(("accumulate_grad_batches", "compile", "max_skipped_steps"))
"""Options of `data` and `optim` that change neither weights nor scores; the batch counts as `global_batch`."""
_LATER = frozenset(("warmup_steps", "eps"))
"""Options that runs were begun without: with their defaults they are no part of the identity, so that these go on."""


def load_train_config(name: str, overrides: Sequence[str], flags: Mapping[str, object]) -> TrainConfig:
    """Compose the configuration of a training run, the later winning: defaults, YAML file, key=value, flags.

    Keys of the original are taken as they were: `gamma`, `lr`, `T_max` and `loss_coefs` in `model` or at the top,
    `distill_loss` in the latter, and `gpus` (a list of GPUs, also as text, or their number).

    Args:
        name: of a file in configs/ (`sdhubert_base`, `sylber_stage1`), or the path or URI of a YAML file.
        overrides: `section.option=value` each.
        flags: dotted key -> value, from flags that were given.

    Raises:
        UserError: no such file, an unknown key (naming the near one), a value of the wrong type or out of range, an
            option of another objective than the one that is chosen.
    """
    given = [in_our_places(part) for part in read_parts(_find_config(name), overrides, flags)]
    config = compose(TrainConfig, given)
    refuse_unused(config.objective, config.segments, given[1:])
    return config


def _find_config(name: str) -> str:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return name
    known = {path.stem: str(path) for path in sorted(configs_folder().glob("*_*.yaml"))}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}" if near else f"there are {', '.join(known)}"
        raise UserError(f"--config-name is {name!r}, which is no training configuration; {hint}; or name a .yaml file")
    return known[name]


def _check_positive(section: str, options: object, keys: tuple[str, ...]) -> None:
    for key in keys:
        if not 0 < getattr(options, key) < math.inf:
            raise ValueError(f"{section}.{key} is {getattr(options, key)}; it has to be a positive number")


def _check_range(section: str, options: object, keys: tuple[str, ...], low: float, high: float) -> None:
    for key in keys:
        if not low <= getattr(options, key) <= high:
            most = "" if high == math.inf else f" and {high:g} or less"
            raise ValueError(f"{section}.{key} is {getattr(options, key)}; it has to be {low:g} or more{most}")
