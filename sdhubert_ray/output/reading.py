"""Results read back: recording by recording, the pieces of long ones joined, the latest attempt of each."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.output.commits import Commit, read_commit, read_commits
from sdhubert_ray.output.contents import require_contents
from sdhubert_ray.output.plans import Plan
from sdhubert_ray.output.record import check_tokenized, read_run
from sdhubert_ray.output.syllables import tabulate
from sdhubert_ray.output.tables import Array, read_intervals, read_ragged, read_vectors, worst_status
from sdhubert_ray.speech import FRAME_RATE

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FileResult:
    """The segments of one recording, its pieces joined.

    Attributes:
        id: as in the manifest.
        uri: where the audio is.
        status: the worst of its pieces.
        error: why it is not ok, or None.
        duration: seconds.
        num_frames: T, frames at 50 Hz.
        segments: (S, 2) float64, seconds of the file.
        segment_features: (S, D) float32 or float16, or None where they were not kept.
        units: (S,) int32, or None without a quantizer.
        offset: where it begins, in seconds of the file.
    """

    id: str
    uri: str
    status: str
    error: str | None
    duration: float
    num_frames: int
    segments: npt.NDArray[np.float64]
    segment_features: Array | None
    units: Array | None
    offset: float = 0.0


def read_files(
    output: str,
    columns: Sequence[str],
    only: str | None = None,
    read: Callable[[str], pa.Table] | None = None,
    within: range | None = None,
) -> Iterator[pa.Table]:
    """Read an output recording by recording: a table of its pieces, in order, the latest attempt of each.

    One file of the output is held at a time (of recordings that were tried again, the places of their rows).

    Args:
        output: folder of a run.
        columns: columns to read, those that are there; `id` and `piece` are always read.
        only: the id of the one recording to read.
        read: reads a file of the output, by name, and gives these columns; none: as they stand there.
        within: numbers of commits, in order: of the recordings that begin in these; None: of all. One that was tried
            again may come in several parts.

    Raises:
        UserError: there is no run, or a file of it is damaged.
    """
    contents = require_contents(output)
    plans, commits = contents.plans, contents.commits
    chosen = list(dict.fromkeys(("id", "piece", *columns)))
    if read is None:

        def read(name: str) -> pa.Table:
            return read_commit(output, name, chosen)

    if only is not None:
        places = _find_rows(output, commits, {only})
        if only in places:
            yield _gather(places[only], read)
        return
    retried = _find_retried(output, plans, commits)
    places = _find_rows(output, commits, retried) if retried else {}
    for rows in _joined(_beginning_within(output, commits, range(len(commits)) if within is None else within, read)):
        file_id = _id_of(rows)
        if file_id not in retried:
            yield rows
        elif file_id in places:  # all of it where it stands first; what comes of it later has been told then
            yield _gather(places.pop(file_id), read)


class Recordings(Iterator[FileResult]):
    """The recordings of an output, one after the other, the pieces of long ones joined.

    Errors are raised when the first one is asked for, see `read_segments`.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._results = _read_results(output, ("segment_features", "units"))

    def __next__(self) -> FileResult:
        """The next recording; files of the table are read one at a time."""
        return next(self._results)

    def to_pandas(self) -> "pd.DataFrame":
        """All syllables of the output as a data frame, a row each, in memory, wherever the iteration stands.

        Returns:
            columns `id` (str, of the recording), `syllable` (int64, from 1 in each recording), `start` and `end`
            (float64, seconds of the file), `unit` (Int32, missing without a quantizer), `status` (str, of the
            recording). Recordings without syllables have no row.

        Raises:
            UserError: as `read_segments`.
        """
        import pandas as pd

        types = {pa.int32(): pd.Int32Dtype()}  # the only one that may be missing
        frame: pd.DataFrame = pa.concat_tables(read_syllables(self._output)).to_pandas(types_mapper=types.get)
        return frame


def read_segments(output: str | Path) -> Recordings:
    """Iterate over the recordings of an output folder, the pieces of long ones joined; or `.to_pandas()`.

    Raises:
        UserError: there is no run, a file of it is damaged, or a `sdhubert tokenize` into it has not ended.
    """
    return Recordings(str(output))


def read_syllables(output: str) -> Iterator[pa.Table]:
    """The syllables of an output, in tables of `syllables.SYLLABLES`, a row each. Raises as `read_segments`."""
    results = _read_results(output, ("units",))
    return tabulate((result.id, result.status, result.segments, result.units) for result in results)


def _read_results(output: str, further: Sequence[str]) -> Iterator[FileResult]:
    record = read_run(output)
    if record is not None:
        check_tokenized(output, record)
    columns = ["id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments"]
    for table in read_files(output, [*columns, *further]):
        yield join_pieces(table)


