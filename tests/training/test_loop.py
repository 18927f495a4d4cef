"""Training on Ray: workers, nodes and drivers that are killed, and what they leave to those who come after."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from commands import complaint, sdhubert, sdhubert_process
from trainings import QUIET, TINY, assert_same_state, last_state, losses, prepare, train_here

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import Lease, LeaseTimes
from sdhubert_ray.runs.placement import Node
from sdhubert_ray.training.checkpoints import CHECKPOINT_FILE, find_checkpoint

pytestmark = [*QUIET]

STEPS = 14
# Steps of some tenths of a second, so that a process can be killed between two checkpoints.
SLOW = (
    "data.sample_len=0.9",
    "data.batch_size=32",
    "val_check_interval=10",
    "checkpoint.every_steps=5",
    f"max_steps={STEPS}",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, speech):
    """The run that the disturbed ones have to equal, made in this process."""
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    run = prepare(tmp_path / "run", speech, *SLOW)
    train_here(run, tmp_path)
    return run.output


def train_on_ray(run):
    from sdhubert_ray.training.loop import train

    return train(run, None)


def wait_until(is_so, seconds=120):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_for_step(output, step, is_alive=lambda: True, seconds=400):
    """Wait until a checkpoint of this step is there, whole."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and is_alive():
        found = find_checkpoint(str(output), "last")
        if found is not None and found.step >= step:
            return found.step
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of step {step}")


