"""Time the minimum cut against plain NumPy: milliseconds per call, one thread.

    python benchmarks/bench_mincut.py

Spans of 0.5 s to 20 s at 50 Hz, at 5 and 10 segments per second. `banded` is ours with segments of 50 frames
(1 s) at most, `oracle` the definition (`mincut.reference`, only for short spans), `prefix` a vectorised
dynamic programme on 2-D prefix sums. All have to find the same boundaries. Times are the best of many calls,
so that other work on the machine counts little; a ratio is how many times slower than `ours`.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from reporting import heading, record

from mincut import min_cut
from mincut.reference import min_cut_reference

FRAME_RATE = 50
FRAMES = (25, 50, 100, 250, 500, 1000)
SEGMENTS_PER_SECOND = (5, 10)
ORACLE_FRAMES = 50
MAX_FRAMES = 50
WIDTH = 64

Matrix = NDArray[np.float64]
Boundaries = NDArray[np.int64]


def syllable_like(num_frames: int, seed: int = 0) -> Matrix:
    """Return the (n, n) similarity of noisy frames whose mean changes every 0.1 to 0.3 s."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 16, size=num_frames)
    means = np.repeat(generator.standard_normal((num_frames, WIDTH)), lengths, axis=0)[:num_frames]
    features = means + 0.5 * generator.standard_normal((num_frames, WIDTH))
    products = features @ features.T
    return np.asarray(products - products.min() + 1e-7, np.float64)


def prefix_costs(similarity: Matrix) -> Matrix:
    """Return costs (n, n): costs[i, j] of the segment [j, i), and inf where j >= i."""
    n = len(similarity)
    prefix = np.zeros((n + 1, n + 1))
    prefix[1:, 1:] = similarity.cumsum(axis=0).cumsum(axis=1)
    corner, rows = prefix.diagonal()[:n], prefix[:n, n]
    blocks = corner[:, None] - prefix[:n, :n] - prefix[:n, :n].T + corner
    cut = rows[:, None] - rows - blocks
    ends, starts = np.tril_indices(n, -1)
    costs = np.full((n, n), np.inf)
    costs[ends, starts] = cut[ends, starts] / (cut + blocks / 2)[ends, starts]
    return costs


def prefix_min_cut(similarity: Matrix, num_segments: int) -> Boundaries:
    """Return what `min_cut` returns, one NumPy call per number of segments."""
    n = len(similarity)
    costs = prefix_costs(similarity)
    best = np.full(n, np.inf)
    best[0] = 0.0
    previous = np.zeros((num_segments + 1, n), np.int64)
    for k in range(1, num_segments + 1):
        values = costs + best
        previous[k] = values.argmin(axis=1)
        best = values[np.arange(n), previous[k]]
    boundaries = [n - 1]
    for k in range(num_segments, 0, -1):
        boundaries.append(int(previous[k, boundaries[-1]]))
    return np.array(boundaries[::-1], np.int64)


def oracle_min_cut(similarity: Matrix, num_segments: int) -> Boundaries:
    """Return the boundaries of the oracle, without the objective."""
    return min_cut_reference(similarity, num_segments)[0]


def best_milliseconds(function: Callable[[], object], seconds: float) -> float:
    """Return the shortest of the calls that fit into the given time, of three at least."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(num_frames: int, num_segments: int, seconds: float) -> dict[str, float | int | None]:
    """Return one row of the table; fail if the methods disagree."""
    similarity = syllable_like(num_frames)
    methods: dict[str, Callable[[Matrix, int], Boundaries]]
    methods = {
        "ours_ms": min_cut,
        "banded_ms": partial(min_cut, max_frames=MAX_FRAMES),
        "prefix_ms": prefix_min_cut,
    }
    if num_frames <= ORACLE_FRAMES:
        methods["oracle_ms"] = oracle_min_cut
    expected = min_cut(similarity, num_segments)
    row: dict[str, float | int | None] = {"frames": num_frames, "segments": num_segments, "oracle_ms": None}
    for name, method in methods.items():
        if not np.array_equal(method(similarity, num_segments), expected):
            raise SystemExit(f"{name}: other boundaries at {num_frames} frames, {num_segments} segments")
        row[name] = best_milliseconds(partial(method, similarity, num_segments), seconds)
    return row


def table_line(row: dict[str, float | int | None]) -> str:
    """Return a row of measure as text, with ratios to ours."""
    line = f"{row['frames']:>6} {row['segments']:>8} {row['ours_ms']:>10.4f} {row['banded_ms']:>10.4f}"
    for name in ("prefix_ms", "oracle_ms"):
        value, ours = row[name], row["ours_ms"]
        if value is None or ours is None:
            line += f" {'-':>10} {'-':>8}"
        else:
            line += f" {value:>10.3f} {value / ours:>7.0f}x"
    return line


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="time per figure (default: 0.5)")
    options = parser.parse_args()
    print(f"{heading()}, numpy {np.__version__}")
    print("frames segments    ours ms  banded ms  prefix ms    ratio  oracle ms    ratio")
    for num_frames in FRAMES:
        for rate in SEGMENTS_PER_SECOND:
            row = measure(num_frames, max(1, num_frames * rate // FRAME_RATE), options.seconds)
            print(table_line(row), flush=True)
            for name, value in row.items():
                if name.endswith("_ms") and value is not None:
                    record(f"{row['frames']} frames, {row['segments']} segments: {name[:-3]}", value, "ms")


if __name__ == "__main__":
    main()
