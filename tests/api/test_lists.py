"""Lists of recordings: one result per input, in its order, whatever the input is."""

import io
import logging

import numpy as np
import pytest
import soundfile
from api.results import assert_same, check_shapes, samples_of

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.errors import AudioError


def test_a_list_gives_a_list_in_its_order(segmenter, mincut, sounds):
    order = [sounds[4], str(sounds[0]), sounds[3], sounds[0]]
    outputs = mincut(segmenter(order))
    assert [output["length"] for output in outputs] == [len(samples_of(path)) // 320 for path in order]
    for path, output in zip(order, outputs, strict=True):
        assert_same(output, mincut(segmenter(path)))
    assert [len(segmenter(tuple(order[:2]))), len(segmenter(order[:1]))] == [2, 1]


def test_an_empty_list_gives_an_empty_list(segmenter, mincut):
    assert segmenter([]) == []
    assert mincut([]) == []


@pytest.fixture
def bad(tmp_path, golden):
    """Files that cannot be used, or not wholly, and the statuses that they get."""
    whole = (golden / "audio" / "synth_0.flac").read_bytes()
    wav = io.BytesIO()
    soundfile.write(wav, samples_of(golden / "audio" / "synth_0.flac"), 16_000, format="WAV")
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    holed = noise.copy()
    holed[8000] = np.nan
    files = {
        "missing.flac": (None, "missing"),
        "text.wav": (b"not audio\n" * 100, "unreadable"),
        "empty.wav": (b"", "unreadable"),
        "nan.wav": (holed, "unreadable"),
        "half.flac": (whole[: len(whole) // 2], "truncated"),
        "half.wav": (wav.getvalue()[: len(wav.getvalue()) // 2], "truncated"),
        "short.wav": (noise[:800], "too_short"),  # 0.05 s
        "just_long_enough.wav": (noise[:1600], "ok"),
        "just_too_short.wav": (noise[:1599], "too_short"),
        "silence.wav": (np.zeros(16_000, np.float32), "silent"),
        "constant.wav": (np.full(16_000, 0.5, np.float32), "silent"),
    }
    for name, (content, _) in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            soundfile.write(tmp_path / name, content, 16_000, subtype="FLOAT")
    return {tmp_path / name: status for name, (_, status) in files.items()}


FAILED = {"missing", "unreadable", "failed"}


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_every_input_of_a_list_has_a_result(tiny_checkpoint, sounds, bad, caplog, preset):
    segmenter = SDHuBERTSegmenter(tiny_checkpoint, preset=preset, device="cpu")
    inputs = [sounds[0], *bad, sounds[1]]
    with caplog.at_level(logging.WARNING):
        found = segmenter(inputs)
    outputs = MincutWrapper(preset=preset)(found)
    assert [output["status"] for output in outputs] == ["ok", *bad.values(), "ok"]
    for path, features, output in zip(inputs, found, outputs, strict=True):
        check_shapes(features, output)
        if output["status"] in FAILED:
            assert output["length"] == 0
            (record,) = [record for record in caplog.records if str(path) in record.getMessage()]
            assert record.levelno == logging.WARNING
            assert output["error"] in record.getMessage()
            assert "\n" not in record.getMessage()
        elif output["status"] == "truncated":
            assert "truncated" in output["error"] or "damaged" in output["error"]
            assert 0 < output["length"] < len(samples_of(sounds[0])) // 320
            assert len(output["segments"])
        else:
            assert output["error"] is None
            if output["status"] in {"silent", "too_short"}:
                assert len(output["segments"]) == 0
    # The good ones among the bad are what they are alone.
    assert_same(outputs[0], MincutWrapper(preset=preset)(segmenter(sounds[0])))
    assert_same(outputs[-1], MincutWrapper(preset=preset)(segmenter(sounds[1])))


def test_one_path_alone_raises_what_is_wrong(segmenter, bad):
    for path, status in bad.items():
        if status == "missing":
            with pytest.raises(FileNotFoundError, match=f"{path.name} does not exist"):
                segmenter(path)
        elif status == "unreadable":
            with pytest.raises(AudioError, match=rf"{path.name} (is|holds) "):
                segmenter(str(path))
        else:
            assert segmenter(path)["status"] == status


def test_a_folder_is_no_recording(segmenter, golden):
    with pytest.raises(AudioError, match="audio cannot be fetched"):
        segmenter(golden / "audio")
    assert segmenter([golden / "audio"])[0]["status"] == "failed"


def test_silence_has_its_frames_and_no_speech(segmenter, mincut):
    output = mincut(segmenter(np.zeros(16_000), sample_rate=16_000))
    assert (output["length"], output["status"], output["segments"].shape) == (50, "silent", (0, 2))
