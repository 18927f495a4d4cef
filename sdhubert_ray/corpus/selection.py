"""An input as a stream of rows: some selected, ids checked, a sample taken; memory does not grow with the rows."""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.corpus.columns import near_miss
from sdhubert_ray.errors import UserError

BATCH_ROWS = 4096
"""Rows of a batch, at most."""
_LISTED = 20

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Selection:
    """Which recordings of an input are taken.

    Attributes:
        where: conditions `column=value`, all of which have to hold.
        limit: a sample of this many recordings; None takes all.
        splits: folders below the input (LibriSpeech's layout), or values of the column `split`; none takes all.
    """

    where: tuple[str, ...] = ()
    limit: int | None = None
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for condition in self.where:
            if not condition.partition("=")[0] or "=" not in condition:
                raise UserError(f"where is {condition!r}; it has to be column=value, such as split=test")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}; it has to be 1 or more")
        if not all(self.splits):
            raise UserError("split is empty; name a folder of the input, such as test-clean")


@dataclass
class Tally:
    """What was seen while an input was read.

    Attributes:
        ignored: files that were not taken for audio.
    """

    ignored: int = 0


@dataclass(frozen=True)
class Source:
    """An input before rows are selected.

    Attributes:
        where: how messages call it, such as `manifest x.csv`.
        schema: of its rows.
        read: gives its rows in batches, from the first one each time it is called.
        tally: what `read` counts.
        piece_seconds: set if its rows are pieces, cut with this length.
        duplicate_hint: what to do about ids that stand twice.
        ids_are_paths: its ids are paths below the input, and not names that a file gives them.
    """

    where: str
    schema: pa.Schema
    read: Callable[[], Iterator[pa.Table]]
    tally: Tally = field(default_factory=Tally)
    piece_seconds: float | None = None
    duplicate_hint: str = "ids have to be unique"
    ids_are_paths: bool = False


class Listing:
    """What an input holds, read once.

    Attributes:
        batches: the rows, a few thousand at a time: `id`, `uri`, perhaps `member`, `byte_offset`, `byte_size`, `start`,
            `end`, `duration`, `channel`, `source_size`, `source_version`, and the columns to carry. Reading them
            raises UserError where a row cannot be used.
        schema: of all batches.
        piece_seconds: set if the rows are pieces already (`MANIFEST_FIELDS`, then the columns to carry), cut with this
            length.
    """

    def __init__(
        self, batches: Iterator[pa.Table], schema: pa.Schema, tally: Tally, piece_seconds: float | None
    ) -> None:
        self.batches = batches
        self.schema = schema
        self.piece_seconds = piece_seconds
        self._tally = tally

    @property
    def ignored(self) -> int:
        """How many files were not taken for audio; known when the batches are read."""
        return self._tally.ignored


def select(source: Source, selection: Selection) -> Listing:
    """Select rows of a source, refuse ids that stand twice, and take a sample.

    Raises:
        UserError: an unknown column, nothing selected, or an error of the first rows.
    """
    conditions = _conditions(source, selection)

    def read() -> Iterator[pa.Table]:
        return (batch for batch in _filtered(source.read(), conditions) if batch.num_rows)

    batches = _unique(source, read)
    if selection.limit is not None:
        batches = _sample(batches, selection.limit)
    first = next(batches, None)  # most mistakes show in the first rows: they are told at once
    if first is None:
        told = " and ".join((*selection.where, *(f"split={name}" for name in selection.splits)))
        raise UserError(f"{source.where} has no row of {told}; check the values of the column")
    return Listing(itertools.chain([first], batches), source.schema, source.tally, source.piece_seconds)


def select_splits(source: Source, splits: tuple[str, ...]) -> Source:
    """The rows of a source whose column `split` is one of `splits`.

    Raises:
        UserError: it has no such column; while reading, that one of the splits is not there.
    """
    if not splits:
        return source
    if "split" not in source.schema.names:
        raise UserError(
            f"{source.where} has no column 'split' and no folders to choose by --split; "
            f"{near_miss('split', source.schema.names)}"
        )

    def read() -> Iterator[pa.Table]:
        there: set[str] = set()
        wanted = pa.array(splits, pa.string())
        for batch in source.read():
            column = batch.column("split").cast(pa.string())
            there.update(name for name in column.unique().to_pylist() if name is not None)
            yield batch.filter(pc.is_in(column, wanted))
        refuse_missing_split(source.where, splits, there)

    return replace(source, read=read)


class MissingSplitError(UserError):
    """A split was asked for that is not there."""


