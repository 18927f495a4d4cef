"""What an output holds, counted from its files alone, in memory that does not grow with the rows."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.output.commits import Commit, read_commits
from sdhubert_ray.output.plans import Plan, read_plan
from sdhubert_ray.output.reading import worst_status
from sdhubert_ray.output.tables import FAILED_STATUSES

_COLUMNS = ("key", "id", "uri", "status", "error", "duration", "segments")
_LISTED_FAILURES = 1000
_LISTED_REASONS = 50
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


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

    Held at once are the ids of recordings in several pieces, and the keys that were tried again.
    """
    totals = Totals(size=sum(commit.size for commit in commits))
    statuses: Counter[str] = Counter()
    pieces: dict[str, tuple[str, str | None]] = dict.fromkeys(_long_recordings(output, plans), ("", None))
    latest = latest_attempts(output, plans, commits)
    for commit, table in read_commits(output, commits, _COLUMNS):
        if latest:
            last = [latest.get(key, commit.plan) == commit.plan for key in table.column("key").to_pylist()]
            table = table.filter(pa.array(last, pa.bool_()))
        _add_amounts(totals, table)
        columns = (table.column(name).to_pylist() for name in ("id", "uri", "status", "error"))
        for file_id, uri, status, error in zip(*columns, strict=True):
            if status in FAILED_STATUSES:
                reason = str(error).removeprefix(uri).strip()
                totals.reasons[status, _NUMBER.sub("N", reason)] += 1
            if file_id in pieces:
                before, its_error = pieces[file_id]
                worst = worst_status([status, before]) if before else status
                pieces[file_id] = (worst, error if worst == status else its_error)
                continue
            statuses[status] += 1
            _add_failure(totals, file_id, status, error)
    for file_id, (status, error) in pieces.items():
        if status:
            statuses[status] += 1
            _add_failure(totals, file_id, status, error)
    totals.statuses = dict(sorted(statuses.items()))
    totals.num_files = statuses.total()
    totals.failures.sort()
    return totals


def _add_amounts(totals: Totals, table: pa.Table) -> None:
    totals.num_rows += table.num_rows
    totals.audio_seconds += pc.sum(table.column("duration")).as_py() or 0.0
    flat = pc.list_flatten(table.column("segments"))
    totals.num_syllables += len(flat)
    if len(flat):
        lengths = pc.subtract(pc.struct_field(flat, "end"), pc.struct_field(flat, "start"))
        totals.speech_seconds += pc.sum(lengths).as_py()


def _add_failure(totals: Totals, file_id: str, status: str, error: str | None) -> None:
    if status in FAILED_STATUSES and len(totals.failures) < _LISTED_FAILURES:
        totals.failures.append((file_id, status, error or ""))


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
