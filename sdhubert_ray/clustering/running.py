"""A clustering from beginning to end: sample, k-means, Ward's reduction, files; what is done already is left out."""

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sdhubert_ray import events, storage
from sdhubert_ray.clustering.planning import SETTINGS, ClusterJob, look_into, read_json, write_json
from sdhubert_ray.clustering.sampling import (
    SAMPLE_FILE,
    SAMPLE_FOLDER,
    SampleLots,
    choose_limits,
    join_reports,
    lot_table,
    make_lots,
)
from sdhubert_ray.clustering.shards import Sample
from sdhubert_ray.clustering.state import STATE, FitState, read_state, write_state
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import Lease, LeaseLostError
from sdhubert_ray.runs.session import IncompleteRunError
from sdhubert_ray.units.quantizer import CARD, TENSORS, Quantizer, write_sklearn

if TYPE_CHECKING:  # torch takes seconds, and what is done already needs none
    from sdhubert_ray.clustering.engines import Engine
    from sdhubert_ray.clustering.memory import Budget

_SAMPLE = "sample.json"
_PACKAGES = ("sdhubert_ray", "torch", "numpy", "scikit-learn", "scipy", "ray")

OnStep = Callable[[str, int, int, float | None], None]
"""Told of each step: its phase (`sample`, `k-means`, `ward`), how many are done, of how many, the inertia per vector.

The inertia is that of k-means; None where there is none.
"""


@dataclass
class Clustered:
    """What came of a clustering.

    Attributes:
        quantizer: as it was written.
        files: that were written.
        seconds: of this run, by phase.
        notes: what has turned out on the way.
    """

    quantizer: Quantizer | None = None
    files: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_clustering(job: ClusterJob, on_step: OnStep) -> Clustered:
    """Do what is left of a clustering.

    Raises:
        IncompleteRunError: it could not finish; the same command goes on from where it was.
        BusyError: another run is at work on the output.
        UserError: there is no such device or cluster, or too little memory, or the output cannot be written.
    """
    if job.finished:
        return _run(job, None, on_step)
    if job.engine == "local":
        from sdhubert_ray.clustering.engines import LocalEngine

        return _run(job, LocalEngine(job.workers), on_step)
    from ray.exceptions import RayError

    from sdhubert_ray.clustering.remote import RayEngine
    from sdhubert_ray.runs.connect import connected, explain

    with connected(job.address):
        try:
            return _run(job, RayEngine(job.workers, job.work), on_step)
        except RayError as error:
            raise IncompleteRunError(explain(error)) from error


def _run(job: ClusterJob, engine: "Engine | None", on_step: OnStep) -> Clustered:
    done = Clustered()
    if engine is not None:  # refused now rather than after the work
        engine.plan(job.options, job.sample_size, job.source.width, None, seeded=False)
    lease = Lease(job.output, job.run_id)
    try:
        if not job.overwrite:
            look_into(job.output, job.settings)  # again: another run may have been there since
        _work(job, engine, lease, on_step, done)
    finally:
        lease.release()
    return done


def _work(job: ClusterJob, engine: "Engine | None", lease: Lease, on_step: OnStep, done: Clustered) -> None:
    try:
        events.tell(job.run_id, "started", {"output": job.output, "engine": job.engine, "vectors": job.sample_size})
        if job.overwrite:
            _clear(job)
        if engine is not None:
            _make(job, engine, lease, on_step, done)
        else:
            done.quantizer = Quantizer.load(job.output)
        if job.sklearn and done.quantizer is not None:
            done.files += write_sklearn(done.quantizer, job.output)
        _clear_work(job.work)
        events.tell(job.run_id, "finished", {**done.seconds})
    except BaseException as error:
        events.tell(job.run_id, "stopped", {"reason": f"{type(error).__name__}: {error}"})
        if isinstance(error, UserError | storage.TransientError | LeaseLostError):
            raise IncompleteRunError(str(error)) from error
        raise


def _make(job: ClusterJob, engine: "Engine", lease: Lease, on_step: OnStep, done: Clustered) -> None:
    """Sample, k-means, Ward, files."""
    before = read_state(job.work)
    job, budget = _settle(job, engine, before, done)
    with _timed(done, "sample"):
        sample = _take_sample(job, engine, lease, on_step)
    with _timed(done, "k-means"):
        keep = partial(_keep, job, sample.num_vectors, lease, on_step)
        state = engine.fit(sample, job.options, budget, before, keep)
    lease.check()
    with _timed(done, "ward"):
        on_step("ward", 0, 1, None)
        reducer = None
        if job.options.n_units < job.options.n_clusters:
            reducer = engine.reduce(state.centers, job.options.n_units, budget)
        on_step("ward", 1, 1, None)
    quantizer = Quantizer(state.centers, reducer, _card(job, sample, state, budget.seed_vectors))
    lease.check()
    quantizer.save(job.output)
    done.files += [storage.join(job.output, name) for name in (TENSORS, CARD)]
    done.quantizer = Quantizer(state.centers, reducer, quantizer.full_card())
    if state.empty:
        done.notes.append(f"{state.empty} of {job.options.n_clusters} clusters have no vector: too few vectors differ")


