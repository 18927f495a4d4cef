"""What a cluster with GPUs runs, on one that only says it has two: models on CPUs, by actors that reserve a GPU each.

    python fake_gpus.py MANIFEST AUDIO CHECKPOINT QUANTIZER OTHER FOLDER

MANIFEST is segmented into FOLDER/out, with units of QUANTIZER; that is tokenized by OTHER into FOLDER/made, and the
folder AUDIO embedded into FOLDER/embedded.npz. Each actor leaves a file, named after its stage and GPU, in FOLDER/gpus,
and those of a pool that has two begin when both are there. An encoder is killed on the way, and leaves FOLDER/death.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import ray

from sdhubert_ray import Quantizer
from sdhubert_ray.corpus import list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.evaluation.ssabx import embed_clips
from sdhubert_ray.evaluation.triplets import Clip
from sdhubert_ray.output.formats import SequenceOptions
from sdhubert_ray.runs import pipeline
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.tokenizing import prepare_tokenizing, run_tokenizing

MANIFEST, AUDIO, CHECKPOINT, QUANTIZER, OTHER, FOLDER = sys.argv[1:]
PATIENCE = 200.0  # for an actor to be started, seconds


def dying_once(stage):
    """A stage whose second call kills its process, the first time that this happens."""

    class DyingOnce(stage):
        calls = 0

        def __call__(self, batch):
            self.calls += 1
            death = Path(FOLDER, "death")
            if self.calls == 2 and not death.exists():
                death.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    DyingOnce.__name__ = stage.__name__
    return DyingOnce


def on_fake_gpu(stage, actors):
    """A stage of so many actors, at least, whose `device` has to be cuda and is the CPU."""

    class OnFakeGpu(stage):
        def __init__(self, *args, **named):
            (gpu,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
            gpus = Path(FOLDER, "gpus")
            gpus.mkdir(exist_ok=True)
            (gpus / f"{stage.__name__}-{gpu}").touch()
            deadline = time.monotonic() + PATIENCE
            while (
                len(list(gpus.glob(f"{stage.__name__}-*"))) < actors
            ):  # else one might do all before the other is there
                assert time.monotonic() < deadline, "the other actor has not come"
                time.sleep(0.01)
            assert "cuda" in args or named["device"] == "cuda"
            args = ["cpu" if value == "cuda" else value for value in args]
            super().__init__(*args, **{**named, **({"device": "cpu"} if "device" in named else {})})

    return OnFakeGpu


def main():
    pipeline.EncodePacked = dying_once(pipeline.EncodePacked)
    for name, actors in (("EncodePacked", 2), ("EmbedPacked", 2), ("AssignUnits", 1)):
        setattr(pipeline, name, on_fake_gpu(getattr(pipeline, name), actors))
    ray.init("local", num_cpus=3, num_gpus=2, include_dashboard=False)
    checkpoint = fetch_checkpoint(CHECKPOINT)
    overrides = ["device=cuda", "resources.unit_seconds=600", "resources.unit_rows=3", f"quantizer={QUANTIZER}"]
    config = load_config(None, overrides, {}, checkpoint.options)
    output = str(Path(FOLDER, "out"))
    job = prepare_job(config, checkpoint, MANIFEST, list_input(MANIFEST), output, engine="ray")
    assert run_job(job, lambda *counts: None).rows_done == 30
    options = {"target": str(Path(FOLDER, "made")), "device": "cuda", "engine": "ray"}
    formats = SequenceOptions(("txt",))
    job = prepare_tokenizing(output, Quantizer.load(OTHER), OTHER, formats, **options)
    run_tokenizing(job, lambda rows: None)
    clips = [Clip(str(path), 0.0, 0.3) for path in sorted(Path(AUDIO).glob("*.flac"))]
    embedded, errors = embed_clips(
        clips, checkpoint, config, [9], engine="ray", address=None, progress=lambda count: None
    )
    assert errors == [None] * len(clips)
    np.savez(Path(FOLDER, "embedded.npz"), **embedded)


if __name__ == "__main__":
    main()
