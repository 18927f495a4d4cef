"""How the files of a table are written: values come back to the bit, features take no more than they must."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdhubert_ray.output.parquet import to_parquet


def encodings(data):
    """The encodings of each column, as Parquet names it."""
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    return {(column := group.column(index)).path_in_schema: column.encodings for index in range(group.num_columns)}


@pytest.fixture
def table():
    """What a table of segments may carry, and more."""
    draw = np.random.default_rng(0)
    features = draw.standard_normal((3, 40), np.float32)
    return pa.table(
        {
            "id": ["a", "b", "a"],
            "segment_features": pa.array(
                [[row.tolist(), row.tolist()] for row in features], pa.list_(pa.list_(pa.float32(), 40))
            ),
            "frame_features": pa.array([row.astype(np.float16) for row in features], pa.large_list(pa.float16())),
            "segments": pa.array(
                [[{"start": 0.0, "end": 0.5}], None, []],
                pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64())])),
            ),
            "tags": pa.array([[("x", 1.5)], [], None], pa.map_(pa.string(), pa.float32())),
            "level": pa.array([1.0, None, np.nan], pa.float32()),
        }
    )


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_features_are_in_no_dictionary(table, compression):
    found = encodings(to_parquet([table, table], compression))
    for path in ("segment_features.list.element.list.element", "tags.key_value.value", "level"):
        assert "BYTE_STREAM_SPLIT" in found[path]
        assert not any("DICTIONARY" in encoding for encoding in found[path])
    assert not any("DICTIONARY" in encoding for encoding in found["frame_features.list.element"])
    for path in ("id", "segments.list.element.start", "tags.key_value.key"):
        assert "RLE_DICTIONARY" in found[path]


def test_every_value_comes_back(table):
    back = pq.read_table(io.BytesIO(to_parquet([table, table.slice(1)], "zstd")))
    wanted = pa.concat_tables([table, table.slice(1)])
    assert back.schema.equals(wanted.schema)
    for name in wanted.column_names:  # Arrow's own comparison has no NaN equal to itself
        assert repr(back.column(name).to_pylist()) == repr(wanted.column(name).to_pylist())
