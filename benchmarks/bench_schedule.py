"""How busy workers are at the end of a run, by simulation: units as a run would plan them, done as Ray hands them out.

    python benchmarks/bench_schedule.py [--workers 64]

A free worker takes the next unit. A unit takes its audio divided by `SPEED`, give or take a tenth, and `OVERHEAD`
seconds. Compared are units of 600 s in the order of the corpus, units of total / (4 x workers), within 30 to 600 s, and
those of a run, the longest first. Told are the share of busy workers in the last twentieth of the time, and the time
over the least that there could be (all work, without overhead, spread evenly).
"""

import argparse
import heapq

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray.corpus import split_units
from sdhubert_ray.runs.planning import UnitOptions

SPEED, OVERHEAD = 20.0, 0.05
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
    for time in times:
        heapq.heapreplace(free, free[0] + float(time))
    end = max(free)
    idle = sum(end - max(at, 0.95 * end) for at in free)
    return end, 1 - idle / (workers * 0.05 * end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=64)
    workers = parser.parse_args().workers
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


if __name__ == "__main__":
    main()
