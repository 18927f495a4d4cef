"""Images of sound and of features hold what they are said to hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdhubert_ray.viewing.images import (
    HOP_SECONDS,
    MEL_TICKS,
    envelope,
    mel_places,
    mel_spectrogram,
    similarity,
    similarity_by_lag,
)


@given(arrays(np.float32, st.integers(0, 500), elements=st.floats(-1, 1, width=32)), st.integers(1, 300))
def test_an_envelope_has_the_extremes_of_its_columns(samples, columns):
    places, values = envelope(samples, columns)
    assert len(places) == len(values) <= max(2 * columns, len(samples) and 2 * columns + 2)
    assert np.all(np.diff(places) >= 0)
    if len(samples):
        assert (values.min(), values.max()) == (samples.min(), samples.max())
        assert 0 <= places[0] <= places[-1] <= len(samples) + columns


def test_few_samples_are_drawn_as_they_are():
    samples = np.linspace(-1, 1, 200, dtype=np.float32)
    places, values = envelope(samples, 100)
    np.testing.assert_array_equal(values, samples)
    np.testing.assert_array_equal(places, np.arange(200))


@pytest.mark.parametrize("frequency", [500, 1000, 4000])
def test_a_tone_lies_at_its_frequency_and_time(frequency):
    samples = np.zeros(16_000, np.float32)
    samples[8000:12_000] = np.sin(2 * np.pi * frequency * np.arange(4000) / 16_000)
    image = mel_spectrogram(samples)
    assert image.shape == (80, 201)
    assert image.max() == 0
    assert image.min() == -70
    band, column = np.unravel_index(image.argmax(), image.shape)
    assert 0.5 <= column * HOP_SECONDS <= 0.75
    place = dict(zip(MEL_TICKS, mel_places(), strict=True))[frequency]
    assert (band + 0.5) / 80 == pytest.approx(place, abs=1 / 80)
    assert np.all(image[:, : int(0.48 / HOP_SECONDS)] == -70)


@pytest.mark.parametrize("count", [0, 1, 79, 80, 4000])
def test_silence_and_short_sounds_have_a_spectrogram(count):
    image = mel_spectrogram(np.zeros(count, np.float32))
    assert image.shape == (80, 1 + count // 80)
    assert np.all(image == -70)


features_of = st.integers(0, 12).flatmap(
    lambda frames: arrays(np.float32, (frames, 3), elements=st.integers(-3, 3).map(np.float32))
)


@given(features_of, st.integers(0, 14))
def test_lags_are_the_diagonals_of_the_similarity(features, most):
    whole, by_lag = similarity(features), similarity_by_lag(features, most)
    assert by_lag.shape == (most + 1, 2 * len(features))
    for lag in range(most + 1):
        for half in range(2 * len(features)):
            first = (half - lag) // 2
            if first >= 0 and first + lag < len(features):
                assert by_lag[lag, half] == pytest.approx(whole[first, first + lag], abs=1e-12)
            else:
                assert np.isnan(by_lag[lag, half])


def test_similarity_is_the_cosine_and_zero_outside_speech():
    features = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    features[20:30] = 0
    image = similarity(features)
    left, right = features[3].astype(np.float64), features[37].astype(np.float64)
    assert image[3, 37] == pytest.approx(left @ right / np.sqrt((left @ left) * (right @ right)), abs=1e-12)
    assert not image[20:30].any()
    assert not image[:, 20:30].any()
