"""What tells a collapse: crops compared with a plain loop, the score that picks the best, the watch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sdhubert_ray.training.distillation import add_sums
from sdhubert_ray.training.watching import (
    VALIDATION_SCORE,
    CollapseWatch,
    SegmentValidation,
    SegmentWatch,
    compare_crops,
    no_comparisons,
    validation_metrics,
)

TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 2, 5, 10)
CPU = torch.device("cpu")

# -- crops compared


def slow_comparison(cls, index, samples, temperature):
    """Triplet by triplet: of each pair its score and cosine, of each triplet the other's cosine and who is nearer."""
    unit = cls / np.linalg.norm(cls, axis=1, keepdims=True)
    scores, same, other, wins = [], [], [], []
    for crop in range(len(cls)):
        rest = [unit[crop] @ unit[k] for k in range(len(cls)) if index[k] != index[crop]]
        for mate in range(len(cls)):
            if mate == crop or index[mate] != index[crop] or (samples[mate] == samples[crop]).all() or not rest:
                continue
            near = unit[crop] @ unit[mate]
            weights = np.exp(np.array([near, *rest]) / temperature)
            scores.append(1 + np.log(weights[0] / weights.sum()) / np.log(len(weights)))
            same.append(near)
            other += rest
            wins += [(near > value) + 0.5 * (near == value) for value in rest]
    return scores, same, other, wins


def compare(cls, index, samples):
    return compare_crops(*map(torch.as_tensor, (cls, index, samples)))


@st.composite
def batches(draw):
    """Recordings with 1 to 4 crops each, in any order; states that tie, or not; crops that are equal, or not."""
    crops = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    index = draw(st.permutations(np.repeat(np.arange(len(crops)) * 7 - 3, crops).tolist()))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        cls = rng.standard_normal((len(index), 5))
    else:
        cls = np.eye(3)[rng.integers(0, 3, len(index))] * rng.choice([-4.0, 1.0], (len(index), 1))
    samples = rng.choice([0.0, -0.0, 1.0], (len(index), draw(st.integers(1, 3))))
    return cls.astype(np.float32), np.array(index), samples.astype(np.float32)


@settings(deadline=None, max_examples=200)
@given(batches())
def test_sums_are_those_of_a_plain_loop(batch):
    sums = compare(*batch)
    assert sums.keys() == no_comparisons(CPU).keys()
    assert all(value.dtype == torch.float32 for value in sums.values())
    exact = batch[0].astype(np.float64)
    scores = [slow_comparison(exact, *batch[1:], temperature)[0] for temperature in TEMPERATURES]
    _, same, other, wins = slow_comparison(exact, *batch[1:], 1)
    counts = {"score": len(same), "same": len(same), "other": len(other), "auc": len(other), "loss": 0}
    assert {name: int(sums[f"{name}_count"]) for name in counts} == counts
    pairs, triplets = max(1, len(same)), max(1, len(other))
    np.testing.assert_allclose(sums["score"] / pairs, np.sum(scores, 1) / pairs, atol=5e-6)
    np.testing.assert_allclose(sums["same"] / pairs, np.sum(same) / pairs, atol=1e-6)
    np.testing.assert_allclose(sums["other"] / triplets, np.sum(other) / triplets, atol=1e-6)
    np.testing.assert_allclose(sums["auc"] / triplets, np.sum(wins) / triplets, atol=1e-6)


@pytest.mark.parametrize("index", [[0], [0, 0], [0, 0, 0, 0], [0, 1, 2]])
def test_crops_without_mates_or_others_give_nothing(index):
    cls = torch.randn(len(index), 4, generator=torch.Generator().manual_seed(0))
    sums = compare_crops(cls, torch.tensor(index), torch.arange(len(index), dtype=torch.float32)[:, None])
    for name, value in no_comparisons(CPU).items():
        assert torch.equal(sums[name], value), name


