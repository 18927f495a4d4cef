"""Decoding: every format, what is left of damaged files, ranges and joints, resampling and the z-score."""

import io
import json
import struct
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speech.encoding import encode, speech_like, tone

from sdhubert_ray.errors import AudioError
from sdhubert_ray.speech.audio import AudioOptions, Span, is_silent, normalise, probe_duration, read_audio, resample

WHOLE = Span()

LOSSLESS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
]
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
RATES = [8000, 11_025, 22_050, 44_100, 48_000]
OPUS_RATES = {8000, 16_000, 48_000}


def read(data, span=WHOLE, channel=None):
    return read_audio(io.BytesIO(data), span, channel)


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


def unmeasured_flac(signal, rate=16_000):
    """total_samples = 0, as an encoder writes that cannot seek."""
    data = bytearray(encode(signal, rate, container="FLAC"))
    assert data[:4] == b"fLaC"
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


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


# -- ranges


seconds = st.floats(0, 6, allow_nan=False)


@pytest.fixture(scope="module")
def six_seconds():
    signal = speech_like(6.0)
    stereo = np.stack([signal, signal[::-1]], axis=1)
    codings = {"WAV": "PCM_16", "FLAC": "PCM_16", "MP3": "MPEG_LAYER_III", "VORBIS": "VORBIS", "OPUS": "OPUS"}
    return {
        (name, channels): encode(
            signal if channels == 1 else stereo, 16_000, "OGG" if name in {"VORBIS", "OPUS"} else name, subtype
        )
        for name, subtype in codings.items()
        for channels in (1, 2)
    }


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["WAV", "FLAC", "MP3", "VORBIS", "OPUS"]),
    st.sampled_from([1, 2]),
    seconds,
    st.one_of(st.none(), seconds),
    st.sampled_from([None, 0]),
)
@example("FLAC", 1, 6.0, None, None)
@example("MP3", 2, 0.0, 6.0, 0)
def test_a_range_equals_the_slice_of_the_whole(six_seconds, container, channels, one, other, channel):
    start, end = (one, None) if other is None else sorted((one, other))
    data = six_seconds[container, channels]
    whole = read(data, channel=channel).samples
    audio = read(data, Span(start, end), channel)
    stop = None if end is None else round(end * 16_000)
    np.testing.assert_array_equal(audio.samples, whole[round(start * 16_000) : stop])
    assert audio.shortfall is None
    assert audio.offset == pytest.approx(start, abs=1 / 16_000)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [*LOSSLESS, ("WAV", "MS_ADPCM"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("AU", "G721_32"), ("CAF", "ALAC_16")],
)
def test_ranges_of_every_coding_equal_the_slices(container, subtype):
    data = encode(speech_like(6.0), 16_000, container, subtype)
    whole = read(data).samples
    assert len(whole) >= 96_000
    for start, end in ((0.0, 1.0), (1.2345, 3.0), (2.0, 5.9), (5.0, None)):
        audio = read(data, Span(start, end))
        assert audio.shortfall is None
        stop = None if end is None else round(end * 16_000)
        np.testing.assert_array_equal(audio.samples, whole[round(start * 16_000) : stop])


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_times_of_a_range_are_those_of_the_file(rate):
    data = encode(speech_like(4.0, rate), rate)
    audio = read(data, Span(1.5, 3.0))
    assert (audio.offset, audio.duration, len(audio.samples)) == (1.5, 1.5, 24_000)
    beyond = read(data, Span(3.5, 9.0))
    assert (beyond.offset, beyond.duration) == (3.5, 0.5)
    assert len(read(data, Span(7.0, 9.0)).samples) == 0


# -- joints


def nominal_pieces(duration, count):
    """As a manifest cuts a file: `count` equal pieces, whose inner ends are joints."""
    length = duration / count
    return [
        Span.of_piece(piece * length, None if piece == count - 1 else (piece + 1) * length, piece, count)
        for piece in range(count)
    ]


