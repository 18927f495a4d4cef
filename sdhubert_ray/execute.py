"""Run a segmentation job: connect, resume, run, reconcile, summarise."""

import contextlib
import logging
import os
import platform
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray import formats, storage
from sdhubert_ray.checkpoint import Checkpoint, load_model
from sdhubert_ray.config import JobConfig
from sdhubert_ray.errors import UserError
from sdhubert_ray.manifest import Listing, cut_pieces, split_units
from sdhubert_ray.output import (
    clear_output,
    committed_uris,
    fingerprint,
    list_commits,
    open_output,
    read_commit,
    worst_status,
    write_run,
)
from sdhubert_ray.stages import CutSyllables, DecodeAudio, EncodeSpeech, WriteSegments
from sdhubert_ray.tables import FAILED_STATUSES, STAGES

IN_PROCESS_SECONDS = 600.0
"""Less audio than this is segmented without Ray, unless told otherwise."""
ENGINES = ("auto", "local", "ray")

_PACKAGES = ("sdhubert_ray", "torch", "transformers", "numpy", "pyarrow", "soundfile", "soxr", "ray")
_LISTED_FAILURES = 1000
_CONNECT_SECONDS = 5.0

Progress = Callable[[int, float], None]
"""Told of each commit: rows and seconds of audio in it."""


class IncompleteRunError(Exception):
    """A run that could not finish; the same command resumes it (exit code 1)."""


@dataclass
class Summary:
    """What a run found and did.

    Attributes:
        output: the folder.
        engine: `local` or `ray`.
        num_files: recordings in the output.
        statuses: recordings by status.
        failures: (id, status, error) of recordings that failed, the first thousand.
        audio_seconds: audio in the output, seconds.
        speech_seconds: the part of it within syllables.
        num_syllables: in the output.
        rows_done_before: rows that an earlier run had committed.
        rows_done: rows that this run committed.
        run_audio_seconds: audio that this run went through.
        wall_seconds: how long this run took.
        stage_seconds: work per stage in this run, summed over workers.
        ignored: files of the input folder that are no audio.
    """

    output: str
    engine: str
    num_files: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    audio_seconds: float = 0.0
    speech_seconds: float = 0.0
    num_syllables: int = 0
    rows_done_before: int = 0
    rows_done: int = 0
    run_audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    ignored: int = 0

    @property
    def num_failed(self) -> int:
        """Recordings that are unreadable, missing or failed."""
        return sum(count for status, count in self.statuses.items() if status in FAILED_STATUSES)


@dataclass(frozen=True)
class Job:
    """A job that has been checked and not begun: nothing is written yet.

    Attributes:
        config: with the device resolved.
        checkpoint: the weights.
        output: absolute.
        listing: the input.
        manifest: its rows, pieces cut.
        remaining: the rows that no earlier run has committed.
        record: what run.json will hold.
        engine: `local` or `ray`.
        address: of a cluster, or None.
        anew: what earlier runs left is removed when work begins.
    """

    config: JobConfig
    checkpoint: Checkpoint
    output: str
    listing: Listing
    manifest: pa.Table
    remaining: pa.Table
    record: dict[str, object]
    engine: str
    address: str | None
    anew: bool


