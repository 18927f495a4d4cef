"""A tokenizing done: units into the files of a table or into parts beside it, then what is exported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from sdhubert_ray import events, storage
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import (
    Lease,
    LeaseLostError,
    fingerprint,
    read_run,
    write_run,
)
from sdhubert_ray.output.usage import UnitUsage
from sdhubert_ray.runs.devices import cluster_device, local_device
from sdhubert_ray.runs.session import IncompleteRunError
from sdhubert_ray.runs.stages import AssignUnits
from sdhubert_ray.tokenizing.exporting import begin, export
from sdhubert_ray.tokenizing.planning import SHA256, TokenizeJob

OnRows = Callable[[int], None]
"""Told of each file whose rows have their units: the rows that were given them now."""
Count = Callable[[pa.Table], str]
"""Takes in the report of a file, and tells its name."""
Assign = Callable[[str | None, Count], None]
"""Gives units to all files, in place or into a folder of parts, and hands over the report of each."""


@dataclass
class Tokenized:
    """What a run found and did.

    Attributes:
        usage: of the units of all recordings.
        rows_done: rows that this run has given units.
        files_done_before: files of the table whose rows had them from a run that was interrupted.
    """

    usage: UnitUsage
    rows_done: int = 0
    files_done_before: int = 0


def run_tokenizing(job: TokenizeJob, on_rows: OnRows, on_recording: Callable[[], None] = lambda: None) -> Tokenized:
    """Give units to a table, write sequences, and count.

    Args:
        job: as it was planned.
        on_rows: told of each file that has its units.
        on_recording: told of each recording that is counted, and written as a sequence.

    Raises:
        IncompleteRunError: the run could not finish; what is done stays, and the same call goes on.
        BusyError: another run is at work on the folder that is written into.
        UserError: there is no such device or cluster, or the folder cannot be written; nothing was done.
    """
    if not job.to_do:
        return _run(job, None, on_rows, on_recording)
    if job.engine == "local":
        job = replace(job, device=local_device(job.device))
        return _run(job, partial(_assign_here, job), on_rows, on_recording)
    from sdhubert_ray.runs.connect import connected

    with connected(job.address):
        job = replace(job, device=cluster_device(job.device, grows=job.address is not None))
        return _run(job, partial(_assign_on_ray, job), on_rows, on_recording)


def _run(job: TokenizeJob, assign: Assign | None, on_rows: OnRows, on_recording: Callable[[], None]) -> Tokenized:
    done = Tokenized(UnitUsage(job.quantizer.num_units))
    lease = Lease(job.home, job.run_id)

    def count(report: pa.Table) -> str:
        lease.check()
        row: dict[str, Any] = report.to_pylist()[0]
        done.rows_done += row["rows"]
        done.files_done_before += row["done"]
        lease.update({"rows": done.rows_done})
        _tell(job, "tokenized", {"file": row["name"], "rows": row["rows"]})
        on_rows(row["rows"])
        return str(row["name"])

    try:
        if read_run(job.segments) != job.record:
            raise BusyError(f"output {job.segments} was changed by another run just now")
        _tell(job, "started", {"files": len(job.commits)})
        begin(job)
        if assign is not None and job.target is None:
            _begin(job)
            assign(None, count)
            lease.check()
            _end(job)
        elif assign is not None:
            assign(job.parts, count)
        lease.check()
        export(job, done.usage, on_recording)
        _tell(job, "finished", {"rows": done.rows_done, "tokens": done.usage.rates().tokens})
    except (UserError, storage.TransientError, LeaseLostError) as error:
        raise IncompleteRunError(str(error)) from error
    finally:
        lease.release()
    return done


def _begin(job: TokenizeJob) -> None:
    """Note in the run record what is under way, before any file is touched: no run may add rows until it has ended."""
    config = {**job.record["config"], "quantizer": None}
    marks = {key: value for key, value in job.record["fingerprint"].items() if key != SHA256}
    under_way = {"sha256": job.sha256, "name": job.name}
    _write_record(job, {**job.record, "config": config, "fingerprint": marks, "tokenizing": under_way})


def _end(job: TokenizeJob) -> None:
    """Make the run record what it would be had `segment` been given the quantizer."""
    record = {key: value for key, value in job.record.items() if key != "tokenizing"}
    config = {**job.record["config"], "quantizer": job.name}
    marks = {**job.record["fingerprint"], **fingerprint({"quantizer": {"sha256": job.sha256}})}
    _write_record(job, {**record, "config": config, "quantizer": job.quantizer.identity(), "fingerprint": marks})


def _write_record(job: TokenizeJob, record: Mapping[str, object]) -> None:
    write_run(job.segments, {**record, "updated": datetime.now(UTC).isoformat(timespec="seconds")})


def _assign_here(job: TokenizeJob, parts: str | None, count: Count) -> None:
    stage = AssignUnits(lambda: job.quantizer, job.sha256, job.device, job.segments, job.run_id, job.compression, parts)
    for commit in job.commits:
        count(stage(pa.table({"name": [commit.name]})))


def _assign_on_ray(job: TokenizeJob, parts: str | None, count: Count) -> None:
    from ray.exceptions import RayError

    from sdhubert_ray.runs.connect import explain
    from sdhubert_ray.runs.pipeline import build_tokenize_pipeline
    from sdhubert_ray.runs.watch import StallWatch

    left = dict.fromkeys(commit.name for commit in job.commits)
    try:
        while left:
            files = build_tokenize_pipeline(
                [*left], job.quantizer, job.device, job.segments, job.run_id, job.compression, parts
            )
            with StallWatch() as watch:
                for report in files.iter_batches(batch_size=None, batch_format="pyarrow"):
                    watch.moved()
                    del left[count(report)]
            if not watch.stalled:
                return
    except RayError as error:
        raise IncompleteRunError(explain(error)) from error


def _tell(job: TokenizeJob, event: str, fields: Mapping[str, object]) -> None:
    events.tell(job.run_id, event, {"output": job.home, "engine": job.engine, **fields})
