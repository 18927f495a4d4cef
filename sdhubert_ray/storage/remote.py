"""Files in stores that fsspec knows: each request bounded in time, repeated if need be, its errors translated."""

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from sdhubert_ray.errors import UserError
from sdhubert_ray.storage import hub
from sdhubert_ray.storage.entries import Entry, remote_entry
from sdhubert_ray.storage.retries import retrying, shown

T = TypeVar("T")

Limit = Mapping[str, float]
"""Keyword arguments that bound one request of a filesystem in time."""

REQUEST_SECONDS = 20.0
"""A request is cut off after so many seconds ..."""
SLOWEST = 100e3
"""... and one more for each of so many bytes that it carries. One that stands still is given up before, by s3fs after
5 s without a connection or 15 s without a byte: a store that is dead costs 31 s, one that refuses connections 8 or so.
"""
LONG_SECONDS = 600.0
"""The same for what takes as long as there is much of it: removing a folder, listing one in a single call."""

_CONNECTIONS = 64
# What tells a client library where its store is and who asks: a notebook may set these after a first failure.
_ENVIRONMENT = ("AWS_", "AZURE_", "GCE_", "GCS_", "GOOGLE_", "STORAGE_EMULATOR_HOST")
_DELETED_AT_ONCE = 1000
# The metadata of an object by which the one who created it knows it again.
_MARK = "created-by"
# Filesystems with a conditional put; elsewhere there is a moment between the question and the put.
_EXCLUSIVE = frozenset({"abfs", "abfss", "az", "gcs", "gs", "memory", "s3", "s3a"})

_filesystems: dict[tuple[object, ...], fsspec.AbstractFileSystem] = {}


def request(
    uri: str, call: Callable[[fsspec.AbstractFileSystem, str, Limit], T], seconds: float = REQUEST_SECONDS
) -> T:
    """Make a request of the store that a URI names. Raises as `retries.retrying`.

    Args:
        uri: what it is about.
        call: takes the filesystem, the path in it, and what has to be passed on to it with each method.
        seconds: how long one attempt may take.
    """

    def attempt() -> T:
        filesystem, path = _connect(uri)
        # fsspec's asynchronous filesystems take this for all methods: a body that trickles in for ever is cut off.
        limit = {"timeout": seconds} if filesystem.async_impl else {}
        return call(filesystem, path, limit)

    return retrying(uri, attempt)


