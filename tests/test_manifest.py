"""Manifests: every input is listed or refused in one sentence, and cut without gap or overlap."""

import json
import math
import os
import uuid
from typing import ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.manifest import cut_pieces, list_input, split_units
from sdhubert_ray.tables import MANIFEST_FIELDS, RESULT_FIELDS


def refusal(call, *args):
    """The message with which a call refuses, checked to be one sentence."""
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert message == message.strip()
    assert not message.endswith((" has", ":", ","))
    return message


def fill(base, folder, *names):
    """Files that hold their own names, below a local folder or in memory; returns where."""
    if base == "remote":
        root = f"memory://{uuid.uuid4().hex}"
        for name in names:
            storage.put(storage.join(root, name), name.encode())
        return root
    touch(folder, *names)
    for name in names:
        (folder / name).write_text(name)
    return str(folder)


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_manifest(folder, rows, kind="jsonl"):
    """Write rows (dicts, all with the same keys) as a manifest, and return its path."""
    path = folder / f"manifest.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def write_audio(path, seconds, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate))
    soundfile.write(path, noise, rate)
    return str(path)


def ids_and_uris(listing):
    return [(row["id"], row["uri"]) for row in listing.table.to_pylist()]


# -- folders, globs, files


@pytest.mark.parametrize("base", ["local", "trailing slash", "relative", "file://", "remote"])
def test_a_folder_is_listed_recursively(tmp_path, monkeypatch, base):
    audio = ["b.wav", "sub/deep/c.FLAC", "sub/b.wav", "a.opus"]
    root = fill(base, tmp_path, *audio, "notes.txt", "sub/b.TextGrid", ".hidden.wav")
    monkeypatch.chdir(tmp_path.parent)
    given_as = {"trailing slash": f"{root}/", "relative": tmp_path.name, "file://": f"file://{root}"}.get(base, root)
    listing = list_input(given_as)
    monkeypatch.chdir("/")  # uris have to mean the same from anywhere
    assert [file_id for file_id, _ in ids_and_uris(listing)] == sorted(audio)
    for file_id, uri in ids_and_uris(listing):
        assert storage.read_bytes(uri) == file_id.encode()
    assert listing.ignored == 2


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.wav", ["a.wav", "b.wav"]),
        ("**/*.wav", ["a.wav", "b.wav", "x/c.wav", "x/y/c.wav"]),
        ("x/*.wav", ["c.wav"]),
        ("[x]/y/*", ["x/y/c.wav", "x/y/d.dat"]),
        ("x/y/*.dat", ["d.dat"]),
    ],
)
@pytest.mark.parametrize("base", ["local", "relative", "remote"])
def test_ids_of_a_glob_are_relative_to_its_fixed_part(tmp_path, monkeypatch, base, pattern, expected):
    root = fill(base, tmp_path, "b.wav", "a.wav", "x/c.wav", "x/y/c.wav", "x/y/d.dat")
    monkeypatch.chdir(tmp_path)
    listing = list_input(pattern if base == "relative" else f"{root}/{pattern}")
    monkeypatch.chdir("/")
    assert [file_id for file_id, _ in ids_and_uris(listing)] == expected
    for file_id, uri in ids_and_uris(listing):
        assert storage.read_bytes(uri).decode().endswith(file_id)
    assert listing.ignored == 0


class AliasedFileSystem(MemoryFileSystem):
    """As gcs:// and s3a:// are: a second scheme of a filesystem that names its files by its first, gs:// and s3://."""

    protocol = ("firstscheme", "otherscheme")
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("firstscheme://").removeprefix("otherscheme://"))


@pytest.mark.parametrize("scheme", AliasedFileSystem.protocol)
def test_a_scheme_may_have_two_names(scheme):
    for name in AliasedFileSystem.protocol:
        fsspec.register_implementation(name, AliasedFileSystem, clobber=True)
    storage.put(f"{scheme}://bucket/x/a.wav", b"sound")
    for pattern, file_id in (("bucket", "x/a.wav"), ("bucket/**/*.wav", "x/a.wav"), ("bucket/x/*", "a.wav")):
        ((found, uri),) = ids_and_uris(list_input(f"{scheme}://{pattern}"))
        assert found == file_id
        assert storage.read_bytes(uri) == b"sound"


def test_a_file_named_by_itself_is_taken_whatever_its_name(tmp_path):
    touch(tmp_path, "recording.dat")
    assert ids_and_uris(list_input(str(tmp_path / "recording.dat"))) == [
        ("recording.dat", str(tmp_path / "recording.dat"))
    ]


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path):
    touch(tmp_path / "[2024] take*", "a.wav")
    assert [file_id for file_id, _ in ids_and_uris(list_input(str(tmp_path / "[2024] take*")))] == ["a.wav"]


