"""The encoder: golden features, the plain HubertModel as oracle, and windows that do not see their batch."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel

from sdhubert_ray.encoder import Checkpoint, fetch_checkpoint, load_model
from sdhubert_ray.encoder.model import OutOfMemoryError, SDHuBERT, encode_pieces, encode_windows, run_to_cls
from sdhubert_ray.speech.audio import Span, normalise, read_audio
from sdhubert_ray.speech.presets import PRESETS, EncoderOptions
from sdhubert_ray.speech.spans import SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import SyllableOptions, cut_syllables, to_seconds
from sdhubert_ray.speech.windows import WindowOptions, count_frames, lay_windows

LAYERS = EncoderOptions()
TOLERANCE = 1e-4
# A HuBERT as small as one can be: what is counted or refused does not depend on its size.
MINIMAL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def minimal_model(**values):
    torch.manual_seed(0)
    return SDHuBERT(HubertConfig(**{**MINIMAL, **values})).eval().requires_grad_(False)


def small_model(**values):
    """Wide and deep enough for differences to show, with random weights."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    return minimal_model(**{**sizes, "conv_dim": [16] * 7, **values})


@pytest.fixture(scope="module")
def layer_norm_model():
    """An extractor with a LayerNorm after each convolution, as in larger HuBERTs."""
    return small_model(feat_extract_norm="layer", conv_bias=True)


def speech_like(num_samples, seed):
    """Z-scored samples that are loud and soft by turns, so that statistics over time matter."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.02, 2, num_samples // 1600 + 1), 1600)[:num_samples]
    samples = rng.standard_normal(num_samples) * loudness
    return ((samples - samples.mean()) / samples.std()).astype(np.float32)


def scale_of(features):
    return float(np.abs(features).max())


def alone(model, window, options=LAYERS):
    return encode_windows(model, [window], options, batch_seconds=5)[0]


window_sizes = st.lists(st.integers(400, 80_320), min_size=2, max_size=6)
seeds = st.integers(0, 2**32 - 1)


# -- golden values


def check_golden(folder, preset, threshold, names):
    """From the recordings to the syllables through the functions of the core, all recordings in common batches."""
    model = load_model(fetch_checkpoint(str(folder / "checkpoint" / "tiny.pt")), LAYERS, "float32", "cpu")
    options = PRESETS[preset]
    speech_options = options.speech
    if preset == "paper":
        speech_options = SpeechOptions("absolute", threshold, None, 0)
    pieces = []
    for path in names:
        with path.open("rb") as file:
            pieces.append(normalise(read_audio(file, Span()).samples, options.audio.variance_floor))
    encoded = encode_pieces(model, pieces, options.windows, options.encoder, batch_seconds=80)
    assert len(encoded) == len(names)
    for path, samples, piece in zip(names, pieces, encoded, strict=True):
        expected = np.load(folder / "segmentation" / preset / f"{path.stem}.npz")
        np.testing.assert_allclose(piece.features, expected["frame_features"], atol=TOLERANCE, rtol=0)
        speech = find_speech(piece.raw_norm, piece.amplitude, speech_options)
        np.testing.assert_allclose(speech.norm, expected["norm"], atol=TOLERANCE, rtol=0)
        np.testing.assert_array_equal(speech.mask, expected["mask"])
        np.testing.assert_array_equal(speech.spans, expected["speech_spans"])
        features = piece.features * speech.mask[:, None]
        syllables = cut_syllables(features, speech.spans, options.syllables)
        np.testing.assert_array_equal(to_seconds(syllables.frames), expected["segments"])
        np.testing.assert_allclose(syllables.features, expected["segment_features"], atol=TOLERANCE, rtol=0)
        if preset == "readme":
            windows = lay_windows(len(samples), options.windows)
            np.testing.assert_array_equal([tuple(window) for window in windows], expected["chunks"])
            unmerged = cut_syllables(features, speech.spans, SyllableOptions(syl_dur=0.2, merge_threshold=None))
            np.testing.assert_array_equal(to_seconds(unmerged.frames), expected["segments_unmerged"])


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_golden(golden, preset):
    names = sorted((golden / "audio").glob("*.flac"))
    assert len(names) == 5
    check_golden(golden, preset, 5.0, names)


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_real_golden(real_golden, preset):
    names = sorted(path for path in (real_golden / "audio").iterdir() if path.suffix in {".wav", ".flac"})
    assert len(names) == 4
    check_golden(real_golden, preset, 5.5, names)


# -- the plain HubertModel


def hidden_states_of_one(hubert, cls_token, window):
    """One window, no batch, no mask, no padding: HuBERT's own parts, the CLS vector put in front."""
    with torch.inference_mode():
        samples = torch.from_numpy(window)[None]
        frames = hubert.feature_projection(hubert.feature_extractor(samples).transpose(1, 2))
        encoder = hubert.encoder
        states = encoder.layer_norm(frames + encoder.pos_conv_embed(frames))
        states = torch.cat([cls_token[None, None], states], dim=1)
        found = [states]
        for layer in encoder.layers:
            states = layer(states)
            found.append(states)
    return [states[0].numpy() for states in found]


