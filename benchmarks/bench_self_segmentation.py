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
from sdhubert_ray.speech.presets import PRESETS, SegmentationOptions, with_values
from sdhubert_ray.speech.segmenters.greedy import GreedyOptions, greedy
from sdhubert_ray.speech.spans import Spans, SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import to_seconds
from sdhubert_ray.training.export import export_checkpoint
from sdhubert_ray.training.options import load_train_config

CORPORA = ("librispeech", "timit")
LAYER = 5
QUIET_PERCENT = (5, 10, 15, 20, 25, 30, 40)
MERGE_THRESHOLDS = np.round(np.arange(0.3, 0.97, 0.04), 6)
SYL_DURS = (0.1, 0.15, 0.2)
Row = tuple[float, list[float], str]
"""The mean of F1 and R-value, F1 of each corpus, and the options."""


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


def score(corpora: Sequence[Sequence[Encoded]], found: Sequence[Sequence[Spans]]) -> tuple[float, list[float]] | None:
    """Mean of F1 and R-value over corpora, each at its best shift, and F1 of each; none where nothing is matched."""
    scores = []
    for corpus, segments in zip(corpora, found, strict=True):
        pairs = [(one.syllables, to_seconds(spans)) for one, spans in zip(corpus, segments, strict=True)]
        best = tune_shift(pairs)
        if best is None:
            return None
        counts = [count_sdhubert(*pair, best[0]) for pair in pairs]
        sums = np.sum([(each.matched, each.reference, each.predicted) for each in counts], axis=0)
        scores.append(score_boundaries(BoundaryCounts(*sums.tolist())))
    return float(np.mean([(each.f1 + (each.r_value or 0.0)) / 2 for each in scores])), [each.f1 for each in scores]


def cut_greedily(one: Encoded, rules: GreedyOptions, speech: SpeechOptions | None, last: int) -> Spans:
    """Greedy segments of a recording: of all of it, or of what is speech by the norms of the last layer."""
    states = one.states[LAYER]
    spans = np.array([[0, len(states)]])
    if speech is not None:
        spans = find_speech(np.linalg.norm(one.states[last], axis=1), one.amplitude, speech).spans
    return greedy(states, one.amplitude, spans, options=rules)


def try_greedy(corpora: Sequence[Sequence[Encoded]], speech: SpeechOptions, last: int) -> Iterator[Row]:
    """Greedy segments with all norm and merge thresholds, and within the speech that suits min-cut best."""
    norms = np.concatenate([np.linalg.norm(one.states[LAYER], axis=1) for corpus in corpora for one in corpus])
    quiet = [0.0, *np.percentile(norms, QUIET_PERCENT).round(3).tolist()]
    ways: list[tuple[float, SpeechOptions | None]] = [*((threshold, None) for threshold in quiet), (0.0, speech)]
    for (threshold, within), merge in itertools.product(ways, MERGE_THRESHOLDS.tolist()):
        rules = GreedyOptions(threshold, merge)
        scored = score(corpora, [[cut_greedily(one, rules, within, last) for one in corpus] for corpus in corpora])
        if scored is not None:
            told = f"norm {threshold:g}, merge {merge:g}{'' if within is None else ', in the speech of min-cut'}"
            yield *scored, told


def evaluate(name: str, path: str, speech: Path) -> None:
    """A row for each segmenter."""
    checkpoint, base = fetch_checkpoint(path), PRESETS["readme"]
    last = checkpoint.upstream["num_hidden_layers"]
    files = [str(speech / f"syllables_{corpus}_validation.json") for corpus in CORPORA]
    corpora = [encode_references(checkpoint, file, str(speech), sorted({LAYER, last}), base) for file in files]
    grid = coarse_grid([(LAYER, last)], checkpoint.upstream["hidden_size"])
    cuts = [cut for cut in grid.cuts if cut.syl_dur in SYL_DURS]
    tuned = tune_segmentation(corpora, base, replace(grid, cuts=cuts, merge_thresholds=MERGE_THRESHOLDS.tolist()))
    found, cut = tuned.options.speech, tuned.options.syllables
    told = f"{found.normcut_strategy} norm {found.normcut_threshold:g}, syl_dur {cut.syl_dur:g}, "
    told += f"drop {cut.drop_frames}, merge {cut.merge_threshold:g}"
    rows: list[tuple[str, Row]] = [("min-cut", (tuned.score, [one.f1 for one in tuned.scores], told))]
    rows.append(("greedy", max(try_greedy(corpora, found, last))))
    if "greedy" in checkpoint.options.get("syllables", {}):
        exported = with_values(SegmentationOptions(), checkpoint.options).syllables.greedy
        scored = score(corpora, [[cut_greedily(one, exported, None, last) for one in corpus] for corpus in corpora])
        told = f"norm {exported.norm_threshold:g}, merge {exported.merge_threshold:g}"
        rows.append(("greedy, as exported", (*(scored or (0.0, [0.0] * len(CORPORA))), told)))
    for segmenter, (total, figures, about) in rows:
        cells = " | ".join(f"{100 * figure:.1f}" for figure in figures)
        print(f"| {name} | {segmenter} | {cells} | {100 * total:.1f} | {about} |", flush=True)
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
