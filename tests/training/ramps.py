"""Recordings that tell their place, and the lists of them that a training has."""

import numpy as np
import soundfile

from sdhubert_ray.speech import SAMPLE_RATE
from sdhubert_ray.training.options import DataOptions
from sdhubert_ray.training.recordings import list_recordings, open_recordings


def write_ramp(path, seconds, rate=SAMPLE_RATE):
    """A recording whose samples tell their place: a ramp, which a z-score leaves a ramp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = round(seconds * rate)
    soundfile.write(path, np.linspace(-0.5, 0.5, count, dtype=np.float32), rate, subtype="PCM_16")


def make_folder(root, count, seconds=2.0):
    for number in range(count):
        write_ramp(root / f"{number:03d}.wav", seconds + 0.1 * number)
    return root


def list_source(folder, segments=None, **options):
    given = {"val_share": 0.0, **options}
    return list_into(folder.parent / "index", segments, source=str(folder), **given)


def list_into(out, segments=None, **options):
    out.mkdir(exist_ok=True)
    return list_recordings(DataOptions(**options), out, segments), out


def open_train(out, cache):
    return open_recordings(str(out), "train", cache)
