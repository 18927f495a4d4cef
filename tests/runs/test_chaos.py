"""Processes of a run killed at random, and the same command again: the table is that of an undisturbed run."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from clusters import BIN, Cluster, in_sessions, kill_sessions, running_cluster
from commands import sdhubert
from forks import FORKS, run_script

from sdhubert_ray import read_segments

UNIT_ROWS = 2
ROUNDS = 20
SEED = 20
PATIENCE = 300.0  # for a run that writes nothing: it starts, or has lost a process; seconds
MAX_RESUMES = 3

# What a process of a run calls itself.
TITLES = {
    "raylet": ("raylet",),
    "gcs_server": ("gcs_server",),
    "worker": ("ray::MapWorker(MapBatches(SegmentUnits))",),
    "notebook": ("ray::Notebook",),
}
KINDS = ("driver", *TITLES, "node")


@dataclass
class Corpus:
    """A manifest, and how it is segmented: many small units, so that there are many commits, and files to merge."""

    manifest: Path
    num_rows: int
    options: list[str]

    @property
    def num_units(self) -> int:
        return self.num_rows // UNIT_ROWS


@dataclass
class Run:
    """A process of `sdhubert segment`, its own Ray in its session."""

    process: psutil.Popen
    output: Path
    log: Path

    @classmethod
    def start(cls, corpus: Corpus, output: Path, *, engine: str = "ray", cluster: Cluster | None = None) -> "Run":
        command = [str(BIN / "sdhubert"), "segment", str(corpus.manifest), str(output), *corpus.options]
        command += ["--address", cluster.address] if cluster else ["--engine", engine]
        log = output.with_suffix(".log")
        with log.open("ab") as file:
            process = psutil.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=cluster.environment if cluster else {**os.environ, "RAY_ADDRESS": ""},
                start_new_session=True,
            )
        return cls(process, output, log)

    def wait(self) -> int:
        """Its exit code."""
        self._wait_until(lambda: self.process.poll() is not None)
        return int(self.process.wait())

    def wait_until_it_holds_the_output(self) -> None:
        self._wait_until(lambda: (self.output / "lease.json").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def wait_for_units(self, count: int) -> None:
        """Until so many units are committed, or the run ends."""
        self._wait_until(lambda: units_done(self.output) >= count or self.process.poll() is not None)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """A run whose files stay the same for long hangs, which fails the test; on a busy machine it is only slow."""
        files, moved = None, time.monotonic()
        while not is_so():
            now = sorted(unit_files(self.output))
            if now != files:
                files, moved = now, time.monotonic()
            if time.monotonic() > moved + PATIENCE:
                pytest.fail(f"the run (process {self.process.pid}) hangs:\n{self.log.read_text()[-5000:]}")
            time.sleep(0.05)

    def find(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that there are at the moment."""
        if kind == "driver":
            return [self.process]
        found = []
        for process in in_sessions({self.process.pid}):
            try:
                if title(process).startswith(TITLES[kind]):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


@dataclass
class Course:
    """How a run went that nobody disturbed, in seconds since it took the lease of its output.

    Attributes:
        commits: when each unit was committed.
        end: when the lease was given back.
    """

    commits: list[float] = field(default_factory=list)
    end: float = 0.0

    @classmethod
    def of(cls, run: Run) -> "Course":
        run.wait_until_it_holds_the_output()
        course, began = cls(), time.monotonic()
        while (run.output / "lease.json").exists():
            assert run.process.poll() is None, run.log.read_text()
            now = time.monotonic() - began
            course.commits += [now] * (units_done(run.output) - len(course.commits))
            time.sleep(0.05)
        course.end = time.monotonic() - began
        return course

    def locate(self, seconds: float) -> tuple[int, float]:
        """A moment of it as units committed by then, and seconds since the last of these.

        A later run, which may be faster or slower, is struck at the same place.
        """
        units = bisect_right(self.commits, seconds)
        return units, seconds - (self.commits[units - 1] if units else 0.0)


def title(process: psutil.Process) -> str:
    name = process.name()
    return name if name in ("raylet", "gcs_server") else " ".join(process.cmdline()).strip()


def unit_files(output: Path) -> list[list[int]]:
    """First and last unit of each file (one number: a unit as it was committed)."""
    files = [path for folder in ("commits", "segments") for path in (output / folder).glob("[!.]*.parquet")]
    return [[int(part) for part in path.stem.split("-")[2:]] for path in files]


def units_done(output: Path) -> int:
    return len({unit for span in unit_files(output) for unit in range(span[0], span[-1] + 1)})


