"""Faults of a store: overcome where they pass, one sentence where they do not, and no secret in it."""

import contextlib
import filecmp
import importlib
import json
import os
import random
import socket
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import fsspec
import pytest
import s3
from clocks import Clock
from storage.buckets import CONTENT, MEGABYTE, new_bucket, refusal, route

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.storage import remote, retries

pytestmark = pytest.mark.usefixtures("pauses")


# -- faults


def test_a_third_of_all_requests_fail_and_nothing_is_lost(s3_server, flaky_proxy, monkeypatch):
    bucket = s3.make_bucket(s3_server.url, f"bucket-{uuid.uuid4().hex[:12]}")
    route(monkeypatch, flaky_proxy.url)
    flaky_proxy.rate = 0.3
    content = {f"{bucket}/{number}": random.Random(number).randbytes(10_000) for number in range(100)}

    def there_and_back(uri):
        storage.put(uri, content[uri])
        return storage.read_bytes(uri)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(there_and_back, content)) == list(content.values())
    faults = Counter(fault["kind"] for fault in flaky_proxy.faults())
    assert faults.total() >= 50
    assert set(faults) == set(s3.KINDS)


def test_each_call_overcomes_faults(s3_server, flaky_proxy, monkeypatch):
    bucket = new_bucket(s3_server, {"x": "12345", "folder/y": "y"})
    route(monkeypatch, flaky_proxy.url)
    # Every request fails once and is answered when it is made again.
    flaky_proxy.rate, flaky_proxy.in_a_row, flaky_proxy.kinds = 1.0, 1, ["slowdown", "error", "reset", "cut"]
    assert storage.stat(f"{bucket}/x").size == 5
    assert storage.exists(bucket)
    assert not storage.exists(f"{bucket}/nothing")
    assert storage.is_folder(f"{bucket}/folder")
    assert not storage.is_folder(f"{bucket}/x")
    assert storage.list_files(bucket) == ["folder/y", "x"]
    storage.put(f"{bucket}/x", b"other")
    assert storage.read_bytes(f"{bucket}/x") == b"other"
    assert storage.create(f"{bucket}/new", b"mine")
    assert not storage.create(f"{bucket}/new", b"mine")
    storage.remove_files([f"{bucket}/folder/y"])
    assert storage.list_files(bucket) == ["new", "x"]
    broken = Counter(fault["method"] for fault in flaky_proxy.faults())
    assert min(broken[method] for method in ("GET", "HEAD", "PUT", "POST")) >= 1
    assert broken.total() >= 12


def test_a_body_that_stalls_is_given_up_and_asked_for_again(stored, flaky_proxy, monkeypatch, pauses):
    route(monkeypatch, flaky_proxy.url)
    # The user's own setting, which counts; else it would take 15 s.
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.5}})
    flaky_proxy.rate, flaky_proxy.in_a_row, flaky_proxy.kinds = 1.0, 1, ["stall"]
    with storage.open_binary(f"{stored}/small", size=len(CONTENT)) as file:
        assert file.read() == CONTENT
    assert [fault["kind"] for fault in flaky_proxy.faults()] == ["stall"]
    assert len(pauses) == 1


def test_one_of_many_creates_an_object(s3_bucket):
    for number in range(5):
        target = f"{s3_bucket}/{number}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, target=target: storage.create(target, bytes([who]) * 1000), range(8)))
        assert sum(won) == 1
        assert storage.read_bytes(target) == bytes([won.index(True)]) * 1000


def test_one_of_many_creates_an_object_though_answers_are_lost(s3_server, flaky_proxy, monkeypatch):
    bucket = new_bucket(s3_server, {})
    route(monkeypatch, flaky_proxy.url)
    flaky_proxy.rate, flaky_proxy.kinds = 0.5, ["lost"]
    for number in range(5):
        target = f"{bucket}/{number}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, target=target: storage.create(target, bytes([who]) * 1000), range(8)))
        assert sum(won) == 1
        assert storage.read_bytes(target) == bytes([won.index(True)]) * 1000
    assert len(flaky_proxy.faults()) >= 10


def test_one_of_many_replaces_an_object(s3_bucket):
    for number in range(5):
        target = f"{s3_bucket}/{number}"
        storage.put(target, b"old")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, target=target: storage.replace(target, b"old", bytes([who])), range(8)))
        assert sum(won) == 1
        assert storage.read_bytes(target) == bytes([won.index(True)])


def test_an_object_that_is_written_just_before_it_is_replaced_stays(s3_bucket, monkeypatch):
    """Whoever is stopped between its look and its put writes over nobody."""
    target = f"{s3_bucket}/x"
    storage.put(target, b"old")
    fetch_all = remote.fetch_all

    def stopped(uri):
        found = fetch_all(uri)
        monkeypatch.setattr(remote, "fetch_all", fetch_all)
        storage.put(target, b"theirs")
        return found

    monkeypatch.setattr(remote, "fetch_all", stopped)
    assert not storage.replace(target, b"old", b"ours")
    assert storage.read_bytes(target) == b"theirs"


