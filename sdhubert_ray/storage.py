"""Files by URI: local paths and whatever fsspec knows, opened for reading and put whole."""

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sdhubert_ray.errors import UserError


def split_uri(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI and the path in it; a plain path is local.

    Raises:
        UserError: a scheme that fsspec does not know or whose package is not installed.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri} cannot be reached: {error}; install the package of its scheme") from error
    return filesystem, path


def is_local(uri: str) -> bool:
    """Tell whether a URI is a path of this machine."""
    return "://" not in uri or uri.startswith("file://")


def join(folder: str, name: str) -> str:
    """The URI of `name` (relative, with slashes) in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def absolute(uri: str) -> str:
    """A URI that means the same from any working directory."""
    return str(Path(uri.removeprefix("file://")).absolute()) if is_local(uri) else uri


def open_binary(uri: str) -> BinaryIO:
    """Open a file for reading; seekable, so that parts of it can be read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    if is_local(uri):
        return Path(uri.removeprefix("file://")).open("rb")
    filesystem, path = split_uri(uri)
    return cast(BinaryIO, filesystem.open(path, "rb"))


def read_bytes(uri: str) -> bytes:
    """Read a whole file. Raises as `open_binary`."""
    with open_binary(uri) as file:
        return file.read()


def exists(uri: str) -> bool:
    """Tell whether there is a file or folder of this name."""
    filesystem, path = split_uri(uri)
    return bool(filesystem.exists(path))


def is_folder(uri: str) -> bool:
    """Tell whether this is a folder, or an object store's prefix."""
    filesystem, path = split_uri(uri)
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
    if not is_local(uri):
        filesystem, path = split_uri(uri)
        filesystem.pipe_file(path, b"".join(parts))  # object stores show an object only when its upload is complete
        return
    target = Path(absolute(uri))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(f"{uri} cannot be written ({error.strerror}); choose another output or free it") from error


def remove_folder(uri: str) -> None:
    """Remove a folder and all in it, if it is there."""
    filesystem, path = split_uri(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def list_files(folder: str) -> list[str]:
    """The paths of all files below a folder, relative to it, with slashes, sorted; hidden ones are left out."""
    filesystem, path = split_uri(folder)
    if isinstance(filesystem, LocalFileSystem):
        return sorted(_walk_local(Path(path)))
    root = PurePosixPath(path)
    relative = (PurePosixPath(found).relative_to(root) for found in filesystem.find(path))
    return sorted(str(found) for found in relative if not any(part.startswith(".") for part in found.parts))


def expand_glob(pattern: str) -> list[str]:
    """The files that a glob matches, as URIs, sorted; `**` matches any depth."""
    filesystem, path = split_uri(pattern)
    if isinstance(filesystem, LocalFileSystem):
        found = glob.glob(path, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        return sorted(name for name in found if Path(name).is_file())
    return sorted(filesystem.unstrip_protocol(found) for found in filesystem.glob(path) if filesystem.isfile(found))


def has_magic(uri: str) -> bool:
    """Tell whether a URI holds a glob's special characters."""
    return glob.has_magic(uri)


def _walk_local(root: Path) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        # A link to a parent folder would be walked for ever.
        if Path(folder).is_symlink() and Path(folder).resolve() in Path(folder).absolute().parents:
            subfolders.clear()
            continue
        for name in names:
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be listed ({error.strerror})") from error
