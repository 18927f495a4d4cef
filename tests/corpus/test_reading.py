"""Manifests as files: read as they are meant, or refused in one sentence."""

import json
import math
import uuid

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_inputs import (
    ids_and_uris,
    list_table,
    open_row,
    read,
    refusal,
    write_hf,
    write_manifest,
    write_tar,
)

from sdhubert_ray import storage
from sdhubert_ray.corpus import PIECE_SECONDS_KEY, Selection, cut_pieces, list_input
from sdhubert_ray.corpus import write_manifest as write_pieces
from sdhubert_ray.output.tables import MANIFEST_FIELDS, RESULT_FIELDS


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


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "pieces"])
@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("http://169.254.169.254/latest/meta-data/", "http"),
        ("https://user:secret@host/a.wav?token=secret", "https"),
        ("simplecache::s3://bucket/a.wav", "simplecache::s3"),
        ("ftp://host/a.wav", "ftp"),
    ],
)
def test_a_manifest_names_no_place_of_a_scheme_that_is_not_allowed(tmp_path, kind, uri, scheme):
    """Workers would fetch it, with their credentials, from within their network."""
    rows = [{"id": "a", "uri": "a.wav", "duration": 1.0}, {"id": "b", "uri": uri, "duration": 1.0}]
    path = write_manifest(tmp_path, rows, "jsonl" if kind == "pieces" else kind)
    if kind == "pieces":
        write_pieces(list_input(path, schemes=["file", scheme]), f"{tmp_path}/pieces.parquet", 600.0)
        path = f"{tmp_path}/pieces.parquet"
    message = refusal(lambda: read(list_input(path)))
    assert f"id 'b' is at {scheme}://" in message
    assert f"allow {scheme} by audio.schemes if that is meant" in message
    assert "secret" not in message
    assert len(read(list_input(path, schemes=["file", scheme]))) == 2


def test_what_lies_beside_a_manifest_may_be_named(tmp_path):
    root = f"memory://{uuid.uuid4().hex}"
    storage.put(f"{root}/m.csv", f"uri\na.wav\n{root}/sub/b.wav\n".encode())
    assert [uri for _, uri in ids_and_uris(list_input(f"{root}/m.csv"))] == [f"{root}/a.wav", f"{root}/sub/b.wav"]
    storage.put(f"{root}/m.csv", b"uri\nmemory://elsewhere/b.wav\n")
    assert "allow memory by" in refusal(list_input, f"{root}/m.csv")


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
    assert list_table(path).column("text").to_pylist() == [row["text"] for row in rows]


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
    pieces = cut_pieces(list_table(write_manifest(tmp_path, rows, kind)), 30.0)
    assert pieces.column_names == [*(field.name for field in MANIFEST_FIELDS), *EXTRAS]
    for name, values in EXTRAS.items():
        assert pieces.column(name).to_pylist() == [values[0], values[0], values[1], values[1]], name
        assert not pa.types.is_null(pieces.schema.field(name).type)


def test_words_like_null_are_words_in_csv(tmp_path):
    """NA is Namibia, and a recording of the word `null` may be called so."""
    path = tmp_path / "manifest.csv"
    path.write_text("id,uri,country\nnull,a.wav,NA\nNaN,b.wav,DE\nN/A,c.wav,\n")
    table = list_table(path)
    assert table.column("id").to_pylist() == ["null", "NaN", "N/A"]
    assert table.column("country").to_pylist() == ["NA", "DE", None]


