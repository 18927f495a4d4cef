"""A rate that was asked for: options are tuned to it on a sample of a new output, and stay so."""

import contextlib
import hashlib
import heapq
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import fingerprint, read_run
from sdhubert_ray.output.features import FILE, GROUP, read_features
from sdhubert_ray.output.tables import read_ragged, read_vectors
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.devices import cluster_device, local_device
from sdhubert_ray.runs.session import Job
from sdhubert_ray.runs.stages import DecodeAudio, EncodeSpeech
from sdhubert_ray.speech.audio import FRAME_RATE
from sdhubert_ray.speech.rate import Spoken, rate_keys, tune_rate, with_own_values
from sdhubert_ray.speech.spans import SpeechOptions, find_speech

if TYPE_CHECKING:
    from sdhubert_ray.encoder import Checkpoint

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 600.0
"""Audio of a sample: the rows that make it so long are the last."""
PART_SECONDS = 60.0
"""Of a longer row its beginning is taken: ten recordings tell more than ten minutes of one."""
SAMPLE_ROWS = 512
_ROWS_AT_ONCE = 16


def settle_rate(config: JobConfig, output: str | None) -> JobConfig:
    """Put the values that an output was begun with in their places, where there is a rate to be kept.

    Args:
        config: of a job.
        output: a folder whose rows are gone on with.

    Raises:
        UserError: the record of the output is damaged.
    """
    there = read_run(output) if output and config.rate is not None else None
    keys = rate_keys(config.syllables.segmenter)
    if there is None or not all(key in there["fingerprint"] for key in keys):
        return config
    values = {key: there["fingerprint"][key] for key in keys}
    if there["fingerprint"].get("rate") == json.dumps(config.rate):
        logger.warning("rate %g: %s, as the output was begun with", config.rate, _tell(values))
    named = {key.rpartition(".")[2]: json.loads(value) for key, value in values.items()}
    return replace(config, syllables=with_own_values(config.syllables, named))


def tune_job(job: Job) -> Job:
    """Tune the options of a new output to its rate, on a sample of its rows; other jobs stay as they are.

    What is encoded is encoded here or, with the engine `ray`, by a task of the cluster that has what an encoder has;
    it is cut here.

    Raises:
        UserError: the sample has too little speech, the rate is out of reach, or the cluster cannot encode it.
    """
    rate = job.config.rate
    if rate is None or not job.anew:
        return job
    config, rows = job.config, draw_sample(job.staged.parts)
    with _encoded(job, rows) as sample:
        recordings = find_spoken(sample, config.speech)
        tuned = tune_rate(recordings, config.syllables, rate)
    config = replace(config, syllables=tuned.options)
    untuned: Any = job.record["fingerprint"]
    identity = {**untuned, **fingerprint(config.identity(json.loads(untuned["checkpoint_sha256"])))}
    values = {key: identity[key] for key in rate_keys(config.syllables.segmenter)}
    logger.warning(
        "rate %g: %s; %.2f syllables per second in a sample of %d rows, %.0f s of audio",
        *(rate, _tell(values), tuned.rate, len(recordings), sum(recording.seconds for recording in recordings)),
    )
    return replace(job, config=config, record={**job.record, "config": asdict(config), "fingerprint": identity})


def draw_sample(parts: Sequence[Path]) -> pa.Table:
    """Up to `SAMPLE_ROWS` rows of a staged plan: those of the smallest digests of their keys, in this order.

    So the same recordings give the same sample, in whatever order they are listed.
    """
    keys = (key for path in parts for key in pq.read_table(path, columns=["key"]).column("key").to_pylist())
    wanted = pa.array(heapq.nsmallest(SAMPLE_ROWS, keys, key=_digest), pa.string())
    rows = pa.concat_tables(
        [table.filter(pc.is_in(table.column("key"), wanted)) for table in map(pq.read_table, parts)]
    )
    return rows.take(pc.index_in(wanted, rows.column("key").combine_chunks()))


def encode_sample(rows: pa.Table, checkpoint: "Checkpoint", config: JobConfig, device: str) -> pa.Table:
    """Decode and encode rows of `draw_sample`, one after the other until there are `SAMPLE_SECONDS` of audio.

    Returns:
        what `EncodeSpeech` gives.
    """
    decode = DecodeAudio(config.audio, config.windows)
    decoded: list[pa.Table] = []
    for begin in range(0, rows.num_rows, _ROWS_AT_ONCE):
        decoded.append(decode(_first_parts(rows.slice(begin, _ROWS_AT_ONCE))))
        if sum(pc.sum(table.column("duration")).as_py() for table in decoded) >= SAMPLE_SECONDS:
            break
    encode = EncodeSpeech.of(lambda: checkpoint, config, device)
    return encode(_until_enough(pa.concat_tables(decoded).combine_chunks()))


