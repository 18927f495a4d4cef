"""A run's hold on its output: the lease, the plan, what comes in, and the settling when all is done. No Ray."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from sdhubert_ray import events, storage
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import (
    Commit,
    Lease,
    LeaseLostError,
    Plan,
    StagedPlan,
    clear_output,
    find_groups,
    forget_lengths,
    formats,
    list_commits,
    list_plans,
    pending_units,
    publish_commits,
    publish_plan,
    read_contents,
    replace_rows,
    tidy_output,
    unit_name,
    write_run,
)
from sdhubert_ray.output.commits import remove_covered
from sdhubert_ray.output.summary import Totals, count_results
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.planning import Found
from sdhubert_ray.runs.profile import Profile, Stopwatch
from sdhubert_ray.units import Quantizer

if TYPE_CHECKING:  # transformers takes seconds, and much needs no encoder
    from sdhubert_ray.encoder import Checkpoint

OnCommit = Callable[[int, float], None]
"""Told of each commit: rows and seconds of audio in it."""
OnFinish = Callable[[str, int, int | None], None]
"""Told of what is done when all units are: what it is, how much of it is done, and of how much, if that is known."""
_PUBLISHED_AT_ONCE = 64

Publish = Callable[[str, Sequence[Sequence[Commit]], str, frozenset[str]], None]
"""Publishes groups of an output's commits, with a compression, without the rows of these keys."""


class IncompleteRunError(Exception):
    """A run that could not finish; the same command resumes it (exit code 1)."""


@dataclass
class Summary:
    """What a run found and did.

    Attributes:
        output: the folder.
        engine: `local` or `ray`.
        totals: what the output holds.
        rows_done_before: rows that earlier runs had committed.
        rows_done: rows that this run committed.
        run_audio_seconds: audio that this run went through.
        run_bytes: bytes that this run committed.
        wall_seconds: how long this run took.
        profile: where its time went.
    """

    output: str
    engine: str
    totals: Totals = field(default_factory=Totals)
    rows_done_before: int = 0
    rows_done: int = 0
    run_audio_seconds: float = 0.0
    run_bytes: int = 0
    wall_seconds: float = 0.0
    profile: Profile = field(default_factory=Profile)