def join_pieces(table: pa.Table) -> FileResult:
    """Join the rows of one recording's pieces."""
    rows = table.drop_columns(
        [name for name in ("segments", "segment_features", "units") if name in table.column_names]
    )
    pieces = rows.to_pylist()
    status = worst_status([row["status"] for row in pieces])
    worst = next(row for row in pieces if row["status"] == status)
    segments = [array for array in read_intervals(table.column("segments")) if array is not None]
    features = read_vectors(table.column("segment_features")) if "segment_features" in table.column_names else []
    kept = [array for array in features if array is not None]
    units = [array for array in read_ragged(table.column("units")) if array is not None]
    return FileResult(
        id=worst["id"],
        uri=worst["uri"],
        status=worst["status"],
        error=worst["error"],
        duration=sum(row["duration"] or 0.0 for row in pieces),
        num_frames=count_joined([row["offset"] for row in pieces], [row["num_frames"] for row in pieces]),
        segments=np.concatenate(segments) if segments else np.zeros((0, 2)),
        segment_features=np.concatenate(kept) if kept else None,
        units=np.concatenate(units) if len(units) == table.num_rows else None,
        offset=pieces[0]["offset"],
    )


def count_joined(offsets: Sequence[float], num_frames: Sequence[int]) -> int:
    """Frames of a recording whose pieces begin at these seconds of the file; one without frames adds none."""
    first = frame_offset(offsets[0])
    ends = (frame_offset(offset) - first + count for offset, count in zip(offsets, num_frames, strict=True) if count)
    return max(ends, default=0)


def frame_offset(offset_seconds: float) -> int:
    """The frame of the file at which a piece begins; joints lie on the frame grid."""
    return round(offset_seconds * FRAME_RATE)


def _beginning_within(
    output: str, commits: Sequence[Commit], within: range, read: Callable[[str], pa.Table]
) -> Iterator[pa.Table]:
    """Rows of the recordings that begin in these commits, to their end, which may lie in later ones."""
    last: str | None = None  # recording of the rows so far
    ours = not within.start
    if within.start:
        before = read_commit(output, commits[within.start - 1].name, ["id"]).column("id")
        last = before[-1].as_py() if len(before) else None
    for number in range(within.start, len(commits)):
        for rows in _recordings(read(commits[number].name)):
            if _id_of(rows) != last:
                if number >= within.stop:
                    return
                last, ours = _id_of(rows), True
            if ours:
                yield rows


def _recordings(table: pa.Table) -> Iterator[pa.Table]:
    """Neighbouring rows of one id, together."""
    ids = table.column("id").to_pylist()
    begin = 0
    for row in range(1, len(ids) + 1):
        if row == len(ids) or ids[row] != ids[begin]:
            yield table.slice(begin, row - begin)
            begin = row


def _joined(recordings: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Neighbouring tables of one id, together: the last recording of a file may go on in the next one."""
    waiting: list[pa.Table] = []
    for rows in recordings:
        if waiting and _id_of(waiting[0]) != _id_of(rows):
            yield pa.concat_tables(waiting)
            waiting = []
        waiting.append(rows)
    if waiting:
        yield pa.concat_tables(waiting)


def _id_of(recording: pa.Table) -> str:
    return str(recording.column("id")[0].as_py())


def _find_retried(output: str, plans: Sequence[Plan], commits: Sequence[Commit]) -> set[str]:
    """The ids of recordings of which rows were tried again."""
    again = {plan.number for plan in plans if plan.kind == "retry"}
    retries = [commit for commit in commits if commit.plan in again]
    return {file_id for _, table in read_commits(output, retries, ["id"]) for file_id in table.column("id").to_pylist()}


def _find_rows(output: str, commits: Sequence[Commit], ids: Collection[str]) -> dict[str, dict[int, tuple[str, int]]]:
    """By id and piece, the file and row of the latest attempt."""
    wanted = pa.array(sorted(ids), pa.string())
    places: dict[str, dict[int, tuple[str, int]]] = {}
    for commit, table in read_commits(output, commits, ["id", "piece"]):
        for row in pc.indices_nonzero(pc.is_in(table.column("id"), wanted)).to_pylist():
            file_id, piece = table.column("id")[row].as_py(), table.column("piece")[row].as_py()
            places.setdefault(file_id, {})[piece] = (commit.name, row)
    return places


def _gather(places: dict[int, tuple[str, int]], read: Callable[[str], pa.Table]) -> pa.Table:
    rows = [(name, row) for _, (name, row) in sorted(places.items())]
    tables = {name: read(name) for name in {name for name, _ in rows}}
    return pa.concat_tables([tables[name].slice(row, 1) for name, row in rows])
