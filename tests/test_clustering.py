"""Clustering a table: the sample, the same bits whoever works, kills, little memory, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import write_output
from segments import FINGERPRINT, clustered, make_table, merge_all, write_segments
from sklearn.cluster import KMeans, MiniBatchKMeans

from sdhubert_ray.clustering import (
    Clustered,
    ClusterJob,
    ClusterOptions,
    Workers,
    memory,
    planning,
    prepare_clustering,
    run_clustering,
    running,
    sampling,
    shards,
)
from sdhubert_ray.clustering.fitting import Centers, fit, sample_scales
from sdhubert_ray.clustering.memory import available_here, plan_memory
from sdhubert_ray.clustering.sampling import (
    SampleLots,
    choose_limits,
    choose_priorities,
    join_reports,
    lot_table,
    make_lots,
)
from sdhubert_ray.clustering.shards import ALL, Sample, read_shard, read_smallest
from sdhubert_ray.clustering.source import open_source
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.kmeans import LloydSums, Moments, NearestCenters, add_up, measure, nearest_centers, seed_centers
from sdhubert_ray.output import Lease, list_commits, read_run, write_run
from sdhubert_ray.quantizer import Quantizer
from sdhubert_ray.session import IncompleteRunError
from sdhubert_ray.tokenizing import prepare_tokenizing, run_tokenizing

SDHUBERT = str(Path(sys.executable).parent / "sdhubert")
SMALL = ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500)


@pytest.fixture
def segments(tmp_path: Path) -> str:
    """4000 syllables of width 16 in 40 rows, 6 files."""
    return write_segments(str(tmp_path / "segments"), clustered(4000, 16, 60))


def cluster(source: str, output: Path, options: ClusterOptions = SMALL, **choices: object) -> Clustered:
    workers = Workers(device="cpu", **{key: choices.pop(key) for key in ("count", "memory_gib") if key in choices})
    job = prepare_clustering(source, str(output), options, workers, **{"engine": "local", **choices})
    return run_clustering(job, lambda *_: None)


def same(first: Path, second: Path) -> bool:
    names = ("quantizer.safetensors",)
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def fit_workers() -> list[psutil.Process]:
    """The workers of this process's Ray."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if process.cmdline()[:1] == ["ray::FitWorker"]]


def take_sample(source: str, work: Path, wanted: int, seed: int = 0) -> Sample:
    table = open_source(source)
    limits = choose_limits(table.num_vectors, wanted)
    stage = SampleLots(table.output, str(work), seed, limits)
    lots = [lot_table(number, lot) for number, lot in enumerate(make_lots(table, limits))]
    reports = [json.loads(stage(lot).column("report")[0].as_py()) for lot in lots]
    return join_reports(reports, table, limits, wanted)


