"""What is to be done: an input, less what an output has, in units; or the rows of it that failed."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.corpus import Listing, Probe, cut_pieces, probe_durations, split_units
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.output import Commit, Contents, Plan, StagedPlan, read_plan, stage_plan
from sdhubert_ray.output.commits import read_commits

_SHOWN = 5
_UNITS_PER_WORKER = 4
_LONGEST = 600.0


@dataclass(frozen=True)
class UnitOptions:
    """How rows are laid out in units of work.

    Attributes:
        piece_seconds: longer audio is cut into pieces.
        unit_seconds: audio per unit; None fits it to the work and the workers.
        unit_rows: rows per unit at most.
        workers: tells how many units can be worked on at once; asked where it decides something.
        shortest: audio that a unit is worth, seconds.
    """

    piece_seconds: float
    unit_seconds: float | None
    unit_rows: int
    workers: Callable[[], int]
    shortest: float = 10.0

    def most_seconds(self, before: float, packed: bool) -> float:
        """How much audio the unit behind `before` seconds of units holds at most, where none is given.

        A unit is a quarter of what a worker would have of all before it, up to 600 s: how much will come nobody knows
        yet. Done from the longest to the shortest, they fill the workers, and all of these end at about the same
        time ("guided self-scheduling", Polychronopoulos and Kuck 1987). In Parquet shards (`packed`), of which row
        groups are read whole, all units are long.
        """
        if self.unit_seconds is not None:
            return self.unit_seconds
        if packed:
            return _LONGEST
        share = before / (_UNITS_PER_WORKER * self.workers()) if before > self.shortest else 0.0
        return min(max(share, self.shortest), _LONGEST)


@dataclass
class Found:
    """What an input holds, and how that compares with what an output has.

    Attributes:
        recordings: in the input.
        changed: of these, whose source has another size or version now.
        changed_ids: the first of them.
        ignored: files that are no audio.
    """

    recordings: int = 0
    changed: int = 0
    changed_ids: list[str] = field(default_factory=list)
    ignored: int = 0


def stage_input(
    listing: Listing,
    output: str,
    plans: Sequence[Plan],
    options: UnitOptions,
    folder: Path,
    probe: Probe = probe_durations,
) -> tuple[StagedPlan, Found]:
    """Stage the recordings of an input that no plan of the output has. Batch by batch: none of it is held whole.

    Lengths that the input does not tell are asked of `probe`.

    Raises:
        UserError: a recording whose id the output has from another place, or pieces of another length.
    """
    if listing.piece_seconds not in (None, options.piece_seconds):
        raise UserError(
            f"the manifest is cut into pieces of {listing.piece_seconds:g} s, but audio.piece_seconds is "
            f"{options.piece_seconds:g}; make the manifest again, or set the option to its value"
        )
    found = Found()
    known = _Known(output, plans)

    def rows() -> Iterator[pa.Table]:
        for batch in listing.batches:
            fresh = known.without(batch, found)
            if fresh.num_rows:
                yield fresh if listing.piece_seconds else cut_pieces(fresh, options.piece_seconds, probe)

    staged = stage_plan(split_units(rows(), options.most_seconds, options.unit_rows), folder)
    found.ignored = listing.ignored
    return staged, found


def stage_retry(
    output: str,
    plans: Sequence[Plan],
    commits: Sequence[Commit],
    statuses: Collection[str],
    options: UnitOptions,
    folder: Path,
) -> StagedPlan:
    """Stage the rows whose latest attempt has one of these statuses. Held at once are their keys."""
    failed: set[str] = set()
    for _, table in read_commits(output, commits, ["key", "status"]):
        for key, status in zip(table.column("key").to_pylist(), table.column("status").to_pylist(), strict=True):
            if status in statuses:
                failed.add(key)
            else:
                failed.discard(key)

    def rows() -> Iterator[pa.Table]:
        left = set(failed)
        for plan in reversed(plans):
            for table in read_plan(output, plan):
                chosen = table.filter(pc.is_in(table.column("key"), pa.array(sorted(left), pa.string())))
                left.difference_update(chosen.column("key").to_pylist())
                if chosen.num_rows:
                    for fresh in _as_new(chosen, options.piece_seconds):
                        yield _with_schema(fresh, schema)

    # Plans of different inputs may carry different columns; a plan has one schema.
    schema = _common_schema(output, plans)

    return stage_plan(split_units(rows(), options.most_seconds, options.unit_rows), folder)


def _common_schema(output: str, plans: Sequence[Plan]) -> pa.Schema:
    schemas = [next(read_plan(output, plan)).schema for plan in plans]
    try:
        return pa.unify_schemas(schemas)
    except pa.ArrowException as error:
        reason = first_line(error)
        raise UserError(
            f"output {output} was made from inputs whose columns differ in type ({reason}); choose another output"
        ) from error


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table.column(field.name) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _as_new(rows: pa.Table, piece_seconds: float) -> Iterator[pa.Table]:
    """Rows to be read again: what was known of their sources may have changed."""
    # A shard that was mended has its members elsewhere: they are looked up when they are opened.
    for name in ("source_size", "source_version", "byte_offset", "byte_size"):
        index = rows.column_names.index(name)
        rows = rows.set_column(index, rows.schema.field(name), pa.nulls(rows.num_rows, rows.schema.field(name).type))
    whole = pc.equal(rows.column("num_pieces"), 1)
    pieces = rows.filter(pc.invert(whole))
    if pieces.num_rows:
        yield pieces
    files = rows.filter(whole)
    if files.num_rows:  # what could not be read then may be long enough for several pieces now
        yield cut_pieces(files.drop_columns(["key", "piece", "num_pieces", "duration"]), piece_seconds)


def longest_first(contents: Contents) -> Sequence[tuple[str, int]]:
    """What is not done: the short units last, so that all workers end at about the same time."""
    seconds = {plan.name: plan.unit_seconds for plan in contents.plans}
    return sorted(contents.pending, key=lambda unit: -seconds[unit[0]][unit[1]])


class DigestSet:
    """Rows, by values of theirs: 16 bytes each, so that a million of them are no burden."""

    def __init__(self, names: Sequence[str]) -> None:
        """Names the columns whose values tell rows apart; one that a table does not have counts as null."""
        self._names = names
        self._parts: list[npt.NDArray[np.uint64]] = []
        self._sorted: npt.NDArray[np.uint64] | None = None

    def add(self, table: pa.Table) -> None:
        """Put rows in."""
        self._parts.append(_digests(table, self._names))
        self._sorted = None

    def holds(self, table: pa.Table, names: Sequence[str] | None = None) -> pa.BooleanArray:
        """Tell which rows of a table are in, (n,) bool; by other columns of it, if `names` are given."""
        if self._sorted is None:
            both = np.concatenate([np.zeros((0, 2), np.uint64), *self._parts])
            self._sorted = both[np.lexsort((both[:, 1], both[:, 0]))]
            self._parts = [self._sorted]
        asked = _digests(table, self._names if names is None else names)
        place = np.searchsorted(self._sorted[:, 0], asked[:, 0])
        found = np.zeros(len(asked), bool)
        while True:  # twice only where two digests begin alike
            near = place < len(self._sorted)
            near[near] = self._sorted[place[near], 0] == asked[near, 0]
            found[near] |= self._sorted[place[near], 1] == asked[near, 1]
            if not (near & ~found).any():
                return pa.array(found, pa.bool_())
            place = place + 1


class _Known:
    """The recordings that the plans of an output have."""

    def __init__(self, output: str, plans: Sequence[Plan]) -> None:
        self._output = output
        self._plans = plans
        self._ids = DigestSet(("id",))
        self._places = DigestSet(("id", "uri", "member"))
        self._versions = DigestSet(("id", "source_size", "source_version"))
        names = ["id", "uri", "member", "piece", "source_size", "source_version"]
        for plan in plans:
            for table in read_plan(output, plan, names):
                first = table.filter(pc.equal(table.column("piece"), 0))
                for known in (self._ids, self._places, self._versions):
                    known.add(first)

    def without(self, batch: pa.Table, found: Found) -> pa.Table:
        """The rows of a batch that are new; the others are compared and counted."""
        pieces = "piece" in batch.column_names
        first = batch.filter(pc.equal(batch.column("piece"), 0)) if pieces else batch
        found.recordings += first.num_rows
        if not self._plans:
            return batch
        seen = self._ids.holds(first)
        again = first.filter(seen)
        self._check_places(again)
        self._compare_versions(again, found)
        return batch.filter(pc.invert(self._ids.holds(batch) if pieces else seen))

    def _check_places(self, again: pa.Table) -> None:
        """Another recording of the same id must not pass for one that is done."""
        moved = again.filter(pc.invert(self._places.holds(again)))
        if not moved.num_rows:
            return
        file_id, uri = moved.column("id")[0].as_py(), moved.column("uri")[0].as_py()
        before = next(
            table.filter(pc.equal(table.column("id"), file_id)).column("uri")[0].as_py()
            for plan in self._plans
            for table in read_plan(self._output, plan, ["id", "uri"])
            if pc.any(pc.equal(table.column("id"), file_id)).as_py()
        )
        raise UserError(
            f"output {self._output} has recording {file_id!r} from {before}, the input now has {uri}; "
            "choose another output, or --overwrite it"
        )

    def _compare_versions(self, again: pa.Table, found: Found) -> None:
        if "source_version" not in again.column_names:
            return
        again = again.filter(pc.is_valid(again.column("source_version")))
        same = self._versions.holds(again)
        untold = self._versions.holds(again, ("id", "", ""))  # planned without a version
        changed = again.filter(pc.invert(pc.or_(same, untold))).column("id").to_pylist()
        found.changed += len(changed)
        found.changed_ids += changed[: max(0, _SHOWN - len(found.changed_ids))]


def _digests(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(n, 2) digests of rows' values; a column that is not there counts as null."""
    nothing = [None] * table.num_rows
    columns = [table.column(name).to_pylist() if name in table.column_names else nothing for name in names]
    data = b"".join(hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in zip(*columns, strict=True))
    return np.frombuffer(data, np.uint64).reshape(-1, 2)