def refuse_missing_split(where: str, splits: Iterable[str], there: set[str]) -> None:
    """Refuse a split that is not there, naming those there are.

    Raises:
        MissingSplitError: one is missing.
    """
    missing = [name for name in splits if name not in there]
    if missing:
        known = sorted(there)
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        told = f"it has {', '.join(known[:_LISTED])}{more}" if known else "it has none"
        raise MissingSplitError(f"{where} has no split {missing[0]!r}; {told}")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> Iterator[Result]:
    """Map in threads, in order, at most twice `at_once` items ahead of who takes the results."""
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def digests_of(names: Iterable[str | None]) -> npt.NDArray[np.uint64]:
    """(n,) 64-bit digests of names, the same on every machine."""
    hashes = [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(hashes), dtype="<u8").astype(np.uint64, copy=False)


def _conditions(source: Source, selection: Selection) -> list[tuple[str, pa.Scalar]]:
    conditions = []
    for condition in selection.where:
        name, _, value = condition.partition("=")
        if name not in source.schema.names:
            raise UserError(f"{source.where} has no column {name!r}; {near_miss(name, source.schema.names)}")
        kind = source.schema.field(name).type
        try:
            # Written as in the data or otherwise: 1.0 and 1, True and true are equal where they are numbers and truths.
            conditions.append((name, pa.scalar(value).cast(kind)))
        except pa.ArrowException as error:
            raise UserError(f"{source.where}: column {name!r} is {kind}, which {value!r} cannot be") from error
    return conditions


def _filtered(batches: Iterator[pa.Table], conditions: list[tuple[str, pa.Scalar]]) -> Iterator[pa.Table]:
    for batch in batches:
        for name, value in conditions:
            batch = batch.filter(pc.equal(batch.column(name), value))  # a null is equal to nothing
        yield batch


def _unique(source: Source, read: Callable[[], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Pass batches on, refusing a name that came before.

    Only 8 bytes are kept of each: two names may share them, so a suspect is looked up in the input itself, which also
    tells both places.
    """
    column = "id" if source.piece_seconds is None else "key"
    seen = Seen()
    for batch in read():
        suspects = seen.add(digests_of(batch.column(column).to_pylist()))
        if len(suspects):
            _refuse_twice(source, read(), column, set(batch.column(column).take(suspects).to_pylist()))
        yield batch


def _refuse_twice(source: Source, batches: Iterator[pa.Table], column: str, suspects: set[str]) -> None:
    places: dict[str, str] = {}
    for batch in batches:
        found = batch.filter(pc.is_in(batch.column(column), pa.array(list(suspects), pa.string())))
        for row in found.to_pylist():
            place = f"{row['uri']} ({row['member']})" if row.get("member") else row["uri"]
            if row[column] in places:
                raise UserError(
                    f"{source.where}: {column} {row[column]!r} stands twice, for {places[row[column]]} and {place}; "
                    f"{source.duplicate_hint}"
                )
            places[row[column]] = place


def _sample(batches: Iterator[pa.Table], limit: int) -> Iterator[pa.Table]:
    """The rows of the `limit` ids of smallest digests: the same in any order, most of them also when ids are added."""
    kept: pa.Table | None = None
    digests = np.zeros(0, np.uint64)
    largest = np.uint64(np.iinfo(np.uint64).max)
    for batch in batches:
        new = digests_of(batch.column("id").to_pylist())
        near = new <= largest
        if not near.any():
            continue
        batch = batch.filter(pa.array(near))
        kept = batch if kept is None else pa.concat_tables([kept, batch])
        digests = np.concatenate([digests, new[near]])
        distinct = np.unique(digests)
        if len(distinct) >= limit:
            largest = distinct[limit - 1]
            kept = kept.filter(pa.array(digests <= largest)).combine_chunks()
            digests = digests[digests <= largest]
    if kept is not None:
        yield from (kept.slice(begin, BATCH_ROWS) for begin in range(0, kept.num_rows, BATCH_ROWS))


class Seen:
    """A growing set of 64-bit numbers, as sorted arrays of doubling sizes."""

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []

    def add(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Add values; tells the positions of those that were there before, among them or earlier."""
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        again = np.zeros(len(values), bool)
        again[1:] = ordered[1:] == ordered[:-1]
        for run in self._runs:
            places = np.searchsorted(run, ordered)
            again |= run[np.minimum(places, len(run) - 1)] == ordered
        if len(ordered):
            self._runs.append(ordered)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            merged = np.concatenate([self._runs.pop(), last])
            merged.sort()
            self._runs.append(merged)
        return np.sort(order[again])
