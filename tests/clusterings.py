"""Clusterings small enough for tests."""

from pathlib import Path

import numpy as np

from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.planning import ClusterJob, prepare_clustering
from sdhubert_ray.clustering.running import Clustered, run_clustering
from sdhubert_ray.clustering.sampling import (
    choose_priorities,
)

SMALL = ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500)


class StopError(Exception):
    """Ends a run at a moment of the test's choice."""


def cluster(source: str, output: Path, options: ClusterOptions = SMALL, **choices: object) -> Clustered:
    workers = Workers(device="cpu", **{key: choices.pop(key) for key in ("count", "memory_gib") if key in choices})
    job = prepare_clustering(source, str(output), options, workers, **{"engine": "local", **choices})
    return run_clustering(job, lambda *_: None)


def prepare(source: str, output: Path, options: ClusterOptions = SMALL, overwrite: bool = False) -> ClusterJob:
    return prepare_clustering(source, str(output), options, Workers(device="cpu"), overwrite=overwrite)


def same(first: Path, second: Path) -> bool:
    names = ("quantizer.safetensors",)
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def every_priority(source: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All vectors of a table by priority, and the priorities, row by row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sdhubert_ray.output.tables import read_vectors

    table = pa.concat_tables(pq.read_table(path) for path in sorted(Path(source, "commits").glob("*.parquet")))
    features = [rows for rows in read_vectors(table.column("segment_features")) if rows is not None]
    keys = [key for key, status in zip(*(table.column(name).to_pylist() for name in ("key", "status")), strict=True)
            if status == "ok"]  # fmt: skip
    counts = np.array([len(rows) for rows in features])
    priorities = choose_priorities(seed, keys, counts)
    order = np.argsort(priorities)
    return np.concatenate(features)[order], priorities[order]
