"""The Lightning module: schedule, clipping, accumulation, resuming, what is watched; and a model that learns."""

import copy
import json
import logging
import math

import numpy as np
import pytest
import torch
from distillations import (
    QUIET,
    SAMPLES,
    Endless,
    Record,
    batch_of,
    fit,
    joined,
    loader_of,
    module_of,
    options_of,
    seen,
    trainer_of,
    weights_of,
)
from lightning.pytorch.callbacks import Callback

from sdhubert_ray.encoder.weights import fetch_upstream
from sdhubert_ray.training.distillation import Teacher, segmentation_of
from sdhubert_ray.training.module import DistillationModule, cosine
from sdhubert_ray.training.options import LossCoefficients, ModelOptions, OptimOptions
from sdhubert_ray.training.watching import VALIDATION_SCORE

pytestmark = [QUIET, pytest.mark.usefixtures("one_thread")]

LOGGED = {
    *("loss", "lr", "grad_norm", "center_norm", "teacher_entropy", "student_entropy", "information", "skipped"),
    *("student_cls_spread", "teacher_cls_spread", "token_spread", "collapsed", "skipped_steps"),
}


# -- steps


def test_learning_rate_follows_the_cosine_by_steps_and_stays_at_its_end(upstream):
    _, rows = fit(module_of(upstream, T_max=6), [batch_of(number) for number in range(4)], 9)
    steps = np.minimum(np.arange(9), 6)
    expected = 1e-4 + (1e-3 - 1e-4) * (1 + np.cos(np.pi * steps / 6)) / 2
    np.testing.assert_allclose([row["lr"] for row in rows], expected, rtol=1e-6)
    assert rows[-1]["lr"] == pytest.approx(1e-4)


def test_the_recipe_goes_from_1e4_to_1e5_in_200_000_steps():
    recipe = ModelOptions()
    assert recipe.lr == 1e-4
    assert recipe.lr * cosine(0, recipe.T_max, recipe.gamma) == pytest.approx(1e-4)
    assert recipe.lr * cosine(100_000, recipe.T_max, recipe.gamma) == pytest.approx(5.5e-5)
    assert recipe.lr * cosine(200_000, recipe.T_max, recipe.gamma) == pytest.approx(1e-5)
    assert recipe.lr * cosine(10**7, recipe.T_max, recipe.gamma) == pytest.approx(1e-5)


@pytest.mark.parametrize("clip", [0.5, 1e-3, None])
def test_gradient_is_clipped_and_its_norm_logged(upstream, clip):
    module, norms = module_of(upstream), []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_post_hook(
                lambda optimizer, *_: norms.append(
                    math.sqrt(sum(float(p.grad.square().sum()) for p in optimizer.param_groups[0]["params"]))
                )
            )

    record = Record()
    trainer_of(3, record, Look(), gradient_clip_val=clip).fit(module, Endless([batch_of(0)]))
    assert len(norms) == 3
    for norm, row in zip(norms, record.rows, strict=True):
        limit = math.inf if clip is None else clip
        assert norm == pytest.approx(min(row["grad_norm"], limit), rel=1e-3)


def test_accumulated_micro_batches_are_one_batch(upstream):
    """Weights, teacher, center and metrics as with one batch of all; teacher and center move once per step."""
    micro = [batch_of(number, skipped=number % 2) for number in range(4)]
    whole = [joined(micro[:2]), joined(micro[2:])]
    parts, one = module_of(upstream, dropout=0.0), module_of(upstream, dropout=0.0)
    _, rows = fit(parts, micro, 2, accumulate_grad_batches=2)
    _, expected = fit(one, whole, 2)
    for name, value in one.state_dict().items():
        np.testing.assert_allclose(parts.state_dict()[name], value, atol=1e-5, err_msg=name)
    assert rows[-1]["skipped"] == expected[-1]["skipped"] == 2
    assert rows[-1]["loss"] == pytest.approx(expected[-1]["loss"], abs=1e-4)
    assert rows[-1]["teacher_entropy"] == pytest.approx(expected[-1]["teacher_entropy"], abs=1e-4)


