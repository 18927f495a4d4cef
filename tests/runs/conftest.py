"""Stages as the engines chain them, and files of every kind."""

import numpy as np
import pytest
import soundfile
from places import GOLDEN
from runs.stage_runs import AUDIO, SHORTEST, in_unit, make_manifest, read_audio_file, read_rows

from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.stages import CutSyllables, DecodeAudio, EncodeSpeech


@pytest.fixture(scope="module")
def checkpoint():
    return fetch_checkpoint(str(GOLDEN / "checkpoint" / "tiny.pt"))


@pytest.fixture(scope="module")
def make_stages(checkpoint):
    """Stages of a configuration as the engines make them; encoders of one kind are made once."""
    encoders = {}

    def make(*overrides):
        config = load_config(None, overrides, {}, checkpoint.options)
        batch_seconds = config.resources.batch_seconds
        kind = (config.audio, config.windows, config.encoder, config.dtype, batch_seconds)
        if kind not in encoders:
            encoders[kind] = EncodeSpeech(
                lambda: checkpoint, config.audio, config.windows, config.encoder, config.dtype, "cpu", batch_seconds
            )
        return (
            DecodeAudio(config.audio, config.windows),
            encoders[kind],
            CutSyllables(config.segmentation, config.output),
        )

    return make


@pytest.fixture(scope="module")
def segment(make_stages):
    """A manifest to its segments table, by the stages of a configuration."""

    def run(manifest, *overrides):
        for stage in make_stages(*overrides):
            manifest = stage(manifest)
        return manifest

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of every kind: name -> (path, status, what its error says)."""
    folder = tmp_path_factory.mktemp("files")
    speech = read_audio_file(AUDIO / "synth_0.flac")
    soundfile.write(folder / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    soundfile.write(folder / "constant.wav", np.full(16_000, 0.25, np.float32), 16_000)
    soundfile.write(folder / "short.wav", speech[:800], 16_000)
    soundfile.write(folder / "no_samples.wav", speech[:0], 16_000)
    not_numbers = speech[:16_000].copy()
    not_numbers[8_000] = np.nan
    soundfile.write(folder / "nan.wav", not_numbers, 16_000, subtype="FLOAT")
    soundfile.write(folder / "half.wav", speech[:32_000], 16_000)
    whole = (folder / "half.wav").read_bytes()
    (folder / "half.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("This is no audio. " * 1000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "folder.wav").mkdir()
    kinds = {
        "speech": (SHORTEST, "ok", None),
        "silent": (folder / "silent.wav", "silent", None),
        "constant": (folder / "constant.wav", "silent", None),
        "short": (folder / "short.wav", "too_short", None),
        "no_samples": (folder / "no_samples.wav", "too_short", None),
        "half": (folder / "half.wav", "truncated", "truncated"),
        "nan": (folder / "nan.wav", "unreadable", "NaN"),
        "text": (folder / "text.wav", "unreadable", "not audio"),
        "empty": (folder / "empty.wav", "unreadable", "empty"),
        "missing": (folder / "missing.wav", "missing", "does not exist"),
        "folder": (folder / "folder.wav", "failed", "fetched"),
    }
    return {name: (str(path), status, error) for name, (path, status, error) in kinds.items()}


@pytest.fixture(scope="module")
def alone(segment, files):
    """The table of each file, segmented by itself."""
    return {name: segment(make_manifest([path])) for name, (path, _, _) in files.items()}


@pytest.fixture(scope="module")
def golden_table(segment):
    """All golden recordings at once, with everything that can be kept."""
    return segment(in_unit(read_rows(AUDIO)), "output.frame_features=float32")
