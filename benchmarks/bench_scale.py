"""Rows per second and the driver's memory for manifests of a thousand to a million rows, on Ray.

    python benchmarks/bench_scale.py [--rows 1000 10000 100000 1000000] [--seconds 0.15]
    python benchmarks/bench_scale.py --rows 100000 --seconds 12 --unit-seconds 60    # 20,000 units

Noise of --seconds (a hundred files that all rows share) and a null encoder (features of zeros): what is measured
is everything but the model, listing, planning, reading, decoding, cutting, committing, merging and counting. Each size
runs in a process of its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from reporting import heading, record

from sdhubert_ray.corpus import list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.output.tables import ragged, ragged_vectors
from sdhubert_ray.runs import pipeline
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.runs.stages import SegmentUnits

MIB = 1 << 20
FILES = 100
WIDTH = 8


class NullEncoder:
    """Features of zeros in place of an encoder's."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        frames = batch.column("num_frames").to_pylist()
        zeros = [np.zeros(count, np.float32) for count in frames]
        batch = batch.drop_columns(["samples", "samples_hz", "window_phase"])
        vectors = ragged_vectors([np.zeros((count, WIDTH), np.float32) for count in frames], np.float32, WIDTH)
        for name, column in (
            ("frame_features", vectors),
            ("raw_norm", ragged(zeros, pa.float32())),
            ("amplitude", ragged(zeros, pa.float32())),
            ("encode_seconds", pa.nulls(batch.num_rows, pa.float64()).fill_null(0.0)),
        ):
            batch = batch.append_column(name, column)
        return batch


class NullSegmentUnits(SegmentUnits):
    """The stages of a unit with the null encoder."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.stages = (*self.stages[:2], NullEncoder(), *self.stages[3:])


class Memory(threading.Thread):
    """The most memory that this process had resident, bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss)
            time.sleep(0.05)


def make_manifest(folder: Path, rows: int, seconds: float) -> Path:
    noise = np.random.default_rng(0)
    for number in range(FILES):
        samples = noise.normal(0, 0.1, round(seconds * 16_000))
        soundfile.write(folder / f"{number:02d}.wav", samples, 16_000)
    target = folder / "manifest.parquet"
    schema = pa.schema([("id", pa.string()), ("uri", pa.string()), ("duration", pa.float64())])
    with pq.ParquetWriter(target, schema) as writer:
        for begin in range(0, rows, 10_000):
            numbers = range(begin, min(begin + 10_000, rows))
            ids = [f"speaker{number % 1000:04d}/recording{number:08d}.wav" for number in numbers]
            uris = [f"{number % FILES:02d}.wav" for number in numbers]
            writer.write_table(pa.table([ids, uris, [seconds] * len(ids)], schema=schema))
    return target


def measure(rows: int, seconds: float, unit_seconds: float | None) -> dict[str, float]:
    pipeline.SegmentUnits = NullSegmentUnits  # type: ignore[misc, assignment]
    memory = Memory()
    memory.start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, output = make_manifest(folder, rows, seconds), str(folder / "out")
        checkpoint = fetch_checkpoint("bundled")
        config = load_config(None, ["device=cpu"], {"resources.unit_seconds": unit_seconds}, checkpoint.options)
        figures = {"rows": rows, "started_mib": memory.peak / MIB}

        def timed(label, work):
            began = time.perf_counter()
            result = work()
            figures[f"{label}_s"] = time.perf_counter() - began
            figures[f"{label}_mib"] = memory.peak / MIB
            return result

        def prepare():
            listing = list_input(str(manifest))
            return prepare_job(config, checkpoint, str(manifest), listing, output, engine="ray")

        job = timed("plan", prepare)
        figures["units"] = len(job.staged.unit_rows)
        summary = timed("run", lambda: run_job(job, lambda count, seconds: None))
        if summary.totals.statuses != {"ok": rows}:
            raise SystemExit(f"not all rows are ok: {summary.totals.statuses}")
        again = timed("resume", prepare)
        if again.rows_left:
            raise SystemExit(f"{again.rows_left} rows are left")
        again.folder.cleanup()
        figures["files"] = len(list((folder / "out" / "segments").iterdir()))
        shutil.rmtree(folder / "out")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--unit-seconds", type=float, help="audio of a unit; as a run plans them, if not given")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.rows[0], arguments.seconds, arguments.unit_seconds)))
        return
    print(f"{heading()}, recordings of {arguments.seconds:g} s; seconds, and the driver's resident memory at most, MiB")
    print("     rows  units   plan s    run s   rows/s  resume s | start  planned   run  resumed | files")
    for rows in arguments.rows:
        command = [sys.executable, __file__, "--one", "--rows", str(rows)]
        command += ["--seconds", str(arguments.seconds)]
        command += ["--unit-seconds", str(arguments.unit_seconds)] if arguments.unit_seconds else []
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{rows:9d} {found['units']:6d} {found['plan_s']:8.1f} {found['run_s']:8.1f} {rows / found['run_s']:8.0f} "
            f"{found['resume_s']:9.1f} | {found['started_mib']:5.0f} {found['plan_mib']:8.0f} {found['run_mib']:5.0f} "
            f"{found['resume_mib']:8.0f} | {found['files']:5.0f}",
            flush=True,
        )
        for name, value in found.items():
            if name.endswith(("_s", "_mib")):
                what, _, unit = name.rpartition("_")
                record(f"{rows} rows: {what}", value, {"s": "s", "mib": "MiB"}[unit])


if __name__ == "__main__":
    main()