def find_spoken(sample: pa.Table, options: SpeechOptions) -> list[Spoken]:
    """The rows of a sample as they are cut: `PART_SECONDS` of each at most; without features they are audio alone."""
    found = []
    columns = [read_vectors(sample.column("frame_features"))]
    columns += [read_ragged(sample.column(name)) for name in ("raw_norm", "amplitude")]
    nothing = np.zeros((0, 0)), np.zeros(0, np.float32), np.zeros((0, 2), np.int64)
    for *arrays, duration in zip(*columns, sample.column("duration").to_pylist(), strict=True):
        features, norms, amplitude = (None if array is None else array[: _frames(PART_SECONDS)] for array in arrays)
        seconds = min(duration, PART_SECONDS)
        if features is None or norms is None or amplitude is None:
            found.append(Spoken(*nothing, seconds))
        else:
            found.append(Spoken(features, norms, find_speech(norms, amplitude, options).spans, seconds))
    return found


@contextlib.contextmanager
def _encoded(job: Job, rows: pa.Table) -> Iterator[pa.Table]:
    """Give the rows of a sample with their features, which are there within only: they may lie in Ray's store."""
    checkpoint = job.origin.checkpoint
    if checkpoint is None:
        yield _read_sample(str(job.origin.features), rows, job.config.dtype)
    elif job.engine != "ray":
        yield encode_sample(rows, checkpoint, job.config, local_device(job.config.device))
    else:
        with _encoded_on_ray(job, checkpoint, rows) as sample:
            yield sample


@contextlib.contextmanager
def _encoded_on_ray(job: Job, checkpoint: "Checkpoint", rows: pa.Table) -> Iterator[pa.Table]:
    import ray
    from ray.exceptions import RayError

    from sdhubert_ray.runs.connect import connected, explain

    needs = job.config.resources.encode
    with connected(job.address):
        device = cluster_device(job.config.device, grows=job.address is not None)
        gpus = max(1.0, needs.gpus) if device == "cuda" else 0
        task = ray.remote(num_cpus=needs.cpus, num_gpus=gpus)(encode_sample)
        try:
            sample: pa.Table = ray.get(task.remote(rows, ray.put(checkpoint), job.config, device))
        except RayError as error:
            keys = " and ".join(rate_keys(job.config.syllables.segmenter))
            raise UserError(
                f"a sample for the rate could not be encoded on the cluster ({explain(error)}); leave it out, and set "
                f"{keys}"
            ) from error
        yield sample


def _read_sample(source: str, rows: pa.Table, dtype: str) -> pa.Table:
    """Rows of `draw_sample` with the features that an output keeps, each row group of it read once."""
    rows = _until_enough(rows)
    rows = rows.append_column("unit_name", pa.nulls(rows.num_rows, pa.string()))
    places = list(zip(rows.column(FILE).to_pylist(), rows.column(GROUP).to_pylist(), strict=True))
    tables = []
    for place in dict.fromkeys(places):
        chosen = rows.filter(pa.array([here == place for here in places]))
        tables.append(read_features(source, chosen, np.float32 if dtype == "float32" else np.float16))
    return pa.concat_tables(tables, promote_options="permissive")


def _first_parts(rows: pa.Table) -> pa.Table:
    """Rows of a plan that end after `PART_SECONDS`, where they do not end before for certain."""
    ends = []
    for place in rows.select(["start", "end", "duration"]).to_pylist():
        is_short = place["duration"] is not None and place["duration"] <= PART_SECONDS
        ends.append(place["end"] if is_short else place["start"] + PART_SECONDS)
    return rows.set_column(rows.column_names.index("end"), "end", pa.array(ends, pa.float64()))


def _until_enough(rows: pa.Table) -> pa.Table:
    """The first rows that have `SAMPLE_SECONDS` of audio together, `PART_SECONDS` of each counted at most."""
    seconds = np.cumsum(np.minimum(rows.column("duration").to_numpy(), PART_SECONDS))
    return rows.slice(0, int(np.searchsorted(seconds, SAMPLE_SECONDS)) + 1)


def _frames(seconds: float) -> int:
    return round(seconds * FRAME_RATE)


def _tell(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
