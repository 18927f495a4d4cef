"""One system over one corpus, in a process of its own: its memory is nobody else's."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from sdhubert_ray import storage
from sdhubert_ray.comparing.baselines import BASELINES, run_baseline
from sdhubert_ray.comparing.systems import Contender
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.runs.segmenting import segment_corpus
from sdhubert_ray.runs.session import IncompleteRunError, Summary

_MEASURED = "measured.json"
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Cost:
    """What segmenting has taken, over all processes that ended what they had begun.

    Attributes:
        wall_seconds: on the clock, from when the model is loaded, as `sdhubert segment` counts.
        audio_seconds: audio that was gone through.
        peak_bytes: memory of the largest process at its largest; memory of a GPU does not count.
    """

    wall_seconds: float = 0.0
    audio_seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def real_time_factor(self) -> float | None:
        """Seconds on the clock for a second of audio; None where nothing was measured."""
        return self.wall_seconds / self.audio_seconds if self.audio_seconds else None


@dataclass(frozen=True)
class Task:
    """A system, and what it has to go through.

    Attributes:
        system: which.
        inputs: as `corpus.list_inputs` takes them.
        output: of the run.
        device: of the encoder.
    """

    system: Contender
    inputs: tuple[str, ...]
    output: str
    device: str


@dataclass(frozen=True)
class _Ended:
    """What a process tells when it is done."""

    wall_seconds: float
    audio_seconds: float
    peak_bytes: int
    num_syllables: int


def run_system(task: Task, folder: str | None, advance: Callable[[int, float], None]) -> tuple[Cost, int]:
    """Do what is left of a task.

    Args:
        task: the system and its corpus.
        folder: what was measured is kept there, to be added to; None keeps nothing.
        advance: told of each commit: rows and seconds of audio in it.

    Returns:
        what all that is done has cost, and how many syllables there are.

    Raises:
        UserError: what the user has to mend.
        BusyError: another run is at work on the output.
        IncompleteRunError: it could not finish; the same call goes on.
    """
    ended = _in_own_process(task, advance)
    uri = None if folder is None else storage.join(folder, _MEASURED)
    before = Cost(**((storage.read_json(uri) if uri else None) or {}))
    if not ended.audio_seconds:
        return before, ended.num_syllables
    cost = Cost(
        before.wall_seconds + ended.wall_seconds,
        before.audio_seconds + ended.audio_seconds,
        max(before.peak_bytes, ended.peak_bytes),
    )
    if uri:
        storage.put(uri, json.dumps(asdict(cost)).encode())
    return cost, ended.num_syllables


def _in_own_process(task: Task, advance: Callable[[int, float], None]) -> _Ended:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, sender), name=f"sdhubert {task.system.title}", daemon=True)
    _start_uninterrupted(process)
    sender.close()  # so that the end of the process ends what is received
    told: object = None
    try:
        while isinstance(told := receiver.recv(), tuple):
            advance(*told)
    except EOFError as error:
        process.join()
        raise IncompleteRunError(
            f"the process of {task.system.title} has ended by itself (exit code {process.exitcode})"
        ) from error
    except BaseException:
        process.terminate()  # what it has committed stays, and the lease of a process that is gone holds nobody
        raise
    finally:
        process.join()
    if isinstance(told, _Ended):
        return told
    assert isinstance(told, Exception)
    raise told


def _start_uninterrupted(process: BaseProcess) -> None:
    """Start a process that Ctrl-C does not reach: a terminal sends it to all, and to tell that one is ours."""
    resource_tracker.ensure_running()  # which would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Task, sender: Connection) -> None:
    """Be the process of a task."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        summary = _segment(task, lambda rows, seconds: sender.send((rows, seconds)))
        sender.send(
            _Ended(
                summary.wall_seconds,
                summary.run_audio_seconds,
                peak_memory(),
                summary.totals.num_syllables,
            )
        )
    except (UserError, BusyError, IncompleteRunError) as error:
        sender.send(type(error)(str(error)))


def _segment(task: Task, on_commit: Callable[[int, float], None]) -> Summary:
    system = task.system
    if system.checkpoint is None:
        return run_baseline(system.name, BASELINES[system.name], task.inputs, task.output, on_commit=on_commit)
    return segment_corpus(
        task.inputs,
        task.output,
        checkpoint=system.checkpoint,
        preset=system.preset,
        device=task.device,
        engine="local",
        on_commit=on_commit,
    )


def peak_memory() -> int:
    """The most memory that this process has held, bytes.

    Linux's `ru_maxrss` counts what the parent held when it began this one, too: its own is in /proc.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
