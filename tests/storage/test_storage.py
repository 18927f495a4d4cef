"""Files by URI: whole or not at all, found once each, the same here and in an object store."""

import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from s3 import draw_part, read_at_will
from storage.trees import names_in

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError

OLD, NEW = b"old " * 100, b"new " * 1_000_000


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
