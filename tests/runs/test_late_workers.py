"""Workers that are stopped, outlive their run, and go on when another one has been there."""

import shutil
import signal
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from commands import sdhubert
from forks import FORKS, Script

from sdhubert_ray import read_segments

# `sdhubert segment`, whose second unit is given to a process of its own. That one stops itself, and the command is
# killed. Where: before it has looked whether its run still holds the output, or after, before it writes.
LEAVES_A_WORKER = """
import os, signal, sys, traceback
from pathlib import Path
from sdhubert_ray import cli, storage
from sdhubert_ray.runs import execute
where, left = sys.argv.pop(), Path(sys.argv.pop())

def stop():
    left.write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)

put = storage.put
def put_late(uri, data):
    if where == "writes" and "/commits/" in uri:
        stop()
    put(uri, data)

class WriteSegments(execute.WriteSegments):
    units = 0
    def __call__(self, batch):
        WriteSegments.units += 1
        if WriteSegments.units < 2:
            return super().__call__(batch)
        worker = os.fork()
        if worker:
            os.waitpid(worker, os.WUNTRACED)
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            storage.put = put_late
            if where == "looks":
                stop()
            super().__call__(batch)
            left.write_text("committed")
        except BaseException as error:
            left.write_text(f"{type(error).__name__}: {error}")
        os._exit(0)

from sdhubert_ray.runs.stages import units
execute.WriteSegments = units.WriteSegments = WriteSegments
cli.main()
"""


def content(output: Path) -> dict[str, bytes]:
    return {
        path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()
    }


def read_raw(output: Path) -> list[dict[str, object]]:
    """All rows, as any reader of the folder sees them."""
    rows: list[dict[str, object]] = pq.read_table(output / "segments").sort_by("key").to_pylist()
    return rows


@FORKS
@pytest.mark.seconds
@pytest.mark.parametrize("where", ["looks", "writes"])
@pytest.mark.parametrize("way", ["resumed", "overwritten", "resumed, then tokenized"])
def test_what_a_worker_commits_late_never_counts(
    where: str, way: str, golden: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    audio, output, left = tmp_path / "audio", tmp_path / "out", tmp_path / "left"
    audio.mkdir()
    for number in range(4):
        shutil.copy(golden / "audio" / "synth_3.flac", audio / f"{number}.flac")
    command = ["segment", str(audio), str(output), "--checkpoint", str(tiny_checkpoint), "--engine", "local"]
    command += ["resources.unit_rows=1"]
    process = Script(LEAVES_A_WORKER, *command, str(left), where)
    assert process.wait().returncode == -signal.SIGKILL
    worker = psutil.Process(int(left.read_text()))
    try:
        assert worker.status() == psutil.STATUS_STOPPED
        assert len(list((output / "commits").iterdir())) == 1
        other = [*command, "syllables.syl_dur=0.4", "--overwrite"] if way == "overwritten" else command
        sdhubert(*other)
        if way.endswith("tokenized"):
            sdhubert(
                "cluster", output, tmp_path / "quantizer", "--n-clusters", "4", "--n-units", "2", "--device", "cpu"
            )
            sdhubert("tokenize", output, "--quantizer", tmp_path / "quantizer")
        before, rows = content(output), read_raw(output)
        results = [(result.id, result.segments.tolist()) for result in read_segments(str(output))]
        worker.send_signal(signal.SIGCONT)
        psutil.wait_procs([worker], 120)
    finally:
        if worker.is_running():
            worker.kill()
    late = {name for name in content(output) if name not in before}
    if where == "looks":
        assert left.read_text().startswith("LeaseLostError: output ")
        assert late == set()
    else:
        assert left.read_text() == "committed"
        assert len(late) == 1
    assert {name: data for name, data in content(output).items() if name in before} == before
    assert read_raw(output) == rows
    assert [(result.id, result.segments.tolist()) for result in read_segments(str(output))] == results
    if way != "resumed, then tokenized":
        again = sdhubert(*[word for word in other if word != "--overwrite"])
        assert "nothing was left to do" in again.stdout
        assert read_raw(output) == rows
