"""The output folder: its fingerprint, what is committed in it, and its options."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import commits_in, keys_in, make_row, make_run, make_table, refusal

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    OutputOptions,
    clear_output,
    commit_name,
    fingerprint,
    open_output,
    read_commit,
    read_run,
    read_segments,
    require_contents,
    unit_name,
    write_commit,
    write_run,
)


def commit(output, rows, compression="zstd"):
    """Commit rows as unit 0 of a plan; its file's name."""
    unit = unit_name("00003-0123456789ab", 0)
    write_commit(str(output), unit, make_table(rows), compression)
    return commit_name(unit)


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
