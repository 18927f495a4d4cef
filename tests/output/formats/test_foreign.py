"""Files of recordings that somebody else has written, or may have: each case was found by trying to break it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import complaint, sdhubert

from sdhubert_ray import storage
from sdhubert_ray.output import contents
from sdhubert_ray.units import Quantizer

pytestmark = pytest.mark.seconds
GRIDS = ("--format", "textgrid")


@pytest.fixture
def audio(golden: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(golden / "audio" / "synth_3.flac", folder / "a.flac")
    return folder


@pytest.fixture
def segment(audio: Path, tiny_checkpoint: Path, tmp_path: Path):
    """Segment `in` into `out`; a refusal is returned as its sentence."""

    def run(*more: str, source: Path = audio, refused: bool = False, killed: bool = False) -> str:
        command = ["segment", source, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", "local"]
        done = sdhubert(*command, *more, "--max-failed", "9", expect=1 if killed else 2 if refused else 0)
        return complaint(done) if refused else done.stdout

    return run


def mine(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


def test_of_a_recording_in_several_pieces(audio, segment, tmp_path):
    soundfile.write(audio / "long.flac", np.random.default_rng(0).normal(0, 0.1, 50 * 16_000), 16_000)
    grid = mine(tmp_path / "out" / "long.TextGrid")
    assert "holds long.TextGrid" in segment(*GRIDS, "audio.piece_seconds=20", refused=True)
    assert grid.read_text() == "mine"


def test_of_a_recording_that_is_tried_again(audio, segment, golden, tmp_path):
    (audio / "b.flac").write_bytes(b"no audio")
    segment(*GRIDS)
    grid = mine(tmp_path / "out" / "b.TextGrid")
    shutil.copy(golden / "audio" / "synth_0.flac", audio / "b.flac")
    assert "holds b.TextGrid" in segment(*GRIDS, "--retry", "unreadable", refused=True)
    assert grid.read_text() == "mine"


@pytest.mark.parametrize("last", [("--overwrite",), GRIDS, ("--overwrite", *GRIDS)])
def test_of_a_recording_that_came_when_no_format_was_asked_for(last, audio, segment, golden, tmp_path):
    segment(*GRIDS)
    grid = mine(tmp_path / "out" / "b.TextGrid")
    shutil.copy(golden / "audio" / "synth_0.flac", audio / "b.flac")
    segment()
    segment(*last, refused=GRIDS[0] in last)
    assert grid.read_text() == "mine"


def test_of_a_hidden_name(audio, segment, tmp_path):
    (tmp_path / "m.csv").write_text(f"id,uri\n.a,{audio}/a.flac\n")
    grid = mine(tmp_path / "out" / ".a.TextGrid")
    assert "holds .a.TextGrid" in segment(*GRIDS, source=tmp_path / "m.csv", refused=True)
    assert grid.read_text() == "mine"


@pytest.mark.parametrize("folder", ["segments", "manifest", "commits"])
def test_files_among_those_of_the_output_are_refused(folder, audio, segment, tmp_path):
    """Readers of the table's folder would stumble over them."""
    (audio / folder).mkdir()
    (audio / "a.flac").rename(audio / folder / "a.flac")
    assert f"the files of id '{folder}/a.flac' would lie among those of the output" in segment(*GRIDS, refused=True)
    assert not (tmp_path / "out").exists()
    segment()


@pytest.mark.parametrize("last", [("--format", "npy"), ("--format", "txt", "--overwrite"), ("--overwrite",)])
def test_units_of_a_recording_that_came_later(last, audio, segment, golden, tmp_path):
    Quantizer(np.random.default_rng(0).standard_normal((4, 48)).astype(np.float32)).save(str(tmp_path / "q"))
    command = ["tokenize", tmp_path / "out", tmp_path / "units", "--quantizer", tmp_path / "q"]
    segment()
    sdhubert(*command, "--format", "npy")
    shutil.copy(golden / "audio" / "synth_0.flac", audio / "c.flac")
    segment()
    foreign = mine(tmp_path / "units" / "c_units.npy")
    done = sdhubert(*command, *last, expect=(0, 2))
    assert done.returncode == (2 if "npy" in last else 0)
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize("where", ["before the record", "before the plan"])
def test_an_overwrite_that_was_killed_when_nothing_was_left(where, segment, tmp_path, monkeypatch):
    """A file of somebody's in the folder of the table, or a part of a plan that never was, does not stop the next."""

    def killed(*arguments):
        raise KeyboardInterrupt

    if where == "before the plan":  # the first run, which leaves a part behind
        create = storage.create
        with monkeypatch.context() as patch:
            patch.setattr(storage, "create", lambda *put: killed() if put[0].endswith("00001.json") else create(*put))
            segment(killed=True)
        assert [path.suffix for path in (tmp_path / "out" / "manifest").iterdir()] == [".parquet"]
    else:
        segment()
    notes = mine(tmp_path / "out" / "segments" / "notes.txt")
    with monkeypatch.context() as patch:
        patch.setattr(contents, "tidy_output", killed)
        segment("--overwrite", killed=True)
    segment("--overwrite")
    assert len(list((tmp_path / "out" / "manifest").glob("*.parquet"))) == 1
    assert notes.read_text() == "mine"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "finished"
