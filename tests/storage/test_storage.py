"""Files by URI: whole or not at all, found once each, the same here and in an object store."""

import errno
import fcntl
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from s3 import draw_part, read_at_will

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError

OLD, NEW = b"old " * 100, b"new " * 1_000_000


@pytest.fixture
def bucket():
    """A folder of a filesystem that is not this machine's."""
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    storage.remove_own(name, lambda path: True)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def write_tree(root, names):
    for name in names:
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


# -- put


def test_put_makes_folders_and_replaces(tmp_path):
    target = str(tmp_path / "a" / "b" / "c.bin")
    storage.put(target, b"one")
    assert storage.read_bytes(target) == b"one"
    storage.put(target, (part for part in (b"t", b"", b"wo")))
    assert storage.read_bytes(target) == b"two"
    assert names_in(tmp_path / "a" / "b") == ["c.bin"]


@pytest.mark.parametrize("before", [None, OLD])
def test_a_writer_killed_in_the_middle_leaves_the_old_file_or_none(tmp_path, before):
    target = tmp_path / "file.bin"
    if before is not None:
        target.write_bytes(before)
    writer = """
import sys, time
from sdhubert_ray import storage

def parts():
    yield b"x" * 1_000_000
    print("half", flush=True)
    time.sleep(60)
    yield b"y"

storage.put(sys.argv[1], parts())
"""
    with subprocess.Popen([sys.executable, "-c", writer, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (target.read_bytes() if target.exists() else None) == before
    # What lies around is hidden from whoever lists the folder.
    assert storage.list_files(str(tmp_path)) == ([] if before is None else ["file.bin"])


def test_a_writer_killed_at_any_time_leaves_a_whole_file(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(OLD)
    writer = """
import itertools, sys
from sdhubert_ray import storage

for fill in itertools.cycle((b"a", b"b")):
    storage.put(sys.argv[1], fill * 3_000_000)
    print("put", flush=True)
"""
    choose = random.Random(0)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", writer, str(target)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(choose.uniform(0, 0.1))
            process.kill()
        data = target.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def test_parts_that_fail_leave_no_trace(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(OLD)

    def parts():
        yield NEW
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        storage.put(str(target), parts())
    assert target.read_bytes() == OLD
    assert names_in(tmp_path) == ["file.bin"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "below" / "x", tmp_path / "folder"):
        with pytest.raises(UserError) as caught:
            storage.put(str(target), NEW)
        assert str(target) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_bytes() == OLD
    assert names_in(tmp_path) == ["file", "folder"]


def test_a_remote_place_that_cannot_be_written_is_one_sentence(bucket, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(UserError, match=f"{bucket}/x cannot be written.*Access Denied"):
        storage.put(f"{bucket}/x", NEW)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_what_the_user_asks_of_new_files(tmp_path, umask):
    before = os.umask(umask)
    try:
        storage.put(str(tmp_path / "put"), b"")
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    assert oct((tmp_path / "put").stat().st_mode) == oct((tmp_path / "plain").stat().st_mode)


# -- create


def test_one_of_many_creates_a_file(tmp_path):
    for number in range(20):
        target = str(tmp_path / str(number))
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, target=target: storage.create(target, bytes([who]) * 1000), range(8)))
        assert sum(won) == 1
        assert storage.read_bytes(target) == bytes([won.index(True)]) * 1000
    assert len(names_in(tmp_path)) == 20


@pytest.mark.parametrize("base", ["local", "remote"])
def test_only_what_is_still_there_is_replaced(tmp_path, request, base):
    folder = str(tmp_path) if base == "local" else request.getfixturevalue("bucket")
    target = f"{folder}/x"
    assert not storage.replace(target, b"one", b"two")
    assert not storage.exists(target)
    storage.put(target, b"one")
    assert not storage.replace(target, b"other", b"two")
    assert storage.read_bytes(target) == b"one"
    assert storage.replace(target, b"one", b"two")
    assert storage.read_bytes(target) == b"two"


def test_one_of_many_replaces_a_file(tmp_path):
    for number in range(20):
        target = str(tmp_path / str(number))
        storage.put(target, b"old")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, target=target: storage.replace(target, b"old", bytes([who])), range(8)))
        assert sum(won) == 1
        assert storage.read_bytes(target) == bytes([won.index(True)])
    assert len(names_in(tmp_path)) == 20


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EACCES, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_replaces_too(tmp_path, monkeypatch, number):
    def refuse(held, _):
        assert held.writable()  # NFS asks for that
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    storage.put(str(tmp_path / "x"), b"one")
    assert storage.replace(str(tmp_path / "x"), b"one", b"two")
    assert not storage.replace(str(tmp_path / "x"), b"one", b"three")
    assert storage.read_bytes(str(tmp_path / "x")) == b"two"


def test_a_file_system_without_hard_links_creates_too(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    target = str(tmp_path / "x")
    assert storage.create(target, b"one")
    assert not storage.create(target, b"two")
    assert storage.read_bytes(target) == b"one"
    assert names_in(tmp_path) == ["x"]


def test_what_cannot_be_created_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(UserError, match="file/x cannot be written"):
        storage.create(str(tmp_path / "file" / "x"), NEW)


# -- parts


WHOLE = random.Random(1).randbytes(1000)


@settings(deadline=None)
@given(st.data())
def test_a_part_reads_as_the_slice_of_its_file(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(WHOLE)
        start, size = draw_part(data, len(WHOLE))
        with storage.open_binary(str(path), start=start, size=size) as file:
            read_at_will(data, file, WHOLE[start : None if size is None else start + size])


def test_a_name_is_found_in_either_form_of_unicode(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Zoë.wav") for form in ("NFC", "NFD"))
    (tmp_path / decomposed).write_bytes(b"d")
    assert storage.read_bytes(str(tmp_path / composed)) == b"d"
    (tmp_path / composed).write_bytes(b"c")
    assert storage.read_bytes(str(tmp_path / composed)) == b"c"
    assert storage.read_bytes(str(tmp_path / decomposed)) == b"d"


def test_a_folder_and_a_file_may_be_of_different_forms(tmp_path):
    """A folder that was made on Linux, with files from a Macintosh."""
    folder, name = unicodedata.normalize("NFC", "Zoë"), unicodedata.normalize("NFD", "été.wav")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).write_bytes(b"x")
    for form in ("NFC", "NFD"):
        uri = unicodedata.normalize(form, f"{tmp_path}/{folder}/{name}")
        assert storage.exists(uri)
        assert storage.stat(uri).size == 1
        assert storage.read_bytes(uri) == b"x"
        assert storage.is_folder(uri.rpartition("/")[0])


def test_a_name_that_no_file_can_have_is_there_nowhere(tmp_path):
    for name in ("x" * 300, "ë" * 200):
        assert not storage.exists(f"{tmp_path}/{name}")
        assert not storage.is_folder(f"{tmp_path}/{name}/x")


def test_a_file_that_is_shorter_than_was_known_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(OSError, match="has 5 bytes, 7 were expected"):
        storage.open_binary(str(tmp_path / "x"), start=3, size=4)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that opens and cannot be read")
def test_an_error_that_a_callback_cannot_raise_is_kept():
    with storage.open_binary("/proc/self/mem") as file:
        storage.raise_if_failed(file)
        assert file.readinto(bytearray(8)) == 0
        assert file.readinto(bytearray(8)) == 0
        for call in (lambda: storage.raise_if_failed(file), lambda: file.read(1)):
            with pytest.raises(OSError, match="Input/output error"):
                call()


# -- JSON


def test_a_json_object_is_read_or_none_where_there_is_no_file(tmp_path, bucket):
    for root in (str(tmp_path), bucket):
        uri = storage.join(root, "x.json")
        assert storage.read_json(uri) is None
        storage.put(uri, b'{"a": 1}')
        assert storage.read_json(uri) == {"a": 1}
    assert storage.read_json(str(tmp_path / "x.json" / "below")) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        storage.read_json(str(tmp_path / "x.json"))


# -- list


@pytest.mark.parametrize("base", ["local", "remote", "s3"])
def test_hidden_files_are_left_out_and_the_rest_is_in_order(tmp_path, request, base):
    names = ["b.wav", "a/z.wav", "a/b/c.wav", "a.wav", "B.wav", ".hidden", "a/.hidden", ".git/x.wav", "a/.x/y.wav"]
    root = str(tmp_path) if base == "local" else request.getfixturevalue("bucket" if base == "remote" else "s3_bucket")
    for name in names:
        storage.put(storage.join(root, name), b"")
    assert storage.list_files(root) == ["B.wav", "a.wav", "a/b/c.wav", "a/z.wav", "b.wav"]
    assert storage.list_files(root + "/") == storage.list_files(root)


names = st.lists(
    st.sampled_from(["a", "b", "a-", "a.", "c d", "ä", "x.wav", ".h", "[1]", "e*", "#", "50%"]), min_size=1, max_size=3
)


@settings(deadline=None, max_examples=25)
@given(st.lists(names.map("/".join), max_size=8, unique=True))
def test_local_and_remote_folders_list_the_same_files_each_once(found):
    # A name is either a file or a folder.
    files = [name for name in found if not any(other.startswith(f"{name}/") for other in found)]
    expected = sorted(name for name in files if not any(part.startswith(".") for part in name.split("/")))
    remote = f"memory://{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as local:
        write_tree(local, files)
        for name in files:
            storage.put(storage.join(remote, name), name.encode())
        assert storage.list_files(local) == expected
        if files:
            assert storage.list_files(remote) == expected
        for root, name in itertools.product((local, remote), expected):
            assert storage.read_bytes(storage.join(root, name)) == name.encode()
    storage.remove_own(remote, lambda path: True)


def link_to_itself(root):
    (root / "loop").symlink_to(root)
    return root


def link_to_a_parent(root):
    (root / "sub" / "loop").symlink_to(root)
    return root


def links_to_each_other(root):
    (root / "sub" / "other").symlink_to(root / "next")
    (root / "next" / "other").symlink_to(root / "sub")
    return root


def reached_by_a_link(root):
    """/data -> /mnt/disk1 is how corpora are mounted."""
    (root / "loop").symlink_to(root)
    (root.parent / "link").symlink_to(root)
    return root.parent / "link"


@pytest.mark.parametrize("make", [link_to_itself, link_to_a_parent, links_to_each_other, reached_by_a_link])
def test_loops_of_links_end(tmp_path, make):
    root = tmp_path / "root"
    write_tree(root, ["a.wav", "sub/b.wav", "next/c.wav"])
    found = storage.list_files(str(make(root)))
    assert {"a.wav", "sub/b.wav", "next/c.wav"} <= set(found)
    # Two links may show a file at another place once more, but no loop is walked again and again.
    assert len(found) <= 5, found


def test_linked_folders_and_files_are_listed(tmp_path):
    write_tree(tmp_path, ["corpus/a.wav", "elsewhere/b.wav"])
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "c.wav").symlink_to(tmp_path / "elsewhere" / "b.wav")
    assert storage.list_files(str(tmp_path / "corpus")) == ["a.wav", "c.wav", "linked/b.wav"]


def test_two_names_of_one_folder_are_both_listed(tmp_path):
    """spk2 -> spk1 is no loop: a folder and a glob show the same files, under both names."""
    write_tree(tmp_path, ["spk1/a.wav"])
    (tmp_path / "spk2").symlink_to(tmp_path / "spk1")
    assert storage.list_files(str(tmp_path)) == ["spk1/a.wav", "spk2/a.wav"]
    for pattern in ("*/a.wav", "**/*.wav"):
        found = storage.expand_glob(f"{tmp_path}/{pattern}")
        assert found == [f"{tmp_path}/spk1/a.wav", f"{tmp_path}/spk2/a.wav"]


def test_a_link_to_itself_is_listed_as_the_missing_file_it_is(tmp_path):
    write_tree(tmp_path, ["a.wav"])
    (tmp_path / "self.wav").symlink_to("self.wav")
    assert storage.list_files(str(tmp_path)) == ["a.wav", "self.wav"]
    assert [Path(name).name for name in storage.expand_glob(f"{tmp_path}/*")] == ["a.wav", "self.wav"]
    with pytest.raises(OSError, match=r"self\.wav"):
        storage.open_binary(str(tmp_path / "self.wav"))


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nothing cannot be listed"):
        storage.list_files(str(tmp_path / "nothing"))


# -- globs


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.wav", ["a.wav", "b.wav"]),
        ("?.wav", ["a.wav", "b.wav"]),
        ("[bc].wav", ["b.wav"]),
        ("*/*.wav", ["sub/c.wav"]),
        ("**/*.wav", ["a.wav", "b.wav", "sub/c.wav", "sub/deep/d.wav"]),
        ("*", ["a.wav", "b.wav", "notes.txt"]),
        ("*.flac", []),
    ],
)
@pytest.mark.parametrize("base", ["local", "remote", "s3", "file://", "relative"])
def test_globs(tmp_path, request, monkeypatch, base, pattern, expected):
    stores = {"remote": "bucket", "s3": "s3_bucket"}
    root = request.getfixturevalue(stores[base]) if base in stores else str(tmp_path)
    files = ["b.wav", "a.wav", "sub/c.wav", "sub/deep/d.wav", "notes.txt"]
    write_tree(tmp_path, files)
    for name in files if base in stores else []:
        storage.put(storage.join(root, name), name.encode())
    monkeypatch.chdir(tmp_path)
    prefix = {"relative": "", "file://": f"file://{root}/"}.get(base, f"{root}/")
    found = storage.expand_glob(prefix + pattern)
    assert found == sorted(found)
    assert [storage.read_bytes(uri).decode() for uri in found] == expected


