"""Run a segmentation job: check and plan it, then do it in this process or on Ray."""

import platform
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.corpus import Listing, name_inputs
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    Commit,
    Contents,
    Plan,
    StagedPlan,
    fingerprint,
    forget_lengths,
    formats,
    open_output,
    plan_name,
    publish_commits,
    read_plan,
    require_contents,
)
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.runs.config import STALL_SECONDS, JobConfig
from sdhubert_ray.runs.devices import cluster_device, local_device
from sdhubert_ray.runs.engines import check_engine, choose_engine, count_workers
from sdhubert_ray.runs.planning import Found, UnitOptions, longest_first, stage_input, stage_retry
from sdhubert_ray.runs.precision import settle_precision, warn_if_slow
from sdhubert_ray.runs.probing import probing_on, remembering
from sdhubert_ray.runs.rate import settle_rate, tune_job
from sdhubert_ray.runs.session import (
    IncompleteRunError,
    Job,
    OnCommit,
    OnFinish,
    Origin,
    Session,
    Summary,
    publish_here,
)
from sdhubert_ray.runs.stages import CutSyllables, InTurn, ReadFeatures, SegmentUnits, WriteSegments
from sdhubert_ray.units import Quantizer

if TYPE_CHECKING:  # transformers takes seconds, in each worker, and much needs no encoder
    import ray.data

    from sdhubert_ray.encoder import Checkpoint
    from sdhubert_ray.runs.watch import RunMetrics, StallWatch

Stage = Callable[[Sequence[Plan], Sequence[Commit], Path], tuple[StagedPlan, Found, str]]
"""Stages in a local folder what an output (its plans, its commits) lacks: the plan, what was found, its kind."""

_PACKAGES = ("sdhubert_ray", "torch", "transformers", "numpy", "pyarrow", "soundfile", "av", "soxr", "ray")


def prepare_job(
    config: JobConfig,
    checkpoint: "Checkpoint",
    source: str | Sequence[str],
    listing: Listing | None,
    output: str,
    *,
    engine: str = "auto",
    address: str | None = None,
    overwrite: bool = False,
    retry: Sequence[str] = (),
) -> Job:
    """Check everything that can be checked before work begins, and plan the work.

    Args:
        config: of the job.
        checkpoint: the weights.
        source: the input, or several, as the run record calls them.
        listing: the recordings in them, which are read once, here; None with `retry`.
        output: a folder, new or of an earlier run of the same configuration.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        overwrite: remove what an earlier run left.
        retry: statuses whose rows are to be done again: `failed`, `missing`, `unreadable`.

    Raises:
        UserError: anything that the caller has to mend.
    """
    _check_choices(engine, address, overwrite, retry)
    inputs = [source] if isinstance(source, str) else source
    for name in inputs if listing is not None else ():
        if storage.is_folder(name) and storage.is_inside(output, name):
            raise UserError(f"output {output} is in the input {name}; choose an output outside of it")
    output = storage.absolute(output)
    going_on = None if overwrite else output
    config = settle_rate(settle_precision(config, None if engine == "local" else address, going_on), going_on)
    made_with = fingerprint(config.identity(checkpoint.sha256))
    features = f"checkpoint {checkpoint.name}"
    config, quantizer = load_quantizer(config, None, features, made_with)

    @cache
    def check_model() -> None:
        """Refuse a wrong checkpoint, quantizer or resampler here, not in a worker; this takes seconds."""
        from sdhubert_ray.encoder.resampling import check_resampler

        check_resampler(config.audio.resampler)
        from sdhubert_ray.encoder.checkpoint import load_model

        width = load_model(checkpoint, config.encoder, "float32", "cpu").hidden_size
        if quantizer is not None:
            quantizer.check_width(width, str(config.quantizer), features)

    lengths = config.audio.piece_seconds, config.resources.unit_seconds, config.resources.unit_rows
    # In process the windows of a unit are what the threads share.
    shortest = 10.0 if engine == "ray" or address else 60.0
    layout = UnitOptions(*lengths, cache(lambda: count_workers(config, engine, address)), shortest)

    def stage(plans: Sequence[Plan], commits: Sequence[Commit], folder: Path) -> tuple[StagedPlan, Found, str]:
        if not plans:
            check_model()  # before what may take minutes
        if listing is not None:
            with probing_on(address) as probe:
                return *stage_input(listing, output, plans, layout, folder, remembering(probe, output)), "input"
        if not plans:
            raise UserError(f"output {output} has no run whose rows could be tried again; leave out --retry")
        return stage_retry(output, plans, commits, retry, layout, folder), Found(), "retry"

    weights = {"name": checkpoint.name, "sha256": checkpoint.sha256, "options": checkpoint.options}
    origin = Origin(name_inputs(inputs), weights, checkpoint, quantizer=quantizer)
    identity = config.identity(checkpoint.sha256, quantizer.sha256 if quantizer else None)
    job = plan_job(config, origin, identity, output, stage, engine=engine, address=address, overwrite=overwrite)
    if job.rows_left:
        try:
            check_model()
        except BaseException:
            job.discard()
            raise
    return job


