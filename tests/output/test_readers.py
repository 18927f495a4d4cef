"""The table by the tools that people have: each value comes out as it went in."""

import numpy as np
import pyarrow as pa
import pytest
from outputs import settle, write_output

from sdhubert_ray.output.tables import RESULT_FIELDS, SEGMENTS, ragged, ragged_intervals, ragged_vectors

WIDTH = 3
TIMES = [np.array([[0.0, 0.5], [0.5, 1.25]]), np.zeros((0, 2)), np.array([[2.5, 3.0]])]
UNITS = [[7, 7], None, [4095]]


def needed(name):
    """A package of the extra `dev`; without it the test is left out."""
    return pytest.importorskip(name, reason=f"{name} is not installed, or not for this Python", exc_type=ImportError)


def features_of(number):
    return np.arange(len(TIMES[number]) * WIDTH).reshape(-1, WIDTH) / 4 + number


@pytest.fixture(scope="module", params=[np.float32, np.float16])
def output(request, tmp_path_factory):
    """An output of three recordings: of two syllables, of none, and of one."""
    names = ["a.wav", "b/ä.wav", "c.wav"]
    basics = {"member": None, "piece": 0, "offset": 0.0, "duration": 3.5, "status": "ok", "error": None}
    rows = [{"key": f"{name}#0", "id": name, "uri": f"/{name}", "num_frames": 175, **basics} for name in names]
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type)
        for field in RESULT_FIELDS
        if field.name != "segments"
    }
    columns["segments"] = ragged_intervals(TIMES, SEGMENTS)
    columns["segment_features"] = ragged_vectors([features_of(number) for number in range(3)], request.param, WIDTH)
    columns["units"] = ragged([found and np.array(found, np.int32) for found in UNITS], pa.int32())
    columns["mask"] = ragged([np.array([True, False])] * 3, pa.bool_())
    folder = write_output(str(tmp_path_factory.mktemp("table")), [(1, pa.table(columns))], {})
    settle(folder, 10)
    return folder


def check_rows(rows):
    assert [row["id"] for row in rows] == ["a.wav", "b/ä.wav", "c.wav"]
    for number, row in enumerate(rows):
        segments = [(segment["start"], segment["end"]) for segment in row["segments"]]
        assert segments == [tuple(times) for times in TIMES[number].tolist()]
        np.testing.assert_array_equal(np.reshape(row["segment_features"], (-1, WIDTH)), features_of(number))
        units = row["units"]
        assert (units if units is None else list(units)) == UNITS[number]


def test_datasets(output, tmp_path):
    datasets = needed("datasets")
    files = {"train": f"{output}/segments/*.parquet"}
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    check_rows(list(loaded))
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    check_rows(list(streamed))
    # As from a repository of the hub that holds the output.
    check_rows(list(datasets.load_dataset(output, data_dir="segments", split="train", cache_dir=str(tmp_path))))


def test_polars(output):
    polars = needed("polars")
    frame = polars.read_parquet(f"{output}/segments/*.parquet")
    check_rows(frame.to_dicts())
    flat = frame.explode("segments").unnest("segments")
    assert flat.select("start", "end").drop_nulls().rows() == [(0.0, 0.5), (0.5, 1.25), (2.5, 3.0)]


def test_duckdb(output):
    duckdb = needed("duckdb")
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT * FROM '{output}/segments/*.parquet' ORDER BY id")
        check_rows([dict(zip(found.columns, row, strict=True)) for row in found.fetchall()])
        flat = connection.sql(f"SELECT id, unnest(segments, recursive := true) FROM '{output}/segments/*.parquet'")
        assert flat.fetchall() == [("a.wav", 0.0, 0.5), ("a.wav", 0.5, 1.25), ("c.wav", 2.5, 3.0)]


def test_pandas(output):
    pandas = needed("pandas")
    frame = pandas.read_parquet(f"{output}/segments")
    check_rows([{**row, "segment_features": [*row["segment_features"]]} for row in frame.to_dict("records")])
