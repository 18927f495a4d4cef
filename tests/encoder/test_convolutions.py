"""The two convolutions, against torch's own in double precision."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from sdhubert_ray.encoder.convolutions import SpectralConvolution, normed_convolution

EPSILON = torch.finfo(torch.float32).eps


def build(kind, *arguments, seed, **options):
    """A module with random weights, and its copy in double precision."""
    torch.manual_seed(seed)
    module = kind(*arguments, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    exact = kind(*arguments, **options).double()
    exact.load_state_dict(module.state_dict())
    return module, exact


@settings(max_examples=60)
@given(
    channels=st.integers(1, 6),
    kernel=st.integers(1, 12),
    stride=st.integers(1, 6),
    bias=st.booleans(),
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    loudness=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    mean=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 2**16),
)
@example(channels=4, kernel=10, stride=5, bias=False, counts=[50, 1], loudness=0.0, mean=1.0, seed=0)
def test_channels_are_normed_over_their_valid_frames(channels, kernel, stride, bias, counts, loudness, mean, seed):
    conv, exact_conv = build(nn.Conv1d, 1, channels, kernel, stride=stride, bias=bias, seed=seed)
    norm, exact_norm = build(nn.GroupNorm, channels, channels, seed=seed + 1)
    samples = mean + loudness * torch.randn(len(counts), kernel + stride * (max(counts) - 1))
    found = normed_convolution(samples, torch.tensor(counts), conv, norm)
    assert found.shape == (len(counts), channels, max(counts))
    assert found.isfinite().all()
    for row, count in enumerate(counts):
        with torch.no_grad():
            convolved = exact_conv(samples[row, None, None, : kernel + stride * (count - 1)].double())
            # torch refuses to normalise a single value.
            expected = exact_norm(convolved) if count > 1 else exact_norm.bias[None, :, None].expand(1, -1, 1)
            # What float32 can hold of a product whose mean is taken away afterwards.
            gain = exact_norm.weight.abs() / (convolved.var(2, unbiased=False)[0] + norm.eps).sqrt()
            size = gain * exact_conv.weight[:, 0].abs().sum(1) * samples[row].abs().max()
        bound = 20 * EPSILON * (size[:, None] + expected[0].abs().amax(1, keepdim=True) + 1)
        assert ((found[row, :, :count] - expected[0]).abs() <= bound).all()


def test_where_all_frames_are_valid_none_have_to_be_counted():
    conv, _ = build(nn.Conv1d, 1, 5, 10, stride=5, bias=False, seed=0)
    norm, _ = build(nn.GroupNorm, 5, 5, seed=1)
    samples = torch.randn(2, 300)
    counted = normed_convolution(samples, torch.tensor([59, 59]), conv, norm)
    torch.testing.assert_close(normed_convolution(samples, None, conv, norm), counted, rtol=1e-6, atol=1e-6)


def test_gradients_of_the_normed_convolution_are_those_of_its_parts():
    conv, exact_conv = build(nn.Conv1d, 1, 5, 10, stride=5, bias=True, seed=0)
    norm, exact_norm = build(nn.GroupNorm, 5, 5, seed=1)
    samples = torch.randn(2, 300, dtype=torch.double)
    wanted = torch.randn(2, 5, 59, dtype=torch.double)
    (exact_norm(exact_conv(samples[:, None])) * wanted).sum().backward()
    (normed_convolution(samples.float(), torch.tensor([59, 59]), conv, norm) * wanted).sum().backward()
    for parameter, expected in zip(
        (conv.weight, *norm.parameters()), (exact_conv.weight, *exact_norm.parameters()), strict=True
    ):
        torch.testing.assert_close(parameter.grad.double(), expected.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact_conv.bias.grad, torch.zeros(5, dtype=torch.double), rtol=0, atol=1e-10)


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    inside=st.integers(1, 4),
    outside=st.integers(1, 4),
    kernel=st.integers(1, 20),
    padding=st.integers(0, 20),
    more=st.integers(0, 130),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
@example(batch=2, groups=2, inside=3, outside=3, kernel=128, padding=64, more=250, bias=True, seed=0)
@example(batch=1, groups=2, inside=3, outside=3, kernel=128, padding=64, more=258, bias=True, seed=0)
@example(batch=1, groups=16, inside=2, outside=2, kernel=64, padding=32, more=1500, bias=True, seed=0)
def test_a_spectral_convolution_is_a_convolution(batch, groups, inside, outside, kernel, padding, more, bias, seed):
    shape = groups * inside, groups * outside, kernel
    conv, exact = build(nn.Conv1d, *shape, padding=padding, groups=groups, bias=bias, seed=seed)
    states = torch.randn(batch, groups * inside, max(1, kernel - 2 * padding) + more)
    with torch.no_grad():
        expected = exact(states.double())
        found = SpectralConvolution(conv)(states)
    assert found.shape == expected.shape
    # A transform spreads its rounding over all values of a block.
    scale = exact.weight.square().sum((1, 2)).sqrt().max() * states.double().square().sum((1, 2)).sqrt().max()
    assert (found - expected).abs().max() <= 10 * EPSILON * (scale + expected.abs().max())


def test_a_spectral_convolution_rounds_no_more_than_a_direct_one():
    """At HuBERT-base's shape: so it may stand in for it wherever float32 is promised."""
    conv, exact = build(nn.Conv1d, 768, 768, 128, padding=64, groups=16, seed=0)
    states = torch.randn(1, 768, 250)
    with torch.no_grad():
        expected = exact(states.double())
        direct, spectral = ((module(states) - expected).abs() for module in (conv, SpectralConvolution(conv)))
    assert spectral.mean() <= direct.mean()


@pytest.mark.parametrize("length", [1, 250, 700])
def test_frames_of_a_spectral_convolution_do_not_see_beyond_their_kernel(length):
    conv, _ = build(nn.Conv1d, 4, 4, 64, padding=32, groups=2, seed=0)
    spectral = SpectralConvolution(conv)
    states = torch.randn(1, 4, length)
    longer = torch.nn.functional.pad(states, (0, 500))
    torch.testing.assert_close(spectral(longer)[..., :length], spectral(states)[..., :length], rtol=1e-4, atol=1e-4)
