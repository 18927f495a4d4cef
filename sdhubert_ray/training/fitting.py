"""A worker's training: its data, its model, Lightning's Trainer and what stands beside it. Ray is handed in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import Strategy

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.training.callbacks import KeepCheckpoints, Progress, Report, WatchData, read_progress
from sdhubert_ray.training.data import (
    Batch,
    CropReader,
    Share,
    TrainingOrder,
    Waiting,
    torch_loader,
    validation_order,
)
from sdhubert_ray.training.logs import RunLogger
from sdhubert_ray.training.module import DistillationModule
from sdhubert_ray.training.options import TrainConfig
from sdhubert_ray.training.recordings import open_recordings
from sdhubert_ray.training.runs import DATA_FOLDER, find_checkpoint

_VALIDATION_WORKERS = 2
_COPIED_BYTES = 8 << 20


@dataclass(frozen=True)
class Worker:
    """Where a worker stands.

    Attributes:
        output: folder of the run.
        share: of every batch.
        folder: of this machine, empty, for what is on its way.
        use_gpu: it has a GPU.
        strategy: how Lightning keeps the workers together.
        environments: likewise.
        report: keeps checkpoints, see `KeepCheckpoints`.
        is_going: tells whether a machine will go soon.
        agree: takes the word of the first worker for that of all: what is in a store may change between two looks.
        read: makes the batches of training; None reads them in processes beside this one.
    """

    output: str
    share: Share
    folder: Path
    use_gpu: bool
    strategy: Strategy | Literal["auto"]
    environments: tuple[ClusterEnvironment, ...]
    report: Report
    is_going: Callable[[], bool]
    agree: Callable[[str | None], str | None]
    read: Callable[[TrainingOrder], Iterable[Batch]] | None


def fit(config: TrainConfig, worker: Worker) -> str | None:
    """Train from the last checkpoint of the run, or from the beginning, until `max_steps`.

    Returns:
        why the run cannot go on, the same for all workers; None if it is done.
    """
    share, data = worker.share, config.data
    data_folder = storage.join(worker.output, DATA_FOLDER)
    try:
        module = DistillationModule(config.model, config.optim, config.seed, config.global_batch)
        begun_with = _fetch_checkpoint(config, worker)
    except UserError as error:  # the same for all workers
        return str(error)
    begun = read_progress(begun_with) if begun_with is not None else Progress()
    if begun.step >= config.max_steps:
        return None
    if share.rank == 0:
        print(f"training from step {begun.step} of {config.max_steps}, workers: {share.world}", flush=True)
    train, val = (open_recordings(data_folder, name, worker.folder) for name in ("train", "val"))
    steps = config.max_steps - begun.step
    order = TrainingOrder(len(train), config.seed, share, config.global_batch, begun.position, steps)
    if worker.read is not None:
        waiting = Waiting(worker.read(order))
    else:
        reader = CropReader(train, data.crop_samples, config.seed)
        waiting = Waiting(torch_loader(reader, order, data.num_workers, data.prefetch, worker.use_gpu))
    watch = WatchData(config, waiting, share, len(train))
    keep = KeepCheckpoints(config, begun, worker.output, worker.folder, worker.report, worker.is_going)
    trainer = _build_trainer(config, worker, begun.step, watch, keep, has_val=len(val) > 0)
    val_order = validation_order(len(val), replace(share, batch_size=data.crops_per_val_batch)) if len(val) else []
    val_reader = CropReader(val, data.crop_samples, config.seed)
    val_workers = min(_VALIDATION_WORKERS, data.num_workers)
    val_loader = torch_loader(val_reader, val_order, val_workers, data.prefetch, worker.use_gpu)
    trainer.fit(module, waiting, val_loader, ckpt_path=begun_with, weights_only=True)
    return watch.refusal


def _build_trainer(
    config: TrainConfig, worker: Worker, step: int, watch: WatchData, keep: KeepCheckpoints, has_val: bool
) -> lightning.Trainer:
    limit = config.limit_val_batches
    micro_batches = worker.share.count_micro_batches(config.global_batch)
    return lightning.Trainer(
        accelerator="gpu" if worker.use_gpu else "cpu",
        devices="auto" if worker.use_gpu else 1,
        strategy=worker.strategy,
        plugins=list(worker.environments),
        precision=_precision(config, worker.use_gpu),
        max_epochs=-1,
        max_steps=config.max_steps,
        accumulate_grad_batches=micro_batches,
        gradient_clip_val=config.optim.gradient_clip_val or None,
        val_check_interval=config.val_check_interval * micro_batches,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if not has_val else int(limit) if limit >= 1 else limit,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log_every_n_steps,
        logger=RunLogger(worker.output, step, worker.folder) if worker.share.rank == 0 else False,
        callbacks=[watch, keep],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _fetch_checkpoint(config: TrainConfig, worker: Worker) -> Path | None:
    """The file to go on from, on this machine."""
    last = find_checkpoint(worker.output, "last")
    uri = worker.agree(last.uri if last is not None else config.resume_ckpt)
    if uri is None:
        return None
    if storage.is_local(uri):
        return Path(uri)
    path = worker.folder / "begun.ckpt"
    with storage.open_binary(uri) as source, path.open("wb") as target:
        while chunk := source.read(_COPIED_BYTES):
            target.write(chunk)
    return path


def _precision(config: TrainConfig, use_gpu: bool) -> Literal["bf16-mixed", "32-true"]:
    wanted = config.optim.precision
    if wanted == "auto":
        wanted = "bfloat16" if use_gpu and torch.cuda.is_bf16_supported() else "float32"
    return "bf16-mixed" if wanted == "bfloat16" else "32-true"
