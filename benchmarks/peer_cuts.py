"""Times of the packages' own segmenters on one array of frames, in this process.

    PYTHON benchmarks/peer_cuts.py FEATURES.npy SECONDS

Started by bench_cuts.py, with the interpreter of the packages (`make peers`). One line of JSON is printed: name -> best
milliseconds of a call, and segments found. Only what takes frames is timed; ZeroSyl's is part of its network's call.
"""

import json
import sys
import time
import types
from collections.abc import Callable

import numpy as np


def sylber(features: np.ndarray) -> int:
    from sylber.utils.segment_utils import get_segment

    return len(get_segment(features, 2.6, 0.8))


def vg_hubert(features: np.ndarray, *, bounded: bool) -> int:
    """With its own number of segments for the duration, 0.2 s each, and its merging."""
    from vg_hubert.mincut import segment_with_mincut

    count = int(np.ceil(len(features) / 50 / 0.2)) + 1
    boundaries, _ = segment_with_mincut(features, count, merge_threshold=0.3, use_optimized=bounded)
    return len(boundaries) - 1


PACKAGES: dict[str, Callable[[np.ndarray], int]] = {
    "greedy": sylber,
    "min-cut": lambda features: vg_hubert(features, bounded=False),
    "min-cut-banded": lambda features: vg_hubert(features, bounded=True),
}
"""By the segmenter of ours that does the like."""


def main() -> None:
    import transformers  # noqa: F401 - it looks for torchaudio, and is not to find this one

    sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # Sylber asks for it, to read files
    features, least = np.load(sys.argv[1]), float(sys.argv[2])
    found = {}
    for name, segment in PACKAGES.items():
        best, spent, segments = float("inf"), 0.0, 0
        while spent < least:
            began = time.perf_counter()
            segments = segment(features)
            took = time.perf_counter() - began
            best, spent = min(best, took), spent + took
        found[name] = [1e3 * best, segments]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
