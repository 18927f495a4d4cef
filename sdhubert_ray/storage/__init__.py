"""Files by URI: local paths and whatever fsspec knows, listed, opened by range for reading, and put whole.

What fails in a store in a way that may pass (throttling, 5xx, lost and stalled connections, short bodies) is tried
again inside every call. What is left is a `TransientError`, an OSError; see `retries`. Local files are not tried again.
"""

import contextlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from glob import has_magic as _has_magic
from pathlib import Path
from typing import Any, BinaryIO

from sdhubert_ray.errors import UserError
from sdhubert_ray.storage import listing, local, remote
from sdhubert_ray.storage.entries import Entry, is_hidden
from sdhubert_ray.storage.hub import keeps_history
from sdhubert_ray.storage.reading import Blocks, RangeFile, raise_if_failed
from sdhubert_ray.storage.retries import TransientError, shown

__all__ = [
    "Entry",
    "TransientError",
    "absolute",
    "create",
    "download",
    "exists",
    "expand_glob",
    "find_any",
    "fixed_part",
    "has_magic",
    "is_folder",
    "is_inside",
    "is_local",
    "is_same_folder",
    "join",
    "keeps_history",
    "list_files",
    "open_binary",
    "put",
    "raise_if_failed",
    "read_bytes",
    "read_json",
    "read_now",
    "remove_files",
    "remove_own",
    "replace",
    "scan",
    "stat",
    "tidy",
    "upload",
]

FETCHED_WHOLE = 8 * 1024 * 1024
"""A remote file or part up to this size, in bytes, is one request."""


def is_local(uri: str) -> bool:
    """Tell whether a URI is a path of this machine."""
    return "://" not in uri or uri.startswith("file://")


def join(folder: str, name: str) -> str:
    """The URI of `name` (relative, with slashes) in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def absolute(uri: str) -> str:
    """A URI that means the same from any working directory."""
    return os.path.normpath(local.path_of(uri).absolute()) if is_local(uri) else uri


def open_binary(uri: str, *, start: int = 0, size: int | None = None, sparse: bool = False) -> BinaryIO:
    """Open a file, or a part of it, for reading; seekable, read by range.

    Whoever hands it to a library that reads through callbacks calls `raise_if_failed` afterwards.

    Args:
        uri: its name.
        start: where the part begins in the file, bytes; position 0 of what is returned.
        size: its length, bytes; None is up to the end of the file, which takes a request more.
        sparse: only little of it will be read, such as a header: do not fetch it whole though it is small.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read, or no credentials were found.
        OSError: it cannot be read, or is shorter than `start + size`.
        UserError: a scheme that fsspec does not know or whose package is not installed.
    """
    if is_local(uri):
        return local.open_part(uri, start, size)
    if size is None:
        whole = remote.stat(uri).size
        if whole is None:
            return io.BytesIO(remote.fetch_all(uri)[start:])
        size = max(whole - start, 0)
    if size <= FETCHED_WHOLE and not sparse:
        return io.BytesIO(remote.fetch(uri, start, start + size))
    return RangeFile(Blocks(partial(remote.fetch, uri), start, size))


def read_bytes(uri: str) -> bytes:
    """Read a whole file. Raises as `open_binary`."""
    with open_binary(uri) as file:
        return file.read()


def read_now(uri: str) -> bytes | None:
    """Read a small file in one request, or None where there is none. Raises as `open_binary`."""
    try:
        return read_bytes(uri) if is_local(uri) else remote.fetch_all(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_json(uri: str) -> dict[str, Any] | None:
    """Read a JSON object, or None where there is no such file.

    In one request: a file that is written anew by others, such as a lease, may have another size a moment later.

    Raises:
        ValueError: it is no JSON, or no object.
        OSError, UserError: as `open_binary`.
    """
    data = read_now(uri)
    if data is None:
        return None
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def download(uri: str, path: Path) -> None:
    """Copy a file to this machine, in parts. Raises as `read_bytes`."""
    with open_binary(uri) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, FETCHED_WHOLE)


def stat(uri: str) -> Entry:
    """Tell size and version of one file; its name is the URI.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        OSError, UserError: as `open_binary`.
    """
    return local.stat(uri) if is_local(uri) else remote.stat(uri)


def exists(uri: str) -> bool:
    """Tell whether there is a file or folder of this name. Raises OSError where a store does not tell."""
    return local.exists(uri) if is_local(uri) else remote.exists(uri)


def is_folder(uri: str) -> bool:
    """Tell whether this is a folder, or an object store's prefix. Raises OSError where a store does not tell."""
    return local.is_folder(uri) if is_local(uri) else remote.is_folder(uri)


def is_same_folder(one: str, other: str) -> bool:
    """Tell whether two names are of one folder: the same name, or local ones that lead there through links or dots."""
    if one.rstrip("/") == other.rstrip("/"):
        return True
    return is_local(one) and is_local(other) and local.path_of(one).resolve() == local.path_of(other).resolve()


def is_inside(inner: str, folder: str) -> bool:
    """Tell whether a name is of a folder or of something below it, there or not; local names through links and dots."""
    if is_local(inner) and is_local(folder):
        return local.path_of(inner).resolve().is_relative_to(local.path_of(folder).resolve())
    return f"{inner.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def put(uri: str, data: bytes | Iterable[bytes]) -> None:
    """Write a whole file at once: it is there completely or not at all, whenever this process dies.

    Args:
        uri: its name; folders are made.
        data: its bytes, or the parts of them in order, which are not held in memory at once where it is local.

    Raises:
        UserError: the place cannot be written.
        TransientError: the store could not be reached.
    """
    parts = [data] if isinstance(data, bytes) else data
    try:
        if is_local(uri):
            local.put(local.path_of(uri), parts)
        else:
            remote.put(uri, b"".join(parts))
    except TransientError:
        raise
    except OSError as error:
        raise _unwritable(uri, error) from error


