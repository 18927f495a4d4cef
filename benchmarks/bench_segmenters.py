"""Segmenters compared on real speech, each with options chosen by the same search on the validation recordings.

    python benchmarks/bench_segmenters.py SPEECH_FOLDER OUT [--checkpoint NAME=PATH ...]

SPEECH_FOLDER has manifest.jsonl and syllables_{librispeech,timit}_{validation,test}.json. Compared are

    bundled       `sdhubert segment --checkpoint bundled`, with the options that it brings
    NAME          another checkpoint
    random        random weights in the shape of the bundled one
    mel min-cut   log-mel spectrogram (25 ms windows, 80 bands, z-scored), speech by its level, our min-cut and merge
    mel valleys   speech by level, cut where the smoothed level has a valley
    energy valleys  the same of the log of the mean |sample| of a frame
    uniform       a segment every 0.2 s

The search: the greatest mean of F1 and R-value (protocol `sdhubert`, best shift of each corpus), over both corpora; the
recipe of the bundled checkpoint has made it for that one, among absolute norms. Of
checkpoints also: purity of 256 and 1,024 units, k-means on the train split; and spoken-sentence ABX, on sentences that
espeak-ng says in several voices (it has to be installed), and on two sentences that all speakers of TIMIT say. What is
done already in OUT is not done again.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from reporting import record
from triplets import say_triplets, timit_triplets

from sdhubert_ray.comparing.baselines import BASELINES, ENERGY, MEL, Baseline, encode_mel, run_baseline
from sdhubert_ray.corpus import Selection
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import pack_checkpoint
from sdhubert_ray.encoder.model import build_encoder
from sdhubert_ray.evaluation import find_reference, load_references
from sdhubert_ray.evaluation.tuning import Encoded, Grid, encode_references, make_grid, tune_segmentation
from sdhubert_ray.metrics import (
    BoundaryCounts,
    bootstrap_share,
    count_sdhubert,
    score_boundaries,
    ssabx_margins,
    tune_shift,
)
from sdhubert_ray.output import read_segments
from sdhubert_ray.speech.audio import normalise, resample
from sdhubert_ray.speech.mel import BANDS, log_mel
from sdhubert_ray.speech.presets import PRESETS, SegmentationOptions
from sdhubert_ray.speech.segmenters import ValleyOptions
from sdhubert_ray.speech.spans import SpeechOptions

SDHUBERT = Path(sys.executable).parent / "sdhubert"
CORPORA = {"librispeech": "syllables=forced-alignment", "timit": "syllables=hand"}
PARTS = ("validation", "test")
PROTOCOLS = {"sdhubert": "shift", "onsets_offsets": None, "zerosyl": "zerosyl_shift"}
"""And what the figures call the shift of each."""
FIGURES = ("precision", "recall", "f1", "r_value")
CLUSTERS = (256, 1024)
MEL_SPEECH = tuple(SpeechOptions("relative", share / 10, silence_threshold=None) for share in range(1, 9))
SMOOTHINGS, PROMINENCES = (1.0, 1.5, 2.0, 3.0), (0.0, 0.01, 0.02, 0.05)


class Recording(NamedTuple):
    samples: np.ndarray
    syllables: np.ndarray


def sdhubert(*arguments: object) -> None:
    subprocess.run([str(SDHUBERT), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def read_recordings(speech: Path, corpus: str, part: str) -> list[Recording]:
    """The recordings of a reference file, z-scored at 16 kHz."""
    found = []
    for one in load_references(str(speech / f"syllables_{corpus}_{part}.json")):
        samples, rate = soundfile.read(speech / one.file_name, dtype="float32")
        found.append(Recording(normalise(resample(samples, rate), 0), one.syllables))
    return found


# -- without an encoder


def encode(samples: np.ndarray, syllables: np.ndarray) -> Encoded:
    features, level, amplitude = encode_mel(samples)
    return Encoded({0: features}, amplitude, syllables, level)


def coarse_grid(layers: Sequence[tuple[int, int]], width: int) -> Grid:
    """What is tried of each: every second merge threshold of the recipe's."""
    grid = make_grid(layers, width)
    return replace(grid, merge_thresholds=grid.merge_thresholds[::2])


def choose_baselines(corpora: list[list[Recording]]) -> dict[str, Baseline]:
    mel = [[encode(one.samples, one.syllables) for one in corpus] for corpus in corpora]
    tuned = tune_segmentation(mel, PRESETS["readme"], replace(coarse_grid([(0, 0)], BANDS), speech=MEL_SPEECH))
    options = tuned.options
    print(f"mel min-cut takes {overrides_of(options)}, chosen on validation", flush=True)
    found = {"mel min-cut": Baseline(MEL, options.speech, options.syllables)}
    for name, level in (("mel valleys", MEL), ("energy valleys", ENERGY)):
        candidates = [
            Baseline(level, speech, ValleyOptions(smoothing, prominence))
            for speech, smoothing, prominence in itertools.product(MEL_SPEECH, SMOOTHINGS, PROMINENCES)
        ]
        found[name] = max(candidates, key=functools.partial(mean_score, corpora))
        print(f"{name} takes {found[name]}, chosen on validation", flush=True)
    return {**found, "uniform": BASELINES["uniform"]}


