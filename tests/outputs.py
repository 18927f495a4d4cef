"""Output folders made by hand, for tests of what reads them."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    find_groups,
    list_commits,
    list_plans,
    publish_commits,
    publish_plan,
    read_commit,
    replace_rows,
    stage_plan,
    unit_name,
    write_commit,
    write_run,
)
from sdhubert_ray.output.commits import remove_covered
from sdhubert_ray.output.tables import (
    MANIFEST_FIELDS,
    RESULT_FIELDS,
    SEGMENTS,
    ragged_intervals,
    ragged_vectors,
)

RUN = "0123456789ab"
"""The id of the run that has made them."""


def plan_units(tables, folder):
    """The staged plan of units of results, whose rows tell key, id, uri, piece and duration."""
    units = []
    for table in tables:
        rows = table.num_rows
        columns = {field.name: pa.nulls(rows, field.type) for field in MANIFEST_FIELDS}
        for name in ("key", "id", "uri", "piece", "duration"):
            columns[name] = table.column(name)
        ids = [file_id for every in tables for file_id in every.column("id").to_pylist()]
        columns["num_pieces"] = pa.array([ids.count(name) for name in table.column("id").to_pylist()], pa.int32())
        units.append(pa.table(columns, schema=pa.schema(MANIFEST_FIELDS)))
    folder.mkdir(parents=True, exist_ok=True)
    return stage_plan(iter(units), folder)


def commits_in(output):
    """What is committed in an output, published or not."""
    return list_commits(str(output), list_plans(str(output)))


def keys_in(output):
    """The keys of all rows that are done."""
    tables = (read_commit(str(output), commit.name, ["key"]) for commit in commits_in(output))
    return {key for table in tables for key in table.column("key").to_pylist()}


def write_output(output, commits, fingerprint):
    """An output of (plan number, segments table) commits; a plan after the first does rows again. Returns its URI."""
    write_run(output, {"fingerprint": fingerprint, "runs": 1})
    names = []
    for number in sorted({number for number, _ in commits}):
        units = [table for plan, table in commits if plan == number]
        with tempfile.TemporaryDirectory() as staging:
            kind = "input" if number == 1 else "retry"
            plan = publish_plan(output, plan_units(units, Path(staging)), number, RUN, kind)
        for unit, table in enumerate(units):
            write_commit(output, unit_name(plan.name, unit), table, "zstd")
        names.append(plan.name)
    write_run(output, {"fingerprint": fingerprint, "runs": 1, "plans": names})
    return output


WIDTH = 3
NO_SEGMENTS = np.zeros((0, 2))


def make_row(key, segments=NO_SEGMENTS, **values):
    """A row of a segments table: `key` is id#piece, the rest as a good piece of one second has it."""
    file_id, _, piece = key.rpartition("#")
    defaults = {"offset": float(piece), "duration": 1.0, "status": "ok", "error": None, "num_frames": 50}
    return {
        "key": key,
        "id": file_id,
        "uri": f"/audio/{file_id}",
        "member": None,
        "piece": int(piece),
        **defaults,
        "segments": np.asarray(segments, np.float64).reshape(-1, 2),
        **values,
    }


def make_table(rows, dtype=np.float32, with_features=True):
    """The segments table of rows; the feature of a segment is its start, its end, and their sum."""
    segments = [row["segments"] for row in rows]
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type)
        for field in RESULT_FIELDS
        if field.name != "segments"
    }
    columns["segments"] = ragged_intervals(segments, SEGMENTS)
    if with_features:
        features = [np.c_[array, array.sum(axis=1)].astype(dtype) for array in segments]
        columns["segment_features"] = ragged_vectors(features, dtype, WIDTH)
    columns["units"] = pa.nulls(len(rows), pa.list_(pa.int32()))
    return pa.table(columns)


def make_run(folder, *commits, fingerprint_values=None):
    """An output folder of (plan number, rows) commits; a plan after the first does rows again."""
    tables = [(plan, make_table(rows)) for plan, rows in commits]
    return write_output(str(folder), tables, fingerprint_values or {"seed": "1"})


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def settle(output, rows_per_file):
    """What a run does when all units are done."""
    plans = list_plans(output)
    remove_covered(output, plans)
    for each in plans:
        commits = commits_in(output)
        groups = find_groups([commit for commit in commits if commit.plan == each.number], each, rows_per_file)
        placed = frozenset()
        if each.kind == "retry" and groups:
            earlier = [commit for commit in commits if commit.plan < each.number]
            placed = replace_rows(output, earlier, [commit for group in groups for commit in group], "zstd")
        for group in groups:
            publish_commits(output, group, "zstd", placed)
