"""Rows that kill their worker: found, tried alone, given up; everything else is done."""

import json
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest
from commands import sdhubert
from forks import COMMAND
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import commits_in

from sdhubert_ray.output import read_commit, unit_name
from sdhubert_ray.output.attempts import MAX_DEATHS, Notebook, run_unit

# A decoder with a bug, for a process that executes this: it kills the process in the midst of one recording.
BUGGY_DECODER = """
import os, signal
import soundfile

begin, read = soundfile.SoundFile.__init__, soundfile.SoundFile.read

def begin_looking(self, file, *args, **options):
    start = file.tell()
    self.deadly = b"POISON" in file.read(2000)
    file.seek(start)
    begin(self, file, *args, **options)

def read_or_die(self, *args, **options):
    if self.deadly:
        with open({deaths!r}, "a") as log:
            log.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, *args, **options)

soundfile.SoundFile.__init__, soundfile.SoundFile.read = begin_looking, read_or_die
"""


class WorkerDeathError(BaseException):
    """Stands for the end of a process."""


def table(keys):
    return pa.table({"key": keys, "unit_name": [unit_name("00001", 0)] * len(keys)})


@settings(deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=3))))
def test_whatever_rows_are_deadly_the_others_are_done_and_deaths_are_bounded(case):
    count, deadly = case
    notebook = Notebook()
    batch = table([f"{row}#0" for row in range(count)])
    deaths = 0

    def work(rows, hopeless):
        if not hopeless and any(int(key[:-2]) in deadly for key in rows["key"].to_pylist()):
            raise WorkerDeathError
        return rows.append_column("given_up", pa.array([hopeless] * rows.num_rows))

    while True:  # as a scheduler does, without end
        try:
            result = run_unit("decode", batch, work, notebook)
            break
        except WorkerDeathError:
            deaths += 1
            assert deaths < 100
    assert result["key"].to_pylist() == batch["key"].to_pylist()
    assert {row for row, given_up in enumerate(result["given_up"].to_pylist()) if given_up} == deadly
    assert deaths == (1 + MAX_DEATHS * len(deadly) if deadly else 0)
    assert notebook.open == {}


def test_without_deaths_a_unit_is_worked_on_once_and_whole():
    calls = []
    notebook = Notebook()
    for _ in range(2):
        run_unit("cut", table(["a#0", "b#0"]), lambda rows, hopeless: calls.append(rows.num_rows) or rows, notebook)
    assert calls == [2, 2]


def poison(golden, tmp_path, count, deadly):
    """A folder of so many recordings, one of which kills."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(count):
        shutil.copy(golden / "audio" / "synth_3.flac", folder / f"{number:04d}.flac")
    data = (folder / deadly).read_bytes()
    # In a comment of the file, behind its stream info: the audio is as good as the others'.
    comment = b"POISON" + bytes(94)
    (folder / deadly).write_bytes(data[:42] + bytes([2]) + len(comment).to_bytes(3, "big") + comment + data[42:])
    return folder


def buggy(stage, decoder):
    """A stage whose workers have this decoder."""

    class Buggy(stage):
        def __init__(self, *arguments):
            exec(decoder, {})
            super().__init__(*arguments)

    return Buggy


def check(tmp_path, result, count, deadly, deaths):
    assert f"{deadly} has killed its worker three times" in result.stderr
    rows = [
        row
        for commit in commits_in(tmp_path / "out")
        for row in read_commit(str(tmp_path / "out"), commit.name, ["id", "status", "segments"]).to_pylist()
    ]
    assert len(rows) == len({row["id"] for row in rows}) == count
    assert {row["id"]: row["status"] for row in rows if row["status"] != "ok"} == {deadly: "failed"}
    assert len({json.dumps(row["segments"]) for row in rows if row["status"] == "ok"}) == 1
    assert (tmp_path / "deaths").read_text() == "x" * deaths


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_one_deadly_recording_of_a_hundred_ends_the_run_in_process_and_goes_on_on_ray(
    golden, tmp_path, tiny_checkpoint, monkeypatch
):
    """Where the command is its own worker it dies; the same command then takes workers that may die."""
    from sdhubert_ray.runs import pipeline

    audio = poison(golden, tmp_path, 100, "0057.flac")
    command = ["segment", audio, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", "auto"]
    command += ["resources.encode.max_workers=1", "resources.unit_rows=20"]
    decoder = BUGGY_DECODER.format(deaths=str(tmp_path / "deaths"))
    here = [sys.executable, "-c", decoder + COMMAND, *map(str, command)]
    died = subprocess.run(here, capture_output=True, text=True, timeout=400, check=False)
    assert died.returncode == -9, died.stderr
    monkeypatch.setattr(pipeline, "SegmentUnits", buggy(pipeline.SegmentUnits, decoder))
    result = sdhubert(*command, expect=3)
    assert "engine ray" in result.stdout
    check(tmp_path, result, 100, "0057.flac", 1 + 1 + MAX_DEATHS)