def mean_score(corpora: list[list[Recording]], baseline: Baseline) -> float:
    """As `tune_segmentation` has it: the mean of F1 and R-value, over corpora, each at its best shift."""
    scores = []
    for corpus in corpora:
        pairs = [(one.syllables, baseline.segment(one.samples)) for one in corpus]
        best = tune_shift(pairs)
        if best is None:
            return -np.inf
        counts = [count_sdhubert(*pair, best[0]) for pair in pairs]
        sums = np.sum([(one.matched, one.reference, one.predicted) for one in counts], axis=0)
        found = score_boundaries(BoundaryCounts(*sums.tolist()))
        scores.append((found.f1 + (found.r_value or 0)) / 2)
    return float(np.mean(scores))


# -- with an encoder


def write_random(path: Path) -> None:
    """Random weights in the shape of the bundled checkpoint."""
    shape = fetch_checkpoint("bundled").upstream
    torch.manual_seed(0)
    path.write_bytes(pack_checkpoint({"speech_upstream": "random"}, shape, build_encoder(shape).state_dict(), {}))


def choose_options(speech: Path, path: str) -> list[str]:
    """Overrides for `sdhubert segment`, chosen on validation; the last three layers are tried."""
    checkpoint = fetch_checkpoint(path)
    last = checkpoint.upstream["num_hidden_layers"]
    base, layers = PRESETS["readme"], (last, last - 1, last - 2)
    pairs = [*((layer, layer) for layer in layers), *((layer, last) for layer in layers[1:])]
    files = [str(speech / f"syllables_{corpus}_validation.json") for corpus in CORPORA]
    corpora = [encode_references(checkpoint, file, str(speech), layers, base) for file in files]
    tuned = tune_segmentation(corpora, base, coarse_grid(pairs, checkpoint.upstream["hidden_size"]))
    return overrides_of(tuned.options)


def overrides_of(options: SegmentationOptions) -> list[str]:
    """What differs from preset `readme`, as overrides of the command line."""
    changed = []
    for section, values in asdict(options).items():
        defaults = asdict(PRESETS["readme"])[section]
        changed += [
            f"{section}.{key}={'null' if value is None else value}"
            for key, value in values.items()
            if value != defaults[key]
        ]
    return changed


def segment(speech: Path, path: str, overrides: list[str], out: Path) -> None:
    options = ("--checkpoint", path, "--engine", "local", *overrides)
    for corpus, condition in CORPORA.items():
        for part in PARTS:
            where = ("--where", condition, "--where", f"split={part}")
            sdhubert("segment", speech / "manifest.jsonl", out / f"{corpus}_{part}", *where, *options)
    sdhubert("segment", speech / "manifest.jsonl", out / "train", "--where", "split=train", *options)


def evaluate_boundaries(speech: Path, out: Path, names: list[str]) -> None:
    for corpus, part in itertools.product(CORPORA, PARTS):
        results = {}
        validation = speech / f"syllables_{corpus}_validation.json"
        for name in names:
            result = out / name / f"{corpus}_{part}.json"
            if part == "test":
                shift: list[object] = ["--tune", validation, "--tune-segments", out / name / f"{corpus}_validation"]
            else:  # chosen on these very recordings, and said so
                truths = load_references(str(validation))
                table = read_segments(str(out / name / f"{corpus}_validation"))
                found = [(find_reference(truths, one.id), one.segments) for one in table]
                pairs = [(truth.syllables, segments) for truth, segments in found if truth is not None]
                best = tune_shift(pairs)
                shift = ["--shift", round(best[0], 3) if best else 0]
            references = speech / f"syllables_{corpus}_{part}.json"
            sdhubert("evaluate", "boundary", out / name / f"{corpus}_{part}", references, *shift, "--json", result)
            results[name] = json.loads(result.read_text())
        for protocol, shifted in PROTOCOLS.items():
            first = next(iter(results.values()))
            counts, missing, extra = first["protocols"][protocol], first["missing"]["count"], first["extra"]["count"]
            about = f"{counts['utterances']} recordings joined, {missing} missing, {extra} extra; "
            about += f"{counts['reference']} boundaries"
            print(f"\n{corpus} {part}, protocol `{protocol}`: {about}\n")
            print(f"| segmenter | shift | {' | '.join(FIGURES)} | segments/s |\n|{'---|' * (len(FIGURES) + 3)}")
            for name, figures in results.items():
                cells = [percent(figures["protocols"][protocol][figure]) for figure in FIGURES]
                moved = f"{round(1000 * figures[shifted]['seconds'])} ms" if shifted else ""
                print(f"| {name} | {moved} | {' | '.join(cells)} | {figures['token_rate']['hertz']:.2f} |", flush=True)
                record(
                    f"{corpus} {part}, {protocol}, {name}: f1", figures["protocols"][protocol]["f1"]["value"], "ratio"
                )


