"""Where checkpoints come from. The network is cut, or answers wrongly, at its outermost edge; gdown is the real one."""

import hashlib
import io
import json
import logging
import shutil
import sys

import gdown
import gdown.exceptions
import pytest
import requests
import torch
import transformers
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from sdhubert_ray.encoder import weights
from sdhubert_ray.encoder.weights import cache_folder, fetch_checkpoint
from sdhubert_ray.errors import UserError

DRIVE_ID = "1u2jTdAck8qD6ZEb5bqHfvUNsN-9DgGfg"
HUB_BASE = "facebook/hubert-base-ls960"
FILE_HEADERS = {"Content-Type": "application/octet-stream", "Content-Disposition": 'attachment; filename="base.pt"'}


def checkpoint_bytes(upstream, size=5000):
    buffer = io.BytesIO()
    torch.save({"config": {"speech_upstream": upstream}, "state_dict": {"w": torch.zeros(size)}}, buffer)
    return buffer.getvalue()


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


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_a_digest_can_be_given_of_any_checkpoint(tiny_checkpoint, change):
    digest = change(hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest())
    assert (
        fetch_checkpoint(f"{tiny_checkpoint}@sha256:{digest}").sha256 == fetch_checkpoint(str(tiny_checkpoint)).sha256
    )
    with pytest.raises(UserError, match="has the SHA-256"):
        fetch_checkpoint(f"{tiny_checkpoint}@sha256:{digest[1:]}{digest[0]}")
    for wrong in ("", "abc"):  # the first is a variable of the shell that is not set
        with pytest.raises(UserError, match=f"'{wrong}' is no SHA-256; it has 64 hexadecimal digits"):
            fetch_checkpoint(f"{tiny_checkpoint}@sha256:{wrong}")


def test_a_digest_that_somebody_keeps_beside_a_checkpoint_is_theirs(tmp_path, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "c")
    (tmp_path / "c" / "tiny.pt.sha256").write_text("SHA256 (tiny.pt) = 00\n")
    fetch_checkpoint(str(tmp_path / "c" / "tiny.pt"))


def test_hub_models_are_asked_for_by_revision(tmp_path, monkeypatch):
    asked = []

    def answer(_, repository, revision):
        asked.append((repository, revision))
        raise OSError("there is no network here")

    monkeypatch.setattr(transformers.HubertModel, "from_pretrained", classmethod(answer))
    monkeypatch.setattr(transformers.HubertConfig, "from_pretrained", classmethod(answer))
    for name in ("some/hubert", "some/hubert@3f2a"):
        with pytest.raises(UserError, match="no network"):
            weights.fetch_upstream(name)
        with pytest.raises(UserError, match="no network"):
            fetch_checkpoint(write_checkpoint(tmp_path, name))
    assert asked == [("some/hubert", "main")] * 2 + [("some/hubert", "3f2a")] * 2


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


# -- the bundled one


def test_bundled_announces_random_weights(caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint = fetch_checkpoint("bundled")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "RANDOM WEIGHTS" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert checkpoint.name == "bundled"
    assert checkpoint.upstream["num_hidden_layers"] == 12


def test_the_bundled_one_may_be_asked_for_by_its_digest():
    data = fetch_checkpoint("bundled").data
    assert fetch_checkpoint(f"bundled@sha256:{hashlib.sha256(data).hexdigest()}").data == data
    with pytest.raises(UserError, match="has the SHA-256"):
        fetch_checkpoint(f"bundled@sha256:{'0' * 64}")


def test_other_checkpoints_announce_nothing(caplog, tiny_checkpoint):
    with caplog.at_level(logging.WARNING):
        fetch_checkpoint(str(tiny_checkpoint))
    assert caplog.records == []


# -- paths and URIs


@pytest.mark.parametrize("name", ["nowhere.pt", "no/such/folder/tiny.pt", "sdhubert-base"])
def test_missing_path_names_what_else_there_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"checkpoint {name} does not exist.*sdhubert_base.*bundled"):
        fetch_checkpoint(name)


@pytest.mark.parametrize("ending", ["", "/"])
def test_folder_is_told_apart_from_a_file(golden, ending):
    folder = f"{golden / 'checkpoint'}{ending}"
    with pytest.raises(UserError, match=r"is a folder; name the \.pt file in it"):
        fetch_checkpoint(folder)


def test_a_file_taken_for_a_folder(tiny_checkpoint):
    with pytest.raises(UserError, match="checkpoint"):
        fetch_checkpoint(f"{tiny_checkpoint}/tiny.pt")


