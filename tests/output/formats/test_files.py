"""Files for other tools: they hold what the golden data holds, one set per recording, where the input has it."""

import io
import pickle
import re
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import keys_in, write_output
from places import GOLDEN

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.textgrid import parse_textgrid
from sdhubert_ray.output import open_output, read_segments
from sdhubert_ray.output.formats import export, export_part, files, name_files
from sdhubert_ray.output.tables import RESULT_FIELDS, SEGMENTS, ragged, ragged_intervals, ragged_vectors
from sdhubert_ray.runs.execute import _export_on_ray

SEGMENTATION = GOLDEN / "segmentation" / "readme"
ENDINGS = ("_segments.txt", "_segmentfeature.npy", "_feature.npy", ".TextGrid")


def golden_row(name, key, **values):
    """A row that holds the golden arrays of a recording."""
    with np.load(SEGMENTATION / f"{name}.npz") as file:
        arrays = {part: file[part] for part in ("frame_features", "mask", "segments", "segment_features")}
    return make_row(key, duration=len(arrays["mask"]) / 50, num_frames=len(arrays["mask"]), **{**arrays, **values})


def make_row(key, **values):
    file_id, _, piece = key.rpartition("#")
    empty = {"frame_features": None, "mask": None, "segments": np.zeros((0, 2)), "segment_features": np.zeros((0, 48))}
    basics = {"offset": 0.0, "duration": 0.0, "status": "ok", "error": None, "num_frames": 0}
    place = {"id": file_id, "uri": f"/{file_id}", "member": None, "piece": int(piece)}
    return {"key": key, **place, **basics, **empty, **values}


def make_table(rows, dtype=np.float32, with_frames=True):
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type)
        for field in RESULT_FIELDS
        if field.name != "segments"
    }
    columns["segments"] = ragged_intervals([row["segments"] for row in rows], SEGMENTS)
    columns["segment_features"] = ragged_vectors([row["segment_features"] for row in rows], dtype, 48)
    columns["units"] = pa.nulls(len(rows), pa.list_(pa.int32()))
    if with_frames:
        columns["frame_features"] = ragged_vectors([row["frame_features"] for row in rows], dtype, 48)
        columns["mask"] = ragged([row["mask"] for row in rows], pa.bool_())
    return pa.table(columns)


def make_output(folder, *commits, **options):
    return write_output(str(folder), [(1, make_table(rows, **options)) for rows in commits], {})


def exported(output):
    """What was written beside the tables: relative path -> bytes."""
    ours = ("commits/", "manifest/", "run.json")
    names = [name for name in storage.list_files(output) if not name.startswith(ours)]
    return {name: storage.read_bytes(storage.join(output, name)) for name in names}


def load_npy(data):
    return np.load(io.BytesIO(data), allow_pickle=False)


def parse_grid(text):
    """The end and the intervals of a TextGrid of one tier; what Praat makes of them is seen in test_textgrid.py."""
    (tier,) = parse_textgrid(text, "here")
    (end,) = set(re.findall(r"^ *xmax = (\S+)$", text.partition("intervals")[0], re.M))
    return float(end), list(tier.intervals)


def assert_tiles(intervals, end):
    assert intervals[0][0] == 0.0
    assert intervals[-1][1] == end
    assert all(start < stop for start, stop, _ in intervals)
    assert [stop for _, stop, _ in intervals[:-1]] == [start for start, _, _ in intervals[1:]]


# -- the files of a recording


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["synth_0", "synth_1", "synth_3"])
def test_files_hold_what_the_golden_data_holds(tmp_path, name, dtype):
    output = make_output(tmp_path, [golden_row(name, f"deep/er/{name}.flac#0")], dtype=dtype)
    export(output, ["files", "textgrid"])
    files = exported(output)
    assert sorted(files) == sorted(f"deep/er/{name}{ending}" for ending in ENDINGS)
    golden = np.load(SEGMENTATION / f"{name}.npz")
    lines = files[f"deep/er/{name}_segments.txt"].decode().splitlines()
    assert all(re.fullmatch(r"\d+\.\d{3}, \d+\.\d{3}", line) for line in lines)
    # Frames lie at multiples of 20 ms: three decimals lose nothing.
    np.testing.assert_allclose(
        [[float(time) for time in line.split(", ")] for line in lines], golden["segments"], rtol=0, atol=1e-9
    )
    features = load_npy(files[f"deep/er/{name}_feature.npy"])
    assert features.dtype == dtype
    np.testing.assert_array_equal(
        features, np.where(golden["mask"][:, None], golden["frame_features"], 0).astype(dtype)
    )
    pooled = load_npy(files[f"deep/er/{name}_segmentfeature.npy"])
    assert pooled.dtype == dtype
    np.testing.assert_array_equal(pooled, golden["segment_features"].astype(dtype))
    end, intervals = parse_grid(files[f"deep/er/{name}.TextGrid"].decode())
    assert end == len(golden["mask"]) / 50
    assert_tiles(intervals, end)
    np.testing.assert_allclose([(a, b) for a, b, text in intervals if text], golden["segments"], rtol=0, atol=1e-6)
    assert [text for *_, text in intervals if text] == [str(number + 1) for number in range(len(golden["segments"]))]


