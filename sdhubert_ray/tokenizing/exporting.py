"""Sequences and statistics of the units of a table, and those of earlier runs that they replace."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import (
    read_commit,
    read_files,
)
from sdhubert_ray.output.formats import UnitSequence, read_sequence, sequence_files, write_sequences
from sdhubert_ray.output.formats.sequences import CARD, SEQUENCE_COLUMNS, SEQUENCE_FORMATS
from sdhubert_ray.output.parquet import read_parquet
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.output.usage import UnitUsage
from sdhubert_ray.speech import FRAME_RATE
from sdhubert_ray.tokenizing.card import write_card
from sdhubert_ray.tokenizing.planning import TokenizeJob, read_statistics

_FILES_KEPT = 4


def begin(job: TokenizeJob) -> None:
    """Note what is going to be written, and remove sequences of other units and what an interrupted run has left.

    Raises:
        BusyError: another run has been there since the job was planned.
    """
    if read_statistics(job.statistics) != job.before:
        raise BusyError(f"output {job.home} was changed by another run just now")
    _put_statistics(job, {"state": "running"}, job.before or {})
    if job.target is not None and not job.to_do:
        remove_parts(job)
    single = {*sequence_files(SEQUENCE_FORMATS)}  # the others are replaced as they are written anew
    gone = job.written if job.replaces else [] if _are_alike(job) else [name for name in job.written if name in single]
    storage.remove_files([storage.join(job.sequences_folder, name) for name in gone])
    storage.tidy(job.sequences_folder)


def remove_parts(job: TokenizeJob) -> None:
    """Remove the files that units have passed through."""
    names = {commit.name for commit in job.commits}
    storage.remove_own(job.parts, names.__contains__)
    storage.tidy(job.parts)


def _are_alike(job: TokenizeJob) -> bool:
    """Whether the sequences that are there, if any, are of the same rows and written in the same way."""
    before = job.before
    if before is None:
        return True
    wanted = {"dedup": job.sequences.dedup, "durations": job.sequences.durations}
    there = {key: value for key, value in before["sequences"].items() if key in wanted}
    same = before.get("run_id") == job.record.get("run_id") and "state" not in before
    return same and (there == wanted or not before["sequences"]["formats"])


def export(job: TokenizeJob, usage: UnitUsage, on_recording: Callable[[], None]) -> None:
    """Write the sequences and the statistics, in one pass over the recordings, each of which is told."""
    parts = job.parts if job.to_do and job.target is not None else None

    @lru_cache(_FILES_KEPT)  # the pieces of a recording that was tried again are looked up one recording at a time
    def read(name: str) -> pa.Table:
        return _read_units(job.segments, name, parts)

    tables = read_files(job.segments, SEQUENCE_COLUMNS, read=read)
    write_sequences(_counted(tables, usage, on_recording), job.sequences_folder, job.sequences, job.names)
    if CARD in job.sequences.formats:
        (name,) = sequence_files([CARD])
        storage.put(storage.join(job.sequences_folder, name), write_card(job, usage))
    _put_statistics(job, _statistics(usage), {} if job.before is None or job.replaces else job.before)
    if parts is not None:
        remove_parts(job)


def _read_units(segments: str, name: str, parts: str | None) -> pa.Table:
    """A file of a table, with the units in it or those of its part."""
    if parts is None:
        return read_commit(segments, name, SEQUENCE_COLUMNS)
    table = read_commit(segments, name, ["key", *SEQUENCE_COLUMNS])
    part: pa.Table = read_parquet(storage.join(parts, name), lambda parquet: parquet.read(use_threads=False))
    if not part.column("key").equals(table.column("key")):
        raise UserError(f"{segments} was changed while its units were found; run the same command again")
    return table.set_column(table.column_names.index("units"), "units", part.column("units"))


def _counted(tables: Iterator[pa.Table], usage: UnitUsage, on_recording: Callable[[], None]) -> Iterator[UnitSequence]:
    """The sequences of recordings that did not fail; all are counted."""
    for table in tables:
        on_recording()
        sequence = read_sequence(table)
        if sequence.status in FAILED_STATUSES:
            usage.left_out += 1
            continue
        usage.add(sequence.units, sequence.duration, float(sequence.durations.sum()) / FRAME_RATE)
        yield sequence


def _put_statistics(job: TokenizeJob, found: Mapping[str, object], kept: Mapping[str, Any]) -> None:
    """Write what was found, and which files there may be: of this run, and those of before that are `kept`."""
    content = {
        "segments": job.segments,
        "run_id": job.record.get("run_id"),
        "quantizer": {"name": job.name, "sha256": job.sha256, "n_units": job.quantizer.num_units},
        **found,
        "sequences": asdict(job.sequences),
        "written": sorted({*kept.get("written", ()), *job.sequences.formats}),
        "plans": sorted({*kept.get("plans", ()), *job.plans}),
    }
    storage.put(job.statistics, json.dumps(content, indent=1).encode() + b"\n")


def _statistics(usage: UnitUsage) -> dict[str, object]:
    return {
        "recordings": usage.recordings,
        "left_out": usage.left_out,
        "audio_seconds": usage.audio_seconds,
        "segment_seconds": usage.segment_seconds,
        "units": asdict(usage.rates()),
        "merged": asdict(usage.rates(merged=True)),
    }
