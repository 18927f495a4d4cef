"""How many boundaries stay where they are in another precision, and what that saves.

    python benchmarks/bench_parity.py SPEECH_FOLDER [--checkpoint bundled] [--device cpu]

SPEECH_FOLDER has syllables_{librispeech,timit}_validation.json and the recordings that they name. Segments of each
precision are compared with those of float32: a boundary stays if there is one within a frame (20 ms) of it. One thread.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from reporting import heading, record

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.metrics import count_onsets_offsets

FRAME = 0.0201
DTYPES = ("float32", "bfloat16", "float16")


def segment(dtype: str, checkpoint: str, device: str, paths: list[Path]) -> tuple[list[np.ndarray], float]:
    """Segments of each recording, and the seconds that encoding took."""
    segmenter, mincut = SDHuBERTSegmenter(checkpoint, device=device, dtype=dtype), MincutWrapper()
    segmenter(paths[0])
    began = time.perf_counter()
    features = [segmenter(path) for path in paths]
    seconds = time.perf_counter() - began
    return [mincut(one)["segments"] for one in features], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("--checkpoint", default="bundled")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{heading()}, {given.device}")
    print("| corpus | precision | boundaries | the same within a frame | x real time |\n|---|---|---|---|---|")
    for corpus in ("librispeech", "timit"):
        references = load_references(str(given.speech / f"syllables_{corpus}_validation.json"))
        paths = [given.speech / one.file_name for one in references]
        audio = sum(soundfile.info(path).duration for path in paths)
        exact: list[np.ndarray] = []
        for dtype in DTYPES:
            found, seconds = segment(dtype, given.checkpoint, given.device, paths)
            exact = exact or found
            counts = [count_onsets_offsets(one, other, FRAME) for one, other in zip(exact, found, strict=True)]
            matched, here, there = (
                sum(getattr(one, name) for one in counts) for name in ("matched", "reference", "predicted")
            )
            same, speed = 2 * matched / (here + there), audio / seconds
            print(f"| {corpus} | {dtype} | {there} | {same:.2%} | {speed:.0f} |", flush=True)
            record(f"{corpus}, {dtype}: boundaries the same within a frame", same, "ratio")
            record(f"{corpus}, {dtype}: speed", speed, "x real time")


if __name__ == "__main__":
    main()
