"""Listing folders and globs: every file once, in order, whatever the links, and under any name."""

import itertools
import os
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage.trees import names_in, write_tree

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError

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
    storage.put(uri, b"new")
    assert storage.read_bytes(uri) == b"new"
    assert storage.list_files(str(tmp_path)) == [name]
    assert storage.exists(uri)
    assert not storage.is_folder(uri)


@pytest.mark.parametrize("letter", ["n", "é", "日"])
def test_a_local_name_may_be_as_long_as_the_file_system_allows(tmp_path, letter):
    name = letter * (255 // len(letter.encode()))  # file systems count bytes
    storage.put(str(tmp_path / name), b"new")
    assert storage.read_bytes(str(tmp_path / name)) == b"new"
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
