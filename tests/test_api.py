"""The Python interface as its page shows it: golden results, one result per input, shapes, pieces, and no Ray."""

import io
import json
import logging
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from forks import FORKS, run_script
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.encoder.inference import encode_pieces
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.speech.audio import Span, normalise, read_audio
from sdhubert_ray.speech.spans import find_speech

FEATURE_KEYS = {"segments", "features", "mask", "norm", "length"}
SYLLABLE_KEYS = {"segments", "features", "segment_features", "length"}


@pytest.fixture(scope="module")
def segmenter(tiny_checkpoint):
    return SDHuBERTSegmenter(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def mincut():
    return MincutWrapper()


@pytest.fixture
def sounds(golden):
    return sorted((golden / "audio").glob("*.flac"))


def samples_of(path):
    return soundfile.read(path, dtype="float32")[0]


def assert_same(one, other, atol=1e-4):
    assert one["length"] == other["length"]
    assert one["status"] == other["status"]
    np.testing.assert_array_equal(one["segments"], other["segments"])
    np.testing.assert_allclose(one["features"], other["features"], atol=atol)
    for key in {"mask", "norm", "segment_features"} & set(one):
        np.testing.assert_allclose(one[key], other[key], atol=atol)


# -- as the page shows it


def test_the_page_of_the_original(golden, tiny_checkpoint):
    """Word for word, but for the paths and the device."""
    device = "cpu"
    ckpt_path = str(tiny_checkpoint)
    segmenter = SDHuBERTSegmenter(
        ckpt_path,
        layer=9,
        normcut_strategy="relative",
        normcut_threshold=0.1,
        silence_threshold=0.02,
        device=device,
    )
    mincut = MincutWrapper(syl_dur=0.1, merge_threshold=0.4, ft_sr=50)
    wav_file = str(golden / "audio" / "synth_0.flac")
    outputs = mincut(segmenter(wav_file))
    expected = np.load(golden / "segmentation" / "readme" / "synth_0.npz")
    assert set(outputs) >= SYLLABLE_KEYS
    np.testing.assert_array_equal(outputs["segments"], expected["segments"])
    np.testing.assert_allclose(outputs["segment_features"], expected["segment_features"], atol=1e-4)
    np.testing.assert_allclose(outputs["features"], expected["frame_features"] * expected["mask"][:, None], atol=1e-4)
    assert outputs["length"] == len(expected["mask"])

    both = mincut(segmenter([wav_file, wav_file]))
    assert isinstance(both, list)
    for output in both:
        assert_same(output, outputs)


def check_golden(folder, preset, threshold, count):
    segmenter = SDHuBERTSegmenter(
        folder / "checkpoint" / "tiny.pt",
        preset=preset,
        normcut_threshold=threshold if preset == "paper" else None,
        device="cpu",
    )
    paths = sorted(path for path in (folder / "audio").iterdir() if path.suffix in {".wav", ".flac"})
    assert len(paths) == count
    found = segmenter(paths)
    syllables = MincutWrapper(preset=preset)(found)
    unmerged = MincutWrapper(syl_dur=0.2, merge_threshold=1.1, preset=preset)(found)
    for path, features, output, cut in zip(paths, found, syllables, unmerged, strict=True):
        expected = np.load(folder / "segmentation" / preset / f"{path.stem}.npz")
        mask = expected["mask"]
        np.testing.assert_array_equal(features["mask"], mask)
        np.testing.assert_allclose(features["norm"], expected["norm"], atol=1e-4, rtol=0)
        np.testing.assert_array_equal(features["segments"], expected["speech_spans"])
        np.testing.assert_allclose(features["features"][mask], expected["frame_features"][mask], atol=1e-4, rtol=0)
        assert not features["features"][~mask].any()
        np.testing.assert_array_equal(output["segments"], expected["segments"])
        np.testing.assert_allclose(output["segment_features"], expected["segment_features"], atol=1e-4, rtol=0)
        if preset == "readme":
            np.testing.assert_array_equal(cut["segments"], expected["segments_unmerged"])
        # One by one, as in the list.
        assert_same(MincutWrapper(preset=preset)(segmenter(str(path))), output)


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_golden(golden, preset):
    check_golden(golden, preset, 5.0, 5)


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_real_golden(real_golden, preset):
    check_golden(real_golden, preset, 5.5, 4)


@pytest.mark.parametrize(("suffix", "arguments"), [("m04", {}), ("m03", {"syl_dur": 0.2, "merge_threshold": 0.3})])
def test_golden_mincut(golden, suffix, arguments):
    values = np.load(golden / "mincut.npz")
    for case in range(11):
        features = values[f"case{case}_features"]
        output = MincutWrapper(**arguments)(as_speech(features, [(0, len(features))]))
        np.testing.assert_array_equal(output["segments"], values[f"case{case}_merged_{suffix}"])
        np.testing.assert_allclose(output["segment_features"], values[f"case{case}_pooled_{suffix}"], atol=1e-4)


def test_golden_merge_of_the_paper(golden):
    values = np.load(golden / "merge_paper.npz")
    for case in range(8):
        output = MincutWrapper(preset="paper")(as_speech(values[f"case{case}_features"], values[f"case{case}_spans"]))
        np.testing.assert_array_equal(output["segments"], values[f"case{case}_segments"])
        np.testing.assert_allclose(output["segment_features"], values[f"case{case}_pooled"], atol=1e-4)


def as_speech(features, spans):
    frames = len(features)
    return {
        "segments": np.asarray(spans, np.int64).reshape(-1, 2),
        "features": features,
        "mask": np.ones(frames, bool),
        "norm": np.ones(frames, np.float32),
        "length": frames,
        "status": "ok",
        "error": None,
        "syllable_options": {},
    }


# -- lists


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


def check_shapes(features, output):
    length = output["length"]
    assert set(features) >= FEATURE_KEYS
    assert set(output) >= SYLLABLE_KEYS
    assert (features["features"].shape, features["features"].dtype) == ((length, 48), np.float32)
    assert (features["mask"].shape, features["mask"].dtype) == ((length,), np.bool_)
    assert (features["norm"].shape, features["norm"].dtype) == ((length,), np.float32)
    assert (features["segments"].shape[1:], features["segments"].dtype) == ((2,), np.int64)
    syllables = len(output["segments"])
    assert (output["segments"].shape, output["segments"].dtype) == ((syllables, 2), np.float64)
    assert (output["segment_features"].shape, output["segment_features"].dtype) == ((syllables, 48), np.float32)
    assert output["features"].shape == (length, 48)
    assert isinstance(length, int)


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


# -- arrays


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


# -- long audio


@pytest.fixture(scope="module")
def long_file(golden, tmp_path_factory):
    """Fifty seconds of synthetic speech, and the path of its file."""
    speech = [samples_of(path) for path in sorted((golden / "audio").glob("*.flac"))] * 2
    samples = np.concatenate(speech)[: 50 * 16_000 + 123]
    assert len(samples) > 50 * 16_000
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, samples, 16_000)
    return path


