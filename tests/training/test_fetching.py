"""What the workers of a machine fetch: once, whoever comes first, fails or dies."""

import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from forks import FORKS
from transformers import HubertConfig, HubertModel

from sdhubert_ray import storage
from sdhubert_ray.encoder.weights import fetch_upstream
from sdhubert_ray.training.fetching import fetch_once, reader_of


@pytest.fixture
def memory_store():
    """A store of this process alone."""
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    fsspec.filesystem("memory").rm(name, recursive=True)


@pytest.fixture
def fetched(monkeypatch):
    """What was asked of the store, in this process."""
    asked, download = [], storage.download
    monkeypatch.setattr(storage, "download", lambda uri, path: (asked.append(uri), download(uri, path))[1])
    return asked


def test_workers_fetch_a_file_once(tmp_path, fetched, memory_store):
    storage.put(f"{memory_store}/run.ckpt", b"weights" * 1000)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch_once(f"{memory_store}/run.ckpt", tmp_path / "begun.ckpt"), range(8)))
    assert {path.read_bytes() for path in paths} == {b"weights" * 1000}
    assert fetched == [f"{memory_store}/run.ckpt"]


def test_where_the_first_fails_the_next_one_tries(tmp_path, fetched, memory_store):
    with pytest.raises(FileNotFoundError):
        fetch_once(f"{memory_store}/late.ckpt", tmp_path / "late.ckpt")
    storage.put(f"{memory_store}/late.ckpt", b"here")
    assert fetch_once(f"{memory_store}/late.ckpt", tmp_path / "late.ckpt").read_bytes() == b"here"
    assert len(fetched) == 2


def begin_and_die(source, path):
    """Fetch half a file, and be killed."""
    storage.download = lambda uri, partial: (shutil.copyfile(source, partial), os._exit(9))
    fetch_once("s3://bucket/run.ckpt", path)


@FORKS
def test_what_a_killed_worker_has_begun_is_fetched_anew(tmp_path, fetched, memory_store, forked):
    storage.put(f"{memory_store}/run.ckpt", b"all of it")
    (tmp_path / "half").write_bytes(b"all")
    process = forked(begin_and_die, tmp_path / "half", tmp_path / "begun.ckpt")
    process.join(300)
    assert process.exitcode == 9
    assert (tmp_path / "begun.ckpt.part").exists()
    assert fetch_once(f"{memory_store}/run.ckpt", tmp_path / "begun.ckpt").read_bytes() == b"all of it"


def test_the_weights_of_an_upstream_in_a_store_are_fetched_once(tmp_path, fetched, memory_store):
    config = HubertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    HubertModel(config).save_pretrained(tmp_path / "upstream")
    for path in (tmp_path / "upstream").iterdir():
        storage.put(f"{memory_store}/upstream/{path.name}", path.read_bytes())
    shared = tmp_path / "shared"
    shared.mkdir()
    found = [fetch_upstream(f"{memory_store}/upstream", reader_of(shared)) for _ in range(3)]
    assert fetched == [f"{memory_store}/upstream/model.safetensors"]
    local = fetch_upstream(str(tmp_path / "upstream"), reader_of(shared))
    assert len(fetched) == 1
    assert all(one.weights.keys() == local.weights.keys() for one in found)
