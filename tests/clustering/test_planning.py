"""What a clustering takes, and what is refused before it begins."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from clusterings import SMALL, StopError, cluster, prepare, same
from forks import FORKS, run_script
from outputs import commits_in, write_output
from segments import FINGERPRINT, clustered, make_table, write_segments

from sdhubert_ray.clustering import memory, planning
from sdhubert_ray.clustering.memory import available_here, plan_memory
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.planning import prepare_clustering
from sdhubert_ray.clustering.running import run_clustering
from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.session import IncompleteRunError
from sdhubert_ray.units import Quantizer

# --- memory ------------------------------------------------------------------------------------------------------

NUM_LARGE = 250_000
LIMITED = """
import ctypes, resource, sys, threading
from pathlib import Path
import torch, scipy.cluster.hierarchy, sklearn.cluster, safetensors.numpy, pyarrow.parquet, pyarrow
from sdhubert_ray.clustering import memory, shards
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.planning import prepare_clustering
from sdhubert_ray.clustering.running import run_clustering

source, output, mib, data_bytes = *sys.argv[1:3], *map(int, sys.argv[3:5])
if sys.argv[5] == "many":  # as with a cluster for every eight vectors
    memory.count_candidates = lambda num_vectors, _: num_vectors
shards.SHARD_BYTES, memory._STEP_BYTES = 4 << 20, 64 << 20
threading.stack_size(1 << 20)
pyarrow.set_io_thread_count(2)
ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX: heaps of many threads are not what is measured
torch.ones(300, 300) @ torch.ones(300, 300)
options = ClusterOptions(n_clusters=32, n_units=8, max_iterations=2, max_vectors=10**9)
job = prepare_clustering(source, output, options, Workers(device="cpu"), engine="local")
used = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (mib << 20),) * 2)
try:
    bytearray(data_bytes)
except MemoryError:
    print("all of it at once is too much")
run_clustering(job, lambda *_: None)
print("done")
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """128 MB of features."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((NUM_LARGE, 128), np.float32)
    features += 2 * generator.standard_normal((50, 128), np.float32)[np.arange(NUM_LARGE) % 50]
    return write_segments(str(tmp_path_factory.mktemp("large") / "segments"), features, rows=400, unit_rows=8)


@FORKS
@pytest.mark.parametrize("seeds", ["few", "many"])
def test_data_larger_than_memory_are_clustered(seeds: str, large: str, tmp_path: Path) -> None:
    done = run_script(LIMITED, large, tmp_path / "out", "110", str(NUM_LARGE * 128 * 4), seeds)
    assert done.stdout.splitlines() == ["all of it at once is too much", "done"], done.stderr
    card = Quantizer.load(str(tmp_path / "out")).card
    assert card["num_vectors"] == NUM_LARGE
    if seeds == "many":
        assert 10_000 < card["seed_vectors"] < NUM_LARGE  # as many as memory allows


def test_memory_is_divided_or_refused() -> None:
    gib = 1 << 30
    budget = plan_memory(ClusterOptions(), 4 << 20, 768, 16 * gib, 16 * gib)
    assert budget.seed_vectors == budget.wanted_seed_vectors == 8 * 16384
    assert 2 * gib < budget.reduce_bytes < 3 * gib
    assert 10 * gib < budget.cache_bytes < 16 * gib
    less = plan_memory(ClusterOptions(), 4 << 20, 4096, 5 * gib, 4 * gib)
    assert 16384 < less.seed_vectors < less.wanted_seed_vectors
    assert less.seed_bytes <= 4 * gib
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
            raise StopError

    with pytest.raises(StopError):
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
    with pytest.raises(UserError, match="is the output of another command"):
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
    total = sum(commit.size for commit in commits_in(segments))
    for limit, engine in ((total, "ray"), (total + 1, "local")):
        monkeypatch.setattr(planning, "ON_RAY_BYTES", limit)
        assert prepare(segments, tmp_path / "out", few).engine == engine


@pytest.mark.parametrize("name", ["quantizer.safetensors", "work/notes.txt", "work", "quantizer.json"])
def test_what_no_clustering_has_written_stays(name: str, segments: str, tmp_path: Path) -> None:
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"mine": 1}')
    for overwrite in (False, True):
        with pytest.raises(UserError, match=f"{name.partition('/')[0]}.*(choose|make) "):
            prepare(segments, tmp_path / "out", overwrite=overwrite)
    assert foreign.read_text() == '{"mine": 1}'


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
            raise StopError

    try:
        run_clustering(prepare(segments, tmp_path / "out"), stop)
    except StopError:
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
            raise StopError

    with pytest.raises(StopError):
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
    with pytest.raises(IncompleteRunError, match=r"00001-[0-9a-f-]+\.parquet has segment features that are NaN"):
        cluster(source, tmp_path / "out", ClusterOptions(5, 5))