def _settle(job: ClusterJob, engine: "Engine", before: FitState | None, done: Clustered) -> "tuple[ClusterJob, Budget]":
    """The job with the size of its sample, and how memory is used: as the run has noted that began it, or noted now."""
    begun = read_json(storage.join(job.work, SETTINGS))
    if begun is not None:
        job = replace(job, sample_size=int(begun["sample_size"]))
    seed_vectors = None if begun is None else int(begun["seed_vectors"])
    budget = engine.plan(job.options, job.sample_size, job.source.width, seed_vectors, seeded=before is not None)
    if budget.seed_vectors < budget.wanted_seed_vectors:
        done.notes.append(
            f"the first centers are chosen from {budget.seed_vectors} vectors instead of {budget.wanted_seed_vectors}, "
            "for lack of memory"
        )
    if begun is None:
        record = {"settings": job.settings, "sample_size": job.sample_size, "seed_vectors": budget.seed_vectors}
        write_json(storage.join(job.work, SETTINGS), record)
    return job, budget


def _keep(job: ClusterJob, num_vectors: int, lease: Lease, on_step: OnStep, state: FitState) -> None:
    """Write down how far k-means has come, and tell it."""
    lease.check()
    write_state(job.work, state)
    event = "seeded" if not state.inertias else "iteration" if state.inertia is None else "measured"
    latest = state.inertias[-1] if state.inertia is None and state.inertias else state.inertia
    value = None if latest is None else latest / num_vectors
    fields = {"iteration": state.iteration, "inertia_per_vector": value, "reseeded": state.reseeded}
    lease.update(fields)
    events.tell(job.run_id, event, fields)
    if event != "measured":
        on_step("k-means", state.iteration, job.options.max_iterations, value)


def _take_sample(job: ClusterJob, engine: "Engine", lease: Lease, on_step: OnStep) -> Sample:
    """The sample that an earlier run has taken, or a new one."""
    uri = storage.join(job.work, _SAMPLE)
    before = read_json(uri)
    if before is not None:
        try:
            return Sample(**{**before, "shards": tuple(before["shards"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"{uri} is damaged ({error}); choose another output, or --overwrite it") from error
    limits = choose_limits(job.source.num_vectors, job.sample_size)
    lots = [lot_table(number, lot) for number, lot in enumerate(make_lots(job.source, limits))]
    stage = SampleLots(job.source.output, job.work, job.options.seed, limits)
    reports: list[dict[str, Any]] = []
    on_step("sample", 0, len(lots), None)
    for report in engine.sample(stage, lots):
        lease.check()
        reports.append(json.loads(report))
        lease.update({"lots": len(reports)})
        on_step("sample", len(reports), len(lots), None)
    sample = join_reports(reports, job.source, limits, job.sample_size)
    lease.check()
    write_json(uri, asdict(sample))
    events.tell(job.run_id, "sampled", {"vectors": sample.num_vectors, "files": len(sample.shards)})
    return sample


def _card(job: ClusterJob, sample: Sample, state: FitState, seed_vectors: int) -> dict[str, object]:
    """What the card of the quantizer tells, but for what it tells by itself."""
    source, inertia = job.source, float(state.inertia or 0.0)
    weights = source.fingerprint.get("checkpoint_sha256")
    return {
        "source": {
            "segments": source.output,
            "run_id": source.run_id,
            "checkpoint_sha256": None if weights is None else json.loads(weights),
            "rows": source.num_rows,
            "rows_left": source.rows_left,
            "rows_failed": source.rows_failed,
            "vectors": source.num_vectors,
        },
        "seed": job.options.seed,
        "num_vectors": sample.num_vectors,
        "seed_vectors": seed_vectors,
        "iterations": state.iteration,
        "converged": state.ended == "converged",
        "inertia": inertia,
        "inertia_per_vector": inertia / sample.num_vectors,
        "inertias": list(state.inertias),
        "reseeded": state.reseeded,
        "empty_clusters": state.empty,
        "settings": job.settings,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def _clear(job: ClusterJob) -> None:
    """Remove what an earlier clustering left. The card goes last: it tells that the rest is ours."""
    storage.remove_files([storage.join(job.output, TENSORS)])
    _clear_work(job.work)
    storage.remove_files([storage.join(job.output, CARD)])


def _clear_work(work: str) -> None:
    """Remove what is needed on the way, the settings last: they tell whose the rest is, should this be interrupted."""
    storage.remove_files([storage.join(work, name) for name in (STATE, _SAMPLE)])
    storage.remove_own(storage.join(work, SAMPLE_FOLDER), SAMPLE_FILE.fullmatch)
    storage.remove_files([storage.join(work, SETTINGS)])
    storage.tidy(work)


@contextlib.contextmanager
def _timed(done: Clustered, phase: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    done.seconds[phase] = round(time.monotonic() - began, 3)