@pytest.mark.parametrize("pattern", ["", "/*", "/**/*.wav"])
def test_a_dangling_link_is_a_row_and_not_lost(tmp_path, pattern):
    """It will have the status `missing`; to leave it out would be to lose an input."""
    touch(tmp_path, "a.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    found = ids_and_uris(list_input(str(tmp_path) + pattern))
    assert [file_id for file_id, _ in found] == ["a.wav", "gone.wav"]


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "audio").mkdir()
    with open(os.fsencode(str(tmp_path / "audio")) + b"/caf\xe9.wav", "wb"):  # noqa: PTH123 - bytes are no Path
        pass
    assert "caf" in refusal(list_input, str(tmp_path / "audio"))


def test_inputs_without_audio_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "texts/a.txt", "texts/b.json")
    assert f"{tmp_path}/nowhere does not exist" in refusal(list_input, str(tmp_path / "nowhere"))
    assert f"{tmp_path}/empty has no audio" in refusal(list_input, str(tmp_path / "empty"))
    message = refusal(list_input, str(tmp_path / "texts"))
    assert f"{tmp_path}/texts has no audio" in message
    assert "2 files" in message
    assert f"{tmp_path}/*.wav matches no file" in refusal(list_input, str(tmp_path / "*.wav"))
    assert "memory://nowhere" in refusal(list_input, "memory://nowhere/of/this/name")


# -- manifests


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_uris_of_a_manifest(tmp_path, monkeypatch, kind):
    rows = [
        {"id": "0001", "uri": "audio/a.wav"},
        {"id": "0002", "uri": f"{tmp_path}/b.wav"},
        {"id": "1e5", "uri": "s3://bucket/c.wav"},
    ]
    (tmp_path / "lists").mkdir()
    write_manifest(tmp_path / "lists", rows, kind)
    monkeypatch.chdir(tmp_path)
    expected = [
        ("0001", f"{tmp_path}/lists/audio/a.wav"),
        ("0002", f"{tmp_path}/b.wav"),
        ("1e5", "s3://bucket/c.wav"),
    ]
    for name in (
        f"{tmp_path}/lists/manifest.{kind}",
        f"lists/manifest.{kind}",
        f"file://{tmp_path}/lists/manifest.{kind}",
    ):
        listing = list_input(name)
        assert ids_and_uris(listing) == expected
        assert listing.ignored == 0
    monkeypatch.chdir(tmp_path / "lists")
    assert ids_and_uris(list_input(f"manifest.{kind}")) == expected
    remote = f"memory://{uuid.uuid4().hex}"
    storage.put(f"{remote}/lists/m.{kind}", (tmp_path / "lists" / f"manifest.{kind}").read_bytes())
    assert ids_and_uris(list_input(f"{remote}/lists/m.{kind}"))[0] == ("0001", f"{remote}/lists/audio/a.wav")


def test_numbers_as_ids_become_text(tmp_path):
    for kind in ("jsonl", "parquet"):
        path = write_manifest(tmp_path, [{"id": 7, "uri": "a.wav"}, {"id": 8, "uri": "b.wav"}], kind)
        assert [file_id for file_id, _ in ids_and_uris(list_input(path))] == ["7", "8"]


def test_a_manifest_may_have_blank_lines_a_byte_order_mark_and_line_separators(tmp_path):
    """U+2028 and U+0085 end a line for Python's splitlines, but not for JSON, and transcripts do hold them."""
    path = tmp_path / "manifest.jsonl"
    rows = [{"id": "a", "uri": "a.wav", "text": "one\u2028two\x85three"}, {"id": "b", "uri": "b.wav", "text": "\x1c"}]
    lines = "\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"\n{lines}\n\n", newline="")
    assert list_input(str(path)).table.column("text").to_pylist() == [row["text"] for row in rows]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_manifest_may_begin_with_a_byte_order_mark(tmp_path, kind):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "a.wav"}], kind)
    with open(path, "r+b") as file:  # noqa: PTH123
        content = file.read()
        file.seek(0)
        file.write(b"\xef\xbb\xbf" + content)
    assert [file_id for file_id, _ in ids_and_uris(list_input(path))] == ["a"]


