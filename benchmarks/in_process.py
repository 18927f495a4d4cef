"""A training as `sdhubert train` makes it, but in this process, without Ray."""

import shutil
import tempfile
import uuid
from pathlib import Path

import torch

from sdhubert_ray.training.data import Share
from sdhubert_ray.training.fitting import Worker, fit
from sdhubert_ray.training.loop import quieten
from sdhubert_ray.training.options import TrainConfig
from sdhubert_ray.training.runs import prepare_run


def train_in_process(config: TrainConfig, output: Path) -> None:
    """Train into a folder; what is done there is not done again, and a run that was interrupted is gone on from."""
    quieten()
    run = prepare_run(config, str(output), uuid.uuid4().hex)

    def report(metrics: dict[str, float], folder: Path | None, name: str) -> None:
        if folder is not None:
            shutil.move(folder, f"{run.output}/{name}")
        score = f", validation {metrics['score']:.4f}" if "score" in metrics else ""
        print(f"{output.name} step {metrics['step']:.0f}: loss {metrics['loss']:.4f}{score}", flush=True)

    try:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as shared:
            worker = Worker(
                output=run.output,
                share=Share(0, 1, config.data.batch_size),
                folder=Path(folder),
                shared=Path(shared),
                use_gpu=torch.cuda.is_available(),
                strategy="auto",
                environments=(),
                report=report,
                is_going=lambda: False,
                agree=lambda word: word,
            )
            refusal = fit(run.config, worker)
    finally:
        run.lease.release()
    if refusal is not None:
        raise SystemExit(refusal)
