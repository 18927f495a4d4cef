"""The released checkpoint: downloaded once. The network is cut, or answers wrongly; gdown is the real one."""

import hashlib
import io
import sys

import gdown
import gdown.exceptions
import pytest
import requests
import urllib3
from models import HUB_BASE, checkpoint_bytes
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from sdhubert_ray.encoder import weights
from sdhubert_ray.encoder.weights import cache_folder, fetch_checkpoint
from sdhubert_ray.errors import UserError

DRIVE_ID = "1u2jTdAck8qD6ZEb5bqHfvUNsN-9DgGfg"
FILE_HEADERS = {"Content-Type": "application/octet-stream", "Content-Disposition": 'attachment; filename="base.pt"'}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("SDHUBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Drive:
    """What answers instead of Google Drive, and what it was asked."""

    def __init__(self):
        self.answer = lambda request: requests.ConnectionError("no route to host")
        self.asked = []
        self.timeouts = []

    def send(self, adapter, request, **kwargs):
        self.asked.append(request.url)
        self.timeouts.append(kwargs.get("timeout"))
        answer = self.answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def drive(monkeypatch, cache):
    server = Drive()
    monkeypatch.setattr(HTTPAdapter, "send", lambda adapter, request, **kwargs: server.send(adapter, request, **kwargs))
    return server


def reply(body, headers, status=200):
    def answer(request):
        stream = body if isinstance(body, io.IOBase) else io.BytesIO(body)
        response = requests.Response()
        response.status_code, response.url, response.request = status, request.url, request
        response.headers = CaseInsensitiveDict(headers)
        response.raw = urllib3.HTTPResponse(stream, headers=headers, status=status, preload_content=False)
        return response

    return answer


class Breaks(io.BytesIO):
    """A connection that is reset after the first bytes."""

    def read(self, amount=-1, /):
        if self.tell() > 0:
            raise ConnectionResetError(104, "Connection reset by peer")
        return super().read(1000)


HTML = {"Content-Type": "text/html; charset=utf-8"}
QUOTA = b'<html><p class="uc-error-subcaption">Too many users have viewed this file recently.</p></html>'


def refusal(cache):
    """The one sentence of a download that failed; nothing is left of it."""
    with pytest.raises(UserError) as failed:
        fetch_checkpoint("sdhubert_base")
    sentence = str(failed.value)
    assert "\n" not in sentence
    for way_out in (DRIVE_ID, str(cache / "sdhubert_base.pt"), "--checkpoint", "bundled"):
        assert way_out in sentence
    if cache.is_dir():
        assert [path.name for path in cache.iterdir()] == []
    return sentence


# -- the released checkpoint


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.ConnectionError("Max retries exceeded: Name or service not known"), "Name or service not known"),
        (requests.exceptions.SSLError("certificate verify failed"), "certificate verify failed"),
        (requests.exceptions.ProxyError("Cannot connect to proxy"), "Cannot connect to proxy"),
        (requests.ReadTimeout("Read timed out"), "timed out"),
        (requests.ConnectTimeout(), ""),  # it says nothing of itself
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
    ],
)
def test_without_a_network_one_sentence_names_the_ways_out(drive, cache, error, reason):
    drive.answer = lambda request: error
    assert reason in refusal(cache)
    assert DRIVE_ID in drive.asked[0]


@pytest.mark.parametrize(
    "error",
    [
        gdown.exceptions.FileURLRetrievalError("Cannot retrieve the public link of the file."),
        gdown.exceptions.DownloadError("Download ended early"),
        requests.ConnectionError("Temporary failure in name resolution"),
        requests.HTTPError("404 Client Error"),
        OSError(28, "No space left on device"),
    ],
)
def test_whatever_gdown_raises_is_one_sentence(monkeypatch, cache, error):
    def download(**_):
        raise error

    monkeypatch.setattr(gdown, "download", download)
    assert str(error.args[-1]) in refusal(cache)


def test_a_page_instead_of_the_file_is_no_checkpoint_and_its_reason_is_told(drive, cache):
    drive.answer = reply(QUOTA, HTML)
    assert "Too many users have viewed this file recently" in refusal(cache)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_an_error_of_the_server_is_told(drive, cache, status):
    drive.answer = reply(b"gone", {**FILE_HEADERS, "Content-Length": "4"}, status)
    assert str(status) in refusal(cache)


