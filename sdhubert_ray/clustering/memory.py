"""Memory: what there is for this process, and what each part of a clustering takes."""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdhubert_ray.clustering.options import ClusterOptions
from sdhubert_ray.clustering.shards import SHARD_BYTES
from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.placement import GIB
from sdhubert_ray.units.kmeans import PAIR_BYTES, count_candidates

_MIB = 1 << 20
_CENTER_BYTES = 64
"""For each number of the centers, in a step: float64 and float32 of it, and sums of a shard, a worker, all workers."""
_STEP_BYTES = 4 * SHARD_BYTES + 128 * _MIB


@dataclass(frozen=True)
class Budget:
    """How memory is used.

    Attributes:
        seed_vectors: from how many vectors the first centers are chosen.
        wanted_seed_vectors: from how many they would be, were there memory enough.
        cache_bytes: of the sample that a worker holds at most.
        seed_bytes: that choosing the first centers takes.
        step_bytes: that a step takes, without the cache.
        reduce_bytes: that the reduction takes.
    """

    seed_vectors: int
    wanted_seed_vectors: int
    cache_bytes: int
    seed_bytes: int
    step_bytes: int
    reduce_bytes: int


def plan_memory(
    options: ClusterOptions,
    num_vectors: int,
    width: int,
    for_step: int,
    for_task: int,
    seed_vectors: int | None = None,
    *,
    seeded: bool = False,
) -> Budget:
    """Divide memory.

    Args:
        options: of the clustering.
        num_vectors: in the sample.
        width: D.
        for_step: what a worker has, bytes.
        for_task: what choosing the first centers has, and the reduction, bytes.
        seed_vectors: as an earlier run has decided; they are not made fewer.
        seeded: an earlier run has chosen the first centers.

    Raises:
        UserError: it is too little.
    """
    clusters = options.n_clusters
    step = clusters * width * _CENTER_BYTES + _STEP_BYTES
    reduction = 0 if options.n_units == clusters else clusters**2 * PAIR_BYTES // 2 + 16 * clusters * width + 64 * _MIB
    each = 8 * width + 100
    wanted = seed_vectors or count_candidates(num_vectors, clusters)
    affordable = max(0, for_task - _STEP_BYTES) // each
    choosing = 0 if seeded else (seed_vectors or clusters) * each + _STEP_BYTES
    for what, takes, has in (
        ("its steps take", step, for_step),
        ("Ward's reduction takes", reduction, for_task),
        ("choosing the first centers takes", choosing, for_task),
    ):
        if takes > has:
            raise UserError(
                f"--n-clusters is {clusters}: {what} {takes / GIB:.2f} GiB of memory, but {has / GIB:.2f} GiB can be "
                "had; take fewer clusters, or more memory"
            )
    seeds = seed_vectors or min(wanted, affordable)
    return Budget(seeds, wanted, max(0, int(0.9 * for_step) - step), seeds * each + _STEP_BYTES, step, reduction)


def available_here() -> int:
    """What this process can still take, bytes: of the machine, the container, and limits that were set for it."""
    return max(0, min(_limits()))


def _limits() -> Iterator[int]:
    meminfo = _read_table(Path("/proc/meminfo"))
    if "MemAvailable" in meminfo:
        yield meminfo["MemAvailable"] * 1024
    else:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    group = Path("/sys/fs/cgroup")
    largest = _read_number(group / "memory.max")
    used = _read_number(group / "memory.current")
    if largest is not None and used is not None:
        yield largest - used + _read_table(group / "memory.stat").get("inactive_file", 0)
    status = _read_table(Path("/proc/self/status"))
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft - status.get(name, 0) * 1024


def _read_number(path: Path) -> int | None:
    """The number that a file holds; None where there is none, or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_table(path: Path) -> dict[str, int]:
    """The numbers of a file of lines `name: number unit` or `name number`; none where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    fields = [line.replace(":", " ").split() for line in lines]
    return {parts[0]: int(parts[1]) for parts in fields if len(parts) >= 2 and parts[1].isdigit()}
