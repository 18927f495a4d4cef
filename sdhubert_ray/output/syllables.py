"""The syllables of an output as flat tables: a row each, for pandas, and for formats that know no lists."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from sdhubert_ray.output.tables import Array

SYLLABLE_FIELDS: tuple[pa.Field, ...] = (
    pa.field("id", pa.string()),  # of the recording
    pa.field("syllable", pa.int64()),  # its number in the recording, from 1
    pa.field("start", pa.float64()),  # seconds of the file
    pa.field("end", pa.float64()),
    pa.field("unit", pa.int32()),  # null without a quantizer
    pa.field("status", pa.string()),  # of the recording
)
"""The columns, one row for each syllable."""
SYLLABLES = pa.schema(SYLLABLE_FIELDS)

Syllables = tuple[str, str, Array, Array | None]
"""Of a recording: id, status, segments (S, 2) seconds, units (S,) or None."""

_ROWS_AT_ONCE = 65_536


def tabulate(recordings: Iterable[Syllables]) -> Iterator[pa.Table]:
    """Tables of `SYLLABLES`, in order, of whole recordings and some ten thousand rows each; of none there is one."""
    waiting: list[Syllables] = []
    rows = 0
    for recording in recordings:
        waiting.append(recording)
        rows += len(recording[2])
        if rows >= _ROWS_AT_ONCE:
            yield _table(waiting)
            waiting, rows = [], 0
    yield _table(waiting)


def _table(recordings: Sequence[Syllables]) -> pa.Table:
    counts = [len(segments) for _, _, segments, _ in recordings]
    ids = np.repeat(np.arange(len(recordings)), counts)
    numbers = np.concatenate([np.zeros(0, np.int64), *(np.arange(1, count + 1) for count in counts)])
    times = np.concatenate([np.zeros((0, 2)), *(segments for _, _, segments, _ in recordings)])
    units = [
        pa.nulls(count, pa.int32()) if found is None else pa.array(found, pa.int32())
        for count, (_, _, _, found) in zip(counts, recordings, strict=True)
    ]
    columns = [
        pa.array([name for name, _, _, _ in recordings], pa.string()).take(pa.array(ids)),
        pa.array(numbers, pa.int64()),
        pa.array(times[:, 0]),
        pa.array(times[:, 1]),
        pa.chunked_array(units, pa.int32()).combine_chunks(),
        pa.array([status for _, status, _, _ in recordings], pa.string()).take(pa.array(ids)),
    ]
    return pa.table(columns, schema=SYLLABLES)