def sampled(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a sample, by priority, and the priorities."""
    parts = [read_shard(uri, sample.limit) for uri in sample.shards]
    features, priorities = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    order = np.argsort(priorities)
    return features[order], priorities[order]


def every_priority(source: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All vectors of a table by priority, and the priorities, row by row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sdhubert_ray.tables import read_vectors

    table = pa.concat_tables(pq.read_table(path) for path in sorted(Path(source, "segments").glob("*.parquet")))
    features = [rows for rows in read_vectors(table.column("segment_features")) if rows is not None]
    keys = [key for key, status in zip(*(table.column(name).to_pylist() for name in ("key", "status")), strict=True)
            if status == "ok"]  # fmt: skip
    counts = np.array([len(rows) for rows in features])
    priorities = choose_priorities(seed, keys, counts)
    order = np.argsort(priorities)
    return np.concatenate(features)[order], priorities[order]


# --- the sample --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [1, 30, 1500, 3990, 4000, 9999])
def test_the_sample_is_the_vectors_of_the_smallest_priorities(wanted: int, segments: str, tmp_path: Path) -> None:
    sample = take_sample(segments, tmp_path / "work", wanted)
    assert sample.num_vectors == min(wanted, 4000)
    features, priorities = sampled(sample)
    every, theirs = every_priority(segments)
    assert np.array_equal(priorities, theirs[:wanted])
    assert np.array_equal(features, every[:wanted])
    count = max(1, sample.num_vectors // 3)
    assert np.array_equal(read_smallest(sample, count), every[:count])


def test_the_sample_does_not_depend_on_the_files(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = take_sample(segments, tmp_path / "one", 1000)
    merge_all(segments)
    assert len(list_commits(segments)) == 1
    monkeypatch.setattr(shards, "SHARD_BYTES", 10_000)
    after = take_sample(segments, tmp_path / "two", 1000)
    assert len(after.shards) > len(before.shards)
    assert (after.limit, after.largest) == (before.limit, before.largest)
    for one, two in zip(sampled(before), sampled(after), strict=True):
        assert np.array_equal(one, two)


def test_another_seed_takes_another_sample(segments: str, tmp_path: Path) -> None:
    one, two = (sampled(take_sample(segments, tmp_path / str(seed), 1000, seed))[0] for seed in (0, 1))
    both = {row.tobytes() for row in one} & {row.tobytes() for row in two}
    assert 200 < len(both) < 300  # a quarter of each, as chance has it


def test_lots_that_are_done_are_not_done_again(segments: str, tmp_path: Path) -> None:
    take_sample(segments, tmp_path / "work", 1000)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work/sample").iterdir()}
    take_sample(segments, tmp_path / "work", 1000)
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work/sample").iterdir()}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_limits_hold_between_them_what_is_wanted(num_vectors: int, wanted: int) -> None:
    limits = choose_limits(num_vectors, wanted)
    assert 0 <= limits.lower <= limits.upper <= ALL
    if wanted < num_vectors:
        assert limits.lower / ALL * num_vectors <= wanted <= limits.upper / ALL * num_vectors
    else:
        assert limits.lower == ALL


def test_priorities_are_uniform_and_of_their_row_alone() -> None:
    counts = np.array([3, 0, 100_000, 7])
    priorities = choose_priorities(0, ["a", "b", "c", "d"], counts)
    assert np.array_equal(priorities[:3], choose_priorities(0, ["a"], counts[:1]))
    assert np.array_equal(priorities[-7:], choose_priorities(0, ["d"], counts[3:]))
    assert len(set(priorities.tolist())) == 100_010
    histogram = np.histogram(priorities.astype(np.float64) / ALL, 20, (0, 1))[0]
    assert abs(histogram - 5000).max() < 5 * np.sqrt(5000)


def test_of_a_key_that_was_tried_again_the_latest_attempt_counts(tmp_path: Path) -> None:
    first, second = np.ones((5, 4), np.float32), np.full((6, 4), 2, np.float32)
    tables = [
        (1, make_table(["a#0", "b#0"], [first, first])),
        (1, make_table(["c#0"], [first])),
        (2, make_table(["b#0"], [second])),
    ]
    source = write_output(str(tmp_path / "segments"), tables, FINGERPRINT)
    assert open_source(source).num_vectors == 16
    features, _ = sampled(take_sample(source, tmp_path / "work", 99))
    assert sorted(features[:, 0].tolist()) == [1.0] * 10 + [2.0] * 6


def test_missing_rows_are_counted_and_half_precision_is_kept(tmp_path: Path) -> None:
    table = make_table(["a#0", "b#0", "c#0"], [clustered(9, 4, 2), None, np.zeros((0, 4))], np.float16)
    source = open_source(write_output(str(tmp_path / "segments"), [(1, table)], FINGERPRINT))
    assert (source.num_vectors, source.rows_failed, source.num_rows, source.dtype) == (9, 1, 3, "float16")
    features, _ = sampled(take_sample(source.output, tmp_path / "work", 99))
    assert features.dtype == np.float16


# --- the result --------------------------------------------------------------------------------------------------


def test_a_quantizer_comes_of_it(segments: str, tmp_path: Path) -> None:
    done = cluster(segments, tmp_path / "out", sklearn=True)
    quantizer = Quantizer.load(str(tmp_path / "out"))
    assert done.quantizer is not None
    assert quantizer.card == done.quantizer.card
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "km_24.pt",
        "km_24to8.npy",
        "quantizer.json",
        "quantizer.safetensors",
    ]
    card = quantizer.card
    assert (card["n_clusters"], card["n_units"], card["width"], card["num_vectors"]) == (24, 8, 16, 1500)
    assert card["converged"] is True
    features, _ = every_priority(segments)
    sample = features[:1500]
    nearest = nearest_centers(sample, quantizer.centers)
    inertia = np.square(sample.astype(np.float64) - quantizer.centers[nearest]).sum()
    assert card["inertia"] == pytest.approx(inertia, rel=1e-9)
    assert card["inertia_per_vector"] == pytest.approx(inertia / 1500, rel=1e-9)
    km, reducer = joblib.load(tmp_path / "out/km_24.pt"), np.load(tmp_path / "out/km_24to8.npy")
    assert np.array_equal(reducer[km.predict(features)], quantizer.predict(features))


class HeldTeam:
    """This process, with a sample in memory. Methods as `fitting.Team`."""

    def __init__(self, features: np.ndarray, options: ClusterOptions) -> None:
        count, width = features.shape
        self.sample = Sample((), ALL, count, width, "float32", float(np.abs(features).max()))
        self._features = features
        self._options = options

    def choose_seeds(self) -> Centers:
        return self._features[seed_centers(self._features, self._options.n_clusters, self._options.seed)]

    def measure(self) -> Moments:
        return measure(self._features, sample_scales(self.sample))

    def step(self, centers: Centers) -> LloydSums:
        sums = LloydSums.zero(*centers.shape)
        priorities = np.arange(len(self._features), dtype=np.uint64)
        add_up(self._features, priorities, NearestCenters(centers), sample_scales(self.sample), sums)
        return sums


def test_inertia_is_that_of_scikit_learn() -> None:
    features = clustered(8000, 32, 150, noise=0.8)
    inertias = []
    for seed in range(3):
        team = HeldTeam(features, ClusterOptions(100, 100, seed))
        state = fit(team, team.sample, ClusterOptions(100, 100, seed), None, lambda _: None)
        assert state.ended == "converged"
        full = KMeans(100, n_init=1, random_state=seed, max_iter=100).fit(features)
        small = MiniBatchKMeans(100, n_init=1, random_state=seed).fit(features)
        theirs = small.cluster_centers_[nearest_centers(features, small.cluster_centers_)]
        inertias.append((state.inertia, full.inertia_, np.square(features.astype(np.float64) - theirs).sum()))
    ours, full_batch, mini_batch = np.mean(inertias, axis=0)
    assert ours == pytest.approx(full_batch, rel=0.01)
    assert ours < mini_batch


def test_run_again_it_is_done_already_and_writes_the_pair_that_is_asked_for_late(segments: str, tmp_path: Path) -> None:
    cluster(segments, tmp_path / "out")
    before = (tmp_path / "out/quantizer.json").read_bytes()
    job = prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(), sklearn=True)
    assert job.finished
    run_clustering(job, lambda *_: None)
    assert (tmp_path / "out/quantizer.json").read_bytes() == before
    assert (tmp_path / "out/km_24.pt").exists()


def test_units_in_the_table_leave_it_finished(segments: str, tmp_path: Path) -> None:
    record = read_run(segments)
    assert record is not None
    write_run(segments, {**record, "state": "finished", "config": {"output": {"compression": "zstd"}}})
    cluster(segments, tmp_path / "out")
    before, sizes = open_source(segments), [commit.size for commit in list_commits(segments)]
    name = str(tmp_path / "out")
    tokenizing = prepare_tokenizing(segments, Quantizer.load(name), name, device="cpu", engine="local")
    run_tokenizing(tokenizing, lambda _: None)
    assert [commit.size for commit in list_commits(segments)] != sizes
    assert open_source(segments).fingerprint != before.fingerprint
    assert prepare(segments, tmp_path / "out").finished


def test_neither_files_nor_memory_nor_threads_change_a_bit(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    cluster(segments, tmp_path / "one")
    merge_all(segments)
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    before = torch.get_num_threads()
    torch.set_num_threads(3 if before == 1 else 1)
    try:
        cluster(segments, tmp_path / "two", memory_gib=0.5)
    finally:
        torch.set_num_threads(before)
    assert same(tmp_path / "one", tmp_path / "two")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_workers_one_of_them_killed_gives_the_bits_of_this_process(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500, max_iterations=8)
    cluster(segments, tmp_path / "local", options)
    monkeypatch.setattr(sampling, "SHARD_BYTES", 20_000)
    for count in (1, 3):
        output, alive = tmp_path / f"ray{count}", []

        def look(phase: str, done: int, *_: object, alive: list[int] = alive) -> None:
            if (phase, done) == ("k-means", 3):
                alive.append(len(fit_workers()))
                if len(fit_workers()) > 1:
                    fit_workers()[0].kill()

        job = prepare_clustering(segments, str(output), options, Workers(count, device="cpu"), engine="ray")
        run_clustering(job, look)
        assert alive == [count]
        assert same(tmp_path / "local", output)
    with pytest.raises(UserError, match="--workers is 5, but the cluster has CPUs for 4"):
        cluster(segments, tmp_path / "ray5", options, engine="ray", count=5)
    with pytest.raises(UserError, match=r"--memory-gib is 9999, but 2 workers can have \d+\.\d\d GiB each at most"):
        cluster(segments, tmp_path / "ray5", options, engine="ray", count=2, memory_gib=9999)


def test_workers_are_laid_out_where_there_are_cpus_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdhubert_ray.clustering import remote

    gib = 1 << 30
    kinds = [(0, 900), (16, 64), (16, 10), (4, 200)]  # a head without CPUs; much memory, but few CPUs
    nodes = [{"Alive": True, "Resources": {"CPU": cpus, "memory": size * gib}} for cpus, size in kinds]
    monkeypatch.setattr(remote.ray, "nodes", lambda: nodes)

    def lay_out(count: int | None, memory_gib: float | None = None) -> tuple[int, int, float]:
        layout = remote.lay_out(Workers(count, memory_gib), "cpu")
        return layout.count, layout.cpus, round(layout.memory / gib, 1)

    assert lay_out(None) == (3, 8, 8.0)
    assert lay_out(1) == (1, 16, 51.2)
    assert lay_out(2) == (2, 16, 8.0)
    assert lay_out(1, 50) == (1, 16, 50)
    with pytest.raises(UserError, match=r"--memory-gib is 50, but 2 workers can have 8\.00 GiB each at most"):
        lay_out(2, 50)
    monkeypatch.setattr(remote, "cluster_device", lambda _: "cpu")
    engine, wide = remote.RayEngine(Workers(2), "work"), ClusterOptions(n_clusters=65_536, n_units=4096)
    assert engine.plan(wide, 2**24, 64, None, seeded=False).reduce_bytes > 30 * gib
    with pytest.raises(UserError, match=r"Ward's reduction takes \d+\.\d+ GiB of memory, but 51\.20 GiB can be had"):
        engine.plan(ClusterOptions(n_clusters=2 * 65_536), 2**24, 64, None, seeded=False)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_nan_in_a_worker_is_told_by_its_file(tmp_path: Path) -> None:
    features = clustered(300, 4, 5)
    features[200, 2] = np.nan
    source = write_segments(str(tmp_path / "segments"), features)
    with pytest.raises(IncompleteRunError, match=r"segments/00001-\d+\.parquet has segment features that are NaN"):
        cluster(source, tmp_path / "out", ClusterOptions(5, 5), engine="ray")


def test_an_object_store_takes_and_gives_all_of_it(s3_bucket: str, tmp_path: Path) -> None:
    source = write_segments(f"{s3_bucket}/segments", clustered(600, 8, 9), rows=9)
    options = ClusterOptions(n_clusters=6, n_units=3)
    job = prepare_clustering(source, f"{s3_bucket}/q", options, Workers(device="cpu"), engine="local")
    run_clustering(job, lambda *_: None)
    local = write_segments(str(tmp_path / "segments"), clustered(600, 8, 9), rows=9)
    cluster(local, tmp_path / "q", options)
    assert Quantizer.load(f"{s3_bucket}/q").sha256 == Quantizer.load(str(tmp_path / "q")).sha256
    from sdhubert_ray import storage

    assert sorted(storage.list_files(f"{s3_bucket}/q")) == ["quantizer.json", "quantizer.safetensors"]


def test_vectors_that_are_all_alike_are_told(tmp_path: Path) -> None:
    source = write_segments(str(tmp_path / "segments"), np.ones((100, 3), np.float32))
    done = cluster(source, tmp_path / "out", ClusterOptions(4, 2))
    assert done.notes == ["3 of 4 clusters have no vector: too few vectors differ"]
    assert Quantizer.load(str(tmp_path / "out")).card["inertia"] == 0


# --- interruptions -----------------------------------------------------------------------------------------------


class _StopError(Exception):
    """Ends a run at a moment of the test's choice."""


@pytest.mark.parametrize("moment", [("sample", 0), ("k-means", 0), ("k-means", 3), ("ward", 0), ("ward", 1)])
def test_it_goes_on_from_wherever_it_was(moment: tuple[str, int], segments: str, tmp_path: Path) -> None:
    cluster(segments, tmp_path / "whole")

    def stop(phase: str, done: int, *_: object) -> None:
        if (phase, done) == moment:
            raise _StopError

    job = prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(device="cpu"), engine="local")
    with pytest.raises(_StopError):
        run_clustering(job, stop)
    merge_all(segments)  # which changes nothing
    job = prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(device="cpu"), engine="local")
    assert job.resumes
    seen: list[tuple[str, int]] = []
    run_clustering(job, lambda phase, done, *_: seen.append((phase, done)))
    assert same(tmp_path / "whole", tmp_path / "out")
    steps = [done for phase, done in seen if phase == "k-means"]
    assert (steps[0] if steps else 99) == {"sample": 0, "ward": 99}.get(moment[0], moment[1] + 1)
    assert not (tmp_path / "out/work").exists()


