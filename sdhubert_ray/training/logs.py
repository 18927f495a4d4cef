"""What a run logs: metrics.csv, a row per step, and TensorBoard; both go on where a run is resumed."""

import csv
import io
import time
from argparse import Namespace
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from sdhubert_ray import storage
from sdhubert_ray.training.metrics import COLUMNS, METRICS_FILE, TENSORBOARD_FOLDER, read_metrics

_LIVE_SECONDS = 10.0
_DROPPED = frozenset(("epoch",))  # Lightning's, which has but one


class RunLogger(Logger):
    """Rows of metrics by the number of steps done; what was logged past the step that is resumed from is forgotten.

    Rows are appended, so that a step of a long run costs no more than one of a short run. Lightning logs a step's
    training and its validation apart, so that a row is written when a later one has begun, or at `flush`.

    Files of a local run are written as it goes. Those of a remote one are kept on this machine and sent by `flush`, in
    a thread, as they get large and training does not have to wait for them.
    """

    def __init__(self, output: str, step: int, folder: Path) -> None:
        """Go on with the logs of a run.

        Args:
            output: folder of the run.
            step: how many steps had been done where the run begins; rows past it are dropped.
            folder: of this machine, for what a remote run has to be sent.
        """
        super().__init__()
        self._output = output
        self._is_local = storage.is_local(output)
        self._home = Path(storage.absolute(output)) if self._is_local else folder
        self._columns = list(COLUMNS)
        self._rows: dict[int, dict[str, Any]] = {}  # those that are not in the file yet
        self._written_step = 0
        self._next_write = time.monotonic() + _LIVE_SECONDS
        self._rewrite([row for row in read_metrics(output) if int(row["step"]) <= step])
        self._closed = False
        self._uploads: list[Future[None]] = []
        self._uploader = ThreadPoolExecutor(1)
        events = self._home / TENSORBOARD_FOLDER
        events.mkdir(exist_ok=True)
        # Not the usual writer, whose thread dies of a full disk without a word, and whose callers then wait for ever.
        self._events = EventsWriter(str(events / "events"))
        self._events.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    @property
    def name(self) -> str:
        """Nothing that Lightning would make a folder of."""
        return ""

    @property
    def version(self) -> str:
        """Likewise."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """The configuration is in run.json."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of a step; Lightning counts the steps that were done before it."""
        done = (step or 0) + 1
        row = self._rows.setdefault(done, {"step": done})
        for key, value in metrics.items():
            if key not in _DROPPED:
                row[key] = value
                self._events.write_event(Event(step=done, wall_time=time.time(), summary=scalar(key, value)))

    def save(self) -> None:
        """From time to time, write the rows that are complete."""
        if time.monotonic() >= self._next_write:
            self._write(sorted(self._rows)[:-1])
            self._events.flush()

    def flush(self) -> None:
        """Write all that is new; a remote run is sent it some time later.

        Raises:
            UserError, TransientError: it cannot be written, or what an earlier call began to send could not be.
        """
        self._write(sorted(self._rows))
        self._events.flush()
        while self._uploads and self._uploads[0].done():
            self._uploads.pop(0).result()
        self._send()

    def finalize(self, status: str) -> None:
        """Write and send all that is new, and close; once, though Lightning may say it twice. Raises as `flush`."""
        if self._closed:
            return
        self._closed = True
        self._write(sorted(self._rows))
        self._events.close()
        self._send()
        wait(self._uploads)
        while self._uploads:
            self._uploads.pop(0).result()

    def _write(self, steps: Collection[int]) -> None:
        rows = [self._rows.pop(step) for step in steps]
        self._next_write = time.monotonic() + _LIVE_SECONDS
        if not rows:
            return
        if min(steps) <= self._written_step or any(name not in self._columns for row in rows for name in row):
            self._rewrite([*read_metrics(str(self._home)), *rows])
            return
        with (self._home / METRICS_FILE).open("ab") as file:
            file.write(self._lines(rows))
        self._written_step = max(steps)

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole file, with what several rows tell of one step in one."""
        by_step: dict[int, dict[str, Any]] = {}
        for row in rows:
            by_step.setdefault(int(row["step"]), {}).update(row)
        self._columns = list(dict.fromkeys([*self._columns, *(name for row in by_step.values() for name in row)]))
        header = self._lines([{name: name for name in self._columns}])
        storage.put(str(self._home / METRICS_FILE), header + self._lines(by_step[step] for step in sorted(by_step)))
        self._written_step = max(by_step, default=0)

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue().encode()

    def _send(self) -> None:
        """Have a remote run sent the files as they are now, or will be when those before them have been sent."""
        if self._is_local:
            return
        self._uploads = [upload for upload in self._uploads if not upload.cancel()]  # those that have not begun
        self._uploads.append(self._uploader.submit(self._upload))

    def _upload(self) -> None:
        for path in (self._home / METRICS_FILE, *sorted((self._home / TENSORBOARD_FOLDER).iterdir())):
            storage.upload(path, storage.join(self._output, path.relative_to(self._home).as_posix()))
