"""Time and memory of a training step, against a plain implementation of the original recipe, in one run.

    python benchmarks/bench_train.py [--size base] [--batch 4] [--seconds 5.01] [--steps 3] [--device cpu] [--compile]
                                     [--source FOLDER_OF_SPEECH]

`plain`: float32; the library's extractor and attention as they come, with autograd going through the extractor (its
weights are frozen, but in training mode the library asks for the gradient of its input); each sample perturbed by
itself in Python; AdamW as torch makes it by default; teacher and center moved by a loop over parameters.
`ours`: what `sdhubert train` does in a step, in bfloat16 autocast on a GPU.

Random weights and noise. Each is measured in processes of its own, by turns, so that other work on the machine meets
both; a time is the best of all steps, and the time of the CPU leaves out what other work took away. Memory is the most
that the process held (CPU, all included) or that torch had allocated (GPU). A third process tells what the step of
`ours` is made of, and how near it is to the rate at which the machine multiplies large matrices. With `--source`, one
process reads crops of these recordings, as the loader does: how many of them a GPU needs follows from its crops per s.
"""

import argparse
import copy
import datetime
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from reporting import record
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig

from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.training.data import CropReader, Share, TrainingOrder
from sdhubert_ray.training.distillation import (
    Distillation,
    DistillationOptions,
    Head,
    reinitialise,
    sum_over_workers,
    summarise,
)
from sdhubert_ray.training.options import DataOptions
from sdhubert_ray.training.perturbations import Perturbing
from sdhubert_ray.training.recordings import list_recordings, open_recordings

