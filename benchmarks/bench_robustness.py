"""A checkpoint on speech that is worse than what it was trained on, and on what is no speech at all.

    python benchmarks/bench_robustness.py SPEECH_FOLDER OUT [--checkpoint bundled]

Tables: boundaries of the test recordings (TIMIT, LibriSpeech test-other), made worse in one way at a time, at the
shift that validation recordings chose as they are; how many syllables are found for each that was said, where only that
is known (languages, learners and children, telephone); and syllables found in what is no speech.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
from reporting import record

from sdhubert_ray.evaluation import load_references
from sdhubert_ray.output import read_segments
from sdhubert_ray.speech.audio import SAMPLE_RATE, resample

SDHUBERT = Path(sys.executable).parent / "sdhubert"
CORPORA = {"timit": "syllables=hand", "librispeech": "syllables=forced-alignment"}
SECONDS = 30

Samples = np.ndarray
Worsen = Callable[[Samples, np.random.Generator], Samples]


def noisy(ratio: float) -> Worsen:
    """White noise, `ratio` dB weaker than the speech."""

    def worsen(samples: Samples, draw: np.random.Generator) -> Samples:
        level = np.sqrt(np.mean(samples**2)) * 10 ** (-ratio / 20)
        return samples + level * draw.standard_normal(len(samples))

    return worsen


def telephone(samples: Samples, _: np.random.Generator) -> Samples:
    """300 to 3,400 Hz, at 8 kHz."""
    band = scipy.signal.butter(6, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos")
    return scipy.signal.sosfilt(band, samples)[::2]


def clipped(samples: Samples, _: np.random.Generator) -> Samples:
    """A tenth of the samples is at the limit."""
    limit = np.quantile(np.abs(samples), 0.9)
    return np.clip(samples, -limit, limit)


def in_a_hall(samples: Samples, draw: np.random.Generator) -> Samples:
    """Reverberation time 0.8 s, its tail as loud as the direct sound."""
    length = int(0.8 * SAMPLE_RATE)
    tail = draw.standard_normal(length) * np.exp(-np.log(1000) * np.arange(length) / length)
    tail /= np.sqrt(np.sum(tail**2))
    tail[0] = 1
    return scipy.signal.fftconvolve(samples, tail)[: len(samples)]


WORSE: dict[str, tuple[Worsen, int]] = {
    "as it is": (lambda samples, _: samples, SAMPLE_RATE),
    "telephone band, 8 kHz": (telephone, SAMPLE_RATE // 2),
    "white noise, 20 dB": (noisy(20), SAMPLE_RATE),
    "white noise, 10 dB": (noisy(10), SAMPLE_RATE),
    "white noise, 5 dB": (noisy(5), SAMPLE_RATE),
    "white noise, 0 dB": (noisy(0), SAMPLE_RATE),
    "hall of 0.8 s": (in_a_hall, SAMPLE_RATE),
    "a tenth clipped": (clipped, SAMPLE_RATE),
}


def sdhubert(*arguments: object) -> None:
    subprocess.run([str(SDHUBERT), *map(str, arguments)], stdout=subprocess.DEVNULL, check=True)


def write(path: Path, samples: Samples, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * samples / max(1e-9, np.abs(samples).max()), rate, subtype="PCM_16")


def measure_worse(speech: Path, out: Path, checkpoint: str) -> None:
    print("\n| test recordings | TIMIT F1 | TIMIT R-value | LibriSpeech F1 | LibriSpeech R-value |")
    print("|---|---|---|---|---|")
    shifts = {}
    for corpus, condition in CORPORA.items():
        references = speech / f"syllables_{corpus}_validation.json"
        table = out / "validation" / corpus
        where = ("--where", condition, "--where", "split=validation")
        sdhubert("segment", speech / "manifest.jsonl", table, *where, "--checkpoint", checkpoint)
        shifts[corpus] = ("--tune", references, "--tune-segments", table)
    for name, (worsen, rate) in WORSE.items():
        cells = []
        for corpus in CORPORA:
            references = speech / f"syllables_{corpus}_test.json"
            folder = out / "worse" / name.replace(" ", "_") / corpus
            draw = np.random.default_rng(0)
            for one in load_references(str(references)):
                samples, found = soundfile.read(speech / one.file_name, dtype="float32")
                worse = worsen(resample(samples, found).astype(np.float64), draw)
                write((folder / "audio" / one.file_name).with_suffix(".wav"), worse, rate)
            sdhubert("segment", folder / "audio", folder / "out", "--checkpoint", checkpoint, "--overwrite")
            result = folder / "result.json"
            sdhubert("evaluate", "boundary", folder / "out", references, *shifts[corpus], "--json", result)
            figures = json.loads(result.read_text())["protocols"]["sdhubert"]
            cells += [percent(figures["f1"]), percent(figures["r_value"])]
            for figure in ("f1", "r_value"):
                record(f"{corpus} test, {name}: {figure}", figures[figure]["value"], "ratio")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def measure_scattered(speech: Path, out: Path) -> None:
    """The recordings of the robustness split that have references."""
    references = speech / "syllables_librispeech_robustness.json"
    validation = speech / "syllables_librispeech_validation.json"
    tuning = ("--tune", validation, "--tune-segments", out / "validation" / "librispeech")
    result = out / "scattered.json"
    sdhubert("evaluate", "boundary", out / "robustness", references, *tuning, "--json", result)
    figures = json.loads(result.read_text())["protocols"]["sdhubert"]
    print(f"\n{figures['utterances']} scattered recordings of LibriSpeech: ", end="")
    print(f"F1 {percent(figures['f1'])}, R-value {percent(figures['r_value'])}", flush=True)


def percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


# -- how many syllables


def count_said(row: dict[str, str]) -> int | None:
    """Syllables of a transcript: characters of Mandarin; else what espeak-ng has vowels for, by language."""
    if row["language"] == "zh":
        return sum("\u4e00" <= character <= "\u9fff" for character in row["transcript"])
    vowels = "aeiouyæɑɒɔəɛɜɪʊʌøœɐɨɯɤɵ\u1d7b\u025a"  # noqa: RUF001
    voice = {"en": "en-us", "pt": "pt-br"}.get(row["language"], row["language"])
    spoken = subprocess.run(
        ["espeak-ng", "-q", "--ipa", "-v", voice, row["transcript"]], capture_output=True, text=True, check=True
    ).stdout
    count, before = 0, False
    for character in spoken:
        vowel = character in vowels
        count += vowel and not before
        before = vowel or (before and character in "ːˑ\u0303")
    return count


def measure_counts(speech: Path, out: Path, checkpoint: str) -> None:
    rows = [json.loads(line) for line in (speech / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "robustness" and row["transcript"] and row["kind"] == "speech"]
    rows = [row for row in rows if row["language"] != "ja"]  # what espeak-ng has no readings for
    sdhubert(
        "segment",
        speech / "manifest.jsonl",
        out / "robustness",
        "--where",
        "split=robustness",
        "--checkpoint",
        checkpoint,
    )
    found = {one.id: len(one.segments) for one in read_segments(str(out / "robustness"))}
    groups: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        name = f"{row['uri'].split('/')[0]}, {row['language']}"
        groups.setdefault(name, []).append((found[row["id"]], count_said(row) or 0))
    print("\n| recordings | how many | syllables found | said, about | found for each said |\n|---|---|---|---|---|")
    for name, counts in sorted(groups.items()):
        here, said = np.sum(counts, axis=0)
        print(f"| {name} | {len(counts)} | {here} | {said} | {here / said:.2f} |", flush=True)
        record(f"{name}: found for each said", here / said, "ratio")


# -- no speech


def no_speech() -> dict[str, Samples]:
    draw = np.random.default_rng(0)
    times = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    white = draw.standard_normal(len(times))
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.maximum(np.fft.rfftfreq(len(times)), 1e-4)), len(times))
    swelling = pink * (1 + np.sin(2 * np.pi * 0.5 * times))
    chords = np.zeros(len(times))
    for number, begin in enumerate(range(0, len(times), SAMPLE_RATE // 2)):
        part = times[: len(times) - begin][: SAMPLE_RATE // 2]
        for tone in 220 * 2 ** (np.array([0, 4, 7]) / 12 + (number * 5 % 12) / 12):
            chords[begin : begin + len(part)] += np.sin(2 * np.pi * tone * part) * np.exp(-4 * part)
    clicks = (draw.random(len(times)) < 2 / SAMPLE_RATE).astype(float)
    return {
        "white noise": white,
        "pink noise": pink,
        "pink noise that swells and fades": swelling,
        "a tone of 440 Hz": np.sin(2 * np.pi * 440 * times),
        "chords, two a second": chords,
        "hum of 50 Hz with harmonics": sum(np.sin(2 * np.pi * 50 * k * times) / k for k in range(1, 9)),
        "clicks, two a second": clicks + 1e-4 * white,
        "silence with the noise of 16 bits": np.round(white) / 32768,
        "digital silence": np.zeros(len(times)),
    }


def measure_no_speech(speech: Path, out: Path, checkpoint: str) -> None:
    folder = out / "no_speech"
    for name, samples in no_speech().items():
        write(folder / "audio" / f"{name}.wav", samples, SAMPLE_RATE)
        write(folder / "audio" / f"{name}, 8 kHz.wav", scipy.signal.resample_poly(samples, 1, 2), SAMPLE_RATE // 2)
    for path in sorted((speech / "noise_only").iterdir()):
        samples, rate = soundfile.read(path, dtype="float32")
        write(folder / "audio" / f"recorded noise, {path.stem}.wav", samples, rate)
    sdhubert("segment", folder / "audio", folder / "out", "--checkpoint", checkpoint, "--overwrite")
    print("\n| no speech | seconds | syllables | for each second |\n|---|---|---|---|")
    for one in read_segments(str(folder / "out")):
        count = len(one.segments)
        name = one.id.removesuffix(".wav")
        print(f"| {name} | {one.duration:.0f} | {count} | {count / one.duration:.2f} |", flush=True)
        record(f"no speech, {name}", count / one.duration, "syllables per s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", default="bundled")
    given = parser.parse_args()
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, python {platform.python_version()}", flush=True)
    measure_worse(given.speech, given.out, given.checkpoint)
    measure_counts(given.speech, given.out, given.checkpoint)
    measure_scattered(given.speech, given.out)
    measure_no_speech(given.speech, given.out, given.checkpoint)


if __name__ == "__main__":
    main()
