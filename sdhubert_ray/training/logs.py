"""What a run logs: metrics.csv, a row per step, and TensorBoard; both go on where a run is resumed."""

import csv
import io
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from tensorboardX import SummaryWriter

from sdhubert_ray import storage

METRICS_FILE, TENSORBOARD_FOLDER = "metrics.csv", "tensorboard"
_LIVE_SECONDS = 10.0
_WRITTEN_SHARE = 0.01
"""Rows are all written anew each time: as a run gets long, so seldom that it takes this share of the time at most."""
_DROPPED = frozenset(("epoch",))  # Lightning's, which has but one


class RunLogger(Logger):
    """Rows of metrics by the number of steps done; what was logged past the step that is resumed from is forgotten.

    Files of a local run are written as it goes, those of a remote one by `flush`.
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
        self._uri = storage.join(output, METRICS_FILE)
        self._rows = {int(row["step"]): row for row in read_metrics(output) if int(row["step"]) <= step}
        self._changed = False
        self._next_write = time.monotonic() + _LIVE_SECONDS
        self._is_local = storage.is_local(output)
        events = Path(storage.join(output, TENSORBOARD_FOLDER)) if self._is_local else folder / TENSORBOARD_FOLDER
        self._events = events
        self._writer = SummaryWriter(str(events), purge_step=step + 1, flush_secs=round(_LIVE_SECONDS))

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
                self._writer.add_scalar(key, value, done)
        self._changed = True

    def save(self) -> None:
        """Write what is new from time to time, where that is cheap."""
        if self._is_local and time.monotonic() > self._next_write:
            self._write_rows()

    def flush(self) -> None:
        """Write all that is new."""
        self._write_rows()
        self._writer.flush()
        if not self._is_local:
            for path in self._events.iterdir():
                storage.put(storage.join(self._output, f"{TENSORBOARD_FOLDER}/{path.name}"), path.read_bytes())

    def finalize(self, status: str) -> None:
        """Write all that is new and close."""
        self.flush()
        self._writer.close()

    def _write_rows(self) -> None:
        if not self._changed:
            return
        self._changed, began = False, time.monotonic()
        names = list(dict.fromkeys(name for row in self._rows.values() for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="")
        writer.writeheader()
        writer.writerows(self._rows[step] for step in sorted(self._rows))
        storage.put(self._uri, text.getvalue().encode())
        ended = time.monotonic()
        self._next_write = ended + max(_LIVE_SECONDS, (ended - began) / _WRITTEN_SHARE)


def read_metrics(output: str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.csv, as text; none where it has none yet."""
    try:
        text = storage.read_bytes(storage.join(output, METRICS_FILE)).decode()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return list(csv.DictReader(io.StringIO(text)))
