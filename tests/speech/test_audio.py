"""Decoding: every format, what is left of damaged files, ranges and joints, resampling and the z-score."""

import io
import json
import struct

import numpy as np
import pytest
import soundfile
from speech.encoding import LOSSLESS, LOSSY, RATES, WHOLE, encode, read, speech_like, tone, unmeasured_flac

from sdhubert_ray.errors import AudioError
from sdhubert_ray.speech.audio import Span, is_silent, probe_duration, read_audio, resample

OPUS_RATES = {8000, 16_000, 48_000}


def amplitude_of(samples, frequency, rate=16_000):
    """Of a tone in the middle of samples, whatever its phase."""
    middle = samples[len(samples) // 4 : len(samples) // 4 * 3].astype(np.float64)
    turns = np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / rate)
    return 2 * abs(np.mean(middle * turns))


# -- formats


def rates_of(subtype):
    return [rate for rate in RATES if subtype != "OPUS" or rate in OPUS_RATES]


@pytest.mark.parametrize(
    ("container", "subtype", "rate"),
    [(container, subtype, rate) for container, subtype in LOSSLESS + LOSSY for rate in rates_of(subtype)],
)
def test_every_format_rate_and_channel(container, subtype, rate):
    """A tone left, another right: which of them is heard, how loud, and for how long."""
    left, right = tone(440, 1.5, rate, 0.5), tone(1250, 1.5, rate, 0.25)
    data = encode(np.stack([left, right], axis=1), rate, container, subtype)
    frames = len(left)
    tolerance = 0.002 if (container, subtype) in LOSSLESS else 0.02
    for channel, loudness in ((None, (0.25, 0.125)), (0, (0.5, 0)), (1, (0, 0.25))):
        audio = read(data, channel=channel)
        assert audio.samples.dtype == np.float32
        assert audio.samples.ndim == 1
        assert audio.shortfall is None
        assert audio.offset == 0
        assert abs(len(audio.samples) - frames * 16_000 / rate) <= (0.5 if container != "MP3" else 0.1 * 16_000)
        assert audio.duration * 16_000 == pytest.approx(len(audio.samples), abs=0.51)
        assert amplitude_of(audio.samples, 440) == pytest.approx(loudness[0], abs=tolerance)
        assert amplitude_of(audio.samples, 1250) == pytest.approx(loudness[1], abs=tolerance)
    assert probe_duration(io.BytesIO(data)) == pytest.approx(audio.duration)


@pytest.mark.parametrize(("container", "subtype"), LOSSLESS)
def test_lossless_samples_at_16_khz_are_what_was_written(container, subtype):
    signal = speech_like(1.0)
    step = {"PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 2**-24}[subtype]
    samples = read(encode(signal, 16_000, container, subtype)).samples
    assert len(samples) == len(signal)
    assert np.abs(samples - signal).max() <= step
    stereo = read(encode(np.stack([signal, -signal / 2], axis=1), 16_000, container, subtype)).samples
    assert np.abs(stereo - signal / 4).max() <= step


@pytest.mark.parametrize(("container", "subtype"), LOSSY)
def test_lossy_samples_are_in_time(container, subtype):
    """No codec's delay is left in: what comes out is like what went in, sample by sample."""
    signal = tone(300, 1.0) * np.hanning(16_000)
    samples = read(encode(signal, 16_000, container, subtype)).samples
    assert len(samples) == 16_000
    assert np.corrcoef(samples, signal)[0, 1] > 0.99


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_32", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_telephone_and_other_codings_of_wav(subtype):
    samples = read(encode(tone(440, 2.0, 8000), 8000, "WAV", subtype)).samples
    assert len(samples) == pytest.approx(32_000, abs=2048)  # some fill their last block
    assert amplitude_of(samples, 440) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("container", "subtype"), LOSSY)
@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("compression", [0.0, 0.5, 0.9])
def test_lossy_files_decode_as_they_do_in_one_go(container, subtype, rate, compression):
    """Nothing of how they are read is heard: each frame of an mp3 needs the ones before it."""
    left, right = tone(440, 2.0, rate), tone(1250, 2.0, rate) * np.hanning(2 * rate)
    data = encode(np.stack([left, right], axis=1), rate, container, subtype, compression_level=compression)
    at_once, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    samples = read(data, channel=1).samples
    np.testing.assert_allclose(samples, resample(np.ascontiguousarray(at_once[:, 1]), rate), atol=1e-5)


def test_content_counts_and_not_the_name(tmp_path):
    path = tmp_path / "really_flac.mp3"
    path.write_bytes(encode(tone(440, 0.5), container="FLAC"))
    with path.open("rb") as file:
        assert probe_duration(file) == 0.5
        assert len(read_audio(file, WHOLE).samples) == 8000  # wherever the file stood


@pytest.mark.parametrize(("channels", "asked"), [(1, 1), (2, 2), (2, 9)])
@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3"])
def test_channel_out_of_range_is_refused(channels, asked, container):
    data = encode(np.zeros((1600, channels)), container=container)
    with pytest.raises(AudioError, match=rf"has {channels} channel\(s\), but channel {asked} \(from 0\)"):
        read(data, channel=asked)
    assert len(read(data, channel=channels - 1).samples)


