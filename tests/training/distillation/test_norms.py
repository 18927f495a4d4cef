"""The threshold between the norms of speech and those of other frames."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from sdhubert_ray.training.distillation.norms import Norms, NormThreshold, crossing, fit_norms, sum_norms

TAKEN = torch.tensor(True)


def cross(speech, quiet):
    return float(crossing(*(torch.tensor(each, dtype=torch.float64) for each in (speech, quiet))))


@settings(deadline=None, max_examples=300)
@given(st.floats(0, 50), st.floats(0.01, 20), st.floats(0.001, 30), st.floats(0.001, 30) | st.none())
def test_densities_are_equal_between_the_means_or_it_is_as_far_from_both(mean, apart, variance, other):
    """Found again by bisection, where the densities cross there; None has the same variance twice."""
    quiet, speech = (mean, variance), (mean + apart, variance if other is None else other)

    def difference(x):
        return norm.logpdf(x, speech[0], np.sqrt(speech[1] + 1e-8)) - norm.logpdf(x, quiet[0], np.sqrt(quiet[1] + 1e-8))

    found = cross(speech, quiet)
    ends = difference(quiet[0]), difference(speech[0])
    assume(min(map(abs, ends)) > 1e-6)  # the place is at an end, to rounding
    if ends[0] < 0 < ends[1]:
        assert found == pytest.approx(brentq(difference, quiet[0], speech[0], xtol=1e-12), rel=1e-6, abs=1e-6)
    else:
        far = [abs(found - each[0]) / np.sqrt(each[1]) for each in (speech, quiet)]
        assert far[0] == pytest.approx(far[1], rel=1e-3)


def test_the_published_norms_have_the_published_threshold():
    """Sylber segments with 2.6; its configuration of the second stage begins with these."""
    assert cross((6.10, 0.87), (0.34, 0.34)) == pytest.approx(2.6, abs=0.1)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.9, 0.9999]), st.booleans())
def test_norms_follow_by_their_formula(seed, decay, is_given):
    """Against plain NumPy, step by step; without any at first, the first step is taken as it is."""
    rng = np.random.default_rng(seed)
    threshold, speech, quiet = NormThreshold(decay), np.zeros(2), np.zeros(2)
    if is_given:
        threshold.begin(Norms((6.1, 0.87), (0.34, 0.35)))
        speech, quiet = np.array([6.1, 0.87]), np.array([0.34, 0.35])
    for step in range(4):
        norms = rng.gamma(4, 2, (3, 20)).astype(np.float32)
        inside = rng.random((3, 20)) < (0.6 if step != 2 else 1.1)  # in one step no frame is quiet
        share = decay if is_given else min(decay, step / (step + 9))
        for held, values in ((speech, norms[inside]), (quiet, norms[~inside])):
            if len(values):
                held[0] = share * held[0] + (1 - share) * values.mean(dtype=np.float64)
                held[1] = share * held[1] + (1 - share) * np.mean((values.astype(np.float64) - held[0]) ** 2)
        chosen = torch.from_numpy(inside)
        sums = sum_norms("speech", torch.from_numpy(norms), chosen)
        threshold.follow(sums | sum_norms("quiet", torch.from_numpy(norms), ~chosen), TAKEN)
    np.testing.assert_allclose(threshold.speech, speech, rtol=1e-4)
    np.testing.assert_allclose(threshold.quiet, quiet, rtol=1e-4)


def test_norms_stay_in_a_step_that_is_not_taken():
    threshold = NormThreshold(0.5)
    threshold.begin(Norms((6.0, 1.0), (1.0, 1.0)))
    before = {name: value.clone() for name, value in threshold.state_dict().items()}
    values = torch.full((1, 3), torch.nan)
    chosen = torch.tensor([[True, True, False]])
    threshold.follow(sum_norms("speech", values, chosen) | sum_norms("quiet", values, ~chosen), ~TAKEN)
    assert all(torch.equal(value, before[name]) for name, value in threshold.state_dict().items())


def test_two_kinds_of_norms_are_found_again():
    rng = np.random.default_rng(0)
    found = fit_norms(np.concatenate([rng.normal(6, 1, 4000), rng.normal(1, 0.5, 1000)]).astype(np.float32))
    np.testing.assert_allclose(found.speech, (6, 1), rtol=0.1)
    np.testing.assert_allclose(found.quiet, (1, 0.25), rtol=0.1)


@pytest.mark.parametrize("norms", [[], [3.0], [3.0] * 100])
def test_norms_that_are_all_the_same_tell_nothing(norms):
    assert fit_norms(np.array(norms, np.float32)) is None
