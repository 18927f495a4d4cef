"""The distributed pipeline: one chain, readable aloud."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sdhubert_ray.checkpoint import Checkpoint
from sdhubert_ray.config import JobConfig, TaskResources
from sdhubert_ray.output.attempts import Notebook
from sdhubert_ray.stages import (
    CutSyllables,
    DecodeAudio,
    EncodeSpeech,
    ReadFeatures,
    ReadUnits,
    SegmentUnits,
    WriteSegments,
)

_GIB = 1 << 30
_MAX_BLOCK_BYTES = 2 * _GIB
_CALLS_PER_GPU = 2  # the next unit is unpacked while this one is encoded


def build_pipeline(
    units: Sequence[tuple[int, int]], checkpoint: Checkpoint, config: JobConfig, output: str
) -> ray.data.Dataset:
    """Chain the stages over units of an output's plans, on the connected cluster.

    Each unit is one block from end to end. Where there are GPUs it is read and decoded by a CPU task, encoded by an
    actor of the pool, cut and committed by a CPU task, and its features cross the object store once. On CPUs alone an
    actor does all of it: encoding takes nearly all the time there, and tasks would wait for the CPUs of the encoders.

    Args:
        units: (plan, unit) to be done.
        checkpoint: sent once to the object store, from where every encoder reads it.
        config: of the job, `device` being cpu or cuda.
        output: folder with the plans, and to commit to.

    Returns:
        the lazy dataset of the write stage's reports.
    """
    # A unit's features stay in one block, so that a unit stays one commit.
    ray.data.DataContext.get_current().target_max_block_size = _MAX_BLOCK_BYTES
    chain = chain_stages if config.device == "cuda" else chain_units
    return chain(units, checkpoint, config, output)


def chain_units(
    units: Sequence[tuple[int, int]], checkpoint: Checkpoint, config: JobConfig, output: str
) -> ray.data.Dataset:
    """One pool, whose actors do units from end to end. Arguments as `build_pipeline`."""
    workers, memory = plan_encoders(config, len(units))
    shared = ray.put(checkpoint)
    return read_units(units).map_batches(
        SegmentUnits,
        fn_constructor_args=[lambda: ray.get(shared), config, config.device, output, RemoteAttempts()],
        batch_size=None,
        batch_format="pyarrow",
        compute=workers,
        num_cpus=config.resources.encode.cpus,
        memory=memory,
    )


def chain_stages(
    units: Sequence[tuple[int, int]], checkpoint: Checkpoint, config: JobConfig, output: str
) -> ray.data.Dataset:
    """CPU tasks, a pool of encoders, CPU tasks. Arguments as `build_pipeline`."""
    encoders, memory = plan_encoders(config, len(units))
    shared = ray.put(checkpoint)
    attempts = RemoteAttempts()
    resources = config.resources
    rows = on_cpus(read_units(units), ReadUnits(output), resources.decode)
    pieces = on_cpus(rows, DecodeAudio(config.audio, config.windows, attempts), resources.decode)
    encoded = pieces.map_batches(
        EncodeSpeech,
        fn_constructor_kwargs={
            "checkpoint": lambda: ray.get(shared),
            "windows": config.windows,
            "layers": config.encoder,
            "dtype": config.dtype,
            "device": config.device,
            "batch_seconds": resources.batch_seconds,
            "attempts": attempts,
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=encoders,
        num_cpus=resources.encode.cpus,
        num_gpus=resources.encode.gpus if config.device == "cuda" else None,
        memory=memory,
    )
    segments = on_cpus(encoded, CutSyllables(config.segmentation, config.output, attempts), resources.cut)
    return on_cpus(segments, WriteSegments(output, config.output.compression), resources.cut)


def build_resegment_pipeline(
    units: Sequence[tuple[int, int]], features: str, config: JobConfig, output: str
) -> ray.data.Dataset:
    """Chain the stages from saved features on: each unit is read, cut and committed by a CPU task.

    Args:
        units: (plan, unit) to be done.
        features: the output whose features are taken.
        config: of the job.
        output: folder with the plans, and to commit to.

    Returns:
        the lazy dataset of the write stage's reports.
    """
    ray.data.DataContext.get_current().target_max_block_size = _MAX_BLOCK_BYTES  # a unit stays one commit
    taken = config.resources.cut
    rows = on_cpus(read_units(units), ReadFeatures(features, output, config.dtype), taken)
    segments = on_cpus(rows, CutSyllables(config.segmentation, config.output, RemoteAttempts()), taken)
    return on_cpus(segments, WriteSegments(output, config.output.compression), taken)


def read_units(units: Sequence[tuple[int, int]]) -> ray.data.Dataset:
    """A dataset of one block per unit, its plan and number: workers read the rows themselves."""
    plans, numbers = zip(*units, strict=True)
    table = pa.table({"plan": pa.array(plans, pa.int32()), "unit": pa.array(numbers, pa.int32())})
    return ray.data.from_arrow([table.slice(row, 1) for row in range(table.num_rows)])


def plan_encoders(config: JobConfig, num_units: int) -> tuple[ActorPoolStrategy, int]:
    """The pool of encoders that the cluster takes, and the bytes of memory to reserve for each.

    One per GPU, if a CPU is left beside them; on CPUs as many as there are, and as memory allows. Never more than
    there are units of work.
    """
    wanted = config.resources.encode
    cluster = cluster_resources()
    # A reservation that no node can grant would wait for ever, and two of them must not fill a node to the last byte.
    memory = int(min(wanted.memory_gib * _GIB, largest_node("memory") * 0.45))
    if config.device == "cuda":
        # One CPU is left for the tasks of the other stages: they would wait for ever.
        most = min(int(cluster.get("GPU", 0) / wanted.gpus), int((cluster.get("CPU", 1) - 1) / wanted.cpus))
    else:
        by_memory = int(cluster.get("memory", _GIB) * 0.9 // memory)
        most = min(int(cluster.get("CPU", 1) / wanted.cpus), by_memory)
    most = max(1, min(most if wanted.max_workers is None else wanted.max_workers, num_units))
    least = most if wanted.min_workers is None else min(wanted.min_workers, most)
    first = None if wanted.initial_workers is None else max(least, min(wanted.initial_workers, most))
    calls = _CALLS_PER_GPU if config.device == "cuda" else None
    return (
        ActorPoolStrategy(min_size=least, max_size=most, initial_size=first, max_concurrent_calls_per_actor=calls),
        memory,
    )


def cluster_resources() -> dict[str, float]:
    """What the nodes of the cluster have in all."""
    return cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]


def largest_node(resource: str) -> float:
    """The most of a resource that one node has."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return max((node["Resources"].get(resource, 0.0) for node in nodes if node["Alive"]), default=0.0)


class RemoteAttempts:
    """`Attempts` kept by an actor beside the driver, where they outlive workers and their nodes."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        keeper = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Notebook)
        self._keeper: Any = keeper.options(scheduling_strategy=here).remote()  # Ray's own types of handles are partial

    def begin(self, stage: str, unit: str) -> Mapping[str, int] | None:
        """See `Attempts`."""
        deaths: Mapping[str, int] | None = ray.get(self._keeper.begin.remote(stage, unit))
        return deaths

    def alone(self, stage: str, unit: str, key: str) -> None:
        """See `Attempts`."""
        ray.get(self._keeper.alone.remote(stage, unit, key))

    def end(self, stage: str, unit: str) -> None:
        """See `Attempts`."""
        ray.get(self._keeper.end.remote(stage, unit))


def on_cpus(dataset: ray.data.Dataset, stage: Callable[[pa.Table], pa.Table], taken: TaskResources) -> ray.data.Dataset:
    """Chain a stage that runs as tasks, wherever there are CPUs."""
    return dataset.map_batches(
        stage,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=taken.cpus,
        memory=int(min(taken.memory_gib * _GIB, largest_node("memory") / 4)),
        compute=TaskPoolStrategy(taken.workers),
    )
