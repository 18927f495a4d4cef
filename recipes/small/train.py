"""Training on Ray Train: one process on a CPU up to GPUs on many nodes; the same command goes on where it was."""

import io
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from recipes.small.crops import Crop, FolderCrops
from recipes.small.objective import Objective
from recipes.small.options import ObjectiveOptions, TrainOptions
from sdhubert_ray import storage
from sdhubert_ray.encoder.checkpoint import load_plain
from sdhubert_ray.encoder.model import SDHuBERT, build_encoder
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.runs.connect import connected, explain
from sdhubert_ray.runs.placement import alive_nodes, most_cpus, total
from sdhubert_ray.runs.session import IncompleteRunError
from sdhubert_ray.speech.windows import WindowOptions
from sdhubert_ray.training.loop import QuietTrainer, quieten

STATE = "state.pt"
"""The file of a run that training goes on from."""

logger = logging.getLogger(__name__)


class Learner(nn.Module):
    """The encoder and what is asked of its last states."""

    def __init__(self, encoder: SDHuBERT, options: ObjectiveOptions) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = Objective(encoder.hidden_size, options)

    def forward(self, crop: Crop) -> dict[str, Tensor]:
        """The losses of (B, ...) crops, padded as windows are when they are segmented."""
        pad = WindowOptions().pad_samples
        samples = functional.pad(crop.samples, (pad, pad))
        counts = torch.full((len(samples),), samples.shape[1], device=samples.device)
        with torch.autocast(samples.device.type, torch.bfloat16):
            *_, states = self.encoder.contextualise(
                self.encoder.project(samples, counts), self.encoder.count_frames(counts)
            )
        losses: dict[str, Tensor] = self.objective(states[:, 1:].float(), crop.syllable, crop.parts)
        return losses


def train(upstream: Mapping[str, Any], speech: Path, out: Path, options: TrainOptions, seed: int) -> dict[str, Tensor]:
    """Train an encoder of the values of a HubertConfig on the folders of `prepare`; what is there is gone on with.

    Returns:
        the averaged weights of the encoder.

    Raises:
        UserError: there is no room for so many workers; or the state cannot be read, or cannot be written.
        IncompleteRunError: it could not finish; the same command goes on.
    """
    given = _Given(dict(upstream), str(speech.absolute()), str((out / STATE).absolute()), options, seed)
    state = _read(given)
    if state is None or state["step"] < options.steps:
        _fit(given, out)
        state = _read(given)
    if state is None or state["step"] < options.steps:
        raise IncompleteRunError(f"training in {out} ended before its last step")
    average: dict[str, Tensor] = state["average"]
    return average


@dataclass(frozen=True)
class _Given:
    """What each worker is told: the encoder's config, the folder of `prepare`, the file of the state, options, seed."""

    upstream: dict[str, Any]
    speech: str
    state: str
    options: TrainOptions
    seed: int


