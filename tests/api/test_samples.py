"""Samples in memory, as people hold them, give what their file gives."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from api.results import assert_same, check_shapes, samples_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.errors import AudioError, UserError


def test_samples_give_what_their_file_gives(segmenter, mincut, sounds):
    expected = mincut(segmenter(sounds[1]))
    samples = samples_of(sounds[1])
    assert_same(mincut(segmenter(samples, sample_rate=16_000)), expected)
    assert_same(mincut(segmenter(samples.astype(np.float64), 16_000)), expected)
    assert_same(mincut(segmenter(samples[None], 16_000)), expected)
    mixed = mincut(segmenter([sounds[0], samples], 16_000))
    assert_same(mixed[1], expected)
    assert_same(mixed[0], mincut(segmenter(sounds[0])))


def test_channels_of_samples_are_averaged_or_chosen(segmenter, tiny_checkpoint, sounds):
    samples = samples_of(sounds[0])
    stereo = np.stack([samples, np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)])
    first = SDHuBERTSegmenter(tiny_checkpoint, channel=0, device="cpu")(stereo, 16_000)
    assert_same(first, segmenter(samples, 16_000))
    second = SDHuBERTSegmenter(tiny_checkpoint, channel=1, device="cpu")(stereo, 16_000)
    assert_same(second, segmenter(stereo[1], 16_000))
    assert_same(segmenter(stereo, 16_000), segmenter(stereo.mean(axis=0), 16_000))


def test_channels_that_cancel_each_other_are_silent_and_weak_floats_are_not(segmenter, sounds):
    samples = samples_of(sounds[0])
    output = segmenter(np.stack([samples, -samples]), 16_000)
    assert output["status"] == "silent"
    assert "cancel each other" in output["error"]
    assert_same(segmenter(np.ldexp(samples, -30), 16_000), segmenter(samples, 16_000))


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_samples_of_other_rates_are_resampled_as_files_are(segmenter, tmp_path, rate):
    samples = (np.random.default_rng(0).standard_normal(2 * rate) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    output = segmenter(samples, sample_rate=rate)
    assert_same(output, segmenter(tmp_path / "a.wav"))
    assert output["length"] == 100


def test_samples_are_left_alone(segmenter, sounds):
    samples = samples_of(sounds[0])
    samples.flags.writeable = False
    segmenter(samples, 16_000)
    np.testing.assert_array_equal(samples, samples_of(sounds[0]))


@pytest.mark.parametrize(
    ("array", "rate", "sentence"),
    [
        (np.zeros(16_000), None, "sample_rate"),
        (np.zeros(16_000), 0, "sample_rate"),
        (np.zeros(16_000), -16_000, "sample_rate"),
        (np.zeros(16_000, np.uint8), 16_000, "uint8"),
        (np.zeros(16_000, bool), 16_000, "bool"),
        (np.zeros(16_000), "16000", "sample_rate in Hz, 1000 to 768000, not '16000'"),
        (np.zeros(16_000), 16_000.5, "sample_rate"),
        (np.zeros(16_000), float("nan"), "sample_rate"),
        (np.zeros((1, 2, 16_000)), 16_000, "shape"),
        (np.zeros(()), 16_000, "shape"),
        (np.zeros((0, 16_000)), 16_000, "shape"),
        (np.zeros((16_000, 17)), 16_000, "16 channels or fewer"),
    ],
)
def test_arrays_that_are_no_recordings_are_refused(segmenter, array, rate, sentence):
    with pytest.raises(UserError, match=sentence):
        segmenter(array, sample_rate=rate)


@pytest.mark.parametrize(
    "recording",
    [
        lambda samples: torch.from_numpy(samples),
        lambda samples: (samples, 16_000),  # as librosa.load
        lambda samples: (np.stack([samples, samples], axis=1), 16_000),  # as soundfile.read
        lambda samples: (torch.from_numpy(samples)[None], np.int64(16_000)),  # as torchaudio.load
        lambda samples: {"path": "a.wav", "array": samples, "sampling_rate": 16_000},  # as datasets
        lambda samples: {"array": torch.from_numpy(samples).double(), "sampling_rate": 16_000.0},
    ],
)
def test_recordings_as_other_tools_give_them(segmenter, sounds, recording):
    samples = samples_of(sounds[1])
    item = recording(samples)
    rate = 16_000 if torch.is_tensor(item) else None
    assert_same(segmenter(item, rate), segmenter(sounds[1]))
    one, other = segmenter([item, sounds[0]], rate)
    assert_same(one, segmenter(sounds[1]))
    assert_same(other, segmenter(sounds[0]))


def test_the_rate_of_a_pair_is_its_own(segmenter, tmp_path):
    samples = (np.random.default_rng(0).standard_normal(16_000) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    for item in ((samples, 8000), {"array": samples, "sampling_rate": 8000}):
        assert_same(segmenter(item), segmenter(tmp_path / "a.wav"))
        assert_same(segmenter([item, samples], 16_000)[0], segmenter(tmp_path / "a.wav"))


def test_two_arrays_are_two_recordings(segmenter):
    assert [output["length"] for output in segmenter((np.zeros(16_000), np.zeros(32_000)), 16_000)] == [50, 100]


@pytest.mark.parametrize(
    ("recording", "rate", "sentence"),
    [
        ((16_000, np.zeros(16_000)), None, r"int 16000 is no recording; give .* a pair \(samples, rate\)"),
        ((np.zeros(16_000), None), None, "NoneType None is no recording"),
        ((np.zeros(16_000), 0), None, "sample_rate in Hz, 1000 to 768000, not 0"),
        ((np.zeros(16_000), 16_000), 16_000, "files, pairs and mappings tell their own"),
        ({"array": np.zeros(16_000), "sampling_rate": 16_000}, 16_000, "tell their own"),
        (
            {"array": np.zeros(16_000)},
            None,
            "'array' \\(ndarray\\); a recording is 'array', samples, and 'sampling_rate'",
        ),
        ({"array": [0.0] * 16_000, "sampling_rate": 16_000}, None, "'array' \\(list\\)"),
        ({"bytes": b"RIFF", "path": None}, None, "'bytes' \\(bytes\\)"),
        ({"array": np.zeros(16_000), "sampling_rate": "16000"}, None, "not '16000'"),
    ],
)
def test_what_other_tools_do_not_give_is_refused(segmenter, recording, rate, sentence):
    with pytest.raises(UserError, match=sentence):
        segmenter(recording, rate)


def test_channel_that_samples_do_not_have(tiny_checkpoint):
    with pytest.raises(UserError, match=r"2 channel\(s\), but channel 2"):
        SDHuBERTSegmenter(tiny_checkpoint, channel=2, device="cpu")(np.ones((2, 16_000)), 16_000)


def test_samples_that_are_no_numbers(segmenter, caplog):
    bad = np.full(16_000, np.nan)
    with pytest.raises(AudioError, match="holds NaN or infinite samples"):
        segmenter(bad, 16_000)
    good = np.random.default_rng(0).standard_normal(16_000)
    with caplog.at_level(logging.WARNING):
        outputs = segmenter([good, bad, good], 16_000)
    assert [output["status"] for output in outputs] == ["ok", "unreadable", "ok"]
    assert "NaN" in caplog.text


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 20_000), st.sampled_from(["readme", "paper"]))
def test_samples_of_any_length_have_a_result(tiny_checkpoint, samples, preset):
    segmenter = cached_segmenter(str(tiny_checkpoint), preset)
    found = segmenter(np.random.default_rng(samples).standard_normal(samples), 16_000)
    output = MincutWrapper(preset=preset)(found)
    check_shapes(found, output)
    frames = samples // 320 if preset == "readme" else max(0, (samples - 400) // 320 + 1)
    assert output["length"] == frames
    assert output["status"] == ("ok" if samples >= 1600 else "too_short")


SEGMENTERS = {}


def cached_segmenter(path, preset):
    if preset not in SEGMENTERS:
        SEGMENTERS[preset] = SDHuBERTSegmenter(path, preset=preset, device="cpu")
    return SEGMENTERS[preset]


def test_samples_as_people_hold_them(segmenter, golden):
    """int16 as wave files have them, frames first as soundfile gives them, tensors as torchaudio does."""
    samples, rate = soundfile.read(golden / "audio" / "synth_3.flac", dtype="int16")
    expected = segmenter(samples / np.float32(2**15), rate)
    stereo = np.stack([samples, samples])
    held = {
        "int16": samples,
        "int32": samples.astype(np.int32) << 16,
        "channels first": stereo,
        "frames first": stereo.T,
        "tensor": torch.from_numpy(samples / np.float32(2**15)),
        "tensor of integers, channels first": torch.from_numpy(stereo),
        "rate of NumPy": samples,
        "rate that is no int": samples,
    }
    rates = {"rate of NumPy": np.int64(rate), "rate that is no int": float(rate)}
    for name, array in held.items():
        found = segmenter(array, rates.get(name, rate))
        np.testing.assert_array_equal(found["features"], expected["features"], err_msg=name)
        np.testing.assert_array_equal(found["segments"], expected["segments"], err_msg=name)


def test_half_precision_tensors_are_samples(segmenter, golden):
    samples, rate = soundfile.read(golden / "audio" / "synth_3.flac", dtype="float32")
    for kind in (torch.bfloat16, torch.float16):
        tensor = torch.from_numpy(samples).to(kind)
        expected = segmenter(tensor.float().numpy(), rate)
        np.testing.assert_array_equal(segmenter(tensor, rate)["features"], expected["features"])
