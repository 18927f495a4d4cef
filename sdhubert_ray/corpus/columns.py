"""The columns of an input: their types, which names are taken, and what a row has to hold."""

import difflib

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.errors import UserError
from sdhubert_ray.output.tables import MANIFEST_FIELDS, PIPELINE_COLUMNS, RESULT_FIELDS

_OF_INPUT = (
    "id",
    "uri",
    "member",
    "byte_offset",
    "byte_size",
    "start",
    "end",
    "duration",
    "channel",
    "source_size",
    "source_version",
)
INPUT_TYPES: dict[str, pa.DataType] = {
    name: field.type for name in _OF_INPUT for field in MANIFEST_FIELDS if field.name == name
}
"""The columns that an input may have, in the order in which it is listed; others are carried through.

`duration` is that of the file here, and of the piece once pieces are cut.
"""
_RESERVED = (
    {field.name for field in (*MANIFEST_FIELDS, *RESULT_FIELDS)} | {"segment_features", "units", *PIPELINE_COLUMNS}
) - set(INPUT_TYPES)
_PIECE_COLUMNS = frozenset(("key", "piece", "num_pieces"))
_REQUIRED = ("uri", "id")
MOST_SECONDS = 1e7
"""Of a recording: four months. What is longer was meant in other units."""
_NUMBERS = ("start", "end", "duration", "channel", "byte_offset", "byte_size", "source_size")


def check_names(names: list[str], where: str) -> None:
    """Refuse columns that stand twice or that the output needs itself.

    Args:
        names: of all columns.
        where: how messages call the input, such as `manifest x.csv`.

    Raises:
        UserError: there is one.
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{where} has two columns {twice[0]!r}; rename one")
    if set(names) >= _PIECE_COLUMNS:
        raise UserError(
            f"{where} was cut by `sdhubert manifest`, but whatever copied it dropped its piece length; "
            "take the original, with --where to select rows"
        )
    reserved = sorted(_RESERVED & set(names))
    if reserved:
        raise UserError(f"{where} has a column {reserved[0]!r}, which the output needs itself; rename it")


def conform(table: pa.Table, where: str) -> pa.Table:
    """Give the columns of an input their types and order; carried ones get types that every writer can keep.

    Raises:
        UserError: a value cannot be of the type of its column.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for name, wanted in INPUT_TYPES.items():
        if name in table.column_names:
            columns[name] = cast(table.column(name), wanted, name, where)
    for name in table.column_names:
        if name not in columns:
            columns[name] = cast(table.column(name), _kept_type(table.column(name).type), name, where)
    return pa.table(columns)  # and none of the metadata, which speaks of the old columns


def cast(column: pa.ChunkedArray, wanted: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    """Cast a column.

    Raises:
        UserError: it cannot be.
    """
    if column.type == wanted:
        return column
    try:
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise UserError(f"{where}: column {name!r} is {column.type}, not {wanted} ({error})") from error


def check_rows(table: pa.Table, first_row: int, where: str) -> None:
    """Refuse rows without id or uri and times that cannot be.

    Args:
        table: rows of an input, conformed.
        first_row: the number of its first row in the input, from 1.
        where: how messages call the input.

    Raises:
        UserError: there is such a row.
    """
    for name in _REQUIRED:
        column = table.column(name)
        empty = pc.index(pc.fill_null(pc.equal(column, ""), True), True).as_py()
        if empty >= 0:
            raise UserError(f"{where}: row {first_row + empty} has no {name}")
    for name in _NUMBERS:
        if name in table.column_names:
            column = table.column(name)
            most = MOST_SECONDS if pa.types.is_floating(column.type) else None
            fine = pc.greater_equal(column, 0)
            fine = fine if most is None else pc.and_(fine, pc.less(column, most))
            bad = pc.index(pc.fill_null(fine, True), False).as_py()
            if bad >= 0:
                within = "" if most is None else f", and less than {most:,.0f} seconds"
                name_of_row, value = table.column("id")[bad].as_py(), column[bad].as_py()
                raise UserError(f"{where}: id {name_of_row!r} has {name} {value}; it has to be 0 or more{within}")
    _check_times(table, where)


def near_miss(name: str, names: list[str]) -> str:
    """The hint at the end of a message about a column that is not there."""
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean its column {near[0]!r}?" if near else f"it has {', '.join(names)}"


def _check_times(table: pa.Table, where: str) -> None:
    if not {"end", "duration"} & set(table.column_names):
        return
    nothing = pa.nulls(table.num_rows, pa.float64())
    start, end, duration = (
        table.column(name) if name in table.column_names else nothing for name in ("start", "end", "duration")
    )
    begin = pc.fill_null(start, 0.0)
    empty = pc.fill_null(pc.equal(end, begin), False)
    bad = pc.index(pc.or_(pc.fill_null(pc.less(pc.coalesce(end, duration), begin), False), empty), True).as_py()
    if bad >= 0:
        raise UserError(
            f"{where}: id {table.column('id')[bad].as_py()!r} has start {begin[bad].as_py()}, "
            f"end {end[bad].as_py()} and duration {duration[bad].as_py()}; "
            "start < end is needed, and start < duration of the file"
        )


def _kept_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return pa.string()  # no writer can keep a column of nulls
    if pa.types.is_dictionary(kind):
        return kind.value_type  # its codes hold for one batch only
    return kind
