"""Resampling on the device of the encoder: as soxr does it, whatever it is done beside; and where it cannot be had."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from commands import complaint, sdhubert
from hypothesis import given, settings
from hypothesis import strategies as st
from runs.stage_runs import AUDIO, NAMES, audio_and_windows, in_unit, read_audio_file, read_rows

from sdhubert_ray import SDHuBERTSegmenter, read_segments
from sdhubert_ray.encoder.resampling import check_resampler, resample_on, resample_tensor
from sdhubert_ray.errors import UserError
from sdhubert_ray.output.tables import read_intervals
from sdhubert_ray.runs.config import JobConfig, load_config
from sdhubert_ray.runs.stages import AudioSource, DecodeAudio, load_piece, settle_pieces
from sdhubert_ray.speech.audio import LEFT_RATES, TORCHAUDIO, Span, count_resampled, normalise, resample

ON_DEVICE = f"audio.resampler={TORCHAUDIO}"


@pytest.fixture(scope="module")
def torchaudio():
    """Skips with the sentence that a user would have."""
    try:
        check_resampler(TORCHAUDIO)
    except UserError as error:
        pytest.skip(str(error))


def noise(num_samples, rate, seed=0):
    """Up to its ends as loud as it is, and of no frequency that either rate's filter touches."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum[np.fft.rfftfreq(num_samples, 1 / rate) > 0.9 * min(rate, 16_000) / 2] = 0
    return (0.1 * np.fft.irfft(spectrum, num_samples)).astype(np.float32)


def decibels(found, expected):
    """How far below what is expected the difference is."""
    error, power = (np.mean(np.square(one, dtype=np.float64)) for one in (found - expected, expected))
    return 10 * math.log10(max(error, 1e-30) / power)


def on_device(signal, rate):
    return resample_tensor(torch.from_numpy(signal), rate).numpy()


# -- as soxr does it


@pytest.mark.usefixtures("torchaudio")
@pytest.mark.parametrize("rate", LEFT_RATES)
def test_noise_within_80_decibels_of_soxr(rate):
    signal = noise(5 * rate + 77, rate)
    found, expected = on_device(signal, rate), resample(signal, rate)
    assert found.dtype == np.float32
    assert decibels(found, expected) < -80
    for end in (slice(0, 800), slice(-800, None)):  # where half of the filter is beyond the signal
        assert decibels(found[end], expected[end]) < -80


@pytest.mark.usefixtures("torchaudio")
@settings(max_examples=40)
@given(st.integers(2, 200_000), st.sampled_from(LEFT_RATES), st.integers(0, 2**32 - 1))
def test_any_length_has_as_many_samples_as_of_soxr_and_about_their_values(num_samples, rate, seed):
    signal = np.random.default_rng(seed).uniform(-1, 1, num_samples).astype(np.float32)
    signal.flags.writeable = False
    (found,) = resample_on("cpu", [(signal, rate)], 1e-7)
    expected = resample(signal, rate)
    if found is None:
        assert np.std(expected) < 2e-6
    else:
        np.testing.assert_allclose(found, normalise(expected, 1e-7), rtol=0, atol=0.02)


@pytest.mark.usefixtures("torchaudio")
def test_real_speech_within_80_decibels_of_soxr(real_speech):
    rows = [json.loads(line) for line in (real_speech / "manifest.jsonl").read_text().splitlines()]
    shown = {}
    for row in rows:
        if row["sample_rate"] in LEFT_RATES and row["duration"] < 60 and shown.setdefault(row["sample_rate"], 0) < 8:
            shown[row["sample_rate"]] += 1
            signal, rate = soundfile.read(real_speech / row["uri"], dtype="float32", always_2d=True)
            signal = np.ascontiguousarray(signal.mean(axis=1))
            assert decibels(on_device(signal, rate), resample(signal, rate)) < -80, row["id"]
    assert 48_000 in shown


# -- whatever it is done beside


@pytest.mark.usefixtures("torchaudio")
@pytest.mark.parametrize("rate", LEFT_RATES)
def test_parts_have_no_seams(rate):
    """Against torchaudio itself over the whole, in double precision."""
    from torchaudio.transforms import Resample

    from sdhubert_ray.encoder import resampling

    words = ("sinc_interp_kaiser", resampling._ZEROS, resampling._ROLLOFF, resampling._BETA)
    signal = np.random.default_rng(0).uniform(-1, 1, 9 * rate + 1234).astype(np.float32)
    whole = Resample(rate, 16_000, *words, dtype=torch.float64)(torch.from_numpy(signal).double())
    found = on_device(signal, rate)
    np.testing.assert_allclose(found, whole.numpy()[: len(found)], rtol=0, atol=3e-6)


