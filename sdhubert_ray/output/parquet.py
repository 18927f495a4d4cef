"""Parquet files of an output: read with checksums and clear refusals, made in memory."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line

TOTALS = b"sdhubert.totals"
"""In the metadata of a file of the table: what its rows amount to."""
_ADVICE = "remove it and run again to make its rows anew"
_Read = TypeVar("_Read")


class GoneError(UserError):
    """A file of results that was there a moment ago."""


def read_parquet(
    uri: str,
    read: Callable[[pq.ParquetFile], _Read],
    size: int | None = None,
    advice: str = _ADVICE,
) -> _Read:
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


def iter_row_groups(uri: str, columns: Sequence[str] | None = None, size: int | None = None) -> Iterator[pa.Table]:
    """Read a file a row group at a time: all columns, or those of these that it has. Raises as `read_parquet`.

    What its footer says that all rows amount to is left out of the tables' metadata.
    """
    with _opened(uri, size) as parquet:
        chosen = None if columns is None else [column for column in columns if column in parquet.schema_arrow.names]
        for index in range(parquet.num_row_groups):
            table = parquet.read_row_group(index, chosen, use_threads=False)
            metadata = table.schema.metadata or {}
            yield table.replace_schema_metadata({key: value for key, value in metadata.items() if key != TOTALS})


def parquet_file(
    file: BinaryIO, *, metadata: pq.FileMetaData | None = None, buffer_size: int = 0, checksums: bool = False
) -> pq.ParquetFile:
    """Open a Parquet file that Python reads, so that Arrow reads it in the thread that asks, and in no other.

    A thread of Arrow that lets go of what Python has read for it needs the interpreter. If that is ending, as after a
    refusal, the process is aborted ("terminate called without an active exception"). So nothing is read ahead here, and
    whoever reads gives `use_threads=False`.

    Args:
        file: seekable.
        metadata: of the file, if it is known.
        buffer_size: bytes that are read of a column at once; 0: all of them.
        checksums: whether pages have some, which are compared.

    Raises:
        pyarrow.ArrowException, OSError: it is no Parquet file, or cannot be read.
    """
    return pq.ParquetFile(
        file, metadata=metadata, buffer_size=buffer_size, pre_buffer=False, page_checksum_verification=checksums
    )


def read_schema(uri: str) -> pa.Schema:
    """The schema of a file, with its metadata. Raises as `read_parquet`."""
    with _opened(uri, None) as parquet:
        return parquet.schema_arrow


def _writer(target: BinaryIO, schema: pa.Schema, compression: str) -> pq.ParquetWriter:
    """A writer with checksums, whose features are not looked up in a dictionary: hardly two of them are the same.

    The bytes of float32 are written apart (BYTE_STREAM_SPLIT), so that those of exponents lie beside each other.
    """
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    return pq.ParquetWriter(
        target,
        schema,
        compression=compression,
        write_page_checksum=True,
        use_dictionary=[path for path, kind in leaves if kind not in (pa.float16(), pa.float32())],
        use_byte_stream_split=[path for path, kind in leaves if kind == pa.float32()],
    )


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The columns of a field as Parquet names them."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path, kind


def to_parquet(
    tables: Iterable[pa.Table], compression: str, footer: Callable[[], Mapping[bytes, bytes]] = dict
) -> bytes:
    """The bytes of a Parquet file with a row group for each table.

    Args:
        tables: that are written, one after the other.
        compression: the codec.
        footer: asked behind the last of them for what is put into the file's metadata.
    """
    buffer = io.BytesIO()
    writer: pq.ParquetWriter | None = None
    for table in tables:
        if writer is None:
            writer = _writer(buffer, table.schema, compression)
        writer.write_table(table, row_group_size=max(1, table.num_rows))
    if writer is None:
        raise ValueError("no tables to write")
    writer.add_key_value_metadata(footer())
    writer.close()
    return buffer.getvalue()


@contextlib.contextmanager
def _opened(uri: str, size: int | None, advice: str = _ADVICE) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open_binary(uri, size=size, sparse=True) as file:
            yield parquet_file(file, checksums=True)
    except FileNotFoundError as error:
        raise GoneError(f"{uri} is gone: a run publishes its commits; try again") from error
    except storage.TransientError:
        raise
    except PermissionError as error:
        raise UserError(f"{uri} may not be read ({error}); mend the access to it") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{uri} is damaged ({reason}); {advice}") from error
