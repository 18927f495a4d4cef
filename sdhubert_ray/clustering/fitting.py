"""k-means over a sample: what a worker does with its shards, and the steps that go from state to state."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sdhubert_ray.clustering.options import ClusterOptions
from sdhubert_ray.clustering.shards import Sample, read_shard, read_smallest
from sdhubert_ray.clustering.state import FitState
from sdhubert_ray.output.tables import Array
from sdhubert_ray.units.kmeans import (
    LloydSums,
    Moments,
    NearestCenters,
    Scales,
    add_up,
    choose_scales,
    mean_variance,
    measure,
    move_centers,
    seed_centers,
)

Centers = npt.NDArray[np.float32]


class Team(Protocol):
    """Workers that go through the sample together."""

    def choose_seeds(self) -> Centers:
        """The first centers."""

    def measure(self) -> Moments:
        """The moments of the sample."""

    def step(self, centers: Centers) -> LloydSums:
        """The sums of a step of the sample."""


class FitWorker:
    """Has some shards of a sample, in memory as far as they fit, and reads the others anew each time."""

    def __init__(
        self, sample: Sample, shards: Sequence[str], device: str, cache_bytes: int, threads: int | None = None
    ) -> None:
        """Take shards.

        Args:
            sample: all of it.
            shards: the URIs that are this worker's.
            device: `cpu` or `cuda`.
            cache_bytes: how much of them is held at most.
            threads: of torch; None leaves it as it is.
        """
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self._sample = sample
        self._shards = list(shards)
        self._device = device
        self._free = cache_bytes
        self._kept: dict[str, tuple[Array, npt.NDArray[np.uint64]]] = {}

    def measure(self) -> Moments:
        """The moments of these shards."""
        scales = sample_scales(self._sample)
        total = Moments.zero(self._sample.width)
        for uri in self._shards:
            features, _ = self._read(uri)
            for begin in range(0, len(features), 4096):
                total.add(measure(features[begin : begin + 4096], scales))
        return total

    def step(self, centers: Centers) -> LloydSums:
        """The sums of these shards for some centers."""
        scales, finder = sample_scales(self._sample), NearestCenters(centers, self._device)
        sums = LloydSums.zero(*centers.shape)
        for uri in self._shards:
            add_up(*self._read(uri), finder, scales, sums)
        return sums

    def _read(self, uri: str) -> tuple[Array, npt.NDArray[np.uint64]]:
        if uri in self._kept:
            return self._kept[uri]
        arrays = read_shard(uri, self._sample.limit)
        size = sum(array.nbytes for array in arrays)
        if size <= self._free:
            self._free -= size
            self._kept[uri] = arrays
        return arrays


class LocalTeam:
    """This process alone."""

    def __init__(self, sample: Sample, options: ClusterOptions, seed_vectors: int, device: str, cache: int) -> None:
        self._choose = (sample, options, seed_vectors, device)
        self._worker = FitWorker(sample, sample.shards, device, cache)

    def choose_seeds(self) -> Centers:
        """See `Team`."""
        return choose_seeds(*self._choose)

    def measure(self) -> Moments:
        """See `Team`."""
        return self._worker.measure()

    def step(self, centers: Centers) -> LloydSums:
        """See `Team`."""
        return self._worker.step(centers)


def sample_scales(sample: Sample) -> Scales:
    """The scales of a sample's sums."""
    return choose_scales(sample.largest, sample.num_vectors, sample.width)


def choose_seeds(sample: Sample, options: ClusterOptions, seed_vectors: int, device: str) -> Centers:
    """The first centers, of `seed_vectors` vectors of the sample."""
    features = read_smallest(sample, seed_vectors)
    return np.asarray(features[seed_centers(features, options.n_clusters, options.seed, device)], np.float32)


def fit(
    team: Team,
    sample: Sample,
    options: ClusterOptions,
    state: FitState | None,
    keep: Callable[[FitState], None],
) -> FitState:
    """Go from a state, or from the beginning, to the end.

    Args:
        team: its workers.
        sample: what is clustered.
        options: of the clustering.
        state: an earlier one to go on from, or None.
        keep: told of each new state.
    """
    scales = sample_scales(sample)
    if state is None:
        seeds = team.choose_seeds()  # first, while no worker holds a part of the sample
        state = FitState(seeds, options.tolerance * mean_variance(team.measure(), scales))
        keep(state)
    while state.ended is None:
        sums = team.step(state.centers)
        centers, reseeded = move_centers(sums, state.centers, scales)
        shift = float(np.square(centers.astype(np.float64) - state.centers).sum())
        ended = "iterations" if state.iteration + 1 >= options.max_iterations else None
        state = replace(
            state,
            centers=centers,
            inertias=(*state.inertias, _inertia(sums, scales)),
            reseeded=state.reseeded + reseeded,
            ended="converged" if shift <= state.limit else ended,
        )
        keep(state)
    if state.inertia is None:
        sums = team.step(state.centers)
        state = replace(state, inertia=_inertia(sums, scales), empty=int((sums.counts == 0).sum()))
        keep(state)
    return state


def _inertia(sums: LloydSums, scales: Scales) -> float:
    return math.ldexp(float(sums.inertia), -scales.squares)