def test_a_glob_matches_a_file_once_though_a_link_leads_round(tmp_path):
    write_tree(tmp_path, ["a.wav", "sub/b.wav"])
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    found = storage.expand_glob(str(tmp_path / "**" / "*.wav"))
    assert len(found) == len({os.path.realpath(name) for name in found}), f"{len(found)} for 2 files"


def test_a_relative_glob_works_in_a_folder_of_any_name(tmp_path, monkeypatch):
    write_tree(tmp_path, ["[2024] take*/a.wav"])
    monkeypatch.chdir(tmp_path / "[2024] take*")
    assert [Path(name).name for name in storage.expand_glob("*.wav")] == ["a.wav"]


@pytest.mark.parametrize(("uri", "expected"), [("a/b.wav", False), ("a/*.wav", True), ("a[1].wav", True), ("?", True)])
def test_has_magic(uri, expected):
    assert storage.has_magic(uri) is expected


# -- names


@pytest.mark.parametrize("name", ["50%.wav", "#1?.wav", "ä ö.wav", "[x].wav", "a*b", "new\nline", "a::b.wav", "a:b"])
def test_a_local_file_may_have_any_name(tmp_path, name):
    uri = str(tmp_path / name)
    storage.put(uri, NEW)
    assert storage.read_bytes(uri) == NEW
    assert storage.list_files(str(tmp_path)) == [name]
    assert storage.exists(uri)
    assert not storage.is_folder(uri)


