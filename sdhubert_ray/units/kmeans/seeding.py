"""Where k-means begins: greedy k-means++ (Arthur and Vassilvitskii, 2007)."""

import math

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.floating]

_PER_CENTER, _AT_LEAST = 8, 32768
_SAME = 1e-12
"""Squared distances below this part of the squared norms are rounding errors of zero."""


def count_candidates(num_vectors: int, num_centers: int) -> int:
    """Among how many vectors first centers are chosen: 8 for each center, and 32,768 where that costs little.

    Choosing them among all would take as long as 2 + log K steps of k-means.
    """
    return min(num_vectors, max(_PER_CENTER * num_centers, _AT_LEAST))


def seed_centers(features: Array, num_centers: int, seed: int, device: str = "cpu") -> npt.NDArray[np.int64]:
    """Choose vectors to begin with: each the best of 2 + log K, drawn with odds of their squared distance to the rest.

    Distances and their sums are float64, in the library's order of summation: another device or number of threads draws
    another vector only where a draw falls within a rounding error of the edge between two. Held at once are about
    8 (D + 2 log K + 8) bytes per vector.

    Args:
        features: (n, D), finite.
        num_centers: K, at most n.
        seed: of the draws.
        device: `cpu` or `cuda`.

    Returns:
        (K,) int64, indices of different vectors; where fewer than K vectors differ, some are equal all the same.

    Raises:
        ValueError: fewer vectors than centers.
    """
    count, width = features.shape
    if not 1 <= num_centers <= count:
        raise ValueError(f"{count} vectors cannot give {num_centers} centers")
    draws = np.random.default_rng(seed)
    trials = 2 + int(math.log(num_centers))
    with torch.inference_mode():
        # One product gives |x|^2 - 2 x.c + |c|^2: rows of x, |x|^2 and 1 by columns of -2 c, 1 and |c|^2.
        table = torch.ones((width + 2, count), dtype=torch.float64, device=device)
        table[:width] = torch.from_numpy(np.array(features.T, order="C")).to(device)
        table[:width] -= table[:width].mean(dim=1, keepdim=True)
        squares = table[:width].square().sum(dim=0)
        table[width] = squares
        taken = torch.zeros(count, dtype=torch.bool, device=device)
        chosen = np.empty(num_centers, np.int64)
        nearest = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        candidates = torch.tensor([int(draws.integers(count))], device=device)
        for index in range(num_centers):
            if index:
                candidates = _draw(nearest, taken, draws.random(trials))
            factors = torch.ones((len(candidates), width + 2), dtype=torch.float64, device=device)
            factors[:, :width] = -2 * table[:width, candidates].T
            factors[:, width + 1] = squares[candidates]
            distances = torch.minimum(factors @ table, nearest)
            best = int(distances.sum(dim=1).argmin())
            center = candidates[best]
            chosen[index] = int(center)
            nearest = distances[best]
            nearest = torch.where(nearest < _SAME * (squares + squares[center]), 0.0, nearest)
            nearest[center] = 0.0
            taken[center] = True
    return chosen


def _draw(nearest: torch.Tensor, taken: torch.Tensor, odds: npt.NDArray[np.float64]) -> torch.Tensor:
    """Vectors drawn in proportion to `nearest`; the first that is left where all are zero."""
    sums = nearest.cumsum(dim=0)
    if not float(sums[-1]) > 0:
        return torch.nonzero(~taken)[0]
    places = torch.searchsorted(sums, torch.from_numpy(odds).to(sums.device) * sums[-1], right=True)
    return places.clamp_(max=len(sums) - 1)
