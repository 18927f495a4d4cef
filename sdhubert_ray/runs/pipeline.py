"""The distributed pipeline: one chain, readable aloud."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sdhubert_ray.output.attempts import Notebook
from sdhubert_ray.runs.config import JobConfig, Resources, TaskResources
from sdhubert_ray.runs.placement import (
    GIB,
    Node,
    Reservation,
    alive_nodes,
    count_places,
    grantable,
    places_beside,
    short_of_cpus,
    total,
    usable,
)
from sdhubert_ray.runs.stages import (
    AssignUnits,
    CutSyllables,
    DecodeAudio,
    EmbedPacked,
    EncodePacked,
    InTurn,
    ReadFeatures,
    ReadUnits,
    SegmentUnits,
    SharedQuantizer,
    WriteSegments,
    pack_rows,
    unpack_rows,
)
from sdhubert_ray.units import Quantizer

if TYPE_CHECKING:
    from sdhubert_ray.encoder import Checkpoint

_QUANTIZER_GIB = 1.0
_UNITS_GIB = 2.5
_ENCODER_PART, _TASK_PART = 0.45, 0.25
"""Of the largest node's memory, what one encoder or one task reserves at most."""
_POOL_PART = 0.9
"""Of a node's memory, what the encoders of a pool on CPUs reserve at most: two fit."""
_ROWS_AT_ONCE = 256
_CALLS_PER_GPU = 2  # one unit is unpacked, or packed, while another is encoded

logger = logging.getLogger(__name__)


def build_pipeline(
    units: Sequence[tuple[str, int]],
    checkpoint: "Checkpoint",
    config: JobConfig,
    output: str,
    run_id: str,
    quantizer: Quantizer | None = None,
) -> ray.data.Dataset:
    """Chain the stages over units of an output's plans, on the connected cluster.

    Each unit is one row from end to end. Where there are GPUs it is read and decoded by a CPU task, encoded by an actor
    of the pool, cut and committed by a CPU task, and its features cross the object store once. On CPUs alone an actor
    does all of it: encoding takes nearly all the time there, and tasks would wait for the CPUs of the encoders.

    Args:
        units: (name of the plan, unit) to be done.
        checkpoint: sent once to the object store, from where every encoder reads it.
        config: of the job, `device` being cpu or cuda.
        output: folder with the plans, and to commit to.
        run_id: of the run that holds it.
        quantizer: that gives units, sent once as the checkpoint is; None leaves syllables without.

    Returns:
        the lazy dataset of the write stage's reports.
    """
    chain = chain_stages if config.device == "cuda" else chain_units
    return chain(units, checkpoint, config, output, run_id, quantizer)


def chain_units(
    units: Sequence[tuple[str, int]],
    checkpoint: "Checkpoint",
    config: JobConfig,
    output: str,
    run_id: str,
    quantizer: Quantizer | None = None,
) -> ray.data.Dataset:
    """One pool, whose actors do units from end to end. Arguments as `build_pipeline`."""
    workers, memory = plan_encoders(config, len(units), alive_nodes())
    shared = ray.put(checkpoint)
    return read_units(units).map_batches(
        SegmentUnits,
        fn_constructor_args=[
            lambda: ray.get(shared),
            config,
            config.device,
            output,
            run_id,
            RemoteAttempts(),
            share_quantizer(quantizer) if quantizer else None,
        ],
        batch_size=None,
        batch_format="pyarrow",
        compute=workers,
        num_cpus=config.resources.encode.cpus,
        memory=memory,
    )


def chain_stages(
    units: Sequence[tuple[str, int]],
    checkpoint: "Checkpoint",
    config: JobConfig,
    output: str,
    run_id: str,
    quantizer: Quantizer | None = None,
) -> ray.data.Dataset:
    """CPU tasks, a pool of encoders, CPU tasks. Arguments as `build_pipeline`."""
    nodes = alive_nodes()
    _warn_of_few_cpus(config.resources, nodes)
    encoders, memory = plan_encoders(config, len(units), nodes)
    shared = ray.put(checkpoint)
    attempts = RemoteAttempts()
    resources = config.resources
    decode = InTurn(ReadUnits(output), DecodeAudio(config.audio, config.windows, attempts), pack_rows)
    encoded = on_cpus(read_units(units), decode, resources.decode).map_batches(
        EncodePacked,
        fn_constructor_kwargs={
            "checkpoint": lambda: ray.get(shared),
            "audio": config.audio,
            "windows": config.windows,
            "layers": config.encoder,
            "dtype": config.dtype,
            "device": config.device,
            "batch_seconds": resources.batch_seconds,
            "attempts": attempts,
        },
        batch_size=1,
        batch_format="pyarrow",
        compute=encoders,
        num_cpus=resources.encode.cpus,
        num_gpus=resources.encode.gpus if config.device == "cuda" else None,
        memory=memory,
    )
    cut = CutSyllables(config.segmentation, config.output, attempts, share_quantizer(quantizer) if quantizer else None)
    finish = InTurn(unpack_rows, cut, WriteSegments(output, config.output.compression, run_id))
    return on_cpus(encoded, finish, cut_resources(config, quantizer))


