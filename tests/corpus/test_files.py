"""Audio files as an input: every one is listed, or the input is refused in one sentence."""

import os
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from manifest_inputs import fill, ids_and_uris, list_table, refusal, touch

from sdhubert_ray import storage
from sdhubert_ray.corpus import list_input

# -- folders, globs, files


@pytest.mark.parametrize("base", ["local", "trailing slash", "relative", "file://", "remote"])
def test_a_folder_is_listed_recursively(tmp_path, monkeypatch, base):
    audio = ["b.wav", "sub/deep/c.FLAC", "sub/b.wav", "a.opus"]
    root = fill(base, tmp_path, *audio, "notes.txt", "sub/b.TextGrid", ".hidden.wav")
    monkeypatch.chdir(tmp_path.parent)
    given_as = {"trailing slash": f"{root}/", "relative": tmp_path.name, "file://": f"file://{root}"}.get(base, root)
    listing = list_input(given_as)
    monkeypatch.chdir("/")  # uris have to mean the same from anywhere, also while more are read
    found = ids_and_uris(listing)
    assert [file_id for file_id, _ in found] == sorted(audio)
    for file_id, uri in found:
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
    found = ids_and_uris(listing)
    assert [file_id for file_id, _ in found] == expected
    for file_id, uri in found:
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


# -- sizes, versions, braces


@pytest.mark.parametrize("base", ["local", "remote"])
@pytest.mark.parametrize("pattern", ["", "/*.wav", "/{a,b}.wav"])
def test_every_file_comes_with_its_size(tmp_path, base, pattern):
    root = fill(base, tmp_path, "a.wav", "b.wav")
    storage.put(f"{root}/b.wav", b"longer than its name")
    rows = list_table(root + pattern).to_pylist()
    assert [(row["id"], row["source_size"]) for row in rows] == [("a.wav", 5), ("b.wav", 20)]


def test_a_file_that_changed_has_another_version(tmp_path):
    touch(tmp_path, "a.wav")
    for source in (tmp_path, tmp_path / "a.wav", f"{tmp_path}/*"):
        os.utime(tmp_path / "a.wav", (1_000, 1_000))
        (before,) = list_table(source).column("source_version").to_pylist()
        os.utime(tmp_path / "a.wav", (1_000, 2_000))
        (after,) = list_table(source).column("source_version").to_pylist()
        assert before
        assert before != after


def test_braces_name_files(tmp_path):
    fill("local", tmp_path, "x/1.wav", "x/2.wav", "y/1.wav", "{1}.wav")
    assert list_table(f"{tmp_path}/{{x,y}}/1.wav").column("id").to_pylist() == ["x/1.wav", "y/1.wav"]
    assert list_table(f"{tmp_path}/x/{{2..1}}.wav").column("id").to_pylist() == ["2.wav", "1.wav"]
    assert list_table(f"{tmp_path}/{{x,y}}/*.wav").column("id").to_pylist() == ["x/1.wav", "x/2.wav", "y/1.wav"]
    assert list_table(f"{tmp_path}/{{1}}.wav").column("id").to_pylist() == ["{1}.wav"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("x/{1..3}.wav", "x/3.wav does not exist"),
        ("x/{1,2.wav", "braces"),
        ("x/{1}.wav", "does not exist"),
        ("{a,b}/*.wav", "matches no file"),
        ("x/{1..3000000}.wav", "over 1000000 files"),
    ],
)
def test_braces_of_what_is_not_there(tmp_path, pattern, expected):
    fill("local", tmp_path, "x/1.wav", "x/2.wav")
    assert expected in refusal(lambda: list_table(f"{tmp_path}/{pattern}"))


def test_more_files_than_a_batch(tmp_path):
    touch(tmp_path, *(f"{number % 7}/{number:05d}.wav" for number in range(5_000)))
    expected = sorted(f"{number % 7}/{number:05d}.wav" for number in range(5_000))
    assert list_table(tmp_path).column("id").to_pylist() == expected
