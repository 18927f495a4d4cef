"""Time every segmenter on one span of 10 s, as wide as HuBERT-base: ms per call, and seconds per hour of audio.

    python benchmarks/bench_cuts.py [--peers PYTHON]

Similarities, merging and all else are counted; pooling is not. `oracle` is the definition in NumPy
(`mincut.reference`), which has to find the same segments; it is timed once. Other times are the best of many calls, so
that other work on the machine counts little. They depend on threads: OPENBLAS_NUM_THREADS=1 gives those of one.
`package` is what sylber and vg-hubert take for the like on the same frames, in the interpreter of `--peers`
(`make peers`); their options are their own, so that the number of segments is another.
"""

import argparse
import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from bench_mincut import best_milliseconds
from reporting import heading, record

from mincut.reference import greedy_reference, sse_reference
from sdhubert_ray.speech.segmenters import SseOptions
from sdhubert_ray.speech.syllables import SEGMENTERS, SyllableOptions, bind_segmenter

SECONDS, WIDTH, MAX_ERROR = 10, 768, 0.1


def syllable_like(num_frames: int, seed: int = 0) -> np.ndarray:
    """(n, 768) float32: noisy frames whose mean changes every 0.1 to 0.3 s."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 16, size=num_frames)
    means = np.repeat(generator.standard_normal((num_frames, WIDTH)), lengths, axis=0)[:num_frames]
    return (means + 0.3 * generator.standard_normal((num_frames, WIDTH))).astype(np.float32)


def sse_segments(features: np.ndarray) -> list[tuple[int, int]]:
    boundaries = sse_reference(features, MAX_ERROR)
    return list(itertools.pairwise(boundaries))


ORACLES: dict[str, Callable[[np.ndarray], list[tuple[int, int]]]] = {
    "greedy": partial(greedy_reference, norm_threshold=2.6, merge_threshold=0.8),
    "sse-dp": sse_segments,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="time per figure (default: 0.5)")
    parser.add_argument("--without-oracles", action="store_true", help="they take half a minute")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has the packages: make peers")
    given = parser.parse_args()
    frames = SECONDS * 50
    features = syllable_like(frames)
    norms, spans = np.linalg.norm(features, axis=1), np.array([[0, frames]])
    packages = run_packages(given.peers, features, given.seconds) if given.peers else {}
    print(f"{heading()}, numpy {np.__version__}\n")
    print("| segmenter | segments | ms | s per hour of audio | oracle, ms | package, ms | its segments |")
    print("|---|---|---|---|---|---|---|")
    for name in SEGMENTERS:
        options = SyllableOptions(segmenter=name, sse_dp=SseOptions(MAX_ERROR))
        segment = partial(bind_segmenter(options), features, norms, spans)
        found = [tuple(pair) for pair in segment().tolist()]
        ours = best_milliseconds(segment, given.seconds)
        record(f"{name}, {SECONDS} s", ours, "ms")
        shown = ""
        if name in ORACLES and not given.without_oracles:
            began = time.perf_counter()
            if ORACLES[name](features) != found:
                raise SystemExit(f"{name}: other segments than those of the oracle")
            slow = 1e3 * (time.perf_counter() - began)
            record(f"{name}, {SECONDS} s: oracle", slow, "ms")
            shown = f"{slow:.0f}"
        theirs = " | "
        if name in packages:
            record(f"{name}, {SECONDS} s: package", packages[name][0], "ms")
            theirs = f"{packages[name][0]:.1f} | {packages[name][1]:.0f}"
        print(f"| {name} | {len(found)} | {ours:.2f} | {ours * 360 / 1000:.2f} | {shown} | {theirs} |", flush=True)


def run_packages(python: str, features: np.ndarray, seconds: float) -> dict[str, list[float]]:
    """Milliseconds and segments of each package's segmenter, by the name of ours that does the like."""
    script = Path(__file__).with_name("peer_cuts.py")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/features.npy", features)
        command = [python, str(script), f"{folder}/features.npy", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the packages of {python} do not run: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