def quietest_cell(signal, nominal, rate):
    """The first of the least loud 20 ms cells of the file's grid that lie within 5 s of `nominal`."""
    cell = rate // 50
    energies = {
        at: float(np.sum(np.square(signal[at * cell : (at + 1) * cell].astype(np.float64))))
        for at in range(len(signal) // cell)
        if at * cell >= (Fraction(nominal) - 5) * rate and (at + 1) * cell <= (Fraction(nominal) + 5) * rate
    }
    return min(energies, key=lambda at: (energies[at], at)) / 50


def check_pieces(data, duration, count, channel=None):
    """Pieces tile the file: the neighbours agree, on the grid; together they are the whole file."""
    whole = read(data, channel=channel)
    pieces = [read(data, span, channel) for span in nominal_pieces(duration, count)]
    filled = [piece for piece in pieces if len(piece.samples)]
    for before, after in pairwise(filled):
        assert after.offset == pytest.approx(before.offset + before.duration, abs=1e-9)
        assert after.offset * 50 == pytest.approx(round(after.offset * 50), abs=1e-6)
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), whole.samples)
    return whole, pieces


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    duration=st.floats(20.5, 65),
    container=st.sampled_from(["WAV", "FLAC"]),
    quantised=st.booleans(),
)
@example(seed=359, duration=62.4, container="WAV", quantised=True)
def test_joints_are_the_quietest_moments_and_pieces_tile_the_file(seed, duration, container, quantised):
    signal = speech_like(duration, seed=seed)
    if quantised:  # many cells of equal energy, many of none
        signal = np.round(signal * 8) / 8
    data = encode(signal, container=container)
    count = int(duration / 10.1)
    whole, pieces = check_pieces(data, duration, count)
    for piece, span in zip(pieces[1:], nominal_pieces(duration, count)[1:], strict=True):
        assert abs(piece.offset - span.start) <= 5
        assert piece.offset == pytest.approx(quietest_cell(whole.samples, span.start, 16_000), abs=1e-9)


@pytest.mark.parametrize("quietest", [10.0, 10.02, 15.0, 19.96, 19.98])
def test_the_joint_is_looked_for_in_ten_seconds_and_no_further(quietest):
    """Wholly silent moments lie just outside, of which none may be taken; ties go to the first."""
    signal = np.tile([0.5, -0.5], 240_000)
    for second in (9.98, 20.0, 20.02):
        signal[round(second * 16_000) :][:320] = 0
    signal[round(quietest * 16_000) :][:320] /= 4
    data = encode(signal)
    _, pieces = check_pieces(data, 30.0, 2)
    assert pieces[1].offset == pytest.approx(quietest, abs=1e-9)
    signal[round(quietest * 16_000) :][:320] *= 4
    _, pieces = check_pieces(encode(signal), 30.0, 2)
    assert pieces[1].offset == pytest.approx(10.0, abs=1e-9)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [*LOSSLESS, *LOSSY, ("WAV", "GSM610"), ("AU", "G721_32"), ("WAV", "IMA_ADPCM")],
)
def test_pieces_of_every_format_tile_the_file(container, subtype):
    data = encode(speech_like(33.0), 16_000, container, subtype)
    check_pieces(data, 33.0, 3)


def test_pieces_of_one_channel_are_cut_where_that_channel_is_quiet():
    left, right = speech_like(30.0, seed=1), speech_like(30.0, seed=2)
    data = encode(np.stack([left, right], axis=1))
    joints = set()
    for channel in (None, 0, 1):
        whole, pieces = check_pieces(data, 30.0, 2, channel)
        assert pieces[1].offset == pytest.approx(quietest_cell(whole.samples, 15.0, 16_000))
        joints.add(pieces[1].offset)
    assert len(joints) == 3


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_joints_at_other_rates(rate):
    signal = speech_like(31.0, rate)
    data = encode(signal, rate)
    native = np.asarray(soundfile.read(io.BytesIO(data), dtype="float32")[0])
    pieces = [read(data, span) for span in nominal_pieces(31.0, 2)]
    assert pieces[1].offset == pytest.approx(quietest_cell(native, 15.5, rate), abs=1e-9)
    assert pieces[0].duration == pytest.approx(pieces[1].offset, abs=1e-9)
    assert pieces[1].offset + pieces[1].duration == pytest.approx(31.0)
    # 20 ms are a whole number of 16 kHz samples, too: nothing is lost or doubled at the joint.
    assert sum(len(piece.samples) for piece in pieces) == 31 * 16_000


@pytest.mark.parametrize("rate", [11_025, 16_001])
def test_joints_at_rates_without_whole_cells(rate):
    data = encode(speech_like(31.0, rate), rate)
    first, second = (read(data, span) for span in nominal_pieces(31.0, 2))
    assert second.offset == pytest.approx(first.offset + first.duration, abs=1e-9)
    assert abs(second.offset - 15.5) <= 5
    assert second.offset * 50 == pytest.approx(round(second.offset * 50), abs=1e-6)


def test_pieces_of_a_flac_of_unknown_length_tile_it():
    check_pieces(unmeasured_flac(speech_like(33.0)), 33.0, 3)