def make_corpus(folder: Path, golden: Path, checkpoint: Path, num_rows: int, file_rows: int) -> Corpus:
    """Recordings of copied golden audio; one in forty is broken, one missing, one silent."""
    folder.mkdir()
    for number in range(5):
        shutil.copy(golden / f"audio/synth_{number}.flac", folder)
    (folder / "broken.flac").write_bytes(b"no audio")
    soundfile.write(folder / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    odd = {7: "broken.flac", 17: "missing.flac", 27: "silent.wav"}
    rows = [(f"take{row:04d}", folder / odd.get(row % 40, f"synth_{row % 5}.flac")) for row in range(num_rows)]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"id": name, "uri": str(path)}) + "\n" for name, path in rows))
    options = ["--checkpoint", str(checkpoint), "--max-failed", str(num_rows)]  # what cannot be read is no failure here
    options += [f"resources.unit_rows={UNIT_ROWS}", f"output.rows_per_file={file_rows}"]
    return Corpus(manifest, num_rows, options)


def read_raw(output: Path) -> pa.Table:
    """All rows that lie in the output, read as any other reader of Parquet folders (pandas, say) reads them."""
    return pq.read_table(output / "segments").sort_by("key").combine_chunks()


def assert_undisturbed(output: Path, expected: pa.Table) -> None:
    table = read_raw(output)
    assert table["key"].to_pylist() == expected["key"].to_pylist()  # each once
    assert table.equals(expected)  # statuses, segments and features too, to the last bit


def disturb(
    corpus: Corpus, output: Path, kind: str, place: tuple[int, float], rng: random.Random, cluster: Cluster | None
) -> dict[str, object] | None:
    """Kill a process of a run, let what is left of it end by itself, and resume it until it is done.

    Args:
        kind: of the victim; where there is none at the moment, another process is taken.
        place: units committed before the strike, and seconds to wait then.
        cluster: whose nodes do the work; none: a Ray of the run's own.

    Returns:
        what happened; None: the run ended before the strike.
    """
    runs = [Run.start(corpus, output, cluster=cluster)]
    run = runs[0]
    try:
        run.wait_until_it_holds_the_output()
        began = time.monotonic()
        run.wait_for_units(place[0])
        time.sleep(place[1])
        if run.process.poll() is not None:
            assert run.process.returncode == 0, run.log.read_text()[-5000:]
            return None
        if cluster:
            node = rng.choice(cluster.nodes[1:])
            victims = in_sessions({node.pid})
            name = f"node of {len(victims)} processes"
        else:
            present = {other: found for other in KINDS if other != "node" and (found := run.find(other))}
            kind = kind if kind in present else rng.choice(sorted(present))
            victims = [rng.choice(present[kind])]
            name = title(victims[0])[:60] if kind != "driver" else "sdhubert segment"
        rows = units_done(output) * UNIT_ROWS
        for process in victims:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue  # it has ended just now, or with its raylet
        struck = time.monotonic()
        code = run.wait()
        happened = {
            "victim": kind,
            "process": name,
            "seconds": round(struck - began, 1),
            "rows_committed": rows,
            "between": 0 < rows < corpus.num_rows,
            "exit_code": code,
            "ended_after": round(time.monotonic() - struck, 1),
        }
        while code != 0:
            assert len(runs) <= MAX_RESUMES, run.log.read_text()[-5000:]
            runs.append(Run.start(corpus, output, cluster=cluster))  # at once, whatever the killed run has left
            code = runs[-1].wait()
        return {**happened, "resumes": len(runs) - 1}
    finally:
        kill_sessions({run.process.pid for run in runs})
        for each in runs:
            each.process.wait()