EXTRAS = {
    "speaker": ["s1", None],
    "age": [31, None],
    "score": [0.5, 2.5],
    "clean": [True, False],
    "nothing": [None, None],
    "words": [["a", "b"], []],
    "nested": [{"x": [1, 2], "y": "z"}, None],
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_columns_are_carried_through_every_piece(tmp_path, kind):
    rows = [
        {"id": str(row), "uri": "x.wav", "duration": 50.0, **{name: values[row] for name, values in EXTRAS.items()}}
        for row in (0, 1)
    ]
    pieces = cut_pieces(list_input(write_manifest(tmp_path, rows, kind)).table, 30.0)
    assert pieces.column_names == [*(field.name for field in MANIFEST_FIELDS), *EXTRAS]
    for name, values in EXTRAS.items():
        assert pieces.column(name).to_pylist() == [values[0], values[0], values[1], values[1]], name
        assert not pa.types.is_null(pieces.schema.field(name).type)


def test_words_like_null_are_words_in_csv(tmp_path):
    """NA is Namibia, and a recording of the word `null` may be called so."""
    path = tmp_path / "manifest.csv"
    path.write_text("id,uri,country\nnull,a.wav,NA\nNaN,b.wav,DE\nN/A,c.wav,\n")
    table = list_input(str(path)).table
    assert table.column("id").to_pylist() == ["null", "NaN", "N/A"]
    assert table.column("country").to_pylist() == ["NA", "DE", None]


def test_csv_columns_are_carried(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text('id,uri,speaker,age,note\na,a.wav,s1,31,"x, ""y"""\nb,b.wav,s2,,\n')
    pieces = cut_pieces(list_input(str(path)).table, 30.0)
    assert pieces.select(["speaker", "age", "note"]).to_pylist() == [
        {"speaker": "s1", "age": 31, "note": 'x, "y"'},
        {"speaker": "s2", "age": None, "note": None},
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"id": "a", "url": "x"}], ["no column 'uri'", "'url'"]),
        ([{"ids": "a", "uri": "x"}], ["no column 'id'", "'ids'"]),
        ([{"speaker": "a", "uri": "x"}], ["no column 'id'", "speaker", "uri"]),
        ([{"id": "a", "uri": "one.wav"}, {"id": "a", "uri": "two.wav"}], ["'a'", "one.wav", "two.wav"]),
        ([{"id": "a", "uri": "x"}, {"id": "", "uri": "y"}], ["row 2", "no id"]),
        ([{"id": "a", "uri": "x"}, {"id": "b", "uri": ""}], ["row 2", "no uri"]),
        ([{"id": "a", "uri": "x", "start": 2.0, "end": 1.0}], ["'a'", "2.0", "1.0", "start < end"]),
        ([{"id": "a", "uri": "x", "start": 2.0, "end": 2.0}], ["'a'", "start < end"]),
        ([{"id": "a", "uri": "x", "start": -0.5, "end": 2.0}], ["'a'", "-0.5"]),
        ([{"id": "a", "uri": "x", "end": 0.0}], ["'a'", "start < end"]),
        ([{"id": "a", "uri": "x", "start": "early"}], ["'start'"]),
        ([{"id": "a", "uri": "x", "channel": 0.5}], ["'channel'"]),
        ([{"id": "a", "uri": "x", "channel": -1}], ["channel", "-1"]),
        ([{"id": "a", "uri": "x", "duration": -3.0}], ["'a'", "duration", "-3.0"]),
        ([{"id": "a", "uri": "x", "start": 8.0, "duration": 5.0}], ["'a'", "8.0", "5.0"]),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_sentence(tmp_path, rows, expected, kind):
    path = write_manifest(tmp_path, rows, kind)
    message = refusal(list_input, path)
    assert path in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["start", "end", "duration"])
def test_times_that_are_no_numbers_are_refused(tmp_path, name, value, kind):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "x", name: value}], kind)
    message = refusal(list_input, path)
    assert path in message
    assert "'a'" in message
    assert str(value) in message


RESERVED = sorted(
    {field.name for field in (*MANIFEST_FIELDS, *RESULT_FIELDS)} - {"id", "uri", "start", "end", "duration", "channel"}
)


@pytest.mark.parametrize("name", [*RESERVED, "segment_features", "units", "frame_features", "norm", "mask", "spans"])
def test_a_column_that_the_output_needs_is_refused(tmp_path, name):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "x", name: "1"}])
    assert f"{name!r}" in refusal(list_input, path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"id": "a", "uri": "x"}\n\nid: b\n', "line 3"),
        ('{"id": "a", "uri": "x"}\n["b", "y"]\n', "line 2"),
        ('{"id": "a", "uri": "x"', "line 1"),
        ("", "no rows"),
        ("\n\n", "no rows"),
        ('{"id": "a", "uri": "x", "score": 1}\n{"id": "b", "uri": "y", "score": "high"}\n', "score"),
        (b'{"id": "caf\xe9", "uri": "x"}\n', "utf-8"),
    ],
)
def test_broken_json_lines_are_refused(tmp_path, content, expected):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(list_input, str(path))
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize(
    "content",
    ["", "id,uri\n", "id,uri\na,b,c\n", "id,uri,id\na,x,b\n", "id,uri,sex,sex\na,x,f,m\n", b"id,uri\n\xff,b\n"],
)
def test_a_broken_csv_is_refused(tmp_path, content):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert str(path) in refusal(list_input, str(path))


def test_a_broken_parquet_is_refused(tmp_path):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "x", "text": "word " * 100}], "parquet")
    with open(path, "r+b") as file:  # noqa: PTH123
        file.truncate(200)
    assert path in refusal(list_input, path)
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "uri": pa.array([], pa.string())}), path)
    assert "no rows" in refusal(list_input, path)


# -- pieces


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
    pieces = cut_pieces(list_input(manifest).table, 30.0)
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
    units = list(split_units(manifest, unit_seconds, unit_rows))
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
