"""The precision that encoders compute in, where it is left to the machine."""

import json
import logging
from dataclasses import replace

from sdhubert_ray.output import read_run
from sdhubert_ray.runs.config import AUTO, JobConfig
from sdhubert_ray.runs.devices import cluster_device, local_device

logger = logging.getLogger(__name__)


def warn_if_slow(dtype: str, device: str) -> None:
    """Say where a half precision takes longer than float32 would: a CPU without products in it emulates them."""
    if device == "cpu" and dtype not in ("float32", _fastest(device)):
        logger.warning("this CPU computes %s slower than float32; take --dtype auto", dtype)


def settle_precision(config: JobConfig, address: str | None, output: str | None = None) -> JobConfig:
    """Put the precision of an output that goes on, or the fastest there is, in the place of `auto`.

    Args:
        config: of a job.
        address: of a Ray cluster, of which the first worker that has time is asked; None asks this machine.
        output: a folder whose rows are gone on with.

    Raises:
        BusyError: the cluster cannot be reached.
        UserError: the device was named and is not there; the record of the output is damaged.
    """
    if config.dtype != AUTO:
        return config
    there = read_run(output) if output else None
    if there is not None and "dtype" in there["fingerprint"]:
        return replace(config, dtype=json.loads(there["fingerprint"]["dtype"]))
    dtype = _ask_cluster(config, address) if address else _fastest(local_device(config.device))
    logger.warning("dtype auto: %s", dtype)
    return replace(config, dtype=dtype)


def _ask_cluster(config: JobConfig, address: str) -> str:
    import ray

    from sdhubert_ray.runs.connect import connected

    needs = config.resources.encode
    with connected(address):
        device = cluster_device(config.device, grows=True)
        worker = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus if device == "cuda" else 0)(_fastest)
        dtype: str = ray.get(worker.remote(device))
    return dtype


def _fastest(device: str) -> str:
    from sdhubert_ray.encoder.model import fastest_dtype

    return fastest_dtype(device)
