"""What the stages do to the rows of a table alike."""

import time
from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa

OVERFLOWS = "overflows in the encoder; take --dtype float32"
GIVEN_UP = "has killed its worker three times (out of memory, or a crash in a decoder) and was given up"


def begun(unit: pa.Table, began: float) -> pa.Table:
    """Leave the time when work on a unit began, of `time.time`, for its report."""
    return unit.append_column("unit_began", pa.array(np.full(unit.num_rows, began)))


def timed(table: pa.Table, stage: str, began: float) -> pa.Table:
    """Leave the seconds since `began` in a stage's report column, shared by the rows."""
    share = (time.perf_counter() - began) / max(table.num_rows, 1)
    return table.append_column(f"{stage}_seconds", pa.array(np.full(table.num_rows, share)))


def failed(batch: pa.Table, reason: str, rows: Collection[int] | None = None) -> pa.Table:
    """Rows that are `failed`, whatever they were: all, or those of these numbers.

    Args:
        batch: with uri, status and error.
        reason: a sentence without its subject.
        rows: their numbers; None is all.
    """
    told = batch.select(["uri", "status", "error"]).to_pylist()
    for row in range(batch.num_rows) if rows is None else rows:
        told[row].update(status="failed", error=f"{told[row]['uri']} {reason}")
    for name in ("status", "error"):
        batch = replaced(batch, name, pa.array([values[name] for values in told], pa.string()))
    return batch


class InTurn:
    """Stages as one: each takes what the one before it gives."""

    def __init__(self, *stages: Callable[[pa.Table], pa.Table]) -> None:
        self.stages = stages

    def __call__(self, batch: pa.Table) -> pa.Table:
        for stage in self.stages:
            batch = stage(batch)
        return batch


def pack_rows(batch: pa.Table) -> pa.Table:
    """All rows as one, of one column `packed`: Ray gives stages that hold a GPU a number of rows, never a whole block.

    The column holds an Arrow stream; `unpack_rows` reads it back.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch.combine_chunks())
    stream = sink.getvalue()
    offsets = pa.array([0, stream.size], pa.int64()).buffers()[1]
    return pa.table({"packed": pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, stream])})


def unpack_rows(batch: pa.Table) -> pa.Table:
    """The rows that `pack_rows` made one, without a copy."""
    column = batch.combine_chunks().column("packed").chunk(0)
    _, offsets, streams = column.buffers()  # the value itself, column[0], would be a copy
    begin, end = np.frombuffer(offsets, np.int64)[column.offset : column.offset + 2].tolist()
    with pa.ipc.open_stream(streams.slice(begin, end - begin)) as reader:
        return reader.read_all()


def replaced(batch: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """A table with another column of a name."""
    return batch.set_column(batch.column_names.index(name), name, column)
