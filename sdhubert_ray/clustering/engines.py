"""Who does the work of a clustering: this process, or Ray (see `remote`)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray.clustering.fitting import LocalTeam, fit
from sdhubert_ray.clustering.memory import Budget, available_here, plan_memory
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.sampling import SampleLots
from sdhubert_ray.clustering.shards import Sample
from sdhubert_ray.clustering.state import Centers, FitState
from sdhubert_ray.runs.devices import local_device
from sdhubert_ray.units.kmeans import ward_reduce


class Engine(Protocol):
    """Does the phases of a clustering."""

    def plan(
        self, options: ClusterOptions, num_vectors: int, width: int, seed_vectors: int | None, *, seeded: bool
    ) -> Budget:
        """Divide memory, see `plan_memory`. Raises UserError where it is too little, or there is no such device."""

    def sample(self, stage: SampleLots, lots: Iterable[pa.Table]) -> Iterator[str]:
        """The reports of lots, as they are done."""

    def fit(
        self,
        sample: Sample,
        options: ClusterOptions,
        budget: Budget,
        state: FitState | None,
        keep: Callable[[FitState], None],
    ) -> FitState:
        """See `fitting.fit`."""

    def reduce(self, centers: Centers, num_units: int, budget: Budget) -> npt.NDArray[np.int32]:
        """See `kmeans.ward_reduce`."""


class LocalEngine:
    """This process alone. Methods as `Engine`."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._device = local_device(workers.device)

    def plan(
        self, options: ClusterOptions, num_vectors: int, width: int, seed_vectors: int | None, *, seeded: bool
    ) -> Budget:
        """See `Engine`."""
        memory = available_here()
        if self._workers.memory is not None:
            memory = min(memory, self._workers.memory)
        return plan_memory(options, num_vectors, width, memory, memory, seed_vectors, seeded=seeded)

    def sample(self, stage: SampleLots, lots: Iterable[pa.Table]) -> Iterator[str]:
        """See `Engine`."""
        for lot in lots:
            yield stage(lot).column("report")[0].as_py()

    def fit(
        self,
        sample: Sample,
        options: ClusterOptions,
        budget: Budget,
        state: FitState | None,
        keep: Callable[[FitState], None],
    ) -> FitState:
        """See `Engine`."""
        team = LocalTeam(sample, options, budget.seed_vectors, self._device, budget.cache_bytes)
        return fit(team, sample, options, state, keep)

    def reduce(self, centers: Centers, num_units: int, budget: Budget) -> npt.NDArray[np.int32]:
        """See `Engine`."""
        return ward_reduce(centers, num_units)
