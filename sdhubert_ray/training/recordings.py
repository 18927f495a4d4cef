"""The recordings that a run trains with: listed once, kept in a compact file, and looked up by number."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from sdhubert_ray import storage
from sdhubert_ray.corpus import Listing, Selection, list_input
from sdhubert_ray.corpus.selection import MissingSplitError, digests_of
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import MIN_SAMPLES, SAMPLE_RATE
from sdhubert_ray.training.options import DataOptions

_FIELDS = (
    pa.field("id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("member", pa.string()),
    pa.field("byte_offset", pa.int64()),
    pa.field("byte_size", pa.int64()),
    pa.field("source_size", pa.int64()),
    pa.field("start", pa.float64()),
    pa.field("end", pa.float64()),
    pa.field("duration", pa.float64()),  # of the file, seconds; of the row in a manifest of pieces
    pa.field("channel", pa.int32()),
)
_SEGMENTS = pa.field("segments", pa.list_(pa.float64()))  # starts and ends by turns, seconds of the file
_SCHEMA = pa.schema((*_FIELDS, _SEGMENTS))
_BATCH_ROWS = 65_536
_MIN_SECONDS = MIN_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True)
class Recording:
    """A recording, or a part of one, as `shards.open_audio` takes it.

    Attributes:
        id: its name.
        uri: of a file, or of a shard.
        member: its name in a tar, or its row in a Parquet file; None for a file.
        byte_offset: where it begins in the tar, if that is known.
        byte_size: its length in the tar, if that is known.
        source_size: bytes of the file or shard, if that is known.
        start: where it begins, in seconds of the file; None is at the start.
        end: where it ends; None is at the end of the file.
        duration: of the file, seconds, if that is known.
        channel: the channel to use; None averages all.
        segments: (S, 2) float64 seconds of the file, in order; None: none are given.
    """

    id: str
    uri: str
    member: str | None
    byte_offset: int | None
    byte_size: int | None
    source_size: int | None
    start: float | None
    end: float | None
    duration: float | None
    channel: int | None
    segments: npt.NDArray[np.float64] | None = None


class Recordings:
    """The recordings in a file of `write_recordings`: mapped into memory, so that processes share them.

    It crosses to other processes of the same machine as a path.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> Recording:
        batch = self._batches[index // _BATCH_ROWS]
        row = index % _BATCH_ROWS
        values = {name: column[row] for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        segments = values.pop(_SEGMENTS.name, None)  # lists of before there were any lack them
        plain = {name: value.as_py() for name, value in values.items()}
        if segments is None or not segments.is_valid:
            return Recording(**plain)
        return Recording(**plain, segments=segments.values.to_numpy().reshape(-1, 2))

    def __getstate__(self) -> str:
        return self._path

    def __setstate__(self, path: str) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        reader = pa.ipc.open_file(pa.memory_map(self._path))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._num_rows = sum(int(batch.num_rows) for batch in self._batches)


@dataclass(frozen=True)
class RecordingCounts:
    """How many recordings a run has.

    Attributes:
        num_train: recordings to train with.
        num_val: recordings to validate with.
        too_short: recordings left out, as they say that they are under 0.1 s.
        without_segments: recordings left out, as the segments that are given have none of them.
    """

    num_train: int
    num_val: int
    too_short: int
    without_segments: int = 0


def list_recordings(
    options: DataOptions, folder: Path, segments: Mapping[str, npt.NDArray[np.float64]] | None = None
) -> RecordingCounts:
    """List the recordings of a configuration, once, into `train.arrow` and `val.arrow` of a local folder.

    Args:
        options: where they are.
        folder: is filled.
        segments: (S, 2) seconds of the file, by the id of a recording; recordings that have none there are left out.

    Raises:
        UserError: none are named, there are none, or their input cannot be used.
        TransientError: a store could not be reached.
    """
    if options.root_dir is not None:
        root = options.root_dir
        try:
            train = list_input(root, Selection(splits=options.train_splits))
            val = list_input(root, Selection(splits=options.val_splits)) if options.val_splits else None
        except MissingSplitError as error:
            raise UserError(f"{error}; say in data.train_splits and data.val_splits which to use") from error
    elif options.source is not None:
        default_splits = DataOptions().train_splits
        splits = () if options.train_splits == default_splits else options.train_splits
        allowed = (options.schemes, "data.schemes")
        train = list_input(options.source, Selection(splits=splits), *allowed)
        val = None if options.val_source is None else list_input(options.val_source, Selection(), *allowed)
    else:
        raise UserError("no recordings are named; give data.root_dir=LIBRISPEECH_ROOT, or data.source=INPUT")
    joined = _Joined(segments)
    hold_back = options.val_share if options.root_dir is None and val is None else 0.0
    everything, trained, held = (folder / name for name in ("all.arrow", "train.arrow", "val.arrow"))
    num_all, short, digests = _write(joined.rows_of(train), everything, hold_back > 0)
    num_held = min(max(2, round(hold_back * num_all)), num_all - 1) if hold_back else 0
    if num_held > 0:
        limit = np.sort(digests)[num_held - 1]
        _write(_part(everything, digests <= limit), held, False)
        _write(_part(everything, digests > limit), trained, False)
        everything.unlink()
    else:
        everything.replace(trained)
        _, short_val, _ = _write(joined.rows_of(val) if val is not None else (), held, False)
        short += short_val
    counts = RecordingCounts(len(Recordings(str(trained))), len(Recordings(str(held))), short, joined.num_without)
    if not counts.num_train and joined.num_without:
        raise UserError(
            f"segments.source has none of the {joined.num_without} recordings; segment what is trained with, from the "
            "same input, so that ids are the same"
        )
    if not counts.num_train:
        raise UserError(
            "there are no recordings of 0.1 seconds or more to train with; check data.root_dir or data.source"
        )
    return counts


def put_recordings(listed: Path, folder: str) -> None:
    """Put what `list_recordings` has written into the folder of a run, a path or URI."""
    for path in sorted(listed.glob("*.arrow")):
        storage.upload(path, storage.join(folder, path.name))


def open_recordings(folder: str, name: str, cache: Path) -> Recordings:
    """Open `train` or `val` of a folder that `put_recordings` has filled; a remote file is fetched into `cache`.

    Raises:
        UserError: it is missing or damaged.
        TransientError: the store could not be reached.
    """
    uri = storage.join(folder, f"{name}.arrow")
    try:
        if storage.is_local(uri):
            return Recordings(storage.absolute(uri).removeprefix("file://"))
        path = cache / f"{name}.arrow"
        storage.download(uri, path)
        return Recordings(str(path))
    except storage.TransientError:
        raise
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri}, the list of recordings, is missing or damaged ({error}); begin a new run") from error


class _Joined:
    """The rows of recordings, with the segments that are given of them.

    Attributes:
        num_without: rows left out, as no segments are given of them.
    """

    def __init__(self, segments: Mapping[str, npt.NDArray[np.float64]] | None) -> None:
        """Join with segments by the id of a recording; none leaves them out."""
        self.num_without = 0
        self._segments = segments

    def rows_of(self, listing: Listing) -> Iterator[pa.Table]:
        """Rows of a listing, in tables of `_SCHEMA`."""
        pieces = listing.piece_seconds is not None
        for batch in listing.batches:
            columns = {
                field.name: batch.column(field.name).cast(field.type)
                if field.name in batch.column_names
                else pa.nulls(batch.num_rows, field.type)
                for field in _FIELDS
            }
            columns[_SEGMENTS.name] = self._segments_of(columns["id"].to_pylist())
            if pieces:  # there a duration is that of the piece
                begin = pc.fill_null(columns["start"], 0.0)
                columns["id"] = batch.column("key")
                columns["duration"] = pc.add(begin, columns["duration"])
            table = pa.table(columns, schema=_SCHEMA)
            if self._segments is not None:
                kept = table.filter(pc.is_valid(table.column(_SEGMENTS.name)))
                self.num_without += table.num_rows - kept.num_rows
                table = kept
            yield table

    def _segments_of(self, ids: Sequence[str]) -> pa.Array:
        if self._segments is None:
            return pa.nulls(len(ids), _SEGMENTS.type)
        found = [self._segments.get(file_id) for file_id in ids]
        return pa.array([None if spans is None else spans.ravel() for spans in found], _SEGMENTS.type)


def _write(tables: Iterable[pa.Table], path: Path, with_digests: bool) -> tuple[int, int, npt.NDArray[np.uint64]]:
    """Write rows in batches of `_BATCH_ROWS`, all but the last; tell how many, how many were too short, digests."""
    rows, short = 0, 0
    digests: list[npt.NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    held: list[pa.Table] = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:

        def flush(all_of_it: bool) -> None:
            table = pa.concat_tables(held) if held else _SCHEMA.empty_table()
            whole = table.num_rows if all_of_it else table.num_rows // _BATCH_ROWS * _BATCH_ROWS
            for begin in range(0, whole, _BATCH_ROWS):
                part = table.slice(begin, min(_BATCH_ROWS, whole - begin)).combine_chunks()
                writer.write_table(part, max_chunksize=_BATCH_ROWS)
            held[:] = [table.slice(whole)] if whole < table.num_rows else []

        for table in tables:
            seconds = pc.subtract(
                pc.min_element_wise(table.column("end"), table.column("duration")),  # nulls are skipped
                pc.fill_null(table.column("start"), 0.0),
            )
            usable = pc.fill_null(pc.greater_equal(seconds, _MIN_SECONDS), True)
            kept = table.filter(usable)
            short += table.num_rows - kept.num_rows
            rows += kept.num_rows
            if with_digests:
                digests.append(digests_of(kept.column("id").to_pylist()))
            held.append(kept)
            if sum(part.num_rows for part in held) >= _BATCH_ROWS:
                flush(False)
        flush(True)
    return rows, short, np.concatenate(digests)


def _part(path: Path, mask: npt.NDArray[np.bool_]) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            begin = number * _BATCH_ROWS
            yield pa.Table.from_batches([batch.filter(pa.array(mask[begin : begin + batch.num_rows]))], _SCHEMA)