def is_s3(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Tell whether a filesystem speaks S3."""
    return "s3" in filesystem.protocol


def stat(uri: str) -> Entry:
    """What the store tells of one file. Raises as `request`, and IsADirectoryError."""
    info = _info(uri)
    if info["type"] == "directory":
        raise IsADirectoryError(f"{shown(uri)}: is a folder")
    return remote_entry(uri, info)


def exists(uri: str) -> bool:
    """Tell whether there is a file or folder."""
    try:
        _info(uri)
    except FileNotFoundError:
        return False
    return True


def is_folder(uri: str) -> bool:
    """Tell whether this is a folder or a prefix."""
    try:
        if _info(uri)["type"] == "directory":
            return True
    except FileNotFoundError:
        return False
    # All pages of a web server are files to fsspec, those that list others too.
    return uri.endswith("/") and request(uri, lambda filesystem, path, limit: bool(filesystem.isdir(path, **limit)))


def fetch(uri: str, start: int, end: int) -> bytes:
    """All bytes [start, end) of a file, in one request. Raises as `request`; OSError if the file ends before."""

    def get(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> bytes:
        data = _read(filesystem, path, limit, start, end)
        if len(data) == end - start:
            return data
        if len(data) >= end:
            return data[start:end]  # a web server that knows no ranges sends the whole file
        size = filesystem.info(path, **limit).get("size")
        if size is not None and size < end:
            raise OSError(f"has {size} bytes, {end} were expected: it was replaced or cut")
        raise ConnectionError(f"{len(data)} bytes came instead of {end - start}")

    return request(uri, get, _seconds(end - start)) if end > start else b""


def fetch_all(uri: str) -> bytes:
    """A whole file, in one request: a small one, or one whose size the store does not tell. Raises as `request`."""
    return request(uri, _read, LONG_SECONDS)


def put(uri: str, data: bytes) -> None:
    """Write a file. Raises as `request`."""
    # An object shows when its upload is complete. A put whose answer was lost is made again, with the same bytes.
    request(uri, lambda filesystem, path, limit: _put(filesystem, path, data, limit), _seconds(len(data)))


def upload(path: Path, uri: str) -> None:
    """Write a file from one of this machine, in parts where it is large. Raises as `request`."""
    seconds = _seconds(path.stat().st_size)
    request(uri, lambda filesystem, target, limit: _put(filesystem, target, path, limit), seconds)


def create(uri: str, data: bytes) -> bool:
    """Write a file if there is none; tell whether this call has. Raises as `request`."""
    mark = uuid.uuid4().hex

    def put_new(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> None:
        if is_s3(filesystem):
            filesystem.pipe_file(path, data, mode="create", Metadata={_MARK: mark}, **limit)
        elif uri.partition("://")[0] in _EXCLUSIVE:
            filesystem.pipe_file(path, data, mode="create", **limit)
        elif _is_there(filesystem, path, limit):
            raise FileExistsError(uri)
        else:
            _put(filesystem, path, data, limit)

    try:
        request(uri, put_new, _seconds(len(data)))
    except FileExistsError:
        # It may be ours: an answer is lost with its connection, and aiohttp then asks again without a word.
        info = _info(uri)
        if "Metadata" in info:
            return bool(info["Metadata"].get(_MARK) == mark)
        return info.get("size") == len(data) and fetch(uri, 0, len(data)) == data
    return True


def replace(uri: str, old: bytes, new: bytes) -> bool:
    """Write a file in the place of one that holds `old`; tell whether this call has. Raises as `request`."""

    def put_over(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> None:
        if is_s3(filesystem) and tag:
            filesystem.pipe_file(path, new, IfMatch=tag, **limit)
        else:
            _put(filesystem, path, new, limit)

    try:
        tag = _info(uri).get("ETag")  # before the content: one that is written in between has another
        if fetch_all(uri) != old:
            return False
        request(uri, put_over, _seconds(len(new)))
    except FileNotFoundError:
        return False
    except FileExistsError:  # or ours, whose answer was lost
        return fetch_all(uri) == new
    return True


def remove_files(uris: Sequence[str]) -> None:
    """Remove files of one store, those that are there. Raises as `request`."""

    def delete(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> None:
        if hub.is_hub(filesystem):
            hub.remove(filesystem, [_path_in(filesystem, uri) for uri in uris])
            return
        if not is_s3(filesystem):
            for uri in uris:
                with contextlib.suppress(FileNotFoundError):
                    filesystem.rm_file(_path_in(filesystem, uri))
            return
        bucket = filesystem.split_path(path)[0]
        keys = [filesystem.split_path(_path_in(filesystem, uri))[1] for uri in uris]
        for begin in range(0, len(keys), _DELETED_AT_ONCE):
            _delete_keys(filesystem, bucket, keys[begin : begin + _DELETED_AT_ONCE])

    if uris:
        request(uris[0], delete, LONG_SECONDS)


def _read(
    filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit, start: int | None = None, end: int | None = None
) -> bytes:
    if hub.is_hub(filesystem):
        return hub.read(filesystem, path, start, end)
    return bytes(filesystem.cat_file(path, start=start, end=end, **limit))


def _put(filesystem: fsspec.AbstractFileSystem, path: str, data: bytes | Path, limit: Limit) -> None:
    if hub.is_hub(filesystem):
        hub.put(filesystem, path, data)
    elif isinstance(data, Path):
        filesystem.put_file(str(data), path, **limit)
    else:
        filesystem.pipe_file(path, data, **limit)


def _is_there(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> bool:
    if not hub.is_hub(filesystem):
        return bool(filesystem.exists(path, **limit))
    try:
        hub.info(filesystem, path)  # its own `exists` says no where the hub does not answer
    except FileNotFoundError:
        return False
    return True


def _path_in(filesystem: fsspec.AbstractFileSystem, uri: str) -> str:
    """The path of a URI in its filesystem."""
    return str(filesystem._strip_protocol(uri))


def _delete_keys(filesystem: fsspec.AbstractFileSystem, bucket: str, keys: Sequence[str]) -> None:
    objects = {"Objects": [{"Key": name} for name in keys], "Quiet": True}
    answer = filesystem.call_s3("delete_objects", Bucket=bucket, Delete=objects, timeout=REQUEST_SECONDS)
    for refused in answer.get("Errors", []):
        kind = PermissionError if refused.get("Code") == "AccessDenied" else ConnectionError
        raise kind(f"{refused.get('Code')}: {refused.get('Key')} could not be removed")


def _info(uri: str) -> Mapping[str, Any]:
    """What the store tells of a file or folder. Raises as `request`."""

    def ask(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> Mapping[str, Any] | None:
        if hub.is_hub(filesystem):
            return hub.info(filesystem, path)
        bucket, key, _ = filesystem.split_path(path) if is_s3(filesystem) else (None, None, None)
        if not key:
            return dict(filesystem.info(path, **limit))
        try:
            found = filesystem.call_s3("head_object", Bucket=bucket, Key=key, **limit)
        except FileNotFoundError:
            return None
        return {"type": "file", "size": found["ContentLength"], **found}

    def look_below(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> Mapping[str, Any]:
        bucket, key, _ = filesystem.split_path(path)
        found = filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key.rstrip('/')}/", MaxKeys=1, **limit)
        if not found.get("Contents"):
            raise FileNotFoundError(path)
        return {"type": "directory"}

    # Two requests of S3, each with its own attempts: s3fs makes them as one.
    info = request(uri, ask)
    return info if info is not None else request(uri, look_below)


def _seconds(size: int) -> float:
    return REQUEST_SECONDS + size / SLOWEST


def _connect(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI, and the path in it."""
    try:
        protocol = uri.partition("://")[0]
        if "::" in protocol:  # filesystems in a chain, such as simplecache::s3://
            shared, path = fsspec.core.url_to_fs(uri)
        else:  # elsewhere `::` is a part of the name
            kind = fsspec.get_filesystem_class(protocol)
            shared, path = kind(**kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{shown(uri)} cannot be reached: {error}; install the package of its scheme") from error
    if hub.is_hub(shared):
        hub.check_path(uri, path)
        shared.dircache.clear()  # what it has listed before may have changed
    if not shared.async_impl:
        return shared, path
    # One for all threads of a process, and none of what others use: its clients are told not to wait and not to repeat
    # by themselves (s3fs would 5 times, botocore 5 times in each), and to remember no listing.
    identity = (type(shared), repr(shared.storage_args), repr(sorted(shared.storage_options.items(), key=repr)))
    surroundings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT)))
    key = (os.getpid(), *identity, surroundings)
    found = _filesystems.get(key)
    if found is None:
        found = _filesystems.setdefault(key, _bounded(shared))
    return found, path


def _bounded(shared: fsspec.AbstractFileSystem) -> fsspec.AbstractFileSystem:
    filesystem = type(shared)(*shared.storage_args, skip_instance_cache=True, **shared.storage_options)
    filesystem.dircache.use_listings_cache = False
    if is_s3(filesystem):
        filesystem.retries = 1
        # It waits 5 s for a connection and 15 s for the next byte.
        filesystem.config_kwargs = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": _CONNECTIONS,
            **filesystem.config_kwargs,
        }
    return filesystem
