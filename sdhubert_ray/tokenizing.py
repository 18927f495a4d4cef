"""Units for the segments of an output that is there: into its table, and as sequences for unit language models."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa

from sdhubert_ray import events, storage
from sdhubert_ray.audio import FRAME_RATE
from sdhubert_ray.config import DEVICES
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.execute import check_engine, local_device
from sdhubert_ray.formats import SequenceOptions, UnitSequence, name_files, read_sequence, write_sequences
from sdhubert_ray.formats.sequences import SEQUENCE_COLUMNS, SINGLE_FILES
from sdhubert_ray.output import (
    Commit,
    Lease,
    LeaseLostError,
    fingerprint,
    list_commits,
    list_plans,
    pending_units,
    read_commit,
    read_files,
    read_plan,
    read_run,
    write_run,
)
from sdhubert_ray.output.commits import commit_schema, read_parquet
from sdhubert_ray.output.record import RUN_RECORD
from sdhubert_ray.output.usage import UnitUsage
from sdhubert_ray.quantizer import Quantizer
from sdhubert_ray.session import IncompleteRunError
from sdhubert_ray.stages import AssignUnits
from sdhubert_ray.tables import FAILED_STATUSES

ON_RAY_BYTES = 1 << 30
"""A smaller table gets its units without Ray, unless told otherwise."""
STATISTICS = "units.json"
_SEQUENCES, _PARTS = "units", "parts"
_SHA256 = "quantizer.sha256"
_FILES_KEPT = 4

Progress = Callable[[int], None]
"""Told of each file whose rows have their units: the rows that were given them now."""
Count = Callable[[pa.Table], str]
"""Takes in the report of a file, and tells its name."""
Assign = Callable[[str | None, Count], None]
"""Gives units to all files, in place or into a folder of parts, and hands over the report of each."""


@dataclass(frozen=True)
class TokenizeJob:
    """A table to be given units, checked and not begun: nothing is written yet.

    Attributes:
        run_id: unique to this run.
        segments: the output whose segments get units, absolute.
        target: where sequences and statistics go; None: into `segments`, whose table gets the units.
        quantizer: that gives them.
        sha256: its digest.
        name: where it is, absolute.
        record: the run record of `segments`.
        commits: its files.
        to_do: whether units have to be found: they are not in the table.
        replaces: whether sequences and statistics that are there are of other units.
        sequences: what is exported.
        names: of the files of recordings, by id, where `sequences` has any.
        engine: `local` or `ray`.
        address: of a Ray cluster, or None.
        device: `auto`, `cpu` or `cuda`.
    """

    run_id: str
    segments: str
    target: str | None
    quantizer: Quantizer
    sha256: str
    name: str
    record: Mapping[str, Any]
    commits: Sequence[Commit]
    to_do: bool
    replaces: bool
    sequences: SequenceOptions
    names: Mapping[str, str]
    engine: str
    address: str | None
    device: str

    @property
    def written(self) -> str:
        """The folder that is written into."""
        return self.segments if self.target is None else self.target

    @property
    def sequences_folder(self) -> str:
        """The folder of the sequences."""
        return storage.join(self.segments, _SEQUENCES) if self.target is None else self.target

    @property
    def statistics(self) -> str:
        """The file of the statistics."""
        return storage.join(self.written, STATISTICS)

    @property
    def compression(self) -> str:
        """The Parquet codec of the table."""
        return str(self.record["config"]["output"]["compression"])


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


def prepare_tokenizing(
    segments: str,
    quantizer: Quantizer,
    name: str,
    sequences: SequenceOptions | None = None,
    *,
    target: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    address: str | None = None,
    overwrite: bool = False,
) -> TokenizeJob:
    """Check everything that can be checked before work begins.

    Args:
        segments: an output of `segment` or `resegment` whose run has finished.
        quantizer: that gives units.
        name: the path or URI that it was loaded from.
        sequences: what is exported; none: nothing.
        target: a folder for sequences and statistics; `segments` is then only read. Without one its table gets units.
        device: `auto`, `cpu` or `cuda`.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        overwrite: replace units of another quantizer, or what was exported of them.

    Raises:
        UserError: anything that the caller has to mend.
    """
    check_engine(engine, address)
    if device not in DEVICES:
        raise UserError(f"device is {device!r}; it has to be one of {', '.join(DEVICES)}")
    segments, name, sha256 = storage.absolute(segments).rstrip("/"), storage.absolute(name), quantizer.sha256
    record = _read_finished(segments)
    commits = list_commits(segments)
    there = None if "tokenizing" in record else record["fingerprint"].get(_SHA256)
    to_do = there != json.dumps(sha256)
    if to_do:
        _check_features(segments, record, commits, quantizer, name)
    replaces = to_do
    if target is None:
        _check_replaced(segments, record, sha256, name, overwrite)
    else:
        target = storage.absolute(target).rstrip("/")
        replaces = _check_target(target, segments, sha256, overwrite)
    sequences = sequences or SequenceOptions()
    names: Mapping[str, str] = {}
    if "npy" in sequences.formats:
        tables = (table for plan in list_plans(segments) for table in read_plan(segments, plan, ["id"]))
        names = name_files(dict.fromkeys(file_id for table in tables for file_id in table.column("id").to_pylist()))
    if engine == "auto":
        large = to_do and sum(commit.size for commit in commits) >= ON_RAY_BYTES
        engine = "ray" if address or large else "local"
    return TokenizeJob(
        uuid.uuid4().hex[:12], segments, target, quantizer, sha256, name, record, commits, to_do, replaces, sequences,
        names, engine, address, device,
    )  # fmt: skip


def run_tokenizing(job: TokenizeJob, progress: Progress) -> Tokenized:
    """Give units to a table, write sequences, and count.

    Raises:
        IncompleteRunError: the run could not finish; what is done stays, and the same call goes on.
        BusyError: another run is at work on the folder that is written into.
        UserError: there is no such device or cluster, or the folder cannot be written; nothing was done.
    """
    if not job.to_do:
        return _run(job, None, progress)
    if job.engine == "local":
        job = replace(job, device=local_device(job.device))
        return _run(job, partial(_assign_here, job), progress)
    from sdhubert_ray.connect import cluster_device, connected

    with connected(job.address):
        job = replace(job, device=cluster_device(job.device))
        return _run(job, partial(_assign_on_ray, job), progress)


def _run(job: TokenizeJob, assign: Assign | None, progress: Progress) -> Tokenized:
    done = Tokenized(UnitUsage(job.quantizer.num_units))
    lease = Lease(job.written, job.run_id)

    def count(report: pa.Table) -> str:
        lease.check()
        row: dict[str, Any] = report.to_pylist()[0]
        done.rows_done += row["rows"]
        done.files_done_before += row["done"]
        lease.update({"rows": done.rows_done})
        _tell(job, "tokenized", {"file": row["name"], "rows": row["rows"]})
        progress(row["rows"])
        return str(row["name"])

    try:
        if read_run(job.segments) != job.record:
            raise BusyError(f"output {job.segments} was changed by another run just now")
        _tell(job, "started", {"files": len(job.commits)})
        _remove_earlier(job)
        if assign is not None and job.target is None:
            _begin(job)
            assign(None, count)
            lease.check()
            _end(job)
        elif assign is not None:
            assign(_parts_folder(job), count)
        lease.check()
        _export(job, done.usage)
        _tell(job, "finished", {"rows": done.rows_done, "tokens": done.usage.rates().tokens})
    except (UserError, storage.TransientError, LeaseLostError) as error:
        raise IncompleteRunError(str(error)) from error
    finally:
        lease.release()
    return done


# --- what is refused ------------------------------------------------------------------------------------------------


def _read_finished(segments: str) -> Mapping[str, Any]:
    """The record of a run that has finished. Raises UserError."""
    record = read_run(segments)
    if record is None:
        raise UserError(f"{segments} holds no run; name an output folder of `sdhubert segment`")
    if not isinstance(record.get("config"), dict) or not isinstance(record["config"].get("output"), dict):
        raise UserError(f"{segments} was made by another version of sdhubert_ray; make it again")
    plans = list_plans(segments)
    rows = {plan.number: plan.unit_rows for plan in plans}
    commits = list_commits(segments)
    left = sum(rows[plan][unit] for plan, unit in pending_units(plans, commits))
    # Rows that a half-done tokenizing has lost are made anew by `segment` when the others have their units.
    if "tokenizing" not in record and (left or record.get("state") != "finished"):
        raise UserError(
            f"the run in {segments} has not finished ({left} rows are left); finish it first, by the command that "
            "began it"
        )
    if not commits:
        raise UserError(f"{segments} has no rows to give units to; run `sdhubert segment` into it first")
    return record


def _check_features(
    segments: str, record: Mapping[str, Any], commits: Sequence[Commit], quantizer: Quantizer, name: str
) -> None:
    if record["config"]["output"].get("segment_features") == "none":
        raise UserError(
            f"{segments} keeps no segment features to find units by; make it again with output.segment_features=auto, "
            "or with `sdhubert segment --quantizer`"
        )
    kind = commit_schema(segments, commits[0].name).field("segment_features").type
    width = kind.value_type.list_size
    if width != quantizer.width:
        raise UserError(
            f"quantizer {name} is for features of width {quantizer.width}, those of {segments} have {width}; "
            "choose the quantizer that was made from such features"
        )


def _check_replaced(segments: str, record: Mapping[str, Any], sha256: str, name: str, overwrite: bool) -> None:
    """Units of another quantizer are replaced only if that is asked for."""
    begun = record.get("tokenizing")
    if overwrite:
        return
    if begun is not None and begun["sha256"] != sha256:
        raise UserError(
            f"{segments} is half way to the units of quantizer {begun['name']}; give that one, or --overwrite its units"
        )
    there = record["fingerprint"].get(_SHA256)
    if begun is None and there not in (None, json.dumps(sha256)):
        before = record["config"].get("quantizer")
        raise UserError(
            f"{segments} has the units of quantizer {before}, which is another than {name}; --overwrite them, or name "
            "a folder to export to"
        )


def _check_target(target: str, segments: str, sha256: str, overwrite: bool) -> bool:
    """Whether a folder has sequences of other units, which are to be replaced. Raises UserError."""
    if storage.is_same_folder(target, segments):
        raise UserError(f"output {target} is where the segments are; leave it out, or choose another")
    if storage.exists(target) and not storage.is_folder(target):
        raise UserError(f"output {target} is a file; name a folder")
    if storage.exists(storage.join(target, RUN_RECORD)):
        raise UserError(f"output {target} holds a run of `sdhubert segment`; choose another output")
    uri = storage.join(target, STATISTICS)
    if not storage.exists(uri):
        return False
    if overwrite:
        return True
    try:
        before = json.loads(storage.read_bytes(uri))
        source, name, digest = before["segments"], before["quantizer"]["name"], before["quantizer"]["sha256"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{uri} is no statistics of `sdhubert tokenize`; choose another output") from error
    if (source, digest) != (segments, sha256):
        raise UserError(
            f"output {target} has the units of {source} by quantizer {name}; choose another output, or --overwrite it"
        )
    return False


# --- units into the table -------------------------------------------------------------------------------------------


def _remove_earlier(job: TokenizeJob) -> None:
    """Remove the sequences of other units, and what an interrupted run has left that is not needed."""
    if job.target is not None and not job.to_do:
        storage.remove(_parts_folder(job))
    if job.replaces:
        names = SINGLE_FILES if job.target is not None else (_SEQUENCES,)
        for name in (*names, STATISTICS):
            storage.remove(storage.join(job.written, name))
    elif job.sequences.formats and not _are_alike(job):
        storage.remove_files([storage.join(job.sequences_folder, name) for name in SINGLE_FILES])


def _are_alike(job: TokenizeJob) -> bool:
    """Whether the sequences that are there, if any, are of the same rows and written in the same way."""
    if not storage.exists(job.statistics):
        return True
    before = json.loads(storage.read_bytes(job.statistics))
    wanted = {"dedup": job.sequences.dedup, "durations": job.sequences.durations}
    there = {key: value for key, value in before.get("sequences", {}).items() if key in wanted}
    return before.get("run_id") == job.record.get("run_id") and (there == wanted or not before["sequences"]["formats"])


def _begin(job: TokenizeJob) -> None:
    """Note in the run record what is under way, before any file is touched: no run may add rows until it has ended."""
    config = {**job.record["config"], "quantizer": None}
    marks = {key: value for key, value in job.record["fingerprint"].items() if key != _SHA256}
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
    stage = AssignUnits(lambda: job.quantizer, job.sha256, job.device, job.segments, job.compression, parts)
    for commit in job.commits:
        count(stage(pa.table({"name": [commit.name]})))


def _assign_on_ray(job: TokenizeJob, parts: str | None, count: Count) -> None:
    from ray.exceptions import RayError

    from sdhubert_ray.connect import explain
    from sdhubert_ray.pipeline import build_tokenize_pipeline
    from sdhubert_ray.watch import StallWatch

    left = dict.fromkeys(commit.name for commit in job.commits)
    try:
        while left:
            files = build_tokenize_pipeline([*left], job.quantizer, job.device, job.segments, job.compression, parts)
            with StallWatch() as watch:
                for report in files.iter_batches(batch_size=None, batch_format="pyarrow"):
                    watch.moved()
                    del left[count(report)]
            if not watch.stalled:
                return
    except RayError as error:
        raise IncompleteRunError(explain(error)) from error


def _parts_folder(job: TokenizeJob) -> str:
    return storage.join(job.written, _PARTS)


def _tell(job: TokenizeJob, event: str, fields: Mapping[str, object]) -> None:
    events.tell(job.run_id, event, {"output": job.written, "engine": job.engine, **fields})


# --- sequences and statistics ---------------------------------------------------------------------------------------


def _export(job: TokenizeJob, usage: UnitUsage) -> None:
    """Write the sequences and the statistics, in one pass over the recordings."""
    parts = _parts_folder(job) if job.to_do and job.target is not None else None

    @lru_cache(_FILES_KEPT)  # the pieces of a recording that was tried again are looked up one recording at a time
    def read(name: str) -> pa.Table:
        return _read_units(job.segments, name, parts)

    tables = read_files(job.segments, SEQUENCE_COLUMNS, read=read)
    write_sequences(_counted(tables, usage), job.sequences_folder, job.sequences, job.names)
    storage.put(job.statistics, json.dumps(_statistics(job, usage), indent=1).encode() + b"\n")
    if parts is not None:
        storage.remove(parts)


def _read_units(segments: str, name: str, parts: str | None) -> pa.Table:
    """A file of a table, with the units in it or those of its part."""
    if parts is None:
        return read_commit(segments, name, SEQUENCE_COLUMNS)
    table = read_commit(segments, name, ["key", *SEQUENCE_COLUMNS])
    part: pa.Table = read_parquet(storage.join(parts, name), lambda parquet: parquet.read())
    if not part.column("key").equals(table.column("key")):
        raise UserError(f"{segments} was changed while its units were found; run the same command again")
    return table.set_column(table.column_names.index("units"), "units", part.column("units"))


def _counted(tables: Iterator[pa.Table], usage: UnitUsage) -> Iterator[UnitSequence]:
    """The sequences of recordings that did not fail; all are counted."""
    for table in tables:
        sequence = read_sequence(table)
        if sequence.status in FAILED_STATUSES:
            usage.left_out += 1
            continue
        usage.add(sequence.units, sequence.duration, float(sequence.durations.sum()) / FRAME_RATE)
        yield sequence


def _statistics(job: TokenizeJob, usage: UnitUsage) -> dict[str, object]:
    return {
        "segments": job.segments,
        "run_id": job.record.get("run_id"),
        "quantizer": {"name": job.name, "sha256": job.sha256, "n_units": job.quantizer.num_units},
        "recordings": usage.recordings,
        "left_out": usage.left_out,
        "audio_seconds": usage.audio_seconds,
        "segment_seconds": usage.segment_seconds,
        "units": asdict(usage.rates()),
        "merged": asdict(usage.rates(merged=True)),
        "sequences": asdict(job.sequences),
    }
