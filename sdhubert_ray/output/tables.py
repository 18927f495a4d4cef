"""Arrow columns of ragged arrays, and the schemas of the tables.

Plain Arrow types only, so that pandas, polars and duckdb read what is written.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array = npt.NDArray[Any]

STATUSES = ("ok", "silent", "too_short", "truncated", "unreadable", "missing", "failed")
"""What became of a row; the last three count against `max_failed`."""
FAILED_STATUSES = frozenset(("unreadable", "missing", "failed"))
# From harmless to lost: a file has the worst status of its pieces, but speech anywhere makes silence `ok`.
_SEVERITY = ("too_short", "silent", "ok", "truncated", "unreadable", "missing", "failed")

MANIFEST_FIELDS: tuple[pa.Field, ...] = (
    pa.field("key", pa.string()),
    pa.field("id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("member", pa.string()),  # of a tar shard, or row of a Parquet shard
    pa.field("byte_offset", pa.int64()),  # of the member in its tar, bytes
    pa.field("byte_size", pa.int64()),
    pa.field("piece", pa.int32()),
    pa.field("num_pieces", pa.int32()),
    pa.field("start", pa.float64()),
    pa.field("end", pa.float64()),
    pa.field("duration", pa.float64()),  # of the piece, seconds
    pa.field("channel", pa.int32()),
    pa.field("source_size", pa.int64()),  # of the file or shard, bytes
    pa.field("source_version", pa.string()),  # its etag, or its time of change
)
"""A manifest as the pipeline takes it, pieces cut; any further columns are carried through."""

SEGMENTS = pa.list_(pa.struct([pa.field("start", pa.float64()), pa.field("end", pa.float64())]))
SPANS = pa.list_(pa.struct([pa.field("start", pa.int32()), pa.field("end", pa.int32())]))

RESULT_FIELDS: tuple[pa.Field, ...] = (
    pa.field("key", pa.string()),
    pa.field("id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("member", pa.string()),
    pa.field("piece", pa.int32()),
    pa.field("offset", pa.float64()),
    pa.field("duration", pa.float64()),
    pa.field("status", pa.string()),
    pa.field("error", pa.string()),
    pa.field("num_frames", pa.int32()),
    pa.field("segments", SEGMENTS),
)
"""The columns of every segments table; `segment_features`, `units` and the frame columns follow."""

FRAME_COLUMNS = ("frame_features", "norm", "mask", "spans", "raw_norm", "amplitude")
"""Kept only if asked for; the last two are what new thresholds are tried on."""

STAGES = ("decode", "encode", "cut")
"""The stages that work is timed by, in order; what they make is then written."""
WORK = (*STAGES, "write")
UNIT_COLUMNS = ("unit_name", "unit_began", *(f"{stage}_seconds" for stage in STAGES))
"""What the rows of a unit bring along for its report."""
PIPELINE_COLUMNS = frozenset(("samples", "samples_hz", "window_phase", *UNIT_COLUMNS, *FRAME_COLUMNS))
"""Columns that live between the stages only, or that have their own place in the table: no manifest may have them."""


def worst_status(statuses: Sequence[str]) -> str:
    """The status of a recording whose pieces have these."""
    return max(statuses, key=_SEVERITY.index)


def vectors_type(dtype: npt.DTypeLike, width: int) -> pa.DataType:
    """The type of a column whose values are (n, width) arrays."""
    return pa.list_(pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), width))


def ragged(arrays: Sequence[Array | None], value_type: pa.DataType) -> pa.ListArray:
    """A list column of (n_i,) arrays; None becomes null."""
    present = [array for array in arrays if array is not None]
    values = np.concatenate(present) if present else np.zeros(0, dtype=value_type.to_pandas_dtype())
    return _lists(arrays, pa.array(values, type=value_type))


def ragged_vectors(arrays: Sequence[Array | None], dtype: npt.DTypeLike, width: int) -> pa.ListArray:
    """A list column of (n_i, width) arrays in `dtype`; None becomes null."""
    present = [np.asarray(array, dtype=dtype) for array in arrays if array is not None]
    values = np.concatenate(present).reshape(-1) if present else np.zeros(0, dtype=dtype)
    return _lists(arrays, pa.FixedSizeListArray.from_arrays(pa.array(values), width))


def ragged_intervals(arrays: Sequence[Array | None], list_type: pa.ListType) -> pa.ListArray:
    """A list column of structs (start, end) from (n_i, 2) arrays; None becomes null."""
    struct = list_type.value_type
    present = [array for array in arrays if array is not None]
    values = np.concatenate(present) if present else np.zeros((0, 2))
    columns = [pa.array(values[:, side].astype(struct[side].type.to_pandas_dtype())) for side in (0, 1)]
    return _lists(arrays, pa.StructArray.from_arrays(columns, fields=list(struct)))


def read_ragged(column: pa.ChunkedArray) -> list[Array | None]:
    """The (n_i,) arrays of a list column, without copying where types allow; null becomes None."""
    arrays: list[Array | None] = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        arrays.extend(_slices(chunk, values))
    return arrays


def read_vectors(column: pa.ChunkedArray) -> list[Array | None]:
    """The (n_i, D) arrays of a column of `vectors_type`; null becomes None."""
    arrays: list[Array | None] = []
    for chunk in column.chunks:
        inner = chunk.values
        width = inner.type.list_size
        # `values` ignores an offset that a slice may have put on the inner array.
        flat = inner.values.to_numpy(zero_copy_only=False)[inner.offset * width :]
        arrays.extend(_slices(chunk, flat.reshape(-1, width)))
    return arrays


def read_intervals(column: pa.ChunkedArray) -> list[Array | None]:
    """The (n_i, 2) arrays of a column of structs (start, end); null becomes None."""
    arrays: list[Array | None] = []
    for chunk in column.chunks:
        sides = [chunk.values.field(side).to_numpy(zero_copy_only=False) for side in ("start", "end")]
        arrays.extend(_slices(chunk, np.stack(sides, axis=1)))
    return arrays


def _lists(arrays: Sequence[Array | None], values: pa.Array) -> pa.ListArray:
    lengths = np.array([0 if array is None else len(array) for array in arrays], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{offsets[-1]} values are too many for one column of a batch")
    nulls = pa.array([array is None for array in arrays], type=pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, mask=nulls)


def _slices(chunk: pa.ListArray, values: Array) -> list[Array | None]:
    offsets = chunk.offsets.to_numpy()
    present = chunk.is_valid().to_numpy(zero_copy_only=False)
    return [
        values[begin:end] if valid else None
        for begin, end, valid in zip(offsets[:-1], offsets[1:], present, strict=True)
    ]