def _fit(given: _Given, out: Path) -> None:
    """Run the workers."""
    options = given.options
    with connected(os.environ.get("RAY_ADDRESS")):
        nodes = alive_nodes()
        use_gpu = total(nodes).gpus >= options.workers
        cpus = most_cpus(nodes, options.workers, int(use_gpu), limit=1 + options.readers if use_gpu else None)
        if not cpus:
            raise UserError(f"train.workers is {options.workers}, but so many find no place on the nodes; take fewer")
        trainer = QuietTrainer(
            _work,  # type: ignore[arg-type]  # it may return something
            train_loop_config={"given": given, "cpus": cpus},
            scaling_config=ScalingConfig(
                num_workers=options.workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}
            ),
            run_config=RunConfig(  # type: ignore[arg-type]
                name="train",
                storage_path=str(out.absolute()),
                failure_config=FailureConfig(max_failures=3),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
        try:
            result = trainer.fit()
        except (RayError, TrainingFailedError) as error:
            raise IncompleteRunError(f"training in {out} could not finish ({explain(error)})") from error
    if result.return_value is not None:
        raise IncompleteRunError(f"{result.return_value}; that mended, the same command goes on")


def _work(config: dict[str, Any]) -> str | None:
    """Train as one of the workers; tells why it cannot go on, where trying again would not help."""
    quieten()
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    try:
        _train(config["given"], config["cpus"], rank, world)
        return None
    except UserError as error:  # such as a full disk
        if world > 1:  # the others wait for this one: only its end ends them
            raise
        return str(error)
    except Exception as error:  # whatever it is: Ray Train, which is told to be quiet, tries again and says nothing
        logger.error("worker %d has ended: %s: %s", rank, type(error).__name__, first_line(error))
        raise


def _train(given: _Given, cpus: int, rank: int, world: int) -> None:
    options, device = given.options, ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(cpus)
    torch.manual_seed(given.seed)
    learner = Learner(new_encoder(given.upstream), options.objective).to(device).train()
    average = new_encoder(given.upstream).to(device)
    average.load_state_dict(learner.encoder.state_dict())
    optimizer = AdamW(learner.parameters(), options.lr, betas=(0.9, 0.98), weight_decay=options.weight_decay)
    begun, state = 0, _read(given)
    if state is not None:
        begun = state["step"]
        learner.load_state_dict(state["learner"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    model = ray.train.torch.prepare_model(learner)
    told: list[dict[str, float]] = []
    for step, crop in enumerate(_crops(given, begun, rank, world), begun + 1):
        torch.manual_seed(given.seed + step * world + rank)  # of dropout: as many workers make the same steps again
        for group in optimizer.param_groups:
            group["lr"] = options.lr * share_of_lr(step, options)
        losses = model(Crop(*(part.to(device) for part in crop)))
        losses["sum"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(options.average, step / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(learner.encoder.parameters()), 1 - decay)
        told.append({name: loss.item() for name, loss in losses.items()})
        if step % options.checkpoint_every == 0 or step == options.steps:
            state = {
                "step": step,
                "learner": learner.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            if not rank:
                _keep(given, state, {name: fmean(losses[name] for losses in told) for name in told[0]})
            told = []


def _keep(given: _Given, state: dict[str, Any], losses: dict[str, float]) -> None:
    """Keep the state, whole or not at all, and tell the mean losses of the first worker since the last time."""
    written = io.BytesIO()
    torch.save(state, written)
    storage.put(given.state, written.getvalue())
    print(f"step {state['step']}: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()), flush=True)


def _read(given: _Given) -> dict[str, Any] | None:
    """The state that was kept last, on the CPU; none before the first. Raises UserError where it is damaged."""
    data = storage.read_now(given.state)
    if data is None:
        return None
    try:
        state: dict[str, Any] = load_plain(given.state, data)
    except UserError as error:
        raise UserError(f"{error}; remove it to train anew") from error
    return state


def new_encoder(upstream: Mapping[str, Any]) -> SDHuBERT:
    """An encoder with random weights, without what only masking would use."""
    encoder = build_encoder(upstream)
    del encoder.speech_model.masked_spec_embed
    return encoder


def share_of_lr(step: int, options: TrainOptions) -> float:
    """The learning rate of a step, counted from 1, as a share of its peak."""
    return min(1.0, step / options.warmup) * (1 + math.cos(math.pi * step / options.steps)) / 2


def _crops(given: _Given, begun: int, rank: int, world: int) -> Iterator[Crop]:
    """The crops of each step that is left: step s has numbers [s B, s B + B), dealt out to the workers."""
    options, size = given.options, given.options.batch_size
    order = [list(range(step * size + rank, (step + 1) * size, world)) for step in range(begun, options.steps)]
    loader = torch.utils.data.DataLoader(
        FolderCrops(given.speech, options.crops, given.seed),
        batch_sampler=order,
        num_workers=options.readers,
        prefetch_factor=8 if options.readers else None,
        # Threads of torch and Ray do not survive a fork.
        multiprocessing_context="forkserver" if options.readers else None,
    )
    return iter(loader)
