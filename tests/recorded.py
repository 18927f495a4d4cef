"""Outputs of recordings that are there, to make reports of."""

import json
import shutil

import numpy as np
import soundfile
from evaluation_inputs import make_row
from places import ROOT

from sdhubert_ray.training.metrics import METRICS_FILE

DEMO = ROOT / "sdhubert_ray/assets/demo"
SCRIPT = "<script>document.title='taken'</script><img src=x onerror=document.title='taken'>.flac"
"""The name of a recording."""


def write_audio(folder):
    """Three recordings of 2.5 to 60.5 s. Returns their paths."""
    names = ("synth_0.flac", "synth_2.flac")
    for name in names:
        shutil.copy(DEMO / name, folder / name)
    parts = [soundfile.read(DEMO / name)[0] for name in names]
    soundfile.write(folder / "long.wav", np.tile(np.concatenate(parts), 20)[: int(60.5 * 16_000)], 16_000)
    return [folder / name for name in (*names, "long.wav")]


def rows_of(paths):
    """Rows of recordings with a syllable each 240 ms, units from 0 to 4 in turn, and of some that failed."""
    rows = []
    for path in paths:
        seconds = soundfile.info(path).duration
        starts = np.round(np.arange(0.2, seconds - 0.3, 0.24), 2)
        segments = np.stack([starts, np.round(starts + 0.2, 2)], axis=1)
        units = np.arange(len(starts), dtype=np.int32) % 5
        rows.append(make_row(path.name, segments, uri=str(path), duration=seconds, units=units, speaker=path.name[0]))
    rows.append({**rows[0], "id": SCRIPT, "key": f"{SCRIPT}#0"})
    none = np.zeros(0, np.int32)
    for name, status, error in (
        ("broken.wav", "unreadable", "/a/broken.wav is not audio"),
        ("gone.wav", "missing", "/a/gone.wav does not exist"),
    ):
        rows.append(make_row(name, status=status, error=error, duration=0.0, units=none, speaker="z"))
    return rows


def write_training(folder):
    """A training of 3,000 steps, collapsed from 500 to 700 and from 2,000 on, and once not finite. Returns its URI."""
    folder.mkdir()
    record = {
        "kind": "training",
        "runs": 1,
        "config": {"max_steps": 4000, "model": {"lr": 1e-4}},
        "fingerprint": {},
        "found": {"num_train": 10, "num_val": 2, "too_short": 0},
        "versions": {"torch": "2"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    lines = ["step,loss,val_score,collapsed"]
    for step in range(10, 3001, 10):
        loss = "nan" if step == 100 else 99.0 if step == 1230 else 5.0
        collapsed = int(500 <= step <= 700 or step >= 2000)
        lines.append(f"{step},{loss},{0.5 if step % 500 == 0 else ''},{collapsed}")
    (folder / METRICS_FILE).write_text("\n".join(lines) + "\n")
    return str(folder)
