"""A Ray that is started on this machine: where its files lie, and what is seen of what it tells of itself."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.runs import connect


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_long_name_of_the_temporary_folder_is_made_short(tmp_path, monkeypatch, name):
    """Ray's sockets lie in it, whose names may have 107 bytes."""
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(long))
    with connect._short_folder() as short:
        assert len(short) <= connect._LONGEST_FOLDER
        Path(short).mkdir()
        assert (long / "ray").is_dir()  # it is the same place
    assert not Path(short).parent.is_symlink()
    monkeypatch.setenv(name, "short")
    with connect._short_folder() as short:
        assert short is None


SAYS = """
import os, sys
from sdhubert_ray.runs import connect

if "commands" in sys.argv:
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
with connect._hushed():
    os.write(2, b"[... E 1 1] core_worker.cc:1: Actor with class name: 'A' has constructor arguments")
    os.write(2, b" in the object store and max_restarts > 0. If they are lost, the actor restart will fail.\\n")
    os.write(2, b"[... E 1 1] the disk is full\\n")
    print("half a li", end="", file=sys.stderr, flush=True)
    print("ne", file=sys.stderr)
    if "crash" in sys.argv:
        os.write(2, b"the last words\\n")
        os._exit(3)
os.write(2, b"afterwards\\n")
"""


@pytest.mark.parametrize("way", [["commands"], ["commands", "crash"], ["a library"]])
def test_of_what_the_core_says_only_what_it_says_always_is_kept_back(way):
    done = subprocess.run([sys.executable, "-c", SAYS, *way], capture_output=True, text=True, check=False)
    assert done.returncode == (3 if "crash" in way else 0), done.stderr
    lines = done.stderr.splitlines()
    # A bar, which is half a line, goes past the sieve: what comes through that may stand in its midst.
    for told in (
        "[... E 1 1] the disk is full",
        "half a li",
        "ne\n",
        "the last words" if "crash" in way else "afterwards",
    ):
        assert told in done.stderr
    assert any("core_worker" in line for line in lines) == ("commands" not in way)


def test_debug_tells_all(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # no sieve
    monkeypatch.setattr(connect, "_is_pythons", lambda _: False)
    own = logging.getLogger("sdhubert_ray")
    level = own.level
    own.setLevel(logging.DEBUG)
    try:
        with connect._hushed():
            pass
    finally:
        own.setLevel(level)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (Exception("The current node timed out during startup.\nMore"), BusyError),
        (ValueError("no such address"), UserError),
        (KeyError("a mistake"), KeyError),
    ],
)
def test_a_ray_that_does_not_start(raised, told, monkeypatch):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # by other tests it may be
    with pytest.raises(told) as caught, connect.connected(None):
        pass
    assert str(raised).partition("\n")[0] in str(caught.value)
