"""Rows to work on: long recordings cut into pieces, pieces gathered into units."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.corpus.columns import MOST_SECONDS
from sdhubert_ray.corpus.shards import PARQUET_SUFFIX, audio_to_decode
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.output.tables import MANIFEST_FIELDS
from sdhubert_ray.speech.audio import probe_duration

_PROBES_AT_ONCE = 32
_PLACE = ("uri", "member", "byte_offset", "byte_size", "source_size")

Place = tuple[str, str | None, int | None, int | None, int | None]
"""Where a recording is, as `audio_to_decode` takes it."""
Probe = Callable[[Sequence[Place]], Sequence[float]]
"""Tells the lengths of recordings, seconds; NaN of those that cannot be read."""
Floats = npt.NDArray[np.float64]


def probe_durations(places: Sequence[Place]) -> list[float]:
    """Read the lengths of recordings from their headers, many at once: seconds, or NaN where they cannot be read."""
    with ThreadPoolExecutor(min(_PROBES_AT_ONCE, len(places))) as pool:
        return list(pool.map(_probe, places))


def cut_pieces(table: pa.Table, piece_seconds: float, probe: Probe = probe_durations) -> pa.Table:
    """Give each recording its rows: one, or for audio over `piece_seconds` one per piece, with `key` = id#piece.

    Durations that the table does not tell are read from the files; what cannot be read stays one row, and its
    reason is found where it is decoded.

    Args:
        table: rows of an input: `id`, `uri`, and any other columns of `INPUT_TYPES` and to carry.
        piece_seconds: length of a piece at most, seconds.
        probe: asked, once, for the durations that the table does not tell and that matter.

    Returns:
        `MANIFEST_FIELDS` and the columns carried through. A nominal joint lies at each inner `end`.
    """
    start, end = np.nan_to_num(_floats(table, "start")), _floats(table, "end")
    duration = _known_durations(table, start, end, piece_seconds, probe)
    # A part behind the end of its file is empty.
    stop = np.maximum(start, np.fmin(end, duration))
    known = ~np.isnan(stop)
    counts = np.ones(table.num_rows, np.int64)
    counts[known] = np.maximum(1, np.ceil((stop[known] - start[known]) / piece_seconds))
    length = (stop - start) / counts  # of each piece
    source = np.repeat(np.arange(table.num_rows), counts)
    piece = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.where(piece == 0, start[source], start[source] + piece * length[source])
    # The last piece reads to the end, whatever the header says.
    is_last = piece == counts[source] - 1
    until = np.where(is_last, end[source], start[source] + (piece + 1) * length[source])
    rows = table.take(pa.array(source))
    ids = rows.column("id")
    columns: dict[str, Any] = {
        "key": pc.binary_join_element_wise(ids.cast(pa.string()), pa.array(piece).cast(pa.string()), "#"),
        "piece": pa.array(piece, pa.int32()),
        "num_pieces": pa.array(counts[source], pa.int32()),
        "start": pa.array(begin),
        "end": pa.array(until, from_pandas=True),  # NaN is null
        "duration": pa.array(length[source], from_pandas=True),
    }
    for field in MANIFEST_FIELDS:
        if field.name not in columns:
            there = field.name in table.column_names
            columns[field.name] = rows.column(field.name) if there else pa.nulls(len(source), field.type)
    ours = pa.table({field.name: columns[field.name] for field in MANIFEST_FIELDS}).cast(pa.schema(MANIFEST_FIELDS))
    for name in rows.column_names:
        if name not in columns:
            ours = ours.append_column(rows.schema.field(name), rows.column(name))
    return ours


def split_units(
    batches: Iterator[pa.Table], unit_seconds: Callable[[float, bool], float], unit_rows: int
) -> Iterator[pa.Table]:
    """Split a manifest into units of work: consecutive rows of about so much audio, at most `unit_rows`.

    Rows of one shard stay together where they fit into one unit, and a longer shard begins a unit of its own, so that
    a worker reads few shards.

    Args:
        batches: the manifest, pieces cut.
        unit_seconds: given the audio of the units before it, and whether the next row is in a Parquet shard, how much a
            unit of several rows holds at most; seconds. It may grow, and not fall, with the audio before.
        unit_rows: a unit holds no more rows.
    """
    held = _Held()
    unit, group = _Size(), _Size()  # what the unit holds, and the rows of one shard that come after it
    shard: str | None = None
    before = 0.0
    for batch in batches:
        held.add(batch)
        for seconds, of_shard in zip(batch.column("duration").to_pylist(), _shards(batch), strict=True):
            row = _Size(1, seconds or 0.0)
            # A worker reads whole row groups for a row of them.
            most = unit_seconds(before, of_shard is not None and of_shard.lower().endswith(PARQUET_SUFFIX))
            together = of_shard is not None and of_shard == shard
            if group.rows and not (together and (group + row).fits(most, unit_rows)):
                if unit.rows and not (unit + group).fits(most, unit_rows):
                    yield held.take(unit.rows)
                    before += unit.seconds
                    unit = _Size()
                unit, group = unit + group, _Size()
            group, shard = group + row, of_shard
    if unit.rows and not (unit + group).fits(unit_seconds(before, False), unit_rows):
        yield held.take(unit.rows)
        unit = _Size()
    if unit.rows + group.rows:
        yield held.take(unit.rows + group.rows)


class _Size:
    """Rows, and their seconds of audio."""

    def __init__(self, rows: int = 0, seconds: float = 0.0) -> None:
        self.rows = rows
        self.seconds = seconds

    def __add__(self, other: "_Size") -> "_Size":
        return _Size(self.rows + other.rows, self.seconds + other.seconds)

    def fits(self, seconds: float, rows: int) -> bool:
        return self.rows <= rows and self.seconds <= seconds


class _Held:
    """Rows that came in batches and leave in units."""

    def __init__(self) -> None:
        self._batches: deque[pa.Table] = deque()

    def add(self, batch: pa.Table) -> None:
        self._batches.append(batch)

    def take(self, rows: int) -> pa.Table:
        parts = []
        while rows:
            batch = self._batches.popleft()
            parts.append(batch.slice(0, rows))
            rows -= parts[-1].num_rows
            if parts[-1].num_rows < batch.num_rows:
                self._batches.appendleft(batch.slice(parts[-1].num_rows))
        return pa.concat_tables(parts)


def _shards(batch: pa.Table) -> list[str | None]:
    """The shard of each row, None for a row that is a file by itself."""
    if "member" not in batch.column_names:
        return [None] * batch.num_rows
    members = batch.column("member").is_valid().to_pylist()
    return [uri if member else None for uri, member in zip(batch.column("uri").to_pylist(), members, strict=True)]


def _floats(table: pa.Table, name: str) -> Floats:
    """(rows,) values of a column; null, or no such column, is NaN."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table.column(name).cast(pa.float64())
    values: Floats = pc.fill_null(column, np.nan).to_numpy()
    return values


def _known_durations(table: pa.Table, start: Floats, end: Floats, piece_seconds: float, probe: Probe) -> Floats:
    """Durations as told or, where the number of pieces hangs on them, as probed; seconds of the file, or NaN."""
    durations = _floats(table, "duration").copy()
    unknown = np.flatnonzero(np.isnan(durations) & ~(end - start <= piece_seconds))
    if len(unknown):
        rows = table.take(pa.array(unknown))
        missing = [None] * len(unknown)
        columns = [rows.column(name).to_pylist() if name in rows.column_names else missing for name in _PLACE]
        durations[unknown] = probe(list(zip(*columns, strict=True)))
    return durations


def _probe(place: Place) -> float:
    try:
        with audio_to_decode(*place, sparse=True) as file:
            seconds = probe_duration(file)
            return seconds if seconds < MOST_SECONDS else np.nan
    except (OSError, AudioError, UserError):
        return np.nan  # the decode stage meets the same error and records it in the row
