"""Several inputs together, and lists that are piped in: every recording once, under a name that stays."""

import io
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_inputs import fill, ids_and_uris, read, refusal, touch, write_manifest, write_tar

from sdhubert_ray import storage
from sdhubert_ray.corpus import Selection, list_input, list_inputs, name_inputs, read_list
from sdhubert_ray.corpus import write_manifest as write_pieces
from sdhubert_ray.corpus.selection import BATCH_ROWS


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with recordings below it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fill("local", tmp_path, "here/one/a.wav", "here/one/x/b.wav", "here/two/a.wav", "here/c.flac", "away/d.wav")
    return tmp_path / "here"


def test_ids_are_paths_from_the_working_directory_or_whole(here):
    remote = fill("remote", None, "deep/e.wav")
    inputs = ["one", f"{here}/two/", "./c.flac", "../away", f"{remote}/deep"]
    found = ids_and_uris(list_inputs(inputs))
    away = str(here.parent / "away").lstrip("/")
    expected = ["one/a.wav", "one/x/b.wav", "two/a.wav", "c.flac", f"{away}/d.wav", f"{remote[9:]}/deep/e.wav"]
    assert [file_id for file_id, _ in found] == expected
    for file_id, uri in found:
        assert storage.read_bytes(uri).decode().endswith(file_id.rpartition("/")[2])


def test_one_input_alone_is_listed_as_ever(here):
    assert ids_and_uris(list_inputs(["one"])) == ids_and_uris(list_input("one"))
    assert ids_and_uris(list_inputs(["one/*.wav"]))[0][0] == "a.wav"


def test_globs_braces_and_shards_beside_folders(here):
    write_tar(here / "s.tar", [("m.wav", b""), ("n.txt", b"")])
    message = refusal(list_inputs, ["one/**/*.wav", "{two,one}/a.wav", "s.tar"])
    assert "id 'one/a.wav' stands twice" in message
    assert message.endswith("an input that is in another one is listed twice")
    listing = list_inputs(["one/x/*.wav", "{two,one}/a.wav", "s.tar"])
    assert read(listing).column("id").to_pylist() == ["one/x/b.wav", "two/a.wav", "one/a.wav", "s/m.wav"]
    assert listing.ignored == 1


def test_manifests_keep_their_names_and_columns_are_joined(here):
    first = write_manifest(here, [{"id": "7", "uri": "one/a.wav", "speaker": "s1"}])
    table = read(list_inputs([first, "two", "one/x"]))
    assert table.column("id").to_pylist() == ["7", "two/a.wav", "one/x/b.wav"]
    assert table.column("speaker").to_pylist() == ["s1", None, None]
    assert table.column_names[-1] == "speaker"  # what is carried comes last
    assert table.column("source_size").to_pylist()[0] is None
    (here / "other.jsonl").write_text(json.dumps({"id": "8", "uri": "two/a.wav", "speaker": 3}) + "\n")
    message = refusal(list_inputs, [first, "other.jsonl"])
    assert "column 'speaker' is string in manifest" in message
    assert "int64 in manifest other.jsonl; rename one" in message


def test_selection_is_over_all_of_them(here):
    table = read(list_inputs(["one", "two"], Selection(limit=2)))
    assert table.num_rows == 2
    touch(here, "p/test/f.wav", "q/test/g.wav", "q/dev/h.wav")
    assert read(list_inputs(["p", "q"], Selection(splits=("test",)))).column("id").to_pylist() == [
        "p/test/f.wav",
        "q/test/g.wav",
    ]
    assert "has no split 'dev'" in refusal(list_inputs, ["p", "q"], Selection(splits=("dev",)))


def test_pieces_and_recordings_do_not_mix(here, golden):
    for seconds in (30.0, 60.0):
        write_pieces(list_input(str(golden / "audio")), f"{seconds:.0f}.parquet", seconds)
    for other in ("60.parquet", str(golden / "audio")):
        assert "pieces of different lengths, or no pieces" in refusal(list_inputs, ["30.parquet", other])
    listing = list_inputs(["30.parquet"])
    assert listing.piece_seconds == 30.0


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (["one", "three"], "input three does not exist"),
        (["one", "three"], "of several paths the last is where it is written to"),
        (["one", "empty"], "input folder empty has no audio: it holds no files"),
        (["one", "one"], "stands twice"),
        (["-"], "is a list on standard input, which only a command reads"),
    ],
)
def test_what_is_wrong_with_one_is_said_of_that(here, inputs, sentence):
    (here / "empty").mkdir()
    assert sentence in refusal(lambda: read(list_inputs(inputs)))


def test_many_inputs_come_in_few_batches(here):
    names = [f"many/{number:04d}.wav" for number in range(300)]
    touch(here, *names)
    batches = list(list_inputs(names).batches)
    assert [len(batch) for batch in batches] == [300]
    assert BATCH_ROWS >= 300
    assert pa.concat_tables(batches).column("id").to_pylist() == names


# -- lists on standard input


def piped(*names):
    return list_inputs(["-"], piped=names)


def test_a_list_names_files_of_one_kind(here):
    found = ids_and_uris(piped("two/a.wav", str(here / "one" / "a.wav"), "../here/c.flac"))
    assert found == [
        ("two/a.wav", f"{here}/two/a.wav"),
        ("one/a.wav", f"{here}/one/a.wav"),
        ("c.flac", f"{here}/c.flac"),
    ]
    assert ids_and_uris(list_inputs(["one/x", "-"], piped=["c.flac"])) == [
        ("one/x/b.wav", f"{here}/one/x/b.wav"),
        ("c.flac", f"{here}/c.flac"),
    ]
    write_tar(here / "s.tar", [("m.wav", b"")])
    assert read(piped("s.tar")).column("id").to_pylist() == ["s/m.wav"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["one/a.wav", "none.wav"], "none.wav does not exist; correct its name"),
        (["one/a.wav", "two"], "two is a folder; name the files in it, or that alone"),
        (["one/a.wav", "one/a.wav"], "id 'one/a.wav' stands twice"),
        (["one/a.wav", "s.tar"], "the list on standard input names files of two kinds"),
        (["s.tar.gz"], "the list on standard input names s.tar.gz, which is a compressed tar"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(here, names, sentence):
    assert sentence in refusal(lambda: read(piped(*names)))


NAMES = st.lists(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"])), max_size=6)


@given(NAMES.filter(lambda names: any(name.strip() for name in names)), st.sampled_from(["\n", "\r\n", "\0"]))
def test_lines_of_a_list_are_its_names(names, separator):
    written = separator.join(names).encode()
    if separator == "\0" and len(names) == 1:
        written += b"\0"
    assert read_list(io.BytesIO(written)) == [name for name in names if name.strip()]


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \n", b"\0\0"])
def test_an_empty_list_is_refused(data):
    assert "standard input is empty" in refusal(read_list, io.BytesIO(data))


def test_what_several_are_called():
    assert name_inputs(["a"]) == "a"
    assert name_inputs(["a", "-"]) == "a, standard input"
    assert name_inputs([*"abcde"]) == "a, b, c and 2 more"
