"""The objective `segments`: its loss, targets and segments against a plain loop; micro-batches and workers as one."""

import copy

import numpy as np
import pytest
import torch
from forks import FORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel
from training.distillation.test_core import batch_of, tiny_student
from two_workers import one_of_two

import mincut
from sdhubert_ray.training.distillation import (
    Norms,
    SegmentDistillation,
    SegmentDistillationOptions,
    add_sums,
    explained_share,
    norms_of,
    sum_over_workers,
)
from sdhubert_ray.training.distillation.segments import segment_means

TAKEN = torch.tensor(True)


def tiny_model(given=False, **options):
    """With states whose norms differ, as those of trained layers do, and a threshold amid those of some crops."""
    student = tiny_student()
    torch.nn.init.uniform_(student.speech_model.encoder.layers[-1].final_layer_norm.weight, 0.2, 2)
    model = SegmentDistillation(student, SegmentDistillationOptions(given, **options))
    if not given:
        low, high = norms_of(model.teach(*batch_of(4))).quantile(torch.tensor([0.1, 0.7])).tolist()
        model.norms.begin(Norms((high, 0.1), (low, 0.1)))
    return model.train()


def batch(size=4, seed=0):
    """Crops with noise on the first, and given segments that leave frames out."""
    samples, counts = batch_of(size, seed)
    rng = np.random.default_rng(seed)
    heard = samples.clone()
    heard[0] += torch.from_numpy(rng.standard_normal(samples.shape[1]).astype(np.float32))
    length = int(tiny_student().count_frames(torch.tensor(samples.shape[1])))
    lengths = rng.integers(2, 6, (size, length))
    segment = np.stack([np.repeat(np.arange(length), each)[:length] for each in lengths]) - 1
    thresholds = torch.from_numpy(rng.uniform(0.3, 0.9, size))
    return {
        "samples": samples,
        "num_samples": counts,
        "heard": heard,
        "segment": torch.from_numpy(segment),
        "merge_threshold": thresholds,
    }


def rows_of(whole, rows):
    return {name: value[rows] for name, value in whole.items()}


def moved(model):
    """A step of gradient descent, so that student and teacher differ."""
    model.distil(batch()).loss.backward()
    with torch.no_grad():
        for parameter in model.student.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
                parameter.grad = None
    return model


def states_of(encoder, samples, count):
    """Of a crop alone, without what stands in front of its frames."""
    *_, states = encoder.contextualise(encoder.project(samples[None, :count], None), None)
    return states[0, 1:].detach().double().numpy()


# -- targets


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_means_are_those_of_a_plain_loop(size, length, seed):
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((size, length, 3)).astype(np.float32)
    segment = np.sort(rng.integers(-1, length, (size, length)), axis=1)
    expected = np.zeros_like(states)
    for row in range(size):
        for number in set(segment[row].tolist()) - {-1}:
            chosen = segment[row] == number
            expected[row, chosen] = states[row, chosen].mean(0)
    np.testing.assert_allclose(segment_means(*map(torch.from_numpy, (states, segment))), expected, atol=1e-6)


@pytest.mark.parametrize("is_given", [True, False])
def test_loss_is_that_of_a_plain_loop(is_given):
    """Crop by crop, segment by segment, of a student that has moved away from its teacher; and what is summed."""
    model, crops = moved(tiny_model(is_given)).eval(), batch()
    threshold = float(model.norms.value())
    found = model.distil(crops)
    losses, speech, quiet, num_segments = [], [], [], 0
    for row, count in enumerate(crops["num_samples"].tolist()):
        student = states_of(model.student, crops["heard"][row], count)
        teacher = states_of(model.teacher, crops["samples"][row], count)
        if is_given:
            numbers = crops["segment"][row, : len(teacher)].numpy()
            spans = [np.flatnonzero(numbers == number)[[0, -1]] + [0, 1] for number in np.unique(numbers[numbers >= 0])]
        else:
            merge = float(crops["merge_threshold"][row])
            spans = mincut.greedy_segments(teacher.astype(np.float32), threshold, merge)
        target, inside = np.zeros_like(teacher), np.zeros(len(teacher), bool)
        for start, end in spans:
            target[start:end], inside[start:end] = teacher[start:end].mean(0), True
        losses.append(((student - target) ** 2).sum(1).mean())
        norms = np.sqrt((student**2).sum(1) + 1e-8)
        speech += (norms if is_given else np.sqrt((teacher**2).sum(1) + 1e-8))[inside].tolist()
        quiet += norms[~inside].tolist()
        num_segments += len(spans)
    assert num_segments > len(losses)
    assert found.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert int(found.sums["num_segments"]) == num_segments
    assert int(found.sums["speech_count"]) == len(speech) > 0
    assert int(found.sums["quiet_count"]) == len(quiet) > 0
    assert float(found.sums["speech_norm"]) == pytest.approx(sum(speech), rel=1e-4)
    assert float(found.sums["quiet_norm"]) == pytest.approx(sum(quiet), rel=1e-4)
    assert found.cls is None


def test_what_is_explained_is_that_of_numpy():
    model, crops = moved(tiny_model(True)).eval(), batch()
    explained, variance = explained_share(model.distil(crops).sums)
    num_frames = model.student.count_frames(crops["num_samples"])
    with torch.no_grad():
        valid = (torch.arange(crops["segment"].shape[1]) < num_frames[:, None]).numpy()
        crops["segment"][~torch.from_numpy(valid)] = -1
        targets = segment_means(model.teach(crops["samples"], crops["num_samples"]), crops["segment"]).numpy()
        *_, states = model.student.contextualise(model.project(crops["heard"], crops["num_samples"]), num_frames)
    inside = targets[valid & (crops["segment"].numpy() >= 0)].astype(np.float64)
    error = np.square(states[:, 1:].detach().numpy() - targets)[valid].sum()
    varying = np.square(inside - inside.mean(0)).sum()
    assert float(variance) == pytest.approx(varying / np.square(inside).sum(), rel=1e-3)
    assert float(explained) == pytest.approx(1 - error / varying, rel=1e-3)


