"""Training on a cluster whose nodes go: with notice, and without."""

import contextlib
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from clusters import ROOT, running_cluster
from trainings import QUIET, prepare, train_here

from sdhubert_ray.training.checkpoints import find_checkpoint
from sdhubert_ray.training.metrics import read_metrics

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("nodes"),  # one cluster for both
    *QUIET,
]

STEPS = 60
CONFIG = (
    *("data.sample_len=0.9", "data.val_share=0.2", "model.T_max=50", "limit_val_batches=2", "model.dropout=0.0"),
    *("lr=1e-4", "val_check_interval=10", "checkpoint.every_steps=10", f"max_steps={STEPS}", "data.batch_size=16"),
    *("scaling.num_workers=2", "scaling.cpus_per_worker=2"),  # a worker fills a node
)


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, speech):
    """One worker with twice the batch, in this process."""
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    run = prepare(tmp_path / "run", speech, *CONFIG, "data.batch_size=32", "scaling.num_workers=1")
    train_here(run, tmp_path)
    return run.output


@contextlib.contextmanager
def training(cluster, output, speech, *settings):
    """`jobs/train.py` of the base run on this cluster."""
    arguments = ["--config-name", "sdhubert_tiny", "--output", str(output), "--address", cluster.address]
    arguments += [f"data.source={speech}", *CONFIG, *settings]
    log = output.with_suffix(".log")
    # Ray Train waits so long for a node that it does not know to be gone.
    environment = {**cluster.environment, "OMP_NUM_THREADS": "1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}
    with log.open("wb") as file:
        driver = subprocess.Popen(
            [sys.executable, "jobs/train.py", *arguments], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
    try:
        yield driver, log
    finally:
        driver.kill()
        driver.wait()


def wait_for(driver, log, is_there, seconds=240):
    until = time.monotonic() + seconds
    while not is_there():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


def last_step(output):
    last = find_checkpoint(str(output), "last")
    return 0 if last is None else last.step


def assert_equals(output, undisturbed):
    """All steps once, and the numbers of the run of one worker, up to rounding."""
    ours, expected = read_metrics(str(output)), read_metrics(str(undisturbed))
    assert [row["step"] for row in ours] == [row["step"] for row in expected] == [str(n) for n in range(1, STEPS + 1)]
    for name in ("loss", "grad_norm", "center_norm", "lr"):
        columns = [[float(row[name]) for row in rows] for rows in (ours, expected)]
        np.testing.assert_allclose(*columns, rtol=2e-3, err_msg=name)


def test_a_node_that_is_taken_away_with_notice_is_saved_from(cluster, tmp_path, speech, undisturbed):
    """Told that a node of a spot market will go, the run saves at once, off its interval, and goes on from there."""
    listed = cluster.run("ray", "list", "nodes", "--address", cluster.dashboard, "--format", "json")
    nodes = json.loads(listed.stdout[listed.stdout.index("[") :])
    last = (cluster.worker_address(2), "ALIVE")
    (node,) = [node["node_id"] for node in nodes if (node["node_ip"], node["state"]) == last]
    output = tmp_path / "run"
    with training(cluster, output, speech, "checkpoint.every_steps=1000", "val_check_interval=1000") as (driver, log):
        wait_for(driver, log, lambda: "training from step 0" in log.read_text())
        notice = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--node-id", node)
        told = cluster.run(
            "ray", "drain-node", "--address", cluster.address, *notice, "--deadline-remaining-seconds", "30"
        )
        assert told.returncode == 0, told.stdout
        wait_for(driver, log, lambda: last_step(output) > 0)
        saved = last_step(output)
        assert saved < STEPS
        cluster.kill_last_node()
        cluster.add_worker(2, 2)
        assert driver.wait(240) == 0, log.read_text()
    assert f"training from step {saved} of {STEPS}: workers: 2" in log.read_text()
    assert_equals(output, undisturbed)


def test_elastic_workers_go_on_when_a_node_is_lost(cluster, tmp_path, speech, undisturbed):
    """The worker that is left makes the same steps, each in twice as many micro-batches."""
    output = tmp_path / "run"
    with training(cluster, output, speech, "scaling.min_workers=1") as (driver, log):
        wait_for(driver, log, lambda: last_step(output) >= 10)
        cluster.kill_last_node()
        assert driver.wait(240) == 0, log.read_text()
    assert f"training from step 0 of {STEPS}: workers: 2" in log.read_text()
    (resumed,) = set(re.findall(rf"training from step (\d+) of {STEPS}: workers: 1", log.read_text()))
    assert int(resumed) % 10 == 0
    assert_equals(output, undisturbed)
    assert [row["step"] for row in read_metrics(str(output)) if row["val_score"]] == [
        *map(str, range(10, STEPS + 1, 10))
    ]
    assert len(list(output.glob("checkpoint_*/"))) == 2  # none is left of the worker that died
