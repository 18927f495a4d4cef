"""Lloyd's step in parts that add up in any order: sums are integers of a fixed point, so grouping changes nothing.

A coordinate is rounded to a multiple of 2^-s, with s as large as int64 allows for the sum of all vectors: to 2^-39 of
the largest coordinate for four million of them. That is finer than sums in float32, and exact from there on.
"""

import math
import threading
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from sdhubert_ray.units.kmeans.nearest import NearestCenters

Array = npt.NDArray[np.floating]

MOST_RESEEDED = 256
"""Empty clusters that are seeded anew in one step, at most; others wait for the next."""
_SUM_BITS = 62


class Scales(NamedTuple):
    """How numbers become integers.

    Attributes:
        coordinates: a coordinate is multiplied by 2 to this power.
        squares: a squared distance or norm is multiplied by 2 to this power.
    """

    coordinates: int
    squares: int


def choose_scales(largest: float, num_vectors: int, width: int) -> Scales:
    """The finest scales at which no sum overflows.

    Args:
        largest: the largest absolute coordinate.
        num_vectors: in all.
        width: D.
    """
    if not largest:
        return Scales(0, 0)
    room = _SUM_BITS - math.ceil(math.log2(max(num_vectors, 2)))
    # Centers lie among the vectors: no distance is over twice the largest norm. One bit more is for roundings.
    _, exponent = math.frexp(largest)
    _, square = math.frexp(4.0 * largest * largest * width)
    return Scales(room - 1 - exponent, room - 1 - square)


class Farthest(NamedTuple):
    """The vectors that are farthest from their centers, the farthest first, equals by priority.

    Attributes:
        distances: (f,) float64, squared.
        priorities: (f,) uint64.
        labels: (f,) int32, their centers.
        vectors: (f, D) float64.
    """

    distances: npt.NDArray[np.float64]
    priorities: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.float64]

    @classmethod
    def none(cls, width: int) -> Self:
        """No vectors."""
        return cls(np.zeros(0), np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros((0, width)))

    def joined(self, other: Self) -> Self:
        """The farthest of both, `MOST_RESEEDED` at most."""
        distances = np.concatenate([self.distances, other.distances])
        priorities = np.concatenate([self.priorities, other.priorities])
        labels = np.concatenate([self.labels, other.labels])
        order = np.lexsort((priorities, -distances))[:MOST_RESEEDED]
        vectors = np.concatenate([self.vectors, other.vectors])[order]
        return type(self)(distances[order], priorities[order], labels[order], vectors)


@dataclass
class LloydSums:
    """What a step knows of some vectors, or of all.

    Attributes:
        counts: (K,) int64, vectors of each cluster.
        sums: (K, D) int64, their sums, scaled.
        inertia: the sum of their squared distances, scaled.
        farthest: candidates for empty clusters.
    """

    counts: npt.NDArray[np.int64]
    sums: npt.NDArray[np.int64]
    inertia: int
    farthest: Farthest

    @classmethod
    def zero(cls, num_centers: int, width: int) -> Self:
        """Of no vectors."""
        sums = np.zeros((num_centers, width), np.int64)
        return cls(np.zeros(num_centers, np.int64), sums, 0, Farthest.none(width))

    def add(self, other: Self) -> None:
        """Take in what is known of other vectors."""
        self.counts = self.counts + other.counts
        self.sums = self.sums + other.sums
        self.inertia += other.inertia
        self.farthest = self.farthest.joined(other.farthest)


