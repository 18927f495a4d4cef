"""hf:// URIs: repositories of the hub as any other store, and what is other about them."""

import pytest
from hub import TOKEN

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import lease

REPOSITORY = "hf://datasets/me/corpus"


@pytest.fixture
def hub(hub):
    hub.repositories["datasets/me/corpus"] = {}
    hub.repositories["models/me/model"] = {}
    return hub


@pytest.mark.parametrize("root", [REPOSITORY, "hf://me/model", f"{REPOSITORY}@main", f"{REPOSITORY}/deep/er"])
def test_files_come_back_whole_and_in_parts(hub, root, tmp_path):
    data = bytes(range(256)) * 4000
    storage.put(f"{root}/a/b.bin", data)
    assert storage.read_bytes(f"{root}/a/b.bin") == data
    assert storage.read_now(f"{root}/a/b.bin") == data
    with storage.open_binary(f"{root}/a/b.bin", start=1000, size=70) as file:
        assert file.read() == data[1000:1070]
    with storage.open_binary(f"{root}/a/b.bin", sparse=True) as file:  # in blocks
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        file.seek(5)
        assert file.read(10) == data[5:15]
    entry = storage.stat(f"{root}/a/b.bin")
    assert entry.size == len(data)
    assert [*storage.scan(root)] == [storage.Entry("a/b.bin", entry.size, entry.version)]
    (tmp_path / "local").write_bytes(b"from a file")
    storage.upload(tmp_path / "local", f"{root}/a/b.bin")
    assert storage.read_bytes(f"{root}/a/b.bin") == b"from a file"
    assert storage.stat(f"{root}/a/b.bin").version != entry.version
    assert storage.is_folder(f"{root}/a")
    assert storage.is_folder(root)
    with pytest.raises(IsADirectoryError):
        storage.read_bytes(root)
    assert not storage.is_folder(f"{root}/a/b.bin")
    assert not storage.exists(f"{root}/b")
    assert storage.expand_glob(f"{root}/*/*.bin") == [f"{root}/a/b.bin"]


def test_what_others_have_changed_is_seen(hub):
    files = hub.repositories["datasets/me/corpus"]
    storage.put(f"{REPOSITORY}/a", b"one")
    assert storage.list_files(REPOSITORY) == ["a"]
    files["a"], files["b"] = b"longer", b"new"
    assert storage.read_now(f"{REPOSITORY}/a") == b"longer"
    assert storage.exists(f"{REPOSITORY}/b")
    assert storage.list_files(REPOSITORY) == ["a", "b"]
    del files["a"]
    assert storage.read_now(f"{REPOSITORY}/a") is None
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{REPOSITORY}/a")


def test_reading_one_file_lists_no_folder(hub):
    hub.repositories["datasets/me/corpus"] = {f"audio/{number:04d}.wav": b"0123456789" for number in range(50)}
    with storage.open_binary(f"{REPOSITORY}/audio/0007.wav", start=3, size=4) as file:
        assert file.read() == b"3456"
    storage.stat(f"{REPOSITORY}/audio/0007.wav")
    assert not any("/tree/" in request for request in hub.requests)


def test_a_file_is_created_or_replaced_once(hub):
    assert storage.create(f"{REPOSITORY}/lease", b"one")
    assert not storage.create(f"{REPOSITORY}/lease", b"two")
    assert storage.replace(f"{REPOSITORY}/lease", b"one", b"three")
    assert not storage.replace(f"{REPOSITORY}/lease", b"one", b"four")
    assert storage.read_bytes(f"{REPOSITORY}/lease") == b"three"
    assert [title for _, title, _ in hub.commits] == ["Write lease", "Write lease"]


def test_many_files_are_removed_in_one_commit(hub):
    hub.repositories["datasets/me/corpus"] = dict.fromkeys(["a", "b/c", "d"], b"")
    storage.remove_files([f"{REPOSITORY}/{name}" for name in ("a", "b/c", "none")])
    assert hub.commits == [("datasets/me/corpus", "Remove 2 files", ["a", "b/c"])]
    storage.remove_files([f"{REPOSITORY}/none"])
    assert len(hub.commits) == 1


@pytest.mark.parametrize("status", [503, 429, 409, 412])
def test_what_passes_is_tried_again(hub, pauses, status):
    storage.put(f"{REPOSITORY}/a", b"before")  # so that what is asked once has been asked
    hub.failures.extend([status, status])
    storage.remove_files([f"{REPOSITORY}/a"])
    assert len(pauses) == 2
    assert hub.repositories["datasets/me/corpus"] == {}


def test_what_does_not_pass_is_said_at_once(hub, pauses, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"hf://me/none/a: does not exist, or is private: .* or set HF_TOKEN"):
        storage.stat("hf://me/none/a")
    with pytest.raises(UserError, match=r"hf://me/none/a cannot be written .*make the repository"):
        storage.put("hf://me/none/a", b"")
    hub.repositories["models/me/secret"] = {"a": b"secret"}
    hub.private.add("models/me/secret")
    with pytest.raises(FileNotFoundError, match="or is private"):
        storage.stat("hf://me/secret/a")
    for uri in ("hf://", "hf://model", "hf://datasets/corpus"):
        with pytest.raises(UserError, match="names no repository; write hf://USER/NAME"):
            storage.stat(uri)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="offline mode is enabled"):
        storage.stat(f"{REPOSITORY}/a")
    assert pauses == []


def test_a_token_opens_what_is_private_and_is_not_told(hub, monkeypatch):
    hub.repositories["models/me/secret"] = {"a": b"secret"}
    hub.private.add("models/me/secret")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert storage.read_bytes("hf://me/secret/a") == b"secret"
    with pytest.raises(FileNotFoundError) as caught:
        storage.stat("hf://me/secret/b")
    assert TOKEN not in str(caught.value)


def test_where_each_heartbeat_is_a_commit_there_are_few():
    assert lease.times_of(f"{REPOSITORY}/out").beat * 60 > 3000
    assert (
        lease.times_of("hf://buckets/me/b/out") == lease.times_of("/out") == lease.times_of("s3://b/out") == lease.TIMES
    )