@pytest.mark.parametrize("same_commit", [True, False])
def test_pieces_are_joined_as_if_the_recording_had_been_one(tmp_path, same_commit):
    """A recording cut at frames 120 and 121: the frame between is one that neither piece has."""
    whole = golden_row("synth_0", "whole.wav#0")
    whole["mask"] = whole["mask"].copy()
    whole["mask"][120] = False
    first = whole["segments"][:, 1] <= 120 / 50
    second = whole["segments"][:, 0] >= 121 / 50
    assert first.any()
    assert second.any()
    whole["segments"], whole["segment_features"] = (
        whole[key][first | second] for key in ("segments", "segment_features")
    )
    parts = []
    for piece, (chosen, begin, end) in enumerate([(first, 0, 120), (second, 121, 157)]):
        values = golden_row("synth_0", "x#0")
        parts.append(
            make_row(
                f"cut.wav#{piece}",
                offset=begin / 50,
                duration=(121 - begin if piece == 0 else end - begin) / 50,
                num_frames=end - begin,
                frame_features=values["frame_features"][begin:end],
                mask=values["mask"][begin:end],
                segments=values["segments"][chosen],
                segment_features=values["segment_features"][chosen],
            )
        )
    commits = [[whole, *parts]] if same_commit else [[whole], [parts[0]], [parts[1]]]
    output = make_output(tmp_path, *commits)
    export(output, ["files", "textgrid"])
    files = exported(output)
    assert len(files) == 8
    for ending in ENDINGS:
        cut, one = files[f"cut{ending}"], files[f"whole{ending}"]
        if ending.endswith(".npy"):
            np.testing.assert_array_equal(load_npy(cut), load_npy(one), strict=True)
        else:
            assert cut == one


def test_an_empty_piece_behind_the_end_adds_no_frames(tmp_path):
    """The length that a manifest tells may be too long: then the last piece is found empty, far behind the end."""
    last = make_row("a.wav#1", offset=895.0, status="too_short")
    output = make_output(tmp_path, [golden_row("synth_3", "a.wav#0"), last])
    export(output, ["files"])
    assert load_npy(exported(output)["a_feature.npy"]).shape == (18, 48)


def test_a_silent_recording_has_empty_files_and_a_failed_one_none(tmp_path):
    output = make_output(
        tmp_path,
        [
            make_row("silent.wav#0", status="silent", duration=1.5, num_frames=75),
            make_row("short.wav#0", status="too_short", duration=0.05, num_frames=2),
            make_row("bad.wav#0", status="unreadable", error="x"),
            make_row("gone.wav#0", status="missing", error="x"),
            make_row("lost.wav#0", status="failed", error="x"),
        ],
    )
    export(output, ["files", "textgrid"])
    files = exported(output)
    assert sorted(files) == sorted(f"{name}{ending}" for name in ("silent", "short") for ending in ENDINGS)
    assert files["silent_segments.txt"] == b""
    assert load_npy(files["silent_segmentfeature.npy"]).shape == (0, 48)
    features = load_npy(files["silent_feature.npy"])
    assert features.shape == (75, 48)
    assert features.dtype == np.float32
    assert not features.any()
    assert parse_grid(files["silent.TextGrid"].decode()) == (1.5, [(0.0, 1.5, "")])


@pytest.mark.parametrize(
    ("formats", "endings"), [([], []), (["parquet"], []), (["textgrid"], [".TextGrid"]), (["files"], ENDINGS[:3])]
)
def test_only_what_is_asked_for_is_written(tmp_path, formats, endings):
    output = make_output(tmp_path, [golden_row("synth_3", "a.wav#0")], with_frames="files" in formats)
    export(output, formats)
    assert sorted(exported(output)) == sorted(f"a{ending}" for ending in endings)


def test_an_output_in_an_object_store_works_alike(tmp_path):
    row = golden_row("synth_3", "sub/a.wav#0")
    local, remote = make_output(tmp_path, [row]), make_output("memory://bucket/of/formats", [row])
    for output in (local, remote):
        export(output, ["files", "textgrid"])
    assert exported(remote) == exported(local)


def test_a_folder_of_the_input_may_be_called_segments(tmp_path):
    """Its files lie beside the tables then, and are not taken for tables."""
    output = make_output(tmp_path, [golden_row("synth_3", "segments/a.wav#0")])
    for _ in range(2):
        export(output, ["textgrid"])
    assert (tmp_path / "segments" / "a.TextGrid").exists()
    assert keys_in(output) == {"segments/a.wav#0"}
    assert [result.id for result in read_segments(output)] == ["segments/a.wav"]
    assert open_output(output, {}, False) is not None  # and do not keep the run from being resumed


def do_anywhere(output, formats, parts):
    """Parts as other processes have them, in any order, one of them twice."""
    assert len(parts) > 1
    for part in [*parts[::-1], parts[0]]:
        export_part(output, formats, pickle.loads(pickle.dumps(part)))