@pytest.mark.parametrize("letter", ["n", "é", "日"])
def test_a_local_name_may_be_as_long_as_the_file_system_allows(tmp_path, letter):
    name = letter * (255 // len(letter.encode()))  # file systems count bytes
    storage.put(str(tmp_path / name), NEW)
    assert storage.read_bytes(str(tmp_path / name)) == NEW
    assert names_in(tmp_path) == [name]


def test_only_what_is_ones_own_is_removed(tmp_path):
    write_tree(tmp_path, ["out/a/own1", "out/a/own2", "out/b/own3", "out/b/mine", "out/c/mine", "elsewhere/own4"])
    (tmp_path / "out" / "a" / f".{'0' * 32}.partial").write_bytes(b"half")
    (tmp_path / "out" / "b" / ".hidden").write_bytes(b"mine")
    (tmp_path / "out" / "own5").symlink_to(tmp_path / "elsewhere" / "own4")
    storage.remove_own(str(tmp_path / "out"), lambda name: "own" in name)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"out/b/mine", "out/b/.hidden", "out/c/mine", "elsewhere/own4"}
    assert names_in(tmp_path / "out") == ["b", "c"]
    storage.remove_own(str(tmp_path / "nowhere"), lambda name: True)


def test_a_folder_is_tidied_only_of_what_was_half_written(tmp_path):
    write_tree(tmp_path, ["kept/mine", "kept/.mine.partial", "elsewhere/x"])
    for folder in ("kept", "empty"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f".{'ab' * 16}.partial").write_bytes(b"half")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("kept", "link", "nowhere"):
        storage.tidy(str(tmp_path / name))
    assert names_in(tmp_path) == ["elsewhere", "empty", "kept", "link"]
    assert names_in(tmp_path / "kept") == [".mine.partial", "mine"]
    storage.tidy(str(tmp_path / "empty"))
    assert names_in(tmp_path) == ["elsewhere", "kept", "link"]


