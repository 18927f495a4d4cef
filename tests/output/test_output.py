"""The output folder: whose it is, what is committed in it, and how recordings are read back from it."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import commits_in, keys_in, write_output

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    OutputOptions,
    clear_output,
    commit_name,
    fingerprint,
    join_pieces,
    open_output,
    read_commit,
    read_contents,
    read_files,
    read_run,
    read_segments,
    require_contents,
    unit_name,
    worst_status,
    write_commit,
    write_run,
)
from sdhubert_ray.output.tables import (
    FAILED_STATUSES,
    RESULT_FIELDS,
    SEGMENTS,
    STATUSES,
    ragged_intervals,
    ragged_vectors,
)

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


def commit(output, rows, compression="zstd"):
    """Commit rows as unit 0 of a plan; its file's name."""
    unit = unit_name("00003-0123456789ab", 0)
    write_commit(str(output), unit, make_table(rows), compression)
    return commit_name(unit)


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- fingerprint


def test_a_fingerprint_is_flat_and_survives_json():
    flat = fingerprint({"a": 1, "b": {"c": None, "d": {"e": [1, 2]}}, "f": "x", "g": 0.1, "h": True})
    assert set(flat) == {"a", "b.c", "b.d.e", "f", "g", "h"}
    assert all(isinstance(text, str) for text in flat.values())
    assert json.loads(json.dumps(flat)) == flat
    assert json.loads(flat["g"]) == 0.1


leaves = st.sampled_from([None, True, 0, 1, 1.0, 0.1, "1", "", "none"])
mappings = st.dictionaries(st.sampled_from("abc"), leaves | st.dictionaries(st.sampled_from("abc"), leaves, min_size=1))


def flatten(values, prefix=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), type(value), value


@settings(deadline=None, max_examples=100)
@given(mappings, mappings)
def test_fingerprints_are_equal_only_where_values_are(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (set(flatten(one)) == set(flatten(other)))
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))


# -- whose output it is


def test_a_new_output_is_open(tmp_path):
    wanted = {"a": "1"}
    assert open_output(str(tmp_path / "new"), wanted, False) is None
    assert open_output(str(tmp_path), wanted, False) is None
    assert not (tmp_path / "new").exists()


def test_an_output_of_the_same_configuration_is_resumed(tmp_path):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), fingerprint_values={"a": "1", "b": "2"})
    contents = open_output(output, {"b": "2", "a": "1"}, False)
    assert (contents.record["fingerprint"], contents.pending) == ({"a": "1", "b": "2"}, [])
    assert keys_in(output) == {"a#0"}


def test_an_output_of_another_configuration_is_refused_naming_the_keys(tmp_path):
    before = {"speech.normcut_threshold": "0.1", "dtype": '"float32"', "gone": "7"}
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), fingerprint_values=before)
    now = {"speech.normcut_threshold": "0.2", "dtype": '"float32"', "fresh": "8"}
    message = refusal(open_output, output, now, False)
    for part in (output, "speech.normcut_threshold", "0.1", "0.2", "gone", "7", "fresh", "8", "--overwrite"):
        assert part in message
    assert "dtype" not in message
    assert keys_in(output) == {"a#0"}


def test_overwriting_removes_what_the_earlier_run_left_and_nothing_else(tmp_path):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), (2, [make_row("b#0")]))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert open_output(output, {"seed": "2"}, True) is not None
    assert keys_in(output) == {"a#0", "b#0"}  # to look is not to touch
    clear_output(output)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"notes.txt", "run.json"}
    assert require_contents(output).is_half_removed  # until another run has written its own record
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    clear_output(output)  # nothing there is nothing to do


@pytest.mark.parametrize("content", [None, "damaged"])
def test_what_no_record_tells_of_is_not_removed(tmp_path, content):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]))
    if content is None:
        (tmp_path / "out" / "run.json").unlink()
    else:
        (tmp_path / "out" / "run.json").write_text(content)
    for overwrite in (False, True):
        message = refusal(open_output, output, {}, overwrite)
        assert "choose another output" in message
        assert "--overwrite" not in message
    assert keys_in(output) == {"a#0"}