def evaluate_purity(speech: Path, out: Path, names: list[str]) -> None:
    print("\nPurity on the test recordings, protocol `strict`; k-means on the train split\n")
    print("| checkpoint | units | corpus | cluster purity | syllable purity |\n|---|---|---|---|---|")
    for name, count in itertools.product(names, CLUSTERS):
        quantizer = out / name / f"units_{count}"
        number = ("--n-clusters", count, "--n-units", count)
        sdhubert("cluster", out / name / "train", quantizer, *number, "--engine", "local")
        for corpus in CORPORA:
            tested = (out / name / f"{corpus}_test", speech / f"syllables_{corpus}_test.json")
            target = out / name / f"purity_{count}_{corpus}.json"
            sdhubert("evaluate", "purity", *tested, "--quantizer", quantizer, "--json", target)
            found = json.loads(target.read_text())["protocols"]["strict"]
            cells = [percent(found[figure]) for figure in ("cluster_purity", "syllable_purity")]
            print(f"| {name} | {count} | {corpus} | {' | '.join(cells)} |", flush=True)


def percent(figure: dict[str, float]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


# -- spoken-sentence ABX


def evaluate_ssabx(root: Path, about: str, triplets: dict, checkpoints: dict[str, str], out: Path) -> None:
    source = out / f"triplets_{about}.json"
    source.write_text(json.dumps(triplets, indent=1))
    names = {clip["file_name"] for triplet in triplets.values() for clip in triplet.values()}
    means = {}
    for name in names:
        samples, rate = soundfile.read(root / name, dtype="float32")
        means[name] = log_mel(normalise(resample(samples, rate), 0)).mean(axis=0)
    vectors = (np.stack([means[triplet[role]["file_name"]] for triplet in triplets.values()]) for role in "XPN")
    correct = int((ssabx_margins(*vectors) > 0).sum())
    interval = bootstrap_share(correct, len(triplets), 1000, 0)
    print(f"\nSSABX {about}: {len(triplets)} triplets of {len(names)} clips (intervals as if they were independent)\n")
    print("| embedding | correct |\n|---|---|")
    print(f"| mean log-mel | {percent({'value': correct / len(triplets), **asdict(interval)})} |")
    for name, path in checkpoints.items():
        layers = fetch_checkpoint(path).upstream["num_hidden_layers"]
        options = (
            "--embedding",
            "favg",
            *itertools.chain(*(("--layer", layer) for layer in range(layers - 2, layers + 1))),
        )
        target = out / name / f"ssabx_{about}.json"
        sdhubert("evaluate", "ssabx", root, source, "--checkpoint", path, *options, "--json", target)
        for score in json.loads(target.read_text())["scores"]:
            print(f"| {name}, mean of layer {score['layer']} | {percent(score['accuracy'])} |", flush=True)


def parse_checkpoint(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path


def tables(speech: Path, out: Path, checkpoints: dict[str, str]) -> Iterator[str]:
    """Make the tables that are not there yet, and tell what they are of."""
    for name, path in checkpoints.items():
        done = out / name / "options.json"
        if not done.exists():
            done.parent.mkdir(parents=True, exist_ok=True)
            overrides = [] if name == "bundled" else choose_options(speech, path)
            half = done.with_suffix(".part")
            half.write_text(json.dumps({"checkpoint": fetch_checkpoint(path).sha256, "overrides": overrides}))
            half.rename(done)
        chosen = json.loads(done.read_text())
        if chosen["checkpoint"] != fetch_checkpoint(path).sha256:
            raise SystemExit(f"{out / name} is of another checkpoint than {path}; remove it")
        overrides = chosen["overrides"]
        print(f"{name} takes {', '.join(overrides) or 'what it brings'}", flush=True)
        segment(speech, path, overrides, out / name)
        yield name
    validation = [read_recordings(speech, corpus, "validation") for corpus in CORPORA]
    for name, baseline in choose_baselines(validation).items():
        for (corpus, condition), part in itertools.product(CORPORA.items(), PARTS):
            chosen = Selection((condition, f"split={part}"))
            run_baseline(name, baseline, [str(speech / "manifest.jsonl")], str(out / name / f"{corpus}_{part}"), chosen)
        yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path, help="a folder; what is done there is not done again")
    parser.add_argument("--checkpoint", type=parse_checkpoint, action="append", default=[], metavar="NAME=PATH")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, python {platform.python_version()}", flush=True)
    checkpoints = {"bundled": "bundled", **dict(given.checkpoint), "random": str(given.out / "random.pt")}
    write_random(given.out / "random.pt")
    names = list(tables(given.speech, given.out, checkpoints))
    evaluate_boundaries(given.speech, given.out, names)
    evaluate_purity(given.speech, given.out, list(checkpoints))
    said = given.out / "said"
    evaluate_ssabx(said, "espeak", say_triplets(said), checkpoints, given.out)
    for speaker in "XP":
        triplets = timit_triplets(given.speech / "timit_nltk", speaker)
        evaluate_ssabx(given.speech / "timit_nltk", f"timit_{speaker}", triplets, checkpoints, given.out)


if __name__ == "__main__":
    main()