def check_against_plain_hubert(model, hubert, cls_token, sizes, layers, seed=0):
    windows = [speech_like(size, seed + index) for index, size in enumerate(sizes)]
    longest = max(sizes) + 5000
    batch = torch.zeros(len(windows), longest)
    for row, window in enumerate(windows):
        batch[row, : len(window)] = torch.from_numpy(window)
    with torch.inference_mode():
        found = model(batch, torch.tensor(sizes), layers)
    for row, window in enumerate(windows):
        expected = hidden_states_of_one(hubert, cls_token, window)
        for layer, states in zip(layers, found, strict=True):
            valid = expected[layer]
            assert len(valid) == 1 + (len(window) - 400) // 320 + 1
            difference = np.abs(states[row, : len(valid)].numpy() - valid).max()
            assert difference < TOLERANCE * scale_of(valid), (layer, row)


def test_states_of_the_checkpoint_are_those_of_plain_hubert(golden, tiny_checkpoint, tiny_model):
    """The oracle reads the checkpoint by itself, and sees each window alone."""
    upstream = json.loads((golden / "checkpoint" / "upstream" / "config.json").read_text())
    hubert = HubertModel(HubertConfig(**upstream, attn_implementation="eager")).eval()
    state = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    prefix = "speech_model."
    hubert.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    check_against_plain_hubert(tiny_model, hubert, state["cls_token"], [400, 1999, 24_321, 80_320], [0, 1, 9, 11])


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("bias", [False, True])
def test_states_of_any_extractor_are_those_of_plain_hubert(norm, bias):
    model = small_model(feat_extract_norm=norm, conv_bias=bias)
    check_against_plain_hubert(model, model.speech_model, model.cls_token, [720, 31_999, 5000], [0, 2, 4], seed=10)


def test_transformers_forward_agrees_but_for_the_cls_vector():
    """The library's whole forward pass, of which our parts are taken: the states that go into the first layer."""
    model = small_model()
    window = speech_like(20_000, 3)
    with torch.inference_mode():
        theirs = model.speech_model(torch.from_numpy(window)[None], output_hidden_states=True).hidden_states[0]
        (ours,) = model(torch.from_numpy(window)[None], torch.tensor([len(window)]), [0])
    np.testing.assert_allclose(ours[0, 1:], theirs[0], atol=1e-5)


# -- batches


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


