"""Shards: audio inside tar and Parquet files; what they hold, and single recordings out of them.

A recording is a file (`uri`), a member of a tar (`uri`, `member` and where its bytes lie), or a row of a Parquet file
(`uri`, and its row number as `member`). Nothing is unpacked: of a tar only the headers and the members asked for are
read, of a Parquet file only the audio of the row groups asked for.
"""

import bisect
import contextlib
import io
import posixpath
import tarfile
import threading
import unicodedata
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Generic, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet

from sdhubert_ray import storage
from sdhubert_ray.errors import AudioError, first_line
from sdhubert_ray.output.parquet import parquet_file

TAR_SUFFIX = ".tar"
PARQUET_SUFFIX = ".parquet"
COMPRESSED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_AUDIO_COLUMNS = ("audio", "bytes")
MOST_GROUP_BYTES = 4 << 30
"""Audio in one row group of a Parquet file, which is read at once; more is refused before it is read."""
_MOST_HEADER_BYTES = 1 << 20
_TARS_KEPT = 8
_ROW_GROUPS_KEPT = 2

Value = TypeVar("Value")


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        name: its path in the tar, without a leading `./`.
        offset: where its bytes begin in the tar, bytes.
        size: how many there are.
        flaw: why they cannot be read by range, as a sentence without its subject, or None.
    """

    name: str
    offset: int
    size: int
    flaw: str | None = None


@dataclass(frozen=True)
class AudioColumn:
    """The column of a Parquet file that holds encoded audio.

    Attributes:
        name: `audio` or `bytes`.
        leaf: the path of the bytes in it, as Parquet names them.
        path_leaf: the path of the file name beside the bytes, or None.
    """

    name: str
    leaf: str
    path_leaf: str | None


def is_compressed_tar(name: str) -> bool:
    """Tell by its name whether a file is a compressed tar, whose members cannot be read by range."""
    return name.lower().endswith(COMPRESSED_TAR_SUFFIXES)


def beside(uri: str, name: str) -> str:
    """The URI of what the file `uri` names: absolute names stand for themselves, others are relative to its folder."""
    if not name or "://" in name or name.startswith("/"):
        return name
    folder = uri.rpartition("/")[0] if "/" in uri else "."
    return storage.absolute(storage.join(folder, name))


def is_relative(name: str) -> bool:
    """Tell whether a name in a shard is of its folder or below it: others may lead anywhere, with our credentials."""
    return not (name.startswith("/") or "://" in name or posixpath.normpath(name).startswith(".."))


def open_audio(
    uri: str,
    member: str | None,
    byte_offset: int | None,
    byte_size: int | None,
    source_size: int | None,
    *,
    sparse: bool = False,
) -> BinaryIO:
    """Open the encoded audio of a manifest row for reading, seekable.

    Args:
        uri: the file or shard.
        member: path in a tar, or row number in a Parquet file; None for a file.
        byte_offset: where the audio begins in the file, bytes; None has a member looked up.
        byte_size: how long it is, bytes.
        source_size: size of the whole file, if known: it saves a request.
        sparse: little of it will be read, such as a header; as `storage.open_binary`.

    Raises:
        FileNotFoundError: no such file, or no such member in it.
        AudioError: the shard is broken, or the row holds no bytes.
        OSError: it cannot be read.
        UserError: as `storage.open_binary`.
    """
    if byte_offset is not None and byte_size is not None:
        return storage.open_binary(uri, start=byte_offset, size=byte_size, sparse=sparse)
    if member is None:
        return storage.open_binary(uri, size=_remote_size(uri, source_size), sparse=sparse)
    if PurePosixPath(uri).suffix.lower() == PARQUET_SUFFIX:
        return _open_row(uri, member, source_size)
    members, name = _tars.get(uri, source_size), _plain(member)
    found = members.get(name) or members.get(unicodedata.normalize("NFC", name))
    if found is None:
        raise FileNotFoundError(f"has no member {member!r}")
    if found.flaw:
        raise AudioError(f"has a member {member!r} that {found.flaw}")
    return storage.open_binary(uri, start=found.offset, size=found.size, sparse=sparse)


def audio_to_decode(
    uri: str,
    member: str | None,
    byte_offset: int | None,
    byte_size: int | None,
    source_size: int | None,
    *,
    sparse: bool = False,
) -> contextlib.AbstractContextManager[BinaryIO]:
    """Open a recording as `open_audio`, to be decoded. Raises as `to_decode`."""
    return to_decode(partial(open_audio, uri, member, byte_offset, byte_size, source_size, sparse=sparse))


@contextlib.contextmanager
def to_decode(opening: Callable[[], BinaryIO]) -> Iterator[BinaryIO]:
    """Open a file for a decoder, which takes a lost connection for the end of the file.

    Raises:
        OSError: the connection was lost while the decoder read, whatever that has said; or as `opening`.
        FileNotFoundError, AudioError, UserError: as `opening`, such as `open_audio`.
    """
    with opening() as file:
        try:
            yield file
        finally:
            storage.raise_if_failed(file)


def index_tar(uri: str, size: int | None = None) -> list[Member]:
    """List the files in a tar, in order, by reading its headers only.

    Args:
        uri: the tar.
        size: its size in bytes, if known: it saves a request.

    Raises:
        AudioError: compressed, truncated or no tar; the message is a sentence without its subject.
        OSError: it cannot be read.
    """
    members: list[Member] = []
    with storage.open_binary(uri, size=_remote_size(uri, size), sparse=True) as file:
        start: int | None = 0
        while start is not None:
            start = _index_one(file, start, members)
    return members


class _Headers:
    """A tar of which headers are read, in blocks; those that carry long names say themselves how long they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MOST_HEADER_BYTES:
            raise AudioError(f"is damaged: a name in it is {size} bytes long")
        return self._file.read(size)