def add_up(
    features: Array, priorities: npt.NDArray[np.uint64], finder: NearestCenters, scales: Scales, sums: LloydSums
) -> None:
    """Assign vectors to their nearest centers, and add them to the sums.

    Args:
        features: (n, D).
        priorities: (n,), they decide between vectors that are equally far.
        finder: of the centers.
        scales: of all vectors.
        sums: to be added to, in place.

    Raises:
        ValueError: features have another width, or NaN or infinite values.
    """
    device = finder.device
    labels = np.empty(len(features), np.int32)
    distances = np.empty(len(features), np.float64)
    part = torch.zeros(finder.shape, dtype=torch.int64, device=device)
    adding = threading.Lock()

    def take(rows: slice, chunk: torch.Tensor, nearest: torch.Tensor) -> None:
        labels[rows] = nearest.cpu().numpy()
        distances[rows] = finder.distances(chunk, nearest).cpu().numpy()
        integers = _to_integers(chunk, scales.coordinates)
        with adding:
            part.index_add_(0, nearest, integers)

    finder.search(features, take)
    farthest = _find_farthest(distances, priorities)
    candidates = Farthest(
        distances[farthest], priorities[farthest], labels[farthest], np.asarray(features[farthest], np.float64)
    )
    inertia = int(np.rint(np.ldexp(distances, scales.squares)).astype(np.int64).sum())
    counts = np.bincount(labels, minlength=len(sums.counts)).astype(np.int64)
    sums.add(LloydSums(counts, part.cpu().numpy(), inertia, candidates))


def move_centers(
    sums: LloydSums, centers: npt.NDArray[np.float32], scales: Scales
) -> tuple[npt.NDArray[np.float32], int]:
    """The means of the clusters; an empty one moves to the vector farthest from its center, taken out of its cluster.

    Args:
        sums: of all vectors, for `centers`.
        centers: (K, D) float32, as they were.
        scales: of all vectors.

    Returns:
        (K, D) float32, and how many were seeded anew. Where no vector is off its center, an empty cluster stays.
    """
    counts, totals = sums.counts.copy(), sums.sums.copy()
    empty = iter(np.flatnonzero(counts == 0))
    reseeded = 0
    for distance, label, vector in zip(
        sums.farthest.distances, sums.farthest.labels, sums.farthest.vectors, strict=True
    ):
        if not distance > 0:
            break
        if counts[label] < 2:
            continue
        cluster = next(empty, None)
        if cluster is None:
            break
        integers = np.rint(np.ldexp(vector, scales.coordinates)).astype(np.int64)
        totals[label] -= integers
        counts[label] -= 1
        totals[cluster], counts[cluster] = integers, 1
        reseeded += 1
    means = np.ldexp(totals / np.maximum(counts, 1)[:, None], -scales.coordinates)
    return np.where(counts[:, None] > 0, means, centers).astype(np.float32), reseeded


@dataclass
class Moments:
    """Sums of some vectors, or of all: of their coordinates, (D,) int, and of their squared norms, scaled."""

    sums: npt.NDArray[np.int64]
    squares: int = 0
    count: int = 0

    @classmethod
    def zero(cls, width: int) -> Self:
        """Of no vectors."""
        return cls(np.zeros(width, np.int64))

    def add(self, other: Self) -> None:
        """Take in those of other vectors."""
        self.sums = self.sums + other.sums
        self.squares += other.squares
        self.count += other.count


def measure(features: Array, scales: Scales) -> Moments:
    """The moments of (n, D) vectors."""
    vectors = np.asarray(features, np.float64)
    norms = np.square(vectors).sum(axis=1)
    return Moments(
        np.rint(np.ldexp(vectors, scales.coordinates)).astype(np.int64).sum(axis=0),
        int(np.rint(np.ldexp(norms, scales.squares)).astype(np.int64).sum()),
        len(vectors),
    )


def mean_variance(moments: Moments, scales: Scales) -> float:
    """The variance of a coordinate, averaged over the coordinates."""
    mean = np.ldexp(moments.sums / moments.count, -scales.coordinates)
    square = math.ldexp(moments.squares / moments.count, -scales.squares)
    return max(0.0, (square - float(np.square(mean).sum())) / len(mean))


def _find_farthest(distances: npt.NDArray[np.float64], priorities: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The places of the largest distances, equals by priority."""
    if len(distances) <= MOST_RESEEDED:
        return np.lexsort((priorities, -distances))
    least = np.partition(distances, -MOST_RESEEDED)[-MOST_RESEEDED]
    places = np.flatnonzero(distances >= least)  # of equals there may be many more
    return places[np.lexsort((priorities[places], -distances[places]))[:MOST_RESEEDED]]


def _to_integers(features: torch.Tensor, scale: int) -> torch.Tensor:
    # In two steps: 2^s itself may be beyond float64.
    scaled = (features.double() * 2.0 ** (scale // 2)).mul_(2.0 ** (scale - scale // 2))
    return scaled.round_().to(torch.int64)
