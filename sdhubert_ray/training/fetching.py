"""What all workers of a machine need is fetched by the first of them that asks; the others wait for it."""

import fcntl
from collections.abc import Callable
from pathlib import Path

from sdhubert_ray import storage


def fetch_once(uri: str, path: Path) -> Path:
    """The file at `uri`, as `path` of a folder that the processes of this machine share.

    Where the first process fails, or dies, the next one tries.

    Raises:
        FileNotFoundError: there is no such file.
        OSError, UserError: it cannot be fetched.
    """
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back where the file is closed, also by the end of the process
        if not path.exists():
            partial = path.with_name(f"{path.name}.part")
            storage.download(uri, partial)
            partial.replace(path)
    return path


def reader_of(folder: Path) -> Callable[[str], bytes]:
    """What reads files, those of a store by way of `folder`, see `fetch_once`; raises as `storage.read_bytes`."""

    def read(uri: str) -> bytes:
        if storage.is_local(uri):
            return storage.read_bytes(uri)
        return fetch_once(uri, folder / uri.rpartition("/")[2]).read_bytes()

    return read
