"""A clustering on Ray: the sample by Ray Data, k-means by actors that keep their shards, seeds and units by tasks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from sdhubert_ray.clustering.fitting import FitWorker, choose_seeds, fit
from sdhubert_ray.clustering.memory import Budget, plan_memory
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.sampling import SampleLots
from sdhubert_ray.clustering.shards import Sample
from sdhubert_ray.clustering.state import Centers, FitState, read_state
from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.config import TaskResources
from sdhubert_ray.runs.devices import cluster_device
from sdhubert_ray.runs.pipeline import on_cpus
from sdhubert_ray.runs.placement import (
    GIB,
    Node,
    Reservation,
    alive_nodes,
    count_places,
    most_cpus,
    most_memory,
    usable,
)
from sdhubert_ray.runs.watch import StallWatch
from sdhubert_ray.units.kmeans import LloydSums, Moments, ward_reduce

_SAMPLING = TaskResources(cpus=1.0, memory_gib=0.75)
_USABLE = 0.8
"""Of a node's memory: two reservations must not fill it to the last byte."""
_ATTEMPTS = 8
"""Workers that die (a lost node, out of memory) are started again so many times."""
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Layout:
    """How workers lie on the cluster: how many, and what each reserves."""

    count: int
    cpus: int
    gpus: int
    memory: int


class RayEngine:
    """The connected cluster. Methods as `Engine`."""

    def __init__(self, workers: Workers, work: str) -> None:
        self._workers = workers
        self._work = work
        self._device = cluster_device(workers.device)

    def plan(
        self, options: ClusterOptions, num_vectors: int, width: int, seed_vectors: int | None, *, seeded: bool
    ) -> Budget:
        """See `Engine`."""
        nodes = alive_nodes()
        layout = lay_out(self._workers, self._device, nodes)
        each = Reservation(layout.cpus, layout.gpus)
        for_task = max(node.memory for node in usable(nodes, _USABLE) if node.places(each))
        return plan_memory(options, num_vectors, width, layout.memory, for_task, seed_vectors, seeded=seeded)

    def sample(self, stage: SampleLots, lots: Iterable[pa.Table]) -> Iterator[str]:
        """See `Engine`."""
        waiting = {lot.column("lot")[0].as_py(): lot for lot in lots}
        done: set[int] = set()
        while len(done) < len(waiting):
            tables = [lot for number, lot in waiting.items() if number not in done]
            with StallWatch() as watch:
                reports = on_cpus(ray.data.from_arrow(tables), stage, _SAMPLING)
                for batch in reports.iter_batches(batch_size=None, batch_format="pyarrow"):
                    watch.moved()
                    row: dict[str, Any] = cast(pa.Table, batch).to_pylist()[0]
                    done.add(row["lot"])
                    yield row["report"]

    def fit(
        self,
        sample: Sample,
        options: ClusterOptions,
        budget: Budget,
        state: FitState | None,
        keep: Callable[[FitState], None],
    ) -> FitState:
        """See `Engine`. Where a node is lost and does not come back, the workers are laid out anew."""
        while True:
            with StallWatch() as watch:
                layout = lay_out(self._workers, self._device, alive_nodes())
                team = RayTeam(sample, options, budget, layout, self._device, watch)
                try:
                    return fit(team, sample, options, state, keep)
                finally:
                    team.close()
            state = read_state(self._work)

    def reduce(self, centers: Centers, num_units: int, budget: Budget) -> npt.NDArray[np.int32]:
        """See `Engine`."""
        task = ray.remote(num_cpus=1, memory=budget.reduce_bytes)(ward_reduce)
        reducer: npt.NDArray[np.int32] = np.array(ray.get(task.remote(centers, num_units)))
        return reducer


class RayTeam:
    """Actors with a part of the shards each. Methods as `fitting.Team`."""

    def __init__(
        self,
        sample: Sample,
        options: ClusterOptions,
        budget: Budget,
        layout: Layout,
        device: str,
        watch: StallWatch,
    ) -> None:
        self._sample = ray.put(sample)
        self._shards = sample.shards
        self._width = sample.width
        self._options = options
        self._budget = budget
        self._layout = layout
        self._device = device
        self._watch = watch
        self._actors: list[Any] = []

    def choose_seeds(self) -> Centers:
        """See `Team`."""
        self.close()  # the task needs their CPUs
        layout = self._layout
        task = ray.remote(**_reserve(layout, self._budget.seed_bytes))(choose_seeds)
        reference = task.remote(self._sample, self._options, self._budget.seed_vectors, self._device)
        # It tells nothing until it is done, and Ray does it again where its node is lost: no stall is to be seen here.
        while not ray.wait([reference], timeout=_LOOK_SECONDS)[0]:
            self._watch.moved()
        self._watch.moved()
        centers: Centers = ray.get(reference)
        return centers

    def measure(self) -> Moments:
        """See `Team`."""
        total = Moments.zero(self._width)
        for part in self._take([actor.measure.remote() for actor in self._start()]):
            total.add(part)
        return total

    def step(self, centers: Centers) -> LloydSums:
        """See `Team`."""
        shared = ray.put(centers)
        total = LloydSums.zero(*centers.shape)
        for part in self._take([actor.step.remote(shared) for actor in self._start()]):
            total.add(part)
        return total

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _start(self) -> list[Any]:
        """The actors, started if they are not there."""
        layout = self._layout
        reserved = _reserve(layout, layout.memory)
        worker = ray.remote(**reserved, max_restarts=_ATTEMPTS, max_task_retries=_ATTEMPTS)(FitWorker)
        count = min(layout.count, len(self._shards))
        for number in range(len(self._actors), count):
            shards = self._shards[number::count]
            self._actors.append(
                worker.remote(self._sample, shards, self._device, self._budget.cache_bytes, layout.cpus)
            )
        return self._actors

    def _take(self, references: list[Any]) -> Iterator[Any]:
        """What they come to, as it is there."""
        while references:
            ready, references = ray.wait(references)
            yield ray.get(ready[0])
            self._watch.moved()


def lay_out(workers: Workers, device: str, nodes: Sequence[Node]) -> Layout:
    """Lay workers out over the nodes: by default one per GPU, or one per node with all its CPUs.

    Each has as many CPUs, and then as much memory, as lets so many find a place.

    Raises:
        UserError: the cluster has not so many CPUs or GPUs, or not so much memory.
    """
    kind, gpus = ("GPU", 1) if device == "cuda" else ("CPU", 0)
    smallest = Reservation(1, gpus)
    most = count_places(nodes, smallest)
    on_nodes = sum(node.places(smallest) > 0 for node in nodes)
    count = workers.count or (most if device == "cuda" else on_nodes)
    if not 1 <= count <= most:
        raise UserError(
            f"--workers is {count}, but the cluster has {kind}s for {most}; take fewer, or a larger cluster"
        )
    cpus = most_cpus(nodes, count, gpus)
    fair = most_memory(usable(nodes, _USABLE), count, Reservation(cpus, gpus))
    if workers.memory is not None and workers.memory > fair:
        raise UserError(
            f"--memory-gib is {workers.memory_gib}, but {count} workers can have {fair / GIB:.2f} GiB each at most; "
            "take less, or fewer --workers, or larger nodes"
        )
    return Layout(count, cpus, gpus, workers.memory or fair)


def _reserve(layout: Layout, memory: int) -> dict[str, Any]:
    """What one worker takes, as Ray is asked for it; it warns of a number of GPUs that is zero."""
    gpus = {"num_gpus": layout.gpus} if layout.gpus else {}
    return {"num_cpus": layout.cpus, "memory": memory, **gpus}
