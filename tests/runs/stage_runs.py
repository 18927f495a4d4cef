"""Manifests for the stages of a run, their rows, and what is golden of them."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from places import GOLDEN

from sdhubert_ray.corpus import cut_pieces, list_input
from sdhubert_ray.output import unit_name
from sdhubert_ray.output.tables import (
    STAGES,
    read_intervals,
)
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.stages.rows import begun

AUDIO = GOLDEN / "audio"
SHORTEST = AUDIO / "synth_3.flac"
NAMES = [f"synth_{number}" for number in range(5)]
SECONDS = [f"{stage}_seconds" for stage in STAGES]
KINDS = [
    "speech",
    "silent",
    "constant",
    "short",
    "no_samples",
    "half",
    "nan",
    "text",
    "empty",
    "missing",
    "folder",
]


def make_manifest(paths, **columns):
    """One row per path, the id being its place and its name."""
    ids = [f"{number}/{Path(path).name}" for number, path in enumerate(paths)]
    return in_unit(pa.table({"id": ids, "uri": [str(path) for path in paths], **columns}))


def in_unit(recordings, piece_seconds=600.0):
    """The rows of recordings as they come from a plan: unit 0 of plan 1."""
    pieces = cut_pieces(recordings, piece_seconds)
    named = pieces.append_column("unit_name", pa.array([unit_name("00001", 0)] * pieces.num_rows, pa.string()))
    return begun(named, time.time())


def read_rows(path):
    """The recordings of a manifest."""
    return pa.concat_tables(list(list_input(str(path)).batches))


def read_golden(name, preset="readme"):
    return np.load(GOLDEN / "segmentation" / preset / f"{name}.npz")


def read_audio_file(path):
    return soundfile.read(path, dtype="float32")[0]


def segments_of(table):
    return read_intervals(table.column("segments"))


def audio_and_windows():
    config = load_config(None, [], {}, {})
    return config.audio, config.windows
