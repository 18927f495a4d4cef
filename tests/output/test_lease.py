"""One run at a time on an output; whoever died gives way. Real processes, killed."""

import json
import subprocess
import sys
import threading
import time

import pytest

from sdhubert_ray import storage
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Lease, LeaseLostError, lease, read_lease

HOLD = """
import sys, time
from sdhubert_ray.output import Lease
Lease(sys.argv[1], "theirs")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the output."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def quick(monkeypatch):
    """Heartbeats and patience a hundred times shorter."""
    for name in ("BEAT_SECONDS", "DEAD_SECONDS", "_SETTLE_SECONDS"):
        monkeypatch.setattr(lease, name, getattr(lease, name) / 50)


def test_a_lease_is_taken_and_given_back(tmp_path):
    ours = Lease(str(tmp_path), "ours")
    assert read_lease(str(tmp_path))["run_id"] == "ours"
    assert lease.is_held(str(tmp_path))
    ours.release()
    assert read_lease(str(tmp_path)) is None
    assert not lease.is_held(str(tmp_path))
    Lease(str(tmp_path), "again").release()


def test_a_second_run_is_refused_naming_the_first(tmp_path, holder):
    with pytest.raises(BusyError, match=f"is being written by another run \\(process {holder.pid} on "):
        Lease(str(tmp_path), "ours")
    assert read_lease(str(tmp_path))["run_id"] == "theirs"


def test_a_holder_of_this_host_that_was_killed_gives_way_at_once(tmp_path, holder):
    holder.kill()
    holder.wait()
    began = time.monotonic()
    ours = Lease(str(tmp_path), "ours")
    assert time.monotonic() - began < 5
    assert read_lease(str(tmp_path))["run_id"] == "ours"
    ours.release()


def test_a_number_of_a_dead_process_that_was_given_to_another_is_no_holder(tmp_path, holder):
    content = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**content, "started": "1"}))
    Lease(str(tmp_path), "ours").release()


@pytest.mark.usefixtures("quick")
def test_a_silent_holder_elsewhere_gives_way_after_a_minute(tmp_path):
    (tmp_path / "lease.json").write_text(json.dumps({"run_id": "theirs", "host": "node-7", "boot": "b", "pid": 1}))
    began = time.monotonic()
    Lease(str(tmp_path), "ours").release()
    assert time.monotonic() - began >= lease.DEAD_SECONDS


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_whose_heart_beats_is_alive_whatever_its_clock_says(tmp_path):
    stop = threading.Event()

    def beat():
        count = 0
        while not stop.wait(0.05):
            count += 1
            content = {"run_id": "theirs", "host": "node-7", "boot": "b", "pid": 1, "beat": count, "time": "1999"}
            storage.put(str(tmp_path / "lease.json"), json.dumps(content).encode())

    storage.put(
        str(tmp_path / "lease.json"),
        json.dumps({"run_id": "theirs", "host": "node-7", "boot": "b", "pid": 1, "beat": 0}).encode(),
    )
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(BusyError, match="process 1 on node-7"):
            Lease(str(tmp_path), "ours")
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("quick")
def test_who_was_taken_over_notices_and_leaves_the_lease_alone(tmp_path):
    ours = Lease(str(tmp_path), "ours")
    content = json.loads((tmp_path / "lease.json").read_text())
    storage.put(str(tmp_path / "lease.json"), json.dumps({**content, "run_id": "theirs"}).encode())
    time.sleep(4 * lease.BEAT_SECONDS)
    with pytest.raises(LeaseLostError, match="another run has taken over"):
        ours.check()
    ours.release()
    assert read_lease(str(tmp_path))["run_id"] == "theirs"


@pytest.mark.usefixtures("quick")
def test_the_heartbeat_carries_the_progress(tmp_path):
    ours = Lease(str(tmp_path), "ours")
    ours.update({"rows": 7})
    deadline = time.monotonic() + 10
    while read_lease(str(tmp_path))["progress"] != {"rows": 7}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ours.release()


def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    start = threading.Barrier(8)
    got, refused = [], []

    def take(number):
        start.wait()
        try:
            got.append(Lease(str(tmp_path), f"run {number}"))
        except BusyError:
            refused.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_lease_is_refused(tmp_path, content):
    (tmp_path / "lease.json").write_text(content)
    with pytest.raises(UserError, match=r"lease\.json is no lease of a run"):
        Lease(str(tmp_path), "ours")
