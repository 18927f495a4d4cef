"""Segmenters compared on real speech by `sdhubert evaluate`: the bundled checkpoint and baselines without any learning.

    python benchmarks/bench_segmenters.py SPEECH_FOLDER OUT

SPEECH_FOLDER has manifest.jsonl and syllables_{timit,librispeech}_{validation,test}.json. The bundled checkpoint has
random weights: it shows that all works, and is expected to lose. Whatever is chosen (shift of the reference, thresholds
of the baselines) is chosen on the validation recordings.

    bundled       `sdhubert segment --checkpoint bundled`
    uniform       a segment every 0.2 s
    mel min-cut   log-mel spectrogram (25 ms windows, 80 bands, z-scored), speech by its level, our min-cut and merge
    mel valleys   speech by level, cut where the smoothed level has a valley
"""

import argparse
import datetime
import functools
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.ndimage
import scipy.signal
import soundfile

from sdhubert_ray.evaluation import load_references
from sdhubert_ray.metrics import bootstrap_share, ssabx_margins, tune_shift
from sdhubert_ray.output import publish_plan, read_segments, stage_plan, unit_name, write_commit, write_run
from sdhubert_ray.output.tables import MANIFEST_FIELDS, RESULT_FIELDS, SEGMENTS, ragged_intervals
from sdhubert_ray.speech.audio import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE, normalise
from sdhubert_ray.speech.spans import SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import SyllableOptions, cut_syllables, to_seconds
from sdhubert_ray.speech.windows import frame_amplitude

SDHUBERT = Path(sys.executable).parent / "sdhubert"
CORPORA = {"timit": "syllables=hand", "librispeech": "syllables=forced-alignment"}
PARTS = ("validation", "test")
PROTOCOLS = ("sdhubert", "onsets_offsets")
FIGURES = ("precision", "recall", "f1", "r_value")
WINDOW, FFT, BANDS = 400, 512, 80
SPEECH_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
MERGE_THRESHOLDS = (None, 0.0, 0.2, 0.4)
SMOOTHINGS, PROMINENCES = (1.0, 1.5, 2.0), (0.0, 0.01, 0.02, 0.05)
EMBEDDINGS = ("--embedding", "favg", "--embedding", "cls", "--layer", "9", "--layer", "11")

Segmenter = Callable[..., np.ndarray]