def test_equal_crops_are_no_mates_but_others_of_them_are():
    """Of three crops of recording 0, the first and the last are the same one: four pairs are left of six."""
    index = torch.tensor([0, 0, 1, 0])
    samples = torch.zeros(4, 1000)
    samples[1, 999], samples[2] = 1e-6, 5
    sums = compare_crops(torch.eye(4), index, samples)
    assert sums["score_count"] == sums["auc_count"] == 4


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_autocast_has_no_part_in_it(index, seed):
    rng = np.random.default_rng(seed)
    batch = (rng.standard_normal((len(index), 5)), np.array(index), rng.standard_normal((len(index), 7)))
    expected = compare(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = compare(*batch)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Record(TorchDispatchMode):
    """Counts the operations, and tells the most elements that one has made."""

    def __init__(self):
        super().__init__()
        self.count, self.most = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.count += 1
        for part in made if isinstance(made, tuple) else (made,):
            if isinstance(part, torch.Tensor):
                self.most = max(self.most, part.numel())
        return made


def test_it_loops_over_no_crops_waits_for_no_values_and_holds_no_cube_of_samples():
    """Fake tensors have no values: whatever needs one, as `tolist` or `nonzero` do, is an error with them."""
    counts = []
    for size in (4, 40):
        with FakeTensorMode():
            batch = torch.zeros(size, 8), torch.zeros(size, dtype=torch.int64), torch.zeros(size, 10_000)
            with Record() as record:
                compare_crops(*batch)
        counts.append(record.count)
        assert record.most <= size * 10_000
    assert counts[0] == counts[1] > 0


# -- the score


def validate(cls, index, samples):
    sums = no_comparisons(torch.device("cpu")) | compare_crops(*map(torch.as_tensor, (cls, index, samples)))
    return validation_metrics(sums)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_score_margin_and_auc_are_those_of_a_plain_comparison(index, seed):
    rng = np.random.default_rng(seed)
    cls = rng.standard_normal((len(index), 5))
    samples = rng.integers(0, 2, (len(index), 2)).astype(np.float32)
    found = validate(cls, np.array(index), samples)
    per_temperature = [
        np.mean(slow_comparison(cls, index, samples, temperature)[0] or [0])
        for temperature in (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 2, 5, 10)
    ]
    _, same, other, wins = slow_comparison(cls, index, samples, 1)
    assert float(found[VALIDATION_SCORE]) == pytest.approx(max(0, *per_temperature), abs=1e-5)
    assert float(found["val_margin"]) == pytest.approx(np.mean(same or [0]) - np.mean(other or [0]), abs=1e-5)
    assert float(found["val_auc"]) == pytest.approx(np.mean(wins or [0]), abs=1e-5)


def test_a_collapse_cannot_win():
    """Not with a little noise that tells everything, nor in a few heaps; a model that is merely good can."""
    rng = np.random.default_rng(0)
    recordings, width = 32, 64
    index = np.repeat(np.arange(recordings), 2)
    samples = rng.standard_normal((len(index), 3))
    base = rng.standard_normal(width)
    own = rng.standard_normal((recordings, width))[index]
    tiny = validate(base + 1e-2 * own, index, samples)
    assert tiny["val_auc"] > 0.99
    assert tiny[VALIDATION_SCORE] < 1e-3
    equal = validate(np.tile(base, (len(index), 1)), index, samples)
    assert equal[VALIDATION_SCORE] == pytest.approx(0, abs=1e-6)
    heap = np.where(index % 2, 1.0, -1.0)[:, None] * base
    mates_and_rest = len(index) - 1
    assert validate(heap, index, samples)[VALIDATION_SCORE] < 1.05 * np.log(2) / np.log(mates_and_rest)
    good = validate(own + rng.standard_normal(own.shape), index, samples)
    assert good[VALIDATION_SCORE] > 0.5
    perfect = validate(own, index, samples)
    assert perfect[VALIDATION_SCORE] > 0.95


def healthy_batch():
    """States that find their mates: (8, 16), recordings, crops."""
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(4), 2)
    return rng.standard_normal((4, 16))[index] + 0.1 * rng.standard_normal((8, 16)), index, rng.standard_normal((8, 3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(3, 5), (3, slice(None)), slice(None)])
def test_states_that_are_not_finite_score_0(value, where):
    """Also where all other states, and the batches before and after, are well."""
    cls, index, samples = healthy_batch()
    healthy = compare(cls, index, samples)
    assert validation_metrics(healthy)[VALIDATION_SCORE] > 0.5
    cls[where] = value
    for broken in (compare(cls, index, samples), compare(cls, np.arange(8), samples)):
        for sums in (broken, add_sums(healthy, broken), add_sums(broken, healthy)):
            metrics = validation_metrics(sums)
            assert metrics[VALIDATION_SCORE] == 0
            assert metrics["val_margin"].isnan()
            assert metrics["val_auc"].isnan()


