"""Student, head and teacher together: each part against plain NumPy, two real processes as one."""

import copy
import json

import numpy as np
import pytest
import torch
from forks import FORKS
from scipy.special import erf, log_softmax, softmax
from torch.nn.parallel import DistributedDataParallel
from transformers import HubertConfig
from two_workers import one_of_two

from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.training.distillation import (
    Distillation,
    DistillationOptions,
    Head,
    reinitialise,
    sum_over_workers,
    summarise,
)
from sdhubert_ray.training.perturbations import PerturbationOptions, draw_perturbations, no_perturbation, perturb

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
TAKEN = torch.tensor(True)
NO_DROPOUT = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)


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
    return [
        draw_perturbations(drawn, num_frames, length, PerturbationOptions(), which) for which in ("student", "teacher")
    ]


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
    model.step(distilled.sums, TAKEN)
    student = {f"layers.{k}": v for k, v in model.student.speech_model.encoder.layers.state_dict().items()}
    student |= {f"head.{k}": v for k, v in model.head.state_dict().items()}
    assert set(student) == set(before)
    moved = 0
    for name, value in model.teacher.state_dict().items():
        expected = decay * before[name].numpy().astype(np.float64) + (1 - decay) * student[name].numpy()
        np.testing.assert_allclose(value, expected, atol=1e-6)
        moved += not torch.equal(value, before[name])
    assert moved > len(before) / 2


def test_nothing_moves_in_a_step_that_is_not_taken():
    model = tiny_distillation(ema_decay=0.5)
    model.step(changed(model).sums, TAKEN)
    before = copy.deepcopy({**model.teacher.state_dict(), "center": model.loss.center})
    sums = changed(model).sums
    model.step(sums | {"teacher_logits": sums["teacher_logits"] * torch.nan}, ~TAKEN)
    for name, value in {**model.teacher.state_dict(), "center": model.loss.center}.items():
        assert torch.equal(value, before[name]), name


def test_frozen_teacher_keeps_the_initial_copy_but_its_center_moves():
    model = tiny_distillation(frozen_teacher=True)
    before = copy.deepcopy(model.teacher.state_dict())
    for _ in range(3):
        model.step(changed(model).sums, TAKEN)
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
        model.step(changed(model).sums, TAKEN)
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
        model.step(sums, TAKEN)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"metrics": summarise(sums), "gradients": gradients, "state": model.state_dict()}


def worker(rank, folder, batch, shares):
    with one_of_two(rank, folder):
        torch.save(step_of(batch, shares[rank], len(shares)), folder / f"{rank}.pt")


@FORKS
def test_two_processes_with_half_the_batch_are_as_one(tmp_path, forked):
    """Center, loss, gradients, weights and teacher after two steps, to 1e-6."""
    batch = batch_of(6)
    shares = [slice(0, 3), slice(3, 6)]
    processes = [forked(worker, rank, tmp_path, batch, shares) for rank in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    expected = step_of(batch, slice(0, 6), 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for part in ("metrics", "gradients", "state"):
            assert set(found[part]) == set(expected[part])
            for name, value in expected[part].items():
                tolerance = 1e-4 if name.endswith(("spread", "information")) else 1e-6
                np.testing.assert_allclose(found[part][name], value, atol=tolerance, rtol=1e-5, err_msg=name)
    assert expected["state"]["loss.center"].abs().max() > 1e-3
