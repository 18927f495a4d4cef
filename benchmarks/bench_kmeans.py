"""Time k-means against scikit-learn and faiss on the same vectors, and the default clustering as users run it.

    python benchmarks/bench_kmeans.py                        100,000 x 768, 1,024 clusters
    python benchmarks/bench_kmeans.py --vectors 20000 --width 128 --clusters 256
    python benchmarks/bench_kmeans.py --default              1,000,000 x 64, 16,384 clusters, 4,096 units

The vectors lie around centers of very different sizes with noise between them, and their variance falls from coordinate
to coordinate as 1/i: like features of speech they have about thirty dimensions that matter, and no clean clusters. All
methods have the same threads, one start (n_init=1), the same tolerance and as many steps at most. Inertia is measured
alike for all, in float64 with exact labels. faiss is left out where it is not installed (`pip install faiss-cpu`); its
first centers are drawn at random.

--default goes the way of `sdhubert cluster`, from a segments table to the quantizer, in a process of its own.
"""

import argparse
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import sklearn.cluster
import threadpoolctl
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from reporting import heading, record
from segments import speech_like, write_segments

from sdhubert_ray.units.kmeans import (
    LloydSums,
    NearestCenters,
    add_up,
    choose_scales,
    count_candidates,
    mean_variance,
    measure,
    move_centers,
    nearest_centers,
    seed_centers,
)

MIB = 1 << 20


def fit_ours(features: np.ndarray, clusters: int, steps: int, tolerance: float) -> tuple[np.ndarray, int, float]:
    """What `sdhubert cluster` does, without files; the centers, steps and the seconds of the first centers."""
    began = time.perf_counter()
    priorities = np.arange(len(features), dtype=np.uint64)
    scales = choose_scales(float(np.abs(features).max()), *features.shape)
    limit = tolerance * mean_variance(measure(features, scales), scales)
    few = features[: count_candidates(len(features), clusters)]
    centers = few[seed_centers(few, clusters, 0)]
    seeding = time.perf_counter() - began
    done = 0
    while done < steps:
        sums = LloydSums.zero(*centers.shape)
        add_up(features, priorities, NearestCenters(centers), scales, sums)
        before = centers
        centers, _ = move_centers(sums, before, scales)
        done += 1
        if np.square(centers.astype(np.float64) - before).sum() <= limit:
            break
    return centers, done, seeding


def fit_sklearn(kind: type, features: np.ndarray, clusters: int, steps: int, tolerance: float) -> tuple:
    """Of scikit-learn; the centers, steps, and no time of the first centers."""
    model = kind(clusters, n_init=1, max_iter=steps, tol=tolerance, random_state=0).fit(features)
    return model.cluster_centers_.astype(np.float32), model.n_iter_, None


def fit_faiss(features: np.ndarray, clusters: int, steps: int) -> tuple[np.ndarray, int, float]:
    """Of faiss, which takes all steps; its first centers cost nothing."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    # Of every vector, as the others do: faiss takes 256 for each center otherwise.
    model = faiss.Kmeans(features.shape[1], clusters, niter=steps, max_points_per_centroid=len(features), seed=0)
    model.train(features)
    return model.centroids, steps, 0.0


def inertia_of(features: np.ndarray, centers: np.ndarray) -> float:
    labels = nearest_centers(features, centers)
    parts = np.array_split(np.arange(len(features)), max(1, len(features) // 10_000))
    return sum(float(np.square(features[part].astype(np.float64) - centers[labels[part]]).sum()) for part in parts)


def compare(options: argparse.Namespace) -> None:
    """Print the table."""
    vectors, width, clusters = options.vectors, options.width, options.clusters
    features = speech_like(vectors, width, 2 * clusters)
    methods: dict[str, Callable[[], tuple]] = {
        "ours": lambda: fit_ours(features, clusters, options.steps, options.tolerance),
        "KMeans": lambda: fit_sklearn(sklearn.cluster.KMeans, features, clusters, options.steps, options.tolerance),
        "MiniBatchKMeans": lambda: fit_sklearn(
            sklearn.cluster.MiniBatchKMeans, features, clusters, options.steps, options.tolerance
        ),
    }
    if importlib.util.find_spec("faiss") is not None:
        methods["faiss"] = lambda: fit_faiss(features, clusters, options.steps)
    print(f"{vectors} x {width}, {clusters} clusters, {options.steps} steps at most, {options.threads} threads")
    print(
        f"{'':<16} {'inertia':>12} {'ratio':>8} {'seconds':>9} {'ratio':>7} {'steps':>6} {'s/step':>8} {'first s':>8}"
    )
    rows: list[dict[str, float]] = []
    for name, method in methods.items():
        if name not in options.only:
            continue
        began = time.perf_counter()
        with threadpoolctl.threadpool_limits(options.threads):
            centers, steps, seeding = method()
        seconds = time.perf_counter() - began
        row = {"inertia": inertia_of(features, centers), "seconds": seconds, "steps": int(steps)}
        if name != "MiniBatchKMeans":  # whose steps are of some vectors only
            seeding = seeding if seeding is not None else time_seeds(features, clusters, options.threads)
            row |= {"seeding_s": seeding, "step_s": (seconds - seeding) / steps}
        rows.append(row)
        ours = rows[0]
        line = f"{name:<16} {row['inertia']:>12.6g} {row['inertia'] / ours['inertia']:>8.4f} {seconds:>9.1f}"
        line += f" {seconds / ours['seconds']:>7.2f} {row['steps']:>6}"
        line += f" {row['step_s']:>8.3f} {row['seeding_s']:>8.1f}" if "step_s" in row else f" {'-':>8} {'-':>8}"
        print(line, flush=True)
        for key, unit in {"inertia": "squared distance", "seconds": "s", "seeding_s": "s", "step_s": "s"}.items():
            if key in row:
                record(f"{vectors} x {width}, {clusters} clusters, {name}: {key.removesuffix('_s')}", row[key], unit)


def time_seeds(features: np.ndarray, clusters: int, threads: int) -> float:
    """Seconds that scikit-learn's first centers take."""
    began = time.perf_counter()
    with threadpoolctl.threadpool_limits(threads):
        sklearn.cluster.kmeans_plusplus(features, clusters, random_state=0)
    return time.perf_counter() - began


