"""The device that encoders use: what was named, or what there is."""

import logging
from functools import cache

from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.runs.placement import alive_nodes, total

logger = logging.getLogger(__name__)


def local_device(device: str) -> str:
    """The device of this process that is meant. Raises UserError where it was named and is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch sees no GPU here; take --device cpu, or install a CUDA torch")
    if device != "auto":
        return device
    chosen, why = ("cuda", "torch sees a GPU") if torch.cuda.is_available() else ("cpu", "torch sees no GPU")
    _tell(logging.INFO, f"device auto is {chosen}: {why}")
    return chosen


def cluster_device(device: str, grows: bool = False) -> str:
    """The device of the connected cluster that is meant: `auto` takes GPUs where there are any.

    Args:
        device: `auto`, `cpu` or `cuda`.
        grows: GPUs that are named may come yet, brought by an autoscaler.

    Raises:
        UserError: cuda was named and there is none, nor can be.
    """
    gpus = total(alive_nodes()).gpus
    if device == "cuda" and gpus < 1:
        if not grows:
            raise UserError("device is cuda, but no node of the cluster has a GPU; take --device cpu")
        _tell(
            logging.WARNING,
            "no node of the cluster has a GPU yet: waiting for its autoscaler to bring one "
            "(resources.encode.max_workers lets it bring more)",
        )
    if device != "auto":
        return device
    chosen = "cuda" if gpus >= 1 else "cpu"
    _tell(logging.INFO, f"device auto is {chosen}: the nodes of the cluster have {gpus:g} GPUs now")
    return chosen


def torch_device(device: str) -> str:
    """What torch calls a device, `auto` being a GPU where there is one. Raises UserError where it cannot be used."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).tolist()
    # What torch raises for an unknown name, for CUDA in a build without it, and for `meta`.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device!r} cannot be used ({first_line(error)}); try cpu") from error
    return device


@cache
def _tell(level: int, message: str) -> None:
    """Once: who plans asks, and who builds a pipeline, anew each time that a node was lost."""
    logger.log(level, message)
