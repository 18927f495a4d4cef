"""jobs/ on a cluster: `ray job submit` and --address, several nodes, token authentication, a node that is lost."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusters import ROOT, Cluster, running_cluster
from commands import sdhubert

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("jobs")]  # one cluster for all of them

LOOK_AROUND = """
import pathlib, ray
def look():
    import mincut._mincut, sdhubert_ray
    return [str(pathlib.Path(module.__file__).parent) for module in (mincut, sdhubert_ray)]
print("FILES", sorted(str(path) for path in pathlib.Path().rglob("*") if path.is_file()))
ray.init()
print("DRIVER", look())
print("WORKER", ray.get(ray.remote(look).remote()))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, with a dashboard, and two workers of a logical CPU."""
    with running_cluster(cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def corpus(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty recordings; one is none."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(39):
        shutil.copy(golden / f"audio/synth_{number % 5}.flac", folder / f"take{number:02d}.flac")
    (folder / "broken.flac").write_bytes(b"no audio")
    return folder


@pytest.fixture(scope="module")
def options(tiny_checkpoint: Path) -> list[str]:
    """Small units, so that there are many; one encoder, as this machine is small."""
    units = ["resources.unit_seconds=600", "resources.unit_rows=2"]
    return ["--checkpoint", str(tiny_checkpoint), *units, "resources.encode.max_workers=1"]


@pytest.fixture(scope="module")
def expected(corpus: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The table of the local engine."""
    output = tmp_path_factory.mktemp("local")
    sdhubert("segment", corpus, output, *options, "--engine", "local", expect=3)
    return read_rows(output)


def committed(output: Path) -> list[Path]:
    return [path for folder in ("commits", "segments") for path in (output / folder).glob("[!.]*.parquet")]


def read_rows(output: Path) -> pa.Table:
    """All rows that lie in the output; one that was committed twice is there twice."""
    return pa.concat_tables(pq.read_table(path) for path in committed(output)).sort_by("key").combine_chunks()


def assert_same_rows(left: pa.Table, right: pa.Table) -> None:
    """To the last bit, wherever a row was done."""
    assert left.equals(right)


@pytest.mark.slow
def test_job_takes_the_installed_packages_not_the_sources_beside_it(cluster: Cluster) -> None:
    done = cluster.submit(".", "python", "-c", LOOK_AROUND)
    assert done.returncode == 0, done.stdout
    found = {line.partition(" ")[0]: line.partition(" ")[2] for line in done.stdout.splitlines() if "['" in line}
    files = json.loads(found["FILES"].replace("'", '"'))
    assert "jobs/segment.py" in files
    assert "configs/segment.yaml" in files
    assert {name.partition("/")[0] for name in files} == {"jobs", "configs"}
    here = subprocess.run(
        [sys.executable, "-c", f"import ray\n{LOOK_AROUND.split('print')[0]}\nprint(look())"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert found["DRIVER"] == found["WORKER"] == here.stdout.strip()


@pytest.mark.slow  # the job of the last test loses a node, and has to end as this one
def test_job_finds_its_cluster_writes_the_table_of_the_local_engine_and_reports_what_failed(
    cluster: Cluster, corpus: Path, options: list[str], expected: pa.Table, tmp_path: Path
) -> None:
    done = cluster.submit("jobs", "python", "segment.py", str(corpus), str(tmp_path / "out"), *options)
    assert "engine ray" in done.stdout  # for three minutes of audio only because Ray tells its jobs their cluster
    assert done.returncode == 1
    assert "failed with exit code 3" in done.stdout
    assert "39 ok, 1 unreadable" in done.stdout
    assert_same_rows(read_rows(tmp_path / "out"), expected)


@pytest.mark.slow  # a driver joins so in training/test_loop.py, too; on these nodes it is the job of the last test
def test_driver_outside_joins_by_address(
    cluster: Cluster, corpus: Path, options: list[str], expected: pa.Table, tmp_path: Path
) -> None:
    command = ("sdhubert", "segment", str(corpus), str(tmp_path), *options, "--address", cluster.address)
    done = cluster.run(*command, "--max-failed", "1")
    assert done.returncode == 0, done.stdout
    assert_same_rows(read_rows(tmp_path), expected)


def test_cluster_wants_its_token(cluster: Cluster) -> None:
    def ask(**headers: str) -> int:
        request = urllib.request.Request(f"{cluster.dashboard}/api/jobs/", headers=headers)
        try:
            return int(urllib.request.urlopen(request, timeout=120).status)
        except urllib.error.HTTPError as refused:
            return refused.code

    assert ask() == 401
    assert ask(Authorization="Bearer another") == 403
    assert ask(Authorization=f"Bearer {cluster.token}") == 200


def encoders_at_work(node: psutil.Popen) -> int:
    """How many encoders of a node are in the middle of a unit, as their titles say."""
    count = 0
    for process in node.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended just now
            count += "MapBatches(SegmentUnits)).submit" in " ".join(process.cmdline())
    return count


# jobs/segment.py with the patience of some seconds, not of a minute; where three units are done, nothing goes on before
# a pipeline is built anew: what the encoders of a lost node do to the others, which Ray sometimes mends by itself.
IMPATIENT = """
import functools, runpy, sys, time
from pathlib import Path
from sdhubert_ray.runs import execute, pipeline
anew, commits = Path(sys.argv.pop()), Path(sys.argv[2], "commits")
class SegmentUnits(pipeline.SegmentUnits):
    def __call__(self, batch):
        while len(list(commits.glob("[!.]*.parquet"))) >= 3 and not anew.exists():
            time.sleep(0.05)
        return super().__call__(batch)
def build(*arguments, count=iter(range(9)), build=pipeline.build_pipeline):
    if next(count):
        anew.touch()
    return build(*arguments)
pipeline.SegmentUnits, pipeline.build_pipeline = SegmentUnits, build
execute.run_job = functools.partial(execute.run_job, stall_seconds=5.0)
runpy.run_path("segment.py", run_name="__main__")
"""


# The last one: it takes a node away.
def test_job_finds_its_cluster_goes_on_when_a_node_is_lost_and_reports_what_failed(
    cluster: Cluster, corpus: Path, options: list[str], expected: pa.Table, tmp_path: Path
) -> None:
    """As many workers as CPUs: those of the lost node find no place on the other one."""
    options = [*options, "resources.encode.max_workers=2", "resources.encode.memory_gib=0.5"]
    shutil.copytree(ROOT / "jobs", tmp_path / "job", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "job/impatient.py").write_text(IMPATIENT)
    command = ["ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", str(tmp_path / "job"), "--"]
    command += ["python", "impatient.py", str(corpus), str(tmp_path / "out"), *options]
    command += ["resources.unit_rows=1", str(tmp_path / "anew")]
    log = tmp_path / "log"
    with log.open("wb") as file:
        job = subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while [encoders_at_work(node) for node in cluster.nodes[1:]] != [1, 1] or len(committed(tmp_path / "out")) < 3:
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        (raylet,) = (child for child in cluster.nodes[-1].children() if child.name() == "raylet")
        raylet.kill()
        assert job.wait(timeout=600) == 1, log.read_text()
    finally:
        job.kill()
        job.wait()
    told = log.read_text()
    assert "engine ray" in told  # for three minutes of audio only because Ray tells its jobs their cluster
    assert "a node was lost" in told
    assert "failed with exit code 3" in told
    assert "39 ok, 1 unreadable" in told
    assert_same_rows(read_rows(tmp_path / "out"), expected)
