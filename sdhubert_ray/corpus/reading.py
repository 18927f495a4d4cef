"""Manifests as files: Parquet, which is streamed, and text, which is read whole; their rows as those of an input."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from sdhubert_ray import storage
from sdhubert_ray.corpus.columns import cast, check_names, check_rows, conform, near_miss
from sdhubert_ray.corpus.selection import BATCH_ROWS, Source
from sdhubert_ray.corpus.shards import beside
from sdhubert_ray.corpus.texts import URI_NAMES, parse_manifest
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.output.parquet import parquet_file
from sdhubert_ray.output.tables import MANIFEST_FIELDS

PIECE_SECONDS_KEY = b"sdhubert_piece_seconds"
"""Key of the Parquet metadata that tells how long pieces are, seconds; only manifests of pieces have it."""

_URI, _OTHER_URI = URI_NAMES
_BUFFER_BYTES = 1 << 20
"""Of a column that are read at once: a row group may hold a million rows."""


def text_manifest(uri: str) -> Source:
    """A manifest in text, such as JSON lines or CSV, which is read as a whole.

    Raises:
        UserError: unreadable, without rows, or with a column or row that cannot be used.
    """
    where = f"manifest {uri}"
    try:
        table = parse_manifest(uri)
    except storage.TransientError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise _unreadable(where, error) from error
    if not table.num_rows:
        raise UserError(f"{where} has no rows")
    converted = _convert(table, uri, where)
    check_rows(converted, 1, where)

    def read() -> Iterator[pa.Table]:
        return (converted.slice(begin, BATCH_ROWS) for begin in range(0, converted.num_rows, BATCH_ROWS))

    return Source(where, converted.schema, read, duplicate_hint=_duplicate_hint(table.schema))


def parquet_manifest(uri: str, schema: pa.Schema) -> Source:
    """A manifest in Parquet, of the schema that its file has, which is streamed.

    Raises:
        UserError: a column that cannot be used; while it is read, also a row that cannot.
    """
    where = f"manifest {uri}"
    uri = storage.absolute(uri)  # the working directory may be another when it is read
    if PIECE_SECONDS_KEY in (schema.metadata or {}):
        return _pieces_manifest(uri, where, schema)
    converted = _convert(schema.empty_table(), uri, where).schema

    def read() -> Iterator[pa.Table]:
        rows = 0
        with open_parquet(uri, where) as parquet:
            for _, batch in read_batches(parquet):
                table = _convert(pa.Table.from_batches([batch]), uri, where)
                check_rows(table, rows + 1, where)
                rows += table.num_rows
                yield table
        if not rows:
            raise UserError(f"{where} has no rows")

    return Source(where, converted, read, duplicate_hint=_duplicate_hint(schema))


@contextlib.contextmanager
def open_parquet(uri: str, where: str, size: int | None = None) -> Iterator[pa.parquet.ParquetFile]:
    """Open a Parquet file to be read in parts.

    Args:
        uri: its name.
        where: how messages call it.
        size: its size in bytes, if known.

    Raises:
        UserError: it cannot be read; also from whatever is read of it.
        TransientError: the store could not be reached.
    """
    try:
        with storage.open_binary(uri, size=None if storage.is_local(uri) else size, sparse=True) as file:
            yield parquet_file(file, buffer_size=_BUFFER_BYTES)
    except storage.TransientError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{where} does not exist") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(where, error) from error


def read_batches(
    parquet: pa.parquet.ParquetFile, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of a Parquet file in batches, each with the number of its row group.

    One group after the other and in this thread: whatever reads ahead keeps memory that grows with the file.

    Args:
        parquet: an open file.
        columns: the paths of the columns to read; None is all.
    """
    for group in range(parquet.metadata.num_row_groups):
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
            yield group, batch


def _pieces_manifest(uri: str, where: str, schema: pa.Schema) -> Source:
    """A manifest of pieces: its rows pass as they are."""
    text = schema.metadata[PIECE_SECONDS_KEY].decode(errors="replace")
    try:
        piece_seconds = float(text)
    except ValueError:
        piece_seconds = math.nan
    if not 0 < piece_seconds < math.inf:
        raise UserError(f"{where} says that its pieces are {text!r} seconds long; make it anew by `sdhubert manifest`")
    missing = [field.name for field in MANIFEST_FIELDS if field.name not in schema.names]
    if missing:
        raise UserError(f"{where} is one of pieces but has no column {missing[0]!r}; make it anew")

    def convert(table: pa.Table) -> pa.Table:
        columns = {
            field.name: cast(table.column(field.name), field.type, field.name, where) for field in MANIFEST_FIELDS
        }
        for name in ("key", "id", "uri", "piece", "num_pieces", "start"):
            if columns[name].null_count:
                raise UserError(f"{where} is one of pieces but has a row without {name!r}; make it anew")
        return pa.table({**columns, **{name: table.column(name) for name in table.column_names if name not in columns}})

    def read() -> Iterator[pa.Table]:
        with open_parquet(uri, where) as parquet:
            if not parquet.metadata.num_rows:
                raise UserError(f"{where} has no rows")
            for _, batch in read_batches(parquet):
                yield convert(pa.Table.from_batches([batch]))

    return Source(where, convert(schema.empty_table()).schema, read, piece_seconds=piece_seconds)


def _convert(table: pa.Table, uri: str, where: str) -> pa.Table:
    """The rows of a manifest as those of an input: our column names, their types, absolute uris."""
    if _URI not in table.column_names and _OTHER_URI in table.column_names:
        table = _from_nemo(table, where)
    if "uri" not in table.column_names:
        raise UserError(f"{where} has no column 'uri' or 'audio_filepath'; {near_miss('uri', table.column_names)}")
    check_names(table.column_names, where)
    if "id" not in table.column_names:
        name = cast(table.column("uri"), pa.string(), "uri", where)
        if "member" in table.column_names:
            member = cast(table.column("member"), pa.string(), "member", where)
            name = pc.coalesce(pc.binary_join_element_wise(name, member, "/"), name)
        table = table.append_column("id", name)
    table = conform(table, where)
    # An empty uri is refused with the number of its row.
    uris = [name and beside(uri, name) for name in table.column("uri").to_pylist()]
    return table.set_column(table.column_names.index("uri"), "uri", pa.array(uris, pa.string()))


def _from_nemo(table: pa.Table, where: str) -> pa.Table:
    """NeMo's names: with an `offset`, its `duration` is the length of the part that begins there."""
    names = {_OTHER_URI: "uri"}
    if "start" not in table.column_names:
        names["offset"] = "start"
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    if "start" not in table.column_names or "duration" not in table.column_names or "end" in table.column_names:
        return table
    start, length = (cast(table.column(name), pa.float64(), name, where) for name in ("start", "duration"))
    is_part = pc.is_valid(start)
    table = table.append_column("end", pc.if_else(is_part, pc.add(start, length), pa.scalar(None, pa.float64())))
    whole = pc.if_else(is_part, pa.scalar(None, pa.float64()), length)
    return table.set_column(table.column_names.index("duration"), "duration", whole)


def _duplicate_hint(schema: pa.Schema) -> str:
    return "ids have to be unique" if "id" in schema.names else "add a column id that tells its rows apart"


def _unreadable(where: str, error: Exception) -> UserError:
    reason = first_line(error)
    return UserError(f"{where} cannot be read ({reason})")