ROOT = Path(__file__).parent.parent
SAMPLE_RATE = 16_000
SIZES = {
    "base": ({}, 2048),
    "small": ({"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "conv_dim": [256] * 7}, 1024),
    "tiny": ({"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "conv_dim": [32] * 7}, 128),
}
LEARNING_RATE, CLIP, DECAY, MOMENTUM = 1e-4, 0.5, 0.999, 0.9
READ_CROPS = 400

Step = Callable[[int], None]


def build_student(size: str, attention: str) -> SDHuBERT:
    values = json.loads((ROOT / "configs" / "hubert-base-ls960.json").read_text()) | SIZES[size][0]
    values["num_conv_pos_embedding_groups"] = 16 if size != "tiny" else 4
    torch.manual_seed(0)
    config = HubertConfig.from_dict(values)
    config._attn_implementation = attention
    return SDHuBERT(config)


# -- the original recipe, plainly


def plain_perturb(frames: torch.Tensor, mask_vector: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Perturb (B, T, D) frames, one sample after the other."""
    perturbed = []
    for sample in frames:
        length, kind = len(sample), rng.random()
        if kind < 0.8:
            share, span = (0.2, 10) if kind < 0.4 else (0.3, 5)
            sample = sample.clone()
            spans = int(share * length / span + rng.random())
            for start in rng.choice(length - span + 1, spans, replace=False):
                sample[start : start + span] = mask_vector
        else:
            anchor = int(length * rng.uniform(0.2, 0.8))
            moved = min(int(anchor * rng.uniform(0.8, 1.5)), length - 1)
            parts = []
            for part, size in ((sample[:anchor], moved), (sample[anchor:], length - moved)):
                parts.append(F.interpolate(part.T[None], size=size, mode="linear", align_corners=True)[0].T)
            sample = torch.cat(parts)
        perturbed.append(sample)
    return torch.stack(perturbed)


def plain_states(student: SDHuBERT, layers: torch.nn.ModuleList, frames: torch.Tensor) -> torch.Tensor:
    states = student.put_cls(student.embed(frames))
    for layer in layers:
        states = layer(states)
    return states[:, 0]


def plain_recipe(size: str, samples: torch.Tensor) -> Step:
    student = build_student(size, "eager")
    final_dim = SIZES[size][1]
    reinitialise(list(student.speech_model.encoder.layers[9:12]))
    head = Head(student.hidden_size, final_dim)
    teacher = copy.deepcopy(student.speech_model.encoder.layers).eval()
    teacher_head = copy.deepcopy(head)
    mask_vector = torch.nn.Parameter(torch.rand(student.hidden_size, device=samples.device))
    parts: tuple[torch.nn.Module, ...] = (student, head, teacher, teacher_head)
    for module in parts:
        module.to(samples.device)
    speech_model = student.speech_model
    for module in (
        speech_model.feature_extractor,
        speech_model.feature_projection,
        speech_model.encoder.pos_conv_embed,
    ):
        module.requires_grad_(False)
    parameters = [parameter for parameter in (*student.parameters(), *head.parameters()) if parameter.requires_grad]
    optimizer = torch.optim.AdamW([*parameters, mask_vector], lr=LEARNING_RATE)
    center = torch.zeros(final_dim, device=samples.device)
    student.train()

    def step(number: int) -> None:
        nonlocal center
        rng = np.random.default_rng(number)
        frames = speech_model.feature_projection(speech_model.feature_extractor(samples).transpose(1, 2))
        predicted = head(plain_states(student, speech_model.encoder.layers, plain_perturb(frames, mask_vector, rng)))
        with torch.no_grad():
            target = teacher_head(plain_states(student, teacher, plain_perturb(frames, mask_vector, rng)))
        loss = -(F.softmax((target - center) / 0.05, 1) * F.log_softmax(predicted / 0.2, 1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        with torch.no_grad():
            center = MOMENTUM * center + (1 - MOMENTUM) * target.mean(0)
            for copies, originals in ((teacher, speech_model.encoder.layers), (teacher_head, head)):
                for old, new in zip(copies.parameters(), originals.parameters(), strict=True):
                    old.data = DECAY * old.data + (1 - DECAY) * new.data
        loss.item()

    return step


# -- ours


def our_step(size: str, samples: torch.Tensor, compiled: bool, spent: dict[str, float]) -> Step:
    """Return what a training does; `spent` takes the seconds of each part, if it has a key for it.

    Perturbations are drawn in it, which a training leaves to the processes that read.
    """
    device = samples.device.type
    model = Distillation(build_student(size, "sdpa"), DistillationOptions(final_dim=SIZES[size][1])).to(device).train()
    if compiled:
        for layer in model.layers():
            layer.compile()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)
    num_samples = torch.full((len(samples),), samples.shape[1])
    config = model.student.speech_model.config
    perturbing = Perturbing(tuple(zip(config.conv_kernel, config.conv_stride, strict=True)))
    taken = torch.ones((), dtype=torch.bool, device=device)
    on_device = num_samples.to(device)

    def done(part: str, began: float) -> float:
        if part in spent:
            wait(device)
            spent[part] += time.perf_counter() - began
        return time.perf_counter()

    def step(number: int) -> None:
        began = time.perf_counter()
        seeds = torch.arange(len(samples)) + number * len(samples)
        drawn = perturbing.draw(seeds, num_samples, samples.shape[1]).values()
        plans = [type(plan)(*(part.to(device, non_blocking=True) for part in plan)) for plan in drawn]
        began = done("perturbations drawn", began)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            distilled = model(samples, on_device, *plans)
        began = done("forward, both", began)
        optimizer.zero_grad()
        distilled.loss.backward()
        began = done("backward", began)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        began = done("optimizer", began)
        sums = sum_over_workers(distilled.sums)
        model.step(sums, taken)
        summarise(sums)["loss"].item()
        done("teacher, center, sums", began)

    return step


# -- measuring


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str) -> float:
    """Multiply large matrices as fast as the machine can, in the precision of `ours`: operations per second."""
    side = 8192 if device == "cuda" else 2048
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    best = float("inf")
    for _ in range(10):
        wait(device)
        began = time.perf_counter()
        torch.mm(one, one)
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def measure(variant: str, options: argparse.Namespace) -> dict[str, object]:
    """Run the steps of a variant in this process."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    samples = torch.randn(options.batch, round(options.seconds * SAMPLE_RATE), device=options.device)
    parts = ("perturbations drawn", "forward, both", "backward", "optimizer", "teacher, center, sums")
    spent = dict.fromkeys(parts, 0.0) if variant == "parts" else {}
    if variant == "plain":
        step = plain_recipe(options.size, samples)
    else:
        step = our_step(options.size, samples, options.compile, spent)
    step(0)
    spent.update(dict.fromkeys(spent, 0.0))
    times = []
    for number in range(1, options.steps + 1):
        wait(options.device)
        began, worked = time.perf_counter(), time.process_time()
        step(number)
        wait(options.device)
        times.append((time.perf_counter() - began, time.process_time() - worked))
    if options.device == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found: dict[str, object] = {
        "seconds": min(elapsed for elapsed, _ in times),
        "cpu_seconds": min(worked for _, worked in times),
        "gib": memory / 2**30,
    }
    if variant == "parts":
        with FlopCounterMode(display=False) as counter:
            step(0)
        found["operations"] = counter.get_total_flops()
        found["matrix_rate"] = matrix_rate(options.device)
        found["parts"] = {name: seconds / options.steps for name, seconds in spent.items()}
    return found


def measure_reading(options: argparse.Namespace) -> dict[str, object]:
    """Read crops of recordings drawn at random, each file for the first time in this process."""
    with tempfile.TemporaryDirectory() as temp:
        list_recordings(DataOptions(source=str(options.source), val_share=0.0), Path(temp))
        recordings = open_recordings(temp, "train", Path(temp))
        reader = CropReader(recordings, round(options.seconds * SAMPLE_RATE), seed=0)
        order = TrainingOrder(len(recordings), 0, Share(0, 1, READ_CROPS), READ_CROPS, start=0, steps=1)
        (draws,) = order
        began, worked = time.perf_counter(), time.process_time()
        batch = reader.read_batch(draws)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    if batch["skipped"]:
        print(f"{batch['skipped']} recordings could not be read", file=sys.stderr)
    return {"seconds": seconds / READ_CROPS, "cpu_seconds": cpu_seconds / READ_CROPS, "recordings": len(recordings)}


def in_a_process(variant: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--variant", variant], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch", type=int, default=4, help="crops per step")
    parser.add_argument("--seconds", type=float, default=5.01, help="length of a crop")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process, after a first one")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, by turns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0 takes torch's default")
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers of ours")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    parser.add_argument("--source", type=Path, metavar="PATH", help="recordings to read crops of")
    parser.add_argument("--variant", choices=("plain", "ours", "parts", "read"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the table, and write it as JSON if asked to."""
    options = parse()
    if options.variant:
        print(json.dumps(measure_reading(options) if options.variant == "read" else measure(options.variant, options)))
        return
    print(f"{datetime.date.today()}, {machine(options.device)}, torch {torch.__version__}")
    print(f"size {options.size}, batches of {options.batch} x {options.seconds} s, {options.device}")
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for _ in range(options.rounds):
        for variant, found in runs.items():
            found.append(in_a_process(variant))
    rows = {
        variant: {key: min(float(run[key]) for run in found) for key in ("seconds", "cpu_seconds", "gib")}
        for variant, found in runs.items()
    }
    audio = options.batch * options.seconds
    print("         seconds per step   of the CPU   audio s per s   GiB at most")
    for variant, row in rows.items():
        speed = audio / row["seconds"]
        print(f"{variant:8} {row['seconds']:16.3f} {row['cpu_seconds']:12.3f} {speed:15.1f} {row['gib']:13.2f}")
        for key, unit in {"seconds": "s", "cpu_seconds": "s", "gib": "GiB"}.items():
            record(f"{options.size}, {options.batch} x {options.seconds} s, {variant}: {key}", row[key], unit)
    plain, ours = rows["plain"], rows["ours"]
    faster, lighter, smaller = (plain[key] / ours[key] for key in ("seconds", "cpu_seconds", "gib"))
    print(f"plain / ours: {faster:.2f} in time, {lighter:.2f} in time of the CPU, {smaller:.2f} in memory")
    parts = in_a_process("parts")
    reached, rate = float(parts["operations"]) / ours["seconds"] / 1e12, float(parts["matrix_rate"]) / 1e12
    print(f"matrices: {reached:.3f} Tflop/s, {reached / rate:.0%} of the {rate:.3f} that a large product reaches")
    for name, seconds in parts["parts"].items():
        print(f"  {name:24} {seconds:8.4f} s")
    read = in_a_process("read") if options.source else None
    if read is not None:
        each, cpu = float(read["seconds"]), float(read["cpu_seconds"])
        print(f"reading: {1000 * each:.2f} ms a crop, {1000 * cpu:.2f} of the CPU: {1 / each:.0f} crops per s")
    if options.json:
        figures = {"options": vars(options), "rows": rows, "parts": parts, "read": read}
        options.json.write_text(json.dumps(figures, default=str) + "\n")


if __name__ == "__main__":
    main()
