"""Syllables of a stream against those of the whole recording, by look-ahead: agreement, truth, latency, time, memory.

    python benchmarks/bench_streaming.py SPEECH_FOLDER [--checkpoint PATH] [--hours HOURS]

SPEECH_FOLDER has syllables_{librispeech,timit}_{validation,test}.json. The segmenter is `greedy`; its threshold, and
whether counts begin anew, are chosen on the validation recordings, offline, by the greatest mean of F1 and R-value
(protocol `sdhubert`, best shift of each corpus; the checkpoint's layers and norm). Measured are the test recordings, at
the shifts of validation, pushed in 20 ms as a microphone would.

    syllables            per cent of those of the whole recording that begin and end at the same frames in the stream
    same, 20 ms, 40 ms   F1 of the boundaries of a stream against those of the whole recording, none to two frames apart
    LibriSpeech, TIMIT   F1 and R-value against the true syllables
    latency              seconds from a syllable's end to the sample that makes it final, without computing: median and
                         95th percentile
    real time            seconds of CPU, one thread, by seconds of audio

Last, one stream takes the test recordings over and over, for hours of audio, with a hop of 4 s, which takes less
computing: what the process holds at the end of each tenth.
"""

import argparse
import itertools
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import soundfile
import torch
from reporting import heading, record

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter, StreamingSegmenter
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.metrics import (
    BoundaryCounts,
    BoundaryScores,
    count_sdhubert,
    pair_boundaries,
    score_boundaries,
    tune_shift,
)
from sdhubert_ray.speech.audio import SAMPLE_RATE, resample
from sdhubert_ray.speech.segmenters import GreedyOptions

CORPORA = ("librispeech", "timit")
THRESHOLDS = np.round(np.arange(0.5, 0.82, 0.02), 2).tolist()
CHUNK = SAMPLE_RATE // 50
MIB = 1 << 20
PERCENTILES = (50, 95)


class Setting(NamedTuple):
    """Seconds; the defaults are those of `StreamingSegmenter`."""

    look_ahead: float = 0.5
    hop: float = 0.2
    window: float = 5.0


SETTINGS = (
    *(Setting(look_ahead=seconds) for seconds in (0.1, 0.24, 0.5, 1.0, 2.0)),
    *(Setting(hop=seconds) for seconds in (0.1, 0.5)),
    *(Setting(window=seconds) for seconds in (2.0, 3.0)),
)


class Recording(NamedTuple):
    samples: np.ndarray
    syllables: np.ndarray


class Streamed(NamedTuple):
    segments: list[np.ndarray]
    delays: list[float]
    seconds: float


def read_recordings(speech: Path, corpus: str, part: str) -> list[Recording]:
    found = []
    for one in load_references(str(speech / f"syllables_{corpus}_{part}.json")):
        samples, rate = soundfile.read(speech / one.file_name, dtype="float32")
        found.append(Recording(resample(samples, rate), one.syllables))
    return found


def score(recordings: list[Recording], segments: list[np.ndarray], shift: float) -> BoundaryScores:
    counts = [count_sdhubert(one.syllables, found, shift) for one, found in zip(recordings, segments, strict=True)]
    sums = np.sum([(one.matched, one.reference, one.predicted) for one in counts], axis=0)
    return score_boundaries(BoundaryCounts(*sums.tolist()))


def choose_greedy(segmenter: SDHuBERTSegmenter, corpora: list[list[Recording]]) -> tuple[GreedyOptions, list[float]]:
    """The options, and the shift of each corpus."""
    encoded = [segmenter([(one.samples, SAMPLE_RATE) for one in corpus]) for corpus in corpora]
    tried = []
    for threshold, reset in itertools.product(THRESHOLDS, (False, True)):
        options = GreedyOptions(0.0, threshold, reset)
        scores, shifts = [], []
        for corpus, features in zip(corpora, encoded, strict=True):
            segments = [found["segments"] for found in cutter(options)(features)]
            best = tune_shift([(one.syllables, found) for one, found in zip(corpus, segments, strict=True)])
            shifts.append(best[0] if best else 0.0)
            found = score(corpus, segments, shifts[-1])
            scores.append((found.f1 + (found.r_value or 0)) / 2)
        tried.append((float(np.mean(scores)), options, shifts))
    return max(tried, key=lambda one: one[0])[1:]


def cutter(options: GreedyOptions) -> MincutWrapper:
    return MincutWrapper(segmenter="greedy", segmenter_options=asdict(options))


def stream(
    segmenter: SDHuBERTSegmenter, mincut: MincutWrapper, recordings: list[Recording], setting: Setting
) -> Streamed:
    segments, delays = [], []
    began = time.process_time()
    for one in recordings:
        streaming = StreamingSegmenter(segmenter, mincut, **setting._asdict())
        found = []
        for start in range(0, len(one.samples), CHUNK):
            fresh = streaming.push(one.samples[start : start + CHUNK])
            delays += [streaming.seconds - syllable.end for syllable in fresh]
            found += fresh
        found += streaming.flush()
        segments.append(np.array([(syllable.start, syllable.end) for syllable in found]).reshape(-1, 2))
    return Streamed(segments, delays, time.process_time() - began)


