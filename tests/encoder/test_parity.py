"""The packages of other systems beside ours, on made checkpoints in their files: the same states, the same segments.

Where the package's batch gives a recording something else than it gives it alone, ours is what it has alone.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import WIDE, make_sylber, make_vg_hubert, make_wavlm
from models import speech_like
from places import ROOT

from sdhubert_ray import SDHuBERTSegmenter
from sdhubert_ray.api import MincutWrapper

PEERS = ROOT / ".venv-peers/bin/python"
SIZES = (24_000, 41_234)


def recordings():
    """Speech-like, with a mean and a deviation of their own."""
    return [speech_like(size, seed) * np.float32(0.1 + seed) + np.float32(0.02) for seed, size in enumerate(SIZES)]


def peer(system, checkpoint, given, folder):
    """(states, segments) of each recording by the package, in a process of its own; see peer_states.py."""
    if not PEERS.exists():
        pytest.skip(f"no package {system} here; make peers installs it")
    np.savez(folder / "given.npz", *given)
    command = [PEERS, ROOT / "tests/peer_states.py", system, checkpoint, folder / "given.npz", folder / "found.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as found:
        return [(found[f"states{index}"], found[f"segments{index}"]) for index in range(len(found.files) // 2)]


def ours(preset, checkpoint, given):
    """The same of one recording, by the preset and the file alone."""
    speech = SDHuBERTSegmenter(str(checkpoint), preset=preset, device="cpu")(given, sample_rate=16_000)
    assert speech["status"] == "ok"
    syllables = MincutWrapper(preset=preset)(speech)
    return speech["features"], np.rint(syllables["segments"] * 50).astype(int), syllables["segment_features"]


def close(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.seconds
def test_sylber(tmp_path):
    path, model = make_sylber(tmp_path)
    with torch.no_grad():  # so that frames differ, norms lie on both sides of the threshold, and neighbours are alike
        for layer in model.speech_model.encoder.layers:
            layer.attention.v_proj.weight.mul_(3)
            layer.feed_forward.output_dense.weight.mul_(10)
        last = model.speech_model.encoder.layers[8].final_layer_norm
        last.weight.copy_(torch.rand(128) ** 3)
        last.bias.zero_()
        norms = model(torch.from_numpy(speech_like(SIZES[1], 1))[None], None, [9])[0].norm(dim=2)
        last.weight.mul_(2.6 / norms.mean())  # which no frame has
    torch.save(model.speech_model.state_dict(), path)
    (tmp_path / "config.json").write_text(json.dumps({**WIDE, "model_type": "hubert"}))
    given = recordings()
    *singles, batched, _ = peer("sylber", path, given, tmp_path)
    assert len(singles[1][1]) > 1
    for one, (states, segments) in zip(given, singles, strict=True):
        features, frames, _ = ours("sylber", path, one)
        assert close(features, states)
        np.testing.assert_array_equal(frames, segments)
    # In a batch the shorter one has other states there, and frames that it has not.
    shorter = singles[0][0]
    assert len(batched[0]) > len(shorter)
    assert not np.allclose(batched[0][: len(shorter)], shorter, rtol=1e-3, atol=1e-4)
    segmenter = SDHuBERTSegmenter(str(path), preset="sylber", device="cpu")
    for found, (states, _) in zip(segmenter(given, sample_rate=16_000), singles, strict=True):
        assert close(found["features"], states)


@pytest.mark.seconds
def test_vg_hubert(tmp_path):
    """Of its segments only those of the paper's code are ours: the package makes another matrix (`sdhubert cite`)."""
    path, _ = make_vg_hubert(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(WIDE))
    (tmp_path / "args.pkl").write_bytes(b"\x80\x04N.")  # None, which the package reads and leaves
    given = recordings()
    for one, (states, _) in zip(given, peer("vg-hubert", path, given, tmp_path), strict=True):
        features, _, _ = ours("vg-hubert", path, one)
        assert close(features, states)


@pytest.mark.seconds
def test_zerosyl(tmp_path):
    path, _ = make_wavlm(tmp_path)
    given = recordings()
    for one, (means, segments) in zip(given, peer("zerosyl", path, given, tmp_path), strict=True):
        _, frames, pooled = ours("zerosyl", path, one)
        np.testing.assert_array_equal(frames, segments)
        assert len(frames) > 1
        assert close(pooled, means / np.linalg.norm(means, axis=1, keepdims=True))  # as its units are made


def test_the_packages_are_those_that_are_named():
    named = (ROOT / "benchmarks/peers.txt").read_text().split()
    assert {"sylber==0.1.4", "vg-hubert==1.2.0", "zerosyl==1.0.5"} <= set(named)
    assert Path(ROOT / "tests/peer_states.py").exists()
