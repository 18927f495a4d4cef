"""The centred loss and what is watched, against plain NumPy; sums of two real processes."""

import numpy as np
import pytest
import torch
from forks import FORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from two_workers import one_of_two

from sdhubert_ray.training.distillation import (
    CentredLoss,
    add_sums,
    sum_over_workers,
    sum_states,
    summarise,
)

TAKEN = torch.tensor(True)


def logits_of(batch, width, seed, scale=1.0):
    return torch.from_numpy((np.random.default_rng(seed).standard_normal((batch, width)) * scale).astype(np.float32))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 2**32 - 1), st.floats(0.01, 10))
def test_loss_center_and_entropies_are_those_of_numpy(batch, width, seed, scale):
    student, teacher = logits_of(batch, width, seed, scale), logits_of(batch, width, seed + 1, scale)
    loss = CentredLoss(width)
    loss.center.copy_(logits_of(1, width, seed + 2)[0])
    before = loss.center.numpy().astype(np.float64)
    found, sums = loss(student, teacher)
    wanted = softmax((teacher.numpy().astype(np.float64) - before) / 0.05, 1)
    predicted = log_softmax(student.numpy().astype(np.float64) / 0.2, 1)
    losses = -(wanted * predicted).sum(1)
    np.testing.assert_allclose(found, losses.mean(), rtol=1e-4, atol=1e-5)
    loss.update_center(sums, TAKEN)
    np.testing.assert_allclose(loss.center, 0.9 * before + 0.1 * teacher.numpy().mean(0), rtol=1e-5, atol=1e-6)
    states = sum_states(*(torch.ones(batch, 2),) * 2, torch.ones(batch, 3, 2), torch.full((batch,), 3))
    metrics = summarise(sums | states)
    entropy = -(wanted * np.log(np.maximum(wanted, 1e-300))).sum(1)
    mean = wanted.mean(0)
    information = -(mean * np.log(np.maximum(mean, 1e-300))).sum() - entropy.mean()
    np.testing.assert_allclose(metrics["teacher_entropy"], entropy.mean(), atol=1e-3)
    np.testing.assert_allclose(metrics["student_entropy"], -(np.exp(predicted) * predicted).sum(1).mean(), atol=1e-3)
    np.testing.assert_allclose(metrics["information"], information, atol=1e-3)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_numpy():
    """d loss / d s = (softmax(s / 0.2) - softmax((t - c) / 0.05)) / 0.2 / B."""
    student, teacher = logits_of(5, 7, 0).requires_grad_(), logits_of(5, 7, 1).requires_grad_()
    CentredLoss(7)(student, teacher)[0].backward()
    expected = softmax(student.detach().numpy() / 0.2, 1) - softmax(teacher.detach().numpy() / 0.05, 1)
    np.testing.assert_allclose(student.grad, expected / 0.2 / 5, atol=1e-6)
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_give_no_infinity(dtype):
    student, teacher = logits_of(4, 50, 0, 1e4).to(dtype).requires_grad_(), logits_of(4, 50, 1, 1e4).to(dtype)
    found, sums = CentredLoss(50)(student, teacher)
    assert found.dtype == torch.float32
    found.backward()
    for value in (found, student.grad, *sums.values()):
        assert torch.isfinite(value).all()


def test_loss_is_computed_in_float32_under_autocast():
    student, teacher = logits_of(4, 50, 0), logits_of(4, 50, 1)
    plain = CentredLoss(50)(student, teacher)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(CentredLoss(50)(student, teacher)[0], plain)


def test_center_is_used_before_it_is_updated():
    loss = CentredLoss(7, center_momentum=0.0)
    teacher = logits_of(5, 7, 1)
    first, sums = loss(logits_of(5, 7, 0), teacher)
    plain = CentredLoss(7)(logits_of(5, 7, 0), teacher)[0]
    assert torch.equal(first, plain)
    loss.update_center(sums, TAKEN)
    np.testing.assert_allclose(loss.center, teacher.mean(0), atol=1e-6)


