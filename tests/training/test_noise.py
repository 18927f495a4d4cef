"""What a student hears, and which frames of a crop given segments are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.speech import SAMPLE_RATE
from sdhubert_ray.training.noise import Hearing, draw_noise, segments_in_crop

KERNELS = ((400, 320),)


def hearing(noise_share=1.0, mix_share=0.0, merge_threshold=(0.8, 0.9)):
    return Hearing(KERNELS, noise_share, mix_share, merge_threshold)


def crop(seed=0, count=16_000):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_a_share_of_the_crops_is_heard_with_noise():
    samples, some = crop(count=2000), hearing(0.2)
    with_noise = sum(not np.array_equal(some.hear(samples, seed, None), samples) for seed in range(2000))
    assert with_noise == pytest.approx(400, abs=4 * np.sqrt(2000 * 0.2 * 0.8))
    mixed = sum(hearing(0.2, 0.25).wants_other(seed) for seed in range(4000))
    assert mixed == pytest.approx(200, abs=4 * np.sqrt(200))


def test_noise_has_the_levels_that_are_published():
    samples = np.zeros(16_000, np.float32)
    levels = [float(hearing().hear(samples, seed, None).std()) for seed in range(300)]
    assert min(levels) >= 0.05 - 1e-4
    assert max(levels) <= 0.7 + 1e-4
    assert np.mean(levels) == pytest.approx(0.375, abs=0.05)


def test_other_speech_is_a_part_of_the_crop_at_its_begin_or_end():
    samples, other = np.zeros(1000, np.float32), np.ones(900, np.float32)
    begins = set()
    for seed in range(100):
        added = hearing(1.0, 1.0).hear(samples, seed, other)
        places = np.flatnonzero(added)
        assert len(np.unique(added[places])) == 1
        assert 0.05 <= added[places[0]] <= 0.2
        assert len(places) == places[-1] - places[0] + 1  # in one piece
        assert len(places) >= 200  # 0.7 of the crop at most is without, and the other ends before it
        assert places[0] == 0 or places[-1] == 899
        begins.add(places[0] == 0)
    assert begins == {True, False}


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_its_spectrum(slope):
    noise = draw_noise(1 << 16, slope, np.random.default_rng(0))
    power = np.square(np.abs(np.fft.rfft(noise)))[1:]
    octaves = [power[1 << k : 2 << k].mean() for k in range(6, 14)]
    np.testing.assert_allclose(np.diff(np.log2(octaves)), -slope, atol=0.5)
    assert noise.std() == pytest.approx(1, rel=1e-4)


def test_what_is_drawn_comes_from_the_seed_alone():
    """Whatever is beside it in a batch."""
    crops, seeds = [crop(k, 4000 + 100 * k) for k in range(4)], [11, 12, 13, 14]
    nothing = np.zeros((0, 2), np.int64)
    whole = hearing(0.5).draw(crops, seeds, [None] * 4, [nothing] * 4, 5000)
    for k in range(4):
        alone = hearing(0.5).draw(crops[k : k + 1], seeds[k : k + 1], [None], [nothing], 5000)
        assert all((alone[name][0] == whole[name][k]).all() for name in whole)
    assert ((whole["merge_threshold"] >= 0.8) & (whole["merge_threshold"] < 0.9)).all()
    assert (whole["segment"] == -1).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=12), st.integers(0, 40), st.integers(1, 60))
def test_frames_of_a_crop_are_those_of_its_recording(times, first, num_frames):
    """Of a crop that begins between frames `first` and `first` + 1: its frames are those from `first` + 1 on."""
    frames = np.unique(times)
    spans = np.stack([frames[:-1], frames[1:]], axis=1)
    found = segments_in_crop(spans / 50, (first + 0.5) / 50, num_frames)
    expected = [
        (max(start - first - 1, 0), min(end - first - 1, num_frames))
        for start, end in spans.tolist()
        if min(end - first - 1, num_frames) > max(start - first - 1, 0)
    ]
    assert found.tolist() == [list(pair) for pair in expected]


def test_frames_are_where_the_encoder_sees_them():
    """Frame j of a recording is of the 400 samples around 320 j + 40, as it is padded with 160; a crop's is not."""
    start = 10.5 / 50
    ((begin, end),) = segments_in_crop(np.array([[20 / 50, 24 / 50]]), start, 100).tolist()
    first_sample = round(start * SAMPLE_RATE) + 320 * begin
    assert (first_sample, end - begin) == (320 * 20 - 160, 4)


def test_a_crop_that_begins_with_its_recording_rounds_to_the_same_frames():
    assert segments_in_crop(np.array([[0.0, 0.1], [0.14, 0.3]]), 0.0, 12).tolist() == [[0, 5], [7, 12]]
