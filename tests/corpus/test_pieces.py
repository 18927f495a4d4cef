"""Recordings are cut without gap or overlap, and gathered into units of work."""

import itertools
import math
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_inputs import list_table, read, refusal, touch, write_audio, write_hf, write_manifest, write_tar

from sdhubert_ray.corpus import ManifestSummary, Selection, cut_pieces, list_input, split_units
from sdhubert_ray.corpus import write_manifest as write_manifest_file
from sdhubert_ray.output.tables import MANIFEST_FIELDS


def make_table(**columns):
    return pa.table(columns)


lengths = st.floats(0.01, 20_000)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.none() | st.floats(0, 5_000), lengths, st.booleans()), min_size=1, max_size=4),
    st.floats(20, 2_000),
)
def test_pieces_tile_their_files(files, piece_seconds):
    """A row reads [start, end), or from its start to the end of the file; its pieces read that once, in order."""
    starts = [start for start, _, _ in files]
    stops = [(start or 0.0) + length for start, length, _ in files]
    manifest = make_table(
        id=[f"file {row}" for row in range(len(files))],
        uri=["nowhere"] * len(files),
        start=pa.array(starts, pa.float64()),
        end=pa.array(
            [stop if with_end else None for stop, (_, _, with_end) in zip(stops, files, strict=True)], pa.float64()
        ),
        duration=stops,
        word=[f"word {row}" for row in range(len(files))],
    )
    pieces = cut_pieces(manifest, piece_seconds).to_pylist()
    assert [piece["id"] for piece in pieces] == sorted(piece["id"] for piece in pieces)
    for row, (start, _, with_end) in enumerate(files):
        of_file = [piece for piece in pieces if piece["id"] == f"file {row}"]
        length = stops[row] - (start or 0.0)
        assert [piece["piece"] for piece in of_file] == list(range(len(of_file)))
        assert {piece["num_pieces"] for piece in of_file} == {len(of_file)}
        assert [piece["key"] for piece in of_file] == [f"file {row}#{number}" for number in range(len(of_file))]
        assert {piece["word"] for piece in of_file} == {f"word {row}"}
        assert of_file[0]["start"] == (start or 0.0)
        assert of_file[-1]["end"] == (stops[row] if with_end else None)
        # Neighbours have to agree on their joint to the last bit.
        assert [piece["end"] for piece in of_file[:-1]] == [piece["start"] for piece in of_file[1:]]
        assert all(0 < piece["duration"] <= piece_seconds * (1 + 1e-9) for piece in of_file)
        assert math.fsum(piece["duration"] for piece in of_file) == pytest.approx(length)
        # No more pieces than needed.
        assert (len(of_file) - 1) * piece_seconds < length * (1 + 1e-9)


def test_a_length_that_the_manifest_tells_is_trusted(tmp_path):
    """No file of these is there: whoever probed them would find no length and cut nothing."""
    manifest = make_table(
        id=["a", "b", "c"],
        uri=[f"{tmp_path}/{name}" for name in "abc"],
        duration=pa.array([90.0, None, None], pa.float64()),
        end=pa.array([None, 100.0, None], pa.float64()),
    )
    pieces = cut_pieces(manifest, 30.0)
    assert pieces.column("key").to_pylist() == ["a#0", "a#1", "a#2", "b#0", "b#1", "b#2", "b#3", "c#0"]
    assert pieces.column("duration").to_pylist() == [30.0] * 3 + [25.0] * 4 + [None]


def test_a_part_behind_the_end_of_its_file_has_no_negative_length(tmp_path):
    """Whether the length was told or probed: the row is kept, and units of work can be summed up."""
    write_audio(tmp_path / "short.wav", 2.0)
    manifest = make_table(
        id=["told", "probed"],
        uri=["nowhere", str(tmp_path / "short.wav")],
        start=[8.0, 100.0],
        end=[9.0, 200.0],
        duration=pa.array([5.0, None]),
    )
    pieces = cut_pieces(manifest, 30.0)
    assert pieces.column("key").to_pylist()[0] == "told#0"
    assert set(pieces.column("id").to_pylist()) == {"told", "probed"}
    assert all(length is None or length >= 0 for length in pieces.column("duration").to_pylist())


def test_other_lengths_are_read_from_the_files(tmp_path):
    write_audio(tmp_path / "long.wav", 61.0)
    write_audio(tmp_path / "b" / "high.flac", 2.5, 44_100)
    write_audio(tmp_path / "told.wav", 1.0)
    manifest = write_manifest(
        tmp_path,
        [
            {"id": "long", "uri": "long.wav", "start": None, "duration": None},
            {"id": "high", "uri": "b/high.flac", "start": 0.5, "duration": None},
            {"id": "told", "uri": "told.wav", "start": None, "duration": 70.0},
        ],
    )
    pieces = cut_pieces(list_table(manifest), 30.0)
    assert pieces.column("key").to_pylist() == ["long#0", "long#1", "long#2", "high#0", "told#0", "told#1", "told#2"]
    assert pieces.column("duration").to_pylist() == pytest.approx([61 / 3] * 3 + [2.0] + [70 / 3] * 3)