@pytest.mark.parametrize("container", ["FLAC", "WAV", "MP3"])
@pytest.mark.parametrize("fraction", [0.2, 0.35, 0.5, 0.66, 0.85])
def test_pieces_of_half_a_file_hold_all_that_is_left_of_it(container, fraction):
    """Where the header promises more: joints near the break, and pieces behind it of which nothing is there."""
    data = encode(speech_like(36.0), container=container)
    data = data[: int(len(data) * fraction)]
    whole, pieces = check_pieces(data, 36.0, 3)
    assert whole.shortfall
    assert any(piece.shortfall for piece in pieces)
    assert sum(piece.duration for piece in pieces) == pytest.approx(whole.duration)


def test_a_piece_of_a_file_that_ends_before_its_joint_is_empty():
    data = encode(speech_like(8.0))
    first, second = read(data, Span(0.0, 20.0, joint_end=True)), read(data, Span(20.0, None, joint_start=True))
    assert (first.duration, second.duration) == (8.0, 0.0)


# -- resampling


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 30_000), st.sampled_from([4000, *RATES, 12_000, 16_000, 24_000, 32_000, 96_000, 11_127]))
def test_resampled_length(samples, rate):
    signal = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    resampled = resample(signal, rate)
    assert resampled.dtype == np.float32
    assert abs(len(resampled) - samples * 16_000 / rate) <= 0.5  # rounded, a half to either side


@pytest.mark.parametrize("rate", [*RATES, 96_000])
@pytest.mark.parametrize("frequency", [100, 1000, 3500])
def test_resampling_keeps_a_tone_and_its_phase(rate, frequency):
    """Against the tone itself at 16 kHz: no delay, no change of loudness."""
    resampled = resample(tone(frequency, 2.0, rate).astype(np.float32), rate)
    expected = tone(frequency, 2.0)
    inner = slice(2000, -2000)
    np.testing.assert_allclose(resampled[inner], expected[: len(resampled)][inner], atol=0.002)


@pytest.mark.parametrize("frequency", [9000, 12_000, 20_000])
def test_what_16_khz_cannot_hold_is_removed(frequency):
    resampled = resample(tone(frequency, 1.0, 48_000).astype(np.float32), 48_000)
    assert np.abs(resampled[2000:-2000]).max() < 1e-3


def test_16_khz_is_left_as_it_is():
    signal = speech_like(1.0).astype(np.float32)
    np.testing.assert_array_equal(resample(signal, 16_000), signal)


# -- the z-score


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(2, 20_000),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-4, 1e3),
    offset=st.floats(-1, 1),
    floor=st.sampled_from([0.0, 1e-7]),
)
def test_normalise_equals_the_definition_in_double(samples, seed, scale, offset, floor):
    signal = (np.random.default_rng(seed).standard_normal(samples) * scale + offset * scale).astype(np.float32)
    signal.flags.writeable = False
    normalised = normalise(signal, floor)
    assert normalised.dtype == np.float32
    exact = signal.astype(np.float64)
    mean = exact.sum() / samples
    variance = ((exact - mean) ** 2).sum() / samples  # of the population
    deviation = np.sqrt(variance + floor)
    rounding = np.finfo(np.float32).eps * abs(mean) / deviation  # of the mean
    np.testing.assert_allclose(normalised, (exact - mean) / deviation, atol=1e-5 + rounding)


def test_variance_floor_is_under_the_root():
    signal = np.array([1e-4, -1e-4], np.float32)
    np.testing.assert_allclose(normalise(signal, 0.0), [1, -1], rtol=1e-6)
    np.testing.assert_allclose(normalise(signal, 1e-7), np.array([1e-4, -1e-4]) / np.sqrt(1e-8 + 1e-7), rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.25, -1.0])
def test_constant_audio_is_silent(level):
    assert is_silent(np.full(16_000, level, np.float32))


def test_silence_ends_where_a_standard_deviation_of_a_millionth_begins():
    wave = np.tile(np.array([1, -1], np.float32), 8000)
    assert is_silent(wave * np.float32(0.99e-6))
    assert not is_silent(wave * np.float32(1.01e-6))
    one_bit = np.zeros(16_000, np.float32)
    one_bit[::100] = 2**-15
    assert not is_silent(one_bit)


# -- options


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"channel": -1}, "channel"),
        ({"piece_seconds": 19.9}, "piece_seconds"),
        ({"variance_floor": -1.0}, "variance_floor"),
    ],
)
def test_bad_options_are_refused_by_name(values, key):
    with pytest.raises(ValueError, match=rf"audio\.{key} is "):
        AudioOptions(**values)


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
