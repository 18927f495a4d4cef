"""Watching a run on Ray: its counters as Prometheus reads them, and a cluster that lost a node."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.ray

# Each in a process of its own: the Ray of the other tests is left alone.
COUNT = """
import sys, time
import pyarrow as pa
import ray
from sdhubert_ray.output.tables import STAGES, STATUSES
from sdhubert_ray.runs.watch import RunMetrics
ray.init("local", num_cpus=1, include_dashboard=True, dashboard_port=0, _metrics_export_port=int(sys.argv[1]))
metrics = RunMetrics("run-7")
for failed in (0, 2):
    report = {"duration": 10.5, "segments": 30, "size": 1000, **dict.fromkeys(STATUSES, 0), "ok": 5, "failed": failed}
    report |= {f"{stage}_seconds": 0.25 for stage in STAGES}
    metrics.add(pa.table({name: [value] for name, value in report.items()}))
print("counted", flush=True)
sys.stdin.read()
"""
SHRINK = """
import time
import ray
from ray.cluster_utils import Cluster
from sdhubert_ray.runs.watch import StallWatch

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
node = cluster.add_node(num_cpus=1)
cluster.connect()
with StallWatch(2.0) as watch:
    time.sleep(8)
print("whole", watch.stalled, flush=True)
with StallWatch(2.0) as watch:
    cluster.remove_node(node, allow_graceful=False)
    for _ in range(24):
        time.sleep(0.25)
        watch.moved()
    moving = watch.stalled
    time.sleep(100)
print("shrunk", moving, watch.stalled, flush=True)
ray.shutdown()
cluster.shutdown()
"""


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def test_prometheus_reads_what_was_committed():
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "counted\n"
        deadline = time.monotonic() + 90
        text = ""
        while "sdhubert_stage_seconds" not in text:
            assert time.monotonic() < deadline, text[:2000]
            time.sleep(1)
            try:
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
            except (urllib.error.URLError, ConnectionError):
                continue
    finally:
        process.communicate("", timeout=60)
    found = {}
    for name, labels, value in re.findall(r"^ray_sdhubert_(\w+?)(?:_total)?\{(.*)\} ([\d.e+]+)$", text, re.M):
        tags = dict(re.findall(r'(\w+)="(.*?)"', labels))
        if tags.get("run_id") == "run-7":
            found[name, tags.get("status") or tags.get("stage")] = float(value)
    assert found["rows", "ok"] == 10
    assert found["rows", "failed"] == 2
    assert found["audio_seconds", None] == 21
    assert found["syllables", None] == 60
    assert found["output_bytes", None] == 2000
    assert {stage: found["stage_seconds", stage] for stage in ("decode", "encode", "cut")} == {
        "decode": 0.5,
        "encode": 0.5,
        "cut": 0.5,
    }
    assert ("rows", "missing") not in found


def test_a_cluster_that_lost_a_node_and_stands_still_is_noticed():
    """Not one that is whole, nor one that goes on; and the interrupt goes no further than the pipeline."""
    done = subprocess.run([sys.executable, "-c", SHRINK], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith(("whole", "shrunk"))] == [
        "whole False",
        "shrunk False True",
    ]
    assert "a node was lost" in done.stderr
