"""Peak memory of each process of a run: one long recording, an encoder of HuBERT-base's shape, on Ray.

    python benchmarks/bench_memory.py [--seconds 599] [--preset readme]

The weights are random: memory and time do not depend on them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch
from reporting import heading, record
from transformers import HubertConfig

from sdhubert_ray.encoder.model import SDHuBERT

ROOT = Path(__file__).parent.parent
GIB = 1 << 30


def make_inputs(folder: Path, seconds: int) -> None:
    """A checkpoint of HuBERT-base's shape, and `seconds` of the bundled speech, repeated."""
    torch.manual_seed(0)
    config = json.loads((ROOT / "configs" / "hubert-base-ls960.json").read_text())
    content = {
        "config": {"speech_upstream": "facebook/hubert-base-ls960"},
        "state_dict": SDHuBERT(HubertConfig.from_dict(config)).state_dict(),
    }
    torch.save(content, folder / "base.pt")
    speech = [soundfile.read(path, dtype="float32")[0] for path in sorted(ROOT.glob("sdhubert_ray/assets/demo/*.flac"))]
    soundfile.write(folder / "long.wav", np.resize(np.concatenate(speech), seconds * 16_000), 16_000)


def watch(command: list[str]) -> tuple[dict[str, int], float]:
    """Run a command; the peak resident bytes of its processes by role, and the seconds it took."""
    began = time.perf_counter()
    process = psutil.Popen(command, env={**os.environ, "RAY_ADDRESS": ""})
    peaks: dict[str, int] = {}
    while process.poll() is None:
        for member in (process, *process.children(recursive=True)):
            try:
                name = "driver" if member.pid == process.pid else role(" ".join(member.cmdline()))
                peaks[name] = max(peaks.get(name, 0), member.memory_info().rss)
            except psutil.Error:
                continue
        time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peaks, time.perf_counter() - began


def role(title: str) -> str:
    return "SegmentUnits" if "SegmentUnits" in title else "other workers and Ray itself"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=599)
    parser.add_argument("--preset", default="readme")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, arguments.seconds)
        sdhubert = str(Path(sys.executable).parent / "sdhubert")
        command = [sdhubert, "segment", str(folder / "long.wav"), str(folder / "out"), "--engine", "ray"]
        peaks, seconds = watch([*command, "--checkpoint", str(folder / "base.pt"), "--preset", arguments.preset])
    print(f"{heading()}, preset {arguments.preset}, {arguments.seconds} s of audio")
    print(f"wall time {seconds:.0f} s")
    for name, peak in sorted(peaks.items(), key=lambda item: -item[1]):
        print(f"{name:32} {peak / GIB:.2f} GiB resident at most")
        record(f"{name}: resident at most", peak / GIB, "GiB")


if __name__ == "__main__":
    main()