def build_resegment_pipeline(
    units: Sequence[tuple[str, int]],
    features: str,
    config: JobConfig,
    output: str,
    run_id: str,
    quantizer: Quantizer | None = None,
) -> ray.data.Dataset:
    """Chain the stages from saved features on: each unit is read, cut and committed by a CPU task.

    Args:
        units: (name of the plan, unit) to be done.
        features: the output whose features are taken.
        config: of the job.
        output: folder with the plans, and to commit to.
        run_id: of the run that holds it.
        quantizer: that gives units, or None.

    Returns:
        the lazy dataset of the write stage's reports.
    """
    cut = CutSyllables(
        config.segmentation, config.output, RemoteAttempts(), share_quantizer(quantizer) if quantizer else None
    )
    write = WriteSegments(output, config.output.compression, run_id)
    stages = InTurn(ReadFeatures(features, output, config.dtype), cut, write)
    return on_cpus(read_units(units), stages, cut_resources(config, quantizer))


def build_tokenize_pipeline(
    names: Sequence[str],
    quantizer: Quantizer,
    device: str,
    output: str,
    run_id: str,
    compression: str,
    parts: str | None,
) -> ray.data.Dataset:
    """Give units to the rows of an output, file by file: in CPU tasks, or in actors that hold a GPU each.

    Args:
        names: of the files.
        quantizer: sent once to the object store.
        device: `cpu` or `cuda`.
        output: whose files they are.
        run_id: of the run that holds the folder that is written into.
        compression: the Parquet codec.
        parts: as `AssignUnits` takes it.

    Returns:
        the lazy dataset of the stage's reports.
    """
    files = one_by_one(pa.table({"name": list(names)}))
    arguments = (share_quantizer(quantizer), quantizer.sha256, device, output, run_id, compression, parts)
    if device != "cuda":
        return on_cpus(files, AssignUnits(*arguments), TaskResources(memory_gib=_UNITS_GIB))
    nodes = alive_nodes()
    most = max(1, min(int(total(nodes).gpus), len(names)))
    return files.map_batches(
        AssignUnits,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=1,
        num_gpus=1,
        memory=grantable(nodes, _UNITS_GIB * GIB, _TASK_PART),
    )


def build_embed_pipeline(
    units: Sequence[pa.Table], checkpoint: "Checkpoint", config: JobConfig, layers: Sequence[int]
) -> ray.data.Dataset:
    """Embed clips, unit by unit, in a pool of encoders.

    Args:
        units: manifests of clips.
        checkpoint: sent once to the object store.
        config: of the job, `device` being cpu or cuda.
        layers: to read.

    Returns:
        the lazy dataset of what `EmbedClips` gives.
    """
    workers, memory = plan_encoders(config, len(units), alive_nodes())
    shared = ray.put(checkpoint)
    return ray.data.from_arrow([pack_rows(unit) for unit in units]).map_batches(
        EmbedPacked,
        fn_constructor_args=[lambda: ray.get(shared), config, layers, config.device, RemoteAttempts()],
        batch_size=1,
        batch_format="pyarrow",
        compute=workers,
        num_cpus=config.resources.encode.cpus,
        num_gpus=config.resources.encode.gpus if config.device == "cuda" else None,
        memory=memory,
    )


def share_quantizer(quantizer: Quantizer) -> SharedQuantizer:
    """Put a quantizer into the object store, once; workers read it there, without a copy, and prepare it once."""
    shared = ray.put(quantizer)
    return SharedQuantizer(quantizer.sha256, lambda: ray.get(shared))


def cut_resources(config: JobConfig, quantizer: Quantizer | None) -> TaskResources:
    """What a task that cuts takes: with a quantizer it holds torch and the centers, too."""
    taken = config.resources.cut
    return taken if quantizer is None else replace(taken, memory_gib=taken.memory_gib + _QUANTIZER_GIB)


