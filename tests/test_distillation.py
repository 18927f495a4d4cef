"""Self-distillation: each formula against plain NumPy, perturbations by their properties, two real processes as one."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf, log_softmax, softmax
from torch.nn.parallel import DistributedDataParallel
from transformers import HubertConfig

from sdhubert_ray.distillation import (
    CentredLoss,
    Distillation,
    DistillationOptions,
    Head,
    MaskOptions,
    PerturbationOptions,
    add_sums,
    draw_perturbations,
    no_perturbation,
    perturb,
    reinitialise,
    sum_over_workers,
    sum_states,
    summarise,
)
from sdhubert_ray.model import SDHuBERT

NEVER_LONG = MaskOptions(share=0.0, ratio=0.2, span=10)
NEVER_SHORT = MaskOptions(share=0.0, ratio=0.3, span=5)
STRETCH = PerturbationOptions(long_masks=NEVER_LONG, short_masks=NEVER_SHORT)
LONG = PerturbationOptions(long_masks=MaskOptions(1.0, 0.2, 10), short_masks=NEVER_SHORT)
SHORT = PerturbationOptions(long_masks=NEVER_LONG, short_masks=MaskOptions(1.0, 0.3, 5))
ANY = PerturbationOptions()
WIDTH = 3
MASK = torch.full((WIDTH,), 7.0)

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
NO_DROPOUT = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)

lengths = st.lists(st.integers(0, 120), min_size=1, max_size=6)
seeds = st.integers(-(2**63), 2**63 - 1)
views = st.sampled_from(["student", "teacher"])


def frames_of(batch, length, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((batch, length, WIDTH)).astype(np.float32))


def perturbed(seed, valid, options, which="student", extra=0):
    """Frames of one sample before and after."""
    frames = frames_of(1, valid + extra)
    plan = draw_perturbations(torch.tensor([seed]), torch.tensor([valid]), valid + extra, options, which)
    return frames[0], perturb(frames, plan, MASK)[0], plan


# -- perturbations


@settings(deadline=None)
@given(lengths, seeds, st.integers(0, 30), views, st.sampled_from([ANY, STRETCH, LONG, SHORT]))
def test_padding_is_never_touched(valid, seed, extra, which, options):
    length = max(valid) + extra
    drawn = torch.tensor([(seed + row) % 2**62 for row in range(len(valid))])
    plan = draw_perturbations(drawn, torch.tensor(valid), length, options, which)
    frames = frames_of(len(valid), length)
    for row, count in enumerate(valid):
        frames[row, count:] = torch.inf  # would spread through any interpolation
    found = perturb(torch.where(frames.isinf(), 1e30, frames), plan, MASK)
    for row, count in enumerate(valid):
        assert (found[row, count:] == 1e30).all()
        assert (found[row, :count].abs() < 1e3).all()
        assert not plan.masked[row, count:].any()
        assert (plan.lower[row, :count] < max(count, 1)).all()
        assert (plan.lower[row, :count] + (plan.weight[row, :count] > 0) < max(count, 1)).all()
    assert plan.lower.dtype == torch.int64
    assert plan.weight.dtype == torch.float32
    assert plan.masked.dtype == torch.bool
    assert ((plan.weight >= 0) & (plan.weight <= 1)).all()


@settings(deadline=None)
@given(st.integers(1, 300), seeds, views, st.sampled_from([LONG, SHORT]))
def test_frames_outside_masked_spans_are_equal(valid, seed, which, options):
    before, after, plan = perturbed(seed, valid, options, which)
    masked = plan.masked[0]
    assert torch.equal(after[~masked], before[~masked])
    assert torch.equal(after[masked], MASK.expand(int(masked.sum()), -1))


@settings(deadline=None)
@given(st.integers(1, 300), seeds, st.sampled_from([LONG, SHORT]))
def test_masks_are_whole_spans_and_as_many_as_the_rule_says(valid, seed, options):
    masks = options.long_masks if options is LONG else options.short_masks
    masked = perturbed(seed, valid, options)[2].masked[0].numpy()
    edges = np.diff(masked.astype(int), prepend=0, append=0)
    runs = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    assert (runs >= masks.span).all()
    most = int(masks.ratio * valid / masks.span + 1)
    assert masked.sum() <= most * masks.span
    if valid < masks.span:
        assert not masked.any()


@settings(deadline=None)
@given(st.integers(1, 200), seeds, st.floats(0, 1))
def test_the_number_of_spans_is_rounded_at_random(valid, seed, ratio):
    """Spans of one frame cannot overlap, so that they can be counted."""
    options = PerturbationOptions(long_masks=MaskOptions(1.0, ratio, 1), short_masks=NEVER_SHORT)
    generator = np.random.default_rng((seed % 2**64, 0))
    generator.random()  # which kind
    expected = min(int(np.floor(ratio * valid + generator.random())), valid)
    assert perturbed(seed, valid, options)[2].masked.sum() == expected


@pytest.mark.parametrize(("options", "masks"), [(LONG, LONG.long_masks), (SHORT, SHORT.short_masks)])
def test_masks_cover_what_spans_at_random_cover(options, masks):
    """Frame t is free if none of the spans starts in t - span + 1 .. t: by a plain simulation of the rule."""
    valid, count = 250, 2000
    plan = draw_perturbations(torch.arange(count), torch.full((count,), valid), valid, options, "student")
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(count):
        spans = int(masks.ratio * valid / masks.span + rng.random())
        starts = rng.permutation(valid - masks.span + 1)[:spans]
        covered.append(len({start + step for start in starts for step in range(masks.span)}) / valid)
    assert plan.masked.float().mean().item() == pytest.approx(np.mean(covered), abs=0.003)


def stretch_oracle(frames, seed, which):
    """The same draws, but frames laid out by three knots and interpolated dimension by dimension."""
    generator = np.random.default_rng((seed % 2**64, ["student", "teacher"].index(which)))
    generator.random()  # which kind
    last = len(frames) - 1
    anchor = generator.uniform(0.2, 0.8) * last
    rate = generator.uniform(0.8, 1.5)
    left = generator.random() < 0.5
    moved = rate * anchor if left else last - rate * (last - anchor)
    knots = np.array([[0, 0], [moved, anchor], [last, last]])
    if left and moved >= last:
        knots = knots[:2]
    if not left and moved <= 0:
        knots = knots[1:]
    source = np.interp(np.arange(len(frames)), knots[:, 0], knots[:, 1])
    columns = [np.interp(source, np.arange(len(frames)), column) for column in frames.T.astype(np.float64)]
    return np.stack(columns, 1)


@settings(deadline=None, max_examples=300)
@given(st.integers(2, 300), seeds, views, st.integers(0, 20))
def test_stretch_is_that_of_a_plain_interpolation(valid, seed, which, extra):
    before, after, _ = perturbed(seed, valid, STRETCH, which, extra)
    expected = stretch_oracle(before[:valid].numpy(), seed, which)
    np.testing.assert_allclose(after[:valid].numpy(), expected, atol=2e-4)
    assert torch.equal(after[valid:], before[valid:])


def test_stretches_move_frames_both_ways_and_up_to_the_limits():
    count, valid = 500, 250
    plan = draw_perturbations(torch.arange(count), torch.full((count,), valid), valid, STRETCH, "student")
    source = (plan.lower + plan.weight).numpy()
    steps = np.diff(source, axis=1)
    assert (steps > -1e-4).all()  # never back in time
    inner = np.median(steps[:, 5:40], axis=1)
    assert inner.min() < 0.7
    assert inner.max() > 1.2
    assert np.abs(source - np.arange(valid)).max(1).min() >= 0


@settings(deadline=None)
@given(lengths, seeds, views)
def test_a_perturbation_does_not_depend_on_the_batch(valid, seed, which):
    drawn = [(seed + 17 * row) % 2**62 for row in range(len(valid))]
    together = draw_perturbations(torch.tensor(drawn), torch.tensor(valid), max(valid) + 9, ANY, which)
    again = draw_perturbations(torch.tensor(drawn), torch.tensor(valid), max(valid) + 9, ANY, which)
    for row, count in enumerate(valid):
        alone = draw_perturbations(torch.tensor(drawn[row : row + 1]), torch.tensor([count]), count, ANY, which)
        for one, all_, same in zip(alone, together, again, strict=True):
            assert torch.equal(one[0], all_[row, :count])
            assert torch.equal(all_, same)


def test_kinds_have_their_shares_and_views_are_independent():
    count, valid = 4000, 250
    plans = {}
    for which in ("student", "teacher"):
        plan = draw_perturbations(torch.arange(count), torch.full((count,), valid), valid, ANY, which)
        stretched = (plan.weight > 0).any(1).numpy()
        masked = plan.masked.sum(1).numpy()
        assert stretched.mean() == pytest.approx(0.2, abs=0.02)
        assert not (masked[stretched] > 0).any()
        # 5 spans of 10 cover 50 frames at most; 15 of 5 nearly always more than they do.
        plans[which] = stretched
    both = (plans["student"] & plans["teacher"]).mean()
    assert both == pytest.approx(0.04, abs=0.012)


def test_no_perturbation_leaves_frames_as_they_are():
    frames = frames_of(4, 20)
    assert torch.equal(perturb(frames, no_perturbation(4, 20), MASK), frames)


def test_options_that_make_no_sense_are_refused():
    for change in ({"share": 1.5}, {"ratio": -0.1}, {"span": 0}):
        with pytest.raises(ValueError, match="masking has"):
            MaskOptions(**{"share": 0.4, "ratio": 0.2, "span": 10, **change})
    with pytest.raises(ValueError, match="more than 1"):
        PerturbationOptions(long_masks=MaskOptions(0.7, 0.2, 10), short_masks=MaskOptions(0.4, 0.3, 5))
    with pytest.raises(ValueError, match="anchor"):
        PerturbationOptions(anchor=(0.8, 0.2))
    with pytest.raises(ValueError, match="rate"):
        PerturbationOptions(rate=(0.0, 1.0))


# -- loss


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
    loss.update_center(sums)
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
    loss.update_center(sums)
    np.testing.assert_allclose(loss.center, teacher.mean(0), atol=1e-6)


def test_center_of_micro_batches_of_any_size_is_that_of_all():
    student, teacher = logits_of(7, 6, 0), logits_of(7, 6, 1)
    parts, whole = CentredLoss(6), CentredLoss(6)
    sums = [parts(student[rows], teacher[rows])[1] for rows in (slice(0, 2), slice(2, 7))]
    parts.update_center(add_sums(*sums))
    whole.update_center(whole(student, teacher)[1])
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


# -- head, teacher, new layers


def tiny_student(seed=0, **values):
    torch.manual_seed(seed)
    config = HubertConfig(**{**TINY, **NO_DROPOUT, **values})
    config._attn_implementation = "sdpa"
    return SDHuBERT(config)


def tiny_distillation(student=None, **options):
    torch.manual_seed(1)
    given_options = {"reinit_layers": (3,), "final_dim": 24, **options}
    return Distillation(tiny_student() if student is None else student, DistillationOptions(**given_options)).train()


def batch_of(batch, seed=0, num_samples=8000):
    rng = np.random.default_rng(seed)
    samples = torch.from_numpy(rng.standard_normal((batch, num_samples)).astype(np.float32))
    counts = torch.from_numpy(rng.integers(3000, num_samples + 1, batch))
    counts[0] = num_samples
    return samples, counts


def plans_of(model, samples, counts, seed=0):
    num_frames = model.student.count_frames(counts)
    length = int(model.student.count_frames(torch.tensor([samples.shape[1]])))
    drawn = torch.arange(seed, seed + len(samples))
    return [draw_perturbations(drawn, num_frames, length, ANY, which) for which in ("student", "teacher")]


def run(model, samples, counts, seed=0):
    return model(samples, counts, *plans_of(model, samples, counts, seed))


def test_head_is_that_of_numpy_and_has_the_official_names(tiny_checkpoint):
    torch.manual_seed(0)
    head = Head(5, 8)
    names = set(head.state_dict())
    assert names == {
        *(f"final_proj.{index}.{kind}" for index in (0, 2, 4) for kind in ("weight", "bias")),
        *("layernorm.weight", "layernorm.bias", "final_lin.weight", "final_lin.bias"),
    }
    weights = {name: value.numpy().astype(np.float64) for name, value in head.state_dict().items()}
    values = np.random.default_rng(0).standard_normal((3, 5))

    def linear(values, name):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def gelu(values):
        return values * (1 + erf(values / np.sqrt(2))) / 2

    hidden = linear(gelu(linear(gelu(linear(values, "final_proj.0")), "final_proj.2")), "final_proj.4")
    hidden = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    expected = linear(hidden * weights["layernorm.weight"] + weights["layernorm.bias"], "final_lin")
    found = head(torch.from_numpy(values.astype(np.float32)))
    np.testing.assert_allclose(found.detach(), expected, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(torch.from_numpy(values.astype(np.float32))), found)
    golden = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    assert golden["layernorm.weight"].shape == Head(48, 128).state_dict()["layernorm.weight"].shape


def test_layers_that_begin_anew_are_xavier_normal_and_others_stay():
    student = tiny_student(hidden_size=64, intermediate_size=256)
    layers = student.speech_model.encoder.layers
    for parameter in layers.parameters():
        torch.nn.init.uniform_(parameter, 5, 6)
    before = copy.deepcopy(layers)
    reinitialise([layers[2], layers[3]])
    for index in (0, 1):
        for old, new in zip(before[index].parameters(), layers[index].parameters(), strict=True):
            assert torch.equal(old, new)
    for index in (2, 3):
        for name, value in layers[index].named_parameters():
            if name.endswith("bias"):
                assert (value == 0).all(), name
            elif "layer_norm" in name:
                assert (value == 1).all(), name
            else:
                std = np.sqrt(2 / sum(value.shape))
                assert value.std().item() == pytest.approx(std, rel=0.1), name
                assert abs(value.mean().item()) < 4 * std / np.sqrt(value.numel())
    with pytest.raises(ValueError, match="reinit_layers names layer 4, but there are 4"):
        Distillation(student, DistillationOptions(reinit_layers=(4,), final_dim=8))


def changed(model):
    """A step of training by a plain gradient descent, so that the student differs from its teacher."""
    distilled = run(model, *batch_of(3))
    distilled.loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return distilled


@pytest.mark.parametrize("decay", [0.999, 0.5])
def test_teacher_follows_by_its_formula(decay):
    model = tiny_distillation(ema_decay=decay)
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    distilled = changed(model)
    model.step(distilled.sums)
    student = {f"layers.{k}": v for k, v in model.student.speech_model.encoder.layers.state_dict().items()}
    student |= {f"head.{k}": v for k, v in model.head.state_dict().items()}
    assert set(student) == set(before)
    moved = 0
    for name, value in model.teacher.state_dict().items():
        expected = decay * before[name].numpy().astype(np.float64) + (1 - decay) * student[name].numpy()
        np.testing.assert_allclose(value, expected, atol=1e-6)
        moved += not torch.equal(value, before[name])
    assert moved > len(before) / 2


def test_frozen_teacher_keeps_the_initial_copy_but_its_center_moves():
    model = tiny_distillation(frozen_teacher=True)
    before = copy.deepcopy(model.teacher.state_dict())
    for _ in range(3):
        model.step(changed(model).sums)
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.loss.center.abs().sum() > 0


def test_teacher_is_never_trained_and_always_in_eval_mode():
    """Dropout moves the student's states from call to call, but not the teacher's, though both share what is below."""
    model = tiny_distillation(tiny_student(hidden_dropout=0.5, attention_dropout=0.5, activation_dropout=0.5))
    samples, counts = batch_of(3)
    frames = model.project(samples, counts)
    num_frames = model.student.count_frames(counts)
    assert model.training
    assert not any(module.training for module in model.teacher.modules())
    first, second = (model.teacher(model.student, frames, num_frames)[1] for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    first, second = (model.summarise(frames, num_frames)[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert not model.student.training


def test_teacher_is_the_student_at_first():
    model = tiny_distillation()
    samples, counts = batch_of(3)
    frames, num_frames = model.project(samples, counts), model.student.count_frames(counts)
    cls, logits = model.teacher(model.student, frames, num_frames)
    student_cls, _ = model.summarise(frames, num_frames)
    torch.testing.assert_close(cls, student_cls, rtol=1e-5, atol=1e-5)  # autograd takes another kernel
    torch.testing.assert_close(logits, model.head(student_cls), rtol=1e-5, atol=1e-5)


def test_everything_that_changes_is_in_the_state_dict():
    model, other = tiny_distillation(), tiny_distillation(tiny_student(seed=5))
    for _ in range(2):
        model.step(changed(model).sums)
    other.load_state_dict(model.state_dict())
    assert {"loss.center", "loss.temp_s", "loss.temp_t", "loss.center_momentum_"} <= set(model.state_dict())
    batch = batch_of(3, seed=1)
    assert torch.equal(run(model, *batch).loss, run(other, *batch).loss)


# -- all together


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_trained_gets_a_gradient_and_the_rest_none(frozen):
    model = tiny_distillation(freeze_extractor=frozen, freeze_pos_embedding=frozen)
    run(model, *batch_of(4)).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == with_gradient
    below = {"student.speech_model.feature_extractor", "student.speech_model.feature_projection"}
    below.add("student.speech_model.encoder.pos_conv_embed")
    assert all(any(name.startswith(part) for name in trained) != frozen for part in below)
    assert "student.cls_token" in trained
    assert "mask_vector" in trained
    assert not any(name.startswith("teacher") for name in trained)


def test_extractor_runs_once_and_without_autograd(monkeypatch):
    model = tiny_distillation()
    calls = []
    plain = SDHuBERT.project

    def counted(self, samples, num_samples):
        calls.append(torch.is_grad_enabled())
        return plain(self, samples, num_samples)

    monkeypatch.setattr(SDHuBERT, "project", counted)
    run(model, *batch_of(2))
    assert calls == [False]


def test_a_batch_without_masks_trains_the_mask_vector_with_zeros():
    """Every parameter takes part in every step: distributed training waits for its gradient."""
    model = tiny_distillation()
    samples, counts = batch_of(2)
    length = int(model.student.count_frames(torch.tensor([samples.shape[1]])))
    model(samples, counts, no_perturbation(2, length), no_perturbation(2, length)).loss.backward()
    assert (model.mask_vector.grad == 0).all()


def test_loss_does_not_depend_on_padding():
    model = tiny_distillation()
    samples, counts = batch_of(4)
    found = run(model, samples, counts)
    longer = torch.cat([samples, torch.full((4, 5000), 1e3)], 1)
    padded = run(model, longer, counts)
    np.testing.assert_allclose(padded.loss.detach(), found.loss.detach(), atol=1e-5)
    for name, value in found.sums.items():
        np.testing.assert_allclose(padded.sums[name], value, atol=1e-3, err_msg=name)


def test_there_is_no_layerdrop():
    never, always = (tiny_distillation(tiny_student(layerdrop=share)) for share in (0.0, 1.0))
    assert torch.equal(run(never, *batch_of(2)).loss, run(always, *batch_of(2)).loss)


def test_bfloat16_autocast_is_near_and_its_loss_float32():
    model = tiny_distillation()
    exact = run(model, *batch_of(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(model, *batch_of(4))
    rough.loss.backward()
    assert rough.loss.dtype == torch.float32
    assert rough.loss.item() == pytest.approx(exact.loss.item(), rel=0.1)
    assert all(value.dtype == torch.float32 for value in rough.sums.values())
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() and gradient.dtype == torch.float32 for gradient in gradients)


def test_loss_is_that_of_its_parts(golden):
    """The whole step with the golden encoder's shape, put together once more from the parts, sample by sample."""
    config = HubertConfig(**json.loads((golden / "checkpoint" / "upstream" / "config.json").read_text()))
    torch.manual_seed(0)
    model = Distillation(SDHuBERT(config), DistillationOptions(final_dim=32)).eval()
    samples, counts = batch_of(3, num_samples=12_000)
    plans = plans_of(model, samples, counts)
    with torch.no_grad():
        found = model(samples, counts, *plans)
        logits = []
        for row, count in enumerate(counts.tolist()):
            frames = model.student.project(samples[row : row + 1, :count], torch.tensor([count]))
            num_frames = torch.tensor([frames.shape[1]])
            for plan in plans:
                seen = perturb(
                    frames, type(plan)(*(part[row : row + 1, : num_frames[0]] for part in plan)), model.mask_vector
                )
                *_, states = model.student.contextualise(seen, num_frames)
                logits.append(model.head(states[:, 0])[0])
    student, teacher = torch.stack(logits[0::2]).numpy(), torch.stack(logits[1::2]).numpy()
    expected = -(softmax(teacher / 0.05, 1) * log_softmax(student / 0.2, 1)).sum(1).mean()
    np.testing.assert_allclose(found.loss, expected, rtol=1e-3)


