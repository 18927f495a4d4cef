"""The encoder on a GPU against the one on a CPU: states, boundaries, memory that is short, cuts, a whole run."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from commands import sdhubert

from mincut import min_cut
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.cutting import min_cuts
from sdhubert_ray.encoder.inference import OutOfMemoryError, encode_pieces, encode_windows
from sdhubert_ray.speech.presets import SegmentationOptions, with_values
from sdhubert_ray.speech.spans import find_speech
from sdhubert_ray.speech.syllables import cut_syllables

pytestmark = pytest.mark.gpu

BATCH_SECONDS = 80.0
# Of the largest state: float32 is summed in another order, the others have 8 and 11 bits.
DIFFERENCES = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
LEAST_SAME = {"float32": 1.0, "bfloat16": 0.99, "float16": 0.99}


@pytest.fixture(scope="module")
def bundled():
    checkpoint = fetch_checkpoint("bundled")
    return checkpoint, with_values(SegmentationOptions(), checkpoint.options)


@pytest.fixture(scope="module")
def pieces(golden):
    """Z-scored speech of several lengths."""
    found = []
    for path in sorted((golden / "audio").glob("synth_*.flac")):
        samples = soundfile.read(path, dtype="float32")[0]
        found += [(part - part.mean()) / part.std() for part in (samples, samples[:50_000], np.tile(samples, 3))]
    return found


def encode(bundled, pieces, dtype, device):
    checkpoint, options = bundled
    model = load_model(checkpoint, options.encoder, dtype, device)
    return encode_pieces(model, pieces, options.windows, options.encoder, BATCH_SECONDS)


def starts_of(piece, options):
    speech = find_speech(piece.raw_norm, piece.amplitude, options.speech)
    features = piece.features.astype(np.float32) * speech.mask[:, None]
    return cut_syllables(features, speech.spans, options.syllables).frames[:, 0]


@pytest.mark.parametrize("dtype", DIFFERENCES)
def test_states_and_boundaries_are_those_of_the_cpu(bundled, pieces, dtype):
    same = total = 0
    expected = encode(bundled, pieces, "float32", "cpu")
    for ours, theirs in zip(encode(bundled, pieces, dtype, "cuda"), expected, strict=True):
        assert ours.features.dtype == (np.float32 if dtype == "float32" else np.float16)
        difference = np.abs(ours.features.astype(np.float32) - theirs.features).max()
        assert difference < DIFFERENCES[dtype] * np.abs(theirs.features).max()
        np.testing.assert_allclose(ours.raw_norm, theirs.raw_norm, rtol=DIFFERENCES[dtype])
        np.testing.assert_array_equal(ours.amplitude, theirs.amplitude)
        found, wanted = starts_of(ours, bundled[1]), starts_of(theirs, bundled[1])
        same += sum(np.abs(found - start).min(initial=9) <= 1 for start in wanted)
        total += len(wanted)
    assert total > 50
    assert same >= LEAST_SAME[dtype] * total


def test_memory_that_is_too_small_takes_smaller_batches(bundled, pieces, caplog):
    """Half of what the largest batch has taken; nothing is left of what was tried in vain."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    expected = encode(bundled, pieces, "float32", "cuda")
    share = torch.cuda.max_memory_allocated() / 2 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        found = encode(bundled, pieces, "float32", "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "the GPU's memory is too small; going on with" in caplog.text
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.features, theirs.features, atol=1e-3 * np.abs(theirs.features).max())


def test_a_window_that_does_not_fit_alone_is_given_up(bundled):
    checkpoint, options = bundled
    model = load_model(checkpoint, options.encoder, "float32", "cuda")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(64 * 2**20 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(OutOfMemoryError):
            encode_windows(model, [np.zeros(60 * 16_000, np.float32)], options.encoder, BATCH_SECONDS)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_float32_has_all_its_digits(bundled):
    load_model(bundled[0], bundled[1].encoder, "float32", "cuda")
    left, right = (torch.from_numpy(np.random.default_rng(seed).standard_normal((512, 512))) for seed in (0, 1))
    found = (left.float().cuda() @ right.float().cuda()).cpu().double()
    assert (found - left @ right).abs().max() < 1e-3  # with ten bits it is 0.03


def test_cuts_are_those_of_the_kernel():
    matrices = [np.random.default_rng(seed).uniform(0.1, 1.0, (500, 500)) for seed in range(8)]
    similarity = torch.from_numpy(np.stack(matrices)).cuda()
    for found, matrix in zip(min_cuts(similarity, [500] * 8, [100] * 8, 50), matrices, strict=True):
        np.testing.assert_array_equal(found, min_cut(matrix, 100, 50))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_has_the_segments_of_one_on_the_cpu(golden, tmp_path):
    """The chain of stages: decoded on CPUs, encoded by an actor that has the GPU, cut and written on CPUs."""
    tables = []
    for device, engine in (("cpu", "local"), ("cuda", "ray")):
        output = tmp_path / device
        command = ["segment", golden / "audio", output, "--checkpoint", "bundled", "--engine", engine]
        sdhubert(*command, "--device", device)
        tables.append(pq.read_table(output / "segments").sort_by("key"))
    assert tables[0].column("status").equals(tables[1].column("status"))
    for ours, theirs in zip(*(table.column("segments").to_pylist() for table in tables), strict=True):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert one["start"] == pytest.approx(other["start"], abs=0.021)