def load_quantizer(
    config: JobConfig, width: int | None, source: str, made_with: Mapping[str, str]
) -> tuple[JobConfig, Quantizer | None]:
    """Load the quantizer of a configuration, if it has one.

    Args:
        config: of the job.
        width: of the features, if it is known.
        source: what they come from.
        made_with: the fingerprint of what they are made with.

    Returns:
        the configuration with the quantizer's place from any folder, and the quantizer.

    Raises:
        UserError: it cannot be loaded, or is for features of another width, checkpoint or layer.
    """
    if config.quantizer is None:
        return config, None
    quantizer = Quantizer.load(config.quantizer)
    if width is not None:
        quantizer.check_width(width, config.quantizer, source)
    quantizer.check_origin(made_with, config.quantizer, source, config.foreign_quantizer)
    return replace(config, quantizer=storage.absolute(config.quantizer)), quantizer


def plan_job(
    config: JobConfig,
    origin: Origin,
    identity: Mapping[str, object],
    output: str,
    stage: Stage,
    *,
    engine: str,
    address: str | None,
    overwrite: bool,
) -> Job:
    """Look at an output and plan what it lacks. Nothing is written into it yet.

    Args:
        config: of the job.
        origin: what the rows are made from.
        identity: what decides the results.
        output: a folder, absolute.
        stage: finds what the output lacks.
        engine: `auto`, `local` or `ray`.
        address: of a Ray cluster; implies `ray`.
        overwrite: remove what an earlier run left.

    Raises:
        UserError: the output was made with another configuration or from something else, or no choice is possible.
    """
    _check_choices(engine, address, overwrite, ())
    wanted = fingerprint(identity)
    there = open_output(output, wanted, overwrite)
    before = None if overwrite else there
    _check_origin(output, before, origin)
    plans, commits = (before.plans, before.commits) if before else ((), ())
    folder = tempfile.TemporaryDirectory(prefix="sdhubert-")
    try:
        began = time.time()
        staged, found, kind = stage(plans, commits, Path(folder.name))
        listed = time.time()
        run_id = uuid.uuid4().hex[:12]
        job = Job(
            run_id=run_id,
            config=config,
            origin=origin,
            output=output,
            engine=engine,
            address=address,
            plans=plans,
            pending=before.pending if before else (),
            staged=staged,
            kind=kind,
            found=found,
            listed=listed,
            list_seconds=listed - began,
            folder=folder,
            record=_new_record(run_id, config, origin, wanted, before.record if before else None),
            anew=before is None,
            overwrite=overwrite,
        )
        formats.check_free(output, there, _all_rows(job), config.output.formats)  # now rather than after the work
        coming = plan_name(job.next_number, run_id)
        names = [*(plan.name for plan in plans), coming]
        noted = formats.note_formats(before.record if before else None, names, config.output.formats)
        engine, reason = choose_engine(job)
        record = {**job.record, "planning": coming, "formats": noted}
        return tune_job(replace(job, engine=engine, engine_reason=reason, record=record))
    except BaseException as error:
        folder.cleanup()
        if isinstance(error, UserError):
            forget_lengths(output)  # what is refused has written nothing
        raise


def _check_origin(output: str, before: Contents | None, origin: Origin) -> None:
    """Raise UserError where the run that this one goes on with took its rows from something else."""
    if before is not None and before.record.get("features") != origin.features:
        source = before.record.get("features")
        made = f"from the features in {source}" if source else "from audio"
        raise UserError(f"output {output} was made {made}; choose another output, or --overwrite it")


