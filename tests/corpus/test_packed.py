"""Inputs of shards: tars and Parquet files with audio bytes are listed whole, or refused in one sentence."""

import tarfile
import unicodedata
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_inputs import HF_AUDIO, list_table, open_row, read, refusal, touch, write_hf, write_tar

from sdhubert_ray import storage
from sdhubert_ray.corpus import Selection, cut_pieces, list_input, write_manifest


def exhaust(source, *selection):
    return read(list_input(str(source), *selection))


def fill_shards(folder, count=3, each=4):
    """`count` tars of `each` audio members that hold their own ids, each with a sidecar; returns id -> bytes."""
    expected = {}
    for shard in range(count):
        members = []
        for row in range(each):
            name = f"sub/{row:03d}.wav"
            expected[f"shard-{shard:03d}/{name}"] = data = f"{shard} {row}".encode() * 40
            members += [(name, data), (f"sub/{row:03d}.json", b'{"text": "x"}')]
        write_tar(folder / f"shard-{shard:03d}.tar", members)
    return expected


# -- tars


@pytest.mark.parametrize("base", ["local", "remote"])
@pytest.mark.parametrize("how", ["folder", "glob", "braces"])
def test_tars_are_listed_in_order_and_read_by_range(tmp_path, monkeypatch, base, how):
    expected = fill_shards(tmp_path, 12)
    root = str(tmp_path)
    if base == "remote":
        root = f"memory://{uuid.uuid4().hex}"
        for path in tmp_path.iterdir():
            storage.put(f"{root}/{path.name}", path.read_bytes())
    pattern = {"folder": root, "glob": f"{root}/shard-*.tar", "braces": f"{root}/shard-{{000..011}}.tar"}[how]
    listing = list_input(pattern)
    rows = read(listing).to_pylist()
    assert [row["id"] for row in rows] == list(expected)
    assert listing.ignored == 48
    for row in rows:
        assert row["member"] == row["id"].partition("/")[2]
        assert open_row(row) == expected[row["id"]]
        assert row["byte_size"] == len(expected[row["id"]])
        assert row["source_size"] == (tmp_path / row["uri"].rpartition("/")[2]).stat().st_size


def test_one_tar_by_name(tmp_path, monkeypatch):
    expected = fill_shards(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    listing = list_input("shard-000.tar")
    monkeypatch.chdir("/")
    rows = read(listing).to_pylist()
    assert {row["id"]: open_row(row) for row in rows} == expected
    assert {row["uri"] for row in rows} == {f"{tmp_path}/shard-000.tar"}


def test_tars_of_one_name_in_two_folders(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", [("a.wav", b"x")])
    write_tar(tmp_path / "dev" / "0.tar", [("a.wav", b"y")])
    expected = ["dev/0/a.wav", "train/0/a.wav"]
    assert list_table(tmp_path).column("id").to_pylist() == expected
    assert list_table(f"{tmp_path}/{{dev,train}}/0.tar").column("id").to_pylist() == expected
    assert list_table(f"{tmp_path}/{{dev,train}}/*.tar").column("id").to_pylist() == expected
    assert list_table(tmp_path, Selection(splits=("train",))).column("id").to_pylist() == expected[1:]


def test_hidden_members_and_folders_are_no_audio(tmp_path):
    """As a Mac packs them, and as `tar cf x.tar .` names them."""
    path = write_tar(
        tmp_path / "x.tar", [("./", None), ("./a.wav", b"x"), ("./._a.wav", b"y"), ("./.cache/b.wav", b"z")]
    )
    listing = list_input(path)
    assert read(listing).column("id").to_pylist() == ["x/a.wav"]
    assert listing.ignored == 2


def test_members_above_their_folder_and_joined_tars(tmp_path):
    """`tar -P` keeps `../`; tars of parts are joined by `cat`."""
    one = write_tar(tmp_path / "one.tar", [("../a.wav", b"a" * 700), ("../b.wav", b"b"), ("../.c.wav", b"hidden")])
    write_tar(tmp_path / "two.tar", [("sub/c.wav", b"c" * 513), ("sub/d.txt", b"d")])
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("one.tar", "two.tar")))
    expected = {"../a.wav": b"a" * 700, "../b.wav": b"b", "sub/c.wav": b"c" * 513}
    rows = read(list_input(str(joined))).to_pylist()
    assert {row["id"]: open_row(row) for row in rows} == {f"joined/{name}": data for name, data in expected.items()}
    looked_up = {"uri": str(joined), "member": "sub/c.wav", "byte_offset": None, "byte_size": None}
    assert open_row({**rows[0], **looked_up}) == b"c" * 513
    assert [row["id"] for row in read(list_input(one)).to_pylist()] == ["one/../a.wav", "one/../b.wav"]
    (tmp_path / "broken.tar").write_bytes(joined.read_bytes()[:-9000])
    assert "truncated" in refusal(lambda: read(list_input(str(tmp_path / "broken.tar"))))


