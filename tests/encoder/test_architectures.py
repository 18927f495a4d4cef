"""Every architecture: the states of the library that has it or of a plain oracle, alone and in any batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import MINIMAL, TOLERANCE, check_padding, speech_like
from torch.nn import functional as F
from transformers import HubertModel, Wav2Vec2Model, WavLMModel

from sdhubert_ray.encoder.data2vec2 import alibi_slopes, build_data2vec
from sdhubert_ray.encoder.model import SDHuBERT, TransformersEncoder, build_transformer

SMALL = {
    **MINIMAL,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
}
LIBRARY = {"hubert": HubertModel, "wav2vec2": Wav2Vec2Model, "wavlm": WavLMModel}
PRE_NORM = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
DATA2VEC = {
    "model_type": "data2vec2",
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "prenet_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "position_groups": 2,
}


def made(model_type, **values):
    torch.manual_seed(0)
    model = build_transformer({**SMALL, "model_type": model_type, **values}, TransformersEncoder)
    with torch.no_grad():  # as they are made, gates of positions and norms do nothing
        for name, parameter in model.named_parameters():
            if "gru_rel_pos" in name or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval().requires_grad_(False)


def made_data2vec():
    torch.manual_seed(0)
    model = build_data2vec(DATA2VEC)
    with torch.no_grad():
        model.distance_scale.copy_(torch.randn_like(model.distance_scale))  # below zero they count for nothing
    return model.eval().requires_grad_(False)


ARCHITECTURES = {
    "hubert": lambda: made("hubert"),
    "wav2vec2": lambda: made("wav2vec2"),
    "hubert-large": lambda: made("hubert", **PRE_NORM),
    "wav2vec2-large": lambda: made("wav2vec2", **PRE_NORM),
    "wavlm": lambda: made("wavlm"),
    "wavlm-large": lambda: made("wavlm", **{**PRE_NORM, "conv_bias": False}),
    "data2vec2": made_data2vec,
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def encoder(request):
    return ARCHITECTURES[request.param]()


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "data2vec2"])
@pytest.mark.parametrize("size", [400, 16_000, 40_123])
def test_states_are_those_of_the_library(name, size):
    ours = ARCHITECTURES[name]()
    theirs = LIBRARY[name.partition("-")[0]](ours.speech_model.config).eval()
    theirs.load_state_dict(ours.speech_model.state_dict())
    samples = torch.from_numpy(speech_like(size, 1))[None]
    with torch.inference_mode():
        expected = theirs(samples, output_hidden_states=True).hidden_states
        found = ours(samples, None, range(len(expected)))
    assert len(expected) == 1 + ours.num_layers
    for states, wanted in zip(found, expected, strict=True):
        assert states.shape == wanted.shape
        assert (states - wanted).abs().max() < 1e-5 * wanted.abs().max()


@settings(max_examples=8)
@given(
    sizes=st.lists(st.integers(400, 40_000), min_size=2, max_size=4),
    seed=st.integers(0, 2**16),
    padding=st.integers(0, 20_000),
    garbage=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_states_do_not_hang_on_the_batch(encoder, sizes, seed, padding, garbage):
    check_padding(encoder, sizes, seed, padding, garbage, list(range(1 + encoder.num_layers)))


def test_layers_that_are_not_read_are_left_out(encoder):
    samples = torch.from_numpy(speech_like(12_000, 3))[None]
    with torch.inference_mode():
        for count in range(encoder.num_layers, 0, -1):
            *_, expected = encoder(samples, None, [0, count - 1])
            encoder.keep_layers(count - 1)
            assert encoder.num_layers == count - 1
            np.testing.assert_array_equal(encoder(samples, None, [count - 1])[0], expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_folded_changes_nothing_but_last_bits(name):
    encoder = ARCHITECTURES[name]()
    samples, lengths = torch.from_numpy(speech_like(12_000, 3))[None], torch.tensor([11_000])
    with torch.inference_mode():
        expected = encoder(samples, lengths, [encoder.num_layers])[0]
        encoder.fold()
        encoder.transform_positions()
        found = encoder(samples, lengths, [encoder.num_layers])[0]
    valid = encoder.count_frames(11_000)
    assert (found - expected)[:, :valid].abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_half_precision_is_near(name, dtype):
    encoder = ARCHITECTURES[name]()
    samples, lengths = torch.from_numpy(speech_like(12_000, 3))[None], torch.tensor([12_000])
    with torch.inference_mode():
        expected = encoder(samples, lengths, [encoder.num_layers])[0]
        encoder.fold()
        found = encoder.to(dtype)(samples.to(dtype), lengths, [encoder.num_layers])[0]
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("values", [{"model_type": "wavlm"}, PRE_NORM])
def test_a_cls_state_is_for_the_encoders_that_have_room_for_it(values):
    with pytest.raises(ValueError, match=r"SD-HuBERT's are post-norm|no place for a CLS state"):
        build_transformer({**SMALL, "model_type": "hubert", **values}, SDHuBERT)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "whisper"}, "its model_type is 'whisper'"),
        ({"model_type": "wav2vec2", "add_adapter": True}, "an adapter behind its layers"),
        ({"model_type": "wav2vec2", "adapter_attn_dim": 8}, "adapters of languages"),
        ({"model_type": "hubert", "num_attention_heads": 5}, "divisible"),
    ],
)
def test_what_is_no_such_encoder_is_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        build_transformer({**SMALL, **values}, TransformersEncoder)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_heads": 2}, "unknown 'num_heads'"),
        ({"position_kernel": 4}, "not an odd number"),
        ({"num_attention_heads": 5}, "do not divide"),
        ({"prenet_layers": 9}, "9 of 4 layers"),
        ({"num_attention_heads": 0}, "0 attention heads|modulo by zero"),
        ({"conv_dim": [8]}, "shorter|longer"),
    ],
)
def test_what_is_no_data2vec_is_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        build_data2vec({**DATA2VEC, **values})


# -- data2vec 2.0, which no library has


def oracle(model, samples):
    """The states of (N,) samples, step by step and head by head."""
    w = dict(model.named_parameters())
    states = samples[None, None]
    for index, (_, stride) in enumerate(model.kernels):
        states = F.conv1d(states, w[f"extractor.{index}.conv.weight"], stride=stride)
        states = F.gelu(normed(states[0].T, w, f"extractor.{index}.norm").T)[None]
    frames = normed(states[0].T, w, "projection.norm") @ w["projection.linear.weight"].T + w["projection.linear.bias"]
    placed = frames.T[None]
    for index in range(1, 6):
        weight = w[f"positions.{index}.weight"]
        placed = F.conv1d(placed, weight, w[f"positions.{index}.bias"], padding=9, groups=DATA2VEC["position_groups"])
        centred = placed - placed.mean(1, keepdim=True)
        placed = F.gelu(centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt())
    states = normed(frames + placed[0].T, w, "norm")
    found = [states]
    heads, width = DATA2VEC["num_attention_heads"], DATA2VEC["hidden_size"]
    size = width // heads
    slopes = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]  # of 4 heads, then every second of 8
    times = torch.arange(len(frames), dtype=torch.float32)
    for layer in (*(f"prenet.{i}" for i in range(2)), *(f"layers.{i}" for i in range(2))):
        query, key, value = (states @ w[f"{layer}.qkv.weight"].T + w[f"{layer}.qkv.bias"]).split(width, dim=1)
        parts = []
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            scores = query[:, cut] @ key[:, cut].T / math.sqrt(size)
            scale = max(float(w["distance_scale"].flatten()[head]), 0.0)
            scores = scores - slopes[head] * scale * (times[:, None] - times).abs()
            parts.append(scores.softmax(1) @ value[:, cut])
        attended = torch.cat(parts, 1) @ w[f"{layer}.out.weight"].T + w[f"{layer}.out.bias"]
        states = normed(states + attended, w, f"{layer}.attention_norm")
        wide = F.gelu(states @ w[f"{layer}.wide.weight"].T + w[f"{layer}.wide.bias"])
        narrow = wide @ w[f"{layer}.narrow.weight"].T + w[f"{layer}.narrow.bias"]
        states = normed(states + narrow, w, f"{layer}.final_norm")
        found.append(states)
    return found


def normed(states, weights, name):
    centred = states - states.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


@pytest.mark.parametrize("size", [400, 16_000, 40_123])
def test_data2vec_is_what_its_paper_says(size):
    model = made_data2vec()
    samples = torch.from_numpy(speech_like(size, 2))
    with torch.inference_mode():
        expected = oracle(model, samples)
        found = model(samples[None], None, range(len(expected)))
    for states, wanted in zip(found, expected, strict=True):
        assert (states[0] - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (2, [2**-4, 2**-8]),
        (3, [2**-4, 2**-8, 2**-2]),
        (8, [2**-index for index in range(1, 9)]),
        (12, [*(2**-index for index in range(1, 9)), *(2 ** -(index + 0.5) for index in range(4))]),
    ],
)
def test_attention_fades_as_in_its_paper(heads, slopes):
    assert alibi_slopes(heads) == pytest.approx(slopes, rel=1e-12)
