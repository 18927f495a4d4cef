"""What a listing tells of a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "hf")
"""Schemes of URIs that a manifest may name: files of the machine (paths too) and object stores. Not the web, whose
addresses may lead into a cluster's own network, nor filesystems in a chain."""

# A digest says more than a time: a file that was copied once more is the same file.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "blob_id",
    "xet_hash",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)


@dataclass(frozen=True)
class Entry:
    """A file as its folder lists it.

    Attributes:
        name: its path relative to the folder that was listed, with slashes; the URI where one file was asked for.
        size: in bytes; None if unknown.
        version: changes when the content does: a digest where the store keeps one, else the time of change.
    """

    name: str
    size: int | None
    version: str | None


def remote_entry(name: str, info: Mapping[str, Any]) -> Entry:
    """An entry from what fsspec tells of a file."""
    size = info.get("size")
    version = next((info[key] for key in _VERSIONS if info.get(key)), None)
    if isinstance(version, datetime):  # of which the listing of the same store may tell the seconds
        version = version.timestamp()
    if isinstance(version, float):
        version = f"{version:.6f}"
    return Entry(name, None if size is None else int(size), None if version is None else str(version).strip('"'))


def is_hidden(name: str) -> bool:
    """Tell whether a part of a relative path begins with a dot."""
    return name.startswith(".") or "/." in name