@pytest.mark.parametrize("name", ["segments/part-0.parquet", "segments/notes.txt", "commits/a.wav", "manifest/a"])
def test_foreign_places_are_refused_and_left_alone(tmp_path, name):
    foreign = tmp_path / "foreign" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    for overwrite in (False, True):
        message = refusal(open_output, str(tmp_path / "foreign"), {}, overwrite)
        assert name in message
        assert "--overwrite" not in message
    assert foreign.read_text() == "mine"


def test_a_file_is_no_output(tmp_path):
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        assert "file is a file" in refusal(open_output, str(tmp_path / "file"), {}, overwrite)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["segments/part-0.parquet", "segments/00002-0123456789ab-0000000-0000000.parquet"])
def test_a_parquet_file_that_no_plan_knows_may_not_lie_in_the_table(tmp_path, name):
    """Whoever reads the folder would take its rows for ours."""
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]))
    (tmp_path / "out" / "segments").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    for overwrite in (False, True):
        assert name in refusal(open_output, output, {"seed": "1"}, overwrite)


def test_a_plan_that_is_gone_is_named(tmp_path):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), (2, [make_row("b#0")]))
    manifest = tmp_path / "out" / "manifest"
    for missing in ("00002.json", "00001.json", "00001-0123456789ab-00000.parquet"):
        (manifest / missing).rename(tmp_path / missing)
        for call in (read_contents, require_contents, lambda name: list(read_segments(name))):
            assert f"manifest/{missing} is missing" in refusal(call, output)
        for overwrite in (False, True):
            assert f"manifest/{missing} is missing" in refusal(open_output, output, {"seed": "1"}, overwrite)
        (tmp_path / missing).rename(manifest / missing)
    assert {result.id for result in read_segments(output)} == {"a", "b"}


def test_an_overwrite_that_was_cut_short_is_gone_on_with(tmp_path, monkeypatch):
    """Killed at any of its steps: a run that is asked to overwrite can, another is told so."""

    class KilledError(BaseException):
        pass

    foreign = tmp_path / "out" / "segments" / "notes.txt"
    for steps in range(20):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        output = make_run(tmp_path / "out", (1, [make_row("a#0")]), (2, [make_row("b#0")]))
        foreign.parent.mkdir()
        foreign.write_text("mine")
        left = itertools.count(-steps)

        def removed(uris, left=left):
            for uri in uris:
                if next(left) == 0:
                    raise KilledError
                Path(uri).unlink(missing_ok=True)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "remove_files", removed)
            try:
                clear_output(output)
            except KilledError:
                assert "half removed" in refusal(open_output, output, {"seed": "1"}, False)
            else:
                break
        assert open_output(output, {"seed": "1"}, True) is not None
        clear_output(output)
        left = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert left == {foreign, tmp_path / "out" / "run.json"}
    else:
        raise AssertionError("it never ended")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"fingerprint": {}}',
        '{"fingerprint": [], "runs": 1}',
        '{"fingerprint": {}, "runs": "x"}',
        "\xff",
    ],
)
def test_a_damaged_run_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    for call in (lambda: read_run(str(tmp_path)), lambda: open_output(str(tmp_path), {}, False)):
        assert f"{tmp_path}/run.json" in refusal(call)


def test_a_folder_in_place_of_the_run_record_is_refused(tmp_path):
    (tmp_path / "run.json").mkdir()
    assert "run.json" in refusal(open_output, str(tmp_path), {}, False)


# -- commits


def test_a_unit_that_is_done_again_replaces_its_own_file(tmp_path):
    rows = [make_row("a#0"), make_row("b#0")]
    name = commit(tmp_path, rows)
    assert commit(tmp_path, [{**row, "status": "silent"} for row in rows]) == name
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")] == [name]
    assert read_commit(str(tmp_path), name, ["status"]).column("status").to_pylist() == ["silent", "silent"]


@pytest.mark.parametrize("compression", ["zstd", "snappy", "lz4", "gzip", "none"])
def test_a_committed_table_is_read_back(tmp_path, compression):
    table = make_table([make_row("a#0", [[0.0, 0.5]]), make_row("b#0")], np.float16)
    write_commit(str(tmp_path), "unit", table, OutputOptions(compression=compression).compression)
    assert read_commit(str(tmp_path), "commits/unit.parquet", [*table.column_names, "no such column"]).equals(table)


