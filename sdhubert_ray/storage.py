"""Files by URI: local paths and whatever fsspec knows, opened for reading and put whole."""

import glob
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import fsspec

from sdhubert_ray.errors import UserError


def is_local(uri: str) -> bool:
    """Tell whether a URI is a path of this machine."""
    return "://" not in uri or uri.startswith("file://")


def join(folder: str, name: str) -> str:
    """The URI of `name` (relative, with slashes) in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def absolute(uri: str) -> str:
    """A URI that means the same from any working directory."""
    return str(_path(uri).absolute()) if is_local(uri) else uri


def open_binary(uri: str) -> BinaryIO:
    """Open a file for reading; seekable, so that parts of it can be read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        UserError: a scheme that fsspec does not know or whose package is not installed.
    """
    if not is_local(uri):
        filesystem, remote = _remote(uri)
        return cast(BinaryIO, filesystem.open(remote, "rb"))
    if "\0" in uri:
        raise FileNotFoundError(uri)  # no file has such a name; Python would raise a ValueError
    path = _path(uri)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(f"{path} is no regular file")  # a pipe would be waited for
    return path.open("rb")


def read_bytes(uri: str) -> bytes:
    """Read a whole file. Raises as `open_binary`."""
    with open_binary(uri) as file:
        return file.read()


def exists(uri: str) -> bool:
    """Tell whether there is a file or folder of this name."""
    if is_local(uri):
        return _path(uri).exists()
    filesystem, path = _remote(uri)
    return bool(filesystem.exists(path))


def is_folder(uri: str) -> bool:
    """Tell whether this is a folder, or an object store's prefix."""
    if is_local(uri):
        return _path(uri).is_dir()
    filesystem, path = _remote(uri)
    return bool(filesystem.isdir(path))


def put(uri: str, data: bytes | Iterable[bytes]) -> None:
    """Write a whole file at once: it is there completely or not at all, whenever this process dies.

    Args:
        uri: its name; folders are made.
        data: its bytes, or the parts of them in order, which are not held in memory at once where it is local.

    Raises:
        UserError: the place cannot be written.
    """
    parts = [data] if isinstance(data, bytes) else data
    try:
        if is_local(uri):
            _put_local(_path(uri), parts)
        else:
            filesystem, path = _remote(uri)
            filesystem.pipe_file(path, b"".join(parts))  # an object shows only when its upload is complete
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(f"{uri} cannot be written ({reason}); choose another output or free it") from error


def remove(uri: str) -> None:
    """Remove a file, or a folder and all in it, if it is there."""
    if not exists(uri):
        return
    if is_local(uri):
        path = _path(uri)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    else:
        filesystem, remote = _remote(uri)
        filesystem.rm(remote, recursive=True)


def list_files(folder: str) -> list[str]:
    """The paths of all files below a folder, relative to it, with slashes, sorted; hidden ones are left out."""
    if is_local(folder):
        root = _path(folder)
        return sorted(path.relative_to(root).as_posix() for path in _walk(root, (root.resolve(),)))
    filesystem, path = _remote(folder)
    relative = (PurePosixPath(found).relative_to(PurePosixPath(path)) for found in filesystem.find(path))
    return sorted(str(found) for found in relative if not any(part.startswith(".") for part in found.parts))


def expand_glob(pattern: str) -> list[str]:
    """The files that a glob matches, as absolute URIs, sorted; `**` matches any depth."""
    if not is_local(pattern):
        filesystem, path = _remote(pattern)
        scheme = pattern.partition("://")[0]
        return sorted(f"{scheme}://{found.lstrip('/')}" for found in filesystem.glob(path) if filesystem.isfile(found))
    found = glob.glob(pattern.removeprefix("file://"), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    # A dangling link is a recording that is missing, not one that is left out.
    paths = [Path(name).absolute() for name in found]
    return sorted(str(path) for path in paths if not path.is_dir() and not _is_in_loop(path))


def fixed_part(pattern: str) -> str:
    """The folder of a glob up to its first special character, as an absolute URI."""
    parts = pattern.split("/")
    fixed = next(index for index, part in enumerate(parts) if has_magic(part))
    return absolute("/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else "."))


def has_magic(uri: str) -> bool:
    """Tell whether a URI holds a glob's special characters."""
    return glob.has_magic(uri)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _remote(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri} cannot be reached: {error}; install the package of its scheme") from error
    return filesystem, path


def _put_local(target: Path, parts: Iterable[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _is_in_loop(path: Path) -> bool:
    """Tell whether a path leads through one folder twice, by a link to a parent."""
    real = [parent.resolve() for parent in path.parents]
    return len(set(real)) < len(real)


def _walk(folder: Path, ancestors: tuple[Path, ...]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error})") from error
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
            continue
        real = path.resolve()
        if real not in ancestors:  # a link to a parent folder would be walked for ever
            yield from _walk(path, (*ancestors, real))
