"""What the stages do to the rows of a table alike."""

import time

import numpy as np
import pyarrow as pa

GIVEN_UP = "has killed its worker three times (out of memory, or a crash in a decoder) and was given up"


def timed(table: pa.Table, stage: str, began: float) -> pa.Table:
    """Leave the seconds since `began` in a stage's report column, shared by the rows."""
    share = (time.perf_counter() - began) / max(table.num_rows, 1)
    return table.append_column(f"{stage}_seconds", pa.array(np.full(table.num_rows, share)))


def failed(batch: pa.Table, reason: str) -> pa.Table:
    """Rows that are `failed`, whatever they were; the reason is a sentence without its subject."""
    errors = [f"{uri} {reason}" for uri in batch.column("uri").to_pylist()]
    batch = replaced(batch, "status", pa.array(["failed"] * batch.num_rows, pa.string()))
    return replaced(batch, "error", pa.array(errors, pa.string()))


def replaced(batch: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """A table with another column of a name."""
    return batch.set_column(batch.column_names.index(name), name, column)
