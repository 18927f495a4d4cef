"""jobs/ on a cluster: `ray job submit` and --address, several nodes, token authentication, a node that is lost."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.ray

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


@dataclass
class Cluster:
    """Nodes that `ray start` made, each with its processes in a session of its own."""

    temp: Path
    token: str = field(default_factory=secrets.token_hex)
    head_port: int = field(default_factory=lambda: free_port())
    dashboard_port: int = field(default_factory=lambda: free_port())
    nodes: list[psutil.Popen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of the nodes and of clients that may use them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{BIN}{os.pathsep}{kept['PATH']}"  # a job's `python` is that of the head's PATH
        return {**kept, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.head_port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def add_node(self, *options: str) -> psutil.Popen:
        # Ports of workers are free ones: the default range is shared by all nodes of this machine.
        common = ["--block", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]
        sizes = [f"--object-store-memory={150 << 20}", f"--memory={6 << 30}", "--dashboard-agent-listen-port=0"]
        log = self.temp / f"node{len(self.nodes)}.log"
        with log.open("wb") as file:
            node = psutil.Popen(
                [str(BIN / "ray"), "start", *common, *sizes, *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.temp,
                start_new_session=True,
            )
        self.nodes.append(node)
        deadline = time.monotonic() + 60
        while b"This command will now block" not in log.read_bytes():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return node

    def stop(self) -> None:
        """Kill these nodes and what they started, and no other Ray of this machine."""
        sessions = {node.pid for node in self.nodes}
        for node in self.nodes:
            node.kill()
            node.wait()
        members = set()
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) in sessions:  # the driver of a job has a session of its own
                    members |= {process, *process.children(recursive=True)}
            except (psutil.Error, ProcessLookupError):
                continue
        for process in members:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(members, timeout=30)

    def submit(self, working_dir: str, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` from the root of the repository."""
        return self.run(
            "ray", "job", "submit", "--address", self.dashboard, "--working-dir", working_dir, "--", *entrypoint
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, with a dashboard, and two workers of two logical CPUs."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as temp:  # short: sockets
        cluster = Cluster(Path(temp))
        try:
            cluster.add_node(
                "--head",
                f"--port={cluster.head_port}",
                f"--dashboard-port={cluster.dashboard_port}",
                f"--ray-client-server-port={free_port()}",
                f"--temp-dir={temp}/ray",
                "--num-cpus=0",
            )
            for number in (2, 3):  # an address of its own each: a driver joins any node that has its address
                cluster.add_node(f"--address={cluster.address}", f"--node-ip-address=127.0.0.{number}", "--num-cpus=2")
            yield cluster
        finally:
            cluster.stop()


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
    return ["--checkpoint", str(tiny_checkpoint), "resources.unit_rows=2", "resources.encode.max_workers=1"]


@pytest.fixture(scope="module")
def expected(corpus: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The table of the local engine."""
    output = tmp_path_factory.mktemp("local")
    command = [str(BIN / "sdhubert"), "segment", str(corpus), str(output), *options, "--engine", "local"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 3
    return read_rows(output)


def committed(output: Path) -> list[Path]:
    return list((output / "segments").glob("[!.]*.parquet"))


def read_rows(output: Path) -> pa.Table:
    """All rows that lie in the output; one that was committed twice is there twice."""
    return pa.concat_tables(pq.read_table(path) for path in committed(output)).sort_by("key").combine_chunks()


def assert_same_rows(left: pa.Table, right: pa.Table) -> None:
    """To the last bit, wherever a row was done."""
    assert left.equals(right)


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


def test_submitted_job_writes_the_table_of_the_local_engine(
    cluster: Cluster, corpus: Path, options: list[str], expected: pa.Table, tmp_path: Path
) -> None:
    arguments = [str(corpus), str(tmp_path / "out"), *options, "--max-failed", "1", "--address", "auto"]
    done = cluster.submit(".", "python", "jobs/segment.py", *arguments)
    assert done.returncode == 0, done.stdout
    assert "39 ok, 1 unreadable" in done.stdout
    assert_same_rows(read_rows(tmp_path / "out"), expected)


def test_job_from_its_own_folder_finds_the_cluster_and_reports_what_failed(
    cluster: Cluster, corpus: Path, options: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "few"
    source.mkdir()
    for name in ("broken.flac", "take00.flac"):
        shutil.copy(corpus / name, source)
    done = cluster.submit("jobs", "python", "segment.py", str(source), str(tmp_path / "out"), *options)
    assert "engine ray" in done.stdout  # for 10 s of audio only because Ray tells its jobs their cluster
    assert done.returncode == 1
    assert "failed with exit code 3" in done.stdout
    assert len(read_rows(tmp_path / "out")) == 2


def test_driver_outside_joins_by_address(
    cluster: Cluster, corpus: Path, options: list[str], expected: pa.Table, tmp_path: Path
) -> None:
    done = cluster.run("sdhubert", "segment", str(corpus), str(tmp_path), *options, "--address", cluster.address)
    assert done.returncode == 3, done.stdout
    assert_same_rows(read_rows(tmp_path), expected)


def test_cluster_wants_its_token(cluster: Cluster) -> None:
    for wrong in ({"RAY_AUTH_MODE": ""}, {"RAY_AUTH_TOKEN": "another"}):
        command = [str(BIN / "ray"), "job", "list", "--address", cluster.dashboard]
        refused = subprocess.run(command, env={**cluster.environment, **wrong}, capture_output=True, text=True)
        assert refused.returncode == 1
        assert re.search("Missing authentication token|Invalid authentication token", refused.stderr), refused.stderr


def node_of_encoder(cluster: Cluster) -> psutil.Popen:
    return next(
        node
        for node in cluster.nodes
        if any("SegmentUnits" in " ".join(child.cmdline()) for child in node.children(recursive=True))
    )


# The last one: it takes a node away.
def test_run_goes_on_when_a_node_is_lost(
    cluster: Cluster, corpus: Path, options: list[str], expected: pa.Table, tmp_path: Path
) -> None:
    """As many workers as CPUs: those of the lost node find no place on the other one."""
    options = [*options, "resources.encode.max_workers=4", "resources.encode.memory_gib=0.5"]
    command = ["ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--"]
    command += ["python", "jobs/segment.py", str(corpus), str(tmp_path / "out"), *options, "resources.unit_rows=1"]
    log = tmp_path / "log"
    with log.open("wb") as file:
        job = subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while len(committed(tmp_path / "out")) < 3:
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        (raylet,) = (child for child in node_of_encoder(cluster).children() if child.name() == "raylet")
        raylet.kill()
        assert len(committed(tmp_path / "out")) < 40, "nothing was left to do"
        assert job.wait(timeout=300) == 1, log.read_text()
    finally:
        job.kill()
        job.wait()
    assert "failed with exit code 3" in log.read_text()
    assert_same_rows(read_rows(tmp_path / "out"), expected)
