"""Ragged Arrow columns: what goes in comes out, on every way that a column travels."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdhubert_ray.output.tables import (
    RESULT_FIELDS,
    SEGMENTS,
    SPANS,
    ragged,
    ragged_intervals,
    ragged_vectors,
    read_intervals,
    read_ragged,
    read_vectors,
    vectors_type,
)

VALUE_TYPES = {np.float32: pa.float32(), np.float16: pa.float16(), np.bool_: pa.bool_(), np.int32: pa.int32()}


def rows_of(dtype, tail=(), elements=None):
    """Strategy for lists of (n, *tail) arrays, n from 0 up, some of them None."""
    arrays = st.integers(0, 4).flatmap(lambda n: hnp.arrays(dtype, (n, *tail), elements=elements))
    return st.lists(st.none() | arrays, max_size=6)


def through_parquet(column):
    file = io.BytesIO()
    pq.write_table(pa.table({"column": column}), file)
    return pq.read_table(file).column("column")


def through_ipc(column):
    table = pa.table({"column": column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return pa.ipc.open_stream(sink.getvalue()).read_all().column("column")


def backwards(array):
    return array.take(pa.array(range(len(array) - 1, -1, -1), pa.int64()))


def over_sliced_values(array):
    """The same lists, over values that are a slice: their own offset is not zero."""
    values = array.values
    longer = pa.concat_arrays([backwards(values), values, values])
    nulls = pa.array([not row.is_valid for row in array], pa.bool_())
    return pa.ListArray.from_arrays(array.offsets, longer.slice(len(values), len(values)), array.type, mask=nulls)


def journeys(array):
    """The ways on which a column of these values reaches a reader."""
    whole = pa.chunked_array([array])
    rows = len(array)
    yield "as made", whole
    yield "as one chunk per row", pa.chunked_array([array.slice(row, 1) for row in range(rows)], type=array.type)
    around = pa.concat_arrays([backwards(array), array, array])
    yield "as the middle of a longer array", pa.chunked_array([around.slice(rows, rows)])
    yield "with values that begin inside a longer array", pa.chunked_array([over_sliced_values(array)])
    yield "taken backwards, twice", pa.chunked_array([backwards(backwards(array))])
    yield "through Parquet", through_parquet(whole)
    yield "through Parquet, a slice", through_parquet(pa.chunked_array([around])).slice(rows, rows)
    yield "through IPC in batches of two rows", through_ipc(whole)


def assert_same(found, expected, way):
    assert len(found) == len(expected), way
    for got, wanted in zip(found, expected, strict=True):
        if wanted is None:
            assert got is None, way
        else:
            assert got is not None, way
            assert got.dtype == wanted.dtype, way
            np.testing.assert_array_equal(got, wanted, err_msg=way)  # compares shapes, too


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(list(VALUE_TYPES)).flatmap(lambda dtype: st.tuples(st.just(dtype), rows_of(dtype))))
def test_ragged_round_trip(case):
    dtype, arrays = case
    column = ragged(arrays, VALUE_TYPES[dtype])
    assert column.type == pa.list_(VALUE_TYPES[dtype])
    for way, travelled in journeys(column):
        assert_same(read_ragged(travelled), arrays, way)


@st.composite
def vectors(draw):
    dtype, width = draw(st.sampled_from([np.float32, np.float16])), draw(st.integers(1, 3))
    return dtype, width, draw(rows_of(dtype, (width,)))


@settings(deadline=None, max_examples=40)
@given(vectors())
def test_vectors_round_trip(case):
    dtype, width, arrays = case
    column = ragged_vectors(arrays, dtype, width)
    assert column.type == vectors_type(dtype, width)
    for way, travelled in journeys(column):
        assert_same(read_vectors(travelled), arrays, way)


seconds = st.floats(-1e6, 1e6)


@settings(deadline=None, max_examples=30)
@given(rows_of(np.float64, (2,), seconds))
def test_segments_round_trip(arrays):
    column = ragged_intervals(arrays, SEGMENTS)
    assert column.type == SEGMENTS
    for way, travelled in journeys(column):
        assert_same(read_intervals(travelled), arrays, way)


@settings(deadline=None, max_examples=30)
@given(rows_of(np.int64, (2,), st.integers(0, 2**31 - 1)))
def test_spans_round_trip(arrays):
    column = ragged_intervals(arrays, SPANS)
    assert column.type == SPANS
    expected = [None if array is None else array.astype(np.int32) for array in arrays]
    for way, travelled in journeys(column):
        assert_same(read_intervals(travelled), expected, way)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_null_columns_keep_their_types(count):
    nothing = [None] * count
    assert ragged(nothing, pa.bool_()).type == pa.list_(pa.bool_())
    assert ragged_vectors(nothing, np.float16, 7).type == vectors_type(np.float16, 7)
    assert ragged_intervals(nothing, SEGMENTS).type == SEGMENTS
    assert read_vectors(pa.chunked_array([ragged_vectors(nothing, np.float16, 7)])) == nothing


def test_null_and_empty_are_different():
    column = through_parquet(pa.chunked_array([ragged([None, np.zeros(0, np.float32)], pa.float32())]))
    assert column.to_pylist() == [None, []]


def test_a_column_without_chunks_has_no_rows():
    assert read_ragged(pa.chunked_array([], type=pa.list_(pa.float32()))) == []
    assert read_vectors(pa.chunked_array([], type=vectors_type(np.float32, 3))) == []
    assert read_intervals(pa.chunked_array([], type=SEGMENTS)) == []


def test_inputs_may_be_read_only_and_not_contiguous():
    whole = np.arange(48, dtype=np.float32).reshape(6, 8)
    whole.flags.writeable = False
    before = whole.copy()
    every_other = whole[::2, ::4]  # (3, 2), strided in both axes
    assert_same(read_vectors(pa.chunked_array([ragged_vectors([every_other], np.float32, 2)])), [every_other], "")
    assert_same(read_ragged(pa.chunked_array([ragged([whole[::2, 0]], pa.float32())])), [whole[::2, 0]], "")
    as_seconds = every_other.astype(np.float64)
    as_seconds.flags.writeable = False
    assert_same(
        read_intervals(pa.chunked_array([ragged_intervals([as_seconds[::-1]], SEGMENTS)])), [as_seconds[::-1]], ""
    )
    np.testing.assert_array_equal(whole, before)


def test_what_is_read_cannot_change_the_table():
    """Readers hand out views of Arrow's memory, which others share: they have to be read-only."""
    column = pa.chunked_array([ragged([np.ones(3, np.float32)], pa.float32())])
    array = read_ragged(column)[0]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5


