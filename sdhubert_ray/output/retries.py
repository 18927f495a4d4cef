"""Rows that were done again take the places of the rows before, each file of the table at once."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray import storage
from sdhubert_ray.output.commits import Commit, read_commits
from sdhubert_ray.output.parquet import iter_row_groups
from sdhubert_ray.output.totals import results_to_parquet


def replace_rows(output: str, earlier: Sequence[Commit], again: Sequence[Commit], compression: str) -> frozenset[str]:
    """Put rows that were done again where they stand in the files before.

    A recording that has more pieces now has them all where its first one was. Killed at any moment and called again, it
    ends alike; no reader of the table misses a row or sees one twice.

    Args:
        output: the folder.
        earlier: published files of earlier plans.
        again: commits of the plan that did rows again.
        compression: the Parquet codec.

    Returns:
        the keys of `again` that stand in files of `earlier` now.
    """
    fresh: dict[str, Commit] = {}
    for commit, table in read_commits(output, again, ["key"]):
        fresh.update(dict.fromkeys(table.column("key").to_pylist(), commit))
    wanted = pa.array(sorted(fresh), pa.string())
    standing: dict[str, list[str]] = {}
    for commit, table in read_commits(output, earlier, ["key"]):
        keys = table.column("key").filter(pc.is_in(table.column("key"), wanted)).to_pylist()
        if keys:
            standing[commit.name] = keys
    placed = {key for keys in standing.values() for key in keys}
    followers = _find_followers(sorted(fresh), placed)
    for name, keys in standing.items():
        here = [follower for key in keys for follower in (key, *followers.get(key, ()))]
        rows = _read_rows(output, {key: fresh[key] for key in here})
        uri = storage.join(output, name)
        groups = (_with_rows(group, rows, followers) for group in iter_row_groups(uri))
        storage.put(uri, results_to_parquet(groups, compression))
    return frozenset(placed).union(*followers.values())


def _find_followers(keys: Sequence[str], placed: set[str]) -> dict[str, list[str]]:
    """Pieces that their recording did not have, by the key of the nearest piece before them that it had."""
    followers: dict[str, list[str]] = {}
    for key in sorted(set(keys) - placed, key=_piece):
        recording, piece = key.rpartition("#")[0], _piece(key)
        before = (f"{recording}#{number}" for number in range(piece - 1, -1, -1))
        anchor = next((other for other in before if other in placed), None)
        if anchor is not None:
            followers.setdefault(anchor, []).append(key)
    return followers


def _piece(key: str) -> int:
    return int(key.rpartition("#")[2])


def _read_rows(output: str, places: Mapping[str, Commit]) -> pa.Table:
    """The rows of these keys, from the commits that have them."""
    wanted = pa.array(sorted(places), pa.string())
    tables = []
    for name in dict.fromkeys(commit.name for commit in places.values()):
        for group in iter_row_groups(storage.join(output, name)):
            tables.append(group.filter(pc.is_in(group.column("key"), wanted)))
    return pa.concat_tables(tables, promote_options="permissive")


def _with_rows(group: pa.Table, rows: pa.Table, followers: Mapping[str, Sequence[str]]) -> pa.Table:
    """A row group with rows in the places of those of the same keys, and what follows them."""
    both = pa.concat_tables([group, rows], promote_options="permissive").combine_chunks()
    places = {key: group.num_rows + row for row, key in enumerate(rows.column("key").to_pylist())}
    order = [
        place
        for row, key in enumerate(group.column("key").to_pylist())
        for place in ([places[name] for name in (key, *followers.get(key, ()))] if key in places else [row])
    ]
    return both.take(order).replace_schema_metadata(group.schema.metadata)
