"""Samples that were decoded: resampling, the z-score, loudness, and the options."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech.encoding import RATES, encode_by_ffmpeg, read, speech_like, tone, write

from sdhubert_ray.speech.audio import AudioOptions, Span, average_channels, is_silent, normalise, resample

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


# -- channels


@settings(max_examples=60)
@given(frames=st.integers(0, 3000), channels=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_channels_are_averaged_to_the_bit_as_numpy_does(frames, channels, seed):
    rng = np.random.default_rng(seed)
    samples = (rng.standard_normal((frames, channels)) * rng.uniform(1e-6, 1, channels)).astype(np.float32)
    samples.flags.writeable = False
    average = average_channels(samples)
    assert average.dtype == np.float32
    np.testing.assert_array_equal(average, samples.mean(axis=1, dtype=np.float32))


# -- loudness


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "flac"])
def test_channels_that_cancel_each_other_are_told(name):
    signal = speech_like(3.0)
    data = write(np.stack([signal, -signal], axis=1), name)
    assert read(data).cancelled
    assert not read(data, channel=0).cancelled
    assert not read(write(np.stack([signal, signal], axis=1), name)).cancelled
    assert not read(write(np.stack([signal, signal[::-1]], axis=1), name)).cancelled
    assert not read(write(np.stack([signal, 0 * signal], axis=1), name)).cancelled
    assert not read(write(np.zeros((16_000, 2)), name)).cancelled


@settings(deadline=None, max_examples=40)
@given(exponent=st.integers(-100, 20))
def test_floats_of_any_scale_are_the_same_audio(exponent):
    """To the bit, as scales are powers of two; what is constant stays so."""
    signal = speech_like(0.5).astype(np.float32)
    audio = read(write(np.ldexp(signal, exponent), "wav, floats"))
    peak = np.abs(audio.samples).max()
    assert peak >= 2**-15
    np.testing.assert_array_equal(audio.samples / np.float32(2 ** np.floor(np.log2(peak))), signal / np.float32(0.5))


def test_a_weak_part_of_a_loud_file_is_silence_and_a_weak_file_is_not():
    loud = np.concatenate([speech_like(3.0), 1e-9 * speech_like(3.0)])
    data = write(loud, "wav, floats")
    assert np.abs(read(data, Span(4.0, 5.5)).samples).max() < 1e-8
    joined = write(1e-7 * speech_like(1.0), "wav, floats") + write(1e-7 * speech_like(1.0), "wav, floats")
    assert np.abs(read(joined).samples).max() >= 0.5
    weak = speech_like(2.0) * 1e-7
    assert read(write(np.stack([weak, -weak], axis=1), "wav, floats")).cancelled
    by_ffmpeg = encode_by_ffmpeg(speech_like(1.0), 16_000, "mov", "pcm_f32le")
    assert np.abs(read(by_ffmpeg).samples).max() > 0.1


def test_one_channel_of_many_does_not_cancel():
    signal = np.zeros((16_000, 128))
    signal[:, 5] = speech_like(1.0)
    assert not read(write(signal, "wav")).cancelled
