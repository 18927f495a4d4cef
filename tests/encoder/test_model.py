"""The encoder: golden features, the plain HubertModel as oracle, and what a piece gives."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import LAYERS, MINIMAL, TOLERANCE, alone, check_padding, minimal_model, scale_of, small_model, speech_like
from transformers import HubertConfig, HubertModel

from sdhubert_ray.encoder import Checkpoint, fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.inference import encode_pieces, encode_windows
from sdhubert_ray.encoder.model import SDHuBERT, run_to_cls
from sdhubert_ray.speech.audio import Span, normalise, read_audio
from sdhubert_ray.speech.presets import PRESETS, EncoderOptions
from sdhubert_ray.speech.spans import SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import SyllableOptions, cut_syllables, to_seconds
from sdhubert_ray.speech.windows import WindowOptions, count_frames, lay_windows

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


def test_float32_is_not_rounded_to_tf32(tiny_checkpoint):
    """Torch's default does, in convolutions on a GPU."""
    cuda = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in cuda]
    try:
        for backend in cuda:
            backend.allow_tf32 = True
        load_model(fetch_checkpoint(str(tiny_checkpoint)), LAYERS, "float32", "cpu")
        assert [backend.allow_tf32 for backend in cuda] == [False, False]
    finally:
        for backend, allowed in zip(cuda, before, strict=True):
            backend.allow_tf32 = allowed
