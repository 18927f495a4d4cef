"""Commits: rows that are done, a Parquet file each, there at once or not at all.

A unit's file has the unit's name: whoever does a unit again replaces the same file, so no row can be there twice. When
a run has finished, small files are put together; the new file covers the old ones from the moment it is there.
"""

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError

SEGMENTS_FOLDER = "segments"
MAX_FILE_BYTES = 256 << 20
"""Files are put together up to this size: they pass through memory."""

_NAME = re.compile(r"([0-9]{5})-([0-9]{7})(?:-([0-9]{7}))?\.parquet")
_READS_AT_ONCE = 8
_ADVICE = "remove it and run again to make its rows anew"


class Commit(NamedTuple):
    """A file of rows that are done: units `first` to `last` (included) of a plan."""

    plan: int
    first: int
    last: int
    name: str
    size: int


def is_commit_name(name: str) -> bool:
    """Tell whether a file of the segments folder is named as commits are."""
    return _NAME.fullmatch(name) is not None


def write_commit(output: str, name: str, table: pa.Table, compression: str) -> int:
    """Write the rows of a unit as one Parquet file, at once or not at all; returns its bytes."""
    data = to_parquet([table], compression)
    storage.put(_uri(output, f"{name}.parquet"), data)
    return len(data)


def list_commits(output: str) -> list[Commit]:
    """What is committed, by plan and unit. Files that a larger one covers are left out: a merge was cut short."""
    return [commit for commit, covered in _listed(output) if not covered]


class GoneError(UserError):
    """A file of results that was there a moment ago."""


def read_parquet(
    uri: str,
    read: Callable[[pq.ParquetFile], pa.Table],
    size: int | None = None,
    advice: str = _ADVICE,
) -> pa.Table:
    """Open a Parquet file of an output and read some of it.

    Args:
        uri: its name.
        read: what to read.
        size: its bytes, if they are known.
        advice: what to do about a damaged one.

    Raises:
        GoneError: it is not there.
        UserError: it is not a whole Parquet file, or may not be read.
        TransientError: the store could not be reached.
    """
    with _opened(uri, size, advice) as parquet:
        return read(parquet)