def upload(path: Path, uri: str) -> None:
    """Copy a file of this machine to where `uri` says, as `put` does, without holding it in memory. Raises as `put`."""
    if is_local(uri):
        with path.open("rb") as file:
            put(uri, iter(partial(file.read, FETCHED_WHOLE), b""))
        return
    try:
        remote.upload(path, uri)
    except TransientError:
        raise
    except OSError as error:
        raise _unwritable(uri, error) from error


def create(uri: str, data: bytes) -> bool:
    """Write a whole file at once, if there is none of this name.

    One of several that do so at the same time succeeds: locally, and in stores with a conditional put (S3, GCS, Azure).
    Other filesystems are asked first and written to then, and of two that ask at once both may succeed. Outside this
    machine and S3, whoever finds the same bytes takes them for its own: let them tell who wrote them.

    Args:
        uri: its name; folders are made.
        data: its bytes.

    Returns:
        Whether this call has written it; False if there is such a file.

    Raises:
        UserError: the place cannot be written.
        TransientError: the store could not be reached; the file may be there or not.
    """
    try:
        return local.create(local.path_of(uri), data) if is_local(uri) else remote.create(uri, data)
    except TransientError:
        raise
    except OSError as error:
        raise _unwritable(uri, error) from error


def replace(uri: str, old: bytes, new: bytes) -> bool:
    """Write a whole file at once in the place of one that holds `old`.

    One of several that do so at the same time succeeds: on this machine where the file system has locks, and on S3 by a
    conditional put. Elsewhere the file is read first and written then, and of two at once both may succeed.

    Returns:
        Whether this call has; False if the file holds something else, or is not there.

    Raises:
        UserError: the place cannot be written.
        TransientError: the store could not be reached; the file may hold `old` or `new`.
    """
    try:
        return local.replace(local.path_of(uri), old, new) if is_local(uri) else remote.replace(uri, old, new)
    except TransientError:
        raise
    except OSError as error:
        raise _unwritable(uri, error) from error


def remove_files(uris: Sequence[str]) -> None:
    """Remove files of one place, those that are there, in few requests. Raises OSError."""
    if uris and is_local(uris[0]):
        for uri in uris:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                local.path_of(uri).unlink()
    else:
        remote.remove_files(uris)


def tidy(folder: str) -> None:
    """Remove what killed writers have left half written in a folder, and the folder itself if nothing else is in it.

    There is nothing to do in a store, which has neither. Raises OSError.
    """
    if is_local(folder):
        local.tidy(local.path_of(folder))


def remove_own(folder: str, is_own: Callable[[str], object]) -> None:
    """Remove of the files below a folder those that are told to be one's own, by their names; others stay, and theirs.

    Args:
        folder: a folder or URI; one that is not there has none.
        is_own: told the path of a file relative to the folder, with slashes; tells by a true value.

    Raises:
        OSError, UserError: they cannot be listed or removed.
    """
    if is_folder(folder):
        own = [name for name in list_files(folder) if is_own(name)]
        remove_files([join(folder, name) for name in own])
        places = {folder, *(join(folder, name).rpartition("/")[0] for name in own)}
        for place in sorted(places, reverse=True):  # the inner ones first
            tidy(place)


def scan(folder: str) -> Iterator[Entry]:
    """Tell all files below a folder, sorted by name; hidden files and folders are left out.

    They are streamed: at most the names of one local folder are held, or some thousands of a store. Links are followed,
    but not round. A folder that is not there has no files in a store, where folders are but parts of names.

    Raises:
        UserError: it cannot be listed: no local folder, no such bucket, no permission.
        TransientError: the store could not be reached.
    """
    if is_local(folder):
        yield from local.scan(folder)
        return
    try:
        yield from listing.scan(folder)
    except TransientError:
        raise
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be listed ({_bare(folder, error)})") from error


def find_any(folder: str, names: Collection[str]) -> str | None:
    """One of these names, relative to a folder, that a file has; None where all are free. Raises as `scan`."""
    if not names or not is_folder(folder):
        return None
    hidden = sorted(name for name in names if is_hidden(name))
    found = (entry.name for entry in scan(folder) if entry.name in names)
    return next(itertools.chain((name for name in hidden if exists(join(folder, name))), found), None)


def list_files(folder: str) -> list[str]:
    """The paths of all files below a folder, relative to it, with slashes, sorted. Raises as `scan`."""
    return [entry.name for entry in scan(folder)]


def expand_glob(pattern: str) -> list[str]:
    """The files that a glob matches, as absolute URIs, sorted; `**` matches any depth. Raises as `scan`."""
    if is_local(pattern):
        return local.expand_glob(pattern)
    fixed = fixed_part(pattern)
    try:
        return [join(fixed, entry.name) for entry in listing.glob(pattern, fixed)]
    except TransientError:
        raise
    except OSError as error:
        raise UserError(f"{shown(pattern)} cannot be listed ({_bare(fixed, error)})") from error


def fixed_part(pattern: str) -> str:
    """The folder of a glob up to its first special character, as an absolute URI."""
    parts = pattern.split("/")
    fixed = next(index for index, part in enumerate(parts) if has_magic(part))
    return absolute("/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else "."))


def has_magic(uri: str) -> bool:
    """Tell whether a URI holds a glob's special characters."""
    return _has_magic(uri)


def _unwritable(uri: str, error: OSError) -> UserError:
    return UserError(f"{shown(uri)} cannot be written ({_bare(uri, error)}); choose another output or free it")


def _bare(uri: str, error: OSError) -> str:
    """What an error says, without the URI that its message begins with."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason.removeprefix(f"{shown(uri)}: ")
