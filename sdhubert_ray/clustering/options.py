"""What is asked of a clustering."""

import math
from dataclasses import dataclass

from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.placement import GIB

VECTORS_PER_CLUSTER = 256


@dataclass(frozen=True)
class ClusterOptions:
    """How segment features become a quantizer. These decide the result.

    Attributes:
        n_clusters: centers of k-means.
        n_units: units that the centers are reduced to, by Ward's criterion.
        seed: of the sample and of the first centers.
        max_vectors: vectors in the sample at most; None takes 256 for each cluster.
        max_iterations: steps of k-means at most.
        tolerance: it has converged when the centers move by no more than this part of the variance.
    """

    n_clusters: int = 16384
    n_units: int = 4096
    seed: int = 0
    max_vectors: int | None = None
    max_iterations: int = 100
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("n_clusters", "n_units", "max_iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} is {getattr(self, name)}; it has to be 1 or more")
        if self.n_units > self.n_clusters:
            raise UserError(
                f"--n-units is {self.n_units}, but --n-clusters {self.n_clusters}; units are merged clusters; take no "
                "more of them"
            )
        if self.max_vectors is not None and self.max_vectors < self.n_clusters:
            raise UserError(
                f"--max-vectors is {self.max_vectors}, but --n-clusters {self.n_clusters}; take one vector or more "
                "for each cluster, better a hundred"
            )
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; it has to be 0 or more")
        if not 0 <= self.tolerance < float("inf"):
            raise UserError(f"--tolerance is {self.tolerance}; it has to be 0 or more")

    @property
    def sample_size(self) -> int:
        """Vectors that are wanted."""
        return VECTORS_PER_CLUSTER * self.n_clusters if self.max_vectors is None else self.max_vectors


@dataclass(frozen=True)
class Workers:
    """Who does the work, and with what. None of it changes the result.

    Attributes:
        count: workers on Ray; None takes one per GPU, or one per node.
        memory_gib: memory of a worker, GiB; None takes what is free, or what its node can give.
        device: `auto`, `cpu` or `cuda`.
    """

    count: int | None = None
    memory_gib: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device is {self.device!r}; it has to be auto, cpu or cuda")
        if self.count is not None and self.count < 1:
            raise UserError(f"--workers is {self.count}; it has to be 1 or more")
        if self.memory_gib is not None and not 0 < self.memory_gib < math.inf:
            raise UserError(f"--memory-gib is {self.memory_gib}; it has to be a positive number")

    @property
    def memory(self) -> int | None:
        """Memory of a worker that was asked for, bytes."""
        return None if self.memory_gib is None else int(self.memory_gib * GIB)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
