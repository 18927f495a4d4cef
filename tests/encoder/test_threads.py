"""Results are the same bits whatever the number of threads, at the shape of HuBERT-base."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from commands import sdhubert
from transformers import HubertConfig

from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.convolutions import fold_weight_norm
from sdhubert_ray.encoder.inference import encode_windows
from sdhubert_ray.encoder.model import SDHuBERT, build_encoder
from sdhubert_ray.speech.presets import EncoderOptions

pytestmark = pytest.mark.seconds


@pytest.fixture
def threads():
    """Sets how many threads torch has."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(pytestconfig, tmp_path_factory):
    """A checkpoint of HuBERT-base's shape, with random weights."""
    config = json.loads((pytestconfig.rootpath / "configs" / "hubert-base-ls960.json").read_text())
    torch.manual_seed(0)
    state = SDHuBERT(HubertConfig.from_dict(config)).state_dict()
    path = tmp_path_factory.mktemp("base") / "base.pt"
    torch.save({"config": {"speech_upstream": "facebook/hubert-base-ls960"}, "state_dict": state}, path)
    return path


def test_the_same_bits_on_one_and_on_several_threads(base, threads):
    weights, states = [], []
    draw = np.random.default_rng(0)
    windows = [draw.standard_normal(length).astype(np.float32) for length in (32_000, 20_000)]
    checkpoint = fetch_checkpoint(str(base))
    for count in (1, 2, 3):
        threads(count)
        model = load_model(checkpoint, EncoderOptions(9, 9), "float32", "cpu")
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        states.append([features for features, _ in encode_windows(model, windows, EncoderOptions(9, 9), 0.0)])
    for other, found in zip(weights[1:], states[1:], strict=True):
        assert other.keys() == weights[0].keys()
        assert all(torch.equal(other[name], weights[0][name]) for name in other)
        assert all(map(np.array_equal, found, states[0]))


def test_the_weight_is_that_of_torch(base):
    """But for the rounding of its sum in float32, which hangs on the threads."""
    model = build_encoder(fetch_checkpoint(str(base)).upstream)
    conv = model.speech_model.encoder.pos_conv_embed.conv
    expected = conv.weight.clone()
    fold_weight_norm(conv)
    assert isinstance(conv.weight, torch.nn.Parameter)
    torch.testing.assert_close(conv.weight, expected, rtol=2e-5, atol=0)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_same_bits_in_this_process_and_on_ray(base, threads, golden, tmp_path):
    """Here several threads, there one core a worker."""
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(5):
        samples = soundfile.read(golden / f"audio/synth_{number}.flac", dtype="float32")[0]
        soundfile.write(audio / f"{number}.flac", samples[:24_000], 16_000)
    tables = []
    for engine, count in (("local", 3), ("ray", 1)):
        threads(count)
        command = ["segment", audio, tmp_path / engine, "--checkpoint", base, "--engine", engine]
        sdhubert(*command, "--frame-features", "float32", "resources.encode.max_workers=1")
        tables.append(pq.read_table(tmp_path / engine / "segments").sort_by("key").combine_chunks())
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_windows_have_the_same_bits_alone_and_side_by_side(threads, count):
    """Of the bundled encoder: in several threads a window of it has other bits."""
    draw = np.random.default_rng(0)
    windows = [draw.standard_normal(length).astype(np.float32) for length in (48_000, 400, 80_320, 20_000)]
    options = EncoderOptions(5, 6)
    model = load_model(fetch_checkpoint("bundled"), options, "float32", "cpu")
    threads(1)
    alone = [encode_windows(model, [window], options, 0.0)[0] for window in windows]
    threads(count)
    together = encode_windows(model, windows, options, 0.0)
    for window, ours, one in zip(windows, together, alone, strict=True):
        for found in (ours, *encode_windows(model, [window], options, 0.0)):
            np.testing.assert_array_equal(found[0], one[0])
            np.testing.assert_array_equal(found[1], one[1])
    assert torch.get_num_threads() == count