@pytest.mark.parametrize("most", [2, 3, 100])
def test_parts_give_the_files_that_one_process_gives(most, tmp_path, monkeypatch):
    """Also of recordings that begin in one commit and end in another, whoever does them in whatever order."""
    rows = [golden_row(f"synth_{number % 5}", f"{number}.wav#0") for number in range(3)]
    rows[1:1] = [golden_row("synth_3", f"long.wav#{piece}", offset=1.2 * piece) for piece in range(5)]
    rows += [golden_row("synth_1", "0.flac#0"), make_row("lost.wav#0", status="failed", error="lost")]
    commits = [rows[:3], rows[3:4], rows[4:7], rows[7:]]
    one, other = make_output(tmp_path / "one", *commits), make_output(tmp_path / "other", *commits)
    export(one, ["files", "textgrid"])
    monkeypatch.setattr(files, "_MOST_PARTS", most)
    export(other, ["files", "textgrid"], do_anywhere)
    assert exported(other) == exported(one)
    assert len(exported(one)) == 4 * 5


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_of_ray_give_the_same_files(tmp_path):
    commits = [[golden_row(f"synth_{number}", f"{number}.wav#0")] for number in range(3)]
    one, other = make_output(tmp_path / "one", *commits), make_output(tmp_path / "other", *commits)
    export(one, ["files", "textgrid"])
    export(other, ["files", "textgrid"], _export_on_ray)
    assert exported(other) == exported(one)


def test_exporting_again_changes_nothing(tmp_path):
    output = make_output(tmp_path, [golden_row("synth_3", "a.wav#0")])
    export(output, ["files"])
    before = exported(output)
    export(output, ["files"])
    assert exported(output) == before


# -- names


def test_names_mirror_the_input_without_endings():
    assert name_files(["a.wav", "b/c.d.flac", "plain"]) == {"a.wav": "a", "b/c.d.flac": "b/c.d", "plain": "plain"}


def test_two_recordings_of_one_name_keep_their_endings(tmp_path):
    rows = [golden_row("synth_3", "x/a.wav#0"), make_row("x/a.flac#0", status="silent"), make_row("y/a.wav#0")]
    output = make_output(tmp_path, rows)
    export(output, ["textgrid"])
    assert sorted(exported(output)) == ["x/a.flac.TextGrid", "x/a.wav.TextGrid", "y/a.TextGrid"]
    assert b'"1"' in exported(output)["x/a.wav.TextGrid"]
    assert b'"1"' not in exported(output)["x/a.flac.TextGrid"]


endings = st.lists(st.sampled_from([".wav", ".flac", ".x"]), max_size=3).map("".join)
name_parts = st.tuples(st.sampled_from("ab"), endings).map("".join)


@settings(deadline=None)
@given(st.lists(st.lists(name_parts, min_size=1, max_size=2).map("/".join), unique=True, max_size=8))
def test_no_two_recordings_share_a_file(ids):
    names = name_files(ids)
    assert sorted(names) == sorted(ids)
    assert len(set(names.values())) == len(ids)
    for file_id, name in names.items():
        assert file_id.startswith(name)
        assert PurePosixPath(name).parent == PurePosixPath(file_id).parent


@pytest.mark.parametrize("file_id", ["../a.wav", "a/../../b.wav", "/etc/a.wav", "..", ".", "a/.."])
def test_an_id_that_leads_elsewhere_is_refused(tmp_path, file_id):
    with pytest.raises(UserError) as caught:
        name_files(["good.wav", file_id])
    assert repr(file_id) in str(caught.value)
    output = make_output(tmp_path / "deep" / "out", [golden_row("synth_3", f"{file_id}#0")])
    with pytest.raises(UserError):
        export(output, ["textgrid"])
    assert exported(output) == {}
    assert [path.name for path in tmp_path.rglob("*.TextGrid")] == []


# -- TextGrids


def test_a_textgrid_of_a_part_reaches_to_the_end_of_the_part(tmp_path):
    """Times are seconds of the file, so a row that reads [3 s, 5 s) of it ends at 5 s."""
    row = make_row(
        "part#0",
        offset=3.0,
        duration=2.0,
        num_frames=100,
        segments=np.array([[3.5, 4.0]]),
        segment_features=np.ones((1, 48)),
    )
    output = make_output(tmp_path, [row])
    export(output, ["textgrid"])
    end, intervals = parse_grid(exported(output)["part.TextGrid"].decode())
    assert intervals == [(0.0, 3.5, ""), (3.5, 4.0, "1"), (4.0, 5.0, "")]
    assert end == 5.0


def test_read_segments_gives_what_the_files_hold(tmp_path):
    output = make_output(tmp_path, [golden_row("synth_1", "a.wav#0")])
    export(output, ["files"])
    (result,) = read_segments(output)
    np.testing.assert_array_equal(load_npy(exported(output)["a_segmentfeature.npy"]), result.segment_features)
    assert load_npy(exported(output)["a_feature.npy"]).shape[0] == result.num_frames
