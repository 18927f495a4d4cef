"""A Ray that is started on this machine: where its files lie."""

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