def test_a_member_whose_name_is_no_utf_8_is_refused_with_its_tar(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a\udce9.wav", b"x")])
    message = refusal(lambda: read(list_input(path)))
    assert path in message
    assert "not UTF-8" in message


def test_a_member_is_found_in_either_form_of_unicode(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é.wav") for form in ("NFC", "NFD"))
    path = write_tar(tmp_path / "x.tar", [(decomposed, b"x")])
    for name in (composed, decomposed):
        row = {"uri": path, "member": name, "byte_offset": None, "byte_size": None, "source_size": None}
        assert open_row(row) == b"x"


def test_more_members_than_a_batch(tmp_path):
    names = [f"{row:05d}.wav" for row in range(9_000)]
    path = write_tar(tmp_path / "x.tar", [(name, b"") for name in names])
    assert list_table(path).column("member").to_pylist() == names


def test_a_broken_shard_is_refused_by_name(tmp_path):
    fill_shards(tmp_path, 4)
    path = tmp_path / "shard-002.tar"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    message = refusal(exhaust, tmp_path)
    assert str(path) in message
    assert "truncated" in message
    path.write_bytes(b"")
    assert f"{path} is an empty file" in refusal(exhaust, tmp_path)
    path.unlink()
    assert f"{path} does not exist" in refusal(exhaust, f"{tmp_path}/shard-{{000..003}}.tar")


def test_a_tar_without_audio_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.txt", b"x"), ("b.json", b"{}")])
    message = refusal(list_input, path)
    assert path in message
    assert "none of 2 members has an audio ending" in message
    assert "none of 0 members" in refusal(list_input, write_tar(tmp_path / "y.tar", []))


def test_a_member_that_cannot_be_read_by_range_is_refused_and_not_lost(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.wav"))
        link = tarfile.TarInfo("b.wav")
        link.type, link.linkname = tarfile.LNKTYPE, "a.wav"
        tar.addfile(link)
    message = refusal(list_input, str(tmp_path / "x.tar"))
    assert "'b.wav'" in message
    assert "link" in message


def test_a_member_that_stands_twice_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.wav", b"x"), ("a.wav", b"y")])
    message = refusal(list_input, path)
    assert "'x/a.wav' stands twice" in message
    assert message.count(path) >= 2


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst"])
def test_compressed_tars_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.wav"))
    for source in (f"{tmp_path}/{name}", str(tmp_path), f"{tmp_path}/x*", f"{tmp_path}/{{{name},{name}}}"):
        assert "compressed tar" in refusal(list_input, source), source


def test_files_of_two_kinds_are_refused(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.wav", b"x")])
    touch(tmp_path, "a.wav", "z.wav")
    for source in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/{{a.wav,x.tar}}"):
        message = refusal(exhaust, source)
        assert "two kinds" in message
        assert "a.wav" in message
        assert "x.tar" in message
    assert list_table(f"{tmp_path}/*.wav").column("id").to_pylist() == ["a.wav", "z.wav"]
    assert list_table(f"{tmp_path}/*.tar").column("id").to_pylist() == ["x/a.wav"]


def test_an_archive_beside_what_was_unpacked_from_it_is_ignored(tmp_path):
    touch(tmp_path, "LibriSpeech/a.flac", "dev-clean.tar.gz", "metadata.parquet")
    listing = list_input(str(tmp_path))
    assert read(listing).column("id").to_pylist() == ["LibriSpeech/a.flac"]
    assert listing.ignored == 2


# -- Parquet with audio bytes


AUDIO = [(f"sound {row}".encode() * 30, f"clip_{row}.wav") for row in range(7)]


def test_the_form_of_the_datasets_hub(tmp_path):
    write_hf(tmp_path / "data" / "train-0.parquet", AUDIO[:4], text=list("abcd"), speaker_id=[1, 2, 3, 4])
    write_hf(tmp_path / "data" / "train-1.parquet", AUDIO[4:], text=list("efg"), speaker_id=[5, 6, None])
    for source in (tmp_path, f"{tmp_path}/data/train-*.parquet", f"{tmp_path}/data/train-{{0..1}}.parquet"):
        table = list_table(source)
        assert table.column("id").to_pylist() == [name for _, name in AUDIO]
        assert table.column("text").to_pylist() == list("abcdefg")
        assert table.column("speaker_id").to_pylist() == [1, 2, 3, 4, 5, 6, None]
        assert set(table.column_names) == {
            *("id", "uri", "member", "source_size", "source_version", "text", "speaker_id"),
        }
        assert [open_row(row) for row in table.to_pylist()] == [data for data, _ in AUDIO]


def test_as_pandas_writes_it(tmp_path):
    frame = pd.DataFrame(
        {
            "audio": [{"bytes": data, "path": name} for data, name in AUDIO],
            "lang": pd.Categorical(["de", "en"] * 3 + ["de"]),
        }
    )
    frame.to_parquet(tmp_path / "x.parquet")
    table = list_table(tmp_path / "x.parquet")
    assert table.column("lang").to_pylist() == ["de", "en"] * 3 + ["de"]
    assert table.schema.field("lang").type == pa.string()
    assert [open_row(row) for row in table.to_pylist()] == [data for data, _ in AUDIO]


@pytest.mark.parametrize("names", [["a.wav", "b.wav", "a.wav"], ["a.wav", None, "b.wav"], ["a.wav", "", "c.wav"]])
def test_file_names_are_ids_only_where_they_tell_rows_apart(tmp_path, names):
    write_hf(tmp_path / "x-0.parquet", [(b"0", names[0]), (b"1", names[1])])
    write_hf(tmp_path / "x-1.parquet", [(b"2", names[2])])
    table = list_table(tmp_path)
    assert table.column("id").to_pylist() == ["x-0/0", "x-0/1", "x-1/0"]
    assert [open_row(row) for row in table.to_pylist()] == [b"0", b"1", b"2"]


def test_an_id_column_goes_first(tmp_path):
    path = write_hf(tmp_path / "x.parquet", AUDIO[:3], id=[7, 8, 9])
    assert list_table(path).column("id").to_pylist() == ["7", "8", "9"]
    path = write_hf(tmp_path / "x.parquet", AUDIO[:3], id=["7", "8", "7"])
    message = refusal(exhaust, path)
    assert "'7' stands twice" in message
    assert f"{path} (0)" in message
    assert f"{path} (2)" in message
    path = write_hf(tmp_path / "x.parquet", AUDIO[:3], id=["7", "", "9"])
    assert "row 2 has no id" in refusal(list_input, path)


def test_a_plain_column_of_bytes_without_anything_else(tmp_path):
    pq.write_table(pa.table({"bytes": [data for data, _ in AUDIO]}), tmp_path / "x.parquet", row_group_size=3)
    table = list_table(tmp_path / "x.parquet")
    assert table.column("id").to_pylist() == [f"x/{row}" for row in range(7)]
    assert [open_row(row) for row in table.to_pylist()] == [data for data, _ in AUDIO]


def test_rows_without_bytes_name_files(tmp_path):
    for _, name in AUDIO[:4]:
        (tmp_path / name).write_bytes(f"file {name}".encode())
    audio = [(None, name) for _, name in AUDIO[:2]] + [AUDIO[2], (None, AUDIO[3][1])]
    rows = list_table(write_hf(tmp_path / "x.parquet", audio, row_group_size=2)).to_pylist()
    assert [row["uri"] for row in rows[:2]] == [f"{tmp_path}/{name}" for _, name in AUDIO[:2]]
    assert [row["member"] for row in rows[:2]] == [None, None]
    assert [open_row(row) for row in rows] == [b"file clip_0.wav", b"file clip_1.wav", AUDIO[2][0], b"file clip_3.wav"]


def test_no_bytes_are_carried(tmp_path):
    write_hf(
        tmp_path / "x.parquet",
        AUDIO[:2],
        image=pa.array([{"bytes": b"x", "path": "y"}] * 2, HF_AUDIO),
        blob=[b"x", b"y"],
        blobs=[[b"x"], []],
        duration=[1.5, 2.5],
        words=[["a"], ["b", "c"]],
    )
    table = list_table(tmp_path / "x.parquet")
    assert {"image", "blob", "blobs", "audio"}.isdisjoint(table.column_names)
    assert table.column("words").to_pylist() == [["a"], ["b", "c"]]
    assert cut_pieces(table, 600.0).column("duration").to_pylist() == [1.5, 2.5]


@pytest.mark.parametrize("name", ["uri", "member", "key", "status", "byte_offset"])
def test_columns_that_are_taken(tmp_path, name):
    assert repr(name) in refusal(list_input, write_hf(tmp_path / "x.parquet", AUDIO[:1], **{name: ["1"]}))


def test_shards_of_other_columns_are_refused(tmp_path):
    write_hf(tmp_path / "0.parquet", AUDIO[:2], text=["a", "b"])
    write_hf(tmp_path / "1.parquet", AUDIO[2:4], words=["c", "d"])
    message = refusal(exhaust, tmp_path)
    assert "0.parquet" in message
    assert "1.parquet" in message
    write_hf(tmp_path / "1.parquet", AUDIO[2:4], text=pa.array([[1], [2]]))
    assert f"{tmp_path}/1.parquet" in refusal(exhaust, tmp_path)
    pq.write_table(pa.table({"text": ["c"]}), tmp_path / "1.parquet")
    message = refusal(exhaust, tmp_path)
    assert f"{tmp_path}/1.parquet" in message
    assert "audio" in message


def test_parquet_without_audio(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    assert "audio" in refusal(list_input, str(tmp_path))
    assert "no column 'uri'" in refusal(list_input, str(tmp_path / "x.parquet"))
    (tmp_path / "x.parquet").write_bytes(b"no Parquet")
    assert "x.parquet" in refusal(list_input, str(tmp_path))
    write_hf(tmp_path / "x-0.parquet", AUDIO)
    assert "x-1.parquet does not exist" in refusal(exhaust, f"{tmp_path}/x-{{0..1}}.parquet")


def test_a_parquet_of_no_rows(tmp_path):
    assert "no rows" in refusal(list_input, write_hf(tmp_path / "x.parquet", []))


# -- the same audio


def test_a_folder_tars_and_parquet_have_the_same_lengths(tmp_path, golden):
    paths = sorted((golden / "audio").glob("*.flac"))
    audio = [(path.name, path.read_bytes()) for path in paths]
    write_tar(tmp_path / "tars" / "0.tar", audio[:2])
    write_tar(tmp_path / "tars" / "1.tar", audio[2:])
    write_hf(tmp_path / "hf" / "x.parquet", [(data, name) for name, data in audio])
    cut = [cut_pieces(list_table(source), 1.0) for source in (golden / "audio", tmp_path / "tars", tmp_path / "hf")]
    for table in cut[1:]:
        for name in ("piece", "num_pieces", "start", "end", "duration"):
            np.testing.assert_array_equal(table.column(name).to_numpy(), cut[0].column(name).to_numpy())
    assert len(cut[0]) > len(paths)
    assert [name.rpartition("/")[2] for name in cut[1].column("id").to_pylist()] == cut[0].column("id").to_pylist()
    assert cut[2].column("id").to_pylist() == cut[0].column("id").to_pylist()


def test_the_same_audio_in_an_object_store(tmp_path, golden, s3_bucket):
    """As a prefix, tars, a Parquet file and a manifest of its own, all on S3: the same bytes under the same names."""
    paths = sorted((golden / "audio").glob("*.flac"))
    audio = [(path.name, path.read_bytes()) for path in paths]
    write_tar(tmp_path / "tars" / "0.tar", audio[:2])
    write_tar(tmp_path / "tars" / "1.tar", audio[2:])
    write_hf(tmp_path / "hf" / "x.parquet", [(data, name) for name, data in audio])
    for path in (*paths, *(tmp_path / "tars").iterdir(), *(tmp_path / "hf").iterdir()):
        storage.put(f"{s3_bucket}/{path.parent.name}/{path.name}", path.read_bytes())
    inputs = ["audio", "audio/*.flac", "audio/synth_{0..4}.flac", "tars", "tars/{0..1}.tar", "hf/x.parquet"]
    for name in inputs:
        write_manifest(list_input(f"{s3_bucket}/{name}"), f"{s3_bucket}/manifest.parquet", 600.0)
        rows = list_table(f"{s3_bucket}/manifest.parquet").to_pylist()
        assert [row["id"].rpartition("/")[2] for row in rows] == [path.name for path in paths], name
        assert [open_row(row) for row in rows] == [data for _, data in audio], name
        assert all(row["uri"].startswith(s3_bucket) for row in rows)
        assert all(row["duration"] > 0 and row["source_size"] and row["source_version"] for row in rows)
    assert "does not exist" in refusal(exhaust, f"{s3_bucket}/tars/{{0..2}}.tar")
    assert "does not exist" in refusal(exhaust, f"{s3_bucket}/nothing")
