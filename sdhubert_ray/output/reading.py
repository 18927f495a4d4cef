"""The layout of an output folder: what identifies a run, how rows are committed, how they are read back.

OUTPUT/run.json                     config, fingerprint, versions, counts, times
OUTPUT/segments/RUN-DIGEST.parquet  rows committed by run number RUN, named by their keys
"""

import functools
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.audio import FRAME_RATE
from sdhubert_ray.errors import UserError
from sdhubert_ray.tables import Array, read_intervals, read_ragged, read_vectors

RUN_RECORD = "run.json"
SEGMENTS_FOLDER = "segments"

_COMMIT_NAME = re.compile(r"[0-9]{5}-[0-9a-f]{16}\.parquet")
# From harmless to lost: a file has the worst status of its pieces, but speech anywhere makes silence `ok`.
_SEVERITY = ("too_short", "silent", "ok", "truncated", "unreadable", "missing", "failed")


@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Attributes:
        formats: `parquet` is always written; `files` and `textgrid` add text files per recording.
        frame_features: `float32` or `float16` keeps the features of all frames, `none` does not.
        segment_features: `auto` keeps them as they were computed; or `float32`, `float16`, `none`.
        compression: the Parquet codec.
    """

    formats: tuple[str, ...] = ("parquet",)
    frame_features: str = "none"
    segment_features: str = "auto"
    compression: str = "zstd"

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple(self.formats))  # from YAML it comes as a list
        _require("output.formats", set(self.formats), ("parquet", "files", "textgrid"))
        _require("output.frame_features", {self.frame_features}, ("none", "float16", "float32"))
        _require("output.segment_features", {self.segment_features}, ("auto", "none", "float16", "float32"))
        _require("output.compression", {self.compression}, ("zstd", "snappy", "lz4", "gzip", "none"))
        if "files" in self.formats and self.frame_features == "none":
            raise ValueError("output.formats has `files`, which needs output.frame_features float32 or float16")
        if "files" in self.formats and self.segment_features == "none":
            raise ValueError("output.formats has `files`, which needs output.segment_features other than none")


@dataclass(frozen=True)
class FileResult:
    """The segments of one recording, its pieces joined.

    Attributes:
        id: as in the manifest.
        uri: where the audio is.
        status: the worst of its pieces.
        error: why it is not ok, or None.
        duration: seconds.
        num_frames: T, frames at 50 Hz.
        segments: (S, 2) float64, seconds of the file.
        segment_features: (S, D) float32 or float16, or None where they were not kept.
        units: (S,) int32, or None without a quantizer.
        offset: where it begins, in seconds of the file.
    """

    id: str
    uri: str
    status: str
    error: str | None
    duration: float
    num_frames: int
    segments: npt.NDArray[np.float64]
    segment_features: Array | None
    units: Array | None
    offset: float = 0.0


def fingerprint(values: Mapping[str, object]) -> dict[str, str]:
    """What decides the results of a run, flat: dotted key -> JSON value."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": text for inner, text in fingerprint(value).items()})
        else:
            flat[key] = json.dumps(value)
    return flat


def read_run(output: str) -> dict[str, Any] | None:
    """The run record of an output, or None where there is none.

    Raises:
        UserError: it is damaged, or the folder holds something else.
    """
    try:
        data = storage.read_bytes(storage.join(output, RUN_RECORD))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{storage.join(output, RUN_RECORD)} cannot be read ({error})") from error
    try:
        record = json.loads(data)
        if not isinstance(record["fingerprint"], dict) or not isinstance(record["runs"], int):
            raise KeyError("fingerprint")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{storage.join(output, RUN_RECORD)} is no run record; choose another output") from error
    return dict(record)


def write_run(output: str, record: Mapping[str, object]) -> None:
    """Write the run record, whole. Raises UserError where the output cannot be written."""
    storage.put(storage.join(output, RUN_RECORD), json.dumps(record, indent=1).encode() + b"\n")


def open_output(output: str, wanted: Mapping[str, str], overwrite: bool) -> dict[str, Any] | None:
    """Look at an output before a run into it; nothing is changed.

    Returns:
        the record of the run to resume, or None for a new one (which `clear_output` has to make room for).

    Raises:
        UserError: it was made with another configuration (the message names the keys), or is no output folder.
    """
    if storage.exists(output) and not storage.is_folder(output):
        raise UserError(f"output {output} is a file; name a folder")
    segments = storage.join(output, SEGMENTS_FOLDER)
    names = storage.list_files(segments) if storage.exists(segments) else []
    foreign = [name for name in names if name.endswith(".parquet") and not _COMMIT_NAME.fullmatch(name)]
    if foreign:
        raise UserError(f"{segments} holds {foreign[0]}, which no run has written; choose another output")
    if overwrite:
        return None
    record = read_run(output)
    if record is None:
        if names:
            raise UserError(
                f"output {output} has segments but no {RUN_RECORD}; choose another output, or --overwrite it"
            )
        return None
    before = record["fingerprint"]
    differing = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
    if differing:
        listed = ", ".join(
            f"{key} ({before.get(key, 'unset')} there, {wanted.get(key, 'unset')} now)" for key in differing
        )
        raise UserError(
            f"output {output} was made with another configuration: {listed}; choose another output, or --overwrite it"
        )
    return record


