"""What an input holds: a folder, a glob, braces, one file, shards, or a manifest."""

import itertools
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

import braceexpand

from sdhubert_ray import storage
from sdhubert_ray.corpus.files import File, audio_source, has_audio_name, stat_files
from sdhubert_ray.corpus.packed import parquet_source, tar_source
from sdhubert_ray.corpus.reading import PIECE_SECONDS_KEY, open_parquet, parquet_manifest, text_manifest
from sdhubert_ray.corpus.schemes import allow
from sdhubert_ray.corpus.selection import (
    Listing,
    Selection,
    Source,
    Tally,
    refuse_missing_split,
    select,
    select_splits,
)
from sdhubert_ray.corpus.shards import PARQUET_SUFFIX, TAR_SUFFIX, find_audio, is_compressed_tar
from sdhubert_ray.corpus.texts import is_surely_manifest, is_text_manifest
from sdhubert_ray.errors import UserError
from sdhubert_ray.storage.entries import SCHEMES

_MOST_NAMES = 1_000_000
"""A brace pattern of more names is taken for a slip of the keyboard."""
EVERYTHING = Selection()


class MissingInputError(UserError):
    """There is no such input."""


def list_input(
    uri: str, selection: Selection = EVERYTHING, schemes: Collection[str] = SCHEMES, option: str = "audio.schemes"
) -> Listing:
    """List the recordings of an input, streamed.

    Args:
        uri: a folder or prefix (recursive), a glob, a pattern with braces, one file, tars, Parquet files with audio
            bytes, or a manifest (.parquet, or text as `texts.parse_manifest` takes it). An `id` is the path relative to
            the folder, or to the fixed part of the pattern, with its ending.
        selection: which of them are taken.
        schemes: of the URIs that a manifest may name, see `storage.entries.SCHEMES`.
        option: what the user allows more of them by, for messages.

    Raises:
        UserError: nothing there, nothing of use in it, a broken shard or manifest. What shows only later in the input
            is raised where the batches are read.
        TransientError: a store could not be reached.
    """
    try:
        source = find_source(uri, selection.splits, schemes, option)
    except storage.TransientError:
        raise
    except OSError as error:
        raise UserError(f"input {uri} cannot be read ({error})") from error
    return select(source, selection)


def find_source(uri: str, splits: tuple[str, ...], schemes: Collection[str], option: str) -> Source:
    """An input before rows are selected, but for splits. Raises as `list_input`, and OSError."""
    if storage.exists(uri):
        if storage.is_folder(uri):
            return _folder(uri, tuple(dict.fromkeys(name.strip("/") for name in splits)))
        source = _one_file(uri, schemes, option)
    elif "{" in uri:
        source = _several(uri, _expand_braces(uri), named=True)
    elif storage.has_magic(uri):
        source = _several(uri, storage.expand_glob(uri), named=False)
    else:
        raise MissingInputError(f"input {uri} does not exist; name a file, a folder, a glob or a manifest")
    return select_splits(source, splits)


def _one_file(uri: str, schemes: Collection[str], option: str) -> Source:
    suffix = PurePosixPath(uri).suffix.lower()
    if is_text_manifest(PurePosixPath(uri).name):
        return allow(text_manifest(uri), uri, schemes, option)
    file = File(PurePosixPath(uri).name, storage.absolute(uri))
    if suffix == TAR_SUFFIX:
        return tar_source([file], f"tar {uri}", 0)
    if suffix == PARQUET_SUFFIX:
        with open_parquet(uri, f"manifest {uri}") as parquet:
            schema = parquet.schema_arrow
        if PIECE_SECONDS_KEY not in (schema.metadata or {}) and find_audio(schema):
            return parquet_source([file], f"Parquet file {uri}", 0)
        return allow(parquet_manifest(uri, schema), uri, schemes, option)
    if is_compressed_tar(uri):
        raise _compressed(f"input {uri} is")
    return audio_source(f"input {uri}", lambda: stat_files([file]), file, Tally())


def _folder(uri: str, splits: tuple[str, ...]) -> Source:
    """The kind of file that a folder holds: audio, else tars, else Parquet with audio bytes."""
    where = f"input folder {uri}"
    _refuse_missing_folders(uri, splits)
    shards: dict[str, list[File]] = {TAR_SUFFIX: [], PARQUET_SUFFIX: []}
    compressed, manifest, others = "", "", 0
    root = storage.absolute(uri)  # the working directory may be another when more is read
    for file in _scan(root, splits):
        suffix = PurePosixPath(file.name).suffix.lower()
        if has_audio_name(file.name):
            return _audio_folder(where, root, splits, file)
        if suffix in shards:
            shards[suffix].append(file)
        else:
            others += 1
            compressed = compressed or (file.name if is_compressed_tar(file.name) else "")
            manifest = manifest or (file.name if is_surely_manifest(file.name) else "")
    tars, parquets = shards[TAR_SUFFIX], shards[PARQUET_SUFFIX]
    if tars:
        return tar_source(tars, where, others + len(parquets))
    if compressed:
        raise _compressed(f"{where} has no audio but {compressed}, which is")
    if parquets:
        return parquet_source(parquets, where, others)
    found = f"none of its {others} files has an audio ending" if others else "it holds no files"
    manifest = f"; it has a manifest: name {storage.join(uri, manifest)}" if manifest else ""
    raise UserError(f"{where} has no audio: {found}{manifest or '; name another folder, or the files by a glob'}")


