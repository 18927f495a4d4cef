"""The files below a folder of a store: listed in parallel, told in order, never all held."""

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import fsspec
from fsspec.utils import glob_translate

from sdhubert_ray.storage.entries import Entry, is_hidden, remote_entry
from sdhubert_ray.storage.remote import LONG_SECONDS, REQUEST_SECONDS, Limit, is_s3, request

LISTINGS_AT_ONCE = 16
"""Requests under way, and so how many listings ahead of the reader are held."""


@dataclass(frozen=True)
class _Folder:
    """A listing to be asked for.

    Attributes:
        name: relative to the folder that is scanned, ending in a slash; "" is that folder.
        depth: how many levels down files are looked for; None is all.
        flat: whether one listing tells all files below, however deep.
    """

    name: str
    depth: int | None
    flat: bool = False


@dataclass(frozen=True)
class _Page:
    """A part of a listing.

    Attributes:
        files: their names are relative to the folder that is scanned.
        folders: their names likewise, ending in a slash.
        token: what the next page is asked with; None if there is none.
    """

    files: list[Entry]
    folders: list[str]
    token: str | None = None


def scan(uri: str, depth: int | None = None, hidden: bool = False) -> Iterator[Entry]:
    """The files below a folder, sorted by name.

    Args:
        uri: the folder.
        depth: how many levels down files are looked for; None is all.
        hidden: whether names that begin with a dot count.

    Raises:
        OSError: as `remote.request`.
    """
    with _Scan(uri, hidden) as running:
        yield from running.walk(_Folder("", depth))


def glob(pattern: str, fixed: str) -> Iterator[Entry]:
    """The files that a glob matches, named relative to its fixed folder, sorted. Raises as `scan`."""
    rest = pattern.removeprefix(fixed).lstrip("/")
    matches = re.compile(glob_translate(rest)).match
    depth = None if "**" in rest else rest.count("/") + 1
    return (entry for entry in scan(fixed, depth, is_hidden(rest)) if matches(entry.name))


class _Scan:
    """One scan, with the threads that list for it."""

    def __init__(self, uri: str, hidden: bool) -> None:
        self._uri = uri
        self._hidden = hidden
        self._pool = ThreadPoolExecutor(LISTINGS_AT_ONCE, thread_name_prefix="listing")

    def __enter__(self) -> "_Scan":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)  # a reader that has enough waits for no listing

    def walk(self, folder: _Folder, first: "Future[_Page] | None" = None) -> Iterator[Entry]:
        """All files below a folder, whose first page may be asked for already."""
        asked = first or self._ask(folder)
        while True:
            page = asked.result()
            if page.token is not None:
                asked = self._ask(folder, page.token)
            yield from self._tell(page, None if folder.depth is None else folder.depth - 1)
            if page.token is None:
                return

    def _tell(self, page: _Page, depth: int | None) -> Iterator[Entry]:
        """The files of a page and of the folders in it, which may be `depth` levels deep."""
        shown = [entry for entry in page.files if self._hidden or not is_hidden(entry.name)]
        folders = self._folders(page, depth)
        listed = self._list_ahead(folders)
        items: list[Entry | _Folder] = [*shown, *folders]
        for item in sorted(items, key=lambda item: item.name):
            if isinstance(item, Entry):
                yield item
            else:
                yield from self.walk(item, next(listed))

    def _folders(self, page: _Page, depth: int | None) -> list[_Folder]:
        """What is to be listed of a page's folders, sorted. A folder's slash puts it where the names in it belong."""
        if depth == 0:
            return []
        names = sorted(name for name in page.folders if self._hidden or not is_hidden(name))
        # Folders are parted until there are enough of them to be listed side by side. Each is then one listing, however
        # deep it goes: fewer requests than one for every folder in it.
        flat = depth is None and len(names) >= LISTINGS_AT_ONCE
        return [_Folder(name, depth, flat) for name in names]

    def _list_ahead(self, folders: list[_Folder]) -> "Iterator[Future[_Page]]":
        """The first page of each folder, asked for some folders before it is wanted."""
        asked: deque[Future[_Page]] = deque()
        for folder in folders:
            if len(asked) == LISTINGS_AT_ONCE:
                yield asked.popleft()
            asked.append(self._ask(folder))
        yield from asked

    def _ask(self, folder: _Folder, token: str | None = None) -> "Future[_Page]":
        def ask(filesystem: fsspec.AbstractFileSystem, path: str, limit: Limit) -> _Page:
            if is_s3(filesystem):
                return _s3_page(filesystem, path, folder, token)
            return _page(filesystem, path, folder, limit)

        return self._pool.submit(request, self._uri, ask, LONG_SECONDS)


def _s3_page(filesystem: fsspec.AbstractFileSystem, path: str, folder: _Folder, token: str | None) -> _Page:
    """A thousand names, asked of S3 itself: s3fs would hold all pages, and begin anew where one fails."""
    bucket, key, _ = filesystem.split_path(path)
    root = f"{key.rstrip('/')}/" if key else ""
    more = {} if token is None else {"ContinuationToken": token}
    delimiter = {} if folder.flat else {"Delimiter": "/"}
    answer = filesystem.call_s3(
        "list_objects_v2", Bucket=bucket, Prefix=root + folder.name, **delimiter, **more, timeout=REQUEST_SECONDS
    )
    files = [
        remote_entry(found["Key"].removeprefix(root), {"size": found["Size"], **found})
        for found in answer.get("Contents", [])
        if not found["Key"].endswith("/")  # a folder that a console has made
    ]
    folders = [found["Prefix"].removeprefix(root) for found in answer.get("CommonPrefixes", [])]
    return _Page(files, folders, answer["NextContinuationToken"] if answer.get("IsTruncated") else None)


def _page(filesystem: fsspec.AbstractFileSystem, path: str, folder: _Folder, limit: Limit) -> _Page:
    """All of a folder, asked of any other filesystem."""
    place = f"{path.rstrip('/')}/{folder.name}" if folder.name else path
    if folder.flat:
        infos = filesystem.find(place, detail=True, **limit).values()
    else:
        infos = filesystem.ls(place, detail=True, **limit)
    root = path.strip("/")
    files, folders = [], []
    for info in infos:
        name = info["name"].strip("/").removeprefix(root).strip("/")
        if info["type"] == "directory" and name:
            folders.append(f"{name}/")
        elif info["type"] != "directory" and name and name != folder.name.rstrip("/"):
            files.append(remote_entry(name, info))
    return _Page(sorted(files, key=lambda entry: entry.name), sorted(set(folders)))
