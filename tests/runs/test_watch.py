"""Watching a run on Ray: its counters as Prometheus reads them, and a cluster that lost a node."""

import os
import re
import signal
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pyarrow as pa
import pytest
import ray
from places import CONFIGS
from ray.core.generated.common_pb2 import NodeDeathInfo

from sdhubert_ray.output.tables import STATUSES, WORK
from sdhubert_ray.runs.placement import KnownNode, Node
from sdhubert_ray.runs.watch import RunMetrics, StallWatch


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_prometheus_reads_what_was_committed():
    metrics = RunMetrics("run-7")
    for failed in (0, 2):
        report = {"duration": 10.5, "segments": 30, "size": 1000, **dict.fromkeys(STATUSES, 0)}
        report |= {"ok": 5, "failed": failed, **{f"{stage}_seconds": 0.25 for stage in WORK}}
        metrics.add(pa.table({name: [value] for name, value in report.items()}))
    (node,) = ray.nodes()
    deadline = time.monotonic() + 90
    text = ""
    while not re.search(r'sdhubert_stage_seconds.*"run-7"', text):
        assert time.monotonic() < deadline, text[:2000]
        time.sleep(0.2)
        try:
            address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
            text = urllib.request.urlopen(address, timeout=10).read().decode()
        except (urllib.error.URLError, ConnectionError):
            continue
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
    assert {stage: found["stage_seconds", stage] for stage in ("decode", "encode", "cut", "write")} == {
        "decode": 0.5,
        "encode": 0.5,
        "cut": 0.5,
        "write": 0.5,
    }
    assert ("rows", "missing") not in found
    dashboard = (CONFIGS / "cluster" / "grafana.json").read_text()
    assert {*re.findall(r"ray_sdhubert_\w+", dashboard)} <= {*re.findall(r"^(\w+)\{", text, re.M)}


class Cluster:
    """Nodes and a clock in the hands of a test."""

    def __init__(self):
        self.nodes = []
        for node in (Node(0), Node(2), Node(2, 1)):
            self.add(node)
        self.now = 0.0

    def add(self, node):
        self.nodes.append(KnownNode(str(len(self.nodes)), True, False, node))

    def lose(self, index=-1, was_idle=False):
        """Ray still knows of a node that is gone, but not what it had."""
        self.nodes[index] = replace(self.nodes[index], alive=False, was_idle=was_idle, has=Node(0))

    def watch(self, stall_seconds=60.0):
        return StallWatch(stall_seconds, nodes=lambda: list(self.nodes), clock=lambda: self.now)


def test_a_cluster_that_lost_a_node_and_stands_still_is_noticed():
    """Not one that is whole, nor one that goes on."""
    cluster = Cluster()
    watch = cluster.watch()
    cluster.now = 1000.0
    assert not watch.stands_still()
    cluster.lose()
    assert watch.stands_still()
    watch.moved()
    assert not watch.stands_still()
    cluster.now += 60
    assert not watch.stands_still()
    cluster.now += 1
    assert watch.stands_still()
    assert not cluster.watch().stands_still()  # a watch that begins now knows the cluster as it is
    cluster.add(Node(2, 1))
    assert not watch.stands_still()  # it has come back
    cluster.lose()
    cluster.add(Node(4))
    assert watch.stands_still()  # with CPUs enough, but no GPU


def test_a_node_that_the_autoscaler_took_away_is_no_loss():
    """Nothing ran on it. One that came and went in between is none either, and hides none."""
    cluster = Cluster()
    watch = cluster.watch()
    cluster.now = 1000.0
    cluster.add(Node(8))
    cluster.lose(was_idle=True)
    assert not watch.stands_still()
    cluster.lose(2, was_idle=True)
    assert not watch.stands_still()
    cluster.lose(1)
    assert watch.stands_still()


def test_how_ray_tells_why_a_node_is_gone():
    """Records of `ray.nodes()` as they were seen: a node alive, drained as idle, killed, and ended by SIGTERM."""
    gone = {"NodeID": "a", "Alive": False, "Resources": {}}
    idle = KnownNode.of_record({**gone, "DeathReason": 4, "DeathReasonMessage": "idle"})
    assert idle == KnownNode("a", False, True, Node(0))
    assert NodeDeathInfo.AUTOSCALER_DRAIN_IDLE == 4
    killed = {"DeathReason": 2, "DeathReasonMessage": "health check failed due to missing too many heartbeats"}
    preempted = {"DeathReason": 3, "DeathReasonMessage": "Node received SIGTERM; draining before shutdown."}
    for reason in (killed, preempted, {}):
        assert KnownNode.of_record({**gone, **reason}) == KnownNode("a", False, False, Node(0))
    has = {"CPU": 2.0, "memory": 6e9, "node:127.0.0.1": 1.0}
    alive = {"NodeID": "b", "Alive": True, "Resources": has, "DeathReason": 0, "DeathReasonMessage": ""}
    assert KnownNode.of_record(alive) == KnownNode("b", True, False, Node(2.0, 0.0, 6_000_000_000))


def test_patience_is_longer_than_a_unit():
    cluster = Cluster()
    watch = cluster.watch()
    cluster.lose()
    cluster.now = 170.0
    assert not watch.stands_still()  # nothing is known of what a unit takes
    cluster.now = 181.0
    assert watch.stands_still()
    watch.moved(100.0)
    watch.moved(3.0)
    cluster.now += 199
    assert not watch.stands_still()
    cluster.now += 2
    assert watch.stands_still()


def stand_still():
    """A pipeline that waits; the interrupt comes between two waits, as `interrupt_main` ends none."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.01)
    pytest.fail("nothing has ended it")


@pytest.fixture
def interrupts():
    """How often the process was told to end: a handler of SIGINT, as the command line has one."""
    told = []

    def interrupt(number, frame):
        told.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    yield told
    assert signal.signal(signal.SIGINT, before) is interrupt


def test_a_pipeline_that_stands_still_is_ended_and_nobody_takes_it_for_ctrl_c(interrupts, caplog):
    cluster = Cluster()
    with cluster.watch(0.01) as watch:
        cluster.now = 1.0
        cluster.lose()
        stand_still()
    assert watch.stalled
    assert interrupts == []
    assert "a node was lost" in caplog.text


def test_a_pipeline_that_ends_by_itself_is_left_alone():
    cluster = Cluster()
    with cluster.watch(0.01) as watch:
        cluster.now = 1.0
    assert not watch.stalled


def test_ctrl_c_goes_to_who_handles_it(interrupts):
    def press():
        os.kill(os.getpid(), signal.SIGINT)
        stand_still()

    with pytest.raises(KeyboardInterrupt), Cluster().watch() as watch:
        press()
    assert not watch.stalled
    assert interrupts == [signal.SIGINT]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_cluster_of_ray_is_whole():
    watch = StallWatch(0.0)
    time.sleep(0.01)
    assert not watch.stands_still()
