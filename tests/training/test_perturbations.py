"""Perturbations by their properties: masks, stretches, padding that is never touched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import minimal_model

from sdhubert_ray.training.perturbations import (
    VIEWS,
    MaskOptions,
    PerturbationOptions,
    Perturbing,
    draw_perturbations,
    no_perturbation,
    perturb,
)

NEVER_LONG = MaskOptions(share=0.0, ratio=0.2, span=10)
NEVER_SHORT = MaskOptions(share=0.0, ratio=0.3, span=5)
STRETCH = PerturbationOptions(long_masks=NEVER_LONG, short_masks=NEVER_SHORT)
LONG = PerturbationOptions(long_masks=MaskOptions(1.0, 0.2, 10), short_masks=NEVER_SHORT)
SHORT = PerturbationOptions(long_masks=NEVER_LONG, short_masks=MaskOptions(1.0, 0.3, 5))
ANY = PerturbationOptions()
MODEL = minimal_model()
KERNELS = tuple(zip(MODEL.speech_model.config.conv_kernel, MODEL.speech_model.config.conv_stride, strict=True))
WIDTH = 3
MASK = torch.full((WIDTH,), 7.0)

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


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(400, 20_000), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_readers_draw_what_the_model_counts_frames_for(num_samples, seed):
    """Of padded crops, each by its own seed; a view that is not perturbed sees the frames as they are."""
    drawn, counts, length = torch.arange(len(num_samples)) + seed, torch.tensor(num_samples), 20_000
    both, one = Perturbing(KERNELS), Perturbing(KERNELS, ("student",))
    assert torch.equal(both.count_frames(counts), MODEL.count_frames(counts))
    plans = both.draw(drawn, counts, length)
    for view in VIEWS:
        expected = draw_perturbations(drawn, MODEL.count_frames(counts), 62, ANY, view)
        assert all(torch.equal(part, same) for part, same in zip(plans[view], expected, strict=True))
    plain = one.draw(drawn, counts, length)
    assert torch.equal(plain["student"].masked, plans["student"].masked)
    assert torch.equal(plain["teacher"].lower, torch.arange(62).repeat(len(num_samples), 1))
    assert not plain["teacher"].masked.any()
