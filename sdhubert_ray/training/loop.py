"""Training on Ray Train: one process on a CPU up to GPUs on many nodes; it survives its workers and its driver."""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
from ray.exceptions import RayError
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment
from ray.train.torch import TorchTrainer

# Most are those that `ray.train` exports, by the names under which type checkers know them.
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.api.report_config import CheckpointUploadMode
from ray.train.v2.api.result import Result

from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.output import Lease, LeaseLostError
from sdhubert_ray.runs.connect import connected, explain
from sdhubert_ray.runs.interrupts import OwnInterrupt, in_main_thread
from sdhubert_ray.runs.placement import GIB, Reservation, alive_nodes, count_places, most_cpus, total
from sdhubert_ray.runs.session import IncompleteRunError
from sdhubert_ray.training.checkpoints import (
    find_checkpoint,
    find_sound_checkpoint,
    forget_snapshot,
    remove_older_checkpoints,
)
from sdhubert_ray.training.data import Share
from sdhubert_ray.training.fitting import Worker, fit
from sdhubert_ray.training.options import MOST_READERS, TrainConfig
from sdhubert_ray.training.runs import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopConfig:
    """What each worker is told by Ray Train, as its `train_loop_config`.

    Attributes:
        config: of the run.
        output: folder of the run.
        use_gpu: each worker has a GPU.
    """

    config: TrainConfig
    output: str
    use_gpu: bool


class QuietTrainer(TorchTrainer):
    """Without what asks the dashboard every second whether the run is alive, and complains where there is none.

    It gives CPUs back that a dead driver has held; Ray does so by itself, if a little later.
    """

    def fit(self) -> Result:
        """Train; Ctrl-C comes as KeyboardInterrupt, and is left to whom it was left to before.

        Ray Train puts a handler of its own, which ends the process, and leaves it there for good.
        """
        before = signal.getsignal(signal.SIGINT)
        try:
            return super().fit()  # type: ignore[return-value]
        except SystemExit as error:
            raise KeyboardInterrupt from error
        finally:
            if in_main_thread():
                signal.signal(signal.SIGINT, before)

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [
            callback
            for callback in super()._create_default_callbacks()  # type: ignore[misc]
            if not isinstance(callback, PlacementGroupCleanerCallback)
        ]


def train(run: Run, address: str | None) -> int:
    """Train until `max_steps`, from where the run is; its lease is released in the end.

    Args:
        run: as it was prepared.
        address: of a Ray cluster; None starts Ray on this machine.

    Returns:
        how many steps are done.

    Raises:
        IncompleteRunError: it could not finish; the same command goes on from the last checkpoint.
        UserError: something that the caller has to mend.
    """
    try:
        return _train(run, address)
    finally:
        try:
            run.lease.release()
        except (OSError, UserError) as error:  # it ends by itself, and hides nothing that came before
            logger.warning("the lease of %s could not be given back (%s)", run.output, first_line(error))


def _train(run: Run, address: str | None) -> int:
    config = run.config
    if run.begun is not None and run.begun.step >= config.max_steps:
        sound = find_sound_checkpoint(run.output)
        if sound is not None and sound.step >= config.max_steps:
            return sound.step
    forget_snapshot(run.output)
    with connected(address), _ended_without(run.lease):
        loop = _configure(run, address is None)
        refusal = _fit(loop, _scaling(loop))
    if refusal is not None:
        raise UserError(refusal)
    last = find_checkpoint(run.output, "last")
    if last is None or last.step < config.max_steps:
        raise IncompleteRunError(f"training ended at step {last.step if last else 0} of {config.max_steps}")
    remove_older_checkpoints(run.output, config.checkpoint.keep)
    return last.step


@contextlib.contextmanager
def _ended_without(lease: Lease) -> Iterator[None]:
    """End what is done within, as Ctrl-C would, where the lease is lost: another process may train the run then."""
    over, lost, interrupt = threading.Event(), [], OwnInterrupt()

    def watch() -> None:
        while not over.wait(lease.times.beat):
            try:
                lease.check()
            except LeaseLostError as error:
                lost.append(error)
                interrupt.send()
                return

    thread = threading.Thread(target=watch, name="watch of the lease", daemon=True)
    with interrupt:
        thread.start()
        try:
            try:
                yield
            finally:  # within: the interrupt may come as late as this
                over.set()
                thread.join()
        except KeyboardInterrupt as error:
            if lost:
                raise IncompleteRunError(str(lost[0])) from error
            raise


def _fit(loop: LoopConfig, scaling: ScalingConfig) -> str | None:
    """Run the workers; tells why they refuse to go on, if they do."""
    config = loop.config
    parent, _, name = loop.output.rpartition("/")
    trainer = QuietTrainer(
        _train_worker,  # type: ignore[arg-type]  # it may return something
        train_loop_config={"loop": loop},
        scaling_config=scaling,
        run_config=RunConfig(  # type: ignore[arg-type]
            name=name,
            storage_path=parent,
            failure_config=FailureConfig(max_failures=config.scaling.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=None),  # the workers remove the older ones
            logging_config=LoggingConfig(log_level="CRITICAL"),  # the workers tell what there is, in a line
        ),
    )
    try:
        result = trainer.fit()
    except (RayError, TrainingFailedError) as error:
        raise IncompleteRunError(explain(error)) from error
    return None if result.return_value is None else str(result.return_value)


