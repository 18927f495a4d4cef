"""Fixtures that several test modules share."""

import os
import signal
import uuid

import hypothesis
import pytest
from clusters import RAY_SETTINGS
from places import GOLDEN, ROOT, SHARED

# Where these tests are a background job of a script, its shell has Ctrl-C ignored, by them and all that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# No test asks the hub: set before any test module imports what reads it.
os.environ["HF_HUB_OFFLINE"] = "1"
# Nor does one share a busy core: spinning OpenMP threads make the encoder's tests thirty times slower there.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(RAY_SETTINGS)
# The commands' tables have room for the long names of pytest's folders.
os.environ["COLUMNS"] = "200"
# How long an example takes is no property of the code, least of all where others share the cores.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _ctrl_c_is_left_as_it_was():
    """Nothing that a test runs keeps Ctrl-C from those after it, as Ray Train's own handler does."""
    before = signal.getsignal(signal.SIGINT)
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after == before


def _existing(folder):
    if not folder.is_dir():
        pytest.skip(f"no {folder.relative_to(ROOT.parent)} beside the repository")
    return folder


@pytest.fixture(scope="session")
def golden():
    """The golden data: inputs, and what the original system makes of them."""
    return GOLDEN


@pytest.fixture(scope="session")
def real_golden():
    """The same for real speech, where it lies beside the repository."""
    return _existing(SHARED / "real" / "golden")


@pytest.fixture(scope="session")
def real_speech():
    """Real recordings of many kinds, where they lie beside the repository."""
    return _existing(SHARED / "speech")


@pytest.fixture(scope="session")
def tiny_checkpoint(golden):
    """Path of a small checkpoint of random weights in the official format."""
    return golden / "checkpoint" / "tiny.pt"


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint):
    """Its encoder, in float32 on the CPU, with the layers that the presets read."""
    from sdhubert_ray.encoder import fetch_checkpoint
    from sdhubert_ray.encoder.checkpoint import load_model
    from sdhubert_ray.speech.presets import EncoderOptions

    return load_model(fetch_checkpoint(str(tiny_checkpoint)), EncoderOptions(), "float32", "cpu")


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """A folder of twenty recordings, see `trainings.write_speech`; not to be written into."""
    from trainings import write_speech

    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def one_thread():
    """Models as small as those of the tests lose time with more threads, much of it on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray with three logical CPUs, one for all tests.

    Where the number of encoders is not the point a test takes one: each that starts imports torch for seconds.
    """
    import ray

    often = {"metrics_report_interval_ms": 1000}  # the default is ten seconds
    ray.init("local", num_cpus=3, include_dashboard=False, _system_config=often)
    yield
    ray.shutdown()


@pytest.fixture
def connected(request):
    """Ray for the tests whose parameter `engine` is `ray`."""
    if request.node.callspec.params.get("engine") == "ray":
        request.getfixturevalue("ray_cluster")


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server on loopback, see `s3.Server`."""
    import s3

    server = s3.Server()
    yield server
    server.stop()


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """The URI of a new bucket on it, with the environment that leads there, for this process and its children."""
    import s3

    for name, value in s3.environment(s3_server.url).items():
        monkeypatch.setenv(name, value)
    return s3.make_bucket(s3_server.url, f"bucket-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def flaky_proxy(s3_server, tmp_path):
    """A proxy before that server that breaks nothing yet; `s3.environment(flaky_proxy.url)` leads to it."""
    import s3

    proxy = s3.Proxy(s3_server.url, tmp_path / "faults.jsonl")
    yield proxy
    proxy.stop()


@pytest.fixture
def hub(monkeypatch):
    """A hub of repositories, empty, which hf:// URIs of this process lead to; see `hub.Hub`."""
    import hub
    from huggingface_hub import constants

    server = hub.Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "".join([server.url, *template[1:]]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    yield server
    server.stop()


@pytest.hookimpl(wrapper=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """With pytest-xdist the tests that share a Ray, or an S3 server, are one worker's, so that one serves them all.

    Those that take processes or that server are marked so.
    """
    for item in items:
        groups = {mark.args[0] for mark in item.iter_markers("xdist_group")}
        if "s3_server" in item.fixturenames or groups & {"forks", "processes"}:
            item.add_marker("seconds")
        if item.get_closest_marker("ray") and {"ray_cluster", "connected"} & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif "s3_server" in item.fixturenames and not groups:
            item.add_marker(pytest.mark.xdist_group("s3"))
    return (yield)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")
