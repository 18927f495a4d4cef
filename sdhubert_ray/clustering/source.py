"""The segments table that vectors are taken from: how many there are in which file."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import Commit, require_contents
from sdhubert_ray.output.commits import read_commits
from sdhubert_ray.output.parquet import read_schema
from sdhubert_ray.output.summary import latest_attempts
from sdhubert_ray.output.tables import FAILED_STATUSES

_COLUMNS = ("key", "status", "segments")


@dataclass(frozen=True)
class SourceFile:
    """A file of the table.

    Attributes:
        name: relative to the output.
        size: bytes.
        num_vectors: in the rows that count.
        superseded: keys of rows that do not count: a later file has them again.
    """

    name: str
    size: int
    num_vectors: int
    superseded: tuple[str, ...]


@dataclass(frozen=True)
class VectorSource:
    """A segments table.

    Attributes:
        output: its folder, absolute.
        run_id: of the run that wrote it last.
        fingerprint: of that run.
        files: with vectors in them.
        num_rows: rows that count.
        width: D of a vector.
        dtype: `float32` or `float16`.
        rows_left: rows that are planned and not done.
        rows_failed: rows that are unreadable, missing or failed.
        digest: of the keys and the numbers of their vectors, in whatever files and order.
    """

    output: str
    run_id: str
    fingerprint: Mapping[str, str]
    files: tuple[SourceFile, ...]
    num_rows: int
    width: int
    dtype: str
    rows_left: int
    rows_failed: int
    digest: str

    @property
    def num_vectors(self) -> int:
        """Vectors in all files."""
        return sum(file.num_vectors for file in self.files)


def open_source(uri: str) -> VectorSource:
    """Count the vectors of a segments table. Features are not read.

    Raises:
        UserError: it is no output of `sdhubert segment`, keeps no segment features, has none, or is damaged.
        TransientError: the store could not be reached.
    """
    output = storage.absolute(uri).rstrip("/")
    contents = require_contents(output)
    plans, commits = contents.plans, contents.commits
    if not commits:
        raise UserError(f"{uri} has no rows that are done; run the `sdhubert segment` that makes it first")
    width, dtype = _vector_type(uri, read_schema(storage.join(output, commits[0].name)))
    latest = latest_attempts(output, plans, commits)
    files, rows, failed, digest = [], 0, 0, 0
    for commit, table in read_commits(output, commits, _COLUMNS):
        superseded = _superseded(table, commit, latest)
        counted = table.filter(pc.invert(pc.is_in(table.column("key"), pa.array(superseded, pa.string()))))
        counts = count_vectors(counted)
        digest = (digest + _digest_rows(counted.column("key").to_pylist(), counts)) % 2**64
        rows += counted.num_rows
        failed += sum(status in FAILED_STATUSES for status in counted.column("status").to_pylist())
        if counts.any():
            files.append(SourceFile(commit.name, commit.size, int(counts.sum()), tuple(superseded)))
    if not files:
        raise UserError(f"{uri} has no syllables in its {rows} rows, so there is nothing to cluster")
    return VectorSource(
        output=output,
        run_id=str(contents.record.get("run_id", "")),
        fingerprint=contents.record["fingerprint"],
        files=tuple(files),
        num_rows=rows,
        width=width,
        dtype=dtype,
        rows_left=contents.rows_left,
        rows_failed=failed,
        digest=f"{digest:016x}",
    )


def count_vectors(table: pa.Table) -> npt.NDArray[np.int64]:
    """The number of segments of each row of a table."""
    lengths = pc.list_value_length(table.column("segments")).fill_null(0)
    return np.asarray(lengths.to_numpy(), np.int64)


def _vector_type(uri: str, schema: pa.Schema) -> tuple[int, str]:
    """Width and type of the segment features."""
    if "segment_features" not in schema.names:
        raise UserError(
            f"{uri} keeps no segment features (output.segment_features=none); segment again with them, or `sdhubert "
            "resegment` from frame features"
        )
    vectors = schema.field("segment_features").type.value_type
    return vectors.list_size, {"halffloat": "float16", "float": "float32"}[str(vectors.value_type)]


def _superseded(table: pa.Table, commit: Commit, latest: Mapping[str, int]) -> list[str]:
    if not latest:
        return []
    return [key for key in table.column("key").to_pylist() if latest.get(key, commit.plan) != commit.plan]


def _digest_rows(keys: Sequence[str], counts: npt.NDArray[np.int64]) -> int:
    """A sum, so that neither order nor files matter."""
    rows = zip(keys, counts.tolist(), strict=True)
    hashes = (hashlib.blake2b(f"{key}\0{count}".encode(), digest_size=8).digest() for key, count in rows)
    return sum(int.from_bytes(value, "little") for value in hashes)
