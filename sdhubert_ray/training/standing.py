"""How far a training run is, from its folder alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdhubert_ray.output import read_lease
from sdhubert_ray.output.lease import is_held
from sdhubert_ray.training.checkpoints import Kept, find_checkpoint
from sdhubert_ray.training.metrics import read_metrics

_SHOWN = (
    *("loss", "val_score", "lr", "grad_norm", "information", "collapsed"),
    *("skipped", "skipped_steps", "data_wait_share", "audio_seconds_per_second"),
)


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        state: `running`, `interrupted` or `finished`.
        holder: whose run it is: process, host and heartbeat; None where nobody trains.
        step: steps that are done, as far as they are logged.
        max_steps: steps in all.
        last: the checkpoint that the run would go on from.
        best: the one of the best validation.
        metrics: the latest value of each, by the names of metrics.csv.
    """

    state: str
    holder: Mapping[str, Any] | None
    step: int
    max_steps: int
    last: Kept | None
    best: Kept | None
    metrics: Mapping[str, float]

    @property
    def percent_done(self) -> float:
        """Steps that are done, in percent of all."""
        return int(1000 * self.step / self.max_steps) / 10

    @property
    def seconds_left(self) -> float | None:
        """Seconds to go at the present rate; None where nobody trains or no rate is known yet."""
        rate = self.metrics.get("steps_per_second", 0.0)
        return (self.max_steps - self.step) / rate if self.state == "running" and rate > 0 else None

    def record(self) -> dict[str, object]:
        """All of it, for JSON: a metric that is not finite is none."""
        left = self.seconds_left
        return {
            "kind": "training",
            "state": self.state,
            "holder": self.holder,
            "step": self.step,
            "max_steps": self.max_steps,
            "percent_done": self.percent_done,
            "seconds_left": None if left is None else round(left, 1),
            "checkpoint_step": None if self.last is None else self.last.step,
            "best_step": None if self.best is None else self.best.step,
            "best_score": None if self.best is None else self.best.score,
            "metrics": {name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
        }

    def rows(self) -> list[tuple[str, str]]:
        """All of it, for people: a name and a text each."""
        by = self.holder
        holder = "" if by is None else f" (process {by['pid']} on {by['host']}, heartbeat of {by['time']})"
        done = f"{self.percent_done:g} % ({self.step} of {self.max_steps} steps)"
        rows = [("state", f"{self.state}{holder}"), ("done", done)]
        told = [f"{name} {self.metrics[name]:.4g}" for name in _SHOWN if name in self.metrics]
        if told:
            rows.append(("metrics", ", ".join(told)))
        if self.seconds_left is not None:
            rate, hours = self.metrics["steps_per_second"], self.seconds_left / 3600
            rows.append(("time left", f"about {hours:.1f} hours, at {rate:.3g} steps/s"))
        rows.append(("last", "no checkpoint yet" if self.last is None else f"step {self.last.step}, {self.last.uri}"))
        if self.best is not None:
            rows.append(("best", f"step {self.best.step}, val_score {self.best.score:.4f}, {self.best.uri}"))
        return rows


def read_standing(output: str, record: Mapping[str, Any]) -> Standing:
    """Tell where the run in a folder stands; `record` is its run.json.

    Raises:
        UserError: the record of the best checkpoint is damaged.
        TransientError: the store could not be reached.
    """
    metrics: dict[str, float] = {}
    for row in read_metrics(output):
        metrics |= {name: float(value) for name, value in row.items() if value}
    step = int(metrics.pop("step", 0))
    last, max_steps = find_checkpoint(output, "last"), record["config"]["max_steps"]
    step = max(step, last.step if last is not None else 0)
    running = is_held(output)
    done = last is not None and last.step >= max_steps
    state = "running" if running else "finished" if done else "interrupted"
    holder = read_lease(output) if running else None
    return Standing(state, holder, step, max_steps, last, find_checkpoint(output, "best"), metrics)
