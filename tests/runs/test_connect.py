"""A Ray that is started on this machine: where its files lie, and what is seen of what it tells of itself."""

import logging
import os
from pathlib import Path

import pytest

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


def test_ray_tells_nothing_of_itself_unless_it_is_asked_to(monkeypatch):
    for name in ("RAY_BACKEND_LOG_LEVEL", "RAY_COLOR_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with connect._hushed():
        assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "fatal"
        assert os.environ["RAY_COLOR_PREFIX"] == "0"  # no terminal here
    assert dict(os.environ) == before
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "info")
    with connect._hushed():
        assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "info"
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "info"
    monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL")
    own = logging.getLogger("sdhubert_ray")
    level = own.level
    own.setLevel(logging.DEBUG)
    try:
        with connect._hushed():
            assert "RAY_BACKEND_LOG_LEVEL" not in os.environ
    finally:
        own.setLevel(level)