def run_default(options: argparse.Namespace) -> None:
    """Print how long each phase of a clustering takes, and the most memory that it has."""
    vectors, width, clusters, units = options.vectors, options.width, options.clusters, options.units
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{vectors} x {width}, {clusters} clusters, {units} units, {options.steps} steps at most", flush=True)
        features = speech_like(vectors, width, 2 * clusters)
        rows = max(1, vectors // 3000)  # ten minutes of speech
        source = write_segments(str(folder / "segments"), features, rows=rows, unit_rows=1)
        del features
        command = [str(Path(sys.executable).parent / "sdhubert"), "cluster", source, str(folder / "quantizer")]
        sizes = ["--n-clusters", str(clusters), "--n-units", str(units), "--max-iterations", str(options.steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        began = time.perf_counter()
        with psutil.Popen(
            [*command, *sizes, "--log-format", "json"], stderr=subprocess.PIPE, env=environment
        ) as process:
            peak, events = watch(process)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(process.returncode)
        card = json.loads((folder / "quantizer/quantizer.json").read_text())
    phases = {key: value for key, value in events[-1].items() if isinstance(value, float)}
    times = [datetime.datetime.fromisoformat(event["time"]).timestamp() for event in events]
    seeded = next(index for index, event in enumerate(events) if event["event"] == "seeded")
    phases["first centers"] = times[seeded] - times[seeded - 1]
    phases["a step"] = (times[seeded + card["iterations"]] - times[seeded]) / card["iterations"]
    for phase, took in phases.items():
        print(f"{phase:<16} {took:>9.1f} s")
    told = f"{card['iterations']} steps, inertia per vector {card['inertia_per_vector']:.6g}"
    print(f"{'all':<16} {seconds:>9.1f} s, {told}")
    print(f"{'peak memory':<16} {peak / MIB:>9.0f} MiB")
    for phase, took in {**phases, "all": seconds}.items():
        record(f"default: {phase}", took, "s")
    record("default: peak memory", peak / MIB, "MiB")


def watch(process: psutil.Popen) -> tuple[int, list[dict]]:
    """The most memory that a process and its children had resident, bytes, and the events that it told."""
    events: list[dict] = []

    def read() -> None:
        for line in process.stderr:
            text = line.decode()
            events.append(json.loads(text)) if text.startswith("{") else print(text, end="", file=sys.stderr)

    reader = threading.Thread(target=read)
    reader.start()
    peak = 0
    while process.poll() is None:
        try:
            members = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in members))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.2)
    reader.join()
    return peak, [event for event in events if "event" in event]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--default", action="store_true", help="the default clustering, as users run it")
    parser.add_argument("--vectors", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--clusters", type=int)
    parser.add_argument("--units", type=int, default=4096)
    parser.add_argument("--steps", type=int, help="at most (default: 100, with --default 20)")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    names = ("ours", "KMeans", "MiniBatchKMeans", "faiss")
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="METHOD")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    sizes = (1_000_000, 64, 16_384, 20) if options.default else (100_000, 768, 1024, 100)
    for name, size in zip(("vectors", "width", "clusters", "steps"), sizes, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, size)
    torch.set_num_threads(options.threads)
    print(f"{heading()}, " + ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "numpy")))
    if options.default:
        run_default(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