# -- what is no audio


@pytest.mark.parametrize(
    "data",
    [
        b"This is a transcript, renamed to .wav by mistake.\n" * 20,
        b"RIFF",
        b"RIFF\x24\x00\x00\x00WAVE",
        b"fLaC\x00\x00",
        b"ID3",
        b"\x00" * 4000,
        bytes(range(256)) * 20,
        b"%PDF-1.4\n",
        b"PK\x03\x04 a zip",
    ],
)
def test_what_is_no_audio_is_refused(data):
    for read_it in (read, lambda data: probe_duration(io.BytesIO(data))):
        with pytest.raises(AudioError, match=r"^is not audio that can be decoded \([^)]+\)$"):
            read_it(data)


def test_an_empty_file_is_told_from_a_broken_one():
    with pytest.raises(AudioError, match=r"^is an empty file \(0 bytes\)$"):
        read(b"")


def test_audio_of_no_samples_is_no_error():
    for container in ("WAV", "AIFF", "AU"):
        audio = read(encode(np.zeros(0), container=container))
        assert (len(audio.samples), audio.duration, audio.shortfall) == (0, 0, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_numbers_are_refused(value, channels):
    signal = np.zeros((32_000, channels), np.float32)
    signal[20_000, channels - 1] = value
    signal[30_000, 0] = value
    data = encode(signal, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"^holds NaN or infinite samples, the first at 1\.250 s$"):
        read(data)
    with pytest.raises(AudioError, match=r"the first at 1\.250 s"):
        read(data, Span(1.0))
    # They lie elsewhere.
    assert len(read(data, Span(0, 1.25)).samples) == 20_000
    assert len(read(data, Span(1.9, 2.0)).samples) == 1600


# -- what is not whole


@pytest.mark.parametrize(
    ("container", "subtype"),
    [*LOSSLESS, ("WAV", "ULAW"), ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_24")],
)
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_decodes_of_half_a_file_is_kept_and_the_rest_is_told(container, subtype, fraction, channels):
    signal = speech_like(8.0)
    if channels == 2:
        signal = np.stack([signal, signal[::-1]], axis=1)
    data = encode(signal, 16_000, container, subtype)
    whole = read(data)
    assert whole.shortfall is None
    half = data[: int(len(data) * fraction)]
    audio = read(half)
    assert audio.shortfall.startswith(("is truncated: ", "is damaged: "))
    assert f"{audio.duration:.3f} s" in audio.shortfall
    assert "\n" not in audio.shortfall
    # In a compressed file half of the bytes are not half of the time; a block or two is lost with its end.
    assert audio.duration == pytest.approx(8 * fraction, abs=0.6)
    assert audio.duration == len(audio.samples) / 16_000
    end = len(audio.samples) - (2 * 1152 if container == "MP3" else 0)
    np.testing.assert_array_equal(audio.samples[:end], whole.samples[:end])


def test_all_that_can_be_decoded_of_a_truncated_flac_is_kept():
    """At most the one block is lost that was cut."""
    signal = np.random.default_rng(0).integers(-3000, 3000, 80_000).astype(np.int16)
    data = encode(signal, container="FLAC")
    for cut in range(len(data) // 2, len(data) // 2 + 4000, 997):
        audio = read(data[:cut])
        bytes_per_sample = len(data) / len(signal)
        assert len(audio.samples) >= cut / bytes_per_sample - 2 * 4096
        np.testing.assert_array_equal(audio.samples, signal[: len(audio.samples)] / np.float32(32_768))


def test_a_flac_broken_in_its_middle_is_damaged():
    data = bytearray(encode(speech_like(4.0), container="FLAC"))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xaa" * 400
    audio = read(bytes(data))
    assert audio.shortfall is None or "damaged" in audio.shortfall or "truncated" in audio.shortfall
    if audio.shortfall is None:  # the decoder found its way: then nothing may be missing
        assert len(audio.samples) == 64_000


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "W64", "RF64", "FLAC", "MP3", "OGG"])
def test_a_few_bytes_more_or_less_are_no_matter(container):
    """Tags behind the samples, a missing padding byte: not each file that is a little off is truncated."""
    data = encode(speech_like(3.0), container=container)
    assert read(data + b"\0").shortfall is None
    assert read(data).shortfall is None


def streamed_wav(samples, riff_size, data_size, *, info=True):
    """As a writer leaves it that cannot go back to fill in the sizes; ffmpeg puts a LIST chunk first."""
    chunk = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0" if info else b""
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    header = b"RIFF" + struct.pack("<I", riff_size) + b"WAVE" + fmt + chunk + b"data" + struct.pack("<I", data_size)
    return header + samples.astype("<i2").tobytes()


INTEGERS = np.random.default_rng(1).integers(-20_000, 20_000, 48_000)


@pytest.mark.parametrize("info", [True, False])
@pytest.mark.parametrize(
    ("riff_size", "data_size"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0x7FFFF024, 0x7FFFF000),  # sox
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0xFFFFFFFF, 0xFFFFFFFF - 44),
        (0, 0xFFFFFFFF),
    ],
)
def test_streamed_wav_is_not_truncated(riff_size, data_size, info):
    data = streamed_wav(INTEGERS, riff_size, data_size, info=info)
    audio = read(data)
    assert audio.shortfall is None
    np.testing.assert_array_equal(audio.samples, INTEGERS.astype(np.float32) / 32_768)
    assert probe_duration(io.BytesIO(data)) == 3.0