def test_a_few_bytes_are_no_checkpoint(drive, cache):
    drive.answer = reply(b'{"error": "try again"}', FILE_HEADERS)
    assert "22 bytes came" in refusal(cache)


def test_a_connection_that_breaks_leaves_nothing_behind(drive, cache):
    drive.answer = reply(Breaks(bytes(5000)), {**FILE_HEADERS, "Content-Length": "5000"})
    refusal(cache)


def test_a_body_that_ends_early_leaves_nothing_behind(drive, cache):
    drive.answer = reply(bytes(1000), {**FILE_HEADERS, "Content-Length": "5000"})
    refusal(cache)


def test_a_jar_of_cookies_that_another_process_is_writing_is_left_alone(drive, cache, monkeypatch, tmp_path):
    jar = tmp_path / "cookies.txt"
    jar.write_text("half")  # whoever reads it is warned, and a warning is an error here
    monkeypatch.setattr(sys.modules["gdown.download"], "DEFAULT_COOKIES_FILE", str(jar))
    refusal(cache)
    assert drive.asked
    assert jar.read_text() == "half"


def test_the_download_does_not_wait_for_ever(drive, cache):
    """A network that swallows what is sent has to time out."""
    refusal(cache)
    assert drive.timeouts[0] is not None


def test_a_cache_that_cannot_be_written_is_one_sentence(drive, cache, monkeypatch):
    cache.write_text("a file, not a folder")
    with pytest.raises(UserError, match="bundled"):
        fetch_checkpoint("sdhubert_base")
    assert drive.asked == []


def test_the_download_is_kept_and_asked_for_once(drive, cache, monkeypatch, caplog):
    monkeypatch.setattr(weights, "_MIN_RELEASED_BYTES", 10_000)
    data = checkpoint_bytes(HUB_BASE)
    drive.answer = reply(data, {**FILE_HEADERS, "Content-Length": str(len(data))})
    first = fetch_checkpoint("sdhubert_base")
    digest = hashlib.sha256(data).hexdigest()
    assert sorted(path.name for path in cache.iterdir()) == ["sdhubert_base.pt", "sdhubert_base.pt.sha256"]
    assert (cache / "sdhubert_base.pt.sha256").read_text() == f"{digest}  sdhubert_base.pt\n"  # as sha256sum has it
    assert f"SHA-256 {digest}" in caplog.text
    assert (cache / "sdhubert_base.pt").read_bytes() == data
    asked = len(drive.asked)
    drive.answer = lambda request: requests.ConnectionError("no network any more")
    again = fetch_checkpoint("sdhubert_base")
    assert len(drive.asked) == asked
    assert first == again
    assert (first.name, first.data) == ("sdhubert_base", data)
    assert first.upstream["hidden_size"] == 768


def test_a_download_that_was_changed_is_refused(drive, cache, monkeypatch):
    monkeypatch.setattr(weights, "_MIN_RELEASED_BYTES", 10_000)
    data = checkpoint_bytes(HUB_BASE)
    drive.answer = reply(data, {**FILE_HEADERS, "Content-Length": str(len(data))})
    fetch_checkpoint("sdhubert_base")
    (cache / "sdhubert_base.pt").write_bytes(checkpoint_bytes(HUB_BASE, 6000))
    with pytest.raises(UserError, match=r"sdhubert_base has the SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}: it is another"):
        fetch_checkpoint("sdhubert_base")


def test_a_download_of_another_digest_than_given_leaves_nothing_behind(drive, cache, monkeypatch):
    monkeypatch.setattr(weights, "_MIN_RELEASED_BYTES", 10_000)
    data = checkpoint_bytes(HUB_BASE)
    drive.answer = reply(data, {**FILE_HEADERS, "Content-Length": str(len(data))})
    with pytest.raises(UserError, match="not 0000"):
        fetch_checkpoint(f"sdhubert_base@sha256:{'0' * 64}")
    assert list(cache.iterdir()) == []
    assert fetch_checkpoint(f"sdhubert_base@sha256:{hashlib.sha256(data).hexdigest()}").data == data


def test_what_is_in_the_cache_is_used(drive, cache):
    cache.mkdir()
    (cache / "sdhubert_base.pt").write_bytes(checkpoint_bytes(HUB_BASE))
    assert fetch_checkpoint("sdhubert_base").upstream["num_hidden_layers"] == 12
    assert drive.asked == []


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SDHUBERT_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("SDHUBERT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "sdhubert_ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "sdhubert_ray"