@pytest.mark.parametrize("removals", range(7))
def test_an_overwriting_that_is_interrupted_leaves_nothing_to_be_mistaken(
    removals: int, segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(phase: str, done: int, *_: object) -> None:
        if (phase, done) == ("k-means", 2):
            raise _StopError

    with pytest.raises(_StopError):
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    left, remove = [removals], running.storage.remove

    def remove_some(uri: str) -> None:
        if not left[0]:
            raise _StopError
        left[0] -= 1
        remove(uri)

    other = ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500, seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(running.storage, "remove", remove_some)
        with pytest.raises(_StopError):
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
            raise _StopError

    other = prepare(segments, tmp_path / "out", ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500, seed=1))
    try:
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    except _StopError:
        assert not finished
    with pytest.raises(UserError, match="seed is 0 there, 1 now"):
        run_clustering(other, lambda *_: None)


def start(source: str, output: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [SDHUBERT, "cluster", source, str(output), *arguments, "--engine", "local", "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process: "subprocess.Popen[str]", step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {step}:"):
            return
    raise AssertionError(f"no step {step}")


LONG = ["--n-clusters", "300", "--n-units", "20", "--tolerance", "0", "--max-iterations", "40"]


def test_killed_between_steps_it_comes_to_the_same_bits(tmp_path: Path) -> None:
    source = write_segments(str(tmp_path / "segments"), clustered(20_000, 16, 2000, noise=1.5))
    for ending, code, step in ((signal.SIGKILL, -signal.SIGKILL, 3), (signal.SIGTERM, 1, 9)):
        with start(source, tmp_path / "out", *LONG) as process:
            wait_for_step(process, step)
            process.send_signal(ending)
            said = process.stdout.read() if process.stdout else ""
        assert process.returncode == code, said
        assert ("interrupted; the same command resumes" in said) == (code == 1)
        assert not (tmp_path / "out/quantizer.json").exists()
    for output in ("out", "whole"):
        with start(source, tmp_path / output, *LONG) as process:
            said = process.stdout.read() if process.stdout else ""
        assert process.returncode == 0, said
        assert ("was begun by an earlier run" in said) == (output == "out")
        assert ("step 1:" in said) == (output == "whole")
    assert same(tmp_path / "out", tmp_path / "whole")


def test_two_runs_do_not_meet(segments: str, tmp_path: Path) -> None:
    lease = Lease(str(tmp_path / "out"), "theirs")
    try:
        with pytest.raises(BusyError, match="is being written by another run"):
            cluster(segments, tmp_path / "out")
    finally:
        lease.release()


# --- memory ------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys, threading
from pathlib import Path
import torch, sklearn.cluster, safetensors.numpy, pyarrow.parquet
from sdhubert_ray.clustering import ClusterOptions, Workers, memory, prepare_clustering, run_clustering, shards

source, output, mib, data_bytes = *sys.argv[1:3], *map(int, sys.argv[3:5])
if sys.argv[5] == "many":  # as with a cluster for every eight vectors
    memory.count_candidates = lambda num_vectors, _: num_vectors
shards.SHARD_BYTES, memory._STEP_BYTES = 4 << 20, 64 << 20
threading.stack_size(1 << 20)
torch.ones(300, 300) @ torch.ones(300, 300)
used = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (mib << 20),) * 2)
try:
    bytearray(data_bytes)
