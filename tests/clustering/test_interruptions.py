"""Clusterings that are interrupted, killed or meet: they go on to the same bits."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from clusterings import SMALL, StopError, cluster, prepare, same
from commands import sdhubert
from forks import FORKS, run_script
from segments import publish_all

from sdhubert_ray import storage
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.planning import prepare_clustering
from sdhubert_ray.clustering.running import run_clustering
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Lease

# --- interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [("sample", 0), ("k-means", 0), ("k-means", 3), ("ward", 0), ("ward", 1)])
def test_it_goes_on_from_wherever_it_was(moment: tuple[str, int], segments: str, tmp_path: Path) -> None:
    cluster(segments, tmp_path / "whole")

    def stop(phase: str, done: int, *_: object) -> None:
        if (phase, done) == moment:
            raise StopError

    job = prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(device="cpu"), engine="local")
    with pytest.raises(StopError):
        run_clustering(job, stop)
    publish_all(segments)  # which changes nothing
    job = prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(device="cpu"), engine="local")
    assert job.resumes
    seen: list[tuple[str, int]] = []
    run_clustering(job, lambda phase, done, *_: seen.append((phase, done)))
    assert same(tmp_path / "whole", tmp_path / "out")
    steps = [done for phase, done in seen if phase == "k-means"]
    assert (steps[0] if steps else 99) == {"sample": 0, "ward": 99}.get(moment[0], moment[1] + 1)
    assert not (tmp_path / "out/work").exists()


@pytest.mark.parametrize("removals", range(5))
def test_an_overwriting_that_is_interrupted_leaves_nothing_to_be_mistaken(
    removals: int, segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(phase: str, done: int, *_: object) -> None:
        if (phase, done) == ("k-means", 2):
            raise StopError

    with pytest.raises(StopError):
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    left, remove = [removals], storage.remove_files

    def remove_some(uris: Sequence[str]) -> None:
        if uris[0].endswith("lease.json"):
            return remove(uris)
        if not left[0]:
            raise StopError
        left[0] -= 1
        return remove(uris)

    other = ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500, seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "remove_files", remove_some)
        with pytest.raises(StopError):
            cluster(segments, tmp_path / "out", other, overwrite=True)
    begun = (tmp_path / "out/work/settings.json").exists()
    if begun:
        with pytest.raises(UserError, match="seed is 0 there, 1 now"):
            prepare(segments, tmp_path / "out", other)
    cluster(segments, tmp_path / "out", other, overwrite=begun)
    cluster(segments, tmp_path / "new", other)
    assert same(tmp_path / "out", tmp_path / "new")


@pytest.mark.parametrize("finished", [False, True])
def test_what_another_run_has_begun_since_the_planning_is_refused(
    finished: bool, segments: str, tmp_path: Path
) -> None:
    def stop(*_: object) -> None:
        if not finished:
            raise StopError

    other = prepare(segments, tmp_path / "out", ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500, seed=1))
    try:
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    except StopError:
        assert not finished
    with pytest.raises(UserError, match="seed is 0 there, 1 now"):
        run_clustering(other, lambda *_: None)


INTERRUPTED = """
import os, sys
from sdhubert_ray import cli
from sdhubert_ray.clustering import running

step, number = int(sys.argv.pop(1)), int(sys.argv.pop(1))
write_state = running.write_state

def write_or_end(work, state):
    if state.iteration == step:
        os.kill(os.getpid(), number)
    write_state(work, state)

running.write_state = write_or_end
cli.main()
"""


@FORKS
def test_killed_between_steps_it_comes_to_the_same_bits(segments: str, tmp_path: Path) -> None:
    sizes = ("--n-clusters", "100", "--n-units", "20", "--tolerance", "0", "--max-iterations", "8", "--device", "cpu")
    ways = ("--engine", "local", "--log-format", "json")
    command = ["cluster", segments, str(tmp_path / "out"), *sizes, *ways]
    said = ""
    for ending, code, step in ((signal.SIGKILL, -signal.SIGKILL, 3), (signal.SIGTERM, 1, 6)):
        done = run_script(INTERRUPTED, str(step), str(int(ending)), *command)
        assert done.returncode == code, done.stderr
        assert ("interrupted; the same command resumes" in done.stderr) == (code == 1)
        assert not (tmp_path / "out/quantizer.json").exists()
        said += done.stderr
    done = sdhubert(*command)
    assert "was begun by an earlier run" in done.stdout
    events = [json.loads(line) for line in (said + done.stderr).splitlines() if line.startswith("{")]
    assert [event["iteration"] for event in events if event.get("event") == "iteration"] == [*range(1, 9)]
    options = ClusterOptions(n_clusters=100, n_units=20, tolerance=0, max_iterations=8)
    cluster(segments, tmp_path / "whole", options)
    assert same(tmp_path / "out", tmp_path / "whole")


def test_two_runs_do_not_meet(segments: str, tmp_path: Path) -> None:
    lease = Lease(str(tmp_path / "out"), "theirs")
    try:
        with pytest.raises(BusyError, match="is being written by another run"):
            cluster(segments, tmp_path / "out")
    finally:
        lease.release()