def _audio_folder(where: str, root: str, splits: tuple[str, ...], first: File) -> Source:
    tally = Tally()

    def read() -> Iterator[File]:
        tally.ignored = 0
        for file in _scan(root, splits):
            if has_audio_name(file.name):
                yield file
            elif PurePosixPath(file.name).suffix.lower() == TAR_SUFFIX:
                raise _mixed(f"{where} holds", first.name, file.name)
            else:
                tally.ignored += 1

    return audio_source(where, read, first, tally)


def _scan(root: str, splits: tuple[str, ...]) -> Iterator[File]:
    for split in splits or (None,):
        folder = root if split is None else storage.join(root, split)
        for entry in storage.scan(folder):
            name = entry.name if split is None else f"{split}/{entry.name}"
            yield File(name, storage.join(folder, entry.name), entry.size, entry.version, split)


def _refuse_missing_folders(uri: str, splits: tuple[str, ...]) -> None:
    there = {name for name in splits if storage.is_folder(storage.join(uri, name))}
    if len(there) < len(splits):
        folders = {entry.name.partition("/")[0] for entry in storage.scan(uri) if "/" in entry.name}
        refuse_missing_split(f"input folder {uri}", [name for name in splits if name not in there], folders)


def _several(pattern: str, uris: list[str], named: bool) -> Source:
    """The files of a pattern, all of one kind.

    Args:
        pattern: as it was given.
        uris: the files.
        named: each of them was named, and is refused if it is not there.
    """
    if not uris:
        raise UserError(f"input {pattern} matches no file; check the pattern (`**` stands for any depth of folders)")
    root = PurePosixPath(pattern_folder(pattern))
    files = [File(str(PurePosixPath(uri).relative_to(root)), uri) for uri in uris]
    return files_source(f"input {pattern}", "matches", files, named)


def files_source(where: str, verb: str, files: list[File], named: bool) -> Source:
    """Files as an input, all of one kind: audio, tars or Parquet.

    Args:
        where: how messages call the input.
        verb: what it does with files, in messages.
        files: they.
        named: each of them was named, and is refused if it is not there.

    Raises:
        UserError: two kinds, or compressed tars; as `audio_source`, `tar_source` or `parquet_source`.
    """
    kinds = [_kind(file.name) for file in files]
    if len(set(kinds)) > 1:
        other = kinds.index(next(kind for kind in kinds if kind != kinds[0]))
        raise _mixed(f"{where} {verb}", files[0].name, files[other].name)
    if kinds[0] == "compressed":
        raise _compressed(f"{where} {verb} {files[0].name}, which is")
    if kinds[0] == TAR_SUFFIX:
        return tar_source(files, where, 0)
    if kinds[0] == PARQUET_SUFFIX:
        return parquet_source(files, where, 0)
    return audio_source(where, lambda: stat_files(files, where if named else None), files[0], Tally())


def _kind(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if is_compressed_tar(name):
        return "compressed"
    return suffix if suffix in (TAR_SUFFIX, PARQUET_SUFFIX) else "audio"


def _expand_braces(pattern: str) -> list[str]:
    try:
        names = list(itertools.islice(braceexpand.braceexpand(pattern), _MOST_NAMES + 1))
    except ValueError as error:
        raise UserError(
            f"input {pattern} has braces that cannot be expanded; write it as in shard-{{000..099}}.tar"
        ) from error
    if len(names) > _MOST_NAMES:
        raise UserError(f"input {pattern} stands for over {_MOST_NAMES} files; check the numbers in its braces")
    if names == [pattern]:
        raise MissingInputError(f"input {pattern} does not exist; name a file, a folder, a glob or a manifest")
    return [
        uri
        for name in names
        for uri in (storage.expand_glob(name) if storage.has_magic(name) else [storage.absolute(name)])
    ]


def pattern_folder(pattern: str) -> str:
    """The folder of a pattern up to its first special character, as an absolute URI."""
    before = pattern.partition("{")[0]
    if storage.has_magic(before):
        return storage.fixed_part(before)
    folder = before.rpartition("/")[0]
    return storage.absolute(folder or ("/" if pattern.startswith("/") else "."))


def _compressed(what: str) -> UserError:
    return UserError(f"{what} a compressed tar, whose members cannot be read by range; repack it as a plain .tar")


def _mixed(what: str, one: str, other: str) -> UserError:
    return UserError(f"{what} files of two kinds, such as {one} and {other}; name one kind by a glob")