def test_an_output_in_an_object_store_works_alike(tmp_path):
    output = make_run("memory://bucket/of/an/output", (1, [make_row("a#0", [[0.0, 0.5]])]))
    assert keys_in(output) == {"a#0"}
    assert [result.id for result in read_segments(output)] == ["a"]
    assert open_output(output, {"seed": "1"}, False).record == read_run(output)
    clear_output(output)
    assert storage.list_files(output) == ["run.json"]


def test_a_half_written_file_is_no_commit(tmp_path):
    output = make_run(tmp_path, (1, [make_row("a#0")]))
    (tmp_path / "commits" / f".{'0' * 32}.partial").write_bytes(b"half")
    assert keys_in(output) == {"a#0"}


def test_a_folder_without_commits_has_no_keys(tmp_path):
    assert commits_in(tmp_path) == commits_in(tmp_path / "nowhere") == []


def test_what_is_of_no_plan_does_not_count(tmp_path):
    """A worker of a run that was overwritten commits late: its plan has another name, or had more units."""
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]))
    rows = make_table([make_row("late#0")])
    for plan, unit in (("00001-ba9876543210", 0), ("00001-0123456789ab", 1), ("00001", 0), ("00002-0123456789ab", 0)):
        write_commit(output, unit_name(plan, unit), rows, "zstd")
    assert keys_in(output) == {"a#0"}
    assert [result.id for result in read_segments(output)] == ["a"]
    assert require_contents(output).pending == []


def test_a_damaged_commit_is_named(tmp_path):
    """Whatever bit is turned: the file is refused by its name, or read; no other error comes through."""
    table = make_table([make_row(f"{number}#0", [[0.0, number / 7]]) for number in range(40)])
    write_commit(str(tmp_path), "unit", table, "zstd")
    name = "commits/unit.parquet"
    path = tmp_path / name
    whole = path.read_bytes()
    refusals = set()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read_commit(str(tmp_path), name, table.column_names)
        except UserError as error:
            refusals.add(str(error))
    assert refusals
    assert all(str(path) in message for message in refusals)


def test_a_cut_off_commit_is_named(tmp_path):
    name = commit(tmp_path, [make_row("a#0", [[0.0, 0.5]])], "zstd")
    path = tmp_path / name
    whole = path.read_bytes()
    for size in (0, 1, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert str(path) in refusal(read_commit, str(tmp_path), name, ["key"])


def test_a_commit_that_cannot_be_reached_is_not_called_damaged(tmp_path, monkeypatch):
    """The advice for a damaged file is to remove it: no advice for one that the network has not brought."""
    name = commit(tmp_path, [make_row("a#0")], "zstd")

    def refuse(_uri, *, size=None, sparse=False):
        raise storage.TransientError("the store does not answer")

    monkeypatch.setattr(storage, "open_binary", refuse)
    with pytest.raises((UserError, OSError)) as caught:
        read_commit(str(tmp_path), name, ["key"])
    assert "the store does not answer" in str(caught.value)
    assert "remove" not in str(caught.value)


def test_turned_bits_in_the_data_are_noticed(tmp_path):
    """Parquet has checksums of its pages. Without them, or unless they are looked at, half of these read as results."""
    segments = np.random.default_rng(0).uniform(0, 100, (4000, 2))
    name = commit(tmp_path, [make_row("a#0", segments)], "none")
    path = tmp_path / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    assert str(path) in refusal(
        lambda: list(read_commit(str(tmp_path), name, ["segments", "segment_features"]).columns)
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


# -- options


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"formats": ("parquet", "textgrit")}, "output.formats"),
        ({"frame_features": "float64"}, "output.frame_features"),
        ({"segment_features": "all"}, "output.segment_features"),
        ({"compression": "zip"}, "output.compression"),
        ({"formats": ("files",)}, "output.frame_features"),
        ({"formats": ("files",), "frame_features": "float16", "segment_features": "none"}, "output.segment_features"),
    ],
)
def test_options_that_cannot_be_are_refused_by_key(options, key):
    with pytest.raises(ValueError, match=key):
        OutputOptions(**options)


def test_the_run_record_is_readable_json(tmp_path):
    write_run(str(tmp_path), {"fingerprint": {"a": "1"}, "runs": 2, "state": "ü"})
    assert json.loads((tmp_path / "run.json").read_text()) == read_run(str(tmp_path))
    assert storage.list_files(str(tmp_path)) == ["run.json"]
