"""What a run would take and give, tried on a sample of its rows: nothing is written into the output.

The sample goes through the stages of a run. Time and bytes are taken to grow with the seconds of audio.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import formats, publish_plan, read_plan, read_unit, stage_plan, write_commit, write_run
from sdhubert_ray.output.commits import COMMITS_FOLDER
from sdhubert_ray.output.plans import PLANS_FOLDER, UNITS_PER_PART
from sdhubert_ray.output.record import RUN_RECORD
from sdhubert_ray.output.tables import STAGES, STATUSES, UNIT_COLUMNS
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.devices import cluster_device, local_device
from sdhubert_ray.runs.placement import alive_nodes, total
from sdhubert_ray.runs.session import Job
from sdhubert_ray.runs.stages import CutSyllables, DecodeAudio, EncodeSpeech, WriteSegments
from sdhubert_ray.runs.stages.rows import begun
from sdhubert_ray.units import Quantizer

if TYPE_CHECKING:
    from sdhubert_ray.encoder import Checkpoint

SAMPLE_ROWS = 32
SAMPLE_SECONDS = 300.0
"""With this much audio, or more, a sample has enough rows."""
_SEED = 0


@dataclass(frozen=True)
class Trial:
    """What came of a sample.

    Attributes:
        rows: that were tried.
        audio_seconds: in them.
        unknown_rows: of them, those whose duration had not been known.
        unknown_seconds: audio in these.
        statuses: rows by status.
        empty_bytes: of a table without rows.
        table_bytes: of the segments table of the sample.
        file_bytes: of what is written in further formats.
        stage_seconds: work per stage, loading of the model left out.
        encode_cpu_seconds: time of all CPUs that encoding took.
    """

    rows: int
    audio_seconds: float
    unknown_rows: int
    unknown_seconds: float
    statuses: dict[str, int]
    empty_bytes: int
    table_bytes: int
    file_bytes: int
    stage_seconds: dict[str, float]
    encode_cpu_seconds: float


@dataclass(frozen=True)
class WorkerCounts:
    """How many workers there would be, and what they are.

    Attributes:
        engine: `local` or `ray`.
        device: `cpu` or `cuda`.
        encoders: workers that encode.
        others: workers that decode, cut and commit; 0 where the encoders do it.
        gpus: of an encoder on cuda; below 1 several share one.
    """

    engine: str
    device: str
    encoders: int
    others: int
    gpus: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """What the rows that are left would take and give, all of it from a sample.

    Attributes:
        rows: that are left.
        unknown_rows: of them, those whose duration is not known.
        audio_seconds: in them: what is known, and the sample's mean for what is not.
        statuses: rows by status.
        size: bytes of the output.
        workers: of the run.
        cpu_seconds: work on CPUs; None where the sample has no audio.
        gpu_seconds: work on GPUs; None where there is none, or no audio.
        wall_seconds: how long the run would take with these workers; None without audio.
        trial: what this rests on.
    """

    rows: int
    unknown_rows: int
    audio_seconds: float
    statuses: dict[str, int]
    size: float
    workers: WorkerCounts
    cpu_seconds: float | None
    gpu_seconds: float | None
    wall_seconds: float | None
    trial: Trial


def estimate_job(job: Job) -> Estimate:
    """Try a sample of the rows that a job has left, with the engine and device that it would have.

    Raises:
        UserError: there is no such device or cluster, or the sample ends its worker.
    """
    checkpoint = job.origin.checkpoint
    if checkpoint is None:
        raise ValueError("a job on saved features has nothing to encode")
    rows, quantizer = draw_sample(job), job.origin.quantizer
    if job.engine == "ray":
        trial, workers = _try_on_ray(job, checkpoint, rows)
    else:
        device = local_device(job.config.device)
        trial, workers = try_rows(rows, checkpoint, job.config, device, quantizer), WorkerCounts("local", device, 1, 0)
    known_seconds, unknown = _count_left(job)
    return extrapolate(trial, workers, job.rows_left, _units_left(job), known_seconds, unknown)


def draw_sample(job: Job) -> pa.Table:
    """Up to `SAMPLE_ROWS` rows (`MANIFEST_FIELDS` and carried columns), spread over all that is left; in random order.

    The same rows each time, as long as the same is left.
    """
    random = np.random.default_rng(_SEED)
    count = min(SAMPLE_ROWS, job.rows_left)
    # One of each stretch of equal length.
    chosen = np.floor((np.arange(count) + random.random(count)) * job.rows_left / count).astype(np.int64)
    drawn: list[pa.Table] = []
    begin = 0
    for plan, unit, length in _left(job):
        within = chosen[(chosen >= begin) & (chosen < begin + length)] - begin
        if len(within):
            drawn.append(_read_left(job, plan, unit).take(pa.array(within)))
        begin += length
    return pa.concat_tables(drawn, promote_options="permissive").take(pa.array(random.permutation(count)))


def try_rows(
    rows: pa.Table, checkpoint: "Checkpoint", config: JobConfig, device: str, quantizer: Quantizer | None = None
) -> Trial:
    """Put rows through the stages of a run, one after the other until there are `SAMPLE_SECONDS` of audio.

    Args:
        rows: of `draw_sample`.
        checkpoint: the weights.
        config: of the job.
        device: `cpu` or `cuda`.
        quantizer: that gives units, if any does.
    """
    quantize = None if quantizer is None else lambda: quantizer
    with tempfile.TemporaryDirectory(prefix="sdhubert-plan-") as folder:
        output = str(Path(folder) / "output")
        decoded = _decode(_as_unit(rows, output, Path(folder)), config)
        encode = EncodeSpeech.of(lambda: checkpoint, config, device)
        present = decoded.filter(decoded.column("samples").is_valid())
        if present.num_rows:
            encode(present.slice(0, 1))  # a first call sets up what later ones find
        began = time.process_time()
        encoded = encode(decoded)
        cpu_seconds = time.process_time() - began
        table = CutSyllables(config.segmentation, config.output, quantizer=quantize)(encoded)
        report = WriteSegments(output, config.output.compression, None)(table).to_pylist()[0]
        formats.export(output, config.output.formats)
        files = [path for path in Path(output).rglob("*") if path.is_file()]
        own = {COMMITS_FOLDER, PLANS_FOLDER, RUN_RECORD}
        file_bytes = sum(path.stat().st_size for path in files if path.relative_to(output).parts[0] not in own)
        nothing = table.slice(0, 0).drop_columns(UNIT_COLUMNS)
        empty_bytes = write_commit(output, "empty", nothing, config.output.compression)
    unknown = rows.column("duration").is_null().to_pylist()[: decoded.num_rows]
    durations = np.array(decoded.column("duration").to_pylist())
    return Trial(
        rows=decoded.num_rows,
        audio_seconds=float(durations.sum()),
        unknown_rows=sum(unknown),
        unknown_seconds=float(durations[np.array(unknown, bool)].sum()),
        statuses={status: report[status] for status in STATUSES if report[status]},
        empty_bytes=empty_bytes,
        table_bytes=report["size"],
        file_bytes=file_bytes,
        stage_seconds={stage: report[f"{stage}_seconds"] for stage in STAGES},
        encode_cpu_seconds=cpu_seconds,
    )


def extrapolate(
    trial: Trial, workers: WorkerCounts, rows: int, units: int, known_seconds: float, unknown_rows: int
) -> Estimate:
    """What all rows would take, if they are like the sample.

    Args:
        trial: the sample.
        workers: that there would be.
        rows: in all.
        units: that the rows are in.
        known_seconds: audio of the rows whose duration is known.
        unknown_rows: those whose duration is not.
    """
    alike = (trial.unknown_seconds, trial.unknown_rows) if trial.unknown_rows else (trial.audio_seconds, trial.rows)
    seconds = known_seconds + unknown_rows * alike[0] / alike[1]
    times = seconds / trial.audio_seconds if trial.audio_seconds else 0.0
    grown = times or rows / trial.rows
    size = units * trial.empty_bytes + (trial.table_bytes - trial.empty_bytes + trial.file_bytes) * grown
    statuses = {status: max(1, round(count * rows / trial.rows)) for status, count in trial.statuses.items()}
    decode, encode, cut = (trial.stage_seconds[stage] * times for stage in STAGES)
    on_gpu = workers.device == "cuda"
    encode_cpu = 0.0 if on_gpu else max(encode, trial.encode_cpu_seconds * times)
    measured = times > 0
    if workers.others:
        sharing = max(1.0, 1 / workers.gpus) if on_gpu else 1.0  # a GPU of two encoders is as fast as one of one
        wall = max(encode * sharing / workers.encoders, (decode + cut) / workers.others)
    else:
        wall = (decode + encode + cut) / workers.encoders
    return Estimate(
        rows=rows,
        unknown_rows=unknown_rows,
        audio_seconds=seconds,
        statuses=statuses,
        size=size,
        workers=workers,
        cpu_seconds=decode + cut + encode_cpu if measured else None,
        gpu_seconds=encode * max(1.0, workers.gpus) if measured and on_gpu else None,
        wall_seconds=wall if measured else None,
        trial=trial,
    )


def _as_unit(rows: pa.Table, output: str, folder: Path) -> pa.Table:
    """The rows as the one unit of an output of their own."""
    write_run(output, {"fingerprint": {}, "runs": 1})
    plan = publish_plan(output, stage_plan(iter([rows]), folder), 1, "", "input")
    return begun(read_unit(output, plan.name, 0), time.time())


def _decode(rows: pa.Table, config: JobConfig) -> pa.Table:
    decode = DecodeAudio(config.audio, config.windows)
    decoded: list[pa.Table] = []
    seconds = 0.0
    for row in range(rows.num_rows):
        decoded.append(decode(rows.slice(row, 1)))
        seconds += decoded[-1].column("duration")[0].as_py()
        if seconds >= SAMPLE_SECONDS:
            break
    return pa.concat_tables(decoded).combine_chunks()


def _try_on_ray(job: Job, checkpoint: "Checkpoint", rows: pa.Table) -> tuple[Trial, WorkerCounts]:
    """One task on the cluster, with what an encoder would have."""
    import ray
    from ray.exceptions import RayError

    from sdhubert_ray.runs.connect import connected, explain
    from sdhubert_ray.runs.pipeline import plan_encoders

    resources = job.config.resources
    with connected(job.address):
        config = replace(job.config, device=cluster_device(job.config.device, grows=job.address is not None))
        gpus = max(1.0, resources.encode.gpus) if config.device == "cuda" else 0
        task = ray.remote(num_cpus=resources.encode.cpus, num_gpus=gpus, max_retries=0)(try_rows)
        try:
            shared = ray.put(checkpoint), config, config.device, ray.put(job.origin.quantizer)
            trial: Trial = ray.get(task.remote(rows, *shared))
        except RayError as error:
            reason = explain(error)
            raise UserError(f"the sample could not be tried on the cluster ({reason}); run without --plan") from error
        units, nodes = _units_left(job), alive_nodes()
        encoders = int(plan_encoders(config, units, nodes)[0].max_size or 1)
        if config.device == "cpu":
            return trial, WorkerCounts("ray", "cpu", encoders, 0)
        free = int((total(nodes).cpus - encoders * resources.encode.cpus) / resources.decode.cpus)
        others = max(1, min(free, units, resources.decode.workers or free))
    return trial, WorkerCounts("ray", config.device, encoders, others, resources.encode.gpus)


def _left(job: Job) -> Iterator[tuple[str | None, int, int]]:
    """Plan, by name (None: the staged one), unit and rows of all that is left, in order."""
    rows = {plan.name: plan.unit_rows for plan in job.plans}
    for plan, unit in job.pending:
        yield plan, unit, rows[plan][unit]
    for unit, length in enumerate(job.staged.unit_rows):
        yield None, unit, length


def _units_left(job: Job) -> int:
    return len(job.pending) + len(job.staged.unit_rows)


def _read_left(job: Job, plan: str | None, unit: int) -> pa.Table:
    if plan is not None:
        return read_unit(job.output, plan, unit).drop_columns(["unit_name"])
    part, group = divmod(unit, UNITS_PER_PART)
    return pq.ParquetFile(job.staged.parts[part]).read_row_group(group)


def _count_left(job: Job) -> tuple[float, int]:
    """Seconds of the rows that are left and whose duration is known, and how many others there are."""
    known, unknown = 0.0, 0
    for durations in _durations_left(job):
        known += pc.sum(durations).as_py() or 0.0
        unknown += durations.null_count
    return known, unknown


def _durations_left(job: Job) -> Iterator[pa.ChunkedArray]:
    pending = set(job.pending)
    for plan in job.plans:
        lengths = iter(enumerate(plan.unit_rows))
        for part in read_plan(job.output, plan, ["duration"]):
            row = 0
            while row < part.num_rows:
                unit, length = next(lengths)
                if (plan.name, unit) in pending:
                    yield part.column("duration").slice(row, length)
                row += length
    for path in job.staged.parts:
        yield pq.read_table(path, columns=["duration"]).column("duration")