@pytest.mark.parametrize("riff_size", [0, 8, 36, 96_036, 0xFFFFFFFF])
def test_wav_whose_writer_never_filled_in_its_size_is_read_or_refused(riff_size):
    """No input is lost without a word: three seconds are there, and the header says none."""
    data = streamed_wav(INTEGERS, riff_size, 0, info=False)
    try:
        audio = read(data)
    except AudioError:
        return
    assert len(audio.samples) == 48_000 or audio.shortfall is not None


def test_streamed_au_is_not_truncated():
    data = bytearray(encode(speech_like(2.0), container="AU"))
    data[8:12] = b"\xff" * 4
    audio = read(bytes(data))
    assert (len(audio.samples), audio.shortfall) == (32_000, None)


def test_flac_of_unknown_length_is_read_to_its_end():
    signal = speech_like(5.0)
    audio = read(unmeasured_flac(signal))
    assert audio.shortfall is None
    np.testing.assert_array_equal(audio.samples, read(encode(signal, container="FLAC")).samples)
    assert probe_duration(io.BytesIO(unmeasured_flac(signal))) == 5.0
    assert probe_duration(io.BytesIO(unmeasured_flac(speech_like(2.0, 44_100), 44_100))) == 2.0


def without_first_mp3_frame(data):
    """Without the frame that tells the length: what a stream or a cutter leaves."""
    (head,) = struct.unpack(">I", data[:4])
    assert head >> 17 == 0b111111111111001  # MPEG 2, layer III
    kbps = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160][(head >> 12) & 15]
    return data[72 * kbps * 1000 // 16_000 + ((head >> 9) & 1) :]


@pytest.mark.parametrize("first", ["loud", "quiet"])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_a_length_is_read_to_its_end(first, mode):
    """Its length is guessed from the bitrate of its first frame, which may be far off either way."""
    loud, quiet = speech_like(15.0), speech_like(15.0) * 1e-5
    signal = np.concatenate([loud, quiet] if first == "loud" else [quiet, loud])
    data = encode(signal, container="MP3", bitrate_mode=mode, compression_level=0.5)
    bare = without_first_mp3_frame(data)
    audio = read(bare)
    assert len(audio.samples) / 16_000 == pytest.approx(30, abs=0.2)
    assert audio.shortfall is None
    assert probe_duration(io.BytesIO(bare)) == pytest.approx(30, abs=0.2)


def test_mp3_with_tags_around_it():
    data = encode(speech_like(3.0), container="MP3")
    audio = read(data)
    id3v2 = b"ID3\x03\x00\x00\x00\x00\x07\x76" + bytes(1014)
    id3v1 = b"TAG" + b"title".ljust(125, b"\0")
    tagged = read(id3v2 + data + id3v1)
    assert tagged.shortfall is None
    np.testing.assert_array_equal(tagged.samples, audio.samples)


# -- real recordings


def test_real_recordings_of_each_kind(real_speech):
    """One of each ending, rate and number of channels, against what their manifest says of them."""
    rows = [json.loads(line) for line in (real_speech / "manifest.jsonl").read_text().splitlines()]
    kinds = {(row["uri"].rpartition(".")[2], row["sample_rate"], row["channels"]): row for row in rows}
    assert len(kinds) > 8
    for kind, row in kinds.items():
        with (real_speech / row["uri"]).open("rb") as file:
            audio = read_audio(file, WHOLE)
            assert probe_duration(file) == pytest.approx(row["duration"], abs=0.1), kind
        assert audio.duration == pytest.approx(row["duration"], abs=0.1), kind
        assert len(audio.samples) == pytest.approx(row["duration"] * 16_000, abs=1600), kind
        assert audio.shortfall is None, kind
        assert not is_silent(audio.samples), kind


def test_real_lossy_recordings_decode_as_they_do_in_one_go(real_speech):
    rows = [json.loads(line) for line in (real_speech / "manifest.jsonl").read_text().splitlines()]
    lossy = [row for row in rows if row["uri"].endswith((".mp3", ".opus", ".ogg")) and row["duration"] < 20]
    assert len(lossy) >= 5
    for row in lossy:
        data = (real_speech / row["uri"]).read_bytes()
        at_once, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        expected = resample(at_once.mean(axis=1, dtype=np.float32), rate)
        np.testing.assert_allclose(read(data).samples, expected, atol=1e-5, err_msg=row["uri"])
