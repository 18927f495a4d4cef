"""Several inputs as one, and a list of files that somebody pipes in."""

import functools
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray import storage
from sdhubert_ray.corpus.columns import INPUT_TYPES
from sdhubert_ray.corpus.files import File
from sdhubert_ray.corpus.listing import (
    EVERYTHING,
    MissingInputError,
    files_source,
    find_source,
    list_input,
    pattern_folder,
)
from sdhubert_ray.corpus.selection import BATCH_ROWS, Listing, Selection, Source, Tally, in_order, select, select_splits
from sdhubert_ray.errors import UserError
from sdhubert_ray.storage.entries import SCHEMES

STANDARD_INPUT = "-"
"""The input that stands for a list of files on standard input."""

_FOUND_AT_ONCE = 16
_SHOWN = 3


def list_inputs(
    inputs: Sequence[str],
    selection: Selection = EVERYTHING,
    schemes: Collection[str] = SCHEMES,
    option: str = "audio.schemes",
    piped: Sequence[str] = (),
) -> Listing:
    """List the recordings of inputs, one after the other, streamed.

    An `id` of a single one is as `list_input` has it. Of several, and of a list, it is the path of the file as it is
    seen from the working directory, or the whole path (of a URI without its scheme); what a file names by itself, such
    as a manifest, keeps its names.

    Args:
        inputs: each as `list_input` takes it, or `-` for the files of `piped`.
        selection: which recordings are taken; every input has to have the splits.
        schemes: as `list_input` takes them.
        option: likewise.
        piped: paths or URIs of files, all audio, all tars, or all Parquet.

    Raises:
        UserError: as `list_input`; or inputs with columns of different types, or with pieces of different lengths, or
            `-` without a list.
        TransientError: a store could not be reached.
    """
    if len(inputs) == 1 and inputs[0] != STANDARD_INPUT:
        return list_input(inputs[0], selection, schemes, option)
    find = functools.partial(_find, splits=selection.splits, schemes=schemes, option=option, piped=piped)
    try:
        found = [*in_order(find, inputs, _FOUND_AT_ONCE)]
    except storage.TransientError:
        raise
    except OSError as error:
        raise UserError(f"input {name_inputs(inputs)} cannot be read ({error})") from error
    return select(_joined(found, f"input {name_inputs(inputs)}"), selection)


def name_inputs(inputs: Sequence[str]) -> str:
    """What several inputs are called in a message and in the record of a run."""
    named = ["standard input" if uri == STANDARD_INPUT else uri for uri in inputs[:_SHOWN]]
    more = f" and {len(inputs) - _SHOWN} more" if len(inputs) > _SHOWN else ""
    return ", ".join(named) + more


def read_list(file: BinaryIO) -> list[str]:
    """The paths or URIs of a list: a line each, or parted by zero bytes, as `find -print0` does; without empty ones.

    Raises:
        UserError: there are none.
    """
    data = file.read()
    names = [os.fsdecode(name) for name in data.split(b"\0" if b"\0" in data else b"\n")]
    found = [name for name in (name.strip("\r\n") for name in names) if name.strip()]
    if not found:
        raise UserError("standard input is empty; give it the paths of recordings, a line each")
    return found


def _find(
    uri: str, splits: tuple[str, ...], schemes: Collection[str], option: str, piped: Sequence[str]
) -> tuple[Source, str]:
    """An input, and what its ids begin with."""
    if uri == STANDARD_INPUT:
        if not piped:
            raise UserError(
                "input - is a list on standard input, which only a command reads; name the files themselves"
            )
        files = [File(_seen(storage.absolute(name)), storage.absolute(name)) for name in piped]
        source = files_source("the list on standard input", "names", files, named=True)
        return select_splits(source, splits), ""
    try:
        source = find_source(uri, splits, schemes, option)
    except MissingInputError as error:
        raise UserError(f"{error} (of several paths the last is where it is written to)") from error
    return source, _seen(_folder(uri)) if source.ids_are_paths else ""


def _folder(uri: str) -> str:
    """The folder that the ids of an input are relative to, absolute."""
    if storage.is_folder(uri):
        return storage.absolute(uri)
    return storage.absolute(uri).rpartition("/")[0] if storage.exists(uri) else pattern_folder(uri)


def _seen(uri: str) -> str:
    """An absolute path or URI as an id begins with it: relative to the working directory if it is there, else whole."""
    if not storage.is_local(uri):
        return uri.partition("://")[2].strip("/")
    path, here = Path(uri), Path.cwd()
    name = str(path.relative_to(here)) if path.is_relative_to(here) else str(path).lstrip("/")
    return "" if name == "." else name


def _joined(found: Sequence[tuple[Source, str]], where: str) -> Source:
    sources = [source for source, _ in found]
    lengths = {source.piece_seconds: source.where for source in sources}
    if len(lengths) > 1:
        one, other = itertools.islice(lengths.values(), 2)
        raise UserError(
            f"{one} and {other} cannot be one input: their rows are pieces of different lengths, or no pieces"
        )
    (piece_seconds,) = lengths
    schema = _common_schema(sources)
    tally = Tally()

    def read() -> Iterator[pa.Table]:
        tally.ignored = 0
        for source, prefix in found:
            for batch in source.read():
                yield _conformed(batch, schema, prefix)
            tally.ignored += source.tally.ignored

    hint = "an input that is in another one is listed twice"
    return Source(where, schema, lambda: _batched(read()), tally, piece_seconds, hint)


def _common_schema(sources: Iterable[Source]) -> pa.Schema:
    """The columns of all sources, those that we know first. Raises UserError where one has two types."""
    columns: dict[str, tuple[pa.Field, str]] = {}
    for source in sources:
        for field in source.schema:
            known, where = columns.setdefault(field.name, (field, source.where))
            if known.type != field.type:
                raise UserError(
                    f"column {field.name!r} is {known.type} in {where} and {field.type} in {source.where}; rename one"
                )
    order = [*(name for name in INPUT_TYPES if name in columns), *(name for name in columns if name not in INPUT_TYPES)]
    return pa.schema([columns[name][0] for name in order])


def _conformed(batch: pa.Table, schema: pa.Schema, prefix: str) -> pa.Table:
    columns = {
        field.name: batch.column(field.name) if field.name in batch.column_names else pa.nulls(len(batch), field.type)
        for field in schema
    }
    if prefix:
        columns["id"] = pc.binary_join_element_wise(prefix, columns["id"], "/")
    return pa.table(columns, schema=schema)


def _batched(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in batches that are full where each input has but a few."""
    waiting: list[pa.Table] = []
    for batch in batches:
        if waiting and sum(map(len, waiting)) + len(batch) > BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield pa.concat_tables(waiting)
