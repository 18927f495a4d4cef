"""Nearest centers: a fast float32 search, and a float64 decision in one fixed order where that is too close to tell."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdhubert_ray.threads import torch_threads

Array = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int32]

_SCORE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""Scores of a chunk of rows: in the cache of a CPU core, or enough to fill a GPU."""
_TILE = 128
_PAIR_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
_FLOAT32_ROUNDING = 2.0**-24
_TINY = 2.0**-120
"""More than underflow can lose in a product of float32 numbers, whether subnormal ones are kept or flushed."""
_HUGE = 2.0**126
"""Scores up to this do not overflow float32."""


class NearestCenters:
    """Finds the nearest of centers exactly; what is prepared once for all searches."""

    def __init__(self, centers: npt.NDArray[np.float32], device: str = "cpu") -> None:
        """Prepare centers.

        Args:
            centers: (K, D) float32, finite.
            device: `cpu` or `cuda`.

        Raises:
            ValueError: other shapes or types, no centers, or NaN or infinite values.
        """
        if centers.dtype != np.float32 or centers.ndim != 2 or not centers.size:
            raise ValueError(f"centers are {centers.dtype} {centers.shape}; they have to be float32 (K, D)")
        if not np.isfinite(centers).all():
            raise ValueError("centers have NaN or infinite values")
        self.device = torch.device(device)
        self._exact = torch.tensor(centers, dtype=torch.float64, device=device)
        # Shifted to their mean, centers and features are short, and so are the rounding errors of their products.
        self._mean = self._exact.mean(dim=0).float()
        shifted = self._exact - self._mean
        # One product gives |c|^2 - 2 x.c, of x with a 1 behind it. The columns that fill the last tile are never least.
        num_centers, width = centers.shape
        self._table = torch.zeros((width + 1, num_centers + -num_centers % _TILE), device=device)
        self._table[:width, :num_centers] = -2 * shifted.float().T
        self._table[width] = torch.inf
        self._table[width, :num_centers] = shifted.square().sum(dim=1).float()
        self._radius = float(shifted.square().sum(dim=1).max().sqrt())

    @property
    def shape(self) -> tuple[int, int]:
        """Centers and their width: (K, D)."""
        return self._exact.shape[0], self._exact.shape[1]

    def find(self, features: Array) -> Labels:
        """The index of each vector's nearest center: the smallest of equals, as squared float64 differences say.

        Args:
            features: (n, D) float16, float32 or float64; may be read-only.

        Returns:
            (n,) int32.

        Raises:
            ValueError: another width or type, or NaN or infinite values.
        """
        labels = np.empty(len(features), np.int32)

        def keep(rows: slice, _: Tensor, nearest: Tensor) -> None:
            labels[rows] = nearest.cpu().numpy()

        self.search(features, keep)
        return labels

    def search(self, features: Array, work: Callable[[slice, Tensor, Tensor], None]) -> None:
        """Find nearest centers, some rows at a time, on as many threads as torch has here.

        Args:
            features: as `find`.
            work: is told which rows, their features (m, D) on the device, and the (m,) int64 indices of their nearest
                centers; it has to bear being called from several threads.

        Raises:
            ValueError: as `find`.
        """
        num_centers, width = self.shape
        if features.ndim != 2 or features.shape[1] != width or features.dtype.kind != "f":
            raise ValueError(f"features are {features.dtype} {features.shape}; they have to be floats (n, {width})")
        step = max(1, _SCORE_BYTES[self.device.type] // (4 * max(num_centers, 4 * width)))

        def do(begin: int) -> None:
            rows = slice(begin, min(begin + step, len(features)))
            with torch.inference_mode():
                chunk = torch.from_numpy(np.array(features[rows])).to(self.device)
                if not bool(torch.isfinite(chunk).all()):
                    raise ValueError("features have NaN or infinite values")
                work(rows, chunk, self._nearest(chunk))

        begins = range(0, len(features), step)
        threads = min(torch.get_num_threads(), len(begins)) if self.device.type == "cpu" else 1
        with full_precision():
            if threads < 2:
                for begin in begins:
                    do(begin)
                return
            # A thread for each chunk beats threads within each operation: nobody waits for the slowest at every one.
            with torch_threads(threads) as pool:
                for _ in pool.map(do, begins):
                    pass

    def distances(self, features: Tensor, nearest: Tensor) -> Tensor:
        """Squared distances of features to a center each, the same bits on every device.

        Args:
            features: (m, D), of `search`.
            nearest: (m,) int64, a center for each.

        Returns:
            (m,) float64.
        """
        return self._distances(features, torch.arange(len(features), device=self.device), nearest)

    def _nearest(self, features: Tensor) -> Tensor:
        """Labels of one chunk: (n, D) to (n,) int64."""
        if features.dtype != torch.float64:
            features = features.float()
        shifted = (features - self._mean).float()
        scores = torch.nn.functional.pad(shifted, (0, 1), value=1.0) @ self._table
        # The least alone is found ten times as fast as with its place: so first the tile that it is in.
        tiles = scores.view(len(scores), -1, _TILE)
        least = tiles.amin(dim=2)
        tile = least.argmin(dim=1)
        inside = tiles[torch.arange(len(tiles), device=self.device), tile]
        best, place = inside.min(dim=1)
        labels = _TILE * tile + place
        others = least.scatter_(1, tile[:, None], torch.inf).amin(dim=1)
        runners_up = torch.minimum(others, inside.scatter_(1, place[:, None], torch.inf).amin(dim=1))
        scores = scores[:, : self.shape[0]]
        limits = best + 2 * self._error_bound(shifted)
        close = torch.nonzero(~(runners_up > limits))[:, 0]  # also where a score has overflowed to NaN
        if len(close):
            # Some rows at a time: all centers may be close to all of them.
            step = max(1, _PAIR_BYTES[self.device.type] // scores.shape[1])
            for begin in range(0, len(close), step):
                rows = close[begin : begin + step]
                labels[rows] = self._decide(features, rows, ~(scores[rows] > limits[rows, None]))
        return labels

    def _error_bound(self, shifted: Tensor) -> Tensor:
        """How far a score |c|^2 - 2 x.c may be off, for any order of summation: (n, D) to (n,).

        A sum of D + 1 products of float32 numbers is off by (D + 2) u of the sum of their absolute values at most, and
        |x||c| bounds that; rounding x, c, |c|^2 and the result, and the norms themselves, adds less than 14 u.
        """
        rounding = (self.shape[1] + 16) * _FLOAT32_ROUNDING
        norms = shifted.double().square().sum(dim=1).sqrt()
        largest = 2 * norms * self._radius + self._radius**2
        bound = rounding * (1 + rounding) * largest + (self.shape[1] + 16) * _TINY
        return bound.float().masked_fill_(largest > _HUGE, torch.inf)  # then every center is a candidate

    def _decide(self, features: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
        """The nearest of the candidates (a mask, (m, K)) of these rows, in float64: (m,) int64."""
        places, centers = torch.nonzero(candidates, as_tuple=True)  # by row, then center
        distances = torch.empty(len(places), dtype=torch.float64, device=self.device)
        step = max(1, _PAIR_BYTES[self.device.type] // (8 * self.shape[1]))
        for begin in range(0, len(places), step):
            pairs = slice(begin, begin + step)
            distances[pairs] = self._distances(features, rows[places[pairs]], centers[pairs])
        least = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=self.device)
        least.scatter_reduce_(0, places, distances, "amin")
        winners = torch.full((len(rows),), self.shape[0], dtype=torch.int64, device=self.device)
        is_least = distances == least[places]
        winners.scatter_reduce_(0, places[is_least], centers[is_least], "amin")
        return winners

    def _distances(self, features: Tensor, rows: Tensor, centers: Tensor) -> Tensor:
        """Squared float64 distances of pairs of a row and a center: (p,)."""
        squares = (features[rows].double() - self._exact[centers]).square_()
        # Halves are added until one column is left: an order of summation that no library chooses.
        while squares.shape[1] > 1:
            half = (squares.shape[1] + 1) // 2
            upper = squares[:, half:]
            squares = squares[:, :half].clone()
            squares[:, : upper.shape[1]] += upper
        return squares[:, 0]


def nearest_centers(features: Array, centers: npt.NDArray[np.float32], device: str = "cpu") -> Labels:
    """The index of each vector's nearest center, the smallest of equals, as squared float64 differences say.

    Args:
        features: (n, D) float16, float32 or float64; may be read-only.
        centers: (K, D) float32.
        device: `cpu` or `cuda`.

    Returns:
        (n,) int32, the same whatever the device, the number of threads, or what else is in `features`.

    Raises:
        ValueError: shapes or types that do not fit, or NaN or infinite values.
    """
    return NearestCenters(centers, device).find(features)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Let no setting of this process make float32 products out of shorter numbers (TF32, bfloat16)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
