"""One run at a time on an output; whoever died gives way. Real processes, killed."""

import json
import subprocess
import sys
import threading

import pytest
from clocks import Clock, Deadline

from sdhubert_ray import storage
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Lease, LeaseLostError, LeaseTimes, lease, read_lease

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
def clock(monkeypatch):
    """The one by which leases are waited for."""
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    return clock


QUICK = LeaseTimes(beat=0.02)
ELSEWHERE = {"run_id": "theirs", "host": "node-7", "boot": "b", "pid": 1, "beat": 0}


def put_lease(folder, content):
    storage.put(str(folder / "lease.json"), json.dumps(content).encode())


def check_again_and_again(ours, meanwhile=lambda: None):
    deadline = Deadline()
    while True:
        meanwhile()
        deadline.look_again()
        ours.check()


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


def test_a_holder_of_this_host_that_was_killed_gives_way_at_once(tmp_path, holder, clock):
    holder.kill()
    holder.wait()
    ours = Lease(str(tmp_path), "ours")
    assert clock.waits == [1.0]  # the moment in which another might take it over too
    assert read_lease(str(tmp_path))["run_id"] == "ours"
    ours.release()


@pytest.mark.usefixtures("clock")
def test_a_number_of_a_dead_process_that_was_given_to_another_is_no_holder(tmp_path, holder):
    content = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**content, "started": "1"}))
    Lease(str(tmp_path), "ours").release()


@pytest.mark.parametrize(("times", "seconds"), [(LeaseTimes(), 60), (LeaseTimes(dead=7.0, settle=0.5), 7)])
def test_a_silent_holder_elsewhere_gives_way_after_a_minute(tmp_path, clock, times, seconds):
    put_lease(tmp_path, ELSEWHERE)
    Lease(str(tmp_path), "ours", times).release()
    assert clock.now == seconds + times.settle
    assert set(clock.waits) == {times.settle}


def test_one_who_only_asks_waits_for_two_heartbeats(tmp_path, clock):
    put_lease(tmp_path, ELSEWHERE)
    assert not lease.is_held(str(tmp_path))
    assert clock.now == 11


def test_a_holder_elsewhere_whose_heart_beats_is_alive_whatever_its_clock_says(tmp_path, clock, monkeypatch):
    put_lease(tmp_path, ELSEWHERE)

    def sleep(seconds):
        clock.now += seconds
        if clock.now == 59:
            put_lease(tmp_path, {**ELSEWHERE, "beat": 1, "time": "1999"})

    monkeypatch.setattr(clock, "sleep", sleep)
    with pytest.raises(BusyError, match="process 1 on node-7"):
        Lease(str(tmp_path), "ours")
    assert clock.now == 59


def test_who_was_taken_over_notices_and_leaves_the_lease_alone(tmp_path):
    ours = Lease(str(tmp_path), "ours", QUICK)
    content = {**json.loads((tmp_path / "lease.json").read_text()), "run_id": "theirs"}
    with pytest.raises(LeaseLostError, match="another run has taken over"):
        # Put more than once, as a heartbeat under way may overwrite it.
        check_again_and_again(ours, lambda: put_lease(tmp_path, content))
    put_lease(tmp_path, content)
    ours.release()
    assert read_lease(str(tmp_path))["run_id"] == "theirs"


def test_of_two_that_see_a_dead_run_one_takes_it_over_though_the_other_was_stopped(tmp_path, clock, monkeypatch):
    """The other has looked before, and writes when the new holder is at work already."""
    put_lease(tmp_path, ELSEWHERE)
    is_alive = lease._is_alive

    def stopped(*arguments):
        found = is_alive(*arguments)
        monkeypatch.setattr(lease, "_is_alive", is_alive)
        taken.append(Lease(str(tmp_path), "first"))
        return found

    taken = []
    monkeypatch.setattr(lease, "_is_alive", stopped)
    with pytest.raises(BusyError, match="has just been taken over"):
        Lease(str(tmp_path), "second")
    assert read_lease(str(tmp_path))["run_id"] == "first"
    taken[0].check()
    taken[0].release()


def test_an_output_that_is_given_back_while_its_holder_is_looked_at_is_taken(tmp_path, clock, monkeypatch):
    put_lease(tmp_path, ELSEWHERE)

    def given_back(*_):
        (tmp_path / "lease.json").unlink()
        return False

    monkeypatch.setattr(lease, "_is_alive", given_back)
    ours = Lease(str(tmp_path), "ours")
    assert read_lease(str(tmp_path))["run_id"] == "ours"
    ours.release()


def test_a_heartbeat_that_was_written_though_it_failed_is_no_other_run(tmp_path, monkeypatch):
    ours = Lease(str(tmp_path), "ours", QUICK)
    replace, failed = storage.replace, threading.Event()

    def lost(uri, old, new):
        replace(uri, old, new)
        if not failed.is_set():
            failed.set()
            raise UserError("the answer was lost")
        return replace(uri, old, new)

    monkeypatch.setattr(storage, "replace", lost)
    assert failed.wait(60)
    monkeypatch.setattr(storage, "replace", replace)
    beat, deadline = read_lease(str(tmp_path))["beat"], Deadline()
    while read_lease(str(tmp_path))["beat"] < beat + 3:
        deadline.look_again()
        ours.check()
    ours.release()


def test_a_lease_that_another_process_has_locked_for_a_moment_is_not_lost(tmp_path, monkeypatch):
    """Whoever looks whether to take it over locks it; a holder that is alive goes on."""
    ours = Lease(str(tmp_path), "ours", QUICK)
    replace, refused = storage.replace, threading.Semaphore(0)

    def locked(*_):
        refused.release()
        return False

    monkeypatch.setattr(storage, "replace", locked)
    for _ in range(6):
        assert refused.acquire(timeout=60)
    monkeypatch.setattr(storage, "replace", replace)
    beat, deadline = read_lease(str(tmp_path))["beat"], Deadline()
    while read_lease(str(tmp_path))["beat"] <= beat:
        deadline.look_again()
        ours.check()
    ours.release()


def test_who_cannot_write_its_heartbeat_for_a_minute_has_lost_the_lease(tmp_path, clock, monkeypatch):
    ours = Lease(str(tmp_path), "ours", QUICK)

    def replace(*_):
        clock.now += 25
        raise UserError("the disk is full")

    monkeypatch.setattr(storage, "replace", replace)
    with pytest.raises(LeaseLostError, match=r"could not be written for 60 s \(the disk is full\)"):
        check_again_and_again(ours)
    assert clock.now == 75
    ours.release()


def test_the_heartbeat_carries_the_progress(tmp_path):
    ours = Lease(str(tmp_path), "ours", QUICK)
    ours.update({"rows": 7})
    deadline = Deadline()
    while read_lease(str(tmp_path))["progress"] != {"rows": 7}:
        deadline.look_again()
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