def test_a_validation_without_a_batch_scores_0():
    assert set(map(float, validation_metrics(no_comparisons(CPU)).values())) == {0}


# -- collapse


def look(watch, steps, information, entropy=0.0):
    for step in steps:
        if watch.is_due(step):
            metrics = {"information": information, "teacher_entropy": entropy, "student_cls_spread": 0.0}
            watch.look(step, 64.0, metrics)


def test_a_collapse_is_said_once(caplog):
    watch = CollapseWatch(128, first_step=50)
    look(watch, range(50), 0.0)
    look(watch, range(50, 70), 0.0)
    assert not watch.collapsed
    look(watch, range(70, 80), 0.0)
    assert watch.collapsed
    look(watch, range(80, 200), 0.0)
    look(watch, range(200, 210), 2.0)
    assert not watch.collapsed
    look(watch, range(210, 300), 0.0)
    messages = [record.message for record in caplog.records if record.message.startswith("COLLAPSE at step 70")]
    assert len(messages) == len(caplog.records) == 1


def test_a_healthy_run_or_a_single_look_is_no_collapse(caplog):
    watch = CollapseWatch(128, first_step=0)
    look(watch, range(500), 1.0)
    look(watch, range(500, 520), 0.0)
    look(watch, range(520, 530), 1.0)
    look(watch, range(530, 550), 0.0)
    assert not caplog.records


BROKEN = [
    {"information": math.nan},
    {"information": math.inf},
    {"teacher_entropy": math.nan},
    {"student_cls_spread": math.nan},  # as where the student breaks and its teacher is frozen
]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_not_finite_is_a_collapse(caplog, broken):
    healthy = {"information": 1.0, "teacher_entropy": 1.0, "student_cls_spread": 1.0}
    watch = CollapseWatch(128, first_step=0)
    for step in range(0, 50, 10):
        watch.look(step, 64.0, healthy | broken)
        assert watch.collapsed == (step >= 20)
    (message,) = (record.message for record in caplog.records)
    assert message.startswith("COLLAPSE at step 20: states or targets are not finite (")
    watch.look(50, 64.0, healthy)
    assert not watch.collapsed


def test_a_look_that_is_not_finite_does_not_begin_the_count_anew():
    watch = CollapseWatch(128, first_step=0)
    look(watch, [0], 0.0)
    look(watch, [10], math.nan, math.nan)
    assert not watch.collapsed
    look(watch, [20], 0.0)
    assert watch.collapsed


# -- of segments


def test_segments_that_are_all_alike_are_told_once(caplog):
    """Or none; not those that tell something, and not before the first look."""
    watch = SegmentWatch(first_step=100)
    assert (watch.is_due(90), watch.is_due(100)) == (False, True)
    told = {"target_variance": 0.2, "segment_rate": 4.0, "speech_share": 0.8}
    for step in (100, 110, 120, 130):
        watch.look(step, 8, told)
    assert not watch.collapsed
    for step in (140, 150, 160, 170):
        watch.look(step, 8, told | {"target_variance": 0.001})
    assert watch.collapsed
    assert caplog.text.count("COLLAPSE at step 160: the teacher's segments are all alike, or there are none") == 1


def test_a_validation_of_segments_tells_what_is_explained(caplog):
    sums = {"target": torch.tensor([2.0, 0.0]), "target_square": 10.0, "speech_count": 4.0, "error": 3.0, "loss": 6.0}
    sums |= {"count": 3.0, "num_tokens": 100.0, "num_segments": 8.0}
    sums = {name: torch.as_tensor(value) for name, value in sums.items()}
    validation = SegmentValidation(2)
    assert validation.nothing(CPU).keys() == sums.keys()
    found = {name: float(value) for name, value in validation.metrics(sums).items()}
    assert found == pytest.approx({"val_score": 1 - 3 / 9, "val_loss": 2.0, "val_segment_rate": 4.0})
    assert float(validation.metrics(sums | {"error": torch.tensor(torch.nan)})["val_score"]) == 0
    assert VALIDATION_SCORE not in validation.metrics(validation.nothing(CPU))
    assert "validation has no segments: no score" in caplog.text
