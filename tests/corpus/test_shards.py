"""Shards: every member of a tar or row of a Parquet file is found, and read without the others."""

import tarfile
import threading
import tracemalloc
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_inputs import list_table, open_row, write_hf, write_tar

from sdhubert_ray import storage
from sdhubert_ray.corpus import shards
from sdhubert_ray.corpus.shards import find_audio, index_tar, open_audio
from sdhubert_ray.errors import AudioError
from sdhubert_ray.speech.audio import Span, read_audio

MEMBERS = [
    ("a.wav", b"first"),
    ("b" * 180 + "/c.wav", b"of a long name" * 100),
    ("sub/empty.wav", b""),
    ("sub/Übung ñ.wav", bytes(range(256)) * 5),
    ("last.wav", b"x" * 512),
]


def read(*place):
    with open_audio(*place) as file:
        return file.read()


def place(base, folder, name):
    """Put a file of the folder elsewhere, if asked, and return its URI."""
    if base == "local":
        return str(folder / name)
    uri = f"memory://{uuid.uuid4().hex}/{name}"
    storage.put(uri, (folder / name).read_bytes())
    return uri


# -- tars


@pytest.mark.parametrize("base", ["local", "remote"])
@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_by_range_or_by_name(tmp_path, fmt, base):
    write_tar(tmp_path / "x.tar", [("sub", None), *MEMBERS], fmt)
    uri = place(base, tmp_path, "x.tar")
    size = (tmp_path / "x.tar").stat().st_size
    for known in (None, size):
        members = index_tar(uri, known)
        assert [member.name for member in members] == [name for name, _ in MEMBERS]
        for member, (name, data) in zip(members, MEMBERS, strict=True):
            assert read(uri, name, member.offset, member.size, known) == data
            assert read(uri, name, None, None, known) == data
            assert read(uri, f"./{name}", None, None, known) == data