def _index_one(file: BinaryIO, start: int, members: list[Member]) -> int | None:
    """Add the members of the tar that begins at a byte; tells where another begins that was joined to it, or None."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as tar:
            while (info := tar.next()) is not None:
                if info.size < 0:  # such a header leads back to itself
                    raise AudioError(f"is damaged: member {info.name!r} is said to have {info.size} bytes")
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all, a kilobyte each
                if not info.isdir():
                    members.append(Member(_plain(info.name), info.offset_data, info.size, _flaw(info)))
            end = tar.offset
    except (tarfile.TarError, ValueError) as error:
        raise AudioError(_describe_damage(file, str(error))) from error
    except RecursionError as error:
        raise AudioError("is damaged: a member has hundreds of headers") from error
    # tarfile takes any end for the end: only a block of zeros is one.
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise AudioError("is truncated: it ends without the end mark of a tar")
    if block.strip(b"\0"):
        raise AudioError(f"is damaged: there is no header of a member at byte {end}")
    while block and not block.strip(b"\0"):  # what fills the last record
        end += len(block)
        block = file.read(tarfile.BLOCKSIZE)
    return end if _is_header(block) else None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def find_audio(schema: pa.Schema) -> AudioColumn | None:
    """Find encoded audio in a Parquet file: a column `audio` or `bytes`, binary or a struct with binary `bytes`."""
    for name in _AUDIO_COLUMNS:
        if schema.get_field_index(name) < 0:
            continue
        kind = schema.field(name).type
        if _is_binary(kind):
            return AudioColumn(name, name, None)
        if pa.types.is_struct(kind):
            inner = {field.name: field.type for field in kind}
            if "bytes" in inner and _is_binary(inner["bytes"]):
                return AudioColumn(name, f"{name}.bytes", f"{name}.path" if "path" in inner else None)
    return None


def holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether a type is binary, or has binary somewhere inside."""
    return _is_binary(kind) or any(holds_bytes(kind.field(index).type) for index in range(kind.num_fields))


class _Recent(Generic[Value]):
    """The values of the last few keys, each made once, also when many threads ask for it at the same time."""

    def __init__(self, make: Callable[..., Value], kept: int) -> None:
        self._make = make
        self._kept = kept
        self._values: dict[Hashable, Future[Value]] = {}
        self._lock = threading.Lock()

    def get(self, *key: Any) -> Value:  # noqa: ANN401 - whatever `make` takes
        with self._lock:
            future = self._values.pop(key, None)
            is_new = future is None
            future = future or Future()
            self._values[key] = future
            while len(self._values) > self._kept:
                del self._values[next(iter(self._values))]
        if is_new:
            try:
                future.set_result(self._make(*key))
            except BaseException as error:
                with self._lock:  # whoever asks later tries again
                    if self._values.get(key) is future:
                        del self._values[key]
                future.set_exception(error)
        return future.result()