def _new_record(
    run_id: str, config: JobConfig, origin: Origin, wanted: Mapping[str, str], before: Mapping[str, Any] | None
) -> dict[str, object]:
    """What run.json will hold of this run."""
    return {
        "run_id": run_id,
        "runs": before["runs"] + 1 if before else 1,
        "plans": before.get("plans", []) if before else [],
        "input": origin.name,
        "features": origin.features,
        "config": asdict(config),
        "checkpoint": origin.weights,
        "quantizer": None if origin.quantizer is None else origin.quantizer.identity(),
        "fingerprint": wanted,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def run_job(
    job: Job,
    on_commit: OnCommit,
    *,
    on_finish: OnFinish = lambda what, done, total: None,
    stall_seconds: float = STALL_SECONDS,
) -> Summary:
    """Do what is left of a job, and account for every row.

    Args:
        job: as it was planned.
        on_commit: told of each commit.
        on_finish: told of what is done when all units are.
        stall_seconds: how long a cluster that has lost a node may stand still before what is left is planned anew.

    Raises:
        IncompleteRunError: the run could not finish, whatever ended it; what is committed stays.
        BusyError: another run is at work on the output.
        UserError: there is no such device or cluster, or the output cannot be written; nothing was done.
    """
    summary = Summary(job.output, job.engine, rows_done_before=job.num_rows - job.rows_left)
    try:
        if job.engine == "ray" and job.rows_left:
            _run_on_ray(job, summary, on_commit, on_finish, stall_seconds)
        else:
            _run_here(job, summary, on_commit, on_finish)
    finally:
        job.folder.cleanup()
    return summary


def _run_here(job: Job, summary: Summary, on_commit: OnCommit, on_finish: OnFinish) -> None:
    work = _work_here(job) if job.rows_left else None  # else the model need not be loaded
    with Session(job, summary, on_commit, on_finish) as session:
        if work is not None:
            for plan, unit in session.units:
                session.add(work(pa.table({"plan": [plan], "unit": [unit]})))
        session.settle(publish_here)


def _work_here(job: Job) -> Callable[[pa.Table], pa.Table]:
    """What does a unit, in this process."""
    config, checkpoint, quantizer = job.config, job.origin.checkpoint, job.origin.quantizer
    quantize = None if quantizer is None else lambda: quantizer
    if checkpoint is not None:
        device = local_device(config.device)
        warn_if_slow(config.dtype, device)
        return SegmentUnits(lambda: checkpoint, config, device, job.output, job.run_id, quantizer=quantize)
    read = ReadFeatures(str(job.origin.features), job.output, config.dtype)
    cut = CutSyllables(config.segmentation, config.output, quantizer=quantize)
    return InTurn(read, cut, WriteSegments(job.output, config.output.compression, job.run_id))


def _run_on_ray(job: Job, summary: Summary, on_commit: OnCommit, on_finish: OnFinish, stall_seconds: float) -> None:
    from ray.exceptions import RayError

    from sdhubert_ray.runs.connect import connected, explain
    from sdhubert_ray.runs.watch import RunMetrics, StallWatch

    with connected(job.address):
        metrics = RunMetrics(job.run_id)
        build = _pipeline_builder(job)
        with Session(job, summary, on_commit, on_finish) as session:
            try:
                while units := longest_first(require_contents(job.output)):
                    with StallWatch(stall_seconds) as watch:
                        _do_units(build(units), session, metrics, watch)
                    if not watch.stalled:
                        break
                session.settle(_publish_on_ray, _export_on_ray)
            except RayError as error:
                raise IncompleteRunError(explain(error)) from error


def _do_units(pipeline: "ray.data.Dataset", session: Session, metrics: "RunMetrics", watch: "StallWatch") -> None:
    """Run a pipeline, and take in each report of a commit when it comes."""
    for report in pipeline.iter_batches(batch_size=None, batch_format="pyarrow"):
        metrics.add(report)
        watch.moved(session.add(report))


def _pipeline_builder(job: Job) -> Callable[[Sequence[tuple[str, int]]], "ray.data.Dataset"]:
    """What chains the stages of a job over units, for the cluster as it is when called."""
    from sdhubert_ray.runs.pipeline import build_pipeline, build_resegment_pipeline

    checkpoint, quantizer = job.origin.checkpoint, job.origin.quantizer
    if checkpoint is None:
        features = str(job.origin.features)
        return lambda units: build_resegment_pipeline(units, features, job.config, job.output, job.run_id, quantizer)
    config = replace(job.config, device=cluster_device(job.config.device, grows=job.address is not None))
    return lambda units: build_pipeline(units, checkpoint, config, job.output, job.run_id, quantizer)


def _publish_on_ray(output: str, groups: Sequence[Sequence[Commit]], compression: str, without: frozenset[str]) -> None:
    import ray

    publish = ray.remote(publish_commits)
    ray.get([publish.remote(output, list(group), compression, without) for group in groups])


def _export_on_ray(output: str, names: Sequence[str], parts: Sequence[formats.ExportPart]) -> None:
    import ray

    export = ray.remote(formats.export_part)
    ray.get([export.remote(output, names, part) for part in parts])


def _check_choices(engine: str, address: str | None, overwrite: bool, retry: Sequence[str]) -> None:
    check_engine(engine, address)
    unknown = sorted(set(retry) - FAILED_STATUSES)
    if unknown:
        raise UserError(f"--retry is {unknown[0]!r}; it has to be one of {', '.join(sorted(FAILED_STATUSES))}")
    if retry and overwrite:
        raise UserError("--retry does rows of an output again, --overwrite removes them; leave out one")


def planned_ids(job: Job) -> Iterator[str]:
    """The ids of all recordings that a job's output will have; of one in several pieces more than once."""
    for rows in _all_rows(job):
        yield from rows.column("id").to_pylist()


def _all_rows(job: Job) -> Iterator[pa.Table]:
    columns = [*formats.NAMING_COLUMNS]
    for plan in job.plans:
        yield from read_plan(job.output, plan, columns)
    for path in job.staged.parts:
        yield pa.parquet.read_table(path, columns=columns)
