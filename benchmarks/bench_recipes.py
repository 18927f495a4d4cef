"""The first steps of both recipes on real speech, side by side, scaled to a machine without a GPU.

    python benchmarks/bench_recipes.py SOURCE OUT [--split train] [--steps 300] [--every 50] [--crops 8] [--seconds 2.5]
                                       [--upstream bundled] [--reinit 3,4,5] [--threads 1]

SOURCE is anything that `sdhubert train data.source=` takes. Each recipe is a run in OUT/NAME, as `sdhubert train` makes
it, but in this process, without Ray: what is done is not done again, and one that was interrupted is gone on from. What
is scaled: the upstream, of which the last three layers begin anew; crops per step (`--crops` for `sdhubert_paper`,
twice as many for `sdhubert_base`, in two micro-batches, with a loss that is the sum over `--crops`); their length.
Rates, schedule, teacher, temperatures, head and center are those of the recipes. A row of step s is of the weights
after s steps: of what step s + 1 begins with.
"""

import argparse
from pathlib import Path

import torch
from in_process import train_in_process
from reporting import heading, record

from sdhubert_ray.training.metrics import read_metrics
from sdhubert_ray.training.options import load_train_config

RECIPES = ("sdhubert_paper", "sdhubert_base")
COLUMNS = {
    "loss": "loss",
    "teacher_entropy": "entropy",
    "student_cls_spread": "CLS std",
    "token_spread": "token std",
    "grad_norm": "gradient",
}


def scaled(recipe: str, options: argparse.Namespace) -> list[str]:
    """The options that differ from the recipe's."""
    overrides = [
        f"data.source={options.source}",
        f"data.train_splits=[{options.split}]" if options.split else "data.train_splits=[]",
        "data.val_share=0",
        f"data.batch_size={options.crops}",
        f"data.sample_len={options.seconds}",
        f"model.speech_upstream={options.upstream}",
        f"model.reinit_layers=[{options.reinit}]",
        "scaling.num_workers=1",
        "data.num_workers=0",
        f"max_steps={options.steps + 1}",
        "log_every_n_steps=1",
        "checkpoint.every_steps=25",
        "checkpoint.keep=1",
    ]
    if recipe == "sdhubert_base":
        overrides += ["optim.accumulate_grad_batches=2", f"model.loss_coefs.distillation_loss={options.crops}"]
    return overrides


def train(recipe: str, options: argparse.Namespace) -> dict[int, dict[str, str]]:
    """Rows of metrics.csv by the number of steps that the weights had been trained for."""
    output = options.out / recipe
    train_in_process(load_train_config(recipe, scaled(recipe, options), {}), output)
    return {int(row["step"]) - 1: row for row in read_metrics(str(output))}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, help="a folder; what is done there is not done again")
    parser.add_argument("--split", default="train", help="values of the column `split` to train with; empty takes all")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=50, help="steps from one row to the next")
    parser.add_argument("--crops", type=int, default=8, help="crops per GPU of the recipe, which has 100")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of a crop, of which the recipe has 5.01")
    parser.add_argument("--upstream", default="bundled")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--reinit", default="3,4,5", help="layers that begin anew")
    return parser.parse_args()


def main() -> None:
    """Train by both recipes, and print the table."""
    options = parse()
    torch.set_num_threads(options.threads)
    rows = {recipe: train(recipe, options) for recipe in RECIPES}
    print(f"{heading()}; source {options.source.name}")
    print(f"upstream {options.upstream}, layers {options.reinit} anew, crops of {options.seconds:g} s, ", end="")
    print(f"{options.crops} a step in sdhubert_paper, 2 x {options.crops} in sdhubert_base")
    print("step | " + " | ".join(f"{recipe:^{10 * len(COLUMNS)}}" for recipe in RECIPES))
    print("     | " + " | ".join("".join(f"{title:>10}" for title in COLUMNS.values()) for _ in RECIPES))
    for step in range(0, options.steps + 1, options.every):
        cells = ("".join(f"{float(rows[recipe][step][name]):10.3f}" for name in COLUMNS) for recipe in RECIPES)
        print(f"{step:4} | " + " | ".join(cells))
        for recipe in RECIPES:
            for name in COLUMNS:
                record(f"{recipe}, step {step}: {name}", float(rows[recipe][step][name]), "")
    skipped = {recipe: float(rows[recipe][options.steps]["skipped_steps"]) for recipe in RECIPES}
    print("skipped steps: " + ", ".join(f"{recipe} {count:.0f}" for recipe, count in skipped.items()))


if __name__ == "__main__":
    main()
