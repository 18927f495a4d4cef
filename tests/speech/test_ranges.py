"""Ranges of files, and pieces of long ones: what is read is the slice of the whole, and pieces tile it."""

import io
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speech.encoding import LOSSLESS, LOSSY, encode, read, speech_like, unmeasured_flac

from sdhubert_ray.speech.audio import Span

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
