"""The engines that do a job: this process, or Ray."""

import sys
from dataclasses import replace

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_lease
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.devices import cluster_device, local_device
from sdhubert_ray.runs.placement import alive_nodes
from sdhubert_ray.runs.session import Job

IN_PROCESS_SECONDS = 600.0
"""Less audio than this is segmented without Ray, unless told otherwise."""
ENGINES = ("auto", "local", "ray")


def check_engine(engine: str, address: str | None) -> None:
    """Raise UserError where there is no such engine, or it does not go with the address."""
    if engine not in ENGINES:
        raise UserError(f"engine is {engine!r}; it has to be one of {', '.join(ENGINES)}")
    if engine == "local" and address:
        raise UserError("the local engine uses no cluster; leave out --address, or take --engine ray")


def choose_engine(job: Job) -> tuple[str, str]:
    """The engine that does a job, and why: what was asked for, or for `auto` Ray where it is worth its start."""
    if job.engine != "auto":
        return job.engine, ""
    if job.address:
        return "ray", "at the address given"
    # A run that died and left its lease may have died of a recording: Ray's workers can, and the run goes on.
    if not job.anew and read_lease(job.output) is not None:
        reason = "the run before was killed, perhaps by a recording: Ray's workers may die of one, and the run goes on"
        return "ray", f"{reason}; --engine local takes this process all the same"
    if job.seconds_left >= IN_PROCESS_SECONDS:
        return "ray", f"{job.seconds_left / 3600:.2f} hours of audio are worth its start"
    return "local", ""


def count_workers(config: JobConfig, engine: str, address: str | None) -> int:
    """How many units can be worked on at once: encoders that the cluster has room for, or that this machine has.

    Raises:
        BusyError: the cluster cannot be reached.
        UserError: the device was named and is not there.
    """
    if engine == "local":
        return 1
    if address is None:
        device = local_device(config.device)
        import joblib
        import torch

        return torch.cuda.device_count() if device == "cuda" else joblib.cpu_count()
    from sdhubert_ray.runs.connect import connected
    from sdhubert_ray.runs.pipeline import plan_encoders

    with connected(address):
        config = replace(config, device=cluster_device(config.device, grows=True))
        return int(plan_encoders(config, sys.maxsize, alive_nodes())[0].max_size or 1)
