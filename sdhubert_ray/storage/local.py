"""Files of this machine."""

import errno
import fcntl
import glob
import os
import re
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from sdhubert_ray.errors import UserError
from sdhubert_ray.storage.entries import Entry
from sdhubert_ray.storage.reading import LocalPart, RangeFile

# What file systems without hard links say: FAT, and object stores that are mounted.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
# What file systems without locks say.
_NO_LOCKS = frozenset({errno.EBADF, errno.EACCES, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")


def path_of(uri: str) -> Path:
    """The path that a local URI means."""
    return Path(uri.removeprefix("file://"))


def stat(uri: str) -> Entry:
    """What the file system tells of one file. Raises OSError."""
    path = spelled(uri)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    found = path.stat()
    return Entry(uri, found.st_size, str(found.st_mtime_ns))


def open_part(uri: str, start: int, size: int | None) -> BinaryIO:
    """Open bytes [start, start + size) of a file, up to its end if `size` is None. Raises OSError."""
    if "\0" in uri:
        raise FileNotFoundError(uri)  # no file has such a name; Python would raise a ValueError
    path = spelled(uri)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(f"{path} is no regular file")  # a pipe would be waited for
    file = path.open("rb", buffering=0)
    whole = os.fstat(file.fileno()).st_size
    if size is not None and start + size > whole:
        file.close()
        raise OSError(f"{path} has {whole} bytes, {start + size} were expected: it was replaced or cut")
    if start == 0 and size in (None, whole):
        return RangeFile(file)
    return RangeFile(LocalPart(file, start, max(whole - start, 0) if size is None else size))


def spelled(uri: str) -> Path:
    """The path that a local URI means, as the disk has it: its names may be composed Unicode there, or decomposed.

    One that is nowhere, or has a name that no file can have, stays as it is.
    """
    path = path_of(uri)
    if str(path).isascii() or _is_there(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        forms = dict.fromkeys((part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))))
        found = next((found / form for form in forms if _is_there(found / form)), found / part)
    return found if _is_there(found) else path


def exists(uri: str) -> bool:
    """Tell whether there is a file or folder."""
    return _is_there(spelled(uri))


def is_folder(uri: str) -> bool:
    """Tell whether this is a folder."""
    path = spelled(uri)
    return _is_there(path) and path.is_dir()


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def put(target: Path, parts: Iterable[bytes]) -> None:
    """Write a file from its parts, whole or not at all. Raises OSError."""
    partial = _write_beside(target, parts)
    try:
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def replace(target: Path, old: bytes, new: bytes) -> bool:
    """Write a file in the place of one that holds `old`; tell whether it did. Raises OSError.

    Of several that do so at once one succeeds, on file systems with locks.
    """
    try:
        with target.open("r+b") as held:  # over NFS an exclusive lock is one to write
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False  # another one is replacing it just now
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            # Who came before has put another file there, whose lock this is not.
            if held.read() != old or not os.path.samestat(os.fstat(held.fileno()), target.stat()):
                return False
            put(target, [new])
    except FileNotFoundError:
        return False
    return True


def create(target: Path, data: bytes) -> bool:
    """Write a file, whole or not at all, if there is none; tell whether this call has. Raises OSError."""
    partial = _write_beside(target, [data])
    try:
        os.link(partial, target)  # the one step that fails where there is a file
    except FileExistsError:
        return partial.stat().st_nlink > 1  # NFS made the link, lost the answer and asked again
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            target.touch(exist_ok=False)  # there is an empty file for a moment, and never half a one
        except FileExistsError:
            return False
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return True


def tidy(folder: Path) -> None:
    """Remove half-written files of `put` and `create` from a folder, and the folder if it is empty. Raises OSError."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def scan(folder: str) -> Iterator[Entry]:
    """The files below a folder, sorted by name. Raises UserError."""
    root = path_of(folder)
    return _walk(root, "", (root.resolve(),))


def expand_glob(pattern: str) -> list[str]:
    """The files that a glob matches, as absolute paths, sorted."""
    found = glob.glob(pattern.removeprefix("file://"), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    # A dangling link is a recording that is missing, not one that is left out.
    paths = [Path(name).absolute() for name in found]
    return sorted(str(path) for path in paths if not path.is_dir() and not _is_in_loop(path))


def _write_beside(target: Path, parts: Iterable[bytes]) -> Path:
    """Write a hidden file into the folder of another, which is made if need be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _is_in_loop(path: Path) -> bool:
    """Tell whether a path leads through one folder twice, by a link to a parent."""
    real = [parent.resolve() for parent in path.parents]
    return len(set(real)) < len(real)


def _walk(folder: Path, prefix: str, ancestors: tuple[Path, ...]) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as entries:
            # A slash at the end puts a folder where the names in it belong. Names alone: a folder may have a million.
            names = sorted(
                f"{entry.name}/" if _is_folder(entry) else entry.name
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error})") from error
    for name in names:
        path = folder / name
        if not name.endswith("/"):
            yield _entry(prefix + name, path)
            continue
        real = path.resolve()
        if real not in ancestors:  # a link to a parent folder would be walked for ever
            yield from _walk(path, prefix + name, (*ancestors, real))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def _entry(name: str, path: Path) -> Entry:
    try:
        found = path.stat()
    except OSError:  # a dangling link: whoever opens it says so
        return Entry(name, None, None)
    return Entry(name, found.st_size, str(found.st_mtime_ns))