except MemoryError:
    print("all of it at once is too much")
options = ClusterOptions(n_clusters=32, n_units=8, max_iterations=4, max_vectors=10**9)
job = prepare_clustering(source, output, options, Workers(device="cpu"), engine="local")
run_clustering(job, lambda *_: None)
print("done")
"""


@pytest.mark.parametrize("seeds", ["few", "many"])
def test_data_larger_than_memory_are_clustered(seeds: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((700_000, 128), np.float32)  # 358 MB
    features += 2 * generator.standard_normal((50, 128), np.float32)[np.arange(700_000) % 50]
    source = write_segments(str(tmp_path / "segments"), features, rows=400, unit_rows=8)
    command = [sys.executable, "-c", LIMITED, source, str(tmp_path / "out"), "280", str(features.nbytes), seeds]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "ARROW_IO_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["all of it at once is too much", "done"], done.stderr
    card = Quantizer.load(str(tmp_path / "out")).card
    assert card["num_vectors"] == 700_000
    if seeds == "many":
        assert 10_000 < card["seed_vectors"] < 700_000  # as many as memory allows


def test_memory_is_divided_or_refused() -> None:
    gib = 1 << 30
    budget = plan_memory(ClusterOptions(), 4 << 20, 768, 16 * gib, 16 * gib)
    assert budget.seed_vectors == budget.wanted_seed_vectors == 8 * 16384
    assert 2 * gib < budget.reduce_bytes < 3 * gib
    assert 10 * gib < budget.cache_bytes < 16 * gib
    less = plan_memory(ClusterOptions(), 4 << 20, 1024, 2 * gib, int(2.4 * gib))
    assert 16384 < less.seed_vectors < less.wanted_seed_vectors
    assert less.seed_bytes <= 2.4 * gib
    with pytest.raises(
        UserError, match=r"--n-clusters is 16384: Ward's reduction takes 2\.\d+ GiB of memory, but 2\.00"
    ):
        plan_memory(ClusterOptions(), 4 << 20, 64, 2 * gib, 2 * gib)
    with pytest.raises(UserError, match=r"its steps take 0\.\d+ GiB of memory, but 0\.25 GiB"):
        plan_memory(ClusterOptions(), 4 << 20, 64, gib // 4, 16 * gib)
    assert plan_memory(ClusterOptions(n_units=16384), 4 << 20, 64, gib, gib).reduce_bytes == 0
    assert 0 < available_here() < 1 << 50


@pytest.mark.parametrize("moment", [("sample", 1), ("k-means", 0), ("k-means", 3)])
def test_what_has_begun_with_more_memory_keeps_its_seed_vectors(
    moment: tuple[str, int], segments: str, tmp_path: Path
) -> None:
    cluster(segments, tmp_path / "whole")
    little = (memory._STEP_BYTES + 100_000) / (1 << 30)
    assert any("are chosen from" in note for note in cluster(segments, tmp_path / "little", memory_gib=little).notes)

    def stop(phase: str, done: int, *_: object) -> None:
        if (phase, done) == moment:
            raise _StopError

    with pytest.raises(_StopError):
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    if moment[0] == "sample":
        with pytest.raises(IncompleteRunError, match=r"choosing the first centers takes 0\.\d+ GiB of memory, but 0\."):
            cluster(segments, tmp_path / "out", memory_gib=little)
        return
    assert cluster(segments, tmp_path / "out", memory_gib=little).notes == []
    assert same(tmp_path / "out", tmp_path / "whole")
    assert Quantizer.load(str(tmp_path / "out")).card["seed_vectors"] == 1500


def test_too_little_memory_is_told_before_anything_is_written(segments: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its steps take 0\.\d+ GiB of memory, but 0\.10 GiB can be had"):
        cluster(segments, tmp_path / "out", memory_gib=0.1)
    assert not (tmp_path / "out").exists()


def test_a_small_disk_makes_a_smaller_sample_and_says_so(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    each = 16 * 4 + 8
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: usage._replace(free=(100 * each + 16 * 24 * 16) / 0.9))
    job = prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(device="cpu"), engine="local")
    assert 90 <= job.sample_size <= 100
    assert job.notes[0].startswith(f"the sample is reduced to {job.sample_size} vectors from 1500: the disk of ")
    done = run_clustering(job, lambda *_: None)
    assert done.quantizer is not None
    assert done.quantizer.card["num_vectors"] == job.sample_size
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(UserError, match="has no room for a sample of 24 vectors of 72 bytes"):
        prepare_clustering(segments, str(tmp_path / "other"), SMALL, Workers())


# --- what is refused ---------------------------------------------------------------------------------------------


def prepare(source: str, output: Path, options: ClusterOptions = SMALL) -> ClusterJob:
    return prepare_clustering(source, str(output), options, Workers(device="cpu"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"n_clusters": 0, "n_units": 0}, "--n-clusters is 0"),
        ({"n_clusters": 4, "n_units": 5}, "--n-units is 5, but --n-clusters 4"),
        ({"n_clusters": 9, "n_units": 5, "max_vectors": 8}, "--max-vectors is 8, but --n-clusters 9"),
        ({"max_iterations": 0}, "--max-iterations is 0"),
        ({"tolerance": float("nan")}, "--tolerance is nan"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_that_make_no_sense(values: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        ClusterOptions(**values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"count": 0}, "--workers is 0"),
        ({"memory_gib": 0.0}, "--memory-gib is 0"),
        ({"device": "tpu"}, "--device is 'tpu'"),
    ],
)
def test_workers_that_make_no_sense(values: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Workers(**values)


def test_sources_without_vectors_are_refused(segments: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere holds no run"):
        prepare(str(tmp_path / "nowhere"), tmp_path / "out")
    table = make_table(["a#0"], [np.zeros((0, 4), np.float32)])
    empty = write_output(str(tmp_path / "empty"), [(1, table)], FINGERPRINT)
    with pytest.raises(UserError, match="has no syllables in its 1 rows"):
        prepare(empty, tmp_path / "out")
    bare = write_output(str(tmp_path / "bare"), [(1, table.drop_columns(["segment_features"]))], FINGERPRINT)
    with pytest.raises(UserError, match="keeps no segment features"):
        prepare(bare, tmp_path / "out")
    with pytest.raises(UserError, match="has 4000 syllables, fewer than --n-clusters 4001"):
        prepare(segments, tmp_path / "out", ClusterOptions(4001, 8))


def test_outputs_that_are_something_else_are_refused(segments: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an output of `sdhubert segment`"):
        prepare(segments, Path(segments))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        prepare(segments, tmp_path / "file")
    with pytest.raises(UserError, match="leave out --workers"):
        prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(2), engine="local")
    with pytest.raises(UserError, match="engine is 'dask'"):
        prepare_clustering(segments, str(tmp_path / "out"), SMALL, Workers(), engine="dask")


def test_a_large_table_goes_to_ray_even_for_a_small_sample(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ClusterOptions(n_clusters=24, n_units=8, max_vectors=24)
    total = sum(commit.size for commit in list_commits(segments))
    for limit, engine in ((total, "ray"), (total + 1, "local")):
        monkeypatch.setattr(planning, "ON_RAY_BYTES", limit)
        assert prepare(segments, tmp_path / "out", few).engine == engine


def test_an_imported_quantizer_is_not_written_over(segments: str, tmp_path: Path) -> None:
    Quantizer(np.ones((3, 16), np.float32), None, {"source": {"km": "km.pt"}}).save(str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"out holds another quantizer \(imported\); choose another output"):
        prepare(segments, tmp_path / "out")


@pytest.mark.parametrize("finished", [False, True])
def test_another_clustering_is_refused_by_what_differs_and_can_be_overwritten(
    finished: bool, segments: str, tmp_path: Path
) -> None:
    def stop(phase: str, done: int, *_: object) -> None:
        if (phase, done) == ("k-means", 2) and not finished:
            raise _StopError

    try:
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    except _StopError:
        assert not finished
    other = ClusterOptions(n_clusters=25, n_units=8, max_vectors=1500, seed=1)
    with pytest.raises(UserError, match=r"n_clusters is 24 there, 25 now, seed is 0 there, 1 now"):
        prepare(segments, tmp_path / "out", other)
    changed = write_segments(str(tmp_path / "changed"), clustered(4001, 16, 60))
    with pytest.raises(UserError, match="the segments have changed, or are others"):
        prepare(changed, tmp_path / "out")
    cluster(changed, tmp_path / "out", other, overwrite=True)
    cluster(changed, tmp_path / "new", other)
    assert same(tmp_path / "out", tmp_path / "new")


def test_a_damaged_shard_or_state_is_named(segments: str, tmp_path: Path) -> None:
    def stop(phase: str, done: int, *_: object) -> None:
        if (phase, done) == ("k-means", 2):
            raise _StopError

    with pytest.raises(_StopError):
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    shard = next((tmp_path / "out/work/sample").glob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:500])
    with pytest.raises(IncompleteRunError, match=r"\.safetensors is gone or damaged"):
        cluster(segments, tmp_path / "out")
    shard.write_bytes(content)
    state = tmp_path / "out/work/state.safetensors"
    state.write_bytes(state.read_bytes()[:-3])
    with pytest.raises(IncompleteRunError, match=r"state\.safetensors is damaged"):
        cluster(segments, tmp_path / "out")


def test_nan_is_told_by_its_file(tmp_path: Path) -> None:
    features = clustered(300, 4, 5)
    features[200, 2] = np.inf
    source = write_segments(str(tmp_path / "segments"), features)
    with pytest.raises(IncompleteRunError, match=r"00001-\d+\.parquet has segment features that are NaN or infinite"):
        cluster(source, tmp_path / "out", ClusterOptions(5, 5))


# --- the command line --------------------------------------------------------------------------------------------


def sdhubert(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SDHUBERT, *arguments], capture_output=True, text=True)


def test_the_command_prints_and_imports_what_it_made(segments: str, tmp_path: Path) -> None:
    sizes: Sequence[str] = ["--n-clusters", "24", "--n-units", "8", "--device", "cpu", "--sklearn"]
    done = sdhubert("cluster", segments, str(tmp_path / "out"), *sizes, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    assert "4000 syllables of width 16, 4000 to be sampled; engine local" in done.stdout
    assert "8 of 24 clusters" in done.stdout
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[:4] == ["started", "sampled", "seeded", "iteration"]
    assert events[-2:] == ["measured", "finished"]
    other = sdhubert("cluster", segments, str(tmp_path / "out"), *sizes, "--seed", "1")
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    pair = [str(tmp_path / "out/km_24.pt"), str(tmp_path / "out/km_24to8.npy"), str(tmp_path / "imported")]
    refused = sdhubert("import-quantizer", *pair)
    assert refused.returncode == 2
    assert "--trust-pickle" in refused.stderr
    imported = sdhubert("import-quantizer", *pair, "--trust-pickle")
    assert imported.stdout.startswith("24 clusters of width 16, 8 units")
    assert Quantizer.load(pair[2]).sha256 == Quantizer.load(str(tmp_path / "out")).sha256
