"""Windows in batches: none sees another, none sees its padding, and they take few calls."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from models import (
    LAYERS,
    TOLERANCE,
    alone,
    check_padding,
    minimal_model,
    scale_of,
    seeds,
    small_model,
    speech_like,
    window_sizes,
)

from sdhubert_ray.encoder.batches import batch_rows, largest_batch
from sdhubert_ray.encoder.inference import OutOfMemoryError, encode_pieces, encode_windows
from sdhubert_ray.speech.presets import PRESETS, EncoderOptions
from sdhubert_ray.speech.spans import SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import cut_syllables
from sdhubert_ray.speech.windows import WindowOptions


@pytest.fixture(scope="module")
def layer_norm_model():
    """An extractor with a LayerNorm after each convolution, as in larger HuBERTs."""
    return small_model(feat_extract_norm="layer", conv_bias=True)


@settings(deadline=None, max_examples=20)
@given(window_sizes, seeds, st.sampled_from([5.0, 12.0, 80.0]))
def test_a_window_does_not_see_its_batch(tiny_model, sizes, seed, batch_seconds):
    windows = [speech_like(size, seed + index) for index, size in enumerate(sizes)]
    batched = encode_windows(tiny_model, windows, LAYERS, batch_seconds)
    assert len(batched) == len(windows)
    for window, states in zip(windows, batched, strict=True):
        for found, expected in zip(states, alone(tiny_model, window), strict=True):
            assert found.shape == expected.shape == ((len(window) - 400) // 320 + 1, 48)
            assert np.abs(found - expected).max() < TOLERANCE * scale_of(expected)


@settings(deadline=None, max_examples=20)
@given(window_sizes, seeds, st.integers(0, 30_000))
def test_states_do_not_depend_on_padding(tiny_model, sizes, seed, padding):
    """Whatever lies beyond the valid samples, and however much of it: the CLS state too."""
    check_padding(tiny_model, sizes, seed, padding, garbage=1e3, layers=[0, 9, 11])


@settings(deadline=None, max_examples=20)
@given(window_sizes, seeds, st.integers(0, 30_000))
def test_states_of_layer_norm_extractors_do_not_depend_on_padding(layer_norm_model, sizes, seed, padding):
    check_padding(layer_norm_model, sizes, seed, padding, garbage=1e3, layers=[0, 2, 4])


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_any_value_beyond_the_valid_samples_is_ignored(norm, garbage):
    model = small_model(feat_extract_norm=norm)
    check_padding(model, [800, 20_000, 16_000], 5, 1234, garbage=garbage, layers=[0, 4])


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1600, 180_000), min_size=2, max_size=5), seeds, st.sampled_from(["readme", "paper"]))
def test_segments_do_not_depend_on_the_batch(tiny_model, sizes, seed, preset):
    options = PRESETS[preset]
    speech_options = options.speech if preset == "readme" else SpeechOptions("absolute", 5.0, None, 0)
    pieces = [speech_like(size, seed + index) for index, size in enumerate(sizes)]
    together = encode_pieces(tiny_model, pieces, options.windows, LAYERS, batch_seconds=80)
    for piece, found in zip(pieces, together, strict=True):
        (expected,) = encode_pieces(tiny_model, [piece], options.windows, LAYERS, batch_seconds=5)
        assert np.abs(found.features - expected.features).max() < TOLERANCE * scale_of(expected.features)
        segments = []
        for encoded in (found, expected):
            speech = find_speech(encoded.raw_norm, encoded.amplitude, speech_options)
            features = encoded.features * speech.mask[:, None]
            segments.append(cut_syllables(features, speech.spans, options.syllables).frames)
        np.testing.assert_array_equal(*segments)


class Calls:
    """The shapes that a model was called with."""

    def __init__(self, model):
        self.model, self.shapes = model, []

    def __enter__(self):
        self.hook = self.model.register_forward_pre_hook(lambda _, args: self.shapes.append(tuple(args[0].shape)))
        return self.shapes

    def __exit__(self, *_):
        self.hook.remove()


DEFAULT_BATCH_SECONDS = 80.0


@settings(deadline=None, max_examples=5, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(st.integers(1600, 80_000), min_size=64, max_size=64), seeds)
def test_64_windows_take_few_calls_with_few_empty_rows(sizes, seed):
    model = minimal_model()
    pieces = [np.random.default_rng(seed).standard_normal(size).astype(np.float32) for size in sizes]
    with Calls(model) as shapes:
        encoded = encode_pieces(model, pieces, WindowOptions(), EncoderOptions(1, 2), DEFAULT_BATCH_SECONDS)
    assert [len(piece.features) for piece in encoded] == [size // 320 for size in sizes]
    assert len(shapes) <= 5 * 4  # a full batch of each length, and three more
    assert 64 <= sum(rows for rows, _ in shapes) <= 64 * 4 / 3
    assert all(rows & (rows - 1) == 0 for rows, _ in shapes)
    assert all(rows * (length - 320) <= DEFAULT_BATCH_SECONDS * 16_000 for rows, length in shapes)


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 16, 64]))
def test_batches_of_one_length_are_few_and_full(count, most):
    """The shapes are those of a ladder; beyond full batches there are three at most, a quarter empty at most."""
    rows, left = [], count
    while left > 0:
        rows.append(batch_rows(left, most))
        left -= rows[-1]
    assert set(rows) <= {1 << step for step in range(7) if 1 << step <= most}
    assert rows == sorted(rows, reverse=True)
    assert count <= sum(rows)
    assert -left <= rows[-1] / 4
    assert len(rows) <= count // most + 3


def test_the_ladder_of_the_default_batch():
    assert [largest_batch(seconds * 16_000 + 320, DEFAULT_BATCH_SECONDS) for seconds in (1, 2, 3, 4, 5, 90)] == [
        64,
        32,
        16,
        16,
        16,
        1,
    ]
    assert [batch_rows(left, 16) for left in (1, 2, 3, 4, 5, 6, 7, 11, 12, 16, 17, 300)] == [
        *(1, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16)
    ]


@pytest.mark.parametrize("counts", [(46, 15, 1, 1, 1), (61, 1, 1, 1, 0), (31, 20, 11, 1, 1), (16, 39, 7, 1, 1)])
def test_64_windows_of_unlucky_lengths_take_at_most_8_calls(counts):
    """Just over a full batch of each length."""
    model = minimal_model()
    sizes = [
        seconds * 16_000 - 10 for seconds, count in zip((5, 4, 3, 2, 1), counts, strict=True) for _ in range(count)
    ]
    assert len(sizes) == 64
    pieces = [np.ones(size, np.float32) for size in np.random.default_rng(0).permutation(sizes)]
    with Calls(model) as shapes:
        encode_pieces(model, pieces, WindowOptions(), EncoderOptions(1, 2), DEFAULT_BATCH_SECONDS)
    assert len(shapes) <= 8


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_windows_have_the_same_states_without_a_mask(norm, dtype):
    """Flash attention takes none."""
    model = small_model(feat_extract_norm=norm).to(dtype)
    samples = torch.from_numpy(np.stack([speech_like(80_320, seed) for seed in range(3)])).to(dtype)
    with torch.inference_mode():
        masked = model(samples, torch.full((3,), 80_320), [0, 2, 4])
        for states, expected in zip(model(samples, None, [0, 2, 4]), masked, strict=True):
            difference = (states - expected).abs().max()
            assert difference <= (TOLERANCE if dtype == torch.float32 else 0.05) * expected.abs().max()


def test_only_windows_that_fill_their_rows_are_batched_without_a_mask():
    """Three of five seconds are, one that is shorter is not, though of the same padded length."""
    model, given = minimal_model(), []
    model.register_forward_pre_hook(lambda _, args: given.append((args[0].shape[0], args[1])))
    windows = [np.ones(size, np.float32) for size in (80_320, 70_000, 80_320, 80_320)]
    encode_windows(model, windows, EncoderOptions(1, 2), 80)
    (full, nothing), (short, lengths) = given
    assert (full, nothing, short) == (4, None, 1)
    assert lengths.tolist() == [70_000]


class SmallMemory:
    """A model on a device that holds `limit` windows, or `limit_samples` samples, of a call."""

    def __init__(self, model, limit, limit_samples=10**9):
        def refuse(_, args):
            rows, length = args[0].shape
            if rows > limit or length > limit_samples:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        self.hook = model.register_forward_pre_hook(refuse)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_a_batch_that_a_gpu_cannot_hold_is_halved(limit, caplog):
    model = minimal_model()
    windows = [np.random.default_rng(number).standard_normal(16_000).astype(np.float32) for number in range(20)]
    expected = encode_windows(model, windows, EncoderOptions(1, 2), 8)
    with SmallMemory(model, limit), Calls(model) as shapes:
        found = encode_windows(model, windows, EncoderOptions(1, 2), 8)
    assert max(rows for rows, _ in shapes) <= limit
    for (features, normed), (other, other_normed) in zip(found, expected, strict=True):
        np.testing.assert_allclose(features, other, atol=1e-5)
        np.testing.assert_allclose(normed, other_normed, atol=1e-5)
    assert "the GPU's memory is too small; going on with" in caplog.text


def test_a_window_that_a_gpu_cannot_hold_alone_is_given_up():
    model = minimal_model()
    with SmallMemory(model, 0), pytest.raises(OutOfMemoryError):
        encode_windows(model, [np.zeros(16_000, np.float32)], EncoderOptions(1, 2), 8)


def test_default_batch_seconds_is_the_one_counted_with(tiny_checkpoint):
    from sdhubert_ray import SDHuBERTSegmenter

    assert SDHuBERTSegmenter(tiny_checkpoint).batch_seconds == DEFAULT_BATCH_SECONDS


def test_a_window_over_the_batch_is_encoded_by_itself():
    model = minimal_model()
    pieces = [np.ones(size, np.float32) for size in (200_000, 16_000, 16_000)]
    with Calls(model) as shapes:
        encode_pieces(model, pieces, PRESETS["paper"].windows, EncoderOptions(1, 2), batch_seconds=3)
    assert sorted(rows for rows, _ in shapes) == [1, 2]


def test_results_come_in_the_order_of_the_pieces(tiny_model):
    sizes = [70_000, 1600, 33_000, 1600, 200_000, 16_000]
    pieces = [speech_like(size, index) for index, size in enumerate(sizes)]
    forwards = encode_pieces(tiny_model, pieces, WindowOptions(), LAYERS, 80)
    backwards = encode_pieces(tiny_model, pieces[::-1], WindowOptions(), LAYERS, 80)[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_allclose(one.features, other.features, atol=TOLERANCE)
        np.testing.assert_allclose(one.raw_norm, other.raw_norm, atol=TOLERANCE)


def test_nothing_takes_no_call():
    model = minimal_model()
    with Calls(model) as shapes:
        assert encode_pieces(model, [], WindowOptions(), EncoderOptions(1, 2), 80) == []
        assert encode_windows(model, [], EncoderOptions(1, 2), 80) == []
    assert shapes == []