@contextlib.contextmanager
def _opened(uri: str, size: int | None, advice: str = _ADVICE) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open_binary(uri, size=size, sparse=True) as file:
            yield pq.ParquetFile(file, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise GoneError(f"{uri} is gone: a run puts its files together; try again") from error
    except storage.TransientError:
        raise
    except PermissionError as error:
        raise UserError(f"{uri} may not be read ({error}); mend the access to it") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{uri} is damaged ({reason}); {advice}") from error


def read_commit(output: str, name: str, columns: Sequence[str], size: int | None = None) -> pa.Table:
    """Read columns of a committed file; those that it does not have are left out. Raises as `read_parquet`."""

    def read(parquet: pq.ParquetFile) -> pa.Table:
        return parquet.read(columns=[column for column in columns if column in parquet.schema_arrow.names])

    return read_parquet(_uri(output, name), read, size)


def read_commits(output: str, commits: Iterable[Commit], columns: Sequence[str]) -> Iterator[tuple[Commit, pa.Table]]:
    """Read columns of many files, a few at a time ahead, in order."""
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        waiting = []
        for commit in commits:
            waiting.append((commit, pool.submit(read_commit, output, commit.name, columns, commit.size or None)))
            if len(waiting) > _READS_AT_ONCE:
                done, table = waiting.pop(0)
                yield done, table.result()
        for done, table in waiting:
            yield done, table.result()


def committed_keys(output: str) -> set[str]:
    """The keys of all rows that are done. For small outputs: they are held at once."""
    tables = read_commits(output, list_commits(output), ["key"])
    return {key for _, table in tables for key in table.column("key").to_pylist()}


def find_groups(commits: Sequence[Commit], unit_rows: Mapping[int, Sequence[int]], max_rows: int) -> list[list[Commit]]:
    """Runs of neighbouring files of a plan to be put together, each of `max_rows` and `MAX_FILE_BYTES` at most.

    Args:
        commits: of `list_commits`.
        unit_rows: by plan, the rows of its units.
        max_rows: in a file.
    """
    groups: list[list[Commit]] = []
    group: list[Commit] = []
    rows = size = 0
    for commit in commits:
        more = sum(unit_rows[commit.plan][commit.first : commit.last + 1])
        follows = bool(group) and group[-1].plan == commit.plan and group[-1].last + 1 == commit.first
        if not follows or rows + more > max_rows or size + commit.size > MAX_FILE_BYTES:
            groups.append(group)
            group, rows, size = [], 0, 0
        group.append(commit)
        rows, size = rows + more, size + commit.size
    return [group for group in [*groups, group] if len(group) > 1]


def merge_commits(output: str, group: Sequence[Commit], compression: str) -> str:
    """Put neighbouring files together, a row group each, and return the name of the new one.

    Killed at any moment, no row is lost and readers see none twice: first the new file is there, then the old ones go.
    """
    name = f"{group[0].plan:05d}-{group[0].first:07d}-{group[-1].last:07d}.parquet"
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        files = pool.map(lambda commit: _row_groups(_uri(output, commit.name), commit.size or None), group)
        tables = (table for groups in files for table in groups)
        storage.put(_uri(output, name), to_parquet(tables, compression))
    storage.remove_files([_uri(output, commit.name) for commit in group])
    return name


def remove_covered(output: str) -> None:
    """Remove the files that a larger one covers, which a merge that was cut short has left."""
    storage.remove_files([_uri(output, commit.name) for commit, covered in _listed(output) if covered])


def drop_superseded(output: str, keys: frozenset[str], before_plan: int, compression: str) -> None:
    """Take rows out of the files of plans before `before_plan`, where that plan has done them again."""
    wanted = pa.array(sorted(keys), pa.string())
    earlier = [commit for commit in list_commits(output) if commit.plan < before_plan]
    for commit, table in read_commits(output, earlier, ["key"]):
        if not pc.any(pc.is_in(table.column("key"), wanted)).as_py():
            continue
        uri = _uri(output, commit.name)
        kept = (rows.filter(pc.invert(pc.is_in(rows.column("key"), wanted))) for rows in _row_groups(uri))
        storage.put(uri, to_parquet(kept, compression))


def iter_row_groups(output: str, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read a committed file a row group at a time: all columns, or those of these that it has. As `read_parquet`."""
    with _opened(_uri(output, name), None) as parquet:
        chosen = None if columns is None else [column for column in columns if column in parquet.schema_arrow.names]
        for index in range(parquet.num_row_groups):
            yield parquet.read_row_group(index, chosen)


def commit_schema(output: str, name: str) -> pa.Schema:
    """The schema of a committed file, with its metadata. Raises as `read_parquet`."""
    with _opened(_uri(output, name), None) as parquet:
        return parquet.schema_arrow


def replace_commit(output: str, name: str, tables: Iterable[pa.Table], compression: str) -> None:
    """Put another file in the place of a committed one, with a row group for each table, at once or not at all."""
    storage.put(_uri(output, name), to_parquet(tables, compression))


def _row_groups(uri: str, size: int | None = None) -> list[pa.Table]:
    groups: list[pa.Table] = []

    def read(parquet: pq.ParquetFile) -> pa.Table:
        groups.extend(parquet.read_row_group(index) for index in range(parquet.num_row_groups))
        return groups[0]

    read_parquet(uri, read, size)
    return groups


def to_parquet(tables: Iterable[pa.Table], compression: str) -> bytes:
    """The bytes of a Parquet file with a row group for each table."""
    buffer = io.BytesIO()
    writer: pq.ParquetWriter | None = None
    for table in tables:
        if writer is None:
            writer = pq.ParquetWriter(buffer, table.schema, compression=compression, write_page_checksum=True)
        writer.write_table(table, row_group_size=max(1, table.num_rows))
    if writer is None:
        raise ValueError("no tables to write")
    writer.close()
    return buffer.getvalue()


def _listed(output: str) -> list[tuple[Commit, bool]]:
    folder = storage.join(output, SEGMENTS_FOLDER)
    found: list[Commit] = []
    for entry in storage.scan(folder) if storage.exists(folder) else ():
        match = _NAME.fullmatch(entry.name)
        if match:
            plan, first, last = int(match[1]), int(match[2]), int(match[3] or match[2])
            found.append(Commit(plan, first, last, entry.name, entry.size or 0))
    found.sort(key=lambda commit: (commit.plan, commit.first, -commit.last))
    listed: list[tuple[Commit, bool]] = []
    end = (0, -1)
    for commit in found:
        listed.append((commit, (commit.plan, commit.last) <= end))
        end = max(end, (commit.plan, commit.last))
    return listed


def _uri(output: str, name: str) -> str:
    return storage.join(output, f"{SEGMENTS_FOLDER}/{name}")
