"""What happens beside the steps: checkpoints, and a look at the run. No Ray, which is handed in."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.speech import SAMPLE_RATE
from sdhubert_ray.training.checkpoints import CHECKPOINT_FILE, put_best, read_best_score, remove_older_checkpoints
from sdhubert_ray.training.data import Batch, Share
from sdhubert_ray.training.logs import RunLogger
from sdhubert_ray.training.module import DistillationModule, on_cpu
from sdhubert_ray.training.options import TrainConfig
from sdhubert_ray.training.waiting import Waiting
from sdhubert_ray.training.watching import VALIDATION_SCORE

_PROGRESS_KEY = "sdhubert_progress"
_LEAST_BAD = 10
"""So few recordings that cannot be read never end a run."""
_NOT_SAVED = (
    "nothing of that has been saved; begin a new run with a lower model.lr, from its last checkpoint by resume_ckpt"
)

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, float], Path | None, str], None]
"""Hands metrics and a folder with a checkpoint (None: another worker has it) of a name to whoever keeps it."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on from.

    Attributes:
        step: steps of the optimizer that are done.
        position: crops that all workers have used: the number of the next one.
    """

    step: int = 0
    position: int = 0


def read_resume_point(content: Mapping[str, Any], source: str) -> ResumePoint:
    """Where the run was that wrote a checkpoint with this content.

    Raises:
        UserError: no run has written it.
    """
    saved = content.get(_PROGRESS_KEY)
    if not isinstance(saved, Mapping):
        raise UserError(f"{source} is no checkpoint of a training run, which alone can be gone on from")
    return ResumePoint(int(saved["step"]), int(saved["position"]))


class KeepCheckpoints(Callback):
    """Saves every so many steps, at each validation, at the end, and when told that this machine will go.

    A checkpoint is handed on when the next batch begins: with the score of the validation that came after it, and
    after the logs of its step have been written.
    """

    def __init__(
        self,
        config: TrainConfig,
        begun: ResumePoint,
        output: str,
        folder: Path,
        shared: Path,
        report: Report,
        is_going: Callable[[], bool],
    ) -> None:
        """Describe what is saved.

        Args:
            config: of the run.
            begun: where this process begins.
            output: folder of the run.
            folder: of this machine, for checkpoints on their way.
            shared: of this machine, with what its workers have fetched to begin with.
            report: what takes them from there; called by all workers.
            is_going: tells whether a machine will go soon; called by all workers, and the same for all.
        """
        self._config = config
        self._reached = begun
        self._output = output
        self._folder = folder
        self._shared = shared
        self._report = report
        self._is_going = is_going
        self._was_told = False
        self._waiting: ResumePoint | None = None
        self._metrics: dict[str, float] = {}
        self._score: float | None = None
        self._best = read_best_score(output)
        self._keeper = ThreadPoolExecutor(1)
        self._kept: list[Future[None]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make room: what was fetched has been loaded, by all workers, for which Lightning has waited."""
        shutil.rmtree(self._shared, ignore_errors=True)  # others do so at the same time

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save where that is due."""
        config, step = self._config, trainer.global_step
        if step == self._reached.step:
            return
        self._reached = ResumePoint(step, self._reached.position + config.global_batch)
        if (
            step % config.checkpoint.every_steps == 0
            or step % config.val_check_interval == 0
            or step >= config.max_steps
            or (step % config.log_every_n_steps == 0 and self._is_told())
        ):
            module = _distillation_of(pl_module)
            if not module.is_sound() or module.read_step()["skipped_in_a_row"] >= config.optim.max_skipped_steps:
                return  # `WatchRun` ends the run: what is kept is the last that was sound
            found = module.read_step()
            self._metrics = {name: found[name] for name in ("loss", "skipped_steps")}
            self._waiting, self._score = self._reached, None
            trainer.save_checkpoint(self._folder_of(step) / CHECKPOINT_FILE, weights_only=False)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add how far the run is."""
        checkpoint[_PROGRESS_KEY] = {"step": self._reached.step, "position": self._reached.position}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have Lightning count its batches as if every step before had had as many of them as one has now.

        Lightning steps and validates when the number of its batches is a multiple of so many; the run that saved may
        have divided its steps into more or fewer of them.
        """
        batches = self._reached.step * trainer.accumulate_grad_batches
        # Where a checkpoint is saved, in `on_train_batch_end`, Lightning has not yet counted the batch as completed.
        counts = {"ready": batches, "started": batches, "processed": batches, "completed": batches - 1}
        batch_progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        # In all, and in this epoch: a run has one only.
        batch_progress["total"], batch_progress["current"] = counts, dict(counts)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the score for the checkpoint of this step."""
        if VALIDATION_SCORE in trainer.callback_metrics:
            self._score = float(trainer.callback_metrics[VALIDATION_SCORE])

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Hand on what was saved after the last batch."""
        self._hand_on(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Likewise, and wait until all is kept."""
        self._hand_on(trainer)
        self._keeper.shutdown()
        for work in self._kept:
            work.result()

    def _is_told(self) -> bool:
        """Whether it is new that a machine will go: what is saved then is enough, as nobody knows the hour."""
        if not self._was_told:
            self._was_told = self._is_going()
            return self._was_told
        return False

    def _hand_on(self, trainer: lightning.Trainer) -> None:
        if self._waiting is None:
            return
        saved, score, self._waiting = self._waiting, self._score, None
        name = f"checkpoint_{saved.step:09d}"
        metrics = {"step": float(saved.step), **self._metrics}
        metrics |= {} if score is None else {"score": score}
        folder = self._folder_of(saved.step)
        if not trainer.is_global_zero:
            self._report(metrics, None, name)
            return
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.flush()
        if score is not None and (self._best is None or score > self._best):
            self._best = score
            copy = self._folder / f"best_{saved.step}.ckpt"
            os.link(folder / CHECKPOINT_FILE, copy)  # the folder is gone once it has been handed on
            self._keep(self._put_best, copy, saved.step, score)
        self._report(metrics, folder, name)
        self._keep(self._remove_older)

    def _remove_older(self) -> None:
        try:
            remove_older_checkpoints(self._output, self._config.checkpoint.keep)
        except (OSError, UserError) as error:  # it is tried again after the next one
            logger.warning("older checkpoints could not be removed (%s)", first_line(error))

    def _put_best(self, copy: Path, step: int, score: float) -> None:
        put_best(self._output, copy, step, score)
        copy.unlink()

    def _keep(self, work: Callable[..., None], *arguments: object) -> None:
        """Do work beside the training, one after the other; an error of what is done is raised here."""
        for done in [one for one in self._kept if one.done()]:
            self._kept.remove(done)
            done.result()
        self._kept.append(self._keeper.submit(work, *arguments))

    def _folder_of(self, step: int) -> Path:
        return self._folder / str(step)


