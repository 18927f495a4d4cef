"""metrics.csv of a run: its columns, and how it is read."""

import csv
import io
from typing import Any

from sdhubert_ray import storage

METRICS_FILE, TENSORBOARD_FOLDER = "metrics.csv", "tensorboard"
_TAIL_BYTES = 1 << 14  # many rows
COLUMNS = (
    *("step", "loss", "val_score", "lr", "grad_norm"),
    *("val_loss", "val_auc", "val_margin"),
    *("information", "teacher_entropy", "student_entropy"),
    *("student_cls_spread", "teacher_cls_spread", "token_spread", "center_norm", "collapsed"),
    *("skipped", "skipped_steps", "data_wait_share", "audio_seconds_per_second", "steps_per_second"),
)
"""Of metrics.csv, in this order; others come after them when they are first logged, which rewrites the file."""


def last_step(output: str) -> int:
    """The last step that a run's metrics.csv has a whole line of; 0 where it has none, or cannot be reached now."""
    uri = storage.join(output, METRICS_FILE)
    try:
        size = storage.stat(uri).size or 0
        with storage.open_binary(uri, start=max(0, size - _TAIL_BYTES)) as file:
            lines = file.read().split(b"\n")[1:-1]  # the first may begin within it, or is the names
    except OSError:
        return 0
    steps = [line.split(b",")[0] for line in lines]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def read_metrics(output: str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.csv, as text; none where it has none yet.

    A line that is torn is left out: it is being written, or its process was killed meanwhile.
    """
    try:
        data = storage.read_bytes(storage.join(output, METRICS_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return []
    text = data[: data.rfind(b"\n") + 1].decode()
    names, *lines = list(csv.reader(io.StringIO(text))) or [[]]
    return [dict(zip(names, line, strict=True)) for line in lines if len(line) == len(names)]
