"""One row per syllable: as CSV and as a data frame, against plain Python."""

import csv
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import write_output

from sdhubert_ray import read_segments
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import open_output, syllables
from sdhubert_ray.output.formats import check_free, export, formats_to_write, note_formats, remove_files
from sdhubert_ray.output.tables import RESULT_FIELDS, SEGMENTS, ragged, ragged_intervals

COLUMNS = ["id", "syllable", "start", "end", "unit", "status"]
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
# Frames at 50 Hz at which syllables begin and end, by turns.
FRAMES = st.lists(st.integers(0, 10**6), max_size=8, unique=True).map(
    lambda found: sorted(found[: len(found) // 2 * 2])
)


def make_output(folder, recordings, with_units=True, status="ok"):
    """An output of one commit: recordings are id -> frames at which syllables begin and end."""
    times = [np.array(frames, float).reshape(-1, 2) / 50 for frames in recordings.values()]
    basics = {"member": None, "piece": 0, "offset": 0.0, "duration": 1.0, "status": status, "error": None}
    rows = [{"key": f"{name}#0", "id": name, "uri": name, "num_frames": 50, **basics} for name in recordings]
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type)
        for field in RESULT_FIELDS
        if field.name != "segments"
    }
    columns["segments"] = ragged_intervals(times, SEGMENTS)
    units = [np.arange(len(found), dtype=np.int32) % 7 for found in times]
    columns["units"] = ragged(units if with_units else [None] * len(units), pa.int32())
    return write_output(str(folder), [(1, pa.table(columns))], {})


def expected_rows(recordings, with_units):
    return [
        (
            name,
            number + 1,
            frames[2 * number] / 50,
            frames[2 * number + 1] / 50,
            number % 7 if with_units else None,
            "ok",
        )
        for name, frames in recordings.items()
        for number in range(len(frames) // 2)
    ]


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(IDS, FRAMES, min_size=1, max_size=4), st.booleans(), st.integers(1, 5))
def test_both_hold_every_syllable_in_order(recordings, with_units, at_once):
    expected = expected_rows(recordings, with_units)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(syllables, "_ROWS_AT_ONCE", at_once):
        output = make_output(folder, recordings, with_units)
        frame = read_segments(output).to_pandas()
        export(output, ["csv"])
        with Path(output, "syllables.csv").open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
    assert list(frame.columns) == header == COLUMNS
    assert frame["unit"].isna().sum() == (0 if with_units else len(expected))
    assert [tuple(row) for row in frame.astype(object).where(frame.notna(), None).itertuples(index=False)] == expected
    told = [
        (name, int(number), float(start), float(end), int(unit) if unit else None, status)
        for name, number, start, end, unit, status in lines
    ]
    assert told == expected


def test_types_of_the_frame(tmp_path):
    frame = read_segments(make_output(tmp_path, {"a.wav": [0, 5, 9, 20]})).to_pandas()
    text = str(pd.Series(["a.wav"]).dtype)  # of pandas 3 another than of 2
    assert [str(kind) for kind in frame.dtypes] == [text, "int64", "float64", "float64", "Int32", text]
    empty = read_segments(make_output(tmp_path / "empty", {"a.wav": []})).to_pandas()
    pd.testing.assert_frame_equal(empty, frame.iloc[:0])


def test_a_frame_takes_nothing_from_the_iteration(tmp_path):
    recordings = read_segments(make_output(tmp_path, {"a.wav": [0, 5], "b.wav": [1, 2]}))
    assert next(recordings).id == "a.wav"
    assert len(recordings.to_pandas()) == 2
    assert [recording.id for recording in recordings] == ["b.wav"]


def test_there_has_to_be_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_segments(tmp_path).to_pandas()


def test_times_are_written_as_they_are_meant(tmp_path):
    output = make_output(tmp_path, {"a.wav": [5, 15]})
    rows = [["a"], [1], [0.1 + 0.2], [0.7], [None], ["ok"]]
    with mock.patch.object(syllables, "_table", return_value=pa.table(rows, syllables.SYLLABLES)):
        export(output, ["csv"])
    assert (tmp_path / "syllables.csv").read_text().splitlines()[1].split(",")[2:4] == ["0.3", "0.7"]


def test_a_file_of_somebody_else_is_refused_and_ours_is_not(tmp_path):
    output = make_output(tmp_path, {"/any id/../at all": [0, 5]})
    contents = open_output(output, {}, False)
    (tmp_path / "syllables.csv").write_text("mine")
    with pytest.raises(UserError, match=r"holds syllables\.csv"):
        check_free(output, contents, ["/any id/../at all"], ["csv"])
    check_free(output, contents, ["/any id/../at all"], ["parquet"])
    remove_files(output)
    assert (tmp_path / "syllables.csv").read_text() == "mine"


def test_it_is_noted_and_written_anew_by_later_runs(tmp_path):
    noted = note_formats(None, ["1"], ["csv", "parquet"])
    assert noted == {"1": ["csv"]}
    record = {"formats": note_formats({"formats": noted}, ["1", "2"], ["parquet"])}
    assert formats_to_write(record, ["parquet"]) == ["parquet", "csv"]
    assert formats_to_write(record, ["csv"]) == ["csv"]
    assert formats_to_write({"formats": {"1": ["textgrid"]}}, ["parquet"]) == ["parquet"]
