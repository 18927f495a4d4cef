"""A worker's training: its data, its model, Lightning's Trainer and what stands beside it. Ray is handed in."""

import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import lightning
import numpy as np
import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from torch.utils.data import DataLoader

from sdhubert_ray import storage
from sdhubert_ray.encoder.weights import fetch_upstream
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.training.callbacks import KeepCheckpoints, Report, ResumePoint, WatchRun, read_resume_point
from sdhubert_ray.training.checkpoints import find_sound_checkpoint
from sdhubert_ray.training.data import (
    Crop,
    CropReader,
    Share,
    TrainingOrder,
    torch_loader,
    validation_order,
)
from sdhubert_ray.training.distillation import SegmentDistillation, fit_norms, norms_of
from sdhubert_ray.training.fetching import fetch_once, reader_of
from sdhubert_ray.training.logs import RunLogger
from sdhubert_ray.training.module import COUNTS, DistillationModule
from sdhubert_ray.training.objectives import SEGMENTS
from sdhubert_ray.training.options import TrainConfig
from sdhubert_ray.training.recordings import Recordings, open_recordings
from sdhubert_ray.training.runs import DATA_FOLDER
from sdhubert_ray.training.waiting import Waiting

_BEGUN_FILE = "begun.ckpt"
"""In the folder that workers of a machine share: the checkpoint that was fetched to begin with."""
_VALIDATION_WORKERS = 2
_NORM_CROPS = 64
"""So many crops tell the norms of speech and of other frames, where a run begins without."""
_PRECISIONS: dict[str, Literal["bf16-mixed", "32-true"]] = {"bfloat16": "bf16-mixed", "float32": "32-true"}

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """Where a worker stands.

    Attributes:
        output: folder of the run.
        share: of every batch.
        folder: of this machine, empty, for what is on its way.
        shared: of this machine and all its workers, empty before the first of them, for what they fetch once.
        use_gpu: it has a GPU.
        strategy: how Lightning keeps the workers together.
        environments: likewise.
        report: keeps checkpoints, see `KeepCheckpoints`.
        is_going: tells whether a machine will go soon.
        agree: takes the word of the first worker for that of all: what is in a store may change between two looks.
    """

    output: str
    share: Share
    folder: Path
    shared: Path
    use_gpu: bool
    strategy: Strategy | Literal["auto"]
    environments: tuple[ClusterEnvironment, ...]
    report: Report
    is_going: Callable[[], bool]
    agree: Callable[[str | None], str | None]


def fit(config: TrainConfig, worker: Worker) -> str | None:
    """Train from the last checkpoint of the run, or from the beginning, until `max_steps`.

    Returns:
        why the run cannot go on, the same for all workers; None if it is done.

    Raises:
        RuntimeError: this worker cannot begin, but the first one can.
    """
    try:
        last = _together(worker, lambda: find_sound_checkpoint(worker.output) if worker.share.rank == 0 else None)
        uri = worker.agree(last.uri if last is not None else config.resume_ckpt)
        ready = _together(worker, lambda: _make_ready(config, worker, uri))
    except _RefusedError as refusal:
        return str(refusal)
    if ready is None:
        return None
    if worker.share.rank == 0:
        _tell(config, worker, ready)
    ready.trainer.fit(ready.module, ready.train, ready.val, ckpt_path=ready.begun_with, weights_only=True)
    return ready.watch.refusal


class _RefusedError(Exception):
    """Why no worker can begin."""


def _together(worker: Worker, work: Callable[[], Result]) -> Result:
    """Do what a user may have to mend, which is then told by all workers: one that ended alone would leave the others.

    Raises:
        _RefusedError: the first worker could not do it.
        RuntimeError: this worker could not, but the first one could.
    """
    problem = None
    try:
        result = work()
    except UserError as error:
        problem = str(error)
    of_first = worker.agree(problem)
    if of_first is not None:
        raise _RefusedError(of_first)
    if problem is not None:
        raise RuntimeError(problem)
    return result


class _Ready(NamedTuple):
    """All that a worker trains with."""

    module: DistillationModule
    trainer: lightning.Trainer
    train: Waiting
    val: DataLoader[Crop]
    watch: WatchRun
    begun: ResumePoint
    begun_with: Path | None


def _make_ready(config: TrainConfig, worker: Worker, uri: str | None) -> _Ready | None:
    """What to train with, from the checkpoint at `uri` on; None if all is done."""
    share, data = worker.share, config.data
    data_folder = storage.join(worker.output, DATA_FOLDER)
    begun_with = None if uri is None else _fetch_checkpoint(uri, worker.shared)
    upstream = fetch_upstream(config.model.speech_upstream, reader_of(worker.shared))
    segments = config.segments if config.objective == SEGMENTS else None
    module = DistillationModule(config.model, config.optim, config.seed, upstream, config.global_batch, segments)
    begun = ResumePoint() if begun_with is None else _check_checkpoint(begun_with, str(uri), module)
    if begun.step >= config.max_steps:
        if uri == config.resume_ckpt:
            raise UserError(f"resume_ckpt is of step {begun.step}, and max_steps is {config.max_steps}; give more")
        return None
    train, val = (open_recordings(data_folder, name, worker.folder) for name in ("train", "val"))
    if begun_with is None:
        _begin_norms(config, module, train)
    steps = config.max_steps - begun.step
    order = TrainingOrder(len(train), config.seed, share, config.global_batch, begun.position, steps)
    reader = CropReader(train, data.crop_samples, config.seed, module.views(training=True))
    waiting = Waiting(torch_loader(reader, order, config.num_readers, data.prefetch, worker.use_gpu))
    val_order = validation_order(len(val), share, data.val_batch_size, config.limit_val_batches)
    val_reader = CropReader(val, data.crop_samples, config.seed, module.views(training=False))
    val_workers = min(_VALIDATION_WORKERS, config.num_readers)
    val_loader = torch_loader(val_reader, val_order, val_workers, data.prefetch, worker.use_gpu)
    watch = WatchRun(config, waiting, share)
    places = (worker.output, worker.folder, worker.shared)
    keep = KeepCheckpoints(config, begun, *places, worker.report, worker.is_going)
    trainer = _build_trainer(config, worker, begun.step, (watch, keep), has_val=len(val) > 0)
    return _Ready(module, trainer, waiting, val_loader, watch, begun, begun_with)


