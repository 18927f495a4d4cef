"""Ray of the tests' own: clusters of `ray start` processes on this machine, and ends to what they leave behind."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from places import ROOT

BIN = Path(sys.executable).parent
RAY_SETTINGS = {
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of every Ray of the tests: on a busy machine a node takes longer to come than Ray has patience, and its
workers, which give way to all other processes by default, would not run; no process counts what is used."""


@dataclass
class Cluster:
    """Nodes that `ray start` made, each with its processes in a session of its own."""

    temp: Path
    token: str = field(default_factory=secrets.token_hex)
    head_port: int = field(default_factory=lambda: free_port())
    dashboard_port: int = field(default_factory=lambda: free_port())
    network: str = field(default_factory=lambda: f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}")
    nodes: list[psutil.Popen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of the nodes and of clients that may use them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{BIN}{os.pathsep}{kept['PATH']}"  # a job's `python` is that of the head's PATH
        # A node is dead when it is not there for five looks, here one every half second, not one in three. On a busy
        # machine a dashboard takes longer to come than Ray has patience.
        return {
            **kept,
            **RAY_SETTINGS,
            "PATH": path,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_health_check_period_ms": "500",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
        }

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
        deadline = time.monotonic() + 180
        while b"This command will now block" not in log.read_bytes():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return node

    def add_worker(self, number: int, cpus: int) -> psutil.Popen:
        """A node of so many logical CPUs, at an address of its own: a driver joins any node that has its address."""
        at = f"--node-ip-address={self.worker_address(number)}"
        # The head's log monitor reads the logs of all nodes of this machine.
        return self.add_node(f"--address={self.address}", at, f"--num-cpus={cpus}", "--include-log-monitor=false")

    def worker_address(self, number: int) -> str:
        """Of this cluster alone, whatever others run on this machine."""
        return f"{self.network}.{number}"

    def kill_last_node(self) -> None:
        """As a machine that is gone from one moment to the next."""
        node = self.nodes.pop()
        node.kill()
        node.wait()
        kill_sessions({node.pid})

    def stop(self) -> None:
        """Kill these nodes and what they started, and no other Ray of this machine."""
        for node in self.nodes:
            node.kill()
            node.wait()
        kill_sessions({node.pid for node in self.nodes})

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
            timeout=600,
        )


@contextlib.contextmanager
def running_cluster(cpus: int = 2) -> Iterator[Cluster]:
    """A head without CPUs, with a dashboard, and two workers of so many logical CPUs."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as temp:  # short: sockets
        cluster = Cluster(Path(temp))
        try:
            cluster.add_node(
                "--head",
                f"--port={cluster.head_port}",
                f"--dashboard-port={cluster.dashboard_port}",
                f"--ray-client-server-port={free_port()}",
                "--no-monitor",  # no autoscaler
                f"--temp-dir={temp}/ray",
                "--num-cpus=0",
            )
            for number in (1, 2):
                cluster.add_worker(number, cpus)
            yield cluster
        finally:
            cluster.stop()


def free_port() -> int:
    """A port for a server that is started later.

    Not one that the system hands out (from 32768 on), nor one that Ray takes for workers (to 19999): some other process
    would have got it by then.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def in_sessions(sessions: Collection[int]) -> list[psutil.Process]:
    """The processes of these sessions. All of a local Ray are in that of its driver, all of a node in that of it."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) in sessions:
                members.append(process)
        except ProcessLookupError:
            continue
    return members


def kill_sessions(sessions: Collection[int]) -> None:
    """Kill all processes of these sessions, and what they started."""
    members = set(in_sessions(sessions))
    for process in list(members):
        try:
            members.update(process.children(recursive=True))  # the driver of a job has a session of its own
        except psutil.NoSuchProcess:
            continue
    for process in members:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(members, timeout=30)
