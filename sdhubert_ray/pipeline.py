"""The distributed pipeline: one chain, readable aloud."""

from collections.abc import Sequence

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from sdhubert_ray.checkpoint import Checkpoint
from sdhubert_ray.config import JobConfig
from sdhubert_ray.stages import CutSyllables, DecodeAudio, EncodeSpeech, WriteSegments

_GIB = 1 << 30
_MAX_BLOCK_BYTES = 2 * _GIB


def build_pipeline(
    units: Sequence[pa.Table], checkpoint: Checkpoint, config: JobConfig, output: str, run: int
) -> ray.data.Dataset:
    """Chain the stages over units of a manifest, on the connected cluster.

    Each unit is one block from end to end: decoded by a CPU task, encoded by an actor of the pool, cut by a CPU
    task and committed as one file. Its features cross the object store once.

    Args:
        units: manifest tables, one per unit of work.
        checkpoint: sent once to the object store, from where every encoder reads it.
        config: of the job, `device` being cpu or cuda.
        output: folder to commit to.
        run: number of this run in that folder.

    Returns:
        the lazy dataset of the write stage's reports.
    """
    on_gpu = config.device == "cuda"
    encoders, memory = plan_encoders(config, len(units))
    shared = ray.put(checkpoint)
    # A unit's features stay in one block, so that a unit stays one commit.
    ray.data.DataContext.get_current().target_max_block_size = _MAX_BLOCK_BYTES
    return (
        ray.data.from_arrow(list(units))
        .map_batches(
            DecodeAudio(config.audio, config.windows),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
        )
        .map_batches(
            EncodeSpeech,
            fn_constructor_kwargs={
                "checkpoint": lambda: ray.get(shared),
                "windows": config.windows,
                "layers": config.encoder,
                "dtype": config.dtype,
                "device": config.device,
                "batch_seconds": config.resources.batch_seconds,
            },
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=encoders),
            num_cpus=1,
            num_gpus=1 if on_gpu else None,
            memory=memory,
        )
        .map_batches(
            CutSyllables(config.segmentation, config.output),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
        )
        .map_batches(
            WriteSegments(output, run, config.output),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
        )
    )


def plan_encoders(config: JobConfig, num_units: int) -> tuple[int, int]:
    """How many encoders the cluster takes, and the bytes of memory to reserve for each.

    One per GPU; on CPUs as many as there are, but one left for the other stages, and as memory allows. Never more
    than there are units of work.
    """
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    # A reservation that no node can grant would wait for ever.
    memory = int(min(config.resources.encoder_memory_gib * _GIB, cluster.get("memory", _GIB) / 2))
    if config.resources.encoders is not None:
        encoders = config.resources.encoders
    elif config.device == "cuda":
        encoders = int(cluster.get("GPU", 0))
    else:
        encoders = min(int(cluster.get("CPU", 1)) - 1, int(cluster.get("memory", _GIB) * 0.8 // memory))
    return max(1, min(encoders, num_units)), memory
