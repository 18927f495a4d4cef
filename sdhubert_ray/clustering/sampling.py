"""A reservoir sample: the vectors with the smallest of pseudo-random priorities, whoever reads them in what order."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.clustering.shards import ALL, SHARD_BYTES, SIGMAS, Limits, Sample, ShardWriter
from sdhubert_ray.clustering.source import SourceFile, VectorSource, count_vectors
from sdhubert_ray.errors import UserError
from sdhubert_ray.output.parquet import read_parquet
from sdhubert_ray.output.tables import Array, read_vectors

SAMPLE_FOLDER = "sample"
SAMPLE_FILE = re.compile(r"[0-9]{5}-[0-9a-f]{12}(\.json|-[0-9]{5}\.safetensors)")
"""What the files in it are called."""
_LOT_FILES = 256
_LOTS, _LEAST_LOT_BYTES = 32, 2 << 20
"""A small sample is cut finer, so that several workers have a part of it."""
_COLUMNS = ("key", "segments", "segment_features")


def choose_limits(num_vectors: int, wanted: int) -> Limits:
    """Limits between which the exact one for `wanted` of `num_vectors` vectors lies."""
    if wanted >= num_vectors:
        return Limits(ALL, ALL)
    spread = SIGMAS * math.sqrt(wanted) + 2 * SIGMAS
    lower, upper = ((wanted + side * spread) / num_vectors for side in (-1, 1))
    return Limits(max(0, int(lower * 2**53)) << 11, min(2**53, math.ceil(upper * 2**53)) << 11)


def choose_priorities(seed: int, keys: Sequence[str], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The priorities of vectors, by the keys of their rows and their places in them.

    Args:
        seed: of the sample.
        keys: of rows.
        counts: vectors of each row.

    Returns:
        (sum of counts,) uint64, uniform.
    """
    secret = seed.to_bytes(-(-max(seed.bit_length(), 1) // 8), "little")[:64]
    digests = (hashlib.blake2b(key.encode(), digest_size=8, key=secret).digest() for key in keys)
    rows = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
    first = np.cumsum(counts) - counts
    places = (np.arange(counts.sum()) - np.repeat(first, counts)).astype(np.uint64)
    # splitmix64 (Steele, Lea and Flood, 2014), a sequence for each row.
    mixed = np.repeat(rows, counts) + (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def make_lots(source: VectorSource, limits: Limits) -> list[list[SourceFile]]:
    """Runs of files whose chosen vectors fill a shard, more or less: what one task does."""
    bytes_each = source.width * np.dtype(source.dtype).itemsize * limits.upper / ALL
    wanted = min(SHARD_BYTES, max(_LEAST_LOT_BYTES, source.num_vectors * bytes_each / _LOTS))
    lots: list[list[SourceFile]] = []
    filled = math.inf
    for file in source.files:
        size = file.num_vectors * bytes_each
        if filled + size > wanted or len(lots[-1]) == _LOT_FILES:
            lots.append([])
            filled = 0.0
        lots[-1].append(file)
        filled += size
    return lots


def lot_table(number: int, lot: Sequence[SourceFile]) -> pa.Table:
    """A lot as one row."""
    names = pa.array([[file.name for file in lot]])
    sizes = pa.array([[file.size for file in lot]], pa.list_(pa.int64()))
    superseded = pa.array([[list(file.superseded) for file in lot]], pa.list_(pa.list_(pa.string())))
    return pa.table({"lot": [number], "names": names, "sizes": sizes, "superseded": superseded})


class SampleLots:
    """Take a lot's part of the sample into shards, files of features and priorities.

    In:  a row of `lot_table`.  Out: lot, report (JSON: shards, priorities near the limit; kept beside them).
    """

    def __init__(self, source: str, work: str, seed: int, limits: Limits) -> None:
        self.source = source
        self.work = work
        self.seed = seed
        self.limits = limits

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do a lot, unless it has been done already."""
        lot = batch.to_pylist()[0]
        digest = hashlib.sha256(json.dumps([lot, self.seed, asdict(self.limits)]).encode()).hexdigest()[:12]
        base = storage.join(self.work, f"{SAMPLE_FOLDER}/{lot['lot']:05d}-{digest}")
        report = _read_if_there(f"{base}.json")
        if report is None:
            report = json.dumps(self._take(lot, base)).encode()
            storage.put(f"{base}.json", report)
        return pa.table({"lot": [lot["lot"]], "report": [report.decode()]})

    def _take(self, lot: Mapping[str, Any], base: str) -> dict[str, Any]:
        shards = ShardWriter(base, self.limits)
        for name, size, superseded in zip(lot["names"], lot["sizes"], lot["superseded"], strict=True):
            self._take_file(name, size, frozenset(superseded), shards)
        return shards.report()

    def _take_file(self, name: str, size: int, superseded: frozenset[str], shards: ShardWriter) -> None:
        uri = storage.join(self.source, name)

        def read(parquet: pq.ParquetFile) -> pa.Table:
            for group in range(parquet.num_row_groups):
                shards.add(
                    *self._choose(uri, parquet.read_row_group(group, list(_COLUMNS), use_threads=False), superseded)
                )
            return parquet.schema_arrow.empty_table()

        read_parquet(uri, read, size or None)

    def _choose(
        self, uri: str, table: pa.Table, superseded: frozenset[str]
    ) -> tuple[Array | None, npt.NDArray[np.uint64]]:
        """The vectors of some rows that have their priorities below the upper limit."""
        keys, counts = table.column("key").to_pylist(), count_vectors(table)
        vectors = read_vectors(table.column("segment_features"))
        found = [0 if rows is None else len(rows) for rows in vectors]
        if found != counts.tolist():
            raise UserError(f"{uri} is damaged (a row has not as many features as segments); remove it and run again")
        kept = [rows for rows in vectors if rows is not None]
        features = np.concatenate(kept) if kept else None
        priorities = choose_priorities(self.seed, keys, counts)
        chosen = priorities <= np.uint64(self.limits.upper - 1)
        if superseded:
            chosen &= ~np.repeat(np.array([key in superseded for key in keys], bool), counts)
        if features is None:
            return None, priorities[:0]
        features = features[chosen]
        if not np.isfinite(features).all():
            raise UserError(f"{uri} has segment features that are NaN or infinite; segment its recordings again")
        return features, priorities[chosen]


def join_reports(reports: Iterable[Mapping[str, Any]], source: VectorSource, limits: Limits, wanted: int) -> Sample:
    """The sample of all lots: as many as are wanted, to the vector.

    Raises:
        UserError: the limits have missed, which an unlucky seed may do once in 10^15 times.
    """
    shards: list[tuple[str, int]] = []
    near: list[int] = []
    largest = 0.0
    for report in reports:
        shards += [(uri, count) for uri, count in report["shards"]]
        near += report["near"]
        largest = max(largest, report["largest"])
    total = sum(count for _, count in shards)
    limit, size = limits.upper, total
    if total > wanted:
        place = wanted - (total - len(near))
        if place < 0:
            raise UserError("the sample has become larger than this seed's priorities allow; take another --seed")
        limit, size = sorted(near)[place], wanted
    shards.sort()
    return Sample(
        shards=tuple(uri for uri, _ in shards),
        limit=limit,
        num_vectors=size,
        width=source.width,
        dtype=source.dtype,
        largest=largest,
    )


def _read_if_there(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return None
