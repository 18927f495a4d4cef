"""Steps whose loss or gradient is not finite: left out by all workers, counted; and what a step is read for."""

import copy
import math

import numpy as np
import pytest
import torch
from distillations import (
    QUIET,
    Endless,
    Record,
    batch_of,
    fit,
    module_of,
    trainer_of,
    weights_of,
)
from forks import FORKS
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from two_workers import one_of_two

from sdhubert_ray.training.module import cosine
from sdhubert_ray.training.options import OptimOptions

pytestmark = [QUIET, pytest.mark.usefixtures("one_thread")]


class Poison(Callback):
    """Makes the gradient, not the loss, of some steps infinite or NaN, in one value of one weight."""

    def __init__(self, steps, value=math.nan):
        self.steps, self.value, self.states = set(steps), value, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step in self.steps:
            pl_module.distillation.head.final_lin.weight.grad[3, 2] = self.value

    def on_train_batch_end(self, trainer, pl_module, *_):
        moments = trainer.optimizers[0].state_dict()["state"]
        self.states.append(copy.deepcopy({"weights": pl_module.state_dict(), "moments": moments}))


def differing(one, other):
    """The names of what differs between two states of a training."""
    weights = {name for name, value in one["weights"].items() if not torch.equal(value, other["weights"][name])}
    moments = zip(one["moments"].values(), other["moments"].values(), strict=True)
    is_same = all(torch.equal(before[name], after[name]) for before, after in moments for name in before)
    return weights if is_same else {*weights, "moments"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(upstream, value):
    """Weights, moments, teacher and center stay bit by bit; step and learning rate go on, and so does training."""
    poison = Poison([2], value)
    module = module_of(upstream, T_max=6)
    record = Record()
    trainer = trainer_of(4, record, poison)
    trainer.fit(module, Endless([batch_of(number) for number in range(4)]))
    before, skipped, after = poison.states[1:4]
    assert differing(before, skipped) == {"skipped_steps", "skipped_in_a_row"}
    assert {"moments", "distillation.loss.center", "distillation.head.final_lin.weight"} <= differing(skipped, after)
    assert {name for name in differing(skipped, after) if name.startswith("distillation.teacher.")}
    assert [row["skipped_steps"] for row in record.rows] == [0, 0, 1, 1]
    np.testing.assert_allclose([row["lr"] for row in record.rows], [1e-3 * cosine(step, 6, 0.1) for step in range(4)])
    assert trainer.global_step == 4
    assert not math.isfinite(record.rows[2]["grad_norm"])
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_a_micro_batch_that_is_not_finite_skips_its_step(upstream):
    poison, batches = Poison([]), [batch_of(number) for number in range(4)]
    batches[2]["samples"][1] = math.nan
    trainer_of(2, poison, accumulate_grad_batches=2).fit(module_of(upstream), Endless(batches))
    assert differing(poison.states[1], poison.states[3]) == {"skipped_steps", "skipped_in_a_row"}


def test_a_run_that_skipped_a_step_is_resumed_bit_by_bit(upstream, tmp_path):
    batches = [batch_of(number) for number in range(6)]
    undisturbed, record = module_of(upstream), Record()
    trainer_of(6, record, Poison([2, 4])).fit(undisturbed, Endless(batches))
    first = trainer_of(3, Poison([2]))
    first.fit(module_of(upstream), Endless(batches[:3]))
    first.save_checkpoint(tmp_path / "three.ckpt")
    second, resumed = module_of(upstream), Record()
    trainer = trainer_of(6, resumed, Poison([4]))
    trainer.fit(second, Endless(batches[3:]), ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    assert [str(row) for row in resumed.rows] == [str(row) for row in record.rows[3:]]  # NaN is not NaN
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_skipped_steps_in_a_row_are_counted_until_there_are_too_many(upstream):
    module, rows = module_of(upstream, OptimOptions(max_skipped_steps=3)), []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            rows.append(pl_module.read_step()["skipped_in_a_row"])

    trainer_of(9, Poison([1, 2, 4, 5, 6]), Look()).fit(module, Endless([batch_of(0)]))
    assert rows == [0, 1, 2, 0, 1, 2, 3, 4, 5]


def decide(rank, folder, upstream):
    """A step of one of two workers, the second of which has a gradient that is not finite."""
    with one_of_two(rank, folder):
        module = module_of(upstream, dropout=0.0)
        distillation, batch = module.distillation, batch_of(rank)
        optimizer = module.configure_optimizers()["optimizer"]
        distilled = distillation(batch["samples"], batch["num_samples"], batch["student"], batch["teacher"])
        distilled.loss.backward()
        module._sums = distilled.sums
        if rank == 1:
            distillation.head.final_lin.bias.grad[0] = math.inf
        before = weights_of(module)
        module.configure_gradient_clipping(optimizer, 0.5)
        optimizer.step()
        same = all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        torch.save((bool(module._decided.taken), same), folder / f"{rank}.pt")


@FORKS
def test_what_one_worker_cannot_step_by_no_worker_does(upstream, tmp_path, forked):
    processes = [forked(decide, rank, tmp_path, upstream) for rank in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [(False, True)] * 2


class Values(TorchDispatchMode):
    """Counts what a GPU would be waited for: values of tensors that Python asks for, one by one."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


def test_steps_that_are_not_logged_are_not_read(upstream):
    """What a step has found is copied from its device where it is logged or looked at, all of it at once."""
    module, reads, rows = module_of(upstream, T_max=10_000), [], []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            reads.append(bool(pl_module._read))
            rows.append(dict(trainer.callback_metrics))

    batches = Endless([batch_of(0)])
    with Values() as values:
        trainer_of(9, Look(), log_every_n_steps=4).fit(module, batches)
    assert values.count == 0
    assert reads == [step % 4 == 0 for step in range(1, 10)]
    assert [bool(row) for row in rows] == [step >= 4 for step in range(1, 10)]
    assert all(value.device.type == "cpu" for value in rows[-1].values())


def test_a_checkpoint_of_before_skipped_steps_were_counted_is_gone_on_from(upstream, tmp_path):
    trainer, _ = fit(module_of(upstream), [batch_of(0)], 2)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    del content["state_dict"]["skipped_steps"], content["state_dict"]["skipped_in_a_row"]
    torch.save(content, tmp_path / "old.ckpt")
    modules = [module_of(upstream) for _ in range(2)]
    for name, module in zip(("run", "old"), modules, strict=True):
        trainer_of(4).fit(module, Endless([batch_of(1)]), ckpt_path=tmp_path / f"{name}.ckpt", weights_only=True)
    for name, value in modules[0].state_dict().items():
        assert torch.equal(modules[1].state_dict()[name], value), name