def test_center_begins_with_the_mean_of_the_first_step_that_is_taken():
    loss, none = CentredLoss(7), CentredLoss(7, center_momentum=1.0)
    first, second = logits_of(5, 7, 1), logits_of(5, 7, 2)
    broken = loss(logits_of(5, 7, 0), first * torch.inf)[1]
    loss.update_center(broken, ~TAKEN)
    assert not loss.center.any()
    sums = loss(logits_of(5, 7, 0), first)[1]
    loss.update_center(sums, TAKEN)
    np.testing.assert_allclose(loss.center, first.mean(0), rtol=1e-6)
    before = loss.center.clone()
    loss.update_center(broken, ~TAKEN)
    assert torch.equal(loss.center, before)
    loss.update_center(loss(logits_of(5, 7, 0), second)[1], TAKEN)
    np.testing.assert_allclose(loss.center, 0.9 * before + 0.1 * second.mean(0), rtol=1e-5, atol=1e-6)
    none.update_center(sums, TAKEN)
    assert not none.center.any()


def test_center_of_micro_batches_of_any_size_is_that_of_all():
    student, teacher = logits_of(7, 6, 0), logits_of(7, 6, 1)
    parts, whole = CentredLoss(6), CentredLoss(6)
    sums = [parts(student[rows], teacher[rows])[1] for rows in (slice(0, 2), slice(2, 7))]
    parts.update_center(add_sums(*sums), TAKEN)
    whole.update_center(whole(student, teacher)[1], TAKEN)
    np.testing.assert_allclose(parts.center, whole.center, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_spread_is_the_standard_deviation_of_unit_states(num_frames, seed):
    rng = np.random.default_rng(seed)
    batch, width = len(num_frames), 6
    student, teacher = rng.standard_normal((2, batch, width)).astype(np.float32) + 0.5
    tokens = rng.standard_normal((batch, 10, width)).astype(np.float32)
    loss_sums = CentredLoss(4)(torch.randn(batch, 4), torch.randn(batch, 4))[1]
    states = sum_states(*map(torch.from_numpy, (student, teacher, tokens)), torch.tensor(num_frames))
    metrics = summarise(loss_sums | states)
    valid = np.concatenate([tokens[row, :count] for row, count in enumerate(num_frames)])
    for name, values in (("student_cls", student), ("teacher_cls", teacher), ("token", valid)):
        scaled = values / np.linalg.norm(values, axis=1, keepdims=True) * np.sqrt(width)
        expected = np.sqrt(scaled.var(0).mean())
        assert metrics[f"{name}_spread"].item() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("peak", [True, False])
def test_targets_that_are_all_alike_have_no_information(peak):
    teacher = torch.zeros(32, 10)
    teacher[:, 3] = 5.0 if peak else 0.0
    sums = CentredLoss(10)(logits_of(32, 10, 0), teacher)[1]
    states = sum_states(*(torch.ones(32, 2),) * 2, torch.ones(32, 3, 2), torch.full((32,), 3))
    metrics = summarise(sums | states)
    assert metrics["information"].item() == pytest.approx(0, abs=1e-4)
    assert metrics["student_cls_spread"].item() == pytest.approx(0, abs=1e-3)
    assert metrics["teacher_entropy"].item() == pytest.approx(0 if peak else np.log(10), abs=1e-4)


def center_of_shares(rank, folder, batch, shares):
    with one_of_two(rank, folder):
        loss = CentredLoss(5)
        loss.update_center(sum_over_workers(loss(*(part[shares[rank]] for part in batch))[1]), TAKEN)
        torch.save(loss.center, folder / f"{rank}.pt")


@FORKS
def test_center_weighs_workers_by_their_samples(tmp_path, forked):
    batch = logits_of(5, 5, 0), logits_of(5, 5, 1)
    shares = [slice(0, 1), slice(1, 5)]
    processes = [forked(center_of_shares, rank, tmp_path, batch, shares) for rank in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    for rank in range(2):
        np.testing.assert_allclose(torch.load(tmp_path / f"{rank}.pt"), batch[1].mean(0), atol=1e-6)