def read_units(units: Sequence[tuple[str, int]]) -> ray.data.Dataset:
    """A dataset of units, each its plan's name and its number: workers read the rows themselves."""
    plans, numbers = zip(*units, strict=True)
    return one_by_one(pa.table({"plan": pa.array(plans, pa.string()), "unit": pa.array(numbers, pa.int32())}))


def one_by_one(rows: pa.Table) -> ray.data.Dataset:
    """A dataset with a block for each row of a table, in its order.

    Blocks are made some at a time, while those before are worked on: of a hundred thousand the driver would hold
    gigabytes, and take minutes to begin. A stage has to make one row of one row; more would be parted.
    """
    # Without a CPU of their own: the encoders may have them all. One task after the other keeps the order.
    source = _Rows(rows)
    options: dict[str, Any] = {"num_cpus": 0, "concurrency": 1, "override_num_blocks": source.num_tasks}
    dataset: ray.data.Dataset = ray.data.read_datasource(source, **options)
    dataset.context.target_max_block_size = 1  # bytes: a block ends with each row
    return dataset


class _Rows(ray.data.Datasource):
    """The rows of a table, as `one_by_one` needs them."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    @property
    def num_tasks(self) -> int:
        """How many tasks make the blocks."""
        return len(range(0, self._rows.num_rows, _ROWS_AT_ONCE))

    def estimate_inmemory_data_size(self) -> int:
        """Bytes."""
        return int(self._rows.nbytes)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ray.data.ReadTask]:
        """Tasks of some rows each, whatever the parallelism."""
        return [self._read_task(begin) for begin in range(0, self._rows.num_rows, _ROWS_AT_ONCE)]

    def _read_task(self, begin: int) -> ray.data.ReadTask:
        some = pa.concat_tables([self._rows.slice(begin, _ROWS_AT_ONCE)]).combine_chunks()

        def read() -> Iterator[pa.Table]:
            for row in range(some.num_rows):
                yield some.slice(row, 1)

        about = BlockMetadata(num_rows=some.num_rows, size_bytes=some.nbytes, input_files=None, exec_stats=None)
        return ray.data.ReadTask(read, about)


def plan_encoders(config: JobConfig, num_units: int, nodes: Sequence[Node]) -> tuple[ActorPoolStrategy, int]:
    """The pool of encoders that the nodes have room for, and the bytes of memory to reserve for each.

    One per GPU, if CPUs for a task of another stage are left beside them on each node, or on nodes without encoders; on
    CPUs as many as there are, and as memory allows. Never more than there are units of work.
    """
    wanted, on_gpu = config.resources.encode, config.device == "cuda"
    memory = grantable(nodes, wanted.memory_gib * GIB, _ENCODER_PART)
    if on_gpu:
        # CPUs are left for the tasks of the other stages: they would wait for ever.
        left = max(config.resources.decode.cpus, config.resources.cut.cpus)
        most = sum(places_beside(nodes, Reservation(wanted.cpus, wanted.gpus, memory), left))
    else:
        most = count_places(usable(nodes, _POOL_PART), Reservation(wanted.cpus, memory=memory))
    most = max(1, min(most if wanted.max_workers is None else wanted.max_workers, num_units))
    least = most if wanted.min_workers is None else min(wanted.min_workers, most)
    first = None if wanted.initial_workers is None else max(least, min(wanted.initial_workers, most))
    calls = _CALLS_PER_GPU if on_gpu else None
    pool = ActorPoolStrategy(
        min_size=least,
        max_size=most,
        initial_size=first,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=on_gpu,  # else Ray makes the calls wait for each other
    )
    return pool, memory


def _warn_of_few_cpus(resources: Resources, nodes: Sequence[Node]) -> None:
    encode, beside = resources.encode, resources.decode.cpus + resources.cut.cpus
    short = short_of_cpus(nodes, Reservation(encode.cpus, encode.gpus), beside)
    if short is not None:
        logger.warning(
            "a node has %g CPUs for %g GPUs, whose encoders, and who decodes and cuts for them, take %g: GPUs will "
            "wait for audio; add CPUs, or nodes without GPUs",
            *(short[0].cpus, short[0].gpus, short[1]),
        )


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
        memory=grantable(alive_nodes(), taken.memory_gib * GIB, _TASK_PART),
        compute=TaskPoolStrategy(taken.workers),
    )
