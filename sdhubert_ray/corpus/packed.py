"""Inputs whose recordings lie inside shards: tars (WebDataset), and Parquet files with audio bytes."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from sdhubert_ray import storage
from sdhubert_ray.corpus.columns import INPUT_TYPES, check_names, check_rows, conform
from sdhubert_ray.corpus.files import File, has_audio_name, refuse_bad_name, stat_file
from sdhubert_ray.corpus.reading import open_parquet, read_batches
from sdhubert_ray.corpus.selection import BATCH_ROWS, Seen, Source, Tally, digests_of, in_order
from sdhubert_ray.corpus.shards import AudioColumn, Member, beside, find_audio, holds_bytes, index_tar, is_relative
from sdhubert_ray.errors import AudioError, UserError

_SHARDS_AT_ONCE = 8
_TAR_COLUMNS = ("id", "uri", "member", "byte_offset", "byte_size", "source_size", "source_version")
_OF_SHARD = frozenset(("uri", "member", "byte_offset", "byte_size", "source_size", "source_version"))


def tar_source(files: Sequence[File], where: str, ignored: int) -> Source:
    """The audio in tars: an id is the shard's name without its ending, and the member's.

    Args:
        files: the tars.
        where: how messages call them all.
        ignored: how many files beside them are no tars.
    """
    tally = Tally()

    def read() -> Iterator[pa.Table]:
        tally.ignored = ignored
        members_seen, rows_seen = 0, 0
        for file, members in in_order(_index, files, _SHARDS_AT_ONCE):
            audio = [member for member in members if _is_audio(member, file)]
            members_seen += len(members)
            rows_seen += len(audio)
            tally.ignored += len(members) - len(audio)
            for begin in range(0, len(audio), BATCH_ROWS):
                yield _tar_rows(file, audio[begin : begin + BATCH_ROWS])
        if not rows_seen:
            raise UserError(f"{where} has no audio: none of {members_seen} members has an audio ending")

    schema = pa.schema([pa.field(name, INPUT_TYPES[name]) for name in _TAR_COLUMNS])
    return Source(where, schema, read, tally, ids_are_paths=True)


def parquet_source(files: Sequence[File], where: str, ignored: int) -> Source:
    """The audio in Parquet files that hold its bytes; other plain columns are carried through, the bytes never.

    Args:
        files: the Parquet files, all of one schema.
        where: how messages call them all.
        ignored: how many files beside them are no Parquet.

    Raises:
        UserError: one cannot be read or has no audio bytes.
    """
    tally = Tally()
    first = _open_schema(files[0])
    naming = "id" if "id" in first.plain else "row"
    if naming == "row" and _paths_are_names(files, first):
        naming = "path"
    schema = _parquet_rows(first.empty, files[0], first, naming, 0, False).schema

    def read() -> Iterator[pa.Table]:
        tally.ignored = ignored
        rows_seen = 0
        for file in map(_stat_shard, files):
            for table in _read_parquet(file, first, files[0], naming):
                rows_seen += table.num_rows
                yield _cast_rows(table, schema, file)
        if not rows_seen:
            raise UserError(f"{where} has no rows")

    return Source(where, schema, read, tally, ids_are_paths=naming == "row")


@dataclass(frozen=True)
class _Shard:
    """What the footer of a Parquet file tells.

    Attributes:
        audio: its column of bytes.
        plain: the columns that are carried or that we know.
        empty: no rows of it.
    """

    audio: AudioColumn
    plain: list[str]
    empty: pa.Table


def _index(file: File) -> tuple[File, list[Member]]:
    file = _stat_shard(file)
    try:
        return file, index_tar(file.uri, file.size)
    except storage.TransientError:
        raise
    except AudioError as error:
        raise UserError(f"shard {file.uri} {error}") from error
    except OSError as error:
        raise UserError(f"shard {file.uri} cannot be read ({error})") from error


def _stat_shard(file: File) -> File:
    try:
        return stat_file(file)
    except storage.TransientError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"shard {file.uri} does not exist") from error
    except OSError as error:
        raise UserError(f"shard {file.uri} cannot be read ({error})") from error


def _is_audio(member: Member, file: File) -> bool:
    hidden = any(part.startswith(".") and part != ".." for part in PurePosixPath(member.name).parts)
    if hidden or not has_audio_name(member.name):
        return False
    if member.flaw:
        raise UserError(f"shard {file.uri} has a member {member.name!r} that {member.flaw}")
    return True


def _tar_rows(file: File, members: list[Member]) -> pa.Table:
    shard = str(PurePosixPath(file.name).with_suffix(""))
    for member in members:
        refuse_bad_name(member.name, f"shard {file.uri} has a member whose name ")
    columns = {
        "id": [f"{shard}/{member.name}" for member in members],
        "uri": [file.uri] * len(members),
        "member": [member.name for member in members],
        "byte_offset": [member.offset for member in members],
        "byte_size": [member.size for member in members],
        "source_size": [file.size] * len(members),
        "source_version": [file.version] * len(members),
    }
    return pa.table({name: pa.array(columns[name], INPUT_TYPES[name]) for name in _TAR_COLUMNS})


def _open_schema(file: File) -> _Shard:
    with open_parquet(file.uri, f"shard {file.uri}", file.size) as parquet:
        return _shard_of(parquet.schema_arrow, file)


def _shard_of(schema: pa.Schema, file: File) -> _Shard:
    where = f"shard {file.uri}"
    audio = find_audio(schema)
    if audio is None:
        raise UserError(
            f"{where} has no column `audio` or `bytes` that holds audio bytes; it has {', '.join(schema.names)}"
        )
    plain = [field.name for field in schema if field.name != audio.name and not holds_bytes(field.type)]
    check_names(plain, where)
    taken = sorted(_OF_SHARD & set(plain))
    if taken:
        raise UserError(
            f"{where} has a column {taken[0]!r} beside its audio bytes, which says where they lie; rename it"
        )
    return _Shard(audio, plain, schema.remove_metadata().empty_table())


def _refuse_other_columns(shard: _Shard, first: _Shard, file: File, first_file: File) -> None:
    differing = sorted({shard.audio.name, *shard.plain} ^ {first.audio.name, *first.plain})
    if differing:
        raise UserError(
            f"shards {first_file.uri} and {file.uri} differ in column {differing[0]!r}; "
            "shards of one input need the same columns"
        )


def _paths_are_names(files: Sequence[File], first: _Shard) -> bool:
    """Tell whether the file names beside the bytes are there in every row, and each once in the whole input."""
    seen = Seen()
    for digests in in_order(functools.partial(_path_digests, audio=first.audio), files, _SHARDS_AT_ONCE):
        if digests is None or len(seen.add(digests)):
            return False
    return True


def _path_digests(file: File, audio: AudioColumn) -> npt.NDArray[np.uint64] | None:
    found = []
    with open_parquet(file.uri, f"shard {file.uri}", file.size) as parquet:
        if audio.path_leaf is None or find_audio(parquet.schema_arrow) != audio:
            return None  # of another form than the first shard: refused when its rows are read
        for _, batch in read_batches(parquet, [audio.path_leaf]):
            paths = _paths(batch, audio)
            if not all(paths):
                return None
            found.append(digests_of(paths))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _read_parquet(file: File, first: _Shard, first_file: File, naming: str) -> Iterator[pa.Table]:
    row = 0
    with open_parquet(file.uri, f"shard {file.uri}", file.size) as parquet:
        shard = _shard_of(parquet.schema_arrow, file)
        _refuse_other_columns(shard, first, file, first_file)
        leaves = [*shard.plain, *([shard.audio.path_leaf] if shard.audio.path_leaf else [])]
        for group, batch in read_batches(parquet, leaves):
            empty = _has_no_bytes(parquet.metadata.row_group(group), shard.audio)
            yield _parquet_rows(batch, file, shard, naming, row, empty)
            row += batch.num_rows


def _parquet_rows(
    batch: pa.RecordBatch | pa.Table, file: File, shard: _Shard, naming: str, first_row: int, empty: bool
) -> pa.Table:
    """The rows of an input that a batch of a Parquet shard stands for.

    Args:
        batch: its plain columns and file names, without the bytes.
        file: the shard.
        shard: its columns.
        naming: what ids are: `id` (the column), `path` or `row`.
        first_row: number of its first row in the shard, from 0.
        empty: there are no bytes in it, so that file names stand for files.
    """
    rows = range(first_row, first_row + batch.num_rows)
    paths = _paths(batch, shard.audio) if shard.audio.path_leaf else [None] * len(rows)
    outside = [beside(file.uri, path) if empty and path and is_relative(path) else None for path in paths]
    columns: dict[str, object] = {name: batch.column(name) for name in shard.plain}
    if naming == "path":
        columns["id"] = pa.array(paths, pa.string())
    elif naming == "row":
        stem = str(PurePosixPath(file.name).with_suffix(""))
        columns["id"] = pa.array([f"{stem}/{row}" for row in rows], pa.string())
    columns["uri"] = pa.array([uri or file.uri for uri in outside], pa.string())
    columns["member"] = pa.array(
        [None if uri else str(row) for uri, row in zip(outside, rows, strict=True)], pa.string()
    )
    columns["source_size"] = pa.array([None if uri else file.size for uri in outside], pa.int64())
    columns["source_version"] = pa.array([None if uri else file.version for uri in outside], pa.string())
    where = f"shard {file.uri}"
    table = conform(pa.table(columns), where)
    check_rows(table, first_row + 1, where)
    return table


def _cast_rows(table: pa.Table, schema: pa.Schema, file: File) -> pa.Table:
    try:
        return table.cast(schema)
    except pa.ArrowException as error:
        raise UserError(f"shard {file.uri} has columns of other types than the first shard ({error})") from error


def _paths(batch: pa.RecordBatch | pa.Table, audio: AudioColumn) -> list[str | None]:
    return [value and value.get("path") for value in batch.column(audio.name).to_pylist()]


def _has_no_bytes(group: pa.parquet.RowGroupMetaData, audio: AudioColumn) -> bool:
    """Tell whether all bytes of a row group are null, without reading them."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == audio.leaf:
            statistics = column.statistics
            return bool(statistics and statistics.has_null_count and statistics.null_count == group.num_rows)
    return False