@pytest.mark.parametrize("form", ["path", "relative", "file://", "remote", "s3"])
def test_every_form_of_uri_does_everything(tmp_path, request, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    roots = {"path": str(tmp_path), "relative": ".", "file://": f"file://{tmp_path}"}
    root = roots[form] if form in roots else request.getfixturevalue({"remote": "bucket", "s3": "s3_bucket"}[form])
    uri = storage.join(root, "sub/x.bin")
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError):
        storage.open_binary(uri)
    with pytest.raises(FileNotFoundError):
        storage.stat(uri)
    storage.put(uri, [b"01234", b"56789"])
    assert storage.exists(uri)
    before = storage.stat(uri)
    assert (before.name, before.size) == (uri, 10)
    assert before.version
    assert list(storage.scan(root)) == [storage.Entry("sub/x.bin", 10, before.version)]
    with pytest.raises(IsADirectoryError):
        storage.stat(storage.join(root, "sub"))
    with pytest.raises(IsADirectoryError):
        storage.open_binary(storage.join(root, "sub"))
    with storage.open_binary(uri, start=3, size=4) as file:
        assert file.read() == b"3456"
    assert not storage.create(uri, b"another")
    assert storage.create(storage.join(root, "new/y.bin"), b"y")
    assert storage.read_bytes(storage.join(root, "new/y.bin")) == b"y"
    assert storage.list_files(root) == ["new/y.bin", "sub/x.bin"]
    storage.remove_own(storage.join(root, "new"), lambda path: True)
    time.sleep(0.01)
    storage.put(uri, b"9876543210")
    assert storage.stat(uri).version != before.version
    storage.put(uri, b"0123456789")
    assert storage.exists(storage.join(root, "sub"))
    assert storage.is_folder(storage.join(root, "sub"))
    assert not storage.is_folder(uri)
    assert storage.list_files(root) == ["sub/x.bin"]
    with storage.open_binary(uri) as file:
        file.seek(7)
        assert file.read(2) == b"78"
    elsewhere = storage.absolute(uri)
    monkeypatch.chdir("/")
    assert storage.read_bytes(elsewhere) == b"0123456789"
    monkeypatch.chdir(tmp_path)
    storage.remove_own(storage.join(root, "sub"), lambda path: True)
    storage.remove_own(storage.join(root, "sub"), lambda path: True)  # nothing there is nothing to do
    assert not storage.exists(uri)


@pytest.mark.parametrize("call", [storage.exists, storage.is_folder, storage.list_files, storage.open_binary])
def test_an_unknown_scheme_is_one_sentence(call):
    with pytest.raises(UserError, match=r"nosuch://bucket/x cannot be reached.*nosuch"):
        call("nosuch://bucket/x")


def test_join_needs_no_care_for_slashes():
    assert storage.join("a/", "b/c") == storage.join("a", "b/c") == "a/b/c"
    assert storage.join("s3://bucket", "x") == "s3://bucket/x"
    assert storage.absolute("s3://bucket/x") == "s3://bucket/x"