def prepare_job(
    config: JobConfig,
    checkpoint: Checkpoint,
    source: str,
    listing: Listing,
    output: str,
    *,
    engine: str = "auto",
    address: str | None = None,
    overwrite: bool = False,
) -> Job:
    """Check everything that can be checked before work begins.

    Args:
        config: of the job.
        checkpoint: the weights.
        source: what the input is called in the run record.
        listing: the recordings in it.
        output: a folder, new or of an earlier run of the same configuration.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        overwrite: remove what an earlier run left.

    Raises:
        UserError: anything that the caller has to mend.
    """
    if engine not in ENGINES:
        raise UserError(f"engine is {engine!r}; it has to be one of {', '.join(ENGINES)}")
    if engine == "local" and address:
        raise UserError("the local engine uses no cluster; leave out --address, or take --engine ray")
    load_model(checkpoint, config.encoder, "float32", "cpu")  # a wrong checkpoint is refused here, not in a worker
    manifest = cut_pieces(listing.table, config.audio.piece_seconds)
    output = storage.absolute(output)
    identity = fingerprint(config.identity(checkpoint.sha256))
    before = open_output(output, identity, overwrite)
    if {"files", "textgrid"} & set(config.output.formats):
        formats.name_files(listing.table.column("id").to_pylist())  # refused now rather than after the work
    done = committed_uris(output) if before else {}
    _check_same_sources(manifest, done, output)
    remaining = manifest.filter(pc.invert(pc.is_in(manifest.column("key"), pa.array(list(done), pa.string()))))
    known = pc.sum(pc.fill_null(remaining.column("duration"), 0.0)).as_py() or 0.0
    if engine == "auto":
        engine = "ray" if address or known >= IN_PROCESS_SECONDS else "local"
    record: dict[str, object] = {
        "runs": before["runs"] + 1 if before else 1,
        "input": source,
        "config": asdict(config),
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "fingerprint": identity,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
    return Job(config, checkpoint, output, listing, manifest, remaining, record, engine, address, before is None)


def run_job(job: Job, progress: Progress) -> Summary:
    """Do what is left of a job, and account for every row.

    Raises:
        IncompleteRunError: a worker or the cluster was lost for good; what is committed stays.
        UserError: the output cannot be written, or there is no such device or cluster.
    """
    began = time.perf_counter()
    summary = Summary(job.output, job.engine, ignored=job.listing.ignored)
    summary.rows_done_before = job.manifest.num_rows - job.remaining.num_rows
    try:
        if job.remaining.num_rows:
            _run_remaining(job, summary, progress)
        formats.export(job.output, job.config.output.formats)
        _summarise(summary)
        summary.wall_seconds = time.perf_counter() - began
        _record(job, "finished", summary)
    except UserError as error:
        if not summary.rows_done:
            raise
        raise IncompleteRunError(str(error)) from error  # such as a disk that is full: what is committed stays
    return summary


def _run_remaining(job: Job, summary: Summary, progress: Progress) -> None:
    reports = _run_ray(job) if job.engine == "ray" else _run_local(job)
    for report in reports:
        summary.rows_done += report.num_rows
        for stage in STAGES:
            summary.stage_seconds[stage] += pc.sum(report.column(f"{stage}_seconds")).as_py()
        seconds = pc.sum(report.column("duration")).as_py()
        summary.run_audio_seconds += seconds
        progress(report.num_rows, seconds)
    missing = set(job.manifest.column("key").to_pylist()) - set(committed_uris(job.output))
    if missing:
        raise IncompleteRunError(f"{len(missing)} rows are not in {job.output}, {min(missing)} for one")


def _check_same_sources(manifest: pa.Table, done: Mapping[str, str], output: str) -> None:
    """Another recording of the same id must not pass for one that is done."""
    for row in manifest.select(["key", "id", "uri"]).to_pylist() if done else ():
        before = done.get(row["key"], row["uri"])
        if before != row["uri"]:
            raise UserError(
                f"output {output} has recording {row['id']!r} from {before}, the input now has {row['uri']}; "
                "choose another output, or --overwrite it"
            )


def _run_local(job: Job) -> Iterator[pa.Table]:
    config = replace(job.config, device=_local_device(job.config.device))
    decode = DecodeAudio(config.audio, config.windows)
    encode = EncodeSpeech(
        lambda: job.checkpoint,
        config.windows,
        config.encoder,
        config.dtype,
        config.device,
        config.resources.batch_seconds,
    )
    cut = CutSyllables(config.segmentation, config.output)
    _begin(job)
    write = WriteSegments(job.output, _run_number(job), config.output)
    for unit in _units(job):
        yield write(cut(encode(decode(unit))))


def _run_ray(job: Job) -> Iterator[pa.Table]:
    import ray
    from ray.exceptions import RayError

    from sdhubert_ray.pipeline import build_pipeline

    with _connected(job.address):
        on_cluster = replace(job.config, device=_cluster_device(job.config.device))
        _begin(job)
        pipeline = build_pipeline(list(_units(job)), job.checkpoint, on_cluster, job.output, _run_number(job))
        try:
            yield from pipeline.iter_batches(batch_size=None, batch_format="pyarrow")
        except RayError as error:
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            if isinstance(cause, UserError):
                raise cause from error
            raise IncompleteRunError(f"Ray gave up: {str(cause or error).strip().splitlines()[-1]}") from error


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Join the cluster at `address`, or the one this process is in already, or start one on this machine."""
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    if ray.is_initialized():
        yield
        return
    if address:
        _check_reachable(address)
    try:
        if address:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        else:
            # Two at least: the encoder holds one CPU for good, the other stages share the rest.
            cpus = max(2, os.cpu_count() or 2)
            ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise UserError(f"{where} cannot be reached ({str(error).strip().splitlines()[0]})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries a dead address for minutes."""
    host, separator, port = address.rpartition("://")[2].partition(":")
    if not separator or not port.isdigit():
        return  # `auto`, or something else that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"the Ray cluster at {address} cannot be reached ({error.strerror or error})") from error


def _local_device(device: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch sees no GPU here; take --device cpu, or install a CUDA torch")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _cluster_device(device: str) -> str:
    import ray

    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1  # type: ignore[no-untyped-call]
    if device == "cuda" and not has_gpu:
        raise UserError("device is cuda, but no node of the cluster has a GPU; take --device cpu")
    return ("cuda" if has_gpu else "cpu") if device == "auto" else device


def _units(job: Job) -> Iterator[pa.Table]:
    return split_units(job.remaining, job.config.resources.unit_seconds, job.config.resources.unit_rows)


def _run_number(job: Job) -> int:
    number = job.record["runs"]
    if not isinstance(number, int):
        raise TypeError(f"run number is {number!r}")
    return number


def _begin(job: Job) -> None:
    """Everything is there: only now the output changes."""
    if job.anew:
        clear_output(job.output)
    _record(job, "running", None)


def _record(job: Job, state: str, summary: Summary | None) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    result = {"summary": asdict(summary)} if summary else {}
    write_run(job.output, {**job.record, "engine": job.engine, "state": state, "updated": now, **result})


def _summarise(summary: Summary) -> None:
    """Count the whole output, by what is committed in it."""
    statuses: dict[str, str] = {}
    errors: dict[str, str] = {}
    for name in list_commits(summary.output):
        table = read_commit(summary.output, name, ["id", "status", "error", "duration", "segments"])
        summary.audio_seconds += pc.sum(table.column("duration")).as_py() or 0.0
        flat = pc.list_flatten(table.column("segments"))
        summary.num_syllables += len(flat)
        if len(flat):
            lengths = pc.subtract(pc.struct_field(flat, "end"), pc.struct_field(flat, "start"))
            summary.speech_seconds += pc.sum(lengths).as_py()
        rows = zip(*(table.column(column).to_pylist() for column in ("id", "status", "error")), strict=True)
        for file_id, status, error in rows:
            statuses[file_id] = worst_status((statuses.get(file_id, status), status))
            if error and status == statuses[file_id]:
                errors[file_id] = error
    summary.num_files = len(statuses)
    summary.statuses = dict(Counter(statuses.values()))
    failed = [(name, status, errors.get(name, "")) for name, status in statuses.items() if status in FAILED_STATUSES]
    summary.failures = sorted(failed)[:_LISTED_FAILURES]