def _configure(run: Run, on_this_machine: bool) -> LoopConfig:
    config, nodes = run.config, alive_nodes()
    scaling = config.scaling
    use_gpu = scaling.use_gpu == "true" or (scaling.use_gpu == "auto" and total(nodes).gpus > 0)
    cpus = scaling.cpus_per_worker
    if cpus is None:  # one to train with, and one for each process that reads
        readers = MOST_READERS if config.data.num_workers is None else config.data.num_workers
        cpus = most_cpus(nodes, scaling.num_workers, int(use_gpu), limit=1 + readers) or 1
    if (places := count_places(nodes, Reservation(cpus, int(use_gpu)))) < scaling.num_workers:
        each = f"{cpus:g} CPUs and a GPU" if use_gpu else f"{cpus:g} CPUs"
        what = f"scaling.num_workers is {scaling.num_workers}, but there is room for {places} with {each} each"
        if on_this_machine:
            without = ", scaling.use_gpu=false" if use_gpu else ""
            raise UserError(f"{what}; take fewer{without}, or a cluster by --address")
        logger.warning("%s now; waiting for the cluster to grow", what)
    config = replace(config, scaling=replace(scaling, cpus_per_worker=cpus))
    return LoopConfig(config, run.output, use_gpu)


def _scaling(loop: LoopConfig) -> ScalingConfig:
    scaling = loop.config.scaling
    resources: dict[str, float] = {"CPU": scaling.cpus_per_worker or 1}
    if loop.use_gpu:
        resources["GPU"] = 1
    if scaling.memory_gib is not None:
        resources["memory"] = scaling.memory_gib * GIB
    return ScalingConfig(
        num_workers=scaling.num_workers if scaling.min_workers is None else (scaling.min_workers, scaling.num_workers),
        use_gpu=loop.use_gpu,
        resources_per_worker=resources,
    )


# -- in the workers


def _train_worker(given: dict[str, Any]) -> str | None:
    """Train as one of the workers; tells why it refuses to go on, if it does."""
    loop: LoopConfig = given["loop"]
    config, context = loop.config, ray.train.get_context()
    quieten()
    share = Share(context.get_world_rank(), context.get_world_size(), config.data.batch_size)
    agree = ray.train.collective.broadcast_from_rank_zero
    folder = _new_folder(loop.output, share.rank)
    shared = _shared_folder(loop.output, str(agree(secrets.token_hex(8))), context.get_local_rank())
    strategy = RayDDPStrategy(forward_sync_buffers=False, gradient_as_bucket_view=True)  # type: ignore[no-untyped-call]
    worker = Worker(
        output=loop.output,
        share=share,
        folder=folder,
        shared=shared,
        use_gpu=loop.use_gpu,
        strategy=strategy,
        environments=(RayLightningEnvironment(),),  # type: ignore[no-untyped-call]
        report=_report,
        is_going=_is_going,
        agree=agree,
    )
    try:
        return fit(config, worker)
    except Exception as error:  # whatever it is: Ray Train, which is told to be quiet, says nothing of it
        logger.error(
            "worker %d of %d has ended: %s: %s", share.rank, share.world, type(error).__name__, first_line(error)
        )
        raise


def _new_folder(output: str, rank: int) -> Path:
    """A new folder of this machine for what is on its way to a run; what a killed worker has left of it is removed.

    Its name cannot be foretold. Others may have made what begins like it: only what is ours is removed.
    """
    prefix = f"{_prefix_of(output)}-{rank}-"
    _remove_left(prefix, "")
    return Path(tempfile.mkdtemp(prefix=prefix))


def _shared_folder(output: str, token: str, local_rank: int) -> Path:
    """The folder of this machine for what all its workers of a run need, likewise.

    `token`, which makes its name, is the same for all workers and new whenever they begin.
    """
    prefix = f"{_prefix_of(output)}-shared-"
    folder = Path(tempfile.gettempdir()) / f"{prefix}{token}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if local_rank == 0:
        _remove_left(prefix, folder.name)
    return folder


def _remove_left(prefix: str, but: str) -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if left.name != but and not left.is_symlink() and left.is_dir() and left.stat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)


def _prefix_of(output: str) -> str:
    return f"sdhubert-{blake2b(output.encode(), digest_size=8).hexdigest()}"


def _report(metrics: dict[str, float], folder: Path | None, name: str) -> None:
    checkpoint = None
    if folder is not None:
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        score = f", validation {metrics['score']:.4f}" if "score" in metrics else ""
        skipped = f", steps skipped: {metrics['skipped_steps']:.0f}" if metrics["skipped_steps"] else ""
        # The driver shows it.
        print(f"step {metrics['step']:.0f}: loss {metrics['loss']:.4f}{score}{skipped}", flush=True)
    ray.train.report(metrics, checkpoint, name, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)


def _is_going() -> bool:
    return ray.train.get_preemption_info() is not None


def quieten() -> None:
    """Leave out what Lightning and Ray Train tell of themselves."""
    for name in ("", "lightning.pytorch", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*deprecated.*",  # Lightning's own
        ".*in eval mode at the start of training.*",  # the teacher is
        ".*does not have many workers.*",  # so it was asked for
    ):
        warnings.filterwarnings("ignore", message)
