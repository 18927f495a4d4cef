"""The device and the precision that encoders compute in, where they are left to the machine."""

import json
import logging
from dataclasses import replace

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_run
from sdhubert_ray.runs.config import AUTO, JobConfig

logger = logging.getLogger(__name__)


def local_device(device: str) -> str:
    """The device of this process that is meant. Raises UserError where it was named and is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch sees no GPU here; take --device cpu, or install a CUDA torch")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def torch_device(device: str) -> str:
    """What torch calls a device, `auto` being a GPU where there is one. Raises UserError where it cannot be used."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).tolist()
    # What torch raises for an unknown name, for CUDA in a build without it, and for `meta`.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device!r} cannot be used ({str(error).splitlines()[0]}); try cpu") from error
    return device


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

    from sdhubert_ray.runs.connect import cluster_device, connected

    needs = config.resources.encode
    with connected(address):
        device = cluster_device(config.device)
        worker = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus if device == "cuda" else 0)(_fastest)
        dtype: str = ray.get(worker.remote(device))
    return dtype


def _fastest(device: str) -> str:
    from sdhubert_ray.encoder.model import fastest_dtype

    return fastest_dtype(device)