def check_padding(model, sizes, seed, padding, garbage, layers):
    windows = [speech_like(size, seed + index) for index, size in enumerate(sizes)]
    length = max(sizes) + padding
    rng = np.random.default_rng(seed)
    batch = (rng.standard_normal((len(windows), length)) * garbage).astype(np.float32)
    for row, window in enumerate(windows):
        batch[row, : len(window)] = window
    with torch.inference_mode():
        found = model(torch.from_numpy(batch), torch.tensor(sizes), layers)
        for row, window in enumerate(windows):
            alone = model(torch.from_numpy(window)[None], torch.tensor([len(window)]), layers)
            for states, expected in zip(found, alone, strict=True):
                valid = expected.shape[1]
                difference = (states[row, :valid] - expected[0]).abs().max()
                assert difference < TOLERANCE * expected.abs().max()


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


@settings(deadline=None, max_examples=5)
@given(st.lists(st.integers(1600, 80_000), min_size=64, max_size=64), seeds)
def test_64_windows_take_at_most_8_calls(sizes, seed):
    model = minimal_model()
    pieces = [np.random.default_rng(seed).standard_normal(size).astype(np.float32) for size in sizes]
    with Calls(model) as shapes:
        encoded = encode_pieces(model, pieces, WindowOptions(), EncoderOptions(1, 2), DEFAULT_BATCH_SECONDS)
    assert [len(piece.features) for piece in encoded] == [size // 320 for size in sizes]
    assert len(shapes) <= 8
    assert sum(rows for rows, _ in shapes) == 64
    assert all(rows * length <= DEFAULT_BATCH_SECONDS * 16_000 for rows, length in shapes)


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


# -- what a piece gives


@settings(deadline=None, max_examples=15)
@given(st.integers(1600, 260_000), st.sampled_from(["readme", "paper"]))
def test_a_piece_has_one_row_per_frame(size, preset):
    windows = PRESETS[preset].windows
    (piece,) = encode_pieces(minimal_model(), [speech_like(size, size)], windows, EncoderOptions(1, 2), 80)
    frames = count_frames(size, windows)
    assert frames == (size // 320 if preset == "readme" else (size - 400) // 320 + 1)
    assert piece.features.shape == (frames, 16)
    assert piece.raw_norm.shape == piece.amplitude.shape == (frames,)
    assert piece.raw_norm.dtype == piece.amplitude.dtype == np.float32


def test_states_are_blended_before_their_norm_is_taken():
    """Where windows overlap, the norm is that of the blended vector, not a blend of two norms."""
    model = minimal_model()
    samples = speech_like(152_000, 1)
    (both,) = encode_pieces(model, [samples], WindowOptions(), EncoderOptions(2, 2), 80)
    np.testing.assert_allclose(both.raw_norm, np.linalg.norm(both.features, axis=1), rtol=1e-5)
    (other,) = encode_pieces(model, [samples], WindowOptions(), EncoderOptions(1, 2), 80)
    np.testing.assert_allclose(other.raw_norm, both.raw_norm, rtol=1e-5)
    assert np.abs(other.features - both.features).max() > 0.01  # of another layer


def test_layers_past_the_last_one_read_do_not_matter():
    window = torch.from_numpy(speech_like(16_000, 0))[None]
    whole, cut = minimal_model(), minimal_model()
    cut.keep_layers(1)
    assert (whole.num_layers, cut.num_layers) == (2, 1)
    with torch.inference_mode():
        for one, other in zip(*(model(window, torch.tensor([16_000]), [1, 0]) for model in (whole, cut)), strict=True):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=20)
@given(
    num_layers=st.integers(1, 3),
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    implementation=st.sampled_from(["sdpa", "eager"]),
)
def test_cls_of_the_last_layer_is_that_of_the_whole_layer_and_so_are_gradients(
    num_layers, counts, seed, implementation
):
    config = HubertConfig(**{**MINIMAL, "num_hidden_layers": num_layers})
    config._attn_implementation = implementation
    torch.manual_seed(seed)
    model = SDHuBERT(config).eval()
    frames, num_frames = torch.randn(len(counts), max(counts), 16), torch.tensor(counts)
    wanted = torch.randn(len(counts), 16)
    *_, before, states = model.contextualise(frames, num_frames)
    (states[:, 0] * wanted).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    cls, seen = run_to_cls(model.enter(frames), num_frames, model.speech_model.encoder.layers)
    (cls * wanted).sum().backward()
    torch.testing.assert_close(cls, states[:, 0], rtol=1e-5, atol=1e-6)
    assert torch.equal(seen, before)
    for parameter, expected in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


def test_states_come_in_the_order_asked_for():
    model = minimal_model()
    window, length = torch.from_numpy(speech_like(16_000, 0))[None], torch.tensor([16_000])
    with torch.inference_mode():
        first, second = model(window, length, [2, 0])
        again = model(window, length, [0, 2, 2])
    np.testing.assert_array_equal(first, again[1])
    np.testing.assert_array_equal(first, again[2])
    np.testing.assert_array_equal(second, again[0])


def test_frames_are_counted_as_the_convolutions_make_them():
    sizes = torch.cat([torch.arange(400, 2000), torch.randint(400, 10**8, (1000,))])
    assert minimal_model().count_frames(sizes).tolist() == [(size - 400) // 320 + 1 for size in sizes.tolist()]


def test_read_only_samples_are_left_alone(tiny_model):
    samples = speech_like(90_000, 0)
    before = samples.copy()
    samples.flags.writeable = False
    encode_pieces(tiny_model, [samples], WindowOptions(), LAYERS, 80)
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_float16_near_float32(tiny_checkpoint, tiny_model, dtype):
    half = load_model(fetch_checkpoint(str(tiny_checkpoint)), LAYERS, dtype, "cpu")
    pieces = [speech_like(size, size) for size in (8000, 30_000)]
    exact = encode_pieces(tiny_model, pieces, WindowOptions(), LAYERS, 80)
    for found, expected in zip(encode_pieces(half, pieces, WindowOptions(), LAYERS, 80), exact, strict=True):
        assert found.features.dtype == np.float16
        assert found.raw_norm.dtype == np.float32
        # bfloat16 keeps 8 bits of a value, and 11 layers round anew.
        coarse = {"float16": 0.01, "bfloat16": 0.1}[dtype]
        assert np.abs(found.features - expected.features).max() < coarse * scale_of(expected.features)
        assert np.abs(found.raw_norm - expected.raw_norm).max() < coarse * expected.raw_norm.max()


def test_half_precision_does_not_see_the_batch_either(tiny_checkpoint):
    half = load_model(fetch_checkpoint(str(tiny_checkpoint)), LAYERS, "float16", "cpu")
    windows = [speech_like(size, size) for size in (4000, 15_000, 9000)]
    for window, (found, _) in zip(windows, encode_windows(half, windows, LAYERS, 80), strict=True):
        expected, _ = alone(half, window)
        assert np.abs(found.astype(np.float32) - expected).max() < 0.01 * scale_of(expected)


def test_pre_norm_encoders_are_refused():
    with pytest.raises(ValueError, match="do_stable_layer_norm"):
        minimal_model(do_stable_layer_norm=True)


def test_encoders_whose_padding_would_leak_are_refused_or_padded_right():
    """A batch norm in the positional convolution turns padding of zeros into something else."""
    try:
        model = small_model(conv_pos_batch_norm=True)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert "conv_pos_batch_norm" in refusal
        return
    norm = model.speech_model.encoder.pos_conv_embed.batch_norm
    norm.running_mean += 3.0
    check_padding(model, [8000, 20_000, 16_000], 5, 0, garbage=1.0, layers=[0, 4])


def test_checkpoint_of_the_model_under_test_is_what_load_model_reads(golden, tiny_checkpoint):
    """A model that was built here and saved is read back the same: no hidden state."""
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    again = load_model(Checkpoint("copy", checkpoint.data, checkpoint.upstream, {}), LAYERS, "float32", "cpu")
    window = speech_like(20_000, 0)
    first = load_model(checkpoint, LAYERS, "float32", "cpu")
    for one, other in zip(alone(first, window), alone(again, window), strict=True):
        np.testing.assert_array_equal(one, other)