def test_csv_columns_are_carried(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text('id,uri,speaker,age,note\na,a.wav,s1,31,"x, ""y"""\nb,b.wav,s2,,\n')
    pieces = cut_pieces(list_table(path), 30.0)
    assert pieces.select(["speaker", "age", "note"]).to_pylist() == [
        {"speaker": "s1", "age": 31, "note": 'x, "y"'},
        {"speaker": "s2", "age": None, "note": None},
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"id": "a", "url": "x"}], ["no column 'uri'", "'url'"]),
        ([{"id": "a", "speaker": "x"}], ["no column 'uri'", "id", "speaker"]),
        ([{"speaker": "a", "uri": "x"}, {"speaker": "b", "uri": "x"}], ["'x'", "twice", "add a column id"]),
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
    {field.name for field in (*MANIFEST_FIELDS, *RESULT_FIELDS)}
    - {"id", "uri", "start", "end", "duration", "channel"}
    - {"member", "byte_offset", "byte_size", "source_size", "source_version"}
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
        (b'{"id": "caf\xe9", "uri": "x"}\n', "line 1 is not UTF-8"),
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


# -- other people's manifests


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_nemo_manifests(tmp_path, kind):
    """With an offset, NeMo's duration is the length of the part; without, that of the file."""
    rows = [
        {"audio_filepath": "a.wav", "offset": 10.0, "duration": 2.5, "text": "one"},
        {"audio_filepath": f"{tmp_path}/b.wav", "offset": 0.0, "duration": 3.0, "text": "two"},
        {"audio_filepath": "s3://x/c.wav", "offset": None, "duration": 70.0, "text": "three"},
    ]
    table = list_table(write_manifest(tmp_path, rows, kind))
    assert table.column("id").to_pylist() == ["a.wav", f"{tmp_path}/b.wav", "s3://x/c.wav"]
    assert table.column("uri").to_pylist() == [f"{tmp_path}/a.wav", f"{tmp_path}/b.wav", "s3://x/c.wav"]
    pieces = cut_pieces(table, 30.0).select(["start", "end", "duration", "text"]).to_pylist()
    third = 70.0 / 3
    assert pieces == [
        {"start": 10.0, "end": 12.5, "duration": 2.5, "text": "one"},
        {"start": 0.0, "end": 3.0, "duration": 3.0, "text": "two"},
        {"start": 0.0, "end": third, "duration": pytest.approx(third), "text": "three"},
        {"start": third, "end": 2 * third, "duration": pytest.approx(third), "text": "three"},
        {"start": 2 * third, "end": None, "duration": pytest.approx(third), "text": "three"},
    ]


def test_nemo_parts_of_one_file_need_ids(tmp_path):
    rows = [{"audio_filepath": "a.wav", "offset": float(part), "duration": 1.0} for part in range(3)]
    path = write_manifest(tmp_path, rows)
    message = refusal(list_input, path)
    assert "'a.wav' stands twice" in message
    assert "add a column id" in message
    path = write_manifest(tmp_path, [{"id": f"a-{part}", **row} for part, row in enumerate(rows)])
    assert list_table(path).column("start").to_pylist() == [0.0, 1.0, 2.0]


def test_uri_goes_before_audio_filepath(tmp_path):
    path = write_manifest(tmp_path, [{"uri": "a.wav", "audio_filepath": "elsewhere.wav"}])
    (row,) = list_table(path).to_pylist()
    assert (row["id"], row["uri"], row["audio_filepath"]) == ("a.wav", f"{tmp_path}/a.wav", "elsewhere.wav")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_manifest_may_name_members_without_their_place(tmp_path, kind):
    write_tar(tmp_path / "x.tar", [("a.wav", b"first"), ("b.wav", b"second")])
    write_hf(tmp_path / "y.parquet", [(b"third", None)])
    rows = [
        {"uri": "x.tar", "member": "b.wav"},
        {"uri": "x.tar", "member": "a.wav"},
        {"uri": "y.parquet", "member": "0"},
    ]
    table = list_table(write_manifest(tmp_path, rows, kind))
    assert table.column("id").to_pylist() == ["x.tar/b.wav", "x.tar/a.wav", "y.parquet/0"]
    assert [open_row(row) for row in table.to_pylist()] == [b"second", b"first", b"third"]