def test_targets_that_are_all_the_same_explain_nothing():
    """As those of a student and a teacher that have collapsed onto one vector, and agree."""
    one = torch.tensor([3.0, 4.0])
    sums = {"error": torch.zeros(()), "target": 10 * one, "target_square": torch.tensor(250.0)}
    explained, variance = explained_share(sums | {"speech_count": torch.tensor(10.0)})
    assert (float(explained), float(variance)) == (0, 0)
    nothing = {name: torch.zeros_like(value) for name, value in sums.items()}
    assert float(explained_share(nothing | {"speech_count": torch.zeros(())})[0]) == 0


# -- the student and its teacher


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_trained_gets_a_gradient_and_the_rest_none(frozen):
    model = tiny_model(freeze_extractor=frozen, freeze_pos_embedding=frozen)
    model.distil(batch()).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(name.startswith("student.") for name in trained)
    assert any("feature_extractor" in name for name in trained) != frozen
    assert "student.cls_token" in trained


@pytest.mark.parametrize("is_frozen", [True, False])
def test_teacher_follows_all_that_is_trained_or_nothing(is_frozen):
    model = moved(tiny_model(ema_decay=0.75, frozen_teacher=is_frozen))
    before = copy.deepcopy(model.teacher.state_dict())
    model.step(model.distil(batch()).sums, TAKEN)
    student, changed = model.student.state_dict(), 0
    for name, value in model.teacher.state_dict().items():
        share = 1.0 if is_frozen else 0.75
        np.testing.assert_allclose(value, share * before[name] + (1 - share) * student[name], atol=1e-6, err_msg=name)
        changed += not torch.equal(value, before[name])
    assert (changed > len(before) / 2) != is_frozen
    assert not any(module.training for module in model.teacher.modules())


def test_nothing_moves_in_a_step_that_is_not_taken():
    model = moved(tiny_model(ema_decay=0.5))
    before = copy.deepcopy(model.state_dict())
    sums = model.distil(batch()).sums
    model.step({name: value * torch.nan for name, value in sums.items()}, ~TAKEN)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_teacher_that_says_no_numbers_decides_the_step():
    model, crops = tiny_model(), batch()
    crops["samples"][1] = torch.nan
    sums = model.distil(crops).sums
    assert not sums["loss"].isfinite()
    assert "loss" in model.decisive


def test_everything_that_changes_is_in_the_state_dict():
    model, other = moved(tiny_model(ema_decay=0.5)), tiny_model(ema_decay=0.5)
    model.step(model.distil(batch()).sums, TAKEN)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval().distil(batch(seed=2)).loss, other.eval().distil(batch(seed=2)).loss)


def test_loss_does_not_depend_on_padding():
    model, crops = tiny_model(), batch()
    found = model.distil(crops)
    longer = dict(crops)
    for name in ("samples", "heard"):
        longer[name] = torch.cat([crops[name], torch.full((4, 3200), 1e3)], 1)
    longer["segment"] = torch.cat([crops["segment"], torch.full((4, 10), 3)], 1)
    padded = model.distil(longer)
    np.testing.assert_allclose(padded.loss.detach(), found.loss.detach(), rtol=1e-4)
    for name, value in found.sums.items():
        np.testing.assert_allclose(padded.sums[name], value, rtol=1e-3, atol=1e-3, err_msg=name)


# -- micro-batches and workers


@pytest.mark.parametrize("is_given", [True, False])
def test_micro_batches_have_the_sums_of_one_batch(is_given):
    model, whole = moved(tiny_model(is_given)).eval(), batch(6)
    one = model.distil(whole)
    parts = [model.distil(rows_of(whole, rows)) for rows in (slice(0, 2), slice(2, 6))]
    for name, value in add_sums(parts[0].sums, parts[1].sums).items():
        np.testing.assert_allclose(value, one.sums[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert (2 * parts[0].loss + 4 * parts[1].loss).item() == pytest.approx(6 * one.loss.item(), rel=1e-5)


def steps_of(rows, world, is_given):
    """Two steps on some rows of a batch in this process; what came of them."""
    model = tiny_model(is_given, ema_decay=0.9, norm_decay=0.5)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], 0.01)
    for step in range(2):
        crops = rows_of(batch(4, step), rows)
        optimizer.zero_grad()
        order = ("samples", "num_samples", "heard", "segment", "merge_threshold")
        distilled = wrapped(*(crops[name] for name in order))
        distilled.loss.backward()
        optimizer.step()
        model.step(sum_over_workers(distilled.sums), TAKEN)
    return model.state_dict()


def worker(rank, folder, shares):
    with one_of_two(rank, folder):
        torch.save([steps_of(shares[rank], len(shares), given) for given in (True, False)], folder / f"{rank}.pt")


@FORKS
@pytest.mark.seconds
def test_two_workers_equal_one_with_twice_the_batch(tmp_path, forked):
    """Weights, teacher and norms, with segments that are given and the teacher's; two real processes."""
    processes = [forked(worker, rank, tmp_path, [slice(0, 2), slice(2, 4)]) for rank in range(2)]
    expected = [steps_of(slice(0, 4), 1, given) for given in (True, False)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    for rank in range(2):
        for ours, theirs in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            for name, value in ours.items():
                np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)