def test_unknown_scheme_is_one_sentence():
    with pytest.raises(UserError, match=r"nosuchscheme://bucket/tiny\.pt"):
        fetch_checkpoint("nosuchscheme://bucket/tiny.pt")


def test_any_uri_gives_the_same_checkpoint(golden, tiny_checkpoint, monkeypatch):
    import fsspec

    memory = fsspec.filesystem("memory")
    upstream = golden / "checkpoint" / "upstream" / "config.json"
    memory.pipe(
        {"/models/tiny.pt": tiny_checkpoint.read_bytes(), "/models/upstream/config.json": upstream.read_bytes()}
    )
    monkeypatch.chdir(tiny_checkpoint.parent)
    expected = json.loads(upstream.read_text())
    identities = set()
    for name in (str(tiny_checkpoint), "tiny.pt", "./tiny.pt", f"file://{tiny_checkpoint}", "memory://models/tiny.pt"):
        checkpoint = fetch_checkpoint(name)
        assert checkpoint.name == name
        assert checkpoint.data == tiny_checkpoint.read_bytes()
        assert dict(checkpoint.upstream) == expected
        identities.add(checkpoint.sha256)
    assert len(identities) == 1
    memory.rm("/models", recursive=True)


# -- speech_upstream


def write_checkpoint(folder, upstream):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ours.pt"
    path.write_bytes(checkpoint_bytes(upstream))
    return str(path)


def write_config(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text)


def test_an_upstream_folder_is_that_beside_and_none_of_the_working_directory(tmp_path, monkeypatch):
    """Another encoder's shape may fit the weights too: two heads instead of four give other features."""
    monkeypatch.chdir(tmp_path)
    name = write_checkpoint(tmp_path / "models", "shape")
    write_config(tmp_path / "shape", '{"hidden_size": 1}')
    with pytest.raises(UserError, match=r"'shape' of checkpoint .* is a folder of the working directory"):
        fetch_checkpoint(name)
    write_config(tmp_path / "models" / "shape", '{"hidden_size": 2}')
    assert fetch_checkpoint(name).upstream == {"hidden_size": 2}


def test_upstream_may_be_an_absolute_folder(tmp_path):
    write_config(tmp_path / "elsewhere", '{"hidden_size": 3}')
    name = write_checkpoint(tmp_path / "models", str(tmp_path / "elsewhere"))
    uri = write_checkpoint(tmp_path / "more", f"file://{tmp_path}/elsewhere")
    assert fetch_checkpoint(uri).upstream == {"hidden_size": 3}
    assert fetch_checkpoint(name).upstream == {"hidden_size": 3}


def test_hubert_base_needs_no_network(tmp_path):
    """The published shape of HuBERT-base."""
    upstream = fetch_checkpoint(write_checkpoint(tmp_path, HUB_BASE)).upstream
    shape = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_bias": False,
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
    }
    assert {key: upstream[key] for key in shape} == shape


def test_a_folder_beside_replaces_the_offline_config(tmp_path):
    write_config(tmp_path / HUB_BASE, '{"hidden_size": 4}')
    assert fetch_checkpoint(write_checkpoint(tmp_path, HUB_BASE)).upstream == {"hidden_size": 4}


@pytest.mark.parametrize("upstream", ["someone/no-such-hubert", "no-such-folder", "../outside"])
def test_unknown_upstream_without_network_is_one_sentence(tmp_path, upstream):
    name = write_checkpoint(tmp_path, upstream)
    with pytest.raises(UserError) as refused:
        fetch_checkpoint(name)
    sentence = str(refused.value)
    assert repr(upstream) in sentence
    assert "config.json" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("text", ["{", "[1, 2]", "null", '"hubert"'])
def test_upstream_config_that_is_none_is_refused_by_path(tmp_path, text):
    name = write_checkpoint(tmp_path, "shape")
    write_config(tmp_path / "shape", text)
    with pytest.raises(UserError, match=r"shape/config\.json"):
        fetch_checkpoint(name)


def test_upstream_config_that_is_a_folder_is_refused_by_path(tmp_path):
    name = write_checkpoint(tmp_path, "shape")
    (tmp_path / "shape" / "config.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"shape/config\.json"):
        fetch_checkpoint(name)


def test_checkpoint_moves_with_its_upstream(tmp_path, golden):
    shutil.copytree(golden / "checkpoint", tmp_path / "moved ünd spaced")
    original = fetch_checkpoint(str(golden / "checkpoint" / "tiny.pt"))
    assert fetch_checkpoint(str(tmp_path / "moved ünd spaced" / "tiny.pt")).sha256 == original.sha256
