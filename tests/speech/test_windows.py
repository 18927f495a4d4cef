"""Windows and overlap-add against the rules of docs/design written out frame by frame."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdhubert_ray.speech.presets import PRESETS
from sdhubert_ray.speech.windows import (
    WindowOptions,
    count_frames,
    cut_windows,
    frame_amplitude,
    grid_phase,
    lay_windows,
    overlap_add,
    padded_samples,
)

README = PRESETS["readme"].windows
PAPER = PRESETS["paper"].windows

# From one sample to a minute, often near the lengths at which the rules change.
edges = st.sampled_from([1, 320, 400, 40_000, 80_000, 112_000, 144_000, 152_000, 184_000, 224_000])
lengths = st.one_of(st.integers(1, 960_000), st.builds(lambda at, off: max(1, at + off), edges, st.integers(-321, 321)))


def windows_by_definition(n):
    """5 s windows, hop 4.5 s, until one reaches the end; a last one under 2.5 s is moved back."""
    starts = [72_000 * k for k in range(n) if k == 0 or 72_000 * (k - 1) + 80_000 < n]
    windows = [(start, min(start + 80_000, n), 0) for start in starts]
    start, end, _ = windows[-1]
    if len(windows) > 1 and end - start < 40_000:
        windows[-1] = (n - 80_000, n, start - (n - 80_000))
    return windows


def blend_by_definition(parts, windows, total, window_frames=250, overlap=25):
    """Every frame of the result from the one or two windows that hold it, frame by frame."""
    hop = window_frames - overlap
    result = []
    for frame in range(total):
        weighted = 0.0
        for index, (part, window) in enumerate(zip(parts, windows, strict=True)):
            place = frame - index * hop
            row = place + window[2] // 320
            if place < 0 or place >= window_frames or row >= len(part):
                continue
            weight = 1.0
            has_next = index + 1 < len(windows)
            if has_next and place >= hop:  # shared with the next window
                new = min((place - hop) / 5, 1)
                old = min((overlap - 1 - (place - hop)) / 5, 1)
                weight = old / (old + new)
            elif index and place < overlap:  # shared with the one before
                new = min(place / 5, 1)
                old = min((overlap - 1 - place) / 5, 1)
                weight = new / (old + new)
            weighted = weighted + weight * part[row]
        result.append(weighted)
    return np.array(result)


def encoder_frames(num_samples):
    """What the convolutions make of so many samples: a first frame of 400, each further one 320 more."""
    return (num_samples - 400) // 320 + 1


def padded_lengths(n, options):
    return [end - start + 2 * options.pad_samples for start, end, _ in lay_windows(n, options)]


@settings(deadline=None, max_examples=300)
@given(lengths)
def test_windows_are_laid_as_defined(n):
    assert [tuple(window) for window in lay_windows(n, README)] == windows_by_definition(n)
    assert [tuple(window) for window in lay_windows(n, PAPER)] == [(0, n, 0)]


@settings(deadline=None, max_examples=300)
@given(lengths)
def test_windows_cover_every_sample_and_are_of_full_or_half_length(n):
    windows = lay_windows(n, README)
    assert windows[0].start == 0
    assert windows[-1].end == n
    for before, after in pairwise(windows):
        assert before.start < after.start <= before.end
        assert before.end - before.start == 80_000
        assert 40_000 <= after.end - after.start <= 80_000


@settings(deadline=None, max_examples=100)
@given(lengths)
def test_overlap_add_of_a_ramp_returns_the_ramp(n):
    """Each window says at which frame it stands: blended, every frame says its own number, once."""
    parts = []
    for index, window in enumerate(lay_windows(n, README)):
        frames = encoder_frames(window.end - window.start + 320)
        numbers = np.arange(frames) + index * 225 - window.skipped // 320
        parts.append(np.stack([numbers, np.ones(frames)], axis=1).astype(np.float64))
    blended = overlap_add(parts, n, README)
    assert blended.shape == (n // 320, 2)
    np.testing.assert_allclose(blended[:, 0], np.arange(n // 320), atol=1e-9)
    np.testing.assert_allclose(blended[:, 1], 1.0, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(lengths)
def test_every_frame_is_taken_less_than_a_frame_from_its_time(n):
    """Frame i is at i/50 s: what is put there was computed within 20 ms of it, in a moved window too."""
    parts = [
        (window.start / 320 + np.arange(encoder_frames(window.end - window.start + 320)))[:, None]
        for window in lay_windows(n, README)
    ]
    where = overlap_add(parts, n, README)[:, 0]
    assert np.all(np.abs(where - np.arange(n // 320)) < 1)


@settings(deadline=None, max_examples=25)
@given(st.one_of(st.integers(1, 320_000), edges), st.integers(0, 2**32 - 1))
@example(80_001, 0)
@example(111_999, 0)
@example(112_000, 0)
def test_overlap_add_equals_the_definition_frame_by_frame(n, seed):
    rng = np.random.default_rng(seed)
    windows = lay_windows(n, README)
    parts = [rng.standard_normal((encoder_frames(size), 3)).astype(np.float32) for size in padded_lengths(n, README)]
    for part in parts:
        part.flags.writeable = False
    blended = overlap_add(parts, n, README)
    assert blended.dtype == np.float32
    expected = blend_by_definition([part.astype(np.float64) for part in parts], windows, n // 320)
    np.testing.assert_allclose(blended, expected.reshape(n // 320, 3), atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    window=st.integers(4, 400),
    overlap=st.integers(2, 60),
    pad=st.integers(40, 199),
    n=st.integers(1, 300_000),
)
def test_other_windows_give_every_frame_once(window, overlap, pad, n):
    if overlap > window // 2:
        overlap = window // 2
    options = WindowOptions(window_seconds=window * 0.02, overlap_seconds=overlap * 0.02, pad_samples=pad)
    hop = window - overlap
    parts = []
    for index, (laid, size) in enumerate(zip(lay_windows(n, options), padded_lengths(n, options), strict=True)):
        numbers = np.arange(max(0, encoder_frames(size))) + index * hop - laid.skipped // 320
        parts.append(numbers[:, None].astype(np.float64))
    blended = overlap_add(parts, n, options)
    np.testing.assert_allclose(blended[:, 0], np.arange(count_frames(n, options)), atol=1e-9)


@pytest.mark.parametrize("pad", [0, 10, 39])
@pytest.mark.parametrize("window_seconds", [5.0, None])
def test_padding_that_leaves_frames_out_is_refused_or_counted(pad, window_seconds):
    """With less than 40 zeros on each side a window of 320 m samples has fewer than m frames."""
    try:
        options = WindowOptions(window_seconds=window_seconds, pad_samples=pad)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert "windows.pad_samples is " in refusal
        return
    for n in (64_000, 80_000, 160_000):
        parts = [np.ones((encoder_frames(size), 1)) for size in padded_lengths(n, options)]
        blended = overlap_add(parts, n, options)
        assert len(blended) == count_frames(n, options)
        np.testing.assert_allclose(blended, 1.0)


def test_overlap_add_refuses_parts_of_other_windows():
    with pytest.raises(ValueError, match="1 feature arrays for 2 windows"):
        overlap_add([np.zeros((250, 2))], 152_000, README)


@settings(deadline=None, max_examples=100)
@given(lengths)
def test_frames_are_counted_as_each_preset_says(n):
    assert count_frames(n, README) == math.floor(n / 320)
    if n >= 400:
        assert count_frames(n, PAPER) == math.floor((n - 400) / 320) + 1
    else:
        assert count_frames(n, PAPER) == 0


@settings(deadline=None, max_examples=20)
@given(st.one_of(st.integers(1, 250_000), edges))
def test_cut_windows_hold_the_samples_between_zeros(n):
    samples = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    samples.flags.writeable = False
    windows = cut_windows(samples, README)
    for (start, end, _), window in zip(windows_by_definition(n), windows, strict=True):
        assert window.dtype == np.float32
        assert not window[:160].any()
        assert not window[-160:].any()
        np.testing.assert_array_equal(window[160:-160], samples[start:end])
    (whole,) = cut_windows(samples, PAPER)
    np.testing.assert_array_equal(whole, samples)


@settings(deadline=None, max_examples=30)
@given(st.integers(400, 20_000), st.sampled_from([README, PAPER]))
def test_frame_amplitude_is_the_mean_magnitude_of_each_320_samples(n, options):
    samples = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    frames = count_frames(n, options)
    expected = [np.mean([abs(float(x)) for x in samples[320 * i : 320 * (i + 1)]]) for i in range(frames)]
    amplitude = frame_amplitude(samples, frames)
    assert amplitude.shape == (frames,)
    np.testing.assert_allclose(amplitude, expected, rtol=1e-6)


@settings(deadline=None, max_examples=200)
@given(st.integers(400, 2_000_000))
def test_padded_length_holds_the_window_and_wastes_under_a_second(n):
    padded = padded_samples(n)
    assert n <= padded
    assert padded - n < 16_000 or n <= 320
    assert (padded - 320) % 16_000 == 0


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"window_seconds": 5.01}, "window_seconds"),
        ({"window_seconds": -5.0}, "window_seconds"),
        ({"overlap_seconds": 0.51}, "overlap_seconds"),
        ({"overlap_seconds": 0.0}, "overlap_seconds"),
        ({"overlap_seconds": 2.6}, "overlap_seconds"),
        ({"pad_samples": -1}, "pad_samples"),
        ({"pad_samples": 39}, "pad_samples"),
    ],
)
def test_windows_that_cannot_be_laid_are_refused_by_name(values, key):
    with pytest.raises(ValueError, match=rf"windows\.{key} is "):
        WindowOptions(**values)


@settings(deadline=None, max_examples=150)
@given(offset=st.integers(0, 2_000), n=st.integers(1, 400_000))
def test_windows_of_a_later_piece_lie_on_the_grid_of_its_file(offset, n):
    """Every frame once, as without a joint; and every window but the first begins where the whole file's would."""
    phase = grid_phase(offset / 50, README)
    assert phase % 320 == 0
    windows = lay_windows(n, README, phase)
    assert windows[0].start == 0
    assert windows[-1].end == n
    assert all(end - start <= 80_000 for start, end, _ in windows)
    for start, _, skipped in windows[1:]:
        assert (offset * 320 + start + skipped) % 72_000 == 0
    parts = []
    for start, end, _ in windows:
        frames = encoder_frames(end - start + 2 * README.pad_samples)
        parts.append((np.arange(max(0, frames)) + start // 320)[:, None].astype(np.float64))
    blended = overlap_add(parts, n, README, phase)
    # A window that is moved back need not lie on whole frames: as without a joint, it may be off by less than one.
    np.testing.assert_allclose(blended[:, 0], np.arange(n // 320), atol=1.0)
