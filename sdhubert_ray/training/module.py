"""The Lightning module: steps, schedule, what is watched, and what a checkpoint holds beside the weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sdhubert_ray.encoder.weights import Upstream
from sdhubert_ray.training.distillation import Objective, Sums, add_sums, sum_over_workers
from sdhubert_ray.training.export import CONTENT_KEY
from sdhubert_ray.training.noise import Hearing
from sdhubert_ray.training.objectives import SegmentsOptions
from sdhubert_ray.training.options import ModelOptions, OptimOptions
from sdhubert_ray.training.perturbations import Perturbing
from sdhubert_ray.training.start import build_distillation, build_segment_distillation
from sdhubert_ray.training.watching import (
    CollapseWatch,
    SegmentValidation,
    SegmentWatch,
    SentenceValidation,
    Validation,
)

COUNTS = ("skipped_steps", "skipped_in_a_row")
"""Buffers that a checkpoint may lack, as older ones do."""
_UNLOGGED = ("count", "skipped_in_a_row")


class DistillationModule(lightning.LightningModule):
    """Self-distillation for Lightning's Trainer, which brings devices, precision, accumulation and clipping.

    Once per step of the optimizer, not per micro-batch: teacher and center move, by the sums over all micro-batches and
    workers, which one all-reduce brings together with all that is logged. Dropout is drawn from the seed, the step, the
    micro-batch and the worker: a run that is resumed needs no state of a random generator.

    A step whose loss or gradient is not finite, on any worker, is skipped by all: weights, moments, teacher and center
    stay as they are, while step, learning rate and place in the data go on. The CPU does not wait to know.

    Attributes:
        skipped: recordings that could not be used.
        skipped_steps: steps that were skipped.
        skipped_in_a_row: those since the last that was taken; once they are `optim.max_skipped_steps`, for good.
        broken: what would have been saved was not finite.
    """

    skipped: Tensor
    skipped_steps: Tensor
    skipped_in_a_row: Tensor

    def __init__(
        self,
        model: ModelOptions,
        optim: OptimOptions,
        seed: int,
        upstream: Upstream,
        global_batch: int | None = None,
        segments: SegmentsOptions | None = None,
    ) -> None:
        """Build the model; its first weights come from `upstream`, that of `model.speech_upstream`, and `seed`.

        `global_batch` is how many crops a step has, of all workers and micro-batches, so that each of them counts the
        same whatever their number; none: micro-batches are all as large. With `segments` the objective is that, else
        `sentence`.

        Raises:
            UserError: the upstream does not fit the options.
        """
        super().__init__()
        self.model_options = model
        self.optim_options = optim
        self.seed = seed
        self.global_batch = global_batch
        self.segments = segments
        self.distillation: Objective
        self._watch: CollapseWatch
        self._validation: Validation
        first_look = model.T_max // 100
        if segments is None:
            self.distillation = build_distillation(upstream, model, seed)
            self._watch, self._validation = CollapseWatch(model.final_dim, first_look), SentenceValidation()
        else:
            self.distillation = build_segment_distillation(upstream, model, segments, seed)
            self._watch = SegmentWatch(first_look)
            self._validation = SegmentValidation(self.distillation.student.hidden_size)
        self.upstream_config = {**upstream.config, "num_hidden_layers": self.distillation.student.num_layers}
        self.begins_at_random = upstream.weights is None
        self.broken = False
        for name in ("skipped", *COUNTS):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self._sums: Sums | None = None
        self._decided: _Decided | None = None
        self._micro_batch = 0
        self._validated: Sums = {}
        self._found: dict[str, Tensor] = {}
        self._read: dict[str, float] = {}

    def views(self, training: bool) -> Perturbing | Hearing:
        """What draws how crops are seen or heard; perturbed in training only, by the teacher if that is asked for."""
        config = self.distillation.student.speech_model.config
        kernels = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        if self.segments is not None:
            share = self.segments.noise_share if training else 0.0
            return Hearing(kernels, share, self.segments.mix_share, self.segments.merge_threshold)
        seen_by = ("student", "teacher") if self.model_options.perturb_teacher else ("student",)
        return Perturbing(kernels, seen_by if training else ())

    def read_step(self) -> dict[str, float]:
        """What the last step has found, by name: one copy from the device for all of it; nothing before a step."""
        if not self._read and self._found:
            values = torch.stack([value.double() for value in self._found.values()]).tolist()
            self._read = dict(zip(self._found, values, strict=True))
        return self._read

    def is_sound(self) -> bool:
        """Tell whether all that a checkpoint would hold are numbers, the same on all workers; it waits for the GPU."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"there is one optimizer, not a {type(optimizer).__name__}")
        moments = (value for state in optimizer.state.values() for value in state.values() if value.dim())
        held = [value.detach() for value in (*self.parameters(), *self.buffers(), *moments)]
        largest = torch.stack([norm.double() for norm in torch._foreach_norm(held, math.inf)])
        self.broken = not bool(largest.isfinite().all())
        return not self.broken

    # -- training

    def on_fit_start(self) -> None:
        """Compile the transformer layers on a GPU, each by itself: they share their code, so that it is quick."""
        if self.optim_options.compile and self.device.type == "cuda":
            for layer in self.distillation.layers():
                layer.compile()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a micro-batch, see `Objective`."""
        key = (self.seed, self.global_step, self._micro_batch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
        self._micro_batch += 1
        distilled = self.distillation.distil(batch)
        sums = distilled.sums | {"skipped": torch.full((), float(batch["skipped"]), device=self.device)}
        self._sums = sums if self._sums is None else add_sums(self._sums, sums)
        loss: Tensor = distilled.loss * self.model_options.loss_coefs.distillation_loss
        if self.global_batch is not None:
            # Lightning and DDP take means over micro-batches and workers, as if all had as many crops.
            micro_batches = self.trainer.world_size * self.trainer.accumulate_grad_batches
            loss = loss * (len(batch["samples"]) * micro_batches / self.global_batch)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the gradient, and decide for all workers whether the step is taken."""
        if self._sums is None:
            raise RuntimeError("the optimizer steps without a batch")
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        sums = sum_over_workers(self._sums | {"unsound": (~torch.isfinite(norm)).float()})
        is_finite = torch.stack([sums[name].isfinite().all() for name in self.distillation.decisive]).all()
        taken = is_finite & (sums["unsound"] == 0)
        # A fused optimizer leaves out a step by this, as it does for torch's GradScaler: on the device.
        optimizer.found_inf = (~taken).float()  # type: ignore[attr-defined]
        self._decided = _Decided(sums, norm, taken)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step, then move teacher and center, before anything can be saved; log what is due."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self._decided is None:
            raise RuntimeError("the optimizer has stepped without a batch")
        sums, norm, taken = self._decided
        self._decided, self._sums, self._micro_batch = None, None, 0
        self.distillation.step(sums, taken)
        self.skipped += sums["skipped"]
        self.skipped_steps += ~taken
        is_over = self.skipped_in_a_row >= self.optim_options.max_skipped_steps
        self.skipped_in_a_row.copy_(torch.where(taken & ~is_over, 0, self.skipped_in_a_row + 1))
        self._found = {
            **self.distillation.measure(sums),
            "grad_norm": norm,
            "skipped": self.skipped.clone(),
            **{name: getattr(self, name).clone() for name in COUNTS},
        }
        self._read = {}
        self._log_step(self.global_step + 1, optimizer.param_groups[0]["lr"])  # Lightning counts it a little later

    def _log_step(self, step: int, lr: float) -> None:
        """Look at a step and log it, where that is due."""
        if self._watch.is_due(step) and not self.read_step()["skipped_in_a_row"]:
            self._watch.look(step, self.read_step()["count"], self.read_step())
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            found = {name: value for name, value in self.read_step().items() if name not in _UNLOGGED}
            self.log_dict(on_cpu({**found, "lr": lr, "collapsed": float(self._watch.collapsed)}))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type of it is private
        """AdamW, fused; by steps of the optimizer, a rise to `lr`, then a cosine to `gamma * lr` in `T_max` steps."""
        options = self.optim_options
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = AdamW(
            parameters,
            lr=self.model_options.lr,
            betas=options.betas,
            eps=options.eps,
            weight_decay=options.weight_decay,
            fused=True,
        )
        scheduler = LambdaLR(optimizer, self._share_of_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # -- validation

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of a validation; a worker may have no batch in it."""
        self._validated = self._validation.nothing(self.device)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add what a batch tells, unperturbed."""
        self._validated = add_sums(self._validated, self._validation.sums(self.distillation.distil(batch), batch))

    def on_validation_epoch_end(self) -> None:
        """Log the score over the crops of all workers."""
        metrics = self._validation.metrics(sum_over_workers(self._validated))
        # They are the same everywhere; Lightning wants to be told.
        self.log_dict(metrics, sync_dist=True)

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights belong to; the rest of the state is in parameters, buffers and Lightning's counts."""
        options = self.model_options
        checkpoint[CONTENT_KEY] = {
            "config": {
                "speech_upstream": options.speech_upstream,
                "reinit_layers": list(options.reinit_layers),
                "ema_decay": options.ema_decay,
                "final_dim": options.final_dim,
                "freeze_extractor": options.freeze_extractor,
                "freeze_pos_embedding": options.freeze_pos_embedding,
                "center_momentum": options.center_momentum,
                "perturb_teacher": options.perturb_teacher,
            },
            "upstream": self.upstream_config,
            "segmentation": self.distillation.segmentation(),
            "model": _plain(asdict(options)),
            **({} if self.segments is None else {"segments": _plain(asdict(self.segments))}),
            "seed": self.seed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the options of this run, where a run begins with the checkpoint of another; else they are the same."""
        options, optim = self.model_options, self.optim_options
        step = int(checkpoint["global_step"])
        rate = options.lr * self._share_of_lr(step)
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            group |= {"lr": rate, "initial_lr": options.lr, "betas": optim.betas, "eps": optim.eps}
            group["weight_decay"] = optim.weight_decay
        checkpoint["lr_schedulers"][0] |= {"base_lrs": [options.lr], "_last_lr": [rate]}
        for name in COUNTS:
            checkpoint["state_dict"].setdefault(name, torch.zeros((), dtype=torch.float64))
        for name, value in self.distillation.options_kept():
            checkpoint["state_dict"][f"distillation.{name}"] = value.detach().cpu()

    def _share_of_lr(self, step: int) -> float:
        options = self.model_options
        if step < options.warmup_steps:
            return step / options.warmup_steps
        return cosine(step - options.warmup_steps, options.T_max, options.gamma)


class _Decided(NamedTuple):
    """A step before it is taken.

    Attributes:
        sums: over all workers and micro-batches.
        norm: () of the gradient, before it was clipped.
        taken: () bool, whether it will be.
    """

    sums: Sums
    norm: Tensor
    taken: Tensor


def on_cpu(values: Mapping[str, float]) -> dict[str, Tensor]:
    """Numbers as Lightning takes them without a copy to a GPU and back, each of which it would wait for."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def cosine(step: int, last: int, end: float) -> float:
    """Half a cosine from 1 at step 0 to `end` at step `last`, where it stays."""
    return end + (1 - end) * (1 + math.cos(math.pi * min(step, last) / last)) / 2


def _plain(value: Any) -> Any:  # noqa: ANN401 - what a dataclass holds
    """Lists for tuples, as files have them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value
