"""Where k-means begins: greedy k-means++, many centers at a time.

Arthur and Vassilvitskii (2007) draw a center by its squared distance to those that are there, and take the best of a
few draws. Bahmani et al. (2012, k-means||) have shown that several may be drawn before distances are computed anew.
Here an eighth as many as there are, and at most 256, are taken together: of six times as many draws those that bring
the most, each counted less the nearer it lies to one that was just taken.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdhubert_ray.threads import torch_threads
from sdhubert_ray.units.kmeans.nearest import full_precision

Array = npt.NDArray[np.floating]

_PER_CENTER, _AT_LEAST = 8, 32768
_GROWTH, _AT_ONCE, _DRAWS = 8, 256, 6
_ROWS = 4096
_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
_FLOAT32_ROUNDING = 2.0**-24


def count_candidates(num_vectors: int, num_centers: int) -> int:
    """Among how many vectors first centers are chosen: 8 for each center, and 32,768 where that costs little.

    Choosing them among all would take as long as several steps of k-means.
    """
    return min(num_vectors, max(_PER_CENTER * num_centers, _AT_LEAST))


def seed_centers(features: Array, num_centers: int, seed: int, device: str = "cpu") -> npt.NDArray[np.int64]:
    """Choose vectors to begin with, as this module describes.

    Distances are float32, in chunks that do not hang on the number of threads: only another kind of device draws other
    vectors where a draw falls within a rounding error of the edge between two. Held at once are about 4 D + 40 bytes
    per vector beside the features, and a few MB a thread.

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
    count = len(features)
    if not 1 <= num_centers <= count:
        raise ValueError(f"{count} vectors cannot give {num_centers} centers")
    draws = np.random.default_rng(seed)
    least = 2 + int(math.log(num_centers))
    with torch.inference_mode(), full_precision(), _mapping(device) as over_chunks:
        spread = _Spread(features, device, over_chunks)
        spread.take(torch.tensor([int(draws.integers(count))], device=device))
        while len(spread.chosen) < num_centers:
            missing = num_centers - len(spread.chosen)
            wanted = min(missing, max(1, len(spread.chosen) // _GROWTH), _AT_ONCE)
            candidates = spread.draw(draws.random(max(least, _DRAWS * wanted)))
            if candidates is None:
                spread.take(torch.nonzero(~spread.taken)[:missing, 0])
            else:
                spread.take(spread.best(candidates, wanted))
    return np.array(spread.chosen, np.int64)


_OverChunks = Callable[[Callable[[slice], Tensor], list[slice]], Iterable[Tensor]]


@contextmanager
def _mapping(device: str) -> Iterator[_OverChunks]:
    """A `map` over chunks of rows: as many at once as torch has threads, each computed by one of them."""
    threads = torch.get_num_threads() if device == "cpu" else 1
    if threads < 2:
        yield map
    else:
        with torch_threads(threads) as pool:
            yield pool.map


class _Spread:
    """Vectors, and how far each is from the nearest of those that are chosen."""

    def __init__(self, features: Array, device: str, over_chunks: _OverChunks) -> None:
        count, width = features.shape
        mean = features.mean(axis=0, dtype=np.float64)
        # A vector and a 1 in each column, for products with 2 c and -|c|^2.
        self._columns = torch.ones((width + 1, count), device=device)
        vectors = self._columns[:-1]
        for begin in range(0, count, _ROWS):
            rows = slice(begin, begin + _ROWS)
            vectors[:, rows] = torch.from_numpy(features[rows] - mean).to(device).T
        # Around their mean, and within a cube of two: neither roundings nor squares are larger than they must be.
        vectors /= vectors.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        self._squares = torch.linalg.vector_norm(vectors, dim=0).square()
        self._nearest = torch.full((count,), torch.inf, device=device)
        self._close = 64 * (width + 4) * _FLOAT32_ROUNDING  # of a norm: distances below it are not exact
        self._chunk_bytes = _CHUNK_BYTES[torch.device(device).type]
        self._over_chunks = over_chunks
        self.taken = torch.zeros(count, dtype=torch.bool, device=device)
        self.chosen: list[int] = []

    def take(self, centers: Tensor) -> None:
        """Choose (c,) vectors."""
        factors = self._factors(centers)

        def come_nearer(rows: slice) -> Tensor:
            columns, squares = self._columns[:, rows], self._squares[rows]
            found = squares - (factors @ columns).amax(dim=0)
            close = torch.nonzero(found < self._close * squares)[:, 0]
            if len(close):  # of which roundings are a part: by differences
                nearest = centers[(factors @ columns[:, close]).argmax(dim=0)]
                apart = columns[:-1, close] - self._columns[:-1, nearest]
                found[close] = apart.square().sum(dim=0)
            return torch.minimum(self._nearest[rows], found)

        self._nearest = torch.cat(self._each_chunk(come_nearer, len(centers)))
        self._nearest[centers] = 0.0
        self.taken[centers] = True
        self.chosen += centers.tolist()

    def draw(self, odds: npt.NDArray[np.float64]) -> Tensor | None:
        """Different vectors drawn in proportion to their squared distance; None where each is where a chosen one is."""
        sums = self._nearest.cumsum(dim=0, dtype=torch.float64)
        if not float(sums[-1]) > 0:
            return None
        places = torch.searchsorted(sums, torch.from_numpy(odds).to(sums.device) * sums[-1], right=True)
        drawn = torch.unique(places.clamp_(max=len(sums) - 1))
        drawn = drawn[self._nearest[drawn] > 0]
        return self._without_copies(drawn) if len(drawn) else self._nearest.argmax()[None]

    def _without_copies(self, drawn: Tensor) -> Tensor:
        """Of equal vectors among (m,) the first; the order stays."""
        which = torch.unique(self._columns[:, drawn], dim=1, return_inverse=True)[1]
        places = torch.arange(len(drawn), device=drawn.device)
        first = torch.full_like(places, len(drawn)).scatter_reduce(0, which, places, "amin")
        return drawn[first[which] == places]

    def best(self, candidates: Tensor, count: int) -> Tensor:
        """Of (m,) candidates up to `count` that bring the others nearer, one after the other.

        A candidate that itself has come nearer to one taken before brings as much less.
        """
        factors = self._factors(candidates)

        def bring(rows: slice) -> Tensor:
            nearer = (factors @ self._columns[:, rows]).add_(self._nearest[rows] - self._squares[rows])
            return nearer.clamp_(min=0).sum(dim=1).double()

        gains = torch.stack(self._each_chunk(bring, len(candidates))).sum(dim=0)
        away = self._nearest[candidates].double()
        gains, left = gains / away, away.clone()
        between = (self._squares[candidates] - factors @ self._columns[:, candidates]).clamp_(min=0).double()
        taken = torch.zeros(len(candidates), dtype=torch.bool, device=candidates.device)
        picked = []
        for _ in range(min(count, len(candidates))):
            best = int((gains * left).masked_fill(taken, -1.0).argmax())
            picked.append(best)
            taken[best] = True
            left = torch.minimum(left, between[best])
        return candidates[picked]

    def _factors(self, centers: Tensor) -> Tensor:
        """What columns are multiplied with for 2 x.c - |c|^2, which is |x|^2 less the squared distance: (c, D + 1)."""
        factors = 2 * self._columns[:, centers].T
        factors[:, -1] = -self._squares[centers]
        return factors

    def _each_chunk(self, work: Callable[[slice], Tensor], columns: int) -> list[Tensor]:
        step = max(1, self._chunk_bytes // (4 * columns))
        chunks = [slice(begin, begin + step) for begin in range(0, len(self._nearest), step)]
        return list(self._over_chunks(work, chunks))
