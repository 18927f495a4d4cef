"""Audio files as an input: of a folder, of a glob, by name; LibriSpeech's layout."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.corpus.columns import INPUT_TYPES
from sdhubert_ray.corpus.selection import BATCH_ROWS, Source, Tally, in_order
from sdhubert_ray.errors import UserError

AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aiff",
        ".aif",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
        ".voc",
        ".sph",
        ".nist",
        ".m4a",
        ".m4b",
        ".mp4",
        ".mov",
        ".3gp",
        ".aac",
        ".wma",
        ".webm",
        ".mka",
        ".mkv",
        ".amr",
    ]
)
"""Files of a folder or tar that are taken for audio; a file named by itself or by a glob is taken whatever its name."""

_STATS_AT_ONCE = 32
_LIBRISPEECH = re.compile(
    r"(?P<split>[^/]+)/(?P<speaker>[0-9]+)/(?P<chapter>[0-9]+)/(?P=speaker)-(?P=chapter)-[0-9]+\.flac"
)


@dataclass(frozen=True)
class File:
    """A file of an input.

    Attributes:
        name: relative to the input, with slashes.
        uri: absolute.
        size: bytes, if known.
        version: etag or time of change, if known.
        split: the part of the corpus that it was looked for in, or None.
    """

    name: str
    uri: str
    size: int | None = None
    version: str | None = None
    split: str | None = None


def has_audio_name(name: str) -> bool:
    """Tell by its ending whether a file is taken for audio."""
    return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES


def audio_source(where: str, read_files: Callable[[], Iterator[File]], first: File, tally: Tally) -> Source:
    """Audio files, one recording each.

    Args:
        where: how messages call the input.
        read_files: gives the files, from the first one each time it is called.
        first: the first of them; it tells the layout.
        tally: what `read_files` counts.
    """
    layout = ["split", "speaker", "chapter"] if _LIBRISPEECH.fullmatch(first.name) else []
    if first.split is not None and not layout:
        layout = ["split"]

    def read() -> Iterator[pa.Table]:
        files = read_files()
        while batch := list(itertools.islice(files, BATCH_ROWS)):
            yield _rows(batch, layout)

    return Source(where, _rows([], layout).schema, read, tally, ids_are_paths=True)


def list_files(files: Sequence[tuple[str, str]]) -> pa.Table:
    """The table of (id, absolute uri) pairs.

    Raises:
        UserError: a name that is not UTF-8.
    """
    return _rows([File(name, uri) for name, uri in files], []).select(["id", "uri"])


def stat_file(file: File) -> File:
    """The same file with its size and version.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be asked.
    """
    if file.size is not None:
        return file
    entry = storage.stat(file.uri)
    return replace(file, size=entry.size, version=entry.version)


def stat_files(files: Iterable[File], named_in: str | None = None) -> Iterator[File]:
    """The same files with their sizes and versions.

    Args:
        files: they.
        named_in: how messages call the input that names each of them; None where a glob has found them, so that one
            that cannot be asked (a dangling link) is passed on, to be found missing when it is decoded.

    Raises:
        UserError: a named file is not there, or is a folder.
    """
    return in_order(functools.partial(_try_stat, named_in=named_in), files, _STATS_AT_ONCE)


def refuse_bad_name(name: str, told: str = "file name ") -> None:
    """Refuse a name that no table can hold.

    Args:
        name: of a file or member.
        told: how the message begins, before the name.

    Raises:
        UserError: it is not UTF-8.
    """
    if not name.isprintable() and any("\ud800" <= char <= "\udfff" for char in name):
        raise UserError(f"{told}{name.encode('utf-8', 'replace').decode()!r} is not UTF-8; rename the file")


def _try_stat(file: File, named_in: str | None) -> File:
    try:
        return stat_file(file)
    except FileNotFoundError as error:
        if named_in is not None:
            raise UserError(f"{named_in}: {file.uri} does not exist; correct its name") from error
        return file
    except IsADirectoryError as error:
        if named_in is not None:
            raise UserError(f"{named_in}: {file.uri} is a folder; name the files in it, or that alone") from error
        return file
    except OSError:
        return file


def _rows(files: Sequence[File], layout: Sequence[str]) -> pa.Table:
    for file in files:
        refuse_bad_name(file.name)
    columns: dict[str, list[object]] = {
        "id": [file.name for file in files],
        "uri": [file.uri for file in files],
        "source_size": [file.size for file in files],
        "source_version": [file.version for file in files],
    }
    arrays = {name: pa.array(values, INPUT_TYPES[name]) for name, values in columns.items()}
    if layout:
        found = [_LIBRISPEECH.fullmatch(file.name) for file in files]
        for name in layout:
            values = [match and match[name] for match in found]
            if name == "split":
                values = [value or file.split for value, file in zip(values, files, strict=True)]
            arrays[name] = pa.array(values, pa.string())
    return pa.table(arrays)
