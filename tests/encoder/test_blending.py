"""What leaves the device: blended features and norms in torch, against NumPy's; and what is not waited for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import LAYERS, minimal_model, seeds, speech_like
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from sdhubert_ray.encoder.blending import blend, encode_on_device
from sdhubert_ray.encoder.inference import encode_pieces
from sdhubert_ray.speech.presets import PRESETS, EncoderOptions
from sdhubert_ray.speech.windows import WindowOptions, count_frames, cut_windows, lay_windows, overlap_add

HOP_SAMPLES = 72_000  # of the preset's windows


@settings(max_examples=60)
@given(st.integers(400, 500_000), st.integers(0, 224), seeds, st.sampled_from(["float32", "float16"]))
def test_blending_in_torch_gives_the_bits_of_numpy(num_samples, hops, seed, dtype):
    options, phase = WindowOptions(), 320 * hops
    windows = lay_windows(num_samples, options, phase)
    rng = np.random.default_rng(seed)
    counts = [count_frames(window.end - window.start, options) for window in windows]
    parts = [rng.standard_normal((count, 3)).astype(dtype) for count in counts]
    found = blend([torch.from_numpy(part) for part in parts], num_samples, options, phase).numpy()
    expected = overlap_add(parts, num_samples, options, phase)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def on_device(model, pieces, windows, layers, batch_seconds, phases):
    """The way of a GPU, on whatever device the model is."""
    cut = [cut_windows(samples, windows, phase) for samples, phase in zip(pieces, phases, strict=True)]
    return encode_on_device(model, pieces, cut, windows, layers, batch_seconds, phases)


@settings(max_examples=10)
@given(
    sizes=st.lists(st.integers(1600, 260_000), min_size=1, max_size=4),
    seed=seeds,
    preset=st.sampled_from(["readme", "paper"]),
    layers=st.sampled_from([LAYERS, EncoderOptions(9, 9)]),
    batch_seconds=st.sampled_from([0.0, 12.0, 80.0]),
)
def test_pieces_encoded_on_their_device_are_those_of_the_host(tiny_model, sizes, seed, preset, layers, batch_seconds):
    """Features to the bit, norms within the rounding of a sum of D float32 squares."""
    windows = PRESETS[preset].windows
    pieces = [speech_like(size, seed + index) for index, size in enumerate(sizes)]
    phases = [0 if windows.window_seconds is None else seed * 320 % HOP_SAMPLES] * len(pieces)
    expected = encode_pieces(tiny_model, pieces, windows, layers, batch_seconds, phases)
    found = on_device(tiny_model, pieces, windows, layers, batch_seconds, phases)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.features, theirs.features)
        np.testing.assert_allclose(ours.raw_norm, theirs.raw_norm, rtol=1e-6)
        np.testing.assert_array_equal(ours.amplitude, theirs.amplitude)
        assert [part.dtype for part in ours] == [part.dtype for part in theirs]


def test_no_piece_takes_no_call():
    assert on_device(minimal_model(), [], WindowOptions(), EncoderOptions(1, 2), 80.0, []) == []


class Operations(TorchDispatchMode):
    """The names of what torch computes."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


def test_no_value_is_read_before_all_is_computed():
    """A value that is read is waited for: on a GPU the next batch would not be there when this one ends."""
    model, pieces = minimal_model(), [speech_like(size, size) for size in (170_000, 90_000, 80_000)]
    with Operations() as operations:
        on_device(model, pieces, WindowOptions(), EncoderOptions(1, 2), 80.0, [0] * 3)
    assert "_local_scalar_dense" not in operations.names
    assert "nonzero" not in operations.names
    assert "linalg_vector_norm" in operations.names
    with Operations() as reading:
        assert torch.ones(3).sum().item() == 3
    assert "_local_scalar_dense" in reading.names


@pytest.mark.parametrize("layers", [[1, 4], [2, 4], [0, 4]])
def test_states_of_layers_that_are_not_read_are_let_go(layers):
    """As soon as the next layer has read them."""
    model, made, held = minimal_model(num_hidden_layers=4), {}, {}

    def note(index):
        def look(module, given, states):
            held[index] = {layer for layer, storage in made.items() if not storage.expired()}
            made[index] = StorageWeakRef(states.untyped_storage())

        return look

    for index, layer in enumerate(model.speech_model.encoder.layers, start=1):
        layer.register_forward_hook(note(index))
    with torch.inference_mode():
        model(torch.zeros(2, 16_000), None, layers)
    assert held[4] == {3} | set(layers) - {0, 4}
