"""Small training runs, in this process or to compare others with."""

import shutil
import uuid

import numpy as np
import pytest
import soundfile
import torch
from outputs import make_row, make_run

from sdhubert_ray.training.checkpoints import find_checkpoint
from sdhubert_ray.training.data import Share
from sdhubert_ray.training.fitting import Worker, fit
from sdhubert_ray.training.metrics import read_metrics
from sdhubert_ray.training.options import load_train_config
from sdhubert_ray.training.runs import prepare_run

QUIET = (
    # Lightning 2.6 looks at a tree in a way that torch 2.13 has deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # The teacher is in eval mode, and the tests take no processes to read with.
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*:UserWarning"),
)
"""Marks of tests that train: without what Lightning says of it."""
TINY = ("data.sample_len=0.6", "data.val_share=0.2", "model.T_max=50", "limit_val_batches=2")


def write_speech(folder):
    """Twenty recordings of 1 to 2 s: tones that come and go, in noise."""
    random = np.random.default_rng(0)
    for number in range(20):
        time_axis = np.arange(16_000 + 800 * number) / 16_000
        tone = np.sin(2 * np.pi * (120 + 30 * number) * time_axis) * np.sin(2 * np.pi * 3 * time_axis) ** 2
        noise = random.normal(0, 0.02, len(time_axis))
        soundfile.write(folder / f"{number:02d}.flac", (0.3 * tone + noise).astype(np.float32), 16_000)
    return folder


def prepare(output, speech, *overrides):
    config = load_train_config("sdhubert_tiny", [f"data.source={speech}", *TINY, *overrides], {})
    run = prepare_run(config, str(output), uuid.uuid4().hex)
    run.lease.release()
    return run


def write_segments(folder):
    """An output of `sdhubert segment` with made syllables of what `write_speech` writes; some frames are in none."""
    spans = [np.array([[0.0, 0.1], [0.1, 0.34], [0.4, 0.62 + number / 100]]) for number in range(20)]
    rows = [make_row(f"{number:02d}.flac#0", spans[number], duration=2.0) for number in range(20)]
    return make_run(folder, (1, rows))


def losses(output):
    """Every number that is logged of a step, as it stands in the file."""
    rows = read_metrics(str(output))
    names = ("loss", "grad_norm", "lr", "center_norm", "teacher_entropy", "student_entropy", "val_score", "val_loss")
    names += ("explained", "segment_rate", "speech_norm", "quiet_norm", "norm_threshold")
    return {int(row["step"]): tuple(row[name] for name in names if name in row) for row in rows}


def last_state(output):
    return torch.load(find_checkpoint(str(output), "last").uri, map_location="cpu", weights_only=True)


def assert_same_state(one, other):
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key
    for ours, theirs in zip(
        one["optimizer_states"][0]["state"].values(), other["optimizer_states"][0]["state"].values(), strict=True
    ):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one["sdhubert_progress"] == other["sdhubert_progress"]
    assert one["lr_schedulers"] == other["lr_schedulers"]


def train_here(run, tmp_path, is_going=lambda: False, use_gpu=False):
    """Train in this process, as one worker without Ray, and tell the refusal and what was reported."""
    reported = []

    def report(metrics, folder, name):
        reported.append((name, metrics))
        shutil.copytree(folder, f"{run.output}/{name}", dirs_exist_ok=True)
        shutil.rmtree(folder)

    share = Share(0, 1, run.config.data.batch_size)
    folder, shared = (tmp_path / f"{name}-{uuid.uuid4().hex}" for name in ("worker", "shared"))
    folder.mkdir()
    shared.mkdir()
    worker = Worker(
        output=run.output,
        share=share,
        folder=folder,
        shared=shared,
        use_gpu=use_gpu,
        strategy="auto",
        environments=(),
        report=report,
        is_going=is_going,
        agree=lambda word: word,
    )
    return fit(run.config, worker), reported