def test_what_cannot_be_probed_stays_one_row(tmp_path):
    touch(tmp_path, "empty.wav", "folder.wav/x")
    (tmp_path / "text.wav").write_text("no audio at all" * 100)
    names = ["empty.wav", "text.wav", "missing.wav", "folder.wav"]
    uris = [f"{tmp_path}/{name}" for name in names]
    pieces = cut_pieces(make_table(id=names, uri=uris), 30.0)
    assert pieces.column("key").to_pylist() == [f"{name}#0" for name in names]
    assert pieces.column("uri").to_pylist() == uris
    assert pieces.column("duration").to_pylist() == [None] * 4
    assert pieces.column("start").to_pylist() == [0.0] * 4
    assert pieces.column("end").to_pylist() == [None] * 4


@pytest.mark.parametrize("uri", ["nosuch://bucket/x.wav", "a\0b.wav", "x" * 5000])
def test_a_uri_that_cannot_be_opened_does_not_stop_the_others(uri):
    pieces = cut_pieces(make_table(id=["bad", "good"], uri=[uri, "y"], duration=pa.array([None, 5.0])), 30.0)
    assert pieces.column("key").to_pylist() == ["bad#0", "good#0"]


def test_the_schema_does_not_depend_on_the_rows(tmp_path):
    known = cut_pieces(make_table(id=["a"], uri=["x"], duration=[5.0], channel=pa.array([1], pa.int32())), 30.0)
    unknown = cut_pieces(make_table(id=["a"], uri=[f"{tmp_path}/x"]), 30.0)
    assert known.schema == unknown.schema == pa.schema(list(MANIFEST_FIELDS))
    assert known.column("channel").to_pylist() == [1]


# -- units of work


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.none() | st.floats(0, 1_000), max_size=30),
    st.floats(1, 2_000),
    st.integers(1, 10),
)
def test_units_hold_every_row_once_in_order_and_are_as_full_as_may_be(durations, unit_seconds, unit_rows):
    manifest = pa.table(
        {"key": [str(row) for row in range(len(durations))], "duration": pa.array(durations, pa.float64())}
    )
    units = list(split_units(iter([manifest]), lambda *_: unit_seconds, unit_rows))
    assert [key for unit in units for key in unit.column("key").to_pylist()] == manifest.column("key").to_pylist()
    begin = 0
    for unit in units:
        rows = unit.num_rows
        assert 1 <= rows <= unit_rows
        taken = [duration or 0.0 for duration in durations[begin : begin + rows]]
        assert rows == 1 or sum(taken) <= unit_seconds
        begin += rows
        if begin < len(durations):
            assert rows == unit_rows or sum(taken) + (durations[begin] or 0.0) > unit_seconds


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(["file", "x", "y", "z"]), st.lists(st.none() | st.floats(0, 500), max_size=9))),
    st.floats(1, 2_000),
    st.integers(1, 10),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_rows_of_a_shard_stay_together(runs, unit_seconds, unit_rows, where_cut):
    """Every row once, in order, within the limits; parts of a shard lie in one unit where they fit."""
    rows = [(shard, duration) for shard, durations in runs for duration in durations]
    manifest = pa.table(
        {
            "key": [str(row) for row in range(len(rows))],
            "uri": pa.array([shard for shard, _ in rows], pa.string()),
            "member": pa.array([None if shard == "file" else "m" for shard, _ in rows], pa.string()),
            "duration": pa.array([duration for _, duration in rows], pa.float64()),
        }
    )
    bounds = [0, *sorted(min(cut, len(rows)) for cut in where_cut), len(rows)]
    batches = [manifest.slice(begin, end - begin) for begin, end in itertools.pairwise(bounds)]
    units = [unit.column("key").to_pylist() for unit in split_units(iter(batches), lambda *_: unit_seconds, unit_rows)]
    assert [key for unit in units for key in unit] == manifest.column("key").to_pylist()
    unit_of = {int(key): number for number, unit in enumerate(units) for key in unit}
    for unit in units:
        assert 1 <= len(unit) <= unit_rows
        assert len(unit) == 1 or sum(rows[int(key)][1] or 0.0 for key in unit) <= unit_seconds * (1 + 1e-9)
    # The parts that a shard has to be cut into, from its first row on.
    begin = 0
    for shard, members in itertools.groupby(range(len(rows)), key=lambda row: rows[row][0]):
        part, seconds = [], 0.0
        for row in members:
            length = rows[row][1] or 0.0
            if part and (shard == "file" or len(part) == unit_rows or seconds + length > unit_seconds):
                assert len({unit_of[member] for member in part}) == 1
                part, seconds = [], 0.0
            part.append(row)
            seconds += length
            begin += 1
        assert len({unit_of[member] for member in part}) == 1
    assert begin == len(rows)
    # No unit ends before it has to: what follows does not fit.
    for one, two in itertools.pairwise(units):
        whole = [*one, *two]
        if all(rows[int(key)][0] == "file" for key in whole):
            first_of_next = rows[int(two[0])][1] or 0.0
            held = sum(rows[int(key)][1] or 0.0 for key in one)
            assert len(one) == unit_rows or held + first_of_next > unit_seconds * (1 - 1e-9)


