"""What rows amount to, by the footers of their files: the same as a count of the rows, however they are laid out."""

import struct
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import commits_in, make_row, make_run, refusal, settle

from sdhubert_ray.output import (
    read_commit,
    require_contents,
    worst_status,
)
from sdhubert_ray.output.parquet import TOTALS
from sdhubert_ray.output.summary import count_results
from sdhubert_ray.output.tables import FAILED_STATUSES, STATUSES


def count(output):
    contents = require_contents(str(output))
    return count_results(str(output), contents.plans, contents.commits)


def assert_amounts(totals, rows):
    """By the slow way: all rows (their latest attempts) in a list."""
    recordings = {}
    for row in rows:
        recordings.setdefault(row["id"], []).append(row)
    statuses = {name: worst_status([row["status"] for row in pieces]) for name, pieces in recordings.items()}
    assert totals.num_rows == len(rows)
    assert totals.num_files == len(recordings)
    assert totals.statuses == dict(sorted(Counter(statuses.values()).items()))
    lost = {name: status for name, status in statuses.items() if status in FAILED_STATUSES}
    assert [(name, status) for name, status, _ in totals.failures] == sorted(lost.items())
    for name, status, error in totals.failures:
        assert error in {row["error"] for row in recordings[name] if row["status"] == status}
    reasons = Counter((row["status"], "has N faults") for row in rows if row["status"] in FAILED_STATUSES)
    assert totals.reasons == reasons
    assert totals.audio_seconds == pytest.approx(sum(row["duration"] for row in rows))
    assert totals.num_syllables == sum(len(row["segments"]) for row in rows)
    assert totals.speech_seconds == pytest.approx(sum(end - start for row in rows for start, end in row["segments"]))


def draw_row(draw, key):
    status = draw(st.sampled_from(STATUSES))
    error = f"/audio/{key.rpartition('#')[0]} has {draw(st.integers(0, 99))} faults" if status != "ok" else None
    segments = [[at, at + draw(st.floats(0.01, 1.0))] for at in range(draw(st.integers(0, 3)))]
    return make_row(key, segments, status=status, error=error, duration=draw(st.floats(0.0, 600.0)))


def split(draw, rows):
    units = []
    while rows:
        size = draw(st.integers(1, len(rows)))
        units.append(rows[:size])
        rows = rows[size:]
    return units


@st.composite
def histories(draw):
    """Units of a plan, mostly with the pieces of a recording in turn, and of one that does some rows again."""
    pieces = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    keys = [f"r{name}#{piece}" for name, number in enumerate(pieces) for piece in range(number)]
    if draw(st.sampled_from((True, False, False, False))):  # a manifest of pieces is of any order
        keys = draw(st.permutations(keys))
    first = [draw_row(draw, key) for key in keys]
    again = [draw_row(draw, row["key"]) for row in first if row["status"] in FAILED_STATUSES and draw(st.booleans())]
    return split(draw, first), split(draw, again), draw(st.integers(1, 12))


@settings(deadline=None, max_examples=25)
@given(histories())
def test_footers_amount_to_what_the_rows_do(history):
    """While units are committed, published, tried again, and put in the places of the ones before."""
    first, again, rows_per_file = history
    rows = {row["key"]: row for unit in first for row in unit}
    with tempfile.TemporaryDirectory() as folder:
        output = make_run(Path(folder), *((1, unit) for unit in first))
        assert_amounts(count(output), [*rows.values()])
        settle(output, rows_per_file)
        assert_amounts(count(output), [*rows.values()])
        if again:
            output = make_run(Path(folder, "again"), *((1, unit) for unit in first), *((2, unit) for unit in again))
            rows |= {row["key"]: row for unit in again for row in unit}
            assert_amounts(count(output), [*rows.values()])
            settle(output, rows_per_file)
            assert_amounts(count(output), [*rows.values()])


@settings(deadline=None, max_examples=10)
@given(histories(), st.data())
def test_of_some_units_only_those_count(history, data):
    """As while a run goes on: whichever pieces are missing."""
    units, _, _ = history
    with tempfile.TemporaryDirectory() as folder:
        output = make_run(Path(folder), *((1, unit) for unit in units))
        done = []
        for commit, unit in zip(commits_in(output), units, strict=True):
            if data.draw(st.booleans()):
                done += unit
            else:
                Path(output, commit.name).unlink()
        assert_amounts(count(output), done)


UNITS = [
    [make_row("a#0", [[0.0, 0.5]]), make_row("b#0", status="missing", error="/audio/b has 1 faults")],
    [make_row("b#1"), make_row("c#0", [[0.25, 0.75]])],
    [make_row("d#0", status="silent")],
]
ROWS = [row for unit in UNITS for row in unit]


def without_rows(path):
    """Nothing of a file is left but its footer."""
    whole = path.read_bytes()
    footer = struct.unpack("<I", whole[-8:-4])[0] + 8
    path.write_bytes(bytes(len(whole) - footer) + whole[-footer:])


@pytest.mark.parametrize("published", [False, True])
def test_no_row_is_read(published, tmp_path):
    output = make_run(tmp_path, *((1, unit) for unit in UNITS))
    if published:
        settle(output, 4)
    names = [commit.name for commit in commits_in(output)]
    assert len(names) == (2 if published else 3)
    for name in names:
        without_rows(tmp_path / name)
        assert "damaged" in refusal(read_commit, output, name, ["key"])
    assert_amounts(count(output), ROWS)


def test_files_without_totals_are_counted_by_their_rows(tmp_path):
    """Those of earlier versions, beside those that have them."""
    output = make_run(tmp_path, *((1, unit) for unit in UNITS))
    path = tmp_path / commits_in(output)[1].name
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert TOTALS not in (pq.read_metadata(path).metadata or {})
    assert_amounts(count(output), ROWS)
    settle(output, 100)
    (commit,) = commits_in(output)
    without_rows(tmp_path / commit.name)
    assert_amounts(count(output), ROWS)


def test_totals_that_a_changed_file_has_kept_do_not_count(tmp_path):
    output = make_run(tmp_path, *((1, unit) for unit in UNITS))
    path = tmp_path / commits_in(output)[1].name
    with pq.ParquetFile(path) as parquet:
        table = parquet.read()
    pq.write_table(table.slice(0, 1), path)
    assert TOTALS in pq.read_metadata(path).metadata
    assert_amounts(count(output), [row for row in ROWS if row["key"] != "c#0"])


def test_totals_that_cannot_be_read_are_damage(tmp_path):
    output = make_run(tmp_path, (1, [make_row("a#0")]))
    path = tmp_path / commits_in(output)[0].name
    table = pq.read_table(path).replace_schema_metadata(None)
    for text in (b"", b"{}", b"[]", b'{"rows": 1}', b'{"rows": "one"}'):
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({TOTALS: text})
        assert str(path) in refusal(count, output)
