"""Encoders as small as they can be, and what goes in and comes out of them."""

import io

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import HubertConfig

from sdhubert_ray.encoder.inference import encode_windows
from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.speech.presets import EncoderOptions

LAYERS = EncoderOptions()
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


TOLERANCE = 1e-4


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


HUB_BASE = "facebook/hubert-base-ls960"


def checkpoint_bytes(upstream, size=5000):
    buffer = io.BytesIO()
    torch.save({"config": {"speech_upstream": upstream}, "state_dict": {"w": torch.zeros(size)}}, buffer)
    return buffer.getvalue()
