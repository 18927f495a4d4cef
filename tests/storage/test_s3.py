"""An S3 server on loopback, directly and through a proxy that breaks requests: nothing is lost, cut or waited for."""

import http.server
import io
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import s3
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from storage.buckets import CONTENT, MEGABYTE, new_bucket, refusal, route

from sdhubert_ray import storage

pytestmark = pytest.mark.usefixtures("pauses")


# -- reading


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_part_of_an_object_reads_as_the_slice_of_it(s3_server, stored, data):
    with pytest.MonkeyPatch.context() as patch:
        route(patch, s3_server.url)
        name, expected = data.draw(st.sampled_from([("small", CONTENT), ("large", CONTENT * 10)]))
        start, size = s3.draw_part(data, len(expected))
        sparse = data.draw(st.booleans())
        with storage.open_binary(f"{stored}/{name}", start=start, size=size, sparse=sparse) as file:
            s3.read_at_will(data, file, expected[start : None if size is None else start + size])


def test_no_more_requests_than_needed(stored, flaky_proxy, monkeypatch):
    route(monkeypatch, flaky_proxy.url)

    def count(use, **part):
        before = flaky_proxy.requests
        with storage.open_binary(f"{stored}/large", **part) as file:
            use(file)
        return flaky_proxy.requests - before

    def read(file):
        return file.read()

    assert count(read, start=5, size=8 * MEGABYTE) == 1
    assert count(read, start=5) == 7  # its size; 1/16, 1/4, 1, 4, 8 and the rest of 20 MB
    assert count(lambda file: file.read(44), start=0, size=20 * MEGABYTE) == 1
    assert count(lambda file: file.read(44), start=0, size=MEGABYTE, sparse=True) == 1
    # Headers of a tar with members of 100 kB are read in passing, not with a request each.
    assert count(lambda file: [file.seek(at) and file.read(512) for at in range(0, 8 * MEGABYTE, 100_000)]) < 8


def test_memory_holds_one_block(stored, s3_bucket):
    with storage.open_binary(f"{stored}/large") as file:
        tracemalloc.start()
        while file.read(100_000):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20 * MEGABYTE  # a block of 8, and the buffer it came in


def test_many_threads_read_at_once(stored, s3_bucket):
    def read(start):
        with storage.open_binary(f"{stored}/small", start=start, size=1000) as file:
            return file.read()

    starts = range(0, 200_000, 1000)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, starts)) == [CONTENT[start : start + 1000] for start in starts]


def test_a_forked_process_reads_too(stored, s3_bucket):
    script = """
import os, sys
from sdhubert_ray import storage

parent = storage.read_bytes(sys.argv[1])
if (child := os.fork()) == 0:
    os._exit(0 if storage.read_bytes(sys.argv[1]) == parent else 1)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, f"{stored}/small"], check=True, timeout=60)


def test_an_object_that_is_shorter_than_was_known_is_refused_at_once(s3_bucket, pauses):
    storage.put(f"{s3_bucket}/x", b"12345")
    message = refusal(lambda: storage.open_binary(f"{s3_bucket}/x", start=3, size=4), OSError)
    assert message == f"{s3_bucket}/x: has 5 bytes, 7 were expected: it was replaced or cut"
    assert "InvalidRange" in refusal(lambda: storage.open_binary(f"{s3_bucket}/x", start=9, size=4), OSError)
    assert pauses == []


# -- listing


@settings(deadline=None, max_examples=15)
@given(
    st.sets(
        st.lists(
            st.sampled_from(["a", "b", "a-", "a.", "é", "日", "c d", ".h", "50%", "+"]), min_size=1, max_size=4
        ).map("/".join),
        max_size=60,
    )
)
def test_a_prefix_lists_what_is_below_it_sorted(s3_server, names):
    with pytest.MonkeyPatch.context() as patch:
        route(patch, s3_server.url)
        bucket = new_bucket(s3_server, {f"{place}/{name}": name for place in ("in", "in-", "i") for name in names})
        visible = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
        found = list(storage.scan(f"{bucket}/in"))
        assert [entry.name for entry in found] == visible
        assert [entry.size for entry in found] == [len(name.encode()) for name in visible]
        assert all(entry.version for entry in found)


def test_thousands_of_objects(s3_server, flaky_proxy, monkeypatch):
    names = [f"flat/{number:04d}.wav" for number in range(2001)]
    names += [f"speaker{number % 40:02d}/book/{number}.flac" for number in range(400)]
    bucket = new_bucket(s3_server, dict.fromkeys(names, "x"))
    route(monkeypatch, flaky_proxy.url)
    assert storage.list_files(bucket) == sorted(names)
    assert flaky_proxy.requests == 1 + 3 + 40  # the folders; a listing each
    # A page that fails is asked for again, not all of them.
    flaky_proxy.rate, flaky_proxy.kinds = 0.3, ["slowdown", "reset", "cut"]
    assert storage.list_files(bucket) == sorted(names)
    assert len(flaky_proxy.faults()) >= 5


def test_a_listing_begins_before_it_ends(s3_server, flaky_proxy, monkeypatch):
    bucket = new_bucket(s3_server, {f"{number:04d}": "" for number in range(2001)})
    route(monkeypatch, flaky_proxy.url)
    scan = storage.scan(bucket)
    assert next(scan).name == "0000"
    assert flaky_proxy.requests <= 2
    scan.close()


def test_what_a_console_makes_of_a_folder_is_no_file(s3_server, s3_bucket):
    bucket = new_bucket(s3_server, {"a/": "", "a/b/": "", "a/b/c.wav": "c", "d/": ""})
    assert storage.list_files(bucket) == ["a/b/c.wav"]
    assert storage.expand_glob(f"{bucket}/*/*/*") == [f"{bucket}/a/b/c.wav"]


# -- recordings


@pytest.fixture(scope="module")
def recording(s3_server):
    """Ten minutes of noise, 19 MB, on S3; and its samples."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 600 * 16_000).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV")
    with pytest.MonkeyPatch.context() as patch:
        route(patch, s3_server.url)
        uri = f"{new_bucket(s3_server, {})}/noise.wav"
        storage.put(uri, buffer.getvalue())
    return uri, soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32")[0]


