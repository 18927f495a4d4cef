"""How busy workers are at the end of a run, by simulation: units as a run would plan them, done as Ray hands them out.

    python benchmarks/bench_schedule.py [--workers 64]
    python benchmarks/bench_schedule.py --real [--workers 4] [--hours 1]

A free worker takes the next unit. A unit takes its audio divided by `SPEED`, give or take a tenth, and `OVERHEAD`
seconds. Compared are units of 600 s in the order of the corpus, units of total / (4 x workers), within 30 to 600 s, and
those of a run, the longest first. Told are the share of busy workers in the last twentieth of the time, and the time
over the least that there could be (all work, without overhead, spread evenly).

With --real the bundled speech, in recordings of 12 s in the mean, is segmented by the bundled checkpoint on a Ray of
this machine with so many logical CPUs. A worker is busy with a unit for the work that its report tells, up to when the
report arrives. Where there are fewer cores than workers, they share them.
"""

import argparse
import heapq
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import soundfile
from reporting import heading, record

from sdhubert_ray.corpus import list_input, split_units
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.output.tables import STAGES
from sdhubert_ray.runs import watch
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.runs.planning import UnitOptions

SPEECH = Path(__file__).parent.parent / "sdhubert_ray/assets/demo"
SPEED, OVERHEAD = 20.0, 0.05
TAIL = 0.05
UNIT_ROWS = 256
CORPORA = {  # hours, and the mean length of a recording in seconds
    "1 h of 12 s": (1, 12.0),
    "10 h of 12 s": (10, 12.0),
    "100 h of 12 s": (100, 12.0),
    "1,000 h of 12 s": (1000, 12.0),
    "100 h of 2 s": (100, 2.0),
    "100 h of 450 s": (100, 450.0),
}


def draw_lengths(draw: np.random.Generator, hours: float, mean: float) -> npt.NDArray[np.float64]:
    """Lengths of recordings, seconds: log-normal, as those of read speech are nearly."""
    spread = 0.4
    lengths = draw.lognormal(np.log(mean) - spread**2 / 2, spread, int(hours * 3600 / mean))
    return np.minimum(lengths, 600.0)


def plan(lengths: npt.NDArray[np.float64], options: UnitOptions) -> npt.NDArray[np.float64]:
    """Audio of each unit, seconds, in the order of the corpus."""
    rows = pa.table({"duration": lengths})
    units = split_units(
        iter(rows.slice(at, 4096) for at in range(0, len(lengths), 4096)), options.most_seconds, UNIT_ROWS
    )
    return np.array([np.sum(unit.column("duration").to_numpy()) for unit in units])


def simulate(times: npt.NDArray[np.float64], workers: int) -> tuple[float, float]:
    """The end of the run, and the share of busy workers in its last twentieth."""
    free = [0.0] * workers
    for seconds in times:
        heapq.heapreplace(free, free[0] + float(seconds))
    end = max(free)
    idle = sum(end - max(at, (1 - TAIL) * end) for at in free)
    return end, 1 - idle / (workers * TAIL * end)


class Reports(watch.RunMetrics):
    """Counts a run, and notes when each unit was worked on: (begin, end), seconds."""

    work: list[tuple[float, float]] = []  # noqa: RUF012 - of all of this process

    def add(self, report: pa.Table) -> None:
        super().add(report)
        end = time.perf_counter()
        row = report.to_pylist()[0]
        self.work.append((end - sum(row[f"{stage}_seconds"] for stage in STAGES), end))


def busy_share(work: list[tuple[float, float]], workers: int, begin: float, end: float) -> float:
    """The share of workers' time, between two moments, that units take."""
    inside = sum(max(0.0, min(to, end) - max(since, begin)) for since, to in work)
    return inside / (workers * (end - begin))


def make_corpus(folder: Path, hours: float) -> None:
    speech = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in sorted(SPEECH.glob("*.flac"))])
    for number, seconds in enumerate(draw_lengths(np.random.default_rng(0), hours, 12.0)):
        begin = number * 16_000 % (len(speech) // 2)
        soundfile.write(folder / f"{number:05d}.wav", np.resize(speech[begin:], round(seconds * 16_000)), 16_000)


def run_here(workers: int, hours: float) -> None:
    """Segment a corpus on a Ray with so many logical CPUs, and tell how busy they were."""
    watch.RunMetrics = Reports  # type: ignore[misc, assignment]
    checkpoint = fetch_checkpoint("bundled")
    config = load_config(None, ["device=cpu", "resources.encode.memory_gib=0.75"], {}, checkpoint.options)
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as name:
        audio, output = Path(name, "audio"), str(Path(name, "out"))
        audio.mkdir()
        make_corpus(audio, hours)
        listing = list_input(str(audio))
        # The address of a cluster, whose CPUs planning counts: the one that this process is in.
        job = prepare_job(config, checkpoint, str(audio), listing, output, engine="ray", address="auto")
        run_job(job, lambda rows, seconds: None)
    ray.shutdown()
    work = Reports.work
    begin, end = min(since for since, _ in work), max(to for _, to in work)
    took = end - begin
    lengths = [to - since for since, to in work]
    print(f"{heading()}, {workers} workers; {hours:g} h of 12 s")
    for name, since in (("busy", begin), ("busy at the end", end - TAIL * took)):
        record(f"{hours:g} h of 12 s, {workers} workers: {name}", busy_share(work, workers, since, end), "ratio")
    print(
        f"{len(work)} units of {min(lengths):.2f} to {max(lengths):.2f} s in {took:.1f} s; workers busy: "
        f"{busy_share(work, workers, begin, end):.0%}, in the last {TAIL:.0%} of the time "
        f"{busy_share(work, workers, end - TAIL * took, end):.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, help="64, or 4 with --real")
    parser.add_argument("--real", action="store_true", help="run on this machine instead of a simulation")
    parser.add_argument("--hours", type=float, default=1.0, help="of audio, with --real")
    given = parser.parse_args()
    if given.real:
        run_here(given.workers or 4, given.hours)
    else:
        simulate_corpora(given.workers or 64)


def simulate_corpora(workers: int) -> None:
    """Print the table of all corpora and layouts."""
    print(f"{workers} workers\n")
    print("| corpus | units | number | busy at the end | time over the least |\n|---|---|---|---|---|")
    for name, (hours, mean) in CORPORA.items():
        draw = np.random.default_rng(0)
        lengths = draw_lengths(draw, hours, mean)
        share = min(max(lengths.sum() / (4 * workers), 30.0), 600.0)
        layouts = {
            "600 s, in order": (600.0, False),
            f"{share:.0f} s, the longest first": (share, True),
            "as planned": (None, True),
        }
        for what, (seconds, sort) in layouts.items():
            units = plan(lengths, UnitOptions(600.0, seconds, UNIT_ROWS, lambda: workers))
            if sort:
                units = -np.sort(-units, kind="stable")
            times = units / SPEED * draw.uniform(0.9, 1.1, len(units)) + OVERHEAD
            end, busy = simulate(times, workers)
            least = float(units.sum()) / SPEED / workers
            print(f"| {name} | {what} | {len(units)} | {busy:.0%} | {end / least - 1:+.0%} |")
            record(f"{name}, {what}: busy at the end", busy, "ratio")
            record(f"{name}, {what}: time over the least", end / least - 1, "ratio")


if __name__ == "__main__":
    main()