def test_micro_batches_of_other_sizes_are_one_batch_where_its_size_is_told(upstream):
    """As where a worker is gone and the others share its crops."""
    crops, cuts = joined([batch_of(0), batch_of(1)]), (slice(0, 3), slice(3, 6), slice(6, 8))
    names = ("samples", "num_samples", "seeds", "index")
    parts = [seen({**{name: crops[name][rows] for name in names}, "skipped": 0}) for rows in cuts]
    options, found = options_of(upstream, dropout=0.0), fetch_upstream(str(upstream))
    modules = [DistillationModule(options, OptimOptions(), 0, found, global_batch=8) for _ in range(2)]
    _, rows = fit(modules[0], parts, 1, accumulate_grad_batches=len(parts))
    _, expected = fit(modules[1], [crops], 1)
    for name, value in modules[1].state_dict().items():
        np.testing.assert_allclose(modules[0].state_dict()[name], value, atol=1e-5, err_msg=name)
    for name in ("loss", "grad_norm", "center_norm", "information"):
        assert rows[-1][name] == pytest.approx(expected[-1][name], rel=1e-3), name


def test_teacher_follows_once_per_step_of_the_optimizer(upstream, monkeypatch):
    calls = []
    plain = Teacher.follow
    monkeypatch.setattr(Teacher, "follow", lambda *args: (calls.append(1), plain(*args))[1])
    fit(module_of(upstream), [batch_of(number) for number in range(6)], 3, accumulate_grad_batches=2)
    assert len(calls) == 3


def test_teacher_follows_the_student_after_its_step(upstream):
    module = module_of(upstream, ema_decay=0.75)
    before = weights_of(module)
    fit(module, [batch_of(0)], 1)
    after = module.state_dict()
    names = [name for name in before if name.startswith("distillation.teacher.layers")]
    assert names
    moved = 0
    for name in names:
        student = after[name.replace("teacher.layers", "student.speech_model.encoder.layers")]
        np.testing.assert_allclose(after[name], 0.75 * before[name] + 0.25 * student, atol=1e-6)
        moved += not torch.equal(after[name], before[name])
    assert moved > len(names) / 2


def test_frozen_parts_and_a_frozen_teacher_stay(upstream):
    module = module_of(upstream, teacher="frozen")
    before = weights_of(module)
    fit(module, [batch_of(0)], 3)
    frozen = ("teacher.", "student.speech_model.feature", "student.speech_model.encoder.pos_conv_embed", "masked_spec")
    frozen = (*frozen, "k_proj.bias", "temp_", "center_momentum_", "skipped")  # and both counts of skipped steps
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) == any(part in name for part in frozen), name


def test_all_is_logged(upstream):
    _, rows = fit(module_of(upstream), [batch_of(0, skipped=3)], 2)
    assert set(rows[0]) == LOGGED
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert [row["skipped"] for row in rows] == [3, 6]
    assert rows[0]["center_norm"] > 0


def test_coefficient_of_the_loss_counts(upstream):
    norms = []
    for factor in (1.0, 3.0):
        module = module_of(upstream, dropout=0.0, loss_coefs=LossCoefficients(distillation_loss=factor))
        norms.append(fit(module, [batch_of(0)], 1)[1][0]["grad_norm"])
    assert norms[1] == pytest.approx(3 * norms[0], rel=1e-4)


def test_teacher_sees_plain_frames_where_it_is_not_perturbed(upstream):
    batch, plain = batch_of(0, size=20), module_of(upstream, perturb_teacher=False)
    for perturbs, perturbing in (
        ({"student"}, plain.views(training=True)),
        ({"student", "teacher"}, module_of(upstream).views(training=True)),
        (set(), module_of(upstream).views(training=False)),
    ):
        assert torch.equal(
            perturbing.count_frames(batch["num_samples"]), plain.distillation.student.count_frames(batch["num_samples"])
        )
        drawn = perturbing.draw(batch["seeds"], batch["num_samples"], SAMPLES)
        assert {view for view, plan in drawn.items() if plan.masked.any() or plan.weight.any()} == perturbs


