"""What an output holds, counted from its files alone, in memory that does not grow with the rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.output.commits import Commit, read_commits, read_totals
from sdhubert_ray.output.plans import Plan, read_plan
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.output.totals import TOTALS_COLUMNS, RowTotals

_LISTED_REASONS = 50


@dataclass
class Totals:
    """What the committed rows of an output amount to.

    Attributes:
        num_rows: pieces.
        num_files: recordings.
        statuses: recordings by status.
        failures: (id, status, error) of recordings that failed, the first thousand.
        reasons: failed rows by (status, error without its names and numbers).
        audio_seconds: audio.
        speech_seconds: the part of it within syllables.
        num_syllables: syllables.
        size: bytes of the segments table.
    """

    num_rows: int = 0
    num_files: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    audio_seconds: float = 0.0
    speech_seconds: float = 0.0
    num_syllables: int = 0
    size: int = 0

    @property
    def num_failed(self) -> int:
        """Recordings that are unreadable, missing or failed."""
        return sum(count for status, count in self.statuses.items() if status in FAILED_STATUSES)

    def record(self) -> dict[str, object]:
        """As JSON takes it."""
        reasons = [
            {"status": status, "reason": reason, "rows": rows}
            for (status, reason), rows in self.reasons.most_common(_LISTED_REASONS)
        ]
        return {**asdict(self), "reasons": reasons}


def count_results(output: str, plans: Sequence[Plan], commits: Sequence[Commit]) -> Totals:
    """Count what is committed. Of a key that was tried again, the latest attempt counts.

    What a run has finished is counted by the footers of its files. Rows are read where attempts stand beside each
    other until they are published, and where the first piece of a recording is not done or stands apart from the
    others; held at once are then the ids of recordings in several pieces, and the keys that were tried again.
    """
    again = {plan.number for plan in plans if plan.kind == "retry"}
    rows: RowTotals | None = None
    if all(commit.published or commit.plan not in again for commit in commits):
        rows = _add_up(read_totals(output, commits))
    if rows is None or any(standing.piece for standing in rows.parts.values()):
        rows = _count_rows(output, plans, commits)
    for file_id, standing in rows.parts.items():
        rows.add_recording(file_id, standing)
    return Totals(
        num_rows=rows.num_rows,
        num_files=rows.statuses.total(),
        statuses=dict(sorted(rows.statuses.items())),
        failures=sorted(rows.failures),
        reasons=rows.reasons,
        audio_seconds=rows.audio_seconds,
        speech_seconds=rows.speech_seconds,
        num_syllables=rows.num_syllables,
        size=sum(commit.size for commit in commits),
    )


def _count_rows(output: str, plans: Sequence[Plan], commits: Sequence[Commit]) -> RowTotals:
    long = _long_recordings(output, plans)
    latest = latest_attempts(output, plans, commits)

    def counted() -> Iterable[RowTotals]:
        for commit, table in read_commits(output, commits, ("key", *TOTALS_COLUMNS)):
            if latest:
                last = [latest.get(key, commit.plan) == commit.plan for key in table.column("key").to_pylist()]
                table = table.filter(pa.array(last, pa.bool_()))
            yield RowTotals.of_file(table, long)

    return _add_up(counted())


def _add_up(files: Iterable[RowTotals]) -> RowTotals:
    total = RowTotals()
    for rows in files:
        total.add(rows)
    return total


def _long_recordings(output: str, plans: Sequence[Plan]) -> set[str]:
    """The ids of the recordings that are in several pieces."""
    found: set[str] = set()
    for plan in plans:
        for table in read_plan(output, plan, ["id", "num_pieces"]):
            found.update(table.filter(pc.greater(table.column("num_pieces"), 1)).column("id").to_pylist())
    return found


def latest_attempts(output: str, plans: Sequence[Plan], commits: Sequence[Commit]) -> dict[str, int]:
    """The plan with the latest attempt of each key that is tried again, as long as the one before stands there too."""
    again = {plan.number for plan in plans if plan.kind == "retry"}
    latest: dict[str, int] = {}
    for commit, table in read_commits(output, [commit for commit in commits if commit.plan in again], ["key"]):
        latest.update(dict.fromkeys(table.column("key").to_pylist(), commit.plan))
    return latest
