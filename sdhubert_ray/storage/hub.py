"""The Hugging Face hub, where it is no store like others: its filesystem lists a folder to tell of one file in it.

Repositories are histories: what is put or removed is a commit. Buckets (hf://buckets/USER/NAME) have none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from sdhubert_ray.errors import UserError

SCHEME = "hf"
_BUCKETS = f"{SCHEME}://buckets/"


def is_hub(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Tell whether a filesystem is that of the hub."""
    return bool(filesystem.protocol == SCHEME)


def keeps_history(uri: str) -> bool:
    """Tell whether each put of a URI is a commit of a repository."""
    return uri.startswith(f"{SCHEME}://") and not uri.startswith(_BUCKETS)


def check_path(uri: str, path: str) -> None:
    """Refuse what names no repository and no bucket.

    Raises:
        UserError: it does not.
    """
    names = path.removeprefix("datasets/").removeprefix("spaces/").removeprefix("buckets/")
    if "/" not in names.strip("/"):
        raise UserError(
            f"{uri} names no repository; write hf://USER/NAME for a model, hf://datasets/USER/NAME for a dataset, or "
            "hf://buckets/USER/NAME for a bucket"
        )


def info(filesystem: fsspec.AbstractFileSystem, path: str) -> Mapping[str, Any]:
    """What the hub tells of one file or folder now, of repositories in one request. Raises OSError."""
    filesystem.dircache.clear()
    is_root = not filesystem.resolve_path(path).path
    return dict(filesystem.info(path, expand_info=not is_root))  # of the root it would list all commits


def read(filesystem: fsspec.AbstractFileSystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes [start, end) of a file, or all of it, in one request. Raises OSError."""
    known = filesystem.resolve_path(path).unresolve()
    # Whether it is a file, and its size, would be looked up in a listing of its folder.
    entry = {"name": known, "type": "file", "size": end or 0}
    filesystem.dircache.clear()
    filesystem.dircache[filesystem._parent(known)] = [entry]
    try:
        return bytes(filesystem.cat_file(path, start=start, end=end, size=end or 0))
    finally:
        filesystem.dircache.clear()


def put(filesystem: fsspec.AbstractFileSystem, path: str, data: bytes | Path) -> None:
    """Write a file, as a commit where there is a history. Raises OSError."""
    place, api = filesystem.resolve_path(path), _api(filesystem)
    if _is_bucket(place):
        api.batch_bucket_files(place.bucket_id, add=[(data, place.path)])
        return
    api.upload_file(
        path_or_fileobj=data,
        path_in_repo=place.path_in_repo,
        repo_id=place.repo_id,
        repo_type=place.repo_type,
        revision=place.revision,
        commit_message=f"Write {place.path_in_repo}",
    )


def remove(filesystem: fsspec.AbstractFileSystem, paths: Sequence[str]) -> None:
    """Remove files of one repository or bucket, those that are there, in one commit. Raises OSError."""
    from huggingface_hub import CommitOperationDelete

    places, api = [filesystem.resolve_path(path) for path in paths], _api(filesystem)
    home, names = places[0], [place.path for place in places]
    if _is_bucket(home):
        there = [found.path for found in api.get_bucket_paths_info(home.bucket_id, names)]
        if there:
            api.batch_bucket_files(home.bucket_id, delete=there)
        return
    repository = {"repo_id": home.repo_id, "repo_type": home.repo_type, "revision": home.revision}
    there = [found.path for found in api.get_paths_info(paths=names, **repository)]
    if there:
        told = there[0] if len(there) == 1 else f"{len(there)} files"
        operations = [CommitOperationDelete(path_in_repo=name) for name in there]
        api.create_commit(operations=operations, commit_message=f"Remove {told}", **repository)


def _api(filesystem: fsspec.AbstractFileSystem) -> Any:  # noqa: ANN401 - its methods take what places hold
    from huggingface_hub import HfApi

    return HfApi(endpoint=filesystem.endpoint, token=filesystem.token)


def _is_bucket(place: Any) -> bool:  # noqa: ANN401 - of two classes that the hub's library does not tell publicly
    return hasattr(place, "bucket_id")