def shared_syllables(whole: list[np.ndarray], streamed: list[np.ndarray]) -> float:
    """The share of the syllables of whole recordings that are those of the streams, to the frame."""
    matched = total = 0
    for pair in zip(whole, streamed, strict=True):
        reference, found = ({(start, end) for start, end in np.rint(one * 50).tolist()} for one in pair)
        matched += len(reference & found)
        total += len(reference)
    return matched / total


def agreement(whole: list[np.ndarray], streamed: list[np.ndarray], frames: int) -> float:
    """F1 of boundaries, so many frames of 20 ms apart at most."""
    matched = total = 0
    for pair in zip(whole, streamed, strict=True):
        reference, found = (np.unique(np.rint(one * 50)) for one in pair)
        matched += len(pair_boundaries(reference, found, frames))
        total += len(reference) + len(found)
    return 2 * matched / total


def measure_memory(
    segmenter: SDHuBERTSegmenter, mincut: MincutWrapper, recordings: list[Recording], hours: float
) -> None:
    """Print what this process holds while a stream goes on for hours."""
    streaming = StreamingSegmenter(segmenter, mincut, hop=4.0)
    endless = itertools.cycle(recordings)
    tenths: list[float] = []
    count = 0
    began = time.process_time()
    while len(tenths) < 10:
        count += len(streaming.push(next(endless).samples))
        if streaming.seconds >= 360 * hours * (len(tenths) + 1):
            tenths.append(psutil.Process().memory_info().rss / MIB)
    seconds = time.process_time() - began
    record(f"{hours:g} hours: more memory than after a tenth of them", max(tenths[1:]) - tenths[0], "MiB")
    told = ", ".join(f"{size:.0f}" for size in tenths)
    print(f"\n{streaming.seconds / 3600:.2f} hours, {count} syllables, {seconds:.0f} s of CPU; MiB held: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("speech", type=Path, metavar="SPEECH_FOLDER")
    parser.add_argument("--checkpoint", default="bundled")
    parser.add_argument("--hours", type=float, default=3.0, help="of the stream whose memory is measured")
    given = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = SDHuBERTSegmenter(given.checkpoint, device="cpu")
    options, shifts = choose_greedy(segmenter, [read_recordings(given.speech, one, "validation") for one in CORPORA])
    print(f"{heading()}\n\ngreedy, chosen on validation: {options}, shifts {np.round(shifts, 3).tolist()} s")
    corpora = [read_recordings(given.speech, one, "test") for one in CORPORA]
    recordings = [one for corpus in corpora for one in corpus]
    seconds = sum(len(one.samples) for one in recordings) / SAMPLE_RATE
    whole = [
        found["segments"] for found in cutter(options)(segmenter([(one.samples, SAMPLE_RATE) for one in recordings]))
    ]
    print(f"{len(recordings)} recordings, {seconds:.0f} s, {sum(map(len, whole))} syllables as whole recordings\n")
    names = " | ".join(CORPORA)
    columns = f"look-ahead | hop | window | syllables | same | 20 ms | 40 ms | {names} | latency | real time"
    print(f"| {columns} |\n|{'---|' * 11}")
    print(f"| whole recording | | | | | | | {against_truth(corpora, whole, shifts)} | | |", flush=True)
    for setting in SETTINGS:
        found = stream(segmenter, cutter(options), recordings, setting)
        name = ", ".join(f"{key} {value:g} s" for key, value in setting._asdict().items())
        syllables = shared_syllables(whole, found.segments)
        same = [agreement(whole, found.segments, frames) for frames in range(3)]
        latency = np.percentile(found.delays, PERCENTILES)
        record(f"{name}: same syllables", syllables, "share")
        record(f"{name}: same boundaries", same[0], "F1")
        record(f"{name}: boundaries within 20 ms", same[1], "F1")
        record(f"{name}: latency, median", latency[0], "s")
        record(f"{name}: computing", found.seconds / seconds, "CPU s per s of audio")
        cells = [f"{value:g}" for value in setting] + [f"{100 * value:.1f}" for value in (syllables, *same)]
        cells += [against_truth(corpora, found.segments, shifts), f"{latency[0]:.2f}, {latency[1]:.2f}"]
        print(f"| {' | '.join(cells)} | {found.seconds / seconds:.2f} |", flush=True)
    measure_memory(segmenter, cutter(options), recordings, given.hours)


def against_truth(corpora: list[list[Recording]], segments: list[np.ndarray], shifts: list[float]) -> str:
    cells, rest = [], segments
    for corpus, shift in zip(corpora, shifts, strict=True):
        found, rest = score(corpus, rest[: len(corpus)], shift), rest[len(corpus) :]
        cells.append(f"{100 * found.f1:.1f}, {100 * (found.r_value or 0):.1f}")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
