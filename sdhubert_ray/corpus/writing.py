"""An input as one Parquet manifest, pieces cut."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from sdhubert_ray import storage
from sdhubert_ray.corpus.pieces import cut_pieces
from sdhubert_ray.corpus.reading import PIECE_SECONDS_KEY
from sdhubert_ray.corpus.selection import Listing
from sdhubert_ray.corpus.shards import PARQUET_SUFFIX
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import AudioOptions

_ROWS_PER_GROUP = 10_000
_PART_BYTES = 8 << 20


@dataclass(frozen=True)
class ManifestSummary:
    """What was written.

    Attributes:
        num_recordings: how many recordings.
        num_rows: how many rows; long recordings have several.
        seconds: of audio, where the length is known.
        ignored: files of the input that were not taken for audio.
    """

    num_recordings: int
    num_rows: int
    seconds: float
    ignored: int


def write_manifest(listing: Listing, target: str, piece_seconds: float) -> ManifestSummary:
    """Write a listing as a manifest of pieces, whole or not at all.

    Args:
        listing: not read yet.
        target: URI of the Parquet file; one that is there is replaced.
        piece_seconds: length of a piece at most, seconds; a manifest of pieces keeps those that it has.

    Raises:
        UserError: a name without the ending .parquet, pieces of another length, rows that cannot be used, or a place
            that cannot be written.
        TransientError: a store could not be reached.
    """
    if PurePosixPath(target).suffix.lower() != PARQUET_SUFFIX:
        raise UserError(f"manifest {target} has to end in .parquet; the format is Parquet")
    if storage.exists(target) and storage.is_folder(target):
        raise UserError(f"manifest {target} is a folder; name a file")
    try:
        AudioOptions(piece_seconds=piece_seconds)
    except ValueError as error:
        raise UserError(str(error)) from error
    if listing.piece_seconds is not None and listing.piece_seconds != piece_seconds:
        raise UserError(
            f"the input is a manifest of pieces of {listing.piece_seconds:g} s already, not {piece_seconds:g}; "
            f"ask for {listing.piece_seconds:g}, or list the audio itself"
        )
    try:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "manifest.parquet"
            summary = _write(listing, local, piece_seconds)
            storage.put(target, _parts(local))
    except storage.TransientError:
        raise
    except OSError as error:
        raise UserError(f"manifest {target} cannot be written ({error.strerror or error})") from error
    return summary


def _write(listing: Listing, local: Path, piece_seconds: float) -> ManifestSummary:
    rows, recordings, seconds = 0, 0, 0.0
    schema = listing.schema
    if listing.piece_seconds is None:
        schema = cut_pieces(schema.empty_table(), piece_seconds).schema
    schema = schema.with_metadata({PIECE_SECONDS_KEY: repr(float(piece_seconds)).encode()})
    with pyarrow.parquet.ParquetWriter(local, schema) as writer:
        for group in _groups(listing, piece_seconds):
            writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=group.num_rows)
            rows += group.num_rows
            recordings += pc.sum(pc.equal(group.column("piece"), 0)).as_py()
            seconds += pc.sum(group.column("duration")).as_py() or 0.0
    return ManifestSummary(recordings, rows, seconds, listing.ignored)


def _groups(listing: Listing, piece_seconds: float) -> Iterator[pa.Table]:
    """The rows to write, in tables of one row group each."""
    waiting: list[pa.Table] = []
    for batch in listing.batches:
        waiting.append(batch if listing.piece_seconds is not None else cut_pieces(batch, piece_seconds))
        if sum(table.num_rows for table in waiting) >= _ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _parts(local: Path) -> Iterator[bytes]:
    with local.open("rb") as file:
        while part := file.read(_PART_BYTES):
            yield part
