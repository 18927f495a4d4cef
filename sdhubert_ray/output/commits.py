"""Commits: rows that are done, a Parquet file each, there at once or not at all.

A unit is committed under the unit's name: whoever does a unit again replaces the same file, so no row is there twice.
When a run has finished, its commits are published: put together into files of the table, which are never removed nor
renamed while the run stands. Whoever reads the folder of the table, knowing nothing of all this, sees each row once.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.output.parquet import TOTALS, iter_row_groups, read_parquet
from sdhubert_ray.output.plans import Plan
from sdhubert_ray.output.totals import TOTALS_COLUMNS, RowTotals, results_to_parquet

COMMITS_FOLDER = "commits"
"""Units that are done and not published yet."""
SEGMENTS_FOLDER = "segments"
"""The table, for any reader."""
MAX_FILE_BYTES = 256 << 20
"""Files are put together up to this size: they pass through memory."""

_NAME = re.compile(r"(?:.*/)?(([0-9]{5})(?:-[0-9a-f]{12})?)-([0-9]{7})(?:-([0-9]{7}))?\.parquet")
_READS_AT_ONCE = 8
_FOOTERS_AT_ONCE = 32

_Read = TypeVar("_Read")


class Commit(NamedTuple):
    """A file of rows that are done: units `first` to `last` (included) of a plan.

    Attributes:
        plan: its number.
        first: unit.
        last: unit.
        published: whether it is a file of the table.
        name: relative to the output.
        size: bytes.
    """

    plan: int
    first: int
    last: int
    published: bool
    name: str
    size: int


def commit_name(unit: str) -> str:
    """The file that a unit is committed as, relative to the output."""
    return f"{COMMITS_FOLDER}/{unit}.parquet"


def units_of(name: str) -> tuple[int, int, int]:
    """The number of the plan, the first and the last unit that a file has by its name."""
    match = _match(name)
    return int(match[2]), int(match[3]), int(match[4] or match[3])


def write_commit(output: str, unit: str, table: pa.Table, compression: str) -> int:
    """Write the rows of a unit as one Parquet file, at once or not at all; returns its bytes."""
    data = results_to_parquet([table], compression)
    storage.put(storage.join(output, commit_name(unit)), data)
    return len(data)


def list_commits(output: str, plans: Sequence[Plan]) -> list[Commit]:
    """What is committed, by plan and unit.

    What is of none of these plans does not count: it was committed late, by a worker of a run that was overwritten.
    Nor does what a published file covers: the publishing was cut short, or a worker was late.
    """
    return [commit for commit, covered in _listed(output, plans) if not covered]


def pending_units(plans: Sequence[Plan], commits: Sequence[Commit]) -> list[tuple[str, int]]:
    """The units that no commit covers, in order: by the name of their plan and their place in it."""
    pending: list[tuple[str, int]] = []
    for plan in plans:
        done = np.zeros(len(plan.unit_rows), bool)
        for commit in commits:
            if commit.plan == plan.number:
                done[commit.first : commit.last + 1] = True
        pending.extend((plan.name, int(unit)) for unit in np.flatnonzero(~done))
    return pending


def read_commit(output: str, name: str, columns: Sequence[str], size: int | None = None) -> pa.Table:
    """Read columns of a committed file; those that it does not have are left out. Raises as `read_parquet`."""

    def read(parquet: pq.ParquetFile) -> pa.Table:
        chosen = [column for column in columns if column in parquet.schema_arrow.names]
        return parquet.read(columns=chosen, use_threads=False)

    return read_parquet(storage.join(output, name), read, size)


def read_commits(output: str, commits: Iterable[Commit], columns: Sequence[str]) -> Iterator[tuple[Commit, pa.Table]]:
    """Read columns of many files, a few at a time ahead, in order."""

    def read(commit: Commit) -> tuple[Commit, pa.Table]:
        return commit, read_commit(output, commit.name, columns, commit.size or None)

    return _read_ahead(commits, read, _READS_AT_ONCE)


def read_totals(output: str, commits: Iterable[Commit]) -> Iterator[RowTotals]:
    """What the rows of many files amount to, in order: by their footers, or counted where these do not tell.

    Files of earlier versions have nothing in them, and other tools may have changed the rows and left it there.
    """

    def read(commit: Commit) -> RowTotals:
        return read_parquet(storage.join(output, commit.name), _read_totals, commit.size or None)

    return _read_ahead(commits, read, _FOOTERS_AT_ONCE)


def _read_totals(parquet: pq.ParquetFile) -> RowTotals:
    told = (parquet.metadata.metadata or {}).get(TOTALS)
    if told is not None:
        totals = RowTotals.parse(told)
        if totals.num_rows == parquet.metadata.num_rows:
            return totals
    return RowTotals.of_file(parquet.read(columns=list(TOTALS_COLUMNS), use_threads=False))


def _read_ahead(commits: Iterable[Commit], read: Callable[[Commit], _Read], at_once: int) -> Iterator[_Read]:
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Future[_Read]] = deque()
        for commit in commits:
            waiting.append(pool.submit(read, commit))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        for done in waiting:
            yield done.result()


def find_groups(commits: Sequence[Commit], plan: Plan, max_rows: int) -> list[list[Commit]]:
    """Runs of neighbouring units to be published as one file, of `max_rows` and `MAX_FILE_BYTES` at most.

    Args:
        commits: of `list_commits`, those of the plan.
        plan: that they are of.
        max_rows: in a file.
    """
    groups: list[list[Commit]] = []
    group: list[Commit] = []
    rows = size = 0
    for commit in commits:
        if commit.published:
            continue
        more = sum(plan.unit_rows[commit.first : commit.last + 1])
        follows = bool(group) and group[-1].last + 1 == commit.first
        if not follows or rows + more > max_rows or size + commit.size > MAX_FILE_BYTES:
            groups.append(group)
            group, rows, size = [], 0, 0
        group.append(commit)
        rows, size = rows + more, size + commit.size
    return [group for group in [*groups, group] if group]


def publish_commits(output: str, group: Sequence[Commit], compression: str, without: frozenset[str]) -> str:
    """Put neighbouring units together into a file of the table, a row group each, and return its name.

    Killed at any moment, no row is lost and no reader of the table sees one twice: first the new file is there, then
    the commits go. If it is there already, it has the same rows.

    Args:
        output: the folder.
        group: of `find_groups`.
        compression: the Parquet codec.
        without: keys of rows that are left out, as they stand in the table already.
    """
    name = f"{SEGMENTS_FOLDER}/{_match(group[0].name)[1]}-{group[0].first:07d}-{group[-1].last:07d}.parquet"
    left_out = pa.array(sorted(without), pa.string())
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        files = pool.map(lambda commit: list(iter_row_groups(storage.join(output, commit.name))), group)
        tables = (table for groups in files for table in groups)
        kept = (table.filter(pc.invert(pc.is_in(table.column("key"), left_out))) for table in tables)
        storage.create(storage.join(output, name), results_to_parquet(kept, compression))
    remove_commits(output, group)
    return name


def remove_covered(output: str, plans: Sequence[Plan]) -> None:
    """Remove commits that a published file covers: publishing was cut short and has left them, or a worker was late."""
    remove_commits(output, [commit for commit, covered in _listed(output, plans) if covered])


def remove_all(output: str, plans: Sequence[Plan]) -> None:
    """Remove all that is committed of these plans, published or not."""
    remove_commits(output, [commit for commit, _ in _listed(output, plans)])


def list_foreign(output: str, plans: Sequence[Plan]) -> list[str]:
    """The Parquet files in the folder of the table, relative to the output, that are of none of these plans."""
    known = {plan.name: plan for plan in plans}
    folder = storage.join(output, SEGMENTS_FOLDER)
    names = storage.list_files(folder) if storage.exists(folder) else []
    table = [f"{SEGMENTS_FOLDER}/{name}" for name in names if name.endswith(".parquet")]
    return [name for name in table if _parse(name, 0, known) is None]


def remove_commits(output: str, commits: Iterable[Commit]) -> None:
    """Remove files."""
    storage.remove_files([storage.join(output, commit.name) for commit in commits])


def _listed(output: str, plans: Sequence[Plan]) -> list[tuple[Commit, bool]]:
    known = {plan.name: plan for plan in plans}
    found: list[Commit] = []
    for folder in (COMMITS_FOLDER, SEGMENTS_FOLDER):
        uri = storage.join(output, folder)
        for entry in storage.scan(uri) if storage.exists(uri) else ():
            commit = _parse(f"{folder}/{entry.name}", entry.size or 0, known)
            if commit is not None:
                found.append(commit)
    found.sort(key=lambda commit: (commit.plan, commit.first, -commit.last, not commit.published))
    listed: list[tuple[Commit, bool]] = []
    end = (0, -1)
    for commit in found:
        listed.append((commit, (commit.plan, commit.last) <= end))
        end = max(end, (commit.plan, commit.last))
    return listed


def _parse(name: str, size: int, known: Mapping[str, Plan]) -> Commit | None:
    match = _NAME.fullmatch(name)
    plan = None if match is None else known.get(match[1])
    if match is None or plan is None:
        return None
    _, first, last = units_of(name)
    if not first <= last < len(plan.unit_rows):
        return None
    return Commit(plan.number, first, last, match[4] is not None, name, size)


def _match(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is no name of a commit")
    return match
