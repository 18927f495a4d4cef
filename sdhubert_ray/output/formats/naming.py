"""What the files of recordings are called: by their ids, or by the audio where channels were segmented apart."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from posixpath import commonpath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import is_in_own_folder

NAMING_COLUMNS = ("id", "uri", "member", "piece", "num_pieces", "start", "end", "channel")
"""What `Naming` takes of a plan."""
_MAX_NAME_BYTES = 230  # of 255: the longest ending is _segmentfeature.npy

_Stretch = tuple[object, ...]
"""What is the same for the channels of a file: where it is, and which part of it was asked for."""


class Grid(NamedTuple):
    """Where a recording's tiers are.

    Attributes:
        name: of the TextGrid, without ending.
        channel: that the recording is of its file, which the other tiers there are other channels of; None: alone.
    """

    name: str
    channel: int | None


class Naming:
    """The recordings of some plans, and what their files are called."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}
        self._channels: dict[str, tuple[_Stretch, int]] = {}  # of recordings whose channel a manifest tells

    def add(self, rows: pa.Table) -> None:
        """Take rows of a plan, with `NAMING_COLUMNS`."""
        self._ids.update(dict.fromkeys(rows.column("id").to_pylist()))
        first = pc.and_(rows.column("channel").is_valid(), pc.equal(rows.column("piece"), 0))
        for row in rows.filter(first).to_pylist():
            stretch = tuple(row[name] for name in ("uri", "member", "num_pieces", "start", "end"))
            self._channels[row["id"]] = (stretch, row["channel"])

    def names(self) -> dict[str, str]:
        """See `name_files`."""
        return name_files(self._ids)

    def grids(self) -> dict[str, Grid]:
        """The TextGrid of each recording, by id.

        Channels of a file that were segmented apart, each once and all over the same part of it, share one. It is
        named after the audio, in the folder that their ids share; where that name is taken, each has its own.
        """
        names = self.names()
        by_stretch: dict[_Stretch, dict[int, str]] = {}
        twice: set[_Stretch] = set()
        for file_id, (stretch, channel) in self._channels.items():
            if by_stretch.setdefault(stretch, {}).setdefault(channel, file_id) != file_id:
                twice.add(stretch)
        groups = [
            (_audio_name(stretch, ids.values()), ids)
            for stretch, ids in by_stretch.items()
            if len(ids) > 1 and stretch not in twice
        ]
        shared = _count(name for name, _ in groups)
        owners = {name: file_id for file_id, name in names.items()}
        grids = {file_id: Grid(name, None) for file_id, name in names.items()}
        for name, ids in groups:
            is_free = shared[name] == 1 and owners.get(name) in (None, *ids.values())
            if is_free and not is_in_own_folder(name) and len(name.rpartition("/")[2].encode()) <= _MAX_NAME_BYTES:
                grids.update({file_id: Grid(name, channel) for channel, file_id in ids.items()})
        return grids


def name_files(ids: Iterable[str]) -> dict[str, str]:
    """For each id the relative path, without ending, that its files are named by.

    Raises:
        UserError: an id that would lead out of the output folder.
    """
    names: dict[str, str] = {}
    for file_id in ids:
        path = PurePosixPath(file_id)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise UserError(f"id {file_id!r} leads out of the output folder; --format files needs relative ids")
        if "\0" in file_id or any(len(part.encode()) > _MAX_NAME_BYTES for part in path.parts):
            raise UserError(f"id {file_id[:80]!r} is no name for a file; --format files and textgrid need other ids")
        names[file_id] = str(path.with_suffix(""))
    taken = _count(names.values())
    whole = {str(PurePosixPath(file_id)): file_id for file_id in names}
    if len(whole) < len(names):
        twin = next(file_id for file_id in names if whole[str(PurePosixPath(file_id))] != file_id)
        raise UserError(f"ids {twin!r} and {whole[str(PurePosixPath(twin))]!r} name the same file; rename one")
    return {
        file_id: name if taken[name] == 1 and name not in whole else str(PurePosixPath(file_id))
        for file_id, name in names.items()
    }


def _audio_name(stretch: _Stretch, ids: Iterable[str]) -> str:
    uri, member, *_ = stretch
    audio = PurePosixPath(str(uri if member is None else member)).stem
    folder = commonpath([str(PurePosixPath(file_id).parent) for file_id in ids])
    return str(PurePosixPath(folder, audio))


def _count(names: Iterable[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
