"""Rows that kill their worker: found by who died where, tried alone, at last given up.

A worker that dies (out of memory, a crash in a decoder) takes its unit with it, and a scheduler gives the unit to the
next worker. The second time the unit goes row by row, and a row that kills its worker twice alone is left out.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyarrow as pa

MAX_DEATHS = 2
"""A row that has killed this many workers alone is not tried again."""


class Attempts(Protocol):
    """Notes of what is being worked on; they survive the worker."""

    def begin(self, stage: str, unit: str) -> Mapping[str, int] | None:
        """Note that a unit begins. If it has begun before and not ended: the deaths of its rows by key."""

    def alone(self, stage: str, unit: str, key: str) -> None:
        """Note that a row of the unit begins by itself."""

    def end(self, stage: str, unit: str) -> None:
        """Note that the unit has ended well."""


class Notebook:
    """`Attempts` in memory: it has to live in another process than the workers."""

    def __init__(self) -> None:
        self.open: dict[str, dict[str, Any]] = {}

    def begin(self, stage: str, unit: str) -> Mapping[str, int] | None:
        """See `Attempts`."""
        note = self._note(stage, unit)
        note["begun"] += 1
        if note["begun"] == 1:
            return None
        if note["alone"] is not None:
            note["deaths"][note["alone"]] = note["deaths"].get(note["alone"], 0) + 1
            note["alone"] = None
        return dict(note["deaths"])

    def alone(self, stage: str, unit: str, key: str) -> None:
        """See `Attempts`."""
        self._note(stage, unit)["alone"] = key

    def end(self, stage: str, unit: str) -> None:
        """See `Attempts`."""
        self.open.pop(f"{stage} {unit}", None)

    def _note(self, stage: str, unit: str) -> dict[str, Any]:
        return self.open.setdefault(f"{stage} {unit}", {"begun": 0, "alone": None, "deaths": {}})


def run_unit(
    stage: str, batch: pa.Table, work: Callable[[pa.Table, bool], pa.Table], attempts: Attempts | None
) -> pa.Table:
    """Work on the rows of a unit: together or, where a worker has died of them, one by one.

    Args:
        stage: its name.
        batch: rows with `key` and `unit_name`.
        work: a table of rows to the stage's result; its second argument says that these rows are to be given up.
        attempts: none: nothing is noted.
    """
    if attempts is None or not batch.num_rows:
        return work(batch, False)
    unit = batch.column("unit_name")[0].as_py()
    deaths = attempts.begin(stage, unit)
    if deaths is None:
        result = work(batch, False)
    else:
        parts = []
        for row, key in enumerate(batch.column("key").to_pylist()):
            hopeless = deaths.get(key, 0) >= MAX_DEATHS
            if not hopeless:
                attempts.alone(stage, unit, key)
            parts.append(work(batch.slice(row, 1), hopeless))
        result = pa.concat_tables(parts).combine_chunks()
    attempts.end(stage, unit)
    return result