def _begin_norms(config: TrainConfig, module: DistillationModule, recordings: Recordings) -> None:
    """Where the teacher finds segments and nobody says what its norms are like: find it, in the first crops of the run.

    All workers do so, and begin with what the first has found, as with its weights.

    Raises:
        UserError: the norms do not tell speech from the rest.
    """
    distillation = module.distillation
    if not isinstance(distillation, SegmentDistillation) or distillation.options.given or distillation.norms.given > 0:
        return
    reader = CropReader(recordings, config.data.crop_samples, config.seed)
    (draws,) = TrainingOrder(len(recordings), config.seed, Share(0, 1, _NORM_CROPS), _NORM_CROPS, 0, 1)
    found = []
    for draw in draws:  # one by one, so that it takes little memory
        batch = reader.read_batch([draw])
        num_frames = int(distillation.student.count_frames(batch["num_samples"]))
        found.append(norms_of(distillation.teach(batch["samples"], batch["num_samples"]))[0, :num_frames].numpy())
    norms = fit_norms(np.concatenate(found))
    if norms is None:
        raise UserError(
            "the norms of the teacher's states do not tell speech from the rest; give segments.speech_norm and "
            "segments.quiet_norm, a mean and a variance each"
        )
    distillation.norms.begin(norms)


def _tell(config: TrainConfig, worker: Worker, ready: _Ready) -> None:
    if ready.begun_with is None and ready.module.begins_at_random:
        upstream = config.model.speech_upstream
        logger.warning("RANDOM WEIGHTS: training begins with nothing learnt, as speech_upstream %s has none.", upstream)
    device, precision = "GPU" if worker.use_gpu else "CPU", _precision(config, worker.use_gpu)
    print(
        f"training from step {ready.begun.step} of {config.max_steps}: workers: {worker.share.world}, on {device} in "
        f"{precision}, {config.global_batch} crops per step",
        flush=True,
    )


def _build_trainer(
    config: TrainConfig, worker: Worker, step: int, callbacks: Sequence[Callback], has_val: bool
) -> lightning.Trainer:
    micro_batches = worker.share.count_micro_batches(config.global_batch)
    return lightning.Trainer(
        accelerator="gpu" if worker.use_gpu else "cpu",
        devices="auto" if worker.use_gpu else 1,
        strategy=worker.strategy,
        plugins=list(worker.environments),
        precision=_PRECISIONS[_precision(config, worker.use_gpu)],
        max_epochs=-1,
        max_steps=config.max_steps,
        accumulate_grad_batches=micro_batches,
        gradient_clip_val=config.optim.gradient_clip_val or None,
        val_check_interval=config.val_check_interval * micro_batches,
        check_val_every_n_epoch=None,
        limit_val_batches=None if has_val else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log_every_n_steps,
        logger=RunLogger(worker.output, step, worker.folder) if worker.share.rank == 0 else False,
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _fetch_checkpoint(uri: str, shared: Path) -> Path:
    """The file of a checkpoint, on this machine, once for all of its workers."""
    if storage.is_local(uri):
        return Path(uri)
    try:
        return fetch_once(uri, shared / _BEGUN_FILE)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {uri} does not exist") from error


def _check_checkpoint(path: Path, uri: str, module: DistillationModule) -> ResumePoint:
    """Where a checkpoint is, if this module can go on from it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{uri} is no checkpoint, or damaged ({first_line(error)}); name another one") from error
    begun = read_resume_point(content if isinstance(content, dict) else {}, uri)
    theirs = {name: value.shape for name, value in content["state_dict"].items()}
    ours = {name: value.shape for name, value in module.state_dict().items()}
    names = {*theirs, *ours}.difference(name for name in COUNTS if name not in theirs)
    differing = sorted(name for name in names if theirs.get(name) != ours.get(name))
    if differing:
        raise UserError(f"{uri} is of another model ({differing[0]} differs); give the options it was made with")
    trained = sum(parameter.requires_grad for parameter in module.parameters())
    if trained != sum(len(group["params"]) for group in content["optimizer_states"][0]["param_groups"]):
        raise UserError(f"{uri} is of a run that trained other parts; give the model.freeze_* it was made with")
    return begun


def _precision(config: TrainConfig, use_gpu: bool) -> str:
    wanted = config.optim.precision
    if wanted != "auto":
        return wanted
    # Cards without it emulate it, slowly.
    return "bfloat16" if use_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