def joints_of(path, duration, count):
    """Where the pieces begin, from the neighbours' own reading."""
    length = duration / count
    joints = [0.0]
    for piece in range(1, count):
        span = Span(piece * length, (piece + 1) * length, joint_start=True, joint_end=piece < count - 1)
        with path.open("rb") as file:
            joints.append(read_audio(file, span).offset)
    return joints


def test_long_audio_is_one_result_of_its_pieces(tiny_checkpoint, segmenter, mincut, long_file):
    """What is computed piece by piece equals each piece's samples alone, at its place in the file and its windows."""
    in_pieces = SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")
    found = in_pieces(long_file)
    samples = samples_of(long_file)
    assert found["length"] == len(samples) // 320
    assert found["status"] == "ok"
    joints = [round(joint * 50) for joint in joints_of(long_file, len(samples) / 16_000, 3)]
    edges = [*joints, len(samples) // 320]
    for begin, end in pairwise(edges):
        part = samples[begin * 320 : end * 320 if end != edges[-1] else None]
        phase = -begin % 225 * 320  # the file's windows begin every 225 frames
        options = segmenter.options
        (piece,) = encode_pieces(
            segmenter.model, [normalise(part, 0.0)], options.windows, options.encoder, 80.0, [phase]
        )
        expected = find_speech(piece.raw_norm, piece.amplitude, options.speech)
        assert len(expected.mask) == end - begin
        features = np.where(expected.mask[:, None], piece.features, 0)
        np.testing.assert_allclose(found["features"][begin:end], features, atol=1e-4)
        np.testing.assert_array_equal(found["mask"][begin:end], expected.mask)
        inside = [span for span in found["segments"].tolist() if begin <= span[0] < end]
        assert inside == (expected.spans + begin).tolist()

    output = mincut(found)
    assert np.all(output["segments"][1:, 0] >= output["segments"][:-1, 1])
    assert output["segments"].min() >= 0
    assert output["segments"].max() <= found["length"] / 50
    np.testing.assert_array_equal(output["segments"], np.round(output["segments"] * 50) / 50)


def test_long_audio_in_a_list_is_one_result(tiny_checkpoint, sounds, long_file):
    in_pieces = SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")
    found = in_pieces([sounds[0], long_file, sounds[1]])
    assert len(found) == 3
    assert_same(found[1], in_pieces(long_file))
    assert_same(found[0], in_pieces(sounds[0]))


def test_pieces_change_segments_near_the_joints_only(tiny_checkpoint, segmenter, mincut, long_file):
    """The z-score is the piece's own, but most syllables do not move."""
    whole = mincut(segmenter(long_file))
    pieces = mincut(SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")(long_file))
    assert whole["length"] == pieces["length"]
    same = {tuple(row) for row in whole["segments"].tolist()} & {tuple(row) for row in pieces["segments"].tolist()}
    assert len(same) > 0.6 * len(whole["segments"])


@pytest.mark.parametrize("container", ["FLAC", "WAV"])
def test_half_of_a_long_file_has_no_frames_beyond_its_end(tiny_checkpoint, long_file, tmp_path, container):
    samples = samples_of(long_file)
    whole = io.BytesIO()
    soundfile.write(whole, samples, 16_000, format=container)
    path = tmp_path / "half"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 4])
    found = SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")(path)
    with path.open("rb") as file:
        decoded = len(read_audio(file, Span()).samples)
    assert found["status"] == "truncated"
    assert decoded < 16 * 16_000
    assert found["length"] == decoded // 320


