"""Watching a run on Ray: counters for Prometheus, and for nodes that are lost."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import pyarrow as pa
from ray.util.metrics import Counter

from sdhubert_ray.output.tables import STATUSES, WORK
from sdhubert_ray.runs.config import STALL_SECONDS
from sdhubert_ray.runs.interrupts import OwnInterrupt
from sdhubert_ray.runs.placement import KnownNode, Node, known_nodes, total

_LOOK_SECONDS = 5.0
_UNITS = 2.0
"""A cluster that stands still for as long as so many of the longest units take has lost more than patience."""
_FIRST = 3.0
"""So many times as long may it take until anything is committed: nobody knows yet what a unit takes."""

logger = logging.getLogger(__name__)


class RunMetrics:
    """Counters of a run, exported by Ray beside its own (`ray_sdhubert_...`), each tagged with the run's id.

    They are counted where reports of commits arrive, in the driver: work that was done twice is counted once.
    """

    def __init__(self, run_id: str) -> None:
        tags = ("run_id",)
        self._rows = Counter("sdhubert_rows", "Rows (pieces of recordings) committed, by status.", ("run_id", "status"))
        self._audio = Counter("sdhubert_audio_seconds", "Audio committed, seconds.", tags)
        self._syllables = Counter("sdhubert_syllables", "Syllables committed.", tags)
        self._bytes = Counter("sdhubert_output_bytes", "Bytes of segments tables committed.", tags)
        self._work = Counter("sdhubert_stage_seconds", "Work per stage, summed over workers.", ("run_id", "stage"))
        self._tags = {"run_id": run_id}

    def add(self, report: pa.Table) -> None:
        """Count a unit's report, of `stages.WriteSegments`."""
        row: Mapping[str, float] = report.to_pylist()[0]
        added: list[tuple[Counter, float, dict[str, str]]] = [
            *((self._rows, row[status], {"status": status}) for status in STATUSES),
            (self._audio, row["duration"], {}),
            (self._syllables, row["segments"], {}),
            (self._bytes, row["size"], {}),
            *((self._work, row[f"{stage}_seconds"], {"stage": stage}) for stage in WORK),
        ]
        for counter, value, tags in added:
            if value:  # Ray refuses to add nothing
                counter.inc(value, {**self._tags, **tags})


class StallWatch:
    """Ends a pipeline that a lost node has left standing still.

    The encoders of a lost node start again on the nodes that remain, and may take there what the other stages need:
    then all wait for ever. A node that the autoscaler took away had none of them. The block inside `with` is left as by
    a Ctrl-C in the main thread, with `stalled` set; who handles Ctrl-C is not told of this one, as it ends no run.
    """

    def __init__(
        self,
        stall_seconds: float = STALL_SECONDS,
        *,
        nodes: Callable[[], Sequence[KnownNode]] = known_nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember what the cluster has now.

        Args:
            stall_seconds: a cluster that has become smaller may stand still so long, or for twice the time of the
                longest unit so far; three times so long before the first.
            nodes: gives the nodes that there are, or were.
            clock: gives seconds.
        """
        self._patience = stall_seconds
        self._nodes = nodes
        self._clock = clock
        self._planned = {node.id: node.has for node in nodes() if node.alive}
        self._moved = clock()
        self._longest: float | None = None  # unit so far, seconds
        self._stop = threading.Event()
        self._interrupt = OwnInterrupt()
        self._thread = threading.Thread(target=self._watch, name="stall watch", daemon=True)

    @property
    def stalled(self) -> bool:
        """Whether the pipeline was ended for standing still."""
        return self._interrupt.sent

    def moved(self, unit_seconds: float = 0.0) -> None:
        """Note that something was committed, whose work took so long."""
        self._moved = self._clock()
        self._longest = max(self._longest or 0.0, unit_seconds)

    @property
    def patience(self) -> float:
        """How long it may stand still, seconds."""
        if self._longest is None:
            return _FIRST * self._patience
        return max(self._patience, _UNITS * self._longest)

    def stands_still(self) -> bool:
        """Whether the cluster has become smaller, and nothing was committed for too long."""
        if self._clock() - self._moved <= self.patience:
            return False
        planned, now = total([*self._planned.values()]), total([*self._accounted_for()])
        return now.cpus < planned.cpus or now.gpus < planned.gpus

    def _accounted_for(self) -> Iterator[Node]:
        """The nodes that are there, and those of which nothing was lost when they went."""
        for node in self._nodes():
            if node.alive:
                yield node.has
            elif node.was_idle and node.id in self._planned:
                yield self._planned[node.id]

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._moved = self._clock()
        self._interrupt.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End; the interrupt of a stall goes no further."""
        self._stop.set()
        try:
            self._thread.join()
        except KeyboardInterrupt:
            if not self.stalled:  # else it came when the pipeline had just ended
                raise
        finally:
            self._interrupt.__exit__(kind, error, trace)
        return self.stalled and kind is KeyboardInterrupt

    def _watch(self) -> None:
        while not self._stop.wait(min(_LOOK_SECONDS, self._patience)):
            if self.stands_still():
                logger.warning(
                    "a node was lost, and nothing went on for %.0f s: planning anew for the nodes there are",
                    self.patience,
                )
                self._interrupt.send()
                return