@dataclass(frozen=True)
class Origin:
    """What the rows of an output are made from.

    Attributes:
        name: of the input, for the run record.
        weights: the checkpoint's name and digest, for the run record.
        checkpoint: that encodes; None where features are there already.
        features: the output whose features are taken, or None.
        quantizer: that gives units; None leaves syllables without.
    """

    name: str
    weights: object
    checkpoint: "Checkpoint | None"
    features: str | None = None
    quantizer: Quantizer | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that has been checked and not begun: nothing is written yet.

    Attributes:
        run_id: unique to this run.
        config: of the job.
        origin: what the rows are made from.
        output: absolute.
        engine: `local` or `ray`.
        engine_reason: why it is that one, where nobody asked for it; may be empty.
        address: of a cluster, or None.
        plans: what earlier runs were to do.
        pending: of that, what is not done: (name of the plan, unit).
        staged: what this run adds; its files are in `folder`.
        kind: of the plan that `staged` becomes.
        found: what the input holds.
        listed: when that was known, of `time.time`.
        list_seconds: how long it took.
        folder: of this machine; gone with the job.
        record: what run.json will hold.
        anew: there was no run in the output, or it is to be overwritten.
        overwrite: what earlier runs left is removed when work begins.
        further: gives further tiers of TextGrids, or None.
    """

    run_id: str
    config: JobConfig
    origin: Origin
    output: str
    engine: str
    address: str | None
    plans: Sequence[Plan]
    pending: Sequence[tuple[str, int]]
    staged: StagedPlan
    kind: str
    found: Found
    listed: float
    list_seconds: float
    folder: "tempfile.TemporaryDirectory[str]"
    record: dict[str, object]
    anew: bool
    overwrite: bool
    engine_reason: str = ""
    further: formats.FurtherTiers | None = None

    def discard(self) -> None:
        """Give up a job that is not to be run: nothing of it stays, in the output neither."""
        self.folder.cleanup()
        forget_lengths(self.output)

    @property
    def rows_left(self) -> int:
        """Rows that this run has to do."""
        rows = {plan.name: plan.unit_rows for plan in self.plans}
        return sum(rows[plan][unit] for plan, unit in self.pending) + self.staged.num_rows

    @property
    def seconds_left(self) -> float:
        """Audio that this run has to do as far as it is known, seconds."""
        seconds = {plan.name: plan.unit_seconds for plan in self.plans}
        return sum(seconds[plan][unit] for plan, unit in self.pending) + self.staged.seconds

    @property
    def lengths_are_known(self) -> bool:
        """Whether some audio of each unit that is left is known."""
        seconds = {plan.name: plan.unit_seconds for plan in self.plans}
        return all(seconds[plan][unit] for plan, unit in self.pending) and all(self.staged.unit_seconds)

    @property
    def num_rows(self) -> int:
        """Rows of all plans."""
        return sum(plan.num_rows for plan in self.plans) + self.staged.num_rows

    @property
    def next_number(self) -> int:
        """That of the plan which `staged` becomes."""
        return max((plan.number for plan in self.plans), default=0) + 1


class Session:
    """One run on an output: nobody else writes there while it lasts."""

    def __init__(
        self, job: Job, summary: Summary, on_commit: OnCommit, on_finish: OnFinish = lambda what, done, total: None
    ) -> None:
        self._job = job
        self._summary = summary
        self._on_commit = on_commit
        self._on_finish = on_finish
        self._began = time.monotonic()
        self._stopwatch = Stopwatch(job.list_seconds, job.listed)
        summary.profile = self._stopwatch.profile
        self.units: list[tuple[str, int]] = []
        """What is to be done: (name of the plan, unit)."""

    def __enter__(self) -> Self:
        """Take the lease and begin: only now the output changes.

        Raises:
            BusyError: another run holds the output, or was there since the job was planned.
            UserError: the output cannot be written at all.
            IncompleteRunError: it can only in part.
        """
        job = self._job
        self._lease = Lease(job.output, job.run_id)
        try:
            if job.overwrite:
                formats.remove_files(job.output)
                clear_output(job.output)
            else:
                self._check_unchanged()
            self._record("running")
            self.units = list(job.pending)
            if job.staged.num_rows:
                self._lease.confirm()
                plan = publish_plan(job.output, job.staged, job.next_number, job.run_id, job.kind)
                job.record["plans"] = [*(before.name for before in job.plans), plan.name]
                self._record("running")
                self.units += [(plan.name, unit) for unit in range(len(job.staged.unit_rows))]
            forget_lengths(job.output)
        except UserError as error:
            self._lease.release()
            raise IncompleteRunError(str(error)) from error  # such as a disk that is full
        except BaseException:
            self._lease.release()
            raise
        events.tell(job.run_id, "started", {"output": job.output, "engine": job.engine, "rows": job.rows_left})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lease back, however the run has ended.

        Raises:
            IncompleteRunError: the run was ended by what the user can mend, the store, or another run. What is
                committed stays.
        """
        self._stop_clock()
        if error is not None:
            reason = f"{type(error).__name__}: {error}"
            events.tell(self._job.run_id, "stopped", {"reason": reason, "rows": self._summary.rows_done})
        self._lease.release()
        if isinstance(error, UserError | storage.TransientError | LeaseLostError):
            raise IncompleteRunError(str(error)) from error

    def _check_unchanged(self) -> None:
        """Planning may have taken hours, without the lease."""
        job = self._job
        now = read_contents(job.output)
        plans = [plan.name for plan in now.plans] if now else []
        other = now and (now.record["fingerprint"] != job.record["fingerprint"] or "tokenizing" in now.record)
        if (now is None) != job.anew or plans != [plan.name for plan in job.plans] or other:
            raise BusyError(f"output {job.output} was changed by another run since this one was planned")

    def add(self, report: pa.Table) -> float:
        """Take in the report of a unit that is committed, of `stages.WriteSegments`.

        Returns:
            how long a worker took for it, seconds.

        Raises:
            LeaseLostError: another run has taken the output over.
        """
        self._lease.check()
        summary = self._summary
        row = report.to_pylist()[0]
        summary.rows_done += row["rows"]
        summary.run_audio_seconds += row["duration"]
        summary.run_bytes += row["size"]
        taken = self._stopwatch.add(row)
        done = {
            "rows": summary.rows_done,
            "audio_seconds": round(summary.run_audio_seconds, 1),
            "seconds": round(time.monotonic() - self._began, 1),
        }
        self._lease.update(done)
        failed = {status: row[status] for status in sorted(FAILED_STATUSES) if row[status]}
        events.tell(self._job.run_id, "committed", {"unit": row["unit_name"], **done, **failed})
        self._on_commit(row["rows"], row["duration"])
        return taken

    def settle(self, publish: Publish, export: formats.ExportParts = formats.export_here) -> None:
        """All units have been done: check that, publish them as the table, write other formats, count.

        Args:
            publish: does so.
            export: does the parts of other formats.

        Raises:
            IncompleteRunError: a unit is not there.
            LeaseLostError: another run has taken the output over.
        """
        job, options = self._job, self._job.config.output
        self._lease.confirm()
        plans = list_plans(job.output)
        commits = list_commits(job.output, plans)
        missing = pending_units(plans, commits)
        if missing:
            raise IncompleteRunError(
                f"{len(missing)} units of work are not in {job.output}, {unit_name(*missing[0])} for one"
            )
        remove_covered(job.output, plans)
        unpublished = {commit.plan for commit in commits if not commit.published}
        for plan in plans:
            if plan.number in unpublished:
                self._publish(plan, plans, publish)
        self._lease.confirm()
        self._on_finish("writing files of other formats", 0, None)
        formats.export(job.output, formats.formats_to_write(job.record, options.formats), export, job.further)
        self._on_finish("counting", 0, None)
        self._summary.totals = count_results(job.output, plans, list_commits(job.output, plans))
        self._stop_clock()
        self._lease.confirm()
        self._record("finished")
        tidy_output(job.output)
        events.tell(job.run_id, "finished", {"rows": self._summary.rows_done, **self._summary.totals.statuses})

    def _stop_clock(self) -> None:
        self._summary.wall_seconds = time.monotonic() - self._began
        self._stopwatch.stop(time.time())

    def _publish(self, plan: Plan, plans: Sequence[Plan], publish: Publish) -> None:
        """Make the commits of a plan files of the table, once those of the plans before it are."""
        job, options = self._job, self._job.config.output
        commits = list_commits(job.output, plans)
        groups = find_groups([commit for commit in commits if commit.plan == plan.number], plan, options.rows_per_file)
        placed: frozenset[str] = frozenset()
        if plan.kind == "retry":
            self._lease.confirm()
            earlier = [commit for commit in commits if commit.plan < plan.number]
            again = [commit for group in groups for commit in group]
            placed = replace_rows(job.output, earlier, again, options.compression)
        done = 0
        for some in _batches(groups):
            self._lease.confirm()
            self._on_finish("publishing", done, len(groups))
            publish(job.output, some, options.compression, placed)
            done += len(some)

    def _record(self, state: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        summary = {**asdict(self._summary), "totals": self._summary.totals.record()}
        result = {"summary": summary} if state == "finished" else {}
        write_run(
            self._job.output, {**self._job.record, "engine": self._job.engine, "state": state, "updated": now, **result}
        )


def _batches(groups: Sequence[Sequence[Commit]]) -> Iterator[Sequence[Sequence[Commit]]]:
    for begin in range(0, len(groups), _PUBLISHED_AT_ONCE):
        yield groups[begin : begin + _PUBLISHED_AT_ONCE]


def publish_here(output: str, groups: Iterable[Sequence[Commit]], compression: str, without: frozenset[str]) -> None:
    """Publish commits in this process."""
    for group in groups:
        publish_commits(output, group, compression, without)
