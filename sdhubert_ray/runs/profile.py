"""Where the time of a run goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sdhubert_ray.output.tables import WORK


@dataclass
class Profile:
    """Seconds of a run: on the clock, from one mark to the next, and of work, summed over workers.

    Attributes:
        list_seconds: until the input was found, looked at, and parted into units, and the checkpoint known to fit.
        start_seconds: from then until work on a unit began: Ray's start, workers that load the model.
        work_seconds: from then until the last unit was committed.
        finish_seconds: from then on: publishing, other formats, counting.
        stage_seconds: work per stage.
        between_seconds: that units were in no stage: queues, copies, what a node does beside.
    """

    list_seconds: float = 0.0
    start_seconds: float = 0.0
    work_seconds: float = 0.0
    finish_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WORK, 0.0))
    between_seconds: float = 0.0

    @property
    def unit_seconds(self) -> float:
        """What all units took, from the beginning of each to its commit."""
        return sum(self.stage_seconds.values()) + self.between_seconds

    @property
    def encoder_share(self) -> float:
        """Part of it that the encoder had."""
        return self.stage_seconds["encode"] / self.unit_seconds if self.unit_seconds else 0.0

    @property
    def units_at_once(self) -> float:
        """How many units were worked on at once, in the mean."""
        return self.unit_seconds / self.work_seconds if self.work_seconds else 0.0


class Stopwatch:
    """Makes a profile of the marks of a run and the reports of its units; all times are of `time.time`."""

    def __init__(self, list_seconds: float, listed: float) -> None:
        """Begin when the input was `listed`, which took so long."""
        self.profile = Profile(list_seconds=list_seconds)
        self._listed = listed
        self._began: float | None = None
        self._ended = listed

    def add(self, report: Mapping[str, float]) -> float:
        """Take in a unit's report, of `stages.WriteSegments`.

        Returns:
            how long its work took, seconds.
        """
        work = {stage: report[f"{stage}_seconds"] for stage in WORK}
        for stage, seconds in work.items():
            self.profile.stage_seconds[stage] += seconds
        taken = sum(work.values())
        # Never less than nothing: the clocks of two nodes may differ.
        self.profile.between_seconds += max(0.0, report["unit_ended"] - report["unit_began"] - taken)
        began = report["unit_began"]
        self._began = began if self._began is None else min(self._began, began)
        self._ended = max(self._ended, report["unit_ended"])
        return taken

    def stop(self, now: float) -> None:
        """The run has ended."""
        began = self._ended if self._began is None else self._began
        self.profile.start_seconds = max(0.0, began - self._listed)
        self.profile.work_seconds = max(0.0, self._ended - began)
        self.profile.finish_seconds = max(0.0, now - self._ended)
