"""Recordings read back from an output, their pieces joined."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import WIDTH, make_row, make_run, make_table, refusal

from sdhubert_ray.output import (
    join_pieces,
    read_files,
    read_segments,
    worst_status,
)
from sdhubert_ray.output.tables import (
    FAILED_STATUSES,
    STATUSES,
)

# -- reading back


def test_there_has_to_be_a_run(tmp_path):
    assert "holds no run" in refusal(lambda: list(read_segments(str(tmp_path))))
    assert "holds no run" in refusal(lambda: list(read_files(str(tmp_path / "nowhere"), ["id"])))


def test_there_is_one_row_per_key_and_the_latest_run_wins(tmp_path):
    output = make_run(
        tmp_path,
        (1, [make_row("a#0", status="failed", error="no network"), make_row("b#0", [[0.0, 0.1]])]),
        (2, [make_row("c#0"), make_row("a#0", [[0.2, 0.4]])]),
        (3, [make_row("d#0", status="silent")]),
        (4, [make_row("d#0", [[0.5, 0.6]])]),
    )
    results = {result.id: result for result in read_segments(output)}
    assert sorted(results) == ["a", "b", "c", "d"]
    assert {name: (result.status, result.error, result.segments.tolist()) for name, result in results.items()} == {
        "a": ("ok", None, [[0.2, 0.4]]),
        "b": ("ok", None, [[0.0, 0.1]]),
        "c": ("ok", None, []),
        "d": ("ok", None, [[0.5, 0.6]]),
    }
    assert sum(1 for _ in read_segments(output)) == 4


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_pieces_are_joined_in_order_wherever_they_were_committed(tmp_path_factory, data):
    """Pieces stand in one commit or in several; some are committed again by a later plan, which then counts."""
    counts = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    keys = [f"file {number}.wav#{piece}" for number, count in enumerate(counts) for piece in range(count)]
    parts = data.draw(st.integers(1, 4))
    again = data.draw(st.lists(st.sampled_from(keys), unique=True))
    latest = {**dict.fromkeys(keys, 1), **dict.fromkeys(again, 2)}
    # Within a plan rows stand in the order of their recordings; what is done again is in any order.
    size = -(-len(keys) // parts)
    commits = [*((1, keys[begin : begin + size]) for begin in range(0, len(keys), size)), (2, again)]
    made = []
    for run, some in commits:
        rows = []
        for key in some:
            begin = float(key.rpartition("#")[2])
            rows.append(make_row(key, [[begin, begin + 0.1 * run], [begin + 0.5, begin + 0.6]]))
        if rows:
            made.append((run, rows))
    output = make_run(tmp_path_factory.mktemp("run"), *made)
    results = {result.id: result for result in read_segments(output)}
    assert len(results) == len(counts)
    for number, count in enumerate(counts):
        result = results[f"file {number}.wav"]
        expected = []
        for piece in range(count):
            run = latest[f"file {number}.wav#{piece}"]
            expected += [[piece, piece + 0.1 * run], [piece + 0.5, piece + 0.6]]
        np.testing.assert_array_equal(result.segments, expected)
        np.testing.assert_array_equal(
            result.segment_features, np.c_[expected, np.sum(expected, axis=1)].astype(np.float32)
        )
        assert result.duration == count
        assert result.num_frames == 50 * count
        assert result.status == "ok"
    # Read part by part it is the same, but that a recording that was tried again may come more than once.
    cuts = sorted(data.draw(st.lists(st.integers(0, len(made)), max_size=3)))
    parts = [range(*ends) for ends in itertools.pairwise([0, *cuts, len(made)])]
    tables = [table for part in parts for table in read_files(output, ["key", "segments"], within=part)]
    whole = {table["id"][0].as_py(): table for table in read_files(output, ["key", "segments"])}
    assert all(table.equals(whole[table["id"][0].as_py()]) for table in tables)
    retried = {key.partition("#")[0] for key in again}
    read = [table["id"][0].as_py() for table in tables]
    assert set(read) == whole.keys()
    assert [name for name in read if name not in retried] == [name for name in whole if name not in retried]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_features_keep_their_type(dtype):
    rows = [make_row("a#0", [[0.0, 0.1], [0.2, 0.3]]), make_row("a#1"), make_row("a#2", [[2.0, 2.1]])]
    result = join_pieces(make_table(rows, dtype))
    assert result.segment_features.dtype == dtype
    assert result.segment_features.shape == (3, WIDTH)
    assert result.segments.dtype == np.float64
    np.testing.assert_array_equal(result.segment_features[:, 1], np.array([0.1, 0.3, 2.1], dtype))
    assert result.units is None


def test_a_recording_without_syllables_has_empty_arrays():
    result = join_pieces(make_table([make_row("a#0", status="silent")]))
    assert result.segments.shape == (0, 2)
    assert result.segment_features.shape == (0, WIDTH)


def test_features_that_were_not_kept_are_none():
    assert join_pieces(make_table([make_row("a#0", [[0.0, 0.1]])], with_features=False)).segment_features is None


def test_units_are_joined():
    table = make_table([make_row("a#0", [[0.0, 0.1], [0.2, 0.3]]), make_row("a#1", [[1.0, 1.1]])])
    units = pa.array([[7, 8], [9]], pa.list_(pa.int32()))
    result = join_pieces(table.set_column(table.column_names.index("units"), "units", units))
    np.testing.assert_array_equal(result.units, [7, 8, 9])


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["ok", "silent"], "ok"),
        (["silent", "too_short"], "silent"),
        (["too_short", "too_short"], "too_short"),
        (["ok", "truncated"], "truncated"),
        (["truncated", "unreadable", "ok"], "unreadable"),
        (["ok", "missing"], "missing"),
        (["failed", "ok"], "failed"),
    ],
)
def test_the_status_of_a_recording(pieces, expected):
    for order in itertools.permutations(pieces):
        rows = [
            make_row(
                f"a#{piece}", status=status, error=None if status in ("ok", "silent", "too_short") else f"is {status}"
            )
            for piece, status in enumerate(order)
        ]
        result = join_pieces(make_table(rows))
        assert result.status == expected
        assert result.error == (f"is {expected}" if expected not in ("ok", "silent", "too_short") else None)


@given(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=5))
def test_a_recording_failed_if_and_only_if_a_piece_of_it_did(statuses):
    joined = worst_status(statuses)
    assert joined in statuses
    assert (joined in FAILED_STATUSES) == any(status in FAILED_STATUSES for status in statuses)
    assert joined == worst_status(statuses[::-1])


def test_frames_count_from_the_start_of_the_recording_to_its_last_frame():
    """A piece may lack its last frame, so that there is a frame between two pieces that neither has."""
    rows = [
        make_row("a#0", offset=3.0, duration=1.01, num_frames=50),
        make_row("a#1", offset=4.02, duration=0.5, num_frames=25),
    ]
    assert join_pieces(make_table(rows)).num_frames == 51 + 25


def test_a_piece_without_frames_adds_none():
    """The length that a manifest tells may be too long: then the last piece is found empty, far behind the end."""
    rows = [
        make_row("a#0", duration=2.0, num_frames=100),
        make_row("a#1", offset=895.0, duration=0.0, num_frames=0, status="too_short"),
    ]
    assert join_pieces(make_table(rows)).num_frames == 100