def test_bias_of_keys_is_not_trained_as_it_changes_nothing():
    model = tiny_distillation()
    batch = batch_of(3)
    before = run(model, *batch).loss
    for layer in model.student.speech_model.encoder.layers:
        assert not layer.attention.k_proj.bias.requires_grad
        torch.nn.init.normal_(layer.attention.k_proj.bias)
    np.testing.assert_allclose(run(model, *batch).loss.detach(), before.detach(), atol=1e-4)


# -- two workers as one


def step_of(batch, rows, world):
    """Two steps on some rows of a batch in this process; what came of them."""
    model = tiny_distillation(ema_decay=0.9)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], 0.05)
    samples, counts = batch
    for step in range(2):
        plans = plans_of(model, samples, counts, seed=step)
        optimizer.zero_grad()
        distilled = wrapped(
            samples[rows], counts[rows], *(type(plan)(*(part[rows] for part in plan)) for plan in plans)
        )
        distilled.loss.backward()
        optimizer.step()
        sums = sum_over_workers(distilled.sums)
        model.step(sums)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"metrics": summarise(sums), "gradients": gradients, "state": model.state_dict()}


def worker(rank, folder, batch, shares):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(shares))
    torch.save(step_of(batch, shares[rank], len(shares)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_with_half_the_batch_are_as_one(tmp_path):
    """Center, loss, gradients, weights and teacher after two steps, to 1e-6."""
    batch = batch_of(6)
    shares = [slice(0, 3), slice(3, 6)]
    torch.multiprocessing.spawn(worker, (tmp_path, batch, shares), nprocs=2)
    expected = step_of(batch, slice(0, 6), 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for part in ("metrics", "gradients", "state"):
            assert set(found[part]) == set(expected[part])
            for name, value in expected[part].items():
                tolerance = 1e-4 if name.endswith(("spread", "information")) else 1e-6
                np.testing.assert_allclose(found[part][name], value, atol=tolerance, rtol=1e-5, err_msg=name)
    assert expected["state"]["loss.center"].abs().max() > 1e-3


def center_of_shares(rank, folder, batch, shares):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(shares))
    loss = CentredLoss(5)
    loss.update_center(sum_over_workers(loss(*(part[shares[rank]] for part in batch))[1]))
    torch.save(loss.center, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_center_weighs_workers_by_their_samples(tmp_path):
    batch = logits_of(5, 5, 0), logits_of(5, 5, 1)
    torch.multiprocessing.spawn(center_of_shares, (tmp_path, batch, [slice(0, 1), slice(1, 5)]), nprocs=2)
    for rank in range(2):
        np.testing.assert_allclose(torch.load(tmp_path / f"{rank}.pt"), 0.1 * batch[1].mean(0), atol=1e-7)