def clear_output(output: str) -> None:
    """Remove the rows and the record of earlier runs. Files in further formats stay until they are written again."""
    storage.remove(storage.join(output, SEGMENTS_FOLDER))
    storage.remove(storage.join(output, RUN_RECORD))


def commit_rows(output: str, run: int, table: pa.Table, compression: str) -> str:
    """Write rows as one Parquet file, at once or not at all, and return its name.

    The name comes from the keys: a task that is run again replaces its own file.
    """
    digest = hashlib.sha256("\0".join(table.column("key").to_pylist()).encode()).hexdigest()[:16]
    name = f"{run:05d}-{digest}.parquet"
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression, write_page_checksum=True)
    storage.put(storage.join(output, f"{SEGMENTS_FOLDER}/{name}"), buffer.getvalue())
    return name


def list_commits(output: str) -> list[str]:
    """The names of the committed files, the oldest run first."""
    folder = storage.join(output, SEGMENTS_FOLDER)
    return [name for name in storage.list_files(folder) if name.endswith(".parquet")] if storage.exists(folder) else []


def read_commit(output: str, name: str, columns: Sequence[str]) -> pa.Table:
    """Read columns of a committed file; those that it does not have are left out.

    Raises:
        UserError: it is not a whole Parquet file.
    """
    uri = storage.join(output, f"{SEGMENTS_FOLDER}/{name}")
    with storage.open_binary(uri) as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            present = [column for column in columns if column in parquet.schema_arrow.names]
            return parquet.read(columns=present)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{uri} is damaged ({reason}); remove it and run again to make its rows anew") from error


def committed_uris(output: str) -> dict[str, str]:
    """The keys that are done, and where the audio of each was read."""
    done: dict[str, str] = {}
    for name in list_commits(output):
        table = read_commit(output, name, ["key", "uri"])
        done.update(zip(table.column("key").to_pylist(), table.column("uri").to_pylist(), strict=True))
    return done


def read_files(output: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read an output recording by recording: a table of its pieces, in order, the latest attempt of each.

    Args:
        output: folder of a run.
        columns: columns to read, those that are there.

    Raises:
        UserError: there is no run, or a file of it is damaged.
    """
    if read_run(output) is None:
        raise UserError(f"{output} holds no {RUN_RECORD}; name the output folder of `sdhubert segment`")
    places: dict[str, dict[int, tuple[str, int]]] = {}
    for name in list_commits(output):
        index = read_commit(output, name, ["id", "piece"])
        for row, (file_id, piece) in enumerate(zip(*(column.to_pylist() for column in index.columns), strict=True)):
            places.setdefault(file_id, {})[piece] = (name, row)

    # Rows of one recording mostly stand in one file, or in two neighbours.
    load = functools.lru_cache(maxsize=2)(lambda name: read_commit(output, name, columns))
    for pieces in places.values():
        yield pa.concat_tables([load(name).slice(row, 1) for _, (name, row) in sorted(pieces.items())])


def read_segments(output: str) -> Iterator[FileResult]:
    """Iterate over the recordings of an output folder, the pieces of long ones joined.

    Raises:
        UserError: there is no run, or a file of it is damaged.
    """
    columns = ["id", "uri", "piece", "offset", "duration", "status", "error", "num_frames"]
    for table in read_files(output, [*columns, "segments", "segment_features", "units"]):
        yield join_pieces(table)


def join_pieces(table: pa.Table) -> FileResult:
    """Join the rows of one recording's pieces."""
    rows = table.drop_columns(
        [name for name in ("segments", "segment_features", "units") if name in table.column_names]
    )
    pieces = rows.to_pylist()
    status = worst_status([row["status"] for row in pieces])
    worst = next(row for row in pieces if row["status"] == status)
    segments = [array for array in read_intervals(table.column("segments")) if array is not None]
    features = read_vectors(table.column("segment_features")) if "segment_features" in table.column_names else []
    kept = [array for array in features if array is not None]
    units = [array for array in read_ragged(table.column("units")) if array is not None]
    return FileResult(
        id=worst["id"],
        uri=worst["uri"],
        status=worst["status"],
        error=worst["error"],
        duration=sum(row["duration"] or 0.0 for row in pieces),
        num_frames=count_joined([row["offset"] for row in pieces], [row["num_frames"] for row in pieces]),
        segments=np.concatenate(segments) if segments else np.zeros((0, 2)),
        segment_features=np.concatenate(kept) if kept else None,
        units=np.concatenate(units) if units else None,
        offset=pieces[0]["offset"],
    )


def worst_status(statuses: Sequence[str]) -> str:
    """The status of a recording whose pieces have these."""
    return max(statuses, key=_SEVERITY.index)


def count_joined(offsets: Sequence[float], num_frames: Sequence[int]) -> int:
    """Frames of a recording whose pieces begin at these seconds of the file; one without frames adds none."""
    first = frame_offset(offsets[0])
    ends = (frame_offset(offset) - first + count for offset, count in zip(offsets, num_frames, strict=True) if count)
    return max(ends, default=0)


def frame_offset(offset_seconds: float) -> int:
    """The frame of the file at which a piece begins; joints lie on the frame grid."""
    return round(offset_seconds * FRAME_RATE)


def _require(key: str, values: set[str], known: tuple[str, ...]) -> None:
    unknown = sorted(values - set(known))
    if unknown:
        raise ValueError(f"{key} is {unknown[0]!r}; it has to be one of {', '.join(known)}")
