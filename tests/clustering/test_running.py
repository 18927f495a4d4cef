"""Clustering a table: the same bits whoever works, the command line. See test_interruptions.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import numpy as np
import pytest
from clusterings import SMALL, cluster, every_priority, prepare, same
from commands import complaint, sdhubert
from outputs import commits_in
from segments import clustered, publish_all, write_segments
from sklearn.cluster import KMeans, MiniBatchKMeans

from sdhubert_ray import storage
from sdhubert_ray.clustering import sampling, shards
from sdhubert_ray.clustering.fitting import fit, sample_scales
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.planning import prepare_clustering
from sdhubert_ray.clustering.running import run_clustering
from sdhubert_ray.clustering.shards import ALL, Sample
from sdhubert_ray.clustering.source import open_source
from sdhubert_ray.clustering.state import Centers
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_run, write_run
from sdhubert_ray.runs.placement import GIB, Node
from sdhubert_ray.runs.session import IncompleteRunError
from sdhubert_ray.tokenizing import prepare_tokenizing, run_tokenizing
from sdhubert_ray.units import Quantizer
from sdhubert_ray.units.kmeans import LloydSums, Moments, NearestCenters, add_up, measure, nearest_centers, seed_centers

if TYPE_CHECKING:
    from sdhubert_ray.clustering.remote import RayTeam


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
    before, sizes = open_source(segments), [commit.size for commit in commits_in(segments)]
    name = str(tmp_path / "out")
    tokenizing = prepare_tokenizing(segments, Quantizer.load(name), name, device="cpu", engine="local")
    run_tokenizing(tokenizing, lambda _: None)
    assert [commit.size for commit in commits_in(segments)] != sizes
    assert open_source(segments).fingerprint != before.fingerprint
    assert prepare(segments, tmp_path / "out").finished


def test_neither_files_nor_memory_nor_threads_change_a_bit(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    cluster(segments, tmp_path / "one")
    publish_all(segments)
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    before = torch.get_num_threads()
    torch.set_num_threads(3 if before == 1 else 1)
    try:
        cluster(segments, tmp_path / "two", memory_gib=0.5)
    finally:
        torch.set_num_threads(before)
    assert same(tmp_path / "one", tmp_path / "two")


def find_processes(team: "RayTeam") -> set[int]:
    """The processes of its workers, which wait for something to do."""
    import ray

    return set(ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in team._actors]))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_workers_one_of_them_killed_gives_the_bits_of_this_process(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdhubert_ray.clustering import remote

    processes: list[set[int]] = []

    class KilledTeam(remote.RayTeam):
        """One of its workers, if there are others, is killed before the third step, and has to be started again."""

        def step(self, centers: Centers) -> LloydSums:
            if len(processes) == 2 and len(self._actors) > 1:
                os.kill(max(processes[-1]), signal.SIGKILL)
            sums = super().step(centers)
            processes.append(find_processes(self))
            return sums

    options = ClusterOptions(n_clusters=24, n_units=8, max_vectors=1500, max_iterations=4)
    cluster(segments, tmp_path / "local", options)
    monkeypatch.setattr(remote, "RayTeam", KilledTeam)
    monkeypatch.setattr(sampling, "SHARD_BYTES", 40_000)  # three shards
    for count, all_processes in ((1, 1), (3, 4)):
        processes.clear()
        cluster(segments, tmp_path / f"ray{count}", options, engine="ray", count=count)
        assert [len(alive) for alive in processes] == [count] * 5
        assert len(set().union(*processes)) == all_processes
        assert same(tmp_path / "local", tmp_path / f"ray{count}")
    with pytest.raises(UserError, match="--workers is 4, but the cluster has CPUs for 3"):
        cluster(segments, tmp_path / "none", options, engine="ray", count=4)
    with pytest.raises(UserError, match=r"--memory-gib is 9999, but 2 workers can have \d+\.\d\d GiB each at most"):
        cluster(segments, tmp_path / "none", options, engine="ray", count=2, memory_gib=9999)


def test_workers_are_laid_out_where_there_are_cpus_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdhubert_ray.clustering import remote

    kinds = [(0, 900), (16, 64), (16, 10), (4, 200)]  # a head without CPUs; much memory, but few CPUs
    nodes = [Node(cpus, memory=size * GIB) for cpus, size in kinds]

    def lay_out(count: int | None, memory_gib: float | None = None) -> tuple[int, int, float]:
        layout = remote.lay_out(Workers(count, memory_gib), "cpu", nodes)
        return layout.count, layout.cpus, round(layout.memory / GIB, 1)

    assert lay_out(None) == (3, 8, 8.0)
    assert lay_out(1) == (1, 16, 51.2)
    assert lay_out(2) == (2, 16, 8.0)
    assert lay_out(1, 50) == (1, 16, 50)
    with pytest.raises(UserError, match=r"--memory-gib is 50, but 2 workers can have 8\.00 GiB each at most"):
        lay_out(2, 50)
    monkeypatch.setattr(remote, "alive_nodes", lambda: nodes)
    monkeypatch.setattr(remote, "cluster_device", lambda _: "cpu")
    engine, wide = remote.RayEngine(Workers(2), "work"), ClusterOptions(n_clusters=65_536, n_units=4096)
    assert engine.plan(wide, 2**24, 64, None, seeded=False).reduce_bytes > 30 * GIB
    with pytest.raises(UserError, match=r"Ward's reduction takes \d+\.\d+ GiB of memory, but 51\.20 GiB can be had"):
        engine.plan(ClusterOptions(n_clusters=2 * 65_536), 2**24, 64, None, seeded=False)


@pytest.mark.seconds
def test_workers_import_only_what_they_need() -> None:
    code = (
        "import sys, sdhubert_ray.clustering.sampling\n"
        "assert not {'torch', 'transformers', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "import sdhubert_ray.clustering.fitting, sdhubert_ray.runs.execute, sdhubert_ray.tokenizing\n"
        "assert not {'transformers', 'sklearn'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_nan_in_a_worker_is_told_by_its_file(tmp_path: Path) -> None:
    features = clustered(300, 4, 5)
    features[200, 2] = np.nan
    source = write_segments(str(tmp_path / "segments"), features)
    with pytest.raises(IncompleteRunError, match=r"commits/00001-[0-9a-f-]+\.parquet has segment features"):
        cluster(source, tmp_path / "out", ClusterOptions(5, 5), engine="ray")


def test_an_object_store_takes_and_gives_all_of_it(s3_bucket: str, tmp_path: Path) -> None:
    source = write_segments(f"{s3_bucket}/segments", clustered(600, 8, 9), rows=9)
    options = ClusterOptions(n_clusters=6, n_units=3)
    job = prepare_clustering(source, f"{s3_bucket}/q", options, Workers(device="cpu"), engine="local")
    run_clustering(job, lambda *_: None)
    local = write_segments(str(tmp_path / "segments"), clustered(600, 8, 9), rows=9)
    cluster(local, tmp_path / "q", options)
    assert Quantizer.load(f"{s3_bucket}/q").sha256 == Quantizer.load(str(tmp_path / "q")).sha256

    assert sorted(storage.list_files(f"{s3_bucket}/q")) == ["quantizer.json", "quantizer.safetensors"]


def test_vectors_that_are_all_alike_are_told(tmp_path: Path) -> None:
    source = write_segments(str(tmp_path / "segments"), np.ones((100, 3), np.float32))
    done = cluster(source, tmp_path / "out", ClusterOptions(4, 2))
    assert done.notes == ["3 of 4 clusters have no vector: too few vectors differ"]
    assert Quantizer.load(str(tmp_path / "out")).card["inertia"] == 0


# --- the command line --------------------------------------------------------------------------------------------


def test_the_command_prints_and_imports_what_it_made(segments: str, tmp_path: Path) -> None:
    command = ("cluster", segments, tmp_path / "out", "--n-clusters", "24", "--n-units", "8", "--device", "cpu")
    done = sdhubert(*command, "--sklearn", "--log-format", "json")
    assert "4000 syllables of width 16, 4000 to be sampled; engine local" in done.stdout
    assert "8 of 24 clusters" in done.stdout
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[:4] == ["started", "sampled", "seeded", "iteration"]
    assert events[-2:] == ["measured", "finished"]
    assert "seed is 0 there, 1 now" in complaint(sdhubert(*command, "--seed", "1", expect=2))
    pair = (tmp_path / "out/km_24.pt", tmp_path / "out/km_24to8.npy", tmp_path / "imported")
    assert "--trust-pickle" in complaint(sdhubert("import-quantizer", *pair, expect=2))
    imported = sdhubert("import-quantizer", *pair, "--trust-pickle")
    assert imported.stdout.startswith("24 clusters of width 16, 8 units")
    assert Quantizer.load(str(pair[2])).sha256 == Quantizer.load(str(tmp_path / "out")).sha256