def test_rows_are_counted_from_the_first_in_a_streamed_manifest(tmp_path):
    uris = [f"{row}.wav" for row in range(10_000)]
    uris[9_000] = None
    pq.write_table(pa.table({"id": [str(row) for row in range(10_000)], "uri": uris}), tmp_path / "m.parquet")
    listing = list_input(str(tmp_path / "m.parquet"))  # the first rows are fine
    message = refusal(lambda: list(listing.batches))
    assert "row 9001 has no uri" in message


def test_a_manifest_damaged_behind_its_first_rows_is_refused(tmp_path):
    """Its footer and first row groups are whole."""
    table = pa.table({"id": [str(row) for row in range(20_000)], "uri": [f"{row}.wav" for row in range(20_000)]})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=5_000, compression="gzip")
    data = bytearray((tmp_path / "m.parquet").read_bytes())
    start = pq.ParquetFile(tmp_path / "m.parquet").metadata.row_group(3).column(0).dictionary_page_offset
    data[start : start + 200] = b"\xff" * 200
    (tmp_path / "m.parquet").write_bytes(data)
    message = refusal(lambda: list(list_input(str(tmp_path / "m.parquet")).batches))
    assert f"{tmp_path}/m.parquet" in message


def test_a_manifest_may_be_read_from_a_folder_that_was_left(tmp_path, monkeypatch):
    pq.write_table(pa.table({"id": ["a"], "uri": ["a.wav"]}), tmp_path / "m.parquet")
    monkeypatch.chdir(tmp_path)
    listing = list_input("m.parquet")
    monkeypatch.chdir("/")
    assert ids_and_uris(listing) == [("a", f"{tmp_path}/a.wav")]


# -- manifests of pieces


def pieces_of(folder):
    rows = [{"id": name, "uri": f"{name}.wav", "duration": 75.0, "split": name} for name in ("a", "b")]
    write_pieces(list_input(write_manifest(folder, rows)), str(folder / "pieces.parquet"), 30.0)
    return folder / "pieces.parquet"


def test_pieces_pass_as_they_are(tmp_path):
    path = pieces_of(tmp_path)
    listing = list_input(str(path))
    assert listing.piece_seconds == 30.0
    table = read(listing)
    assert table.equals(pq.read_table(path).replace_schema_metadata(None))
    assert table.column("key").to_pylist() == ["a#0", "a#1", "a#2", "b#0", "b#1", "b#2"]
    found = list_table(path, Selection(where=("split=b",)))
    assert found.column("key").to_pylist() == ["b#0", "b#1", "b#2"]
    assert list_input(str(tmp_path / "manifest.jsonl")).piece_seconds is None


def test_pieces_that_stand_twice_are_refused(tmp_path):
    path = pieces_of(tmp_path)
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(4, 1)]), path)
    assert "'b#1' stands twice" in refusal(list_input, str(path))


@pytest.mark.parametrize("drop", ["key", "piece", "source_size", "uri"])
def test_pieces_without_one_of_their_columns_are_refused(tmp_path, drop):
    path = pieces_of(tmp_path)
    pq.write_table(pq.read_table(path).drop_columns([drop]), path)
    message = refusal(list_input, str(path))
    assert repr(drop) in message
    assert str(path) in message


@pytest.mark.parametrize("value", [b"long", b"nan", b"-1", b""])
def test_pieces_of_no_length_are_refused(tmp_path, value):
    path = pieces_of(tmp_path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({PIECE_SECONDS_KEY: value}), path)
    assert repr(value.decode()) in refusal(list_input, str(path))


def test_pieces_that_pandas_has_copied_are_refused_with_the_way_out(tmp_path):
    """It drops the metadata that tells their length."""
    path = pieces_of(tmp_path)
    pd.read_parquet(path).query("split == 'a'").to_parquet(tmp_path / "copy.parquet")
    assert "--where" in refusal(list_input, str(tmp_path / "copy.parquet"))
