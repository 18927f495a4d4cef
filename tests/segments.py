"""Segments tables of made features, for tests and benchmarks of what works on features alone."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from outputs import commits_in, write_output

from sdhubert_ray.output import find_groups, list_plans, publish_commits
from sdhubert_ray.output.tables import RESULT_FIELDS, SEGMENTS, ragged_intervals, ragged_vectors

FINGERPRINT = {"checkpoint_sha256": '"abc"', "preset": '"readme"'}


def clustered(count: int, width: int, clusters: int, seed: int = 0, noise: float = 0.7) -> np.ndarray:
    """Vectors around random centers, with clusters of different sizes: (count, width) float32."""
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((clusters, width))
    labels = generator.choice(clusters, count, p=generator.dirichlet(np.ones(clusters)))
    return (centers[labels] + noise * generator.standard_normal((count, width))).astype(np.float32)


def speech_like(count: int, width: int, clusters: int, seed: int = 0) -> np.ndarray:
    """Vectors without clean clusters, whose variance falls as 1/i by coordinate: (count, width) float32."""
    generator = np.random.default_rng(seed)
    scales = (1 / np.sqrt(np.arange(1, width + 1))).astype(np.float32)
    centers = generator.standard_normal((clusters, width), np.float32)
    features = generator.standard_normal((count, width), np.float32)
    features += centers[generator.choice(clusters, count, p=generator.dirichlet(np.ones(clusters)))]
    features *= scales
    return features


def make_table(keys: Sequence[str], features: Sequence[np.ndarray | None], dtype: type = np.float32) -> pa.Table:
    """Rows with these features; None is a recording that is missing."""
    count = len(keys)
    counts = [0 if rows is None else len(rows) for rows in features]
    width = next(rows.shape[1] for rows in features if rows is not None)
    values = {
        "key": keys,
        "id": [key.partition("#")[0] for key in keys],
        "uri": [f"/audio/{key}" for key in keys],
        "piece": pa.array([0] * count, pa.int32()),
        "offset": [0.0] * count,
        "duration": [0.2 * rows for rows in counts],
        "status": ["missing" if rows is None else "ok" for rows in features],
        "num_frames": pa.array([10 * rows for rows in counts], pa.int32()),
    }
    spans = [np.stack([np.arange(rows), np.arange(1, rows + 1)], axis=1) * 0.2 for rows in counts]
    columns = [
        ragged_intervals([None if rows is None else span for rows, span in zip(features, spans, strict=True)], SEGMENTS)
        if field.name == "segments"
        else pa.array(values[field.name], field.type)
        if field.name in values
        else pa.nulls(count, field.type)
        for field in RESULT_FIELDS
    ]
    names = [field.name for field in RESULT_FIELDS]
    table = pa.table(columns, names=names)
    table = table.append_column("segment_features", ragged_vectors(features, dtype, width))
    return table.append_column("units", pa.nulls(count, pa.list_(pa.int32())))


def write_segments(
    output: str, features: np.ndarray, *, rows: int = 40, unit_rows: int = 7, dtype: type = np.float32
) -> str:
    """An output whose rows share out these features, in units of `unit_rows` rows. Returns its URI."""
    cuts = np.sort(np.random.default_rng(3).integers(0, len(features) + 1, rows - 1))
    parts: list[np.ndarray | None] = list(np.split(features, cuts))
    keys = [f"speaker/{row:05d}.flac#0" for row in range(rows)]
    tables = [
        (1, make_table(keys[begin : begin + unit_rows], parts[begin : begin + unit_rows], dtype))
        for begin in range(0, rows, unit_rows)
    ]
    return write_output(output, tables, FINGERPRINT)


def publish_all(output: str) -> None:
    """Make all commits of an output's plan one file of the table."""
    (plan,) = list_plans(output)
    (group,) = find_groups(commits_in(output), plan, plan.num_rows)
    publish_commits(output, group, "zstd", frozenset())
