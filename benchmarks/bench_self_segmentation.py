"""Sylber's two stages on real speech, with the bundled checkpoint as upstream and teacher, and what they change.

    python benchmarks/bench_self_segmentation.py SPEECH OUT [--steps 150 75] [--crops 6] [--threads 1]

SPEECH has manifest.jsonl and syllables_{librispeech,timit}_validation.json. `sdhubert segment` with the bundled
checkpoint gives the segments of the first stage, on the split `train` alone; the second begins with what the first has
made. Each is as `sdhubert train --config-name sylber_stage1` and `sylber_stage2`, in this process; what is scaled: the
upstream and its layer 5, crops per step, and steps, with a learning rate that falls. What is done in OUT is not done
again, and a run that was interrupted is gone on from.

Then boundaries on both validation sets, of each checkpoint cut by its own segmenters: `greedy` and `min-cut`, options
chosen on these very recordings by the greatest mean of F1 and R-value (protocol `sdhubert`, best shift of each corpus).
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_segmenters import coarse_grid
from in_process import train_in_process
from reporting import heading, record

from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.evaluation.tuning import Encoded, encode_references, tune_segmentation
from sdhubert_ray.metrics import BoundaryCounts, count_sdhubert, score_boundaries, tune_shift
from sdhubert_ray.speech.presets import PRESETS
from sdhubert_ray.speech.segmenters.greedy import GreedyOptions, greedy
from sdhubert_ray.speech.syllables import to_seconds
from sdhubert_ray.training.export import export_checkpoint
from sdhubert_ray.training.options import load_train_config

CORPORA = ("librispeech", "timit")
LAYER = 5
SHARES = np.arange(0.0, 0.85, 0.1)
MERGE_THRESHOLDS = np.round(np.arange(0.3, 0.97, 0.04), 6)


def train(stage: int, options: argparse.Namespace, overrides: Sequence[str]) -> Path:
    """The exported checkpoint of a stage, of its last step."""
    steps = options.steps[stage - 1]
    output, target = options.out / f"stage{stage}", options.out / f"stage{stage}.pt"
    config = load_train_config(
        f"sylber_stage{stage}",
        [
            f"data.source={options.speech / 'manifest.jsonl'}",
            "data.train_splits=[train]",
            "data.val_share=0.05",
            "data.num_workers=0",
            f"data.batch_size={options.crops}",
            "data.val_batch_size=15",
            f"segments.layer={LAYER}",
            f"max_steps={steps}",
            f"model.T_max={steps}",
            "model.gamma=0.1",
            "val_check_interval=75",
            "checkpoint.every_steps=25",
            "checkpoint.keep=1",
            *overrides,
        ],
        {},
    )
    train_in_process(config, output)
    export_checkpoint(str(output), str(target), "last")
    return target


def try_greedy(corpora: Sequence[Sequence[Encoded]]) -> Iterator[tuple[float, list[float], str]]:
    """Mean of F1 and R-value, F1 of each corpus, and the options, of greedy segments of whole recordings."""
    norms = np.concatenate([np.linalg.norm(one.states[LAYER], axis=1) for corpus in corpora for one in corpus])
    for share, merge in itertools.product(SHARES, MERGE_THRESHOLDS):
        rules = GreedyOptions(round(float(share * np.percentile(norms, 95)), 2), float(merge))
        scores = []
        for corpus in corpora:
            pairs = []
            for one in corpus:
                states = one.states[LAYER]
                whole = np.array([[0, len(states)]])
                pairs.append((one.syllables, to_seconds(greedy(states, one.amplitude, whole, options=rules))))
            best = tune_shift(pairs)
            if best is None:
                break
            counts = [count_sdhubert(*pair, best[0]) for pair in pairs]
            sums = np.sum([(each.matched, each.reference, each.predicted) for each in counts], axis=0)
            scores.append(score_boundaries(BoundaryCounts(*sums.tolist())))
        else:
            score = float(np.mean([(each.f1 + (each.r_value or 0.0)) / 2 for each in scores]))
            told = f"norm {rules.norm_threshold:g}, merge {rules.merge_threshold:g}"
            yield score, [each.f1 for each in scores], told


def evaluate(name: str, path: str, speech: Path) -> None:
    """A row for each segmenter."""
    checkpoint, base = fetch_checkpoint(path), PRESETS["readme"]
    last = checkpoint.upstream["num_hidden_layers"]
    files = [str(speech / f"syllables_{corpus}_validation.json") for corpus in CORPORA]
    corpora = [encode_references(checkpoint, file, str(speech), sorted({LAYER, last}), base) for file in files]
    grid = coarse_grid([(LAYER, last)], checkpoint.upstream["hidden_size"])
    tuned = tune_segmentation(corpora, base, replace(grid, merge_thresholds=MERGE_THRESHOLDS.tolist()))
    speech_options, cut = tuned.options.speech, tuned.options.syllables
    told = f"{speech_options.normcut_strategy} norm {speech_options.normcut_threshold:g}, syl_dur {cut.syl_dur:g}, "
    told += f"drop {cut.drop_frames}, merge {cut.merge_threshold:g}"
    rows = [("min-cut", tuned.score, [one.f1 for one in tuned.scores], told)]
    rows.append(("greedy", *max(try_greedy(corpora))))
    for segmenter, score, figures, about in rows:
        cells = " | ".join(f"{100 * figure:.1f}" for figure in figures)
        print(f"| {name} | {segmenter} | {cells} | {100 * score:.1f} | {about} |", flush=True)
        for corpus, figure in zip(CORPORA, figures, strict=True):
            record(f"{name}, {segmenter}, {corpus} validation: f1", figure, "ratio")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path, help="a folder; what is done there is not done again")
    parser.add_argument("--steps", type=int, nargs=2, default=(150, 75), help="of both stages")
    parser.add_argument("--crops", type=int, default=6, help="per step, of which the recipe has 100")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    return parser.parse_args()


def main() -> None:
    """Segment, train both stages, and print the table."""
    options = parse()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    given = options.out / "given"
    command = [sys.executable, "-m", "sdhubert_ray", "segment", options.speech / "manifest.jsonl", given]
    chosen = ["--where", "split=train", "--checkpoint", "bundled", "--engine", "local"]
    subprocess.run([*map(str, command), *chosen], check=True, stdout=subprocess.DEVNULL)
    stage1 = train(1, options, [f"segments.source={given}", "model.speech_upstream=bundled", "model.warmup_steps=25"])
    found = ["segments.speech_norm=null", "segments.quiet_norm=null", "model.ema_decay=0.999"]
    stage2 = train(2, options, [f"model.speech_upstream={stage1}", *found])
    print(f"{heading()}; {options.steps[0]} and {options.steps[1]} steps of {options.crops} crops of 5.01 s")
    print("| checkpoint | segmenter | LibriSpeech F1 | TIMIT F1 | mean of F1 and R-value | options |")
    print("|---|---|---|---|---|---|")
    for name, path in (("bundled", "bundled"), ("stage 1", str(stage1)), ("stage 2", str(stage2))):
        evaluate(name, path, options.speech)


if __name__ == "__main__":
    main()
