"""Rows that were done again, put in the places of the ones before: what readers of the folder see at every moment."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import RUN, plan_units, settle

from sdhubert_ray import storage
from sdhubert_ray.output import (
    publish_plan,
    read_files,
    unit_name,
    write_commit,
    write_run,
)
from sdhubert_ray.output.tables import RESULT_FIELDS


class KilledError(BaseException):
    """In the place of a SIGKILL."""


def make_unit(rows, attempt, carried):
    """A unit of (id, piece) rows; `error` tells which attempt it was."""
    values = {
        "key": [f"{name}#{piece}" for name, piece in rows],
        "id": [name for name, _ in rows],
        "uri": [f"/audio/{name}" for name, _ in rows],
        "piece": [piece for _, piece in rows],
        "offset": [float(piece) for _, piece in rows],
        "duration": [1.0] * len(rows),
        "status": ["ok"] * len(rows),
        "error": [str(attempt)] * len(rows),
        "num_frames": [50] * len(rows),
    }
    columns = {
        field.name: pa.array(values[field.name], field.type)
        if field.name in values
        else pa.nulls(len(rows), field.type)
        for field in RESULT_FIELDS
    }
    return pa.table({**columns, carried: pa.array(["mine"] * len(rows))})


def plan(output, number, units, kind):
    """A plan of units of rows, committed and not published."""
    tables = [make_unit(rows, number, f"carried{number}") for rows in units]
    with tempfile.TemporaryDirectory() as staging:
        made = publish_plan(output, plan_units(tables, Path(staging)), number, RUN, kind)
    for unit, table in enumerate(tables):
        write_commit(output, unit_name(made.name, unit), table, "zstd")


def raw(output):
    """What any reader of the folder sees: how often each key is there, and of which attempt it is."""
    tables = [pq.read_table(path) for path in sorted(Path(output, "segments").glob("*.parquet"))]
    rows = [row for table in tables for row in table.select(["key", "error"]).to_pylist()]
    return Counter(row["key"] for row in rows), {row["key"]: int(row["error"]) for row in rows}


@st.composite
def histories(draw):
    """Units of a first plan, and of a second that does some of their recordings again: these may have more pieces."""
    pieces = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    first = [(f"r{name}", piece) for name, count in enumerate(pieces) for piece in range(count)]
    again = []
    for name, count in enumerate(pieces):
        if count == 1 and draw(st.booleans()):  # a whole one may turn out to be long
            again += [(f"r{name}", piece) for piece in range(draw(st.integers(1, 3)))]
        elif draw(st.booleans()):
            again += [(f"r{name}", piece) for piece in range(count) if draw(st.booleans())]
    new = [("new", 0)] if draw(st.booleans()) else []  # `resegment` plans rows that are new with those done again
    return split(draw, first), split(draw, again + new), draw(st.integers(1, 8))


def split(draw, rows):
    units = []
    while rows:
        size = draw(st.integers(1, len(rows)))
        units.append(rows[:size])
        rows = rows[size:]
    return units


@pytest.mark.seconds
@settings(deadline=None, max_examples=15)
@given(histories())
def test_a_reader_that_knows_nothing_sees_each_row_once_at_every_moment(history):
    """Killed before any change of the folder, and gone on with: from there on as before."""
    first, again, rows_per_file = history
    planned = {f"{name}#{piece}" for unit in first for name, piece in unit}
    redone = {f"{name}#{piece}" for unit in again for name, piece in unit}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        made = f"{folder}/made"
        write_run(made, {"fingerprint": {}, "runs": 1})
        plan(made, 1, first, "input")
        settle(made, rows_per_file)
        if again:
            plan(made, 2, again, "retry")
        names = {name: getattr(storage, name) for name in ("put", "create", "remove_files")}
        changes = 0
        while True:
            output = f"{folder}/{changes}"
            shutil.copytree(made, output)
            left = changes
            seen = raw(output)[0]

            def changing(name, output=output):
                def change(*arguments):
                    nonlocal left, seen
                    if not left:
                        raise KilledError
                    left -= 1
                    done = names[name](*arguments)
                    now, _ = raw(output)
                    assert set(now.values()) <= {1}
                    assert seen.keys() <= now.keys()
                    assert read_keys(output) == planned | redone
                    seen = now
                    return done

                return change

            for name in names:
                patch.setattr(storage, name, changing(name))
            try:
                settle(output, rows_per_file)
            except KilledError:
                left = 10_000
                settle(output, rows_per_file)
                changes += 1
            else:
                break
            finally:
                patch.undo()
            counts, attempts = raw(output)
            assert counts == Counter(planned | redone)
            assert attempts == {key: 2 if key in redone else 1 for key in planned | redone}
            assert [path.name for path in Path(output, "commits").iterdir()] == []


def read_keys(output):
    """What our own readers see: each recording once, its pieces in order."""
    found = [table.column("key").to_pylist() for table in read_files(output, ["key", "error"])]
    keys = [key for recording in found for key in recording]
    assert len(keys) == len(set(keys))
    assert len({key.partition("#")[0] for key in keys}) == len(found)
    assert all(recording == sorted(recording) for recording in found)
    return set(keys)
