"""k-means over a table that may be far larger than memory, and Ward's reduction: from segments to a quantizer.

SEGMENTS ─ source: count ─> sampling: the vectors of the smallest priorities ─> OUT/work/sample/, shards
         ─> fitting: k-means++, then step after step over the shards, each kept as OUT/work/state.safetensors
         ─> Ward ─> OUT/quantizer.safetensors, quantizer.json

The result depends on the rows, the options and the seed: not on files, workers or interruptions. Only where memory or
disk is short, which is told, are fewer vectors taken. Of devices see `kmeans.seeding`; all other steps are exact.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdhubert_ray.clustering.options import ClusterOptions, Workers
    from sdhubert_ray.clustering.planning import ClusterJob, prepare_clustering
    from sdhubert_ray.clustering.running import Clustered, run_clustering

__all__ = ["ClusterJob", "ClusterOptions", "Clustered", "Workers", "prepare_clustering", "run_clustering"]

_HOMES = {
    "ClusterJob": "planning",
    "ClusterOptions": "options",
    "Clustered": "running",
    "Workers": "options",
    "prepare_clustering": "planning",
    "run_clustering": "running",
}


def __getattr__(name: str) -> object:
    """Import what is asked for only when it is: many workers take the sample, and none of them needs torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
