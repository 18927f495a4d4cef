"""Unit sequences of recordings, for unit language models: text, JSON lines, npy, Parquet, and slamkit's features.

A recording's pieces are joined. Times are frames at 50 Hz.
"""

import contextlib
import difflib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import worst_status
from sdhubert_ray.output.formats.files import to_npy
from sdhubert_ray.output.tables import ragged, read_intervals, read_ragged
from sdhubert_ray.speech import FRAME_RATE

SEQUENCE_COLUMNS = ("id", "piece", "duration", "status", "segments", "units")
"""What `read_sequence` takes."""
CARD = "card"
"""Not sequences, but what is to be known of them."""
LOADABLE = ("parquet", "jsonl", "slamkit")
"""What `datasets` reads, and so a card is of."""
SEQUENCE_FORMATS = ("txt", "jsonl", "npy", "parquet", "slamkit", CARD)
_SINGLE_FILES = {
    "txt": "units.txt",
    "jsonl": "units.jsonl",
    "parquet": "units.parquet",
    "slamkit": "features.jsonl",
    CARD: "README.md",
}
"""The files that all recordings share."""

_NPY_ENDINGS = ("_units.npy", "_durations.npy")
_ROWS_AT_ONCE = 4096
_COPIED_AT_ONCE = 1 << 20
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("status", pa.string()),
        pa.field("duration", pa.float64()),
        pa.field("units", pa.list_(pa.int32())),
        pa.field("durations", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class SequenceOptions:
    """How unit sequences are written.

    Attributes:
        formats: of `txt`, `jsonl`, `npy`, `parquet`, `slamkit` and `card`, which is written by who has counted them.
        dedup: merge runs of equal units.
        durations: also in txt, jsonl and npy, how many frames each unit lasts; Parquet and slamkit always have them.
    """

    formats: tuple[str, ...] = ()
    dedup: bool = False
    durations: bool = False

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in SEQUENCE_FORMATS:
                near = difflib.get_close_matches(name, SEQUENCE_FORMATS, 1, 0.5)
                meant = f"did you mean {near[0]}?" if near else f"it has to be one of {', '.join(SEQUENCE_FORMATS)}"
                raise UserError(f"unknown --format {name!r}; {meant}")
        if CARD in self.formats and not {*LOADABLE} & {*self.formats}:
            raise UserError(f"--format {CARD} is of sequences beside it; add --format {', or '.join(LOADABLE)}")


@dataclass(frozen=True)
class UnitSequence:
    """The units of one recording.

    Attributes:
        id: as in the manifest.
        status: the worst of its pieces.
        duration: seconds.
        units: (N,) int32.
        starts: (N,) int32, the frame of the file where each begins.
        durations: (N,) int32, frames that each lasts; between two there may be frames that belong to neither.
    """

    id: str
    status: str
    duration: float
    units: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    durations: npt.NDArray[np.int32]


def read_sequence(table: pa.Table) -> UnitSequence:
    """The sequence of a recording, from the rows of its pieces in order."""
    segments = [array for array in read_intervals(table.column("segments")) if array is not None]
    units = [array for array in read_ragged(table.column("units")) if array is not None]
    times = np.concatenate([np.zeros((0, 2)), *segments])
    joined = np.concatenate([np.zeros(0, np.int32), *units])
    if len(joined) != len(times):
        raise UserError(
            f"recording {table.column('id')[0].as_py()!r} has {len(times)} segments and {len(joined)} units; "
            "run `sdhubert tokenize` on its table"
        )
    return UnitSequence(
        id=table.column("id")[0].as_py(),
        status=worst_status(table.column("status").to_pylist()),
        duration=sum(seconds or 0.0 for seconds in table.column("duration").to_pylist()),
        units=joined,
        starts=np.rint(times[:, 0] * FRAME_RATE).astype(np.int32),
        durations=np.rint((times[:, 1] - times[:, 0]) * FRAME_RATE).astype(np.int32),
    )


def merge_repeats(sequence: UnitSequence) -> UnitSequence:
    """Merge runs of equal units: one with the start of the first, and the frames of all."""
    units = sequence.units
    if not len(units):
        return sequence
    first = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    lasting = np.add.reduceat(sequence.durations, first, dtype=np.int32)
    return replace(sequence, units=units[first], starts=sequence.starts[first], durations=lasting)


def write_sequences(
    sequences: Iterable[UnitSequence], target: str, options: SequenceOptions, names: Mapping[str, str]
) -> None:
    r"""Write sequences into a folder, in one pass; each file is there whole or not at all.

    `txt`: units.txt, a line per recording: id, units, and with durations these, parted by tabs; numbers are parted by
    spaces; tab, newline, carriage return and backslash in an id are written as \t, \n, \r and \\. `jsonl`:
    units.jsonl with id, units, duration (seconds), and with durations also durations and starts (frames). `parquet`:
    units.parquet with id, status, duration (seconds), units and durations (frames). `slamkit`: features.jsonl as its
    `extract_features` writes it, with units, duration (frames of each unit) and file_name (the id). `npy`:
    NAME_units.npy, (N,) int32, and with durations NAME_durations.npy.

    Args:
        sequences: of recordings.
        target: the folder.
        options: what is written.
        names: for `npy`, NAME by id, see `name_files`.

    Raises:
        UserError: the folder cannot be written, or that for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="sdhubert-") as scratch:
        sinks = _open_sinks(Path(scratch), options)
        try:
            for sequence in sequences:
                if options.dedup:
                    sequence = merge_repeats(sequence)
                with _writing(scratch):
                    for sink in sinks:
                        sink.add(sequence)
                if "npy" in options.formats:
                    _write_npy(storage.join(target, names[sequence.id]), sequence, options.durations)
        finally:
            with _writing(scratch):
                for sink in sinks:
                    sink.close()
        for sink in sinks:
            storage.put(storage.join(target, sink.path.name), _parts(sink.path))


def sequence_files(formats: Iterable[str], names: Iterable[str] = ()) -> list[str]:
    """The files that `write_sequences` may write, relative to its folder.

    Args:
        formats: of `SEQUENCE_FORMATS`.
        names: of recordings; none: the files of single recordings are left out.
    """
    files = [_SINGLE_FILES[name] for name in formats if name in _SINGLE_FILES]
    if "npy" in formats:
        files += [f"{name}{ending}" for name in names for ending in _NPY_ENDINGS]
    return files


class _Sink(Protocol):
    path: Path

    def add(self, sequence: UnitSequence) -> None:
        """Take one more."""

    def close(self) -> None:
        """End the file."""


class _Text:
    def __init__(self, path: Path, durations: bool) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._durations = durations

    def add(self, sequence: UnitSequence) -> None:
        columns = [sequence.id.translate(_ESCAPED), _spaced(sequence.units)]
        columns += [_spaced(sequence.durations)] if self._durations else []
        self._file.write("\t".join(columns) + "\n")

    def close(self) -> None:
        self._file.close()


class _JsonLines:
    def __init__(self, path: Path, durations: bool) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._durations = durations

    def add(self, sequence: UnitSequence) -> None:
        line: dict[str, Any] = {"id": sequence.id, "units": sequence.units.tolist()}
        if self._durations:
            line |= {"durations": sequence.durations.tolist(), "starts": sequence.starts.tolist()}
        line["duration"] = sequence.duration
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Slamkit:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def add(self, sequence: UnitSequence) -> None:
        line = {
            "units": sequence.units.tolist(),
            "duration": sequence.durations.tolist(),
            "file_name": sequence.id,
        }
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = pq.ParquetWriter(path, _SCHEMA, compression="zstd", write_page_checksum=True)
        self._waiting: list[UnitSequence] = []

    def add(self, sequence: UnitSequence) -> None:
        self._waiting.append(sequence)
        if len(self._waiting) == _ROWS_AT_ONCE:
            self._write()

    def close(self) -> None:
        self._write()
        self._writer.close()

    def _write(self) -> None:
        columns = [
            pa.array([sequence.id for sequence in self._waiting], pa.string()),
            pa.array([sequence.status for sequence in self._waiting], pa.string()),
            pa.array([sequence.duration for sequence in self._waiting], pa.float64()),
            ragged([sequence.units for sequence in self._waiting], pa.int32()),
            ragged([sequence.durations for sequence in self._waiting], pa.int32()),
        ]
        self._writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._waiting = []


def _open_sinks(folder: Path, options: SequenceOptions) -> Sequence[_Sink]:
    sinks: list[_Sink] = []
    with _writing(str(folder)):
        if "txt" in options.formats:
            sinks.append(_Text(folder / _SINGLE_FILES["txt"], options.durations))
        if "jsonl" in options.formats:
            sinks.append(_JsonLines(folder / _SINGLE_FILES["jsonl"], options.durations))
        if "parquet" in options.formats:
            sinks.append(_Parquet(folder / _SINGLE_FILES["parquet"]))
        if "slamkit" in options.formats:
            sinks.append(_Slamkit(folder / _SINGLE_FILES["slamkit"]))
    return sinks


def _write_npy(target: str, sequence: UnitSequence, durations: bool) -> None:
    units, lasting = (f"{target}{ending}" for ending in _NPY_ENDINGS)
    storage.put(units, to_npy(sequence.units))
    if durations:
        storage.put(lasting, to_npy(sequence.durations))


def _spaced(numbers: npt.NDArray[np.int32]) -> str:
    return " ".join(map(str, numbers.tolist()))


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(_COPIED_AT_ONCE):
            yield part


@contextlib.contextmanager
def _writing(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); free it, or set TMPDIR to a larger place") from error