def test_a_part_of_a_file_is_its_own_file(tmp_path):
    """Seeking, telling and the end are those of the member, as decoders need them."""
    write_tar(tmp_path / "x.tar", MEMBERS)
    member = index_tar(str(tmp_path / "x.tar"))[1]
    with open_audio(str(tmp_path / "x.tar"), member.name, member.offset, member.size, None) as file:
        assert file.seek(0, 2) == len(MEMBERS[1][1])
        assert file.read() == b""
        assert file.seek(-4, 2) == len(MEMBERS[1][1]) - 4
        assert file.read(100) == b"name"
        assert file.seek(3) == file.tell() == 3
        assert file.read(1) == b"a"


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path, kind):
    """Python makes room for all of it first."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 40 << 30
    path = tmp_path / "x.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(20 * 512))
    tracemalloc.start()
    try:
        with pytest.raises(AudioError, match="a name in it is 42949672960 bytes long"):
            index_tar(str(path))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_member_of_less_than_no_bytes_is_refused(tmp_path):
    """Its end is its beginning: whoever reads on, reads it again."""
    header = bytearray(tarfile.TarInfo("b.wav").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(header) + bytes(20 * 512))
    with pytest.raises(AudioError, match=r"member 'b\.wav' is said to have -512 bytes"):
        index_tar(str(path))


def test_a_member_of_a_thousand_headers_is_refused(tmp_path):
    header = tarfile.TarInfo("p")
    header.type, header.size = tarfile.XHDTYPE, 12
    one = header.tobuf(tarfile.GNU_FORMAT) + b"12 foo=abcd\n" + bytes(500)
    path = tmp_path / "x.tar"
    path.write_bytes(one * 2000 + tarfile.TarInfo("a.wav").tobuf() + bytes(1024))
    with pytest.raises(AudioError, match="is damaged"):
        index_tar(str(path))


def test_joined_tars_of_the_oldest_kind(tmp_path):
    """V7 has no magic."""
    header = bytearray(tarfile.TarInfo("a.wav").tobuf(tarfile.USTAR_FORMAT))
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    one = bytes(header) + bytes(1024)
    (tmp_path / "x.tar").write_bytes(one + one.replace(b"a.wav", b"b.wav").replace(b"%06o" % sum(header), b"xx"))
    members = [bytes(header).replace(b"a.wav", b"b.wav")]
    second = bytearray(members[0])
    second[148:156] = b" " * 8
    second[148:156] = b"%06o\0 " % sum(second)
    (tmp_path / "x.tar").write_bytes(one + bytes(second) + bytes(1024))
    assert [member.name for member in index_tar(str(tmp_path / "x.tar"))] == ["a.wav", "b.wav"]


def test_a_row_group_that_claims_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    uri = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({"audio": [bytes(3000)] * 4, "note": ["x" * 9000] * 4}), uri, row_group_size=2)
    assert read(uri, "3", None, None, None) == bytes(3000)
    monkeypatch.setattr(shards, "MOST_GROUP_BYTES", 100)
    monkeypatch.setattr(shards, "_groups", shards._Recent(shards._read_group, 2))
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    with pytest.raises(AudioError, match=r"has 0\.0 GiB of audio in its row group 1, which is read at once"):
        read(uri, "3", None, None, None)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest", "s3://b/x.wav", "../../etc/passwd"]
)
@pytest.mark.parametrize("mixed", [True, False])
def test_a_shard_names_files_beside_it_only(tmp_path, name, mixed):
    """Whoever wrote it does not choose what workers fetch, with the credentials of who runs."""
    (tmp_path / "a.wav").write_bytes(b"beside")
    uri = write_hf(tmp_path / "x.parquet", [(b"held" if mixed else None, "b.wav"), (None, "a.wav"), (None, name)], 3)
    rows = list_table(uri).to_pylist()
    assert [row["uri"] for row in rows if row["uri"] == name] == []
    assert open_row(rows[1]) == b"beside"
    with pytest.raises(AudioError, match="that leads out of its folder"):
        open_row(rows[2])


def test_an_absent_member_is_missing(tmp_path):
    uri = write_tar(tmp_path / "x.tar", MEMBERS)
    with pytest.raises(FileNotFoundError, match=r"no member 'z\.wav'"):
        read(uri, "z.wav", None, None, None)
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "y.tar"), "a.wav", None, None, None)


def test_a_truncated_tar_is_never_taken_for_a_shorter_one(tmp_path):
    """Wherever it is cut: inside data, inside a header, between two members."""
    whole = write_tar(tmp_path / "whole.tar", MEMBERS)
    data = (tmp_path / "whole.tar").read_bytes()
    last = index_tar(whole)[-1]
    for end in [*range(0, last.offset + last.size, 173), *range(0, last.offset + last.size + 512, 512)]:
        (tmp_path / "cut.tar").write_bytes(data[:end])
        with pytest.raises(AudioError, match=r"truncated|empty file") as caught:
            index_tar(str(tmp_path / "cut.tar"))
        assert "\n" not in str(caught.value)


def test_a_damaged_header_is_not_the_end(tmp_path):
    write_tar(tmp_path / "x.tar", MEMBERS)
    data = bytearray((tmp_path / "x.tar").read_bytes())
    header = index_tar(str(tmp_path / "x.tar"))[-1].offset - 512
    data[header : header + 512] = bytes(range(256)) * 2
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(AudioError, match=f"damaged.*byte {header}"):
        index_tar(str(tmp_path / "x.tar"))


@pytest.mark.parametrize(("mode", "words"), [("w:gz", "compressed"), ("w:bz2", "compressed"), ("w:xz", "compressed")])
def test_a_compressed_tar_says_so_whatever_its_name(tmp_path, mode, words):
    with tarfile.open(tmp_path / "x.tar", mode) as tar:
        tar.addfile(tarfile.TarInfo("a.wav"))
    with pytest.raises(AudioError, match=words):
        index_tar(str(tmp_path / "x.tar"))


def test_what_is_no_tar_is_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"RIFF" + bytes(range(256)) * 20)
    with pytest.raises(AudioError, match="cannot be read as a tar"):
        index_tar(str(tmp_path / "x.tar"))


def test_links_and_sparse_files_have_a_flaw(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (
            ("hard.wav", tarfile.LNKTYPE),
            ("soft.wav", tarfile.SYMTYPE),
            ("pipe.wav", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.wav"
            tar.addfile(info)
        sparse = tarfile.TarInfo("sparse.wav")
        sparse.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(sparse)
    flaws = {member.name: member.flaw for member in index_tar(str(tmp_path / "x.tar"))}
    assert "link" in flaws["hard.wav"]
    assert "link" in flaws["soft.wav"]
    assert "regular" in flaws["pipe.wav"]
    assert "sparse" in flaws["sparse.wav"]
    with pytest.raises(AudioError, match="sparse"):
        read(str(tmp_path / "x.tar"), "sparse.wav", None, None, None)


# -- Parquet with audio bytes


@pytest.mark.parametrize("base", ["local", "remote"])
def test_rows_of_a_parquet_file(tmp_path, base):
    audio = [(f"sound {row}".encode() * 50, None) for row in range(23)]
    write_hf(tmp_path / "x.parquet", audio, row_group_size=5)
    uri = place(base, tmp_path, "x.parquet")
    for row in np.random.default_rng(0).permutation(23):
        assert read(uri, str(row), None, None, None) == audio[row][0]
    for member in ("23", "-1", "a.wav", "1.0"):
        with pytest.raises(FileNotFoundError, match=f"no row {member}.*23"):
            read(uri, member, None, None, None)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("name", ["audio", "bytes"])
def test_a_plain_column_of_bytes(tmp_path, name, kind):
    table = pa.table({"label": [1, 2, 3], name: pa.array([b"one", None, b"three"], kind)})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(str(tmp_path / "x.parquet"), "2", None, None, None) == b"three"
    with pytest.raises(AudioError, match="no audio bytes in row 1"):
        read(str(tmp_path / "x.parquet"), "1", None, None, None)


def test_null_bytes_with_a_path_are_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.wav").write_bytes(b"the file")
    uri = write_hf(tmp_path / "x.parquet", [(b"the bytes", "sub/b.wav"), (None, "sub/b.wav"), (None, None)])
    assert read(uri, "0", None, None, None) == b"the bytes"
    assert read(uri, "1", None, None, None) == b"the file"
    with pytest.raises(AudioError, match="row 2"):
        read(uri, "2", None, None, None)


def test_a_broken_parquet_is_no_audio(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(AudioError, match="Parquet"):
        read(str(tmp_path / "x.parquet"), "0", None, None, None)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(AudioError, match="no column of audio"):
        read(str(tmp_path / "y.parquet"), "0", None, None, None)


def test_a_row_group_is_read_once_for_many_threads(tmp_path):
    audio = [(bytes([row]) * 1000, None) for row in range(64)]
    uri = write_hf(tmp_path / "x.parquet", audio, row_group_size=16)
    found = {}
    barrier = threading.Barrier(16)

    def work(first):
        barrier.wait(60)
        for row in range(first, 64, 16):
            found[row] = read(uri, str(row), None, None, None)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found.get(row) for row in range(64)] == [data for data, _ in audio]


@pytest.mark.parametrize(
    ("schema", "name", "leaf"),
    [
        ([("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))], "audio", "audio.bytes"),
        ([("bytes", pa.binary()), ("text", pa.string())], "bytes", "bytes"),
        ([("audio", pa.string()), ("bytes", pa.large_binary())], "bytes", "bytes"),
        ([("audio", pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.int64())]))], None, None),
        ([("audio", pa.struct([("bytes", pa.string())]))], None, None),
        ([("image", pa.binary())], None, None),
    ],
)
def test_audio_columns_are_told_by_name_and_type(schema, name, leaf):
    found = find_audio(pa.schema(schema))
    assert (found and (found.name, found.leaf)) == (name and (name, leaf))


# -- the same audio


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 4), st.floats(0, 0.3), st.none() | st.floats(0.31, 3))
def test_the_same_samples_from_a_file_a_tar_and_parquet(golden, shards_of_golden, number, start, end):
    uris, offsets = shards_of_golden
    path = golden / "audio" / f"synth_{number}.flac"
    with path.open("rb") as file:
        expected = read_audio(file, Span(start, end))
    for uri, member in ((uris[0], path.name), (uris[1], str(number))):
        for offset, size in {(None, None), offsets.get((uri, member), (None, None))}:
            with open_audio(uri, member, offset, size, None) as file:
                found = read_audio(file, Span(start, end))
            np.testing.assert_array_equal(found.samples, expected.samples)
            assert (found.offset, found.duration) == (expected.offset, expected.duration)


@pytest.fixture(scope="module")
def shards_of_golden(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    paths = sorted((golden / "audio").glob("*.flac"))
    tar = write_tar(folder / "x.tar", [(path.name, path.read_bytes()) for path in paths])
    parquet = write_hf(folder / "x.parquet", [(path.read_bytes(), path.name) for path in paths])
    return (tar, parquet), {(tar, member.name): (member.offset, member.size) for member in index_tar(tar)}


def test_a_file_is_opened_as_it_is(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"0123456789")
    assert read(str(tmp_path / "a.wav"), None, None, None, None) == b"0123456789"
    # What a list says of a local file may be old: the file is asked.
    assert read(str(tmp_path / "a.wav"), None, None, None, 4) == b"0123456789"
    assert read(str(tmp_path / "a.wav"), None, 2, 5, 10) == b"23456"