@pytest.mark.usefixtures("torchaudio")
def test_a_piece_has_the_same_bits_beside_any_others_and_on_any_number_of_threads():
    pieces = [(noise(int(rate * (1.3 + index)), rate, index), rate) for index, rate in enumerate(LEFT_RATES)]
    together = resample_on("cpu", pieces, 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        many = resample_on("cpu", pieces[::-1], 0.0)[::-1]
    finally:
        torch.set_num_threads(threads)
    for piece, one, other in zip(pieces, together, many, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, resample_on("cpu", [piece], 0.0)[0])


@pytest.mark.usefixtures("torchaudio")
def test_what_only_higher_frequencies_are_in_is_silent():
    """As it is after soxr: what is judged is what the encoder would read."""
    seconds = np.arange(96_000) / 48_000
    tone = (0.01 * np.hanning(96_000) * np.sin(2 * np.pi * 20_000 * seconds)).astype(np.float32)
    assert np.std(resample(tone, 48_000)) < 1e-6
    assert resample_on("cpu", [(tone, 48_000), (noise(48_000, 48_000), 48_000)], 0.0)[0] is None
    assert resample_on("cpu", [(np.zeros(8000, np.float32), 8000)], 1e-7) == [None]


# -- in the stages


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Speech at other rates, and what is to have another status than `ok`."""
    folder = tmp_path_factory.mktemp("rates")
    speech = [read_audio_file(AUDIO / f"{name}.flac") for name in NAMES]
    long = np.concatenate(speech * 2)
    for name, rate, samples in (
        ("stereo", 48_000, speech[0]),
        ("telephone", 8000, speech[1]),
        ("phone", 24_000, speech[2]),
        ("long", 32_000, long),
        ("music", 44_100, speech[3]),
        ("high", 96_000, speech[3]),
        ("same", 16_000, speech[4]),
        ("silent", 48_000, np.zeros(16_000)),
        ("short", 48_000, speech[0][:1000]),
    ):
        other = soxr.resample(samples, 16_000, rate)
        soundfile.write(
            folder / f"{name}.wav", np.stack([other, 0.5 * other], axis=1) if name == "stereo" else other, rate
        )
    whole = (folder / "phone.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    return folder


def decode(recordings, *overrides):
    config = load_config(None, overrides, {}, {})
    return DecodeAudio(config.audio, config.windows)(in_unit(read_rows(recordings), 20.0))


def test_decoding_leaves_what_torchaudio_can_do_well(recordings):
    """At the rates that it makes of what soxr does, and no others."""
    rows = decode(recordings, ON_DEVICE)
    rates = {Path(row["uri"]).stem: row["samples_hz"] for row in rows.to_pylist() if row["samples"] is not None}
    left = {"stereo": 48_000, "telephone": 8000, "phone": 24_000, "long": 32_000, "cut": 24_000, "silent": 48_000}
    assert rates == {**left, "music": 16_000, "high": 16_000, "same": 16_000}
    by_soxr = decode(recordings)
    assert set(by_soxr.column("samples_hz").to_pylist()) == {16_000}
    for name in ("offset", "duration", "num_frames", "error", "window_phase"):
        assert rows.column(name).equals(by_soxr.column(name)), name


@pytest.mark.usefixtures("torchaudio")
def test_the_table_is_about_that_of_soxr(make_stages, recordings):
    tables = []
    for overrides in ((), (ON_DEVICE,)):
        rows = in_unit(read_rows(recordings), 20.0)
        for stage in make_stages("output.frame_features=float32", *overrides):
            rows = stage(rows)
        tables.append(rows)
    by_soxr, on_device = tables
    assert by_soxr.column_names == on_device.column_names
    assert on_device.column("status").equals(by_soxr.column("status"))
    assert set(on_device.column("status").to_pylist()) == {"ok", "silent", "too_short", "truncated"}
    for ours, theirs in zip(
        on_device.column("frame_features").to_pylist(), by_soxr.column("frame_features").to_pylist(), strict=True
    ):
        if ours is None:
            assert theirs is None
        else:
            assert decibels(np.array(ours), np.array(theirs)) < -50
    same = [
        np.array_equal(ours, theirs)
        for ours, theirs in zip(*(read_intervals(table.column("segments")) for table in tables), strict=True)
    ]
    assert np.mean(same) > 0.8


@pytest.mark.usefixtures("torchaudio")
def test_rows_have_the_same_bits_alone_and_in_any_unit(make_stages, recordings):
    decode, encode, _ = make_stages(ON_DEVICE)
    rows = in_unit(read_rows(recordings), 20.0)
    together = encode(decode(rows))
    for row in range(rows.num_rows):
        alone = encode(decode(rows.slice(row, 1)))
        for name in ("frame_features", "raw_norm", "amplitude", "status"):
            assert alone.column(name)[0] == together.column(name)[row], (name, rows.column("uri")[row])


@pytest.mark.usefixtures("torchaudio")
def test_pieces_are_joined_where_those_of_soxr_are(recordings):
    config = load_config(None, [ON_DEVICE], {}, {})
    span = Span.of_piece(16.0, 32.0, 1, 3)
    source = AudioSource(str(recordings / "long.wav"))
    by_soxr = load_piece(source, span, None, *audio_and_windows())
    (piece,) = settle_pieces([load_piece(source, span, None, config.audio, config.windows)], config.audio, "cpu")
    assert (piece.offset, piece.duration, piece.num_frames, piece.phase, piece.rate) == (
        by_soxr.offset,
        by_soxr.duration,
        by_soxr.num_frames,
        by_soxr.phase,
        16_000,
    )
    assert decibels(piece.samples, by_soxr.samples) < -70  # with what lies between 0.9 of the band and its end


def test_counts_are_those_of_soxr():
    for rate in (*LEFT_RATES, 44_100, 96_000, 11_127, 1000, 3999):
        for num_samples in range(400):
            assert count_resampled(num_samples, rate) == len(resample(np.zeros(num_samples, np.float32), rate))


# -- a run


@pytest.mark.usefixtures("torchaudio", "connected")
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_run_keeps_its_resampler(engine, recordings, tiny_checkpoint, tmp_path):
    command = ["segment", recordings, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", engine]
    command += ["--device", "cpu", "resources.encode.max_workers=1"]
    sdhubert(*command, ON_DEVICE)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["audio"]["resampler"] == TORCHAUDIO
    assert "nothing was left to do" in sdhubert(*command, ON_DEVICE).stdout
    refused = complaint(sdhubert(*command, expect=2))
    assert 'audio.resampler ("torchaudio" there, unset now)' in refused
    segmenter = SDHuBERTSegmenter(tiny_checkpoint, device="cpu", resampler=TORCHAUDIO)
    for result in read_segments(str(tmp_path / "out")):
        if result.status == "ok" and result.id != "long.wav":
            assert segmenter(recordings / result.id)["length"] == result.num_frames


@pytest.mark.usefixtures("torchaudio")
def test_the_api_resamples_on_its_device(recordings, tiny_checkpoint):
    segmenter = SDHuBERTSegmenter(tiny_checkpoint, device="cpu", resampler=TORCHAUDIO)
    by_soxr = SDHuBERTSegmenter(tiny_checkpoint, device="cpu")
    names = [recordings / name for name in ("phone.wav", "silent.wav", "same.wav", "cut.wav")]
    for path, ours, theirs in zip(names, segmenter(names), by_soxr(names), strict=True):
        assert (ours["status"], ours["length"]) == (theirs["status"], theirs["length"])
        np.testing.assert_allclose(ours["norm"], theirs["norm"], rtol=0, atol=1e-2)
        samples, rate = soundfile.read(path, dtype="float32")
        if path.stem != "cut":
            np.testing.assert_array_equal(segmenter(samples, rate)["features"], ours["features"])


def test_an_output_of_before_is_gone_on_with():
    """It was soxr's, and says nothing of it."""
    assert "resampler" not in JobConfig().identity("0")["audio"]
    assert load_config(None, [ON_DEVICE], {}, {}).identity("0")["audio"]["resampler"] == TORCHAUDIO


# -- where it cannot be had


@pytest.fixture
def without_torchaudio(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchaudio", None)


@pytest.fixture
def broken_torchaudio(monkeypatch, tmp_path):
    """As beside a torch without CUDA."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "broken" / "torchaudio").mkdir(parents=True)
    init = tmp_path / "broken" / "torchaudio" / "__init__.py"
    init.write_text("raise OSError('libcudart.so.13: cannot open shared object file\\nmore')\n")
    monkeypatch.syspath_prepend(tmp_path / "broken")


SENTENCES = {
    "without_torchaudio": "there is no module torchaudio here; install sdhubert_ray[gpu], or take audio.resampler=soxr",
    "broken_torchaudio": "(libcudart.so.13: cannot open shared object file); install a torch of the same build, or",
}


@pytest.mark.parametrize("state", SENTENCES)
def test_its_absence_is_told_before_work_begins(state, request, golden, tiny_checkpoint, tmp_path):
    request.getfixturevalue(state)
    command = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    assert SENTENCES[state] in complaint(sdhubert(*command, ON_DEVICE, expect=2))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"audio\.resampler is torchaudio, "):
        SDHuBERTSegmenter(tiny_checkpoint, device="cpu", resampler=TORCHAUDIO)
    sdhubert(*command)  # soxr needs none


def test_another_resampler_is_refused(golden, tiny_checkpoint, tmp_path):
    command = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    refused = complaint(sdhubert(*command, "audio.resampler=sox", expect=2))
    assert "audio.resampler is 'sox'; it has to be one of soxr, torchaudio" in refused
    with pytest.raises(UserError, match=r"audio\.resampler is 'sox'"):
        SDHuBERTSegmenter(tiny_checkpoint, device="cpu", resampler="sox")