class WatchRun(Callback):
    """Logs how fast a run is and how long it waited for data; ends one that has gone wrong.

    Attributes:
        refusal: why the run has been ended, the same for all workers; None if it has not.
    """

    def __init__(self, config: TrainConfig, waiting: Waiting, share: Share) -> None:
        """Watch a worker, its `share` of the steps and what it waits for."""
        self.refusal: str | None = None
        self._config = config
        self._waiting = waiting
        self._share = share
        self._samples = 0
        self._steps = 0
        self._began = self._paused = time.perf_counter()
        self._step = self._step_before = 0
        self._bad_before = self._skipped_before = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin to measure; what was bad before may have been mended."""
        self._begin()
        self._step = self._step_before = trainer.global_step
        module = _distillation_of(pl_module)
        self._bad_before, self._skipped_before = float(module.skipped), float(module.skipped_steps)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let it go on."""
        self._began += time.perf_counter() - self._paused

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log and judge once per `log_every_n_steps`."""
        self._samples += batch["audio_samples"]
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        self._steps += stepped
        if not stepped or trainer.global_step % self._config.log_every_n_steps:
            return
        seconds = max(time.perf_counter() - self._began, 1e-9)
        audio = self._samples / SAMPLE_RATE * self._share.world
        # The worker that waits longest makes all others wait in turn, where they do not notice.
        waited = self._waiting.take_seconds() / seconds
        pl_module.log("data_wait_share", waited, sync_dist=self._share.world > 1, reduce_fx="max")
        rates = {"audio_seconds_per_second": audio / seconds, "steps_per_second": self._steps / seconds}
        pl_module.log_dict(on_cpu(rates))
        self._begin()
        self._judge(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Judge the last steps, too."""
        self._judge(trainer, pl_module)

    def _begin(self) -> None:
        self._waiting.take_seconds()
        self._began, self._samples, self._steps = time.perf_counter(), 0, 0

    def _judge(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module, step = _distillation_of(pl_module), trainer.global_step
        found = module.read_step()
        if self.refusal is not None or not found:
            return
        self._tell_skipped(step, found["skipped_steps"])
        bad = found["skipped"] - self._bad_before
        used = (step - self._step_before) * self._config.global_batch
        allowed = self._config.data.max_bad_share
        if found["skipped_in_a_row"] >= self._config.optim.max_skipped_steps:
            what = f"loss or gradient was infinite or NaN in {found['skipped_in_a_row']:.0f} steps in a row"
            self.refusal = f"{what} by step {step}; {_NOT_SAVED}"
        elif module.broken:
            self.refusal = f"weights or moments have become infinite or NaN by step {step}; {_NOT_SAVED}"
        elif bad >= _LEAST_BAD and bad > allowed * (used + bad):
            self.refusal = (
                f"{bad:.0f} of {used + bad:.0f} recordings could not be used, more than data.max_bad_share "
                f"{allowed:g}; look at them by `sdhubert segment`, or allow more"
            )
        if self.refusal is not None:
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # or Lightning would validate once more

    def _tell_skipped(self, step: int, skipped: float) -> None:
        new, self._skipped_before = skipped - self._skipped_before, skipped
        if new > 0 and self._share.rank == 0:
            logger.warning(
                "steps skipped up to step %d, as loss or gradient was infinite or NaN: %.0f; %.0f in all",
                *(step, new, skipped),
            )


def _distillation_of(module: lightning.LightningModule) -> DistillationModule:
    if not isinstance(module, DistillationModule):
        raise TypeError(f"a {type(module).__name__} is no DistillationModule")
    return module