def test_a_replacement_whose_answer_is_lost_is_known(s3_server, flaky_proxy, monkeypatch):
    bucket = new_bucket(s3_server, {})
    route(monkeypatch, flaky_proxy.url)
    content = b"0"
    storage.put(f"{bucket}/x", content)
    flaky_proxy.rate, flaky_proxy.kinds = 0.5, ["lost"]
    for number in range(1, 20):
        assert storage.replace(f"{bucket}/x", content, b"%d" % number)
        content = b"%d" % number
    assert len(flaky_proxy.faults()) >= 10


def test_thousands_are_removed(s3_server, s3_bucket):
    bucket = new_bucket(s3_server, {f"a/{number}": "" for number in range(2500)} | {"ab": ""})
    storage.remove_own(f"{bucket}/a", lambda name: name != "1234")
    assert storage.list_files(bucket) == ["a/1234", "ab"]


# -- what cannot be helped


def test_what_is_missing_or_misnamed_is_one_sentence(s3_bucket):
    nothing = s3_bucket + "-not"
    assert refusal(lambda: storage.open_binary(f"{s3_bucket}/x"), FileNotFoundError) == f"{s3_bucket}/x: does not exist"
    sized = refusal(lambda: storage.open_binary(f"{s3_bucket}/x", size=5), FileNotFoundError)
    assert sized == f"{s3_bucket}/x: does not exist"
    assert (
        refusal(lambda: storage.read_bytes(f"{nothing}/x"), FileNotFoundError)
        == f"{nothing}/x: there is no such bucket"
    )
    listed = refusal(lambda: storage.list_files(f"{nothing}/x"), UserError)
    assert listed == f"{nothing}/x cannot be listed (there is no such bucket)"
    assert "cannot be listed (there is no such bucket)" in refusal(
        lambda: storage.expand_glob(f"{nothing}/*"), UserError
    )
    for write in (storage.put, storage.create):
        message = refusal(partial(write, f"{nothing}/x", b""), UserError)
        assert message.startswith(f"{nothing}/x cannot be written (there is no such bucket)")
    assert not storage.exists(nothing)
    assert not storage.is_folder(f"{nothing}/x")
    assert storage.list_files(f"{s3_bucket}/none") == []
    assert "Invalid bucket name" in refusal(lambda: storage.open_binary("s3://No Bucket!/x"), OSError)


@pytest.mark.parametrize(
    ("megabytes", "places"),
    # s3fs sends what is larger than 100 MB in parts, none of which is seen before all are there.
    [(1, ["{bucket}/folder/x", "memory://upload/1", "{folder}/folder/x"]), (101, ["{bucket}/folder/x"])],
)
def test_a_file_is_uploaded_and_downloaded_whole(s3_bucket, tmp_path, megabytes, places):
    source = tmp_path / "source"
    with source.open("wb") as file:
        for _ in range(megabytes):
            file.write(CONTENT[:MEGABYTE])
    for place in places:
        target = place.format(bucket=s3_bucket, folder=tmp_path)
        storage.upload(source, target)
        assert storage.stat(target).size == megabytes * MEGABYTE
        storage.download(target, tmp_path / "back")
        assert filecmp.cmp(source, tmp_path / "back", shallow=False)
        storage.remove_files([target])
    assert "there is no such bucket" in refusal(lambda: storage.upload(source, f"{s3_bucket}-none/x"), UserError)
    with pytest.raises(FileNotFoundError):
        storage.download(f"{s3_bucket}/folder/x", tmp_path / "back")