def test_units_do_not_hold_what_is_behind_them():
    """Rows leave as soon as their unit is full: the stream is never held whole."""
    taken = 0

    def batches():
        nonlocal taken
        for begin in range(0, 100_000, 1_000):
            taken += 1_000
            yield pa.table({"key": [str(row) for row in range(begin, begin + 1_000)], "duration": [1.0] * 1_000})

    given_out = 0
    for unit in split_units(batches(), lambda *_: 400.0, 10_000):
        given_out += unit.num_rows
        assert taken <= given_out + 2_000
    assert given_out == 100_000


# -- members are probed as files are


def test_members_of_shards_are_probed(tmp_path):
    for number, seconds in enumerate((70.0, 2.5)):
        write_audio(tmp_path / f"{number}.wav", seconds)
    audio = [(f"{number}.wav", (tmp_path / f"{number}.wav").read_bytes()) for number in (0, 1)]
    write_tar(tmp_path / "tar" / "x.tar", [*audio, ("broken.wav", b"no audio at all" * 100)])
    write_hf(tmp_path / "hf" / "x.parquet", [(data, name) for name, data in audio] + [(None, None)])
    for folder, broken in (("tar", "x/broken.wav"), ("hf", "x/2")):
        pieces = cut_pieces(list_table(tmp_path / folder), 30.0)
        assert pieces.column("duration").to_pylist() == [pytest.approx(70 / 3)] * 3 + [2.5, None]
        assert pieces.column("num_pieces").to_pylist() == [3, 3, 3, 1, 1]
        assert pieces.column("key").to_pylist()[-1] == f"{broken}#0"
        assert pieces.column("member").null_count == 0


# -- manifests of pieces


def test_a_manifest_is_written_and_read_again(tmp_path):
    write_audio(tmp_path / "audio" / "long.wav", 61.0)
    write_audio(tmp_path / "audio" / "sub" / "short.wav", 1.5)
    touch(tmp_path / "audio", "broken.wav", "notes.txt")
    target = str(tmp_path / "new" / "m.parquet")
    summary = write_manifest_file(list_input(str(tmp_path / "audio")), target, 30.0)
    assert summary == ManifestSummary(num_recordings=3, num_rows=5, seconds=pytest.approx(62.5), ignored=1)
    listing = list_input(target)
    assert listing.piece_seconds == 30.0
    table = read(listing)
    assert table.schema == pa.schema(list(MANIFEST_FIELDS))
    expected = cut_pieces(list_table(tmp_path / "audio"), 30.0)
    assert table.equals(expected)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.parquet"]


def test_row_groups_are_of_some_thousand_rows(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("uri,duration,lang\n" + "".join(f"{row}.wav,2.0,de\n" for row in range(25_000)))
    write_manifest_file(list_input(str(path)), str(tmp_path / "m.parquet"), 30.0)
    metadata = pq.ParquetFile(tmp_path / "m.parquet").metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(sizes) == 25_000
    assert all(5_000 <= size <= 15_000 for size in sizes[:-1])


def test_a_manifest_of_pieces_keeps_its_pieces(tmp_path):
    path = write_manifest(tmp_path, [{"id": str(row), "uri": "x.wav", "duration": 100.0} for row in range(4)])
    write_manifest_file(list_input(path), str(tmp_path / "a.parquet"), 30.0)
    listing = list_input(str(tmp_path / "a.parquet"), Selection(where=("id=2",)))
    write_manifest_file(listing, str(tmp_path / "b.parquet"), 30.0)
    assert list_table(tmp_path / "b.parquet").column("key").to_pylist() == [f"2#{piece}" for piece in range(4)]
    message = refusal(write_manifest_file, list_input(str(tmp_path / "a.parquet")), str(tmp_path / "c.parquet"), 60.0)
    assert "30 s" in message
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize("name", ["m.csv", "m", "m.parquet/"])
def test_a_manifest_of_another_name_is_refused(tmp_path, name):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "x.wav", "duration": 1.0}])
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    assert "m" in refusal(write_manifest_file, list_input(path), f"{tmp_path}/{name}", 30.0)
    assert {found.name for found in tmp_path.iterdir()} <= {"manifest.jsonl", "m.parquet"}


def test_nothing_is_left_of_a_manifest_that_fails(tmp_path):
    """The rows that cannot be used come after row groups that were written."""
    ids = [str(row) for row in range(30_000)]
    ids[-1] = "0"
    columns = {"id": ids, "uri": [f"{name}.wav" for name in ids], "duration": [1.0] * 30_000}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    assert "stands twice" in refusal(
        write_manifest_file, list_input(str(tmp_path / "in.parquet")), str(tmp_path / "out.parquet"), 30.0
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_manifest_on_a_store(tmp_path):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "x.wav", "duration": 100.0}])
    target = f"memory://{uuid.uuid4().hex}/m.parquet"
    write_manifest_file(list_input(path), target, 30.0)
    assert list_table(target).column("uri").to_pylist() == [f"{tmp_path}/x.wav"] * 4
