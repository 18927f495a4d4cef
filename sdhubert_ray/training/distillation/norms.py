"""Norms of speech frames and of the others, as two normal distributions, and the threshold between them."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

_EPSILON = 1e-8
_FIRST_STEPS = 9.0
"""A mean over steps that begins with the first: after n of them n / (n + 9) of it stays, until that is the decay."""


class Norms(NamedTuple):
    """What norms begin with.

    Attributes:
        speech: mean and variance of those of speech frames.
        quiet: of the others.
    """

    speech: tuple[float, float]
    quiet: tuple[float, float]


class NormThreshold(nn.Module):
    """Running mean and variance of the norms of speech frames and of quiet ones, as of Sylber's public code.

    Attributes:
        speech: (2,) float64 mean and variance, a buffer as all else here.
        quiet: (2,) float64, likewise.
        num_steps: () float64, steps that have been taken.
        given: () float64, 1 where it began with norms that were given, else 0.
    """

    speech: Tensor
    quiet: Tensor
    num_steps: Tensor
    given: Tensor

    def __init__(self, decay: float) -> None:
        """Begin without norms: with those of the first step, unless they are given by `begin`."""
        super().__init__()
        self._decay = decay
        for name in ("speech", "quiet"):
            self.register_buffer(name, torch.zeros(2, dtype=torch.float64))
        for name in ("num_steps", "given"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def begin(self, norms: Norms) -> None:
        """Begin with norms that are given; from the first step on `decay` of them stays."""
        self.given.fill_(1)
        self.speech.copy_(torch.tensor(norms.speech))
        self.quiet.copy_(torch.tensor(norms.quiet))

    @torch.no_grad()
    def follow(self, sums: Mapping[str, Tensor], taken: Tensor) -> None:
        """Move towards the norms of a step, see `sum_norms`; of which it has none stays, as all does unless `taken`.

        mean = decay mean + (1 - decay) mean of the step; the variance likewise, about the mean as it is then.
        """
        share = torch.full_like(self.num_steps, self._decay)
        settling = torch.minimum(share, self.num_steps / (self.num_steps + _FIRST_STEPS))
        share = torch.where(self.given > 0, share, settling)
        for name, held in (("speech", self.speech), ("quiet", self.quiet)):
            count, total, squares = (sums[f"{name}_{part}"].double() for part in ("count", "norm", "square"))
            mean = held[0] * share + (1 - share) * total / count
            spread = (squares - 2 * mean * total) / count + mean.square()
            moved = torch.stack([mean, held[1] * share + (1 - share) * spread.clamp(min=0)])
            held.copy_(torch.where(taken & (count > 0), moved, held))
        self.num_steps += taken

    def value(self) -> Tensor:
        """() float64: where both normal densities are the same, see `crossing`."""
        return crossing(self.speech, self.quiet)


@torch.no_grad()
def sum_norms(name: str, norms: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Sums over the (B, T) `norms` of the frames that are `chosen`: their count, norms and squared norms."""
    values = torch.where(chosen, norms.float(), 0)
    sums = {"count": chosen.sum().float(), "norm": values.sum(), "square": values.square().sum()}
    return {f"{name}_{part}": value for part, value in sums.items()}


def norms_of(states: Tensor) -> Tensor:
    """Norms (B, T) of (B, T, D) states, as `mincut.greedy_segments` has them: sqrt(sum x^2 + 1e-8)."""
    return (states.float().square().sum(2) + _EPSILON).sqrt()


def crossing(speech: Tensor, quiet: Tensor) -> Tensor:
    """Where the densities of two normal distributions are the same between their means.

    With m, s of speech and n, r of the others, log densities are equal where
    (x - n)^2 / r^2 - (x - m)^2 / s^2 = 2 log(s / r). Where there is no such place between the means, as one
    distribution lies within the other, it is the place that is as many standard deviations from both.

    Args:
        speech: (2,) float64 mean and variance.
        quiet: (2,) float64, likewise, of a smaller mean.

    Returns:
        () float64.
    """
    (m, n), (s, r) = (speech[0], quiet[0]), ((speech[1] + _EPSILON).sqrt(), (quiet[1] + _EPSILON).sqrt())
    between = (m * r + n * s) / (s + r)
    # a x^2 - 2 b x + c = 0; multiplied by (r s)^2, so that nothing is divided by a small variance.
    a = s.square() - r.square()
    b = s.square() * n - r.square() * m
    c = s.square() * n.square() - r.square() * m.square() - 2 * (s * r).square() * (s / r).log()
    # Of the two ways to write a root that which subtracts nothing: a may be 0.
    inner = (b.square() - a * c).sqrt()
    larger = b + torch.where(b < 0, -inner, inner)
    for root in (larger / a, c / larger):
        inside = (root > torch.minimum(n, m)) & (root < torch.maximum(n, m))
        between = torch.where(inside, root, between)
    return between


def fit_norms(norms: npt.NDArray[np.floating]) -> Norms | None:
    """The two normal distributions that (n,) norms are most likely of, the one of the larger mean being speech.

    Returns:
        none where the norms do not tell two kinds of frames apart: there are too few, or all are the same.
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(norms, np.float64)
    if len(values) < 2 or not values.std() > 1e-6 * abs(values.mean()):
        return None
    # Begun with the two halves: a start at random may end elsewhere.
    halves = np.sort(values)[[len(values) // 4, (3 * len(values)) // 4]]
    if halves[0] == halves[1]:
        halves = np.array([values.min(), values.max()])
    mixture = GaussianMixture(2, means_init=halves[:, None], random_state=0, max_iter=1000).fit(values[:, None])
    order = np.argsort(mixture.means_[:, 0])
    quiet, speech = ((float(mixture.means_[k, 0]), float(mixture.covariances_[k, 0, 0])) for k in order)
    if not (quiet[0] < speech[0] and all(map(math.isfinite, (*quiet, *speech)))):
        return None
    return Norms(speech, quiet)