def test_an_upload_survives_faults(s3_bucket, flaky_proxy, monkeypatch, tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    route(monkeypatch, flaky_proxy.url)
    flaky_proxy.rate = 0.5
    for number in range(6):
        storage.upload(tmp_path / "x", f"{s3_bucket}/{number}")
    flaky_proxy.rate = 0.0
    assert all(storage.read_bytes(f"{s3_bucket}/{number}") == CONTENT for number in range(6))
    assert flaky_proxy.faults()


def test_what_is_denied_is_asked_for_once(stored, flaky_proxy, monkeypatch):
    route(monkeypatch, flaky_proxy.url)
    flaky_proxy.rate, flaky_proxy.in_a_row, flaky_proxy.kinds = 1.0, 100, ["denied"]
    uri = f"{stored}/small"
    assert "AccessDenied" in refusal(lambda: storage.open_binary(uri, size=5), PermissionError)
    assert "403" in refusal(lambda: storage.stat(uri), PermissionError)
    assert f"{uri} cannot be written (AccessDenied: Access Denied)" in refusal(lambda: storage.put(uri, b""), UserError)
    assert "cannot be listed (AccessDenied" in refusal(lambda: storage.list_files(stored), UserError)
    assert flaky_proxy.requests == 4


def test_missing_credentials_are_one_sentence_and_may_be_given_later(s3_bucket, monkeypatch, pauses):
    storage.put(f"{s3_bucket}/x", b"x")
    given = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in given:
        monkeypatch.delenv(name)
    uri = f"{s3_bucket}/x"

    def remove(uri):
        storage.remove_files([uri])

    calls = {
        PermissionError: [storage.open_binary, storage.stat, storage.exists, storage.is_folder, remove],
        UserError: [storage.list_files, partial(storage.put, data=b""), partial(storage.create, data=b"")],
    }
    for kind, group in calls.items():
        for call in group:
            message = refusal(partial(call, uri), kind)
            assert message.startswith(uri)
            assert "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
    assert pauses == []
    for name, value in given.items():  # as in a notebook
        monkeypatch.setenv(name, value)
    assert storage.read_bytes(uri) == b"x"


def test_a_store_that_refuses_connections_is_given_up(monkeypatch, pauses):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    route(monkeypatch, address)
    calls = [
        partial(storage.open_binary, "s3://bucket/x"),
        partial(storage.list_files, "s3://bucket/x"),
        partial(storage.put, "s3://bucket/x", b"x"),
        partial(storage.create, "s3://bucket/x", b"x"),
        partial(storage.read_bytes, f"{address}/x"),
    ]
    for call in calls:
        pauses.clear()
        message = refusal(call, storage.TransientError)
        assert "attempt 6" in message, message
        assert "onnect" in message, message
        assert len(pauses) == 5


# -- attempts


def fail_always(clock, seconds):
    """Messages and number of attempts of a request of which each attempt takes some seconds, in vain."""
    attempts = 0

    def fail():
        nonlocal attempts
        attempts += 1
        clock.now += seconds
        raise ConnectionError("the line is dead")

    return refusal(lambda: retries.retrying("s3://bucket/x", fail), storage.TransientError), attempts


@pytest.fixture
def clock(monkeypatch):
    """The one by which pauses are made, each as long as it may be."""
    clock = Clock()
    monkeypatch.setattr(retries, "time", clock)
    monkeypatch.setattr(retries._jitter, "uniform", lambda _, longest: longest)
    return clock


def test_pauses_double_up_to_eight_seconds(clock):
    message, attempts = fail_always(clock, 0)
    assert clock.waits == [0.5, 1, 2, 4, 8]
    assert attempts == 6
    assert message == "s3://bucket/x: the line is dead (attempt 6, after 16 s)"


@pytest.mark.parametrize(("seconds", "expected"), [(15, 2), (20, 2), (31, 2), (9, 4)])
def test_after_half_a_minute_no_attempt_begins_but_the_second(clock, seconds, expected):
    assert fail_always(clock, seconds)[1] == expected


def test_a_pause_is_drawn_anew_each_time(monkeypatch):
    waits = []
    for _ in range(2):
        clock = Clock()
        monkeypatch.setattr(retries, "time", clock)
        fail_always(clock, 0)
        waits.append(clock.waits)
    assert waits[0] != waits[1]
    assert all(0 <= wait <= longest for few in waits for wait, longest in zip(few, (0.5, 1, 2, 4, 8), strict=True))


# -- errors


@pytest.mark.parametrize("table", [retries._CLIENT_ERRORS, retries._TRANSIENT, retries._NO_CREDENTIALS])
def test_the_errors_that_are_told_apart_exist(table):
    known = 0
    for module, names in table.items():
        with contextlib.suppress(ImportError):
            loaded = importlib.import_module(module)
            assert all(issubclass(getattr(loaded, name), Exception) for name in names), (module, names)
            known += 1
    assert known


# -- secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a b/x.wav", "s3://bucket/a b/x.wav"),
        ("https://host/x?X-Amz-Signature=SECRET&b=1", "https://host/x"),
        ("sftp://user:SECRET@host/x", "sftp://host/x"),
        ("403, message='Forbidden', url='https://h/x?sig=SECRET'", "403, message='Forbidden', url='https://h/x'"),
        ("what? https://h/x", "what? https://h/x"),
        ("abfs://container@account/x", "abfs://container@account/x"),
    ],
)
def test_what_is_secret_in_a_uri_is_not_shown(text, expected):
    assert retries.shown(text) == expected


def test_json_that_is_written_anew_meanwhile_is_read_whole(s3_bucket):
    """As a lease is, with every heartbeat, by its holder, while workers look who that is: sizes differ."""
    uri = f"{s3_bucket}/lease.json"
    contents = [{"beat": number, "progress": "x" * (number * 7 % 90)} for number in range(200)]
    storage.put(uri, json.dumps(contents[0]).encode())
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [storage.put(uri, json.dumps(content).encode()) for content in contents])
        seen = []
        while not writing.done():
            seen.append(storage.read_json(uri))
        writing.result()
    assert len(seen) > 20
    assert all(found in contents for found in seen)