@dataclass(frozen=True)
class _ParquetShard:
    metadata: pa.parquet.FileMetaData
    column: AudioColumn
    first_rows: list[int]  # of each row group


def _index_members(uri: str, size: int | None) -> dict[str, Member]:
    members = index_tar(uri, size)
    # Names are found in any form of Unicode; those that were asked for letter by letter come first.
    return {
        **{unicodedata.normalize("NFC", member.name): member for member in members},
        **{member.name: member for member in members},
    }


def _open_parquet(uri: str, size: int | None) -> _ParquetShard:
    with storage.open_binary(uri, size=_remote_size(uri, size), sparse=True) as file:
        try:
            parquet = parquet_file(file)
        except pa.ArrowException as error:
            raise AudioError(f"cannot be read as Parquet ({first_line(error)})") from error
        column = find_audio(parquet.schema_arrow)
        if column is None:
            raise AudioError("has no column of audio bytes")
        firsts, rows = [], 0
        for group in range(parquet.metadata.num_row_groups):
            firsts.append(rows)
            rows += parquet.metadata.row_group(group).num_rows
        return _ParquetShard(parquet.metadata, column, firsts)


def _refuse_large(shard: _ParquetShard, group: int) -> None:
    columns = shard.metadata.row_group(group)
    of_audio = [
        column
        for column in map(columns.column, range(columns.num_columns))
        if column.path_in_schema in (shard.column.leaf, shard.column.path_leaf)
    ]
    claimed = sum(max(column.total_uncompressed_size, column.total_compressed_size) for column in of_audio)
    if claimed > MOST_GROUP_BYTES:
        raise AudioError(
            f"has {claimed / 2**30:.1f} GiB of audio in its row group {group}, which is read at once; write it anew "
            f"with row groups of some 100 rows ({MOST_GROUP_BYTES >> 30} GiB at most)"
        )


def _read_group(uri: str, size: int | None, group: int) -> pa.ChunkedArray:
    shard = _parquets.get(uri, size)
    _refuse_large(shard, group)
    with storage.open_binary(uri, size=_remote_size(uri, size)) as file:
        parquet = parquet_file(file, metadata=shard.metadata)
        leaves = [leaf for leaf in (shard.column.leaf, shard.column.path_leaf) if leaf]
        try:
            return parquet.read_row_group(group, columns=leaves, use_threads=False).column(0)
        except pa.ArrowException as error:
            raise AudioError(f"cannot be read as Parquet ({first_line(error)})") from error


_tars = _Recent(_index_members, _TARS_KEPT)
_parquets = _Recent(_open_parquet, _TARS_KEPT)
_groups = _Recent(_read_group, _ROW_GROUPS_KEPT)


def _open_row(uri: str, member: str, size: int | None) -> BinaryIO:
    shard = _parquets.get(uri, size)
    row = int(member) if member.isdecimal() else -1
    if not 0 <= row < shard.metadata.num_rows:
        raise FileNotFoundError(f"has no row {member}; it has {shard.metadata.num_rows}, counted from 0")
    group = bisect.bisect_right(shard.first_rows, row) - 1
    value = _groups.get(uri, size, group)[row - shard.first_rows[group]].as_py()
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if data is not None:
        return io.BytesIO(data)
    if path and is_relative(path):
        return storage.open_binary(beside(uri, path))
    if path:
        raise AudioError(f"has a name instead of audio bytes in row {member}, {path!r}, that leads out of its folder")
    raise AudioError(f"has no audio bytes in row {member}")


def _remote_size(uri: str, size: int | None) -> int | None:
    """A known size spares a request to a store; a local file is asked itself, which costs nothing."""
    return None if storage.is_local(uri) else size


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:]
    return name


def _flaw(info: tarfile.TarInfo) -> str | None:
    if info.issparse():
        return "is stored sparse; repack the tar without --sparse"
    if info.islnk() or info.issym():
        return "is a link; repack the tar with --dereference and --hard-dereference"
    return None if info.isfile() else "is no regular file; leave it out of the tar"


def _describe_damage(file: BinaryIO, reason: str) -> str:
    file.seek(0)
    start = file.read(6)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "is compressed, so its members cannot be read by range; repack it as a plain .tar"
    if not start:
        return "is an empty file (0 bytes)"
    if any(words in reason for words in ("unexpected end", "truncated", "empty header")):
        return "is truncated: it ends inside a member or its header"
    return f"cannot be read as a tar ({reason})"


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))
