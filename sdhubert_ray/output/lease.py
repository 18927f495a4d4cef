"""One run at a time on an output: a lease with a heartbeat.

No clocks are compared: a holder is alive if its heartbeat moves while one looks, and dead if it does not for a minute.
A holder on this host is known at once, by its process.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdhubert_ray import storage
from sdhubert_ray.errors import BusyError, UserError

LEASE = "lease.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseTimes:
    """The times of a lease, seconds; all who want one output use the same.

    Attributes:
        beat: from one heartbeat to the next.
        dead: a heartbeat that has not moved for this long is that of a dead run.
        settle: from taking over to looking whether it has stayed so; also from one look at a heartbeat to the next.
    """

    beat: float = 5.0
    dead: float = 60.0
    settle: float = 1.0


TIMES = LeaseTimes()
OF_HISTORY = LeaseTimes(beat=60.0, dead=600.0, settle=5.0)
"""Where each heartbeat is a commit of a repository, of which there may be so many an hour."""


def times_of(output: str) -> LeaseTimes:
    """The times of the leases of an output."""
    return OF_HISTORY if storage.keeps_history(output) else TIMES


class LeaseLostError(Exception):
    """Another run has taken the output over, or the heartbeat could not be written for too long."""


class Lease:
    """The right to write into an output, kept alive by a thread until `release`.

    Attributes:
        times: those it keeps.
    """

    def __init__(self, output: str, run_id: str, times: LeaseTimes | None = None) -> None:
        """Take the lease of an output.

        Args:
            output: the folder.
            run_id: unique to this run.
            times: when to renew it, and for how long to look for the heartbeat of a holder elsewhere; None: as is
                usual for the output.

        Raises:
            BusyError: another run holds it (it says which).
            UserError: the output cannot be written.
        """
        times = times or times_of(output)
        self.times = times
        self._output = output
        self._uri = storage.join(output, LEASE)
        self._content: dict[str, Any] = {"run_id": run_id, **_here(), "beat": 0, "progress": {}}
        self._written = b""  # what the file holds, if it is ours
        self._stop = threading.Event()
        self._lost: str | None = None
        self._take(output)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def update(self, progress: Mapping[str, object]) -> None:
        """Leave word of the progress with the next heartbeat."""
        self._content["progress"] = dict(progress)

    def check(self) -> None:
        """Raise LeaseLostError if the last heartbeat has found that the lease is not ours any more."""
        if self._lost:
            raise LeaseLostError(self._lost)

    def confirm(self) -> None:
        """Look now: raise LeaseLostError if the lease is not ours any more. For what cannot be taken back."""
        self.check()
        check_holder(self._output, self._content["run_id"])

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        self._thread.join()
        now = _read(self._uri)
        if now is not None and now["run_id"] == self._content["run_id"]:
            storage.remove_files([self._uri])

    def _take(self, output: str) -> None:
        if self._create():
            return
        found = storage.read_now(self._uri)
        holder = None if found is None else _parse(self._uri, found)
        if holder is not None and _is_alive(self._uri, holder, self.times.dead, self.times.settle):
            raise BusyError(
                f"output {output} is being written by another run (process {holder['pid']} on {holder['host']}); "
                "wait until it has ended, or choose another output"
            )
        # Dead: of those that see it, one replaces it; where a store lets several, the one whose content stays.
        is_there = found is not None and storage.read_now(self._uri) is not None  # or it was given back meanwhile
        taken = self._replace(found) if found is not None and is_there else self._create()
        if taken:
            time.sleep(self.times.settle)
        if not taken or not self._is_ours():
            raise BusyError(f"output {output} has just been taken over by another run; choose another output")

    def _create(self) -> bool:
        self._written = self._encoded()
        return storage.create(self._uri, self._written)

    def _replace(self, found: bytes) -> bool:
        self._written = self._encoded()
        return storage.replace(self._uri, found, self._written)

    def _is_ours(self) -> bool:
        now = storage.read_now(self._uri)
        if now is None or _parse(self._uri, now)["run_id"] != self._content["run_id"]:
            return False
        self._written = now
        return True

    def _encoded(self) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps({**self._content, "time": now}).encode()

    def _keep(self) -> None:
        written = time.monotonic()
        while not self._stop.wait(self.times.beat):
            try:
                self._content["beat"] += 1
                # An attempt before may have come through though it has failed: what is there tells.
                if not self._replace(self._written):
                    if not self._is_ours():
                        self._lost = f"another run has taken over {self._uri}"
                        return
                    if not self._replace(self._written):
                        raise UserError(f"{self._uri} is locked by another process")
                written = time.monotonic()
            except (OSError, UserError) as error:
                logger.warning("the heartbeat %s could not be written (%s)", self._uri, error)
                dead = self.times.dead
                if time.monotonic() - written > dead:
                    self._lost = f"the heartbeat {self._uri} could not be written for {dead:.0f} s ({error})"
                    return


def read_lease(output: str) -> dict[str, Any] | None:
    """Who holds an output: run_id, host, pid, time of the last heartbeat, progress; None if nobody does."""
    return _read(storage.join(output, LEASE))


def check_holder(output: str, run_id: str) -> None:
    """Raise LeaseLostError unless this run holds an output: it has ended, or another one has taken the output over."""
    holder = read_lease(output)
    if holder is None or holder["run_id"] != run_id:
        by = "nobody" if holder is None else f"another run (process {holder['pid']} on {holder['host']})"
        raise LeaseLostError(f"output {output} is held by {by}, not by the run {run_id} any more")


def is_held(output: str, times: LeaseTimes | None = None) -> bool:
    """Tell whether a run is alive on an output. A holder on another host is watched for some seconds."""
    times = times or times_of(output)
    uri = storage.join(output, LEASE)
    holder = _read(uri)
    return holder is not None and _is_alive(uri, holder, 2 * times.beat + times.settle, times.settle)


def _read(uri: str) -> dict[str, Any] | None:
    found = storage.read_now(uri)
    return None if found is None else _parse(uri, found)


def _parse(uri: str, found: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(found)
        return {**holder, "pid": int(holder["pid"]), "run_id": str(holder["run_id"]), "host": str(holder["host"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{uri} is no lease of a run; remove it, or choose another output") from error


def _is_alive(uri: str, holder: Mapping[str, Any], patience: float, settle: float) -> bool:
    """Tell whether a holder is alive; one elsewhere is looked at every `settle` seconds, for `patience` seconds."""
    here = _here()
    if holder.get("boot") == here["boot"]:
        return holder.get("started") == _process_started(holder["pid"])
    logger.warning("%s is held by a run on %s; looking for its heartbeat, for a minute", uri, holder["host"])
    until = time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(settle)
        now = _read(uri)
        if now is None:
            return False
        if (now["run_id"], now.get("beat")) != (holder["run_id"], holder.get("beat")):
            return True
    return False


def _here() -> dict[str, object]:
    """This process, so that another one on the same host can tell whether it is alive."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _process_started(pid)}


def _boot() -> str:
    """Identity of this machine's processes: its boot and, in a container, the numbering of processes in it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # where there is no such file, the name has to do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - it is no path
    return " ".join(parts)


def _process_started(pid: int) -> str | None:
    """When a process started, in ticks since boot (its number may have been given to another); None: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        pass
    else:
        # The name in parentheses may hold anything; state is the first field after it, start time the 20th.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"
    return "alive"