@pytest.mark.slow
@pytest.mark.ray
def test_driver_worker_and_raylet_killed(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The short version of the twenty rounds below."""
    rng = random.Random(SEED)
    corpus = make_corpus(tmp_path / "corpus", golden, tiny_checkpoint, 80, 16)
    assert Run.start(corpus, tmp_path / "local", engine="local").wait() == 0
    expected = read_raw(tmp_path / "local")
    for kind in ("driver", "worker", "raylet"):
        place = (rng.randrange(1, corpus.num_units // 2), 0.0)
        happened = disturb(corpus, tmp_path / kind, kind, place, rng, None)
        print(json.dumps(happened))
        assert happened is not None
        assert happened["victim"] == kind
        assert happened["between"], happened
        assert happened["resumes"] == (0 if kind == "worker" else 1), happened
        assert_undisturbed(tmp_path / kind, expected)


# A run whose process is killed when two files have been put together, and of the third one the parts are still there.
KILLED_BETWEEN_FILES = """
import os, signal
from sdhubert_ray import cli, storage
remove, done = storage.remove_files, []
def remove_some(uris):
    if uris and len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.extend([uris] if uris else [])
    remove(uris)
storage.remove_files = remove_some
cli.main()
"""


@FORKS
def test_driver_killed_while_files_are_put_together(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", golden, tiny_checkpoint, 40, 8)
    command = ["segment", str(corpus.manifest)]
    sdhubert(*command, tmp_path / "undisturbed", *corpus.options, "--engine", "local")
    output = tmp_path / "out"
    run = [*command, str(output), *corpus.options, "--engine", "local"]
    killed = run_script(KILLED_BETWEEN_FILES, *run)
    assert killed.returncode == -9, killed.stderr
    assert Counter(map(len, unit_files(output))) == {2: 3, 1: 12}  # five files of four parts each are to be made
    assert_read_once(output, 40)
    sdhubert(*run)
    assert_undisturbed(output, read_raw(tmp_path / "undisturbed"))
    assert sorted(unit_files(output)) == sorted(unit_files(tmp_path / "undisturbed"))


def assert_read_once(output: Path, num_rows: int) -> None:
    """Readers see each row once even now."""
    names = [f"take{row:04d}" for row in range(num_rows)]
    assert [result.id for result in read_segments(str(output))] == names
    assert read_raw(output)["id"].to_pylist() == names[: read_raw(output).num_rows]


@pytest.mark.slow
@pytest.mark.ray
def test_driver_of_ray_killed_while_files_are_put_together(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", golden, tiny_checkpoint, 160, 8)
    assert Run.start(corpus, tmp_path / "undisturbed", engine="local").wait() == 0
    output = tmp_path / "out"
    runs = [Run.start(corpus, output)]
    run = runs[0]
    try:
        run.wait_for_units(corpus.num_units)
        while all(len(span) == 1 for span in unit_files(output)):
            assert run.process.poll() is None, run.log.read_text()
        run.process.kill()
        assert run.wait() == -9
        kill_sessions({run.process.pid})  # workers of its Ray outlive it by a moment
        files = unit_files(output)
        assert any(len(span) == 2 for span in files)
        assert any(len(span) == 1 for span in files), "nothing was left to put together"
        assert_read_once(output, 160)
        runs.append(Run.start(corpus, output))
        assert runs[-1].wait() == 0, run.log.read_text()
    finally:
        kill_sessions({run.process.pid for run in runs})
    assert_undisturbed(output, read_raw(tmp_path / "undisturbed"))
    assert sorted(unit_files(output)) == sorted(unit_files(tmp_path / "undisturbed"))


@pytest.mark.chaos
@pytest.mark.timeout(2 * 3600)
def test_twenty_rounds(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A random process is killed at a random time of the run, twenty times.

    The times are uniform over the measured run, from the lease to the end: one at random in each twentieth of it, in
    random order. Kinds of victims come equally often, in random order.
    """
    rng = random.Random(SEED)
    corpus = make_corpus(tmp_path / "corpus", golden, tiny_checkpoint, 2400, 200)
    undisturbed = Run.start(corpus, tmp_path / "undisturbed")
    try:
        course = Course.of(undisturbed)
        assert undisturbed.wait() == 0, undisturbed.log.read_text()
    finally:
        kill_sessions({undisturbed.process.pid})
    expected = read_raw(tmp_path / "undisturbed")
    found = Counter(expected["status"].to_pylist())
    assert found == {"ok": 2220, "unreadable": 60, "missing": 60, "silent": 60}
    assert len(unit_files(tmp_path / "undisturbed")) == 12
    log = tmp_path / "chaos.jsonl"
    tell(log, {"undisturbed": {"first": course.commits[0], "last": course.commits[-1], "end": course.end}})

    times = [(slot + rng.random()) / ROUNDS * course.end for slot in range(ROUNDS)]
    rng.shuffle(times)
    kinds = (list(KINDS) * ROUNDS)[:ROUNDS]
    rng.shuffle(kinds)
    drawn = [course.locate(seconds)[0] for seconds in times]
    assert sum(0 < units < corpus.num_units for units in drawn) >= 15, "the run is too short beside its start"
    between = []
    for number, (kind, seconds) in enumerate(zip(kinds, times, strict=True), start=1):
        output = tmp_path / f"round{number}"
        happened = one_round(corpus, output, kind, course.locate(seconds), rng)
        tell(log, {"round": number, "drawn_seconds": round(seconds, 1), **happened})
        assert_undisturbed(output, expected)
        between.append(happened["between"])
    assert sum(between) >= 15, log.read_text()


def one_round(
    corpus: Corpus, output: Path, kind: str, place: tuple[int, float], rng: random.Random
) -> dict[str, object]:
    units, seconds = place
    while True:
        with running_cluster() if kind == "node" else contextlib.nullcontext() as cluster:
            happened = disturb(corpus, output, kind, (units, seconds), rng, cluster)
        if happened is not None:
            return happened
        shutil.rmtree(output)  # this run was faster at its end than the measured one
        seconds /= 2


def tell(log: Path, line: dict[str, object]) -> None:
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)