@functools.cache
def mel_filters() -> np.ndarray:
    """(80, 257) triangles between 0 and 8 kHz, evenly spaced on the mel scale."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(n // 320, 80) log energies of 25 ms around each frame of 20 ms."""
    padded = np.pad(samples.astype(np.float64), (WINDOW - FRAME_SAMPLES) // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::FRAME_SAMPLES][: len(samples) // FRAME_SAMPLES]
    power = np.abs(np.fft.rfft(frames * scipy.signal.get_window("hann", WINDOW), FFT)) ** 2
    return np.log(power @ mel_filters().T + 1e-6)


def find_spans(samples: np.ndarray, level: np.ndarray, threshold: float) -> np.ndarray:
    """Speech, (P, 2) frames: `level` (T,) between its 1st and 99th percentile is over the threshold."""
    options = SpeechOptions("relative", threshold, silence_threshold=None)
    return find_speech(level.astype(np.float32), frame_amplitude(samples, len(level)), options).spans


def uniform(samples: np.ndarray) -> np.ndarray:
    edges = np.append(np.arange(0, len(samples) / SAMPLE_RATE, 0.2), len(samples) / SAMPLE_RATE)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def mel_min_cut(samples: np.ndarray, threshold: float, merge: float | None) -> np.ndarray:
    features = log_mel(samples)
    spans = find_spans(samples, features.mean(axis=1), threshold)
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    return to_seconds(cut_syllables(scaled, spans, SyllableOptions(syl_dur=0.2, merge_threshold=merge)).frames)


def mel_valleys(samples: np.ndarray, threshold: float, smoothing: float, prominence: float) -> np.ndarray:
    level = log_mel(samples).mean(axis=1)
    spans = find_spans(samples, level, threshold)
    smooth = scipy.ndimage.gaussian_filter1d(level, smoothing)
    valleys, _ = scipy.signal.find_peaks(-smooth, prominence=prominence * float(np.ptp(smooth)))
    segments = []
    for start, end in spans:
        segments += itertools.pairwise([start, *valleys[(valleys > start) & (valleys < end)], end])
    return np.array(segments, dtype=np.float64).reshape(-1, 2) / FRAME_RATE


# With the arguments that are tried on the validation recordings.
BASELINES: dict[str, tuple[Segmenter, list[tuple]]] = {
    "uniform": (uniform, [()]),
    "mel min-cut": (mel_min_cut, list(itertools.product(SPEECH_THRESHOLDS, MERGE_THRESHOLDS))),
    "mel valleys": (mel_valleys, list(itertools.product(SPEECH_THRESHOLDS, SMOOTHINGS, PROMINENCES))),
}


def sdhubert(*arguments: object) -> None:
    subprocess.run([str(SDHUBERT), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def references(speech: Path, corpus: str, part: str) -> Path:
    return speech / f"syllables_{corpus}_{part}.json"


def recordings(table: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Id, path and z-scored samples of each recording of a table."""
    for result in read_segments(str(table)):
        samples, rate = soundfile.read(result.uri, dtype="float32")
        if rate != SAMPLE_RATE or result.status != "ok":
            raise SystemExit(f"{result.uri} has {rate} Hz and is {result.status}; nothing is resampled here")
        yield result.id, result.uri, normalise(samples, 0.0)


def tune(segmenter: Segmenter, tried: list[tuple], table: Path, reference: Path) -> tuple:
    """The arguments with the greatest R-value on validation recordings, each with its best shift."""
    truth = {one.id: one.syllables for one in load_references(str(reference))}
    signals = {name: samples for name, _, samples in recordings(table)}

    def r_value(arguments: tuple) -> float:
        best = tune_shift([(truth[name], segmenter(samples, *arguments)) for name, samples in signals.items()])
        return best[1] if best else -np.inf

    return max(tried, key=r_value)


def write_table(segmenter: Segmenter, arguments: tuple, source: Path, output: Path) -> None:
    """Segments of the recordings of `source` as an output folder like that of `sdhubert segment`."""
    names, uris, signals = zip(*recordings(source), strict=True)
    zeros = np.zeros(len(names))
    values = {
        **{"key": [f"{name}#0" for name in names], "id": names, "uri": uris},
        **{"piece": zeros, "num_pieces": zeros + 1, "offset": zeros, "status": ["ok"] * len(names)},
        "duration": [len(samples) / SAMPLE_RATE for samples in signals],
        "num_frames": [len(samples) // FRAME_SAMPLES for samples in signals],
        "segments": ragged_intervals([segmenter(samples, *arguments) for samples in signals], SEGMENTS),
    }

    def columns(fields: tuple[pa.Field, ...]) -> dict[str, pa.Array]:
        return {field.name: pa.array(values.get(field.name, pa.nulls(len(names)))).cast(field.type) for field in fields}

    write_run(str(output), {"fingerprint": {"segmenter": segmenter.__name__, "arguments": list(arguments)}, "runs": 1})
    with tempfile.TemporaryDirectory() as staging:
        staged = stage_plan(iter([pa.table(columns(MANIFEST_FIELDS))]), Path(staging))
        plan = publish_plan(str(output), staged, 1, "", "input")
    units = pa.nulls(len(names), pa.list_(pa.int32()))
    write_commit(str(output), unit_name(plan.name, 0), pa.table({**columns(RESULT_FIELDS), "units": units}), "zstd")


def make_tables(speech: Path, out: Path) -> None:
    for corpus, condition in CORPORA.items():
        for part in PARTS:
            options = ("--where", condition, "--where", f"split={part}", "--checkpoint", "bundled")
            sdhubert("segment", speech / "manifest.jsonl", out / "bundled" / f"{corpus}_{part}", *options)
        for name, (segmenter, tried) in BASELINES.items():
            sources = {part: out / "bundled" / f"{corpus}_{part}" for part in PARTS}
            chosen = tune(segmenter, tried, sources["validation"], references(speech, corpus, "validation"))
            if chosen:
                print(f"{corpus}: {name} takes {', '.join(map(str, chosen))}, chosen on validation", flush=True)
            for part, source in sources.items():
                write_table(segmenter, chosen, source, out / name / f"{corpus}_{part}")


def evaluate_tables(speech: Path, out: Path) -> None:
    for corpus in CORPORA:
        results = {}
        for name in ("bundled", *BASELINES):
            result, validation = out / name / f"{corpus}.json", out / name / f"{corpus}_validation"
            tuning = ("--tune", references(speech, corpus, "validation"), "--tune-segments", validation)
            tested = (out / name / f"{corpus}_test", references(speech, corpus, "test"))
            sdhubert("evaluate", "boundary", *tested, *tuning, "--json", result)
            results[name] = json.loads(result.read_text())
        for protocol in PROTOCOLS:
            first = next(iter(results.values()))
            counts, missing, extra = first["protocols"][protocol], first["missing"]["count"], first["extra"]["count"]
            about = f"{counts['utterances']} recordings joined, {missing} missing, {extra} extra; "
            about += f"{counts['reference']} boundaries"
            print(f"\n{corpus} test, protocol `{protocol}`: {about}\n")
            print(f"| segmenter | shift | {' | '.join(FIGURES)} | segments/s |\n|{'---|' * (len(FIGURES) + 3)}")
            for name, result in results.items():
                cells = [percent(result["protocols"][protocol][figure]) for figure in FIGURES]
                shift = f"{round(1000 * result['shift']['seconds'])} ms" if protocol == "sdhubert" else ""
                print(f"| {name} | {shift} | {' | '.join(cells)} | {result['token_rate']['hertz']:.2f} |")


def percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


def timit_triplets(folder: Path, negative_is_of: str) -> dict[str, dict[str, dict[str, object]]]:
    """Of two sentences that every speaker says: X and P are the same by two speakers, N the other by one of them."""
    triplets = {}
    for one, other in itertools.permutations(sorted(path.name for path in folder.iterdir()), 2):
        for sentence, opposite in (("sa1", "sa2"), ("sa2", "sa1")):
            speaker = one if negative_is_of == "X" else other
            names = f"{one}/{sentence}.wav", f"{other}/{sentence}.wav", f"{speaker}/{opposite}.wav"
            clips = [{"file_name": name, "segment": [0.0, soundfile.info(folder / name).duration]} for name in names]
            triplets[f"{one}_{other}_{sentence}"] = dict(zip("XPN", clips, strict=True))
    return triplets


def evaluate_ssabx(folder: Path, out: Path) -> None:
    rows: dict[str, list[str]] = {}
    for negative_is_of in "XP":
        triplets = timit_triplets(folder, negative_is_of)
        source, target = out / f"triplets_{negative_is_of}.json", out / f"ssabx_{negative_is_of}.json"
        source.write_text(json.dumps(triplets, indent=1))
        sdhubert("evaluate", "ssabx", folder, source, "--checkpoint", "bundled", *EMBEDDINGS, "--json", target)
        names = {clip["file_name"] for triplet in triplets.values() for clip in triplet.values()}
        means = {name: log_mel(normalise(soundfile.read(folder / name)[0], 0.0)).mean(axis=0) for name in names}
        vectors = (np.stack([means[triplet[role]["file_name"]] for triplet in triplets.values()]) for role in "XPN")
        correct = int((ssabx_margins(*vectors) > 0).sum())
        interval = bootstrap_share(correct, len(triplets), 1000, 0)
        rows.setdefault("mean log-mel", []).append(percent({"value": correct / len(triplets), **asdict(interval)}))
        for score in json.loads(target.read_text())["scores"]:
            name = f"bundled, {score['embedding']}, layer {score['layer']}"
            rows.setdefault(name, []).append(percent(score["accuracy"]))
    print(f"\nSSABX, {len(triplets)} triplets of {len(names)} clips of TIMIT (intervals as if they were independent)\n")
    print("| embedding | N by X's speaker | N by P's speaker |\n|---|---|---|")
    print("\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} is there already; name a new folder")
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, python {platform.python_version()}", flush=True)
    make_tables(arguments.speech, arguments.out)
    evaluate_tables(arguments.speech, arguments.out)
    evaluate_ssabx(arguments.speech / "timit_nltk", arguments.out)


if __name__ == "__main__":
    main()
