"""Frame features that an output keeps, read for the rows of another one.

A row is known by its key; where it stood when the work was planned is a hint only, as commits are published, and rows
that are done again take the places of those before.
"""

from collections.abc import Collection

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output.commits import read_commits, units_of
from sdhubert_ray.output.contents import require_contents
from sdhubert_ray.output.parquet import read_parquet, read_schema
from sdhubert_ray.output.tables import FRAME_COLUMNS, ragged_vectors, read_vectors

FILE, GROUP = "features_file", "features_group"
"""Columns of a plan: the file of an output that has the features of a row, and the row group in it."""
_KEPT_FRAMES = ("frame_features", "raw_norm", "amplitude")
_MADE_ANEW = frozenset(("segments", "segment_features", "units", *FRAME_COLUMNS)) - frozenset(_KEPT_FRAMES)


def read_features(source: str, rows: pa.Table, dtype: npt.DTypeLike) -> pa.Table:
    """Read the rows of a unit of work.

    Args:
        source: the output with the features.
        rows: the unit, all of one file and row group, with key, unit_name, `FILE` and `GROUP`.
        dtype: what the encoder computes in; features are given in it.

    Returns:
        what `EncodeSpeech` gives, without times: frame_features (T, D) in `dtype` at 50 Hz or null, and so on.

    Raises:
        UserError: a row is not in the source any more, or a file of it is damaged.
    """
    wanted = rows.column("key").combine_chunks()
    place = rows.slice(0, 1).to_pylist()[0]
    parts = []
    found = _place_now(source, place[FILE], place[GROUP])
    if found is not None:
        parts.append(_read_rows(source, *found, wanted))
    missing = set(wanted.to_pylist()).difference(*(part.column("key").to_pylist() for part in parts))
    if missing:
        for name, keys in _find(source, missing).items():
            parts.append(_read_rows(source, name, None, pa.array(keys, pa.string())))
            missing.difference_update(keys)
    if missing:
        raise UserError(f"{source} has row {sorted(missing)[0]!r} no more, which was planned from it; --overwrite")
    table = parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="permissive")
    if table.column("key").combine_chunks() != wanted:
        table = table.take(pc.index_in(wanted, table.column("key").combine_chunks()))
    kind = table.schema.field("frame_features").type.value_type
    if kind.value_type.to_pandas_dtype() != dtype:
        features = ragged_vectors(read_vectors(table.column("frame_features")), dtype, kind.list_size)
        table = table.set_column(table.column_names.index("frame_features"), "frame_features", features)
    return table.append_column("unit_name", rows.column("unit_name"))


def read_width(source: str) -> int | None:
    """D of the frame features of an output, or None where it has no rows yet."""
    for commit in require_contents(source).commits:
        schema = read_schema(storage.join(source, commit.name))
        return int(schema.field("frame_features").type.value_type.list_size)
    return None


def _place_now(source: str, name: str, group: int) -> tuple[str, int] | None:
    """The file and row group that a unit is in now: files have a row group per unit, and commits are published."""
    if storage.exists(storage.join(source, name)):
        return name, group
    plan, first, _ = units_of(name)
    for commit in require_contents(source).commits:
        if commit.plan == plan and commit.first <= first + group <= commit.last:
            return commit.name, first + group - commit.first
    return None


def _find(source: str, keys: Collection[str]) -> dict[str, list[str]]:
    """The files that have the latest attempts of these keys."""
    wanted = pa.array(sorted(keys), pa.string())
    files: dict[str, str] = {}
    for commit, table in read_commits(source, require_contents(source).commits, ["key"]):
        there = table.filter(pc.is_in(table.column("key"), wanted))
        files.update(dict.fromkeys(there.column("key").to_pylist(), commit.name))
    by_file: dict[str, list[str]] = {}
    for key, name in files.items():
        by_file.setdefault(name, []).append(key)
    return by_file


def _read_rows(source: str, name: str, group: int | None, keys: pa.Array) -> pa.Table:
    """Those of the rows of a file, or of a row group of it, that have these keys."""

    def read(parquet: pq.ParquetFile) -> pa.Table:
        columns = [column for column in parquet.schema_arrow.names if column not in _MADE_ANEW]
        if group is None:
            return parquet.read(columns=columns, use_threads=False)
        there = group < parquet.num_row_groups
        if there:
            return parquet.read_row_group(group, columns, use_threads=False)
        return parquet.schema_arrow.empty_table().select(columns)

    table = read_parquet(storage.join(source, name), read)
    chosen = pc.is_in(table.column("key"), keys)
    return table if pc.all(chosen).as_py() else table.filter(chosen)