# -- options


def test_single_arguments_override_the_preset(tiny_checkpoint):
    options = SDHuBERTSegmenter(
        tiny_checkpoint, layer=3, normcut_layer=5, normcut_threshold=5.0, preset="paper", channel=1, piece_seconds=60
    ).options
    assert (options.encoder.layer, options.encoder.normcut_layer) == (3, 5)
    assert (options.speech.normcut_strategy, options.speech.normcut_threshold) == ("absolute", 5.0)
    assert (options.audio.channel, options.audio.piece_seconds) == (1, 60)
    assert options.windows.window_seconds is None


def test_arguments_of_mincut_reach_the_cut(segmenter, sounds):
    found = segmenter(sounds[1])
    default = MincutWrapper()(found)["segments"]
    nothing_merged = MincutWrapper(merge_threshold=1.1)(found)["segments"]
    all_merged = MincutWrapper(merge_threshold=-1.1)(found)["segments"]
    assert len(nothing_merged) > len(default) > len(all_merged) == len(found["segments"])
    np.testing.assert_array_equal(all_merged, found["segments"] / 50)
    uncut = MincutWrapper(min_cut_minimum=10_000)(found)["segments"]
    np.testing.assert_array_equal(uncut, found["segments"] / 50)
    # K = ceil(n / 50 / syl_dur) of each span, at most n - 1.
    counts = [min(-(-frames // 10), max(frames - 1, 1)) for frames in np.diff(found["segments"], axis=1).ravel()]
    assert len(MincutWrapper(syl_dur=0.2, merge_threshold=1.1)(found)["segments"]) == sum(counts)


def test_other_frame_rates_scale_times_and_counts(segmenter, sounds):
    """At 100 Hz the same frames last half as long: half of syl_dur cuts them alike."""
    found = segmenter(sounds[0])
    slow = MincutWrapper(syl_dur=0.2)(found)
    fast = MincutWrapper(syl_dur=0.1, ft_sr=100)(found)
    np.testing.assert_allclose(fast["segments"], slow["segments"] / 2)
    np.testing.assert_array_equal(fast["segment_features"], slow["segment_features"])


def test_segment_features_are_means_of_the_features_given(segmenter, mincut, sounds):
    output = mincut(segmenter(sounds[2]))
    for (start, end), mean in zip(output["segments"], output["segment_features"], strict=True):
        frames = output["features"][round(start * 50) : round(end * 50)]
        np.testing.assert_allclose(mean, frames.astype(np.float64).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_features_are_float16(tiny_checkpoint, mincut, sounds, dtype):
    found = SDHuBERTSegmenter(tiny_checkpoint, dtype=dtype, device="cpu")([sounds[3], np.zeros(16_000)], 16_000)
    assert [item["features"].dtype for item in found] == [np.float16, np.float16]
    assert found[0]["norm"].dtype == np.float32
    output = mincut(found[0])
    assert output["segment_features"].dtype == np.float32
    assert len(output["segments"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"preset": "reademe"}, "unknown preset 'reademe'"),
        ({"dtype": "float8"}, "dtype is 'float8'.*float32, bfloat16, float16"),
        ({"normcut_strategy": "relativ"}, r"normcut_strategy is 'relativ'"),
        ({"layer": 13}, r"encoder\.layer is 13"),
        ({"layer": -1}, r"encoder\.layer is -1"),
        ({"piece_seconds": 5}, r"piece_seconds is 5"),
        ({"channel": -1}, r"channel is -1"),
        ({"device": "nosuchdevice"}, "device 'nosuchdevice' cannot be used"),
    ],
)
def test_wrong_arguments_of_the_segmenter(tiny_checkpoint, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        SDHuBERTSegmenter(tiny_checkpoint, **arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"preset": "papers"}, "unknown preset 'papers'"),
        ({"syl_dur": 0}, "syl_dur is 0"),
        ({"merge_threshold": float("nan")}, "merge_threshold"),
        ({"ft_sr": 0}, "ft_sr is 0"),
        ({"ft_sr": float("nan")}, "ft_sr is nan"),
        ({"min_cut_minimum": 0}, "min_cut_minimum is 0"),
    ],
)
def test_wrong_arguments_of_mincut(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        MincutWrapper(**arguments)


# -- without Ray


@FORKS
def test_it_works_where_ray_cannot_be_imported(sounds):
    code = (
        "import sys, json\n"
        "assert not {'ray', 'sdhubert_ray'} & set(sys.modules)\n"
        "sys.modules['ray'] = None\n"
        "from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter\n"
        "output = MincutWrapper()(SDHuBERTSegmenter('bundled', device='cpu')(sys.argv[1]))\n"
        "print(json.dumps([output['length'], len(output['segments'])]))\n"
    )
    result = run_script(code, sounds[0])
    assert result.returncode == 0, result.stderr
    length, syllables = json.loads(result.stdout)
    assert length == len(samples_of(sounds[0])) // 320
    assert syllables > 0
    assert "RANDOM" not in result.stderr


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