def test_vectors_of_another_width_are_refused():
    """Twelve numbers are two vectors of six as well as three of four: a silent mix-up would be read as nonsense."""
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        ragged_vectors([np.zeros((3, 4), np.float32)], np.float32, 6)


def test_halving_rounds_as_numpy_does():
    values = np.array([[1.0001, 65504.0, 6e-8]], np.float32)
    read = read_vectors(pa.chunked_array([ragged_vectors([values], np.float16, 3)]))[0]
    np.testing.assert_array_equal(read, values.astype(np.float16))


def leaf_types(kind):
    yield kind
    for index in range(kind.num_fields):
        yield from leaf_types(kind.field(index).type)


def test_tables_are_plain_arrow_and_pandas_reads_them(tmp_path):
    features = [np.arange(6, dtype=np.float16).reshape(2, 3), None]
    table = pa.table(
        {
            "segments": ragged_intervals([np.array([[0.02, 0.1], [0.1, 0.3]]), np.zeros((0, 2))], SEGMENTS),
            "spans": ragged_intervals([np.array([[1, 15]]), None], SPANS),
            "segment_features": ragged_vectors(features, np.float16, 3),
            "mask": ragged([np.array([True, False]), None], pa.bool_()),
        }
    )
    for field in [*table.schema, *RESULT_FIELDS]:
        for kind in leaf_types(field.type):
            assert not isinstance(kind, pa.BaseExtensionType), field
            assert not pa.types.is_null(kind), field
    pq.write_table(table, tmp_path / "table.parquet")
    frame = pd.read_parquet(tmp_path / "table.parquet")
    assert [dict(segment) for segment in frame.segments[0]] == [
        {"start": 0.02, "end": 0.1},
        {"start": 0.1, "end": 0.3},
    ]
    assert len(frame.segments[1]) == 0
    np.testing.assert_array_equal(np.stack(frame.segment_features[0]), features[0])
    assert frame.segment_features[1] is None
    assert frame["mask"][0].tolist() == [True, False]