def test_a_recording_decodes_through_faults(recording, flaky_proxy, monkeypatch):
    uri, samples = recording
    route(monkeypatch, flaky_proxy.url)
    flaky_proxy.rate, flaky_proxy.in_a_row = 1.0, 1
    with storage.open_binary(uri) as file:
        decoded, _ = soundfile.read(file, dtype="float32")
        storage.raise_if_failed(file)
    assert np.array_equal(decoded, samples)
    assert len(flaky_proxy.faults()) >= 5


def test_a_recording_whose_connection_is_cut_for_good_is_no_shorter_one(
    recording, flaky_proxy, monkeypatch, capfd, pauses
):
    uri, samples = recording
    route(monkeypatch, flaky_proxy.url)
    with storage.open_binary(uri) as file:
        flaky_proxy.always.append("noise.wav")
        flaky_proxy.kinds = ["cut"]
        decoded, _ = soundfile.read(file, dtype="float32")
        assert len(decoded) < len(samples)  # so libsndfile takes it for truncated
        with pytest.raises(storage.TransientError, match=r"noise\.wav: .*attempt 6"):
            storage.raise_if_failed(file)
        with pytest.raises(storage.TransientError):
            file.read(1)
    assert len(pauses) == 5
    assert capfd.readouterr().err == ""  # no traceback out of a callback


# -- web servers


class RangelessHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send_head(self):
        if self.path.startswith("/denied"):
            self.send_error(403)
            return None
        return super().send_head()


def test_a_web_server_that_knows_no_ranges(tmp_path):
    (tmp_path / "x.bin").write_bytes(CONTENT)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "y.wav").write_bytes(b"y")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(RangelessHandler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        root = f"http://127.0.0.1:{server.server_port}"
        try:
            assert storage.read_bytes(f"{root}/x.bin") == CONTENT
            with storage.open_binary(f"{root}/x.bin", start=100, size=1000) as file:
                assert file.read() == CONTENT[100:1100]
            assert storage.stat(f"{root}/x.bin").size == len(CONTENT)
            assert refusal(lambda: storage.open_binary(f"{root}/z"), FileNotFoundError) == f"{root}/z: does not exist"
            denied = refusal(lambda: storage.read_bytes(f"{root}/denied?X-Amz-Signature={s3.SECRET}"), PermissionError)
            assert denied.startswith(f"{root}/denied: 403")
            assert storage.is_folder(f"{root}/")
            assert not storage.is_folder(f"{root}/x.bin")
            assert storage.list_files(f"{root}/") == ["sub/y.wav", "x.bin"]
        finally:
            server.shutdown()
            thread.join()
