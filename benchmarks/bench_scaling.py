"""A run on local Ray with 1, 2 and 4 slots, a model of its time, and what the model says of a cluster.

    python benchmarks/bench_scaling.py [--seconds 240] [--checkpoint base|bundled|PATH] [--price 0.04] [--cores 64]

The same recordings (the bundled speech, repeated, 15 s each) in long units and in short ones, each run in a process of
its own; `base` has HuBERT-base's shape and random weights. The model has four numbers, fitted to all runs by least
squares, none below zero:

    seconds = start + load x slots / computing + (work x seconds of audio + unit x number of units) / computing

where `computing` slots are no more than the machine has cores, and `load` is what a slot's process imports and loads.
Beside each run stands what the model says of it when it is fitted to the other runs. A slot is one thread of what this
machine calls a core. The default price of a core's hour is about what large providers ask on demand for a virtual CPU
of a general machine, in dollars: give your own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.optimize
from bench_stages import RECORDING_SECONDS, make_audio, make_checkpoint
from reporting import heading, record

SLOTS = (1, 2, 4)
UNIT_SECONDS = (RECORDING_SECONDS, 4 * RECORDING_SECONDS)
LONGEST_UNIT = 600.0
"""Units of a large corpus are as long as this, in seconds."""
CORPORA, NODES = (1_000, 100_000), (1, 10, 100)


class Run(NamedTuple):
    """A run that was measured.

    Attributes:
        slots: of Ray.
        audio: seconds of it.
        units: how many.
        seconds: from the start of Ray to the published table.
    """

    slots: int
    audio: float
    units: int
    seconds: float


class Model(NamedTuple):
    """Seconds of a run: `start`, `load` of each slot, for each second of audio `work`, and for each unit `unit`."""

    start: float
    load: float
    work: float
    unit: float

    def seconds(self, slots: int, cores: int, audio: float, units: float) -> float:
        computing = min(slots, cores)
        return self.start + (self.load * slots + self.work * audio + self.unit * units) / computing


def fit(runs: list[Run], cores: int) -> Model:
    """The model with the least squares of what it says wrong of the runs."""
    rows = [(1.0, *(np.array([run.slots, run.audio, run.units]) / min(run.slots, cores))) for run in runs]
    seconds = [run.seconds for run in runs]
    # Of cores for every slot start and load are one: `nnls` does not have to bear that, `bvls` does.
    found = scipy.optimize.lsq_linear(np.array(rows), np.array(seconds), (0, np.inf), method="bvls").x
    return Model(*map(float, found))


def measure(slots: int, unit_seconds: float, checkpoint: str, audio: Path, output: Path) -> dict[str, object]:
    """In this process: a run, from the start of Ray, and its seconds of work per stage."""
    import logging

    import ray

    from sdhubert_ray.corpus import list_input
    from sdhubert_ray.encoder import fetch_checkpoint
    from sdhubert_ray.runs.config import load_config
    from sdhubert_ray.runs.execute import prepare_job, run_job

    weights = fetch_checkpoint(checkpoint)
    config = load_config(None, ["device=cpu", f"resources.unit_seconds={unit_seconds}"], {}, weights.options)
    units: list[float] = []
    began = time.perf_counter()
    ray.init("local", num_cpus=slots, include_dashboard=False, logging_level=logging.WARNING)
    job = prepare_job(config, weights, str(audio), list_input(str(audio)), str(output), engine="ray")
    summary = run_job(job, lambda count, seconds: units.append(seconds))
    seconds = time.perf_counter() - began
    run = Run(slots, summary.run_audio_seconds, len(units), seconds)
    return {"run": run, "stages": summary.profile.stage_seconds, "failed": summary.totals.num_failed}


def in_a_process(slots: int, unit_seconds: float, checkpoint: str, audio: Path, output: Path) -> dict:
    given = (slots, unit_seconds, checkpoint, audio, output)
    command = [sys.executable, __file__, "--one", json.dumps([str(part) for part in given])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def print_runs(runs: list[Run], cores: int) -> None:
    print(
        "\n| slots | units | measured, s | predicted from the others, s | predicted / measured |\n|---|---|---|---|---|"
    )
    for index, run in enumerate(runs):
        model = fit(runs[:index] + runs[index + 1 :], cores)
        predicted = model.seconds(run.slots, cores, run.audio, run.units)
        ratio = predicted / run.seconds
        print(f"| {run.slots} | {run.units} | {run.seconds:.1f} | {predicted:.1f} | {ratio:.2f} |")
        record(f"{run.slots} slots, {run.units} units: measured", run.seconds, "s")
        record(f"{run.slots} slots, {run.units} units: predicted / measured", ratio, "ratio")


def print_clusters(model: Model, cores: int, price: float) -> None:
    """Nodes, hours and dollars; idle time at the end of a run is not in the model."""
    print(f"\nnodes of {cores} cores, {price} dollars for a core's hour")
    print("\n| hours of audio | nodes | hours | dollars |\n|---|---|---|---|")
    for corpus in CORPORA:
        for nodes in NODES:
            slots = nodes * cores
            hours = model.seconds(slots, slots, corpus * 3600, corpus * 3600 / LONGEST_UNIT) / 3600
            dollars = hours * nodes * cores * price
            print(f"| {corpus:,} | {nodes} | {hours:,.2f} | {dollars:,.2f} |")
            record(f"{corpus} hours of audio on {nodes} nodes of {cores} cores", hours, "h")
            record(f"{corpus} hours of audio on {nodes} nodes of {cores} cores", dollars, "USD")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=240, help="of audio; whole minutes divide evenly")
    parser.add_argument("--checkpoint", default="base")
    parser.add_argument("--cores", type=int, default=64, help="of a node of the cluster")
    parser.add_argument("--price", type=float, default=0.04, help="dollars for an hour of a core (default: 0.04)")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        slots, unit_seconds, checkpoint, audio, output = given.one
        print(json.dumps(measure(int(slots), float(unit_seconds), checkpoint, Path(audio), Path(output))))
        return
    cores = os.cpu_count() or 1
    print(f"{heading()}; {given.seconds} s of audio")
    runs: list[Run] = []
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = str(make_checkpoint(folder)) if given.checkpoint == "base" else given.checkpoint
        audio = make_audio(folder / "audio", given.seconds, ["flac, 16 kHz"])
        for slots in SLOTS:
            for unit_seconds in UNIT_SECONDS:
                found = in_a_process(slots, unit_seconds, checkpoint, audio, folder / f"{slots}_{unit_seconds}")
                if found["failed"]:
                    raise SystemExit(f"{found['failed']} recordings failed")
                runs.append(Run(*found["run"]))
                stages = stages or found["stages"]
    print_runs(runs, cores)
    model = fit(runs, cores)
    print(
        f"\nstart {model.start:.1f} s, {model.load:.1f} s for a slot, {model.work:.4f} s for a second of audio, "
        f"{model.unit:.2f} s for a unit"
    )
    record("start", model.start, "s")
    record("load of a slot", model.load, "s")
    record("work for a second of audio", model.work, "s")
    record("work for a unit", model.unit, "s")
    factors = {stage: seconds / runs[0].audio for stage, seconds in stages.items()}
    print("real-time factors of one slot: " + ", ".join(f"{stage} {factor:.4f}" for stage, factor in factors.items()))
    for stage, factor in factors.items():
        record(f"real-time factor, {stage}, one slot", factor, "ratio")
    if model.work < sum(factors.values()) / 2:
        raise SystemExit("no table of clusters: the fit has less work than its stages; the machine had other work")
    print_clusters(model, given.cores, given.price)


if __name__ == "__main__":
    main()
