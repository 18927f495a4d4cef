"""Channels of a file that were segmented apart share a TextGrid."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from commands import sdhubert
from hypothesis import given
from hypothesis import strategies as st

from sdhubert_ray.evaluation.textgrid import parse_textgrid
from sdhubert_ray.output.formats import files
from sdhubert_ray.output.formats.naming import Grid, Naming
from sdhubert_ray.output.tables import MANIFEST_FIELDS


def make_rows(*rows):
    """Rows of a plan: (id, uri, channel), and perhaps the second from which on it is read."""
    columns = {field.name: pa.nulls(len(rows), field.type) for field in MANIFEST_FIELDS}
    columns["id"] = pa.array([row[0] for row in rows], pa.string())
    columns["uri"] = pa.array([row[1] for row in rows], pa.string())
    columns["channel"] = pa.array([row[2] for row in rows], pa.int32())
    columns["start"] = pa.array([row[3] if len(row) > 3 else 0.0 for row in rows], pa.float64())
    columns["piece"] = pa.array([0] * len(rows), pa.int32())
    return pa.table(columns, schema=pa.schema(MANIFEST_FIELDS))


def grids_of(*rows):
    naming = Naming()
    naming.add(make_rows(*rows))
    return naming.grids()


def test_channels_share_a_grid_that_is_called_as_the_audio():
    found = grids_of(("calls/1-A", "/data/1.wav", 0), ("calls/1-B", "/data/1.wav", 1), ("calls/2", "/data/2.wav", None))
    assert found == {
        "calls/1-A": Grid("calls/1", 0),
        "calls/1-B": Grid("calls/1", 1),
        "calls/2": Grid("calls/2", None),
    }


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([("a", "/x.wav", 0)], "one channel alone"),
        ([("a", "/x.wav", 0), ("b", "/y.wav", 1)], "of two files"),
        ([("a", "/x.wav", 0), ("b", "/x.wav", 0)], "the same channel twice"),
        ([("a", "/x.wav", 0), ("b", "/x.wav", 0), ("c", "/x.wav", 1)], "one of two channels twice"),
        ([("a", "/x.wav", 0), ("b", "/x.wav", 1, 2.0)], "of other parts of the file"),
        ([("a", "/x.wav", None), ("b", "/x.wav", 1)], "the mean of all, and one"),
        ([("a", "/x.wav", 0), ("b", "/x.wav", 1), ("x", "/z.wav", None)], "the name is another recording's"),
        ([("a", "/x.wav", 0), ("b", "/x.wav", 1), ("c", "/2/x.wav", 0), ("d", "/2/x.wav", 1)], "two of one name"),
        ([("a", "/segments.wav", 0), ("b", "/segments.wav", 1)], "the name is a folder of the output"),
    ],
)
def test_else_each_has_its_own(rows, why):
    assert grids_of(*rows) == {row[0]: Grid(row[0], None) for row in rows}, why


def test_the_name_may_be_that_of_a_channel():
    found = grids_of(("x", "/x.wav", 0), ("x-right", "/x.wav", 1))
    assert {grid.name for grid in found.values()} == {"x"}


def test_pieces_and_folders():
    left = make_rows(("left/x", "/x.wav", 0), ("left/x", "/x.wav", 0, 600.0))
    left = left.set_column(left.column_names.index("piece"), "piece", pa.array([0, 1], pa.int32()))
    naming = Naming()
    naming.add(left)
    naming.add(make_rows(("right/x", "/x.wav", 1)))
    assert naming.grids() == {"left/x": Grid("x", 0), "right/x": Grid("x", 1)}


rows_of_plans = st.tuples(
    st.sampled_from(["a", "b", "x", "f/a", "f/b", "f/x", "a.wav"]),
    st.sampled_from(["/x.wav", "/a.wav", "/f/x.wav"]),
    st.none() | st.integers(0, 2),
)


@given(st.lists(rows_of_plans, max_size=7, unique_by=lambda row: row[0]))
def test_a_grid_is_shared_by_channels_of_one_file_only(rows):
    by_name = {}
    for file_id, grid in grids_of(*rows).items():
        by_name.setdefault(grid.name, []).append((file_id, grid.channel))
    uris = {file_id: uri for file_id, uri, _ in rows}
    for members in by_name.values():
        if len(members) > 1:
            assert None not in {channel for _, channel in members}
            assert len({channel for _, channel in members}) == len(members)
            assert len({uris[file_id] for file_id, _ in members}) == 1


@pytest.mark.seconds
@pytest.mark.parametrize("more", [[], ["resources.unit_rows=1", "output.rows_per_file=1"]])
def test_a_call_of_two_channels(more, golden, tiny_checkpoint, tmp_path):
    """Both in one file of the table, or in two that are exported apart."""
    one, other = (soundfile.read(golden / "audio" / f"synth_{number}.flac")[0] for number in (0, 1))
    length = min(len(one), len(other))
    soundfile.write(tmp_path / "call.wav", np.stack([one[:length], other[:length]], axis=1), 16_000)
    shutil.copy(golden / "audio" / "synth_3.flac", tmp_path / "mono.flac")
    lines = ["id,uri,channel", "a-left,call.wav,0", "mono,mono.flac,", "b-right,call.wav,1"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    command = ["segment", tmp_path / "list.csv", out, "--checkpoint", tiny_checkpoint, "--engine", "local"]
    sdhubert(*command, "--format", "textgrid", *more)
    assert sorted(path.name for path in out.glob("*.TextGrid")) == ["call.TextGrid", "mono.TextGrid"]
    tiers = parse_textgrid((out / "call.TextGrid").read_text(), "here")
    assert [tier.name for tier in tiers] == ["channel 0 - syllables", "channel 1 - syllables"]
    assert tiers[0].intervals != tiers[1].intervals
    (mono,) = parse_textgrid((out / "mono.TextGrid").read_text(), "here")
    assert mono.name == "syllables"
    # They are known as ours, and go with an overwrite.
    sdhubert(*command, "--overwrite")
    assert not [*out.glob("*.TextGrid")]


def test_a_channel_that_cannot_be_read_has_no_tier(golden, tiny_checkpoint, tmp_path):
    shutil.copy(golden / "audio" / "synth_3.flac", tmp_path / "call.flac")
    (tmp_path / "list.csv").write_text("id,uri,channel\na,call.flac,0\nb,call.flac,1\n")
    command = ["segment", tmp_path / "list.csv", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    sdhubert(*command, "--format", "textgrid", "--max-failed", "1")
    (tier,) = parse_textgrid((tmp_path / "out" / "call.TextGrid").read_text(), "here")
    assert tier.name == "channel 0 - syllables"


def test_channels_of_several_parts_of_an_export_are_told():
    grids = {"a": Grid("x", 0), "b": Grid("x", 1), "c": Grid("y", 0), "d": Grid("y", 1), "e": Grid("e", None)}
    assert files._find_scattered([["a", "c"], ["b", "e"], ["d"]], grids) == {"a", "b", "c", "d"}
    assert files._find_scattered([["a", "b"], ["c", "d", "e"]], grids) == set()
    assert files._find_scattered([["e"], ["e"]], grids) == set()