def training_workers():
    """Those of this process's own Ray: others on this machine may train too."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                yield process


def test_one_process_at_a_time_trains_a_run(tmp_path, speech):
    from sdhubert_ray.output import Lease

    run = prepare(tmp_path / "run", speech)
    lease = Lease(run.output, "another")
    try:
        arguments = ("--config-name", "sdhubert_tiny", "--output", run.output, f"data.source={speech}", *TINY)
        refused = sdhubert("train", *arguments, expect=1)
    finally:
        lease.release()
    assert "is being written by another run" in complaint(refused)


QUICK = LeaseTimes(beat=0.05)


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["Ctrl-C ends", "as in a shell's background"])
def on_sigint(request):
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    assert signal.signal(signal.SIGINT, before) is request.param


@pytest.mark.usefixtures("on_sigint")
def test_a_run_that_another_process_has_taken_over_is_ended(tmp_path):
    from sdhubert_ray.runs.session import IncompleteRunError
    from sdhubert_ray.training import loop

    lease = Lease(str(tmp_path), "mine", QUICK)
    path, over = tmp_path / "lease.json", threading.Event()
    theirs = path.read_bytes().replace(b"mine", b"theirs")

    def take_over():
        """Again and again: one heartbeat that was on its way may be written over it."""
        while not over.wait(0.02):
            storage.put(str(path), theirs)

    taker = threading.Thread(target=take_over)
    taker.start()
    try:
        with pytest.raises(IncompleteRunError, match="another run has taken over"), loop._ended_without(lease):
            time.sleep(300)  # ended long before
    finally:
        over.set()
        taker.join()
    storage.put(str(path), theirs)
    lease.release()
    assert path.read_bytes() == theirs


def test_a_run_that_keeps_its_lease_is_left_alone(tmp_path):
    from sdhubert_ray.training import loop

    lease, looks = Lease(str(tmp_path), "mine", QUICK), []
    checked = lease.check
    lease.check = lambda: (looks.append(1), checked())[1]
    with loop._ended_without(lease):
        wait_until(lambda: len(looks) > 2)
    lease.release()
    assert not (tmp_path / "lease.json").exists()


@pytest.mark.parametrize(
    ("nodes", "overrides", "cpus", "use_gpu"),
    [
        ([(16, 8), (184, 0)], ("scaling.num_workers=8",), 2, True),  # by the nodes with GPUs, not by all
        ([(64, 8), (64, 8)], ("scaling.num_workers=16",), 5, True),
        ([(4, 0)], ("scaling.num_workers=2",), 2, False),
        ([(3, 0), (3, 0)], ("scaling.num_workers=2",), 3, False),  # none is divided between two nodes
        ([(4, 1)], ("scaling.use_gpu=false",), 4, False),
        ([(1, 1)], (), 1, True),
        ([(8, 0)], ("scaling.cpus_per_worker=7",), 7, False),
        ([(1, 0)], ("scaling.cpus_per_worker=0.1", "scaling.num_workers=10"), 0.1, False),  # 1 // 0.1 is 9
    ],
)
def test_workers_take_what_the_nodes_have(tmp_path, speech, monkeypatch, nodes, overrides, cpus, use_gpu):
    from sdhubert_ray.training import loop

    monkeypatch.setattr(loop, "alive_nodes", lambda: [Node(*node) for node in nodes])
    run = prepare(tmp_path / "run", speech, "data.num_workers=4", *overrides)
    told = loop._configure(run, True)
    assert (told.config.scaling.cpus_per_worker, told.use_gpu) == (cpus, use_gpu)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ("scaling.num_workers=8",),
            "there is room for 4 with 1 CPUs and a GPU each; take fewer, scaling.use_gpu=false,",
        ),
        (("scaling.use_gpu=false", "scaling.num_workers=40"), "there is room for 32 with 1 CPUs each; take fewer, or"),
        (("scaling.cpus_per_worker=20", "scaling.num_workers=2"), "there is room for 0 with 20 CPUs and a GPU each"),
    ],
)
def test_more_workers_than_there_is_room_for_are_refused(tmp_path, speech, monkeypatch, overrides, told):
    from sdhubert_ray.training import loop

    monkeypatch.setattr(loop, "alive_nodes", lambda: [Node(16, 2), Node(16, 2)])
    run = prepare(tmp_path / "run", speech, *overrides)
    with pytest.raises(UserError) as caught:
        loop._configure(run, True)
    assert told in str(caught.value)
    may_grow = loop._configure(run, False)
    assert may_grow.config.scaling.num_workers == run.config.scaling.num_workers


@pytest.mark.parametrize(
    ("nodes", "overrides", "cpus", "readers"),
    [
        ([(2, 0)], (), 2, 1),  # as many processes as CPUs
        ([(4, 0)], (), 4, 3),
        ([(64, 8)], ("scaling.num_workers=8",), 7, 6),
        ([(16, 8)], ("scaling.num_workers=8",), 2, 1),
        ([(1, 1)], (), 1, 1),  # which reads while the GPU computes
        ([(64, 8)], ("data.num_workers=2",), 3, 2),
    ],
)
def test_six_processes_read_for_a_worker_or_what_its_cpus_allow(
    tmp_path, speech, monkeypatch, nodes, overrides, cpus, readers
):
    from sdhubert_ray.training import loop

    monkeypatch.setattr(loop, "alive_nodes", lambda: [Node(*node) for node in nodes])
    given = overrides if "data.num_workers=2" in overrides else ("data.num_workers=null", *overrides)
    told = loop._configure(prepare(tmp_path / "run", speech, *given), True).config
    assert (told.scaling.cpus_per_worker, told.num_readers) == (cpus, readers)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_the_machine_has_are_refused(tmp_path, speech):
    with pytest.raises(UserError, match="num_workers is 9, but there is room for 3 with 1 CPUs each"):
        train_on_ray(prepare(tmp_path / "run", speech, "scaling.num_workers=9"))


OWN_SEGMENTS = (
    *("objective=segments", "model.speech_upstream=bundled", "model.reinit_layers=[]"),
    *("segments.layer=5", "segments.norm_decay=0.9"),
)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("objective", [(), pytest.param(OWN_SEGMENTS, marks=pytest.mark.slow)])
def test_two_workers_equal_one_with_twice_the_batch(tmp_path, speech, objective):
    """The weights that are exported, after five steps without dropout, to 1e-5; and what is logged.

    The two are those of the command, in a process of its own, on Ray; the one is in this process.
    """
    import ray

    settings = ("model.dropout=0.0", "max_steps=5", "val_check_interval=5", "lr=1e-4", *objective)
    one, two, exports = tmp_path / "one", tmp_path / "two", []
    train_here(prepare(one, speech, *settings, "data.batch_size=8"), tmp_path)
    arguments = ["--config-name", "sdhubert_tiny", "--output", two, f"data.source={speech}", *TINY, *settings]
    joined = ("--address", ray.get_runtime_context().gcs_address)
    done = sdhubert_process("train", *arguments, "data.batch_size=4", "scaling.num_workers=2", *joined)
    assert f"5 steps are done: {two}\n" in done.stdout
    assert json.loads(sdhubert("status", two, "--json").stdout)["state"] == "finished"
    for run, export in ((one, sdhubert), (two, sdhubert_process)):
        export("export", run, f"{run}.pt", "--which", "last")
        exports.append(torch.load(f"{run}.pt", weights_only=True)["state_dict"])
    assert exports[0].keys() == exports[1].keys()
    for key, value in exports[0].items():
        np.testing.assert_allclose(exports[1][key], value, atol=1e-5, rtol=1e-5, err_msg=key)
    assert last_state(one)["sdhubert_progress"] == last_state(two)["sdhubert_progress"]
    assert sorted(losses(one)) == sorted(losses(two)) == [1, 2, 3, 4, 5]
    for step, row in losses(one).items():  # those that the objective has
        found, expected = ([float(text) for text in each[:6] if text] for each in (losses(two)[step], row))
        np.testing.assert_allclose(expected, found, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_comes_back_and_the_run_is_the_undisturbed_one(tmp_path, speech, undisturbed):
    run = prepare(tmp_path / "run", speech, *SLOW)
    killed = []

    def kill():
        wait_for_step(run.output, 5)
        for process in training_workers():
            process.kill()
            killed.append(find_checkpoint(run.output, "last").step)

    thread = threading.Thread(target=kill)
    thread.start()
    assert train_on_ray(run) == STEPS
    thread.join()
    assert killed == [5]  # off a checkpoint's step, as those of steps 10 and 14 were not there
    assert losses(run.output) == losses(undisturbed)
    assert sorted(losses(run.output)) == list(range(1, STEPS + 1))
    assert_same_state(last_state(run.output), last_state(undisturbed))


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_lives_in_an_object_store_with_its_audio(tmp_path, speech, s3_bucket):
    """The same numbers as on disk; the second command goes on from what the first has left there."""
    for path in sorted(speech.iterdir()):
        storage.put(f"{s3_bucket}/speech/{path.name}", path.read_bytes())
    settings = [*TINY, "data.batch_size=4", "val_check_interval=2", "checkpoint.keep=1"]
    arguments = ["--config-name", "sdhubert_tiny", "--output", f"{s3_bucket}/runs/one"]
    arguments += [f"data.source={s3_bucket}/speech", *settings]
    for steps in (2, 4):
        command = [sys.executable, "jobs/train.py", *arguments, f"max_steps={steps}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "going on from step 2 of 4" in done.stdout
    run = prepare(tmp_path / "here", speech, *settings, "max_steps=4")
    train_here(run, tmp_path)
    assert losses(f"{s3_bucket}/runs/one") == losses(run.output)
    names = storage.list_files(f"{s3_bucket}/runs/one")
    assert [name for name in names if name.endswith(CHECKPOINT_FILE)] == [f"checkpoint_000000004/{CHECKPOINT_FILE}"]
    assert sum(name.startswith("tensorboard/") for name in names) == 2
    assert find_checkpoint(f"{s3_bucket}/runs/one", "best").score == find_checkpoint(run.output, "best").score


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_is_gone_on_from_by_the_same_command(tmp_path, speech, undisturbed):
    output = tmp_path / "run"
    arguments = ["--config-name", "sdhubert_tiny", "--output", str(output), f"data.source={speech}", *TINY, *SLOW]
    driver = subprocess.Popen(
        [sys.executable, "jobs/train.py", *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_for_step(output, 5, lambda: driver.poll() is None) == 5
    finally:
        children = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, signal.SIGKILL)
        for process in children:  # Ray ends them, but some seconds later: they would have finished the run
            with contextlib.suppress(psutil.Error):
                process.kill()
        driver.wait()
    assert find_checkpoint(str(output), "last").step == 5
    assert "going on from step 5 of 14" in sdhubert("train", *arguments).stdout
    assert losses(output) == losses(undisturbed)
    assert_same_state(last_state(output), last_state(undisturbed))
    assert "14 steps are done" in sdhubert("train", *arguments).stdout


def test_what_a_killed_worker_has_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    """In the folder for temporary files, where others may have made what is called so."""
    from sdhubert_ray.training import loop

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = loop._new_folder("s3://bucket/run", 1)
    (left / "half.ckpt").write_bytes(b"x")
    other = loop._new_folder("s3://bucket/run", 2)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").write_bytes(b"x")
    trap = left.parent / f"{left.name[:-8]}trap"
    trap.symlink_to(theirs, target_is_directory=True)
    new = loop._new_folder("s3://bucket/run", 1)
    assert new != left
    assert list(new.iterdir()) == []
    assert not left.exists()
    assert other.exists()
    assert (theirs / "kept").exists()
    assert trap.is_symlink()


def test_workers_of_a_machine_share_a_folder_that_the_next_ones_remove(tmp_path, monkeypatch):
    from sdhubert_ray.training import loop

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = loop._shared_folder("s3://bucket/run", "before", 0)
    (left / "half.part").write_bytes(b"x")
    other = loop._shared_folder("s3://bucket/other", "before", 0)
    later = loop._shared_folder("s3://bucket/run", "now", 1)
    (later / "fetched").write_bytes(b"x")
    assert loop._shared_folder("s3://bucket/run", "now", 0) == later
    assert (later / "fetched").exists()
    assert (later.stat().st_mode & 0o777, other.exists(), left.exists()) == (0o700, True, False)