def test_bfloat16_autocast_trains(upstream):
    module = module_of(upstream)
    _, rows = fit(module, [batch_of(0)], 2, precision="bf16-mixed")
    _, exact = fit(module_of(upstream), [batch_of(0)], 2)
    assert rows[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.1)
    assert all(value.dtype in (torch.float32, torch.float64) for value in module.state_dict().values())


# -- checkpoints


def test_a_run_that_is_resumed_goes_on_bit_by_bit(upstream, tmp_path):
    """With dropout, between two validations' worth of state: weights, optimizer, schedule, teacher, center, random."""
    batches = [batch_of(number) for number in range(6)]
    undisturbed = module_of(upstream)
    _, expected = fit(undisturbed, batches, 6)
    first = module_of(upstream)
    trainer, _ = fit(first, batches[:3], 3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    second = module_of(upstream)
    torch.manual_seed(99)  # the state of no generator matters
    record = Record()
    trainer_of(6, record).fit(second, Endless(batches[3:]), ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    assert record.rows == expected[3:]
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_dropout_is_drawn_from_seed_and_step(upstream):
    losses = [fit(module_of(upstream, seed=seed), [batch_of(0)], 2)[1] for seed in (0, 0)]
    assert losses[0] == losses[1]
    one, other = module_of(upstream), module_of(upstream)
    other.seed = 1
    assert fit(one, [batch_of(0)], 1)[1] != fit(other, [batch_of(0)], 1)[1]


def test_checkpoint_is_plain_and_holds_everything(upstream, tmp_path):
    module = module_of(upstream)
    trainer, _ = fit(module, [batch_of(0)], 2)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    state = content["state_dict"]
    assert content["state_dict"]["skipped_steps"] == 0
    for name in (
        "distillation.student.cls_token",
        "distillation.teacher.layers.0.attention.k_proj.weight",
        "distillation.teacher.head.final_lin.weight",
        "distillation.head.final_lin.weight",
        "distillation.loss.center",
        "distillation.mask_vector",
        "skipped",
    ):
        assert name in state
    assert content["optimizer_states"][0]["state"]
    assert content["lr_schedulers"][0]["last_epoch"] == 2
    assert content["global_step"] == 2
    ours = content["sdhubert"]
    assert ours["config"]["reinit_layers"] == [2]
    assert ours["upstream"]["hidden_size"] == 16
    assert ours["seed"] == 0
    json.dumps(ours)


@pytest.mark.parametrize(("layers", "layer", "normcut"), [(12, 9, 11), (24, 18, 22), (4, 3, 4), (1, 1, 1)])
def test_layers_to_segment_with(layers, layer, normcut):
    assert segmentation_of(layers)["encoder"] == {"layer": layer, "normcut_layer": normcut}


# -- validation


def test_validation_is_logged_and_leaves_no_trace(upstream):
    module = module_of(upstream)
    before = weights_of(module)
    trainer, batches = trainer_of(1), loader_of([batch_of(0, size=8), batch_of(1, size=8)])
    (metrics,) = trainer.validate(module, batches, verbose=False)
    assert set(metrics) == {VALIDATION_SCORE, "val_margin", "val_auc", "val_loss"}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    (again,) = trainer.validate(module, batches, verbose=False)
    assert again == metrics


def test_validation_without_pairs_says_so(upstream, caplog):
    batch = batch_of(0) | {"index": torch.arange(4)}
    with caplog.at_level(logging.WARNING):
        (metrics,) = trainer_of(1).validate(module_of(upstream), loader_of([batch]), verbose=False)
    assert VALIDATION_SCORE not in metrics  # which would be kept as the best
    assert "no score" in caplog.text


# -- collapse


@pytest.mark.parametrize("peak", [True, False])
def test_a_model_that_collapses_is_noticed(upstream, caplog, peak):
    """A head that does not see its input, be it uniform or with one peak that the center does not take away."""
    module = module_of(upstream, lr=1e-8, T_max=40, center_momentum=1.0)
    with torch.no_grad():
        for head in (module.distillation.head, module.distillation.teacher.head):
            head.final_lin.weight.zero_()
            head.final_lin.bias.zero_()
            head.final_lin.bias[3] = 5.0 if peak else 0.0
    _, rows = fit(module, [batch_of(0)], 40)
    assert "COLLAPSE at step 30" in caplog.text
    assert [row["collapsed"] for row in rows[28:31]] == [0, 1, 1]
    expected = 0.0 if peak else math.log(24)
    assert rows[-1]["teacher_entropy"] == pytest.approx(expected, abs=1e-2)


# -- a model that learns


def sounds(count, num_samples, seed):
    """Recordings that differ in pitch and in how fast they beat, with noise: (count, num_samples)."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples) / 16_000
    made = []
    for _ in range(count):
        pitch, beat = np.exp(rng.uniform(np.log(100), np.log(4000))), rng.uniform(1, 20)
        tone = np.sin(2 * np.pi * pitch * time) * (1.2 + np.sin(2 * np.pi * beat * time))
        made.append(tone + 0.2 * rng.standard_normal(num_samples))
    return np.stack(made)


def crops_of(recordings, places, length):
    crops = np.stack([recordings[index, start : start + length] for index, start in places])
    crops = (crops - crops.mean(1, keepdims=True)) / crops.std(1, keepdims=True)
    batch = {
        "samples": torch.from_numpy(crops.astype(np.float32)),
        "num_samples": torch.full((len(crops),), length),
        "seeds": torch.tensor([hash(place) % 2**31 for place in places]),
        "index": torch.tensor([index for index, _ in places]),
        "skipped": 0,
    }
    return seen(batch)


@pytest.mark.seconds
def test_a_tiny_model_learns_and_does_not_collapse(caplog):
    """From random weights: on held-back recordings, two crops of one are nearer than others' by a margin that grows.

    Neither student nor teacher collapses: states spread, targets tell which crop they are of.
    """
    length, batch, steps = 8000, 24, 90
    rng = np.random.default_rng(0)
    known, held_back = sounds(64, 2 * length, 1), sounds(16, 2 * length, 2)
    batches = [
        crops_of(known, [(int(rng.integers(64)), int(rng.integers(length))) for _ in range(batch)], length)
        for _ in range(steps)
    ]
    places = [(index, start) for index in range(16) for start in (0, length)]
    validation = loader_of([crops_of(held_back, places, length)])
    options = ModelOptions("tiny", final_dim=128, lr=1e-3, T_max=steps, ema_decay=0.99)
    module = DistillationModule(options, OptimOptions(), 0, fetch_upstream("tiny"))
    trainer = trainer_of(steps)
    (before,) = trainer.validate(module, validation, verbose=False)
    first = copy.deepcopy(module.distillation.teacher.state_dict())
    _, rows = fit(module, batches, steps)
    (after,) = trainer_of(steps).validate(module, validation, verbose=False)
    assert after["val_margin"] > before["val_margin"] + 0.15
    assert after[VALIDATION_SCORE] > before[VALIDATION_SCORE] + 0.1
    # Who is nearer is told well by random weights: it need not be told better by 90 steps, and hangs on the seed.
    assert min(before["val_auc"], after["val_auc"]) > 0.7
    last = {name: np.mean([row[name] for row in rows[-10:]]) for name in rows[-1]}
    assert last["student_cls_spread"] > 0.3
    assert last["teacher_cls_spread"] > 0.2
    assert last["information"] > 0.4
    assert 0.05 * math.log(128) < last["teacher_entropy"] < 0.95 * math.log(128)
    assert "COLLAPSE" not in caplog.text
    assert any(not torch.equal(value, first[name]) for name, value in module.distillation.teacher.state_dict().items())
