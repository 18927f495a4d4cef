"""Ours and other systems on the same recordings, in one run, one after the other, each in a process of its own.

    python benchmarks/bench_peers.py SPEECH_FOLDER [--peers PYTHON] [--files 16] [--repeats 1] [--only SYSTEM ...]

The first files of SPEECH_FOLDER/librispeech_test_other, and for each system an encoder of HuBERT-base's shape with made
(random) weights, as its own page loads them: time does not depend on weights, but for what the segments cost that come
of them. Ours and a plain re-statement of the original's pipeline (`original.py`; its page is what is known of it) run
in this interpreter. The others come from PyPI and run in that of `--peers`, an environment that is made by

    make peers

A system that cannot be run is told with its reason. Work is what comes after loading, and after the first recording
was done once. `min-cut in Python` is the definition, summed over slices; the original compiles its own with Cython, so
that its time lies between this and `min-cut compiled`, which has our kernel.
"""

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch
from bench_stages import make_checkpoint
from peers import LOADERS
from reporting import has_bfloat16, heading, record
from transformers import HubertConfig, HubertModel

from sdhubert_ray.encoder import fetch_checkpoint

WORKER = Path(__file__).parent / "peers.py"
HUBERT, SYLBER, VG_HUBERT = "facebook/hubert-base-ls960", "cheoljun95/sylber", "hjvm/VG-HuBERT"


def make_weights(checkpoint: str, made: Path) -> None:
    """Write `base.pt`, and the same shape with random weights as a cache of the hub has the others' checkpoints."""
    if checkpoint == "base":
        make_checkpoint(made)
    else:
        shutil.copy(checkpoint, made / "base.pt")
    upstream = fetch_checkpoint(str(made / "base.pt")).upstream
    torch.manual_seed(0)
    hubert = HubertModel(HubertConfig.from_dict(dict(upstream)))
    hubert.save_pretrained(repository(made, HUBERT))
    layers = {**upstream, "num_hidden_layers": 9}
    torch.save(HubertModel(HubertConfig.from_dict(layers)).state_dict(), repository(made, SYLBER) / "sylber.ckpt")
    vision = repository(made, VG_HUBERT)
    audio_encoder = {"cls_token": torch.randn(hubert.config.hidden_size), **hubert.state_dict()}
    torch.save({"audio_encoder": audio_encoder}, vision / "vg-hubert-syllable.pth")
    (vision / "args.pkl").write_bytes(pickle.dumps({}))


def repository(made: Path, name: str) -> Path:
    """The folder of a repository's files in the cache of the hub below `made`."""
    cached = made / "hub" / f"models--{name.replace('/', '--')}"
    revision = "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    files = cached / "snapshots" / revision
    files.mkdir(parents=True)
    return files


def measure(system: str, python: str | None, made: Path, audio: Path) -> dict[str, Any]:
    """What the process of a system tells, with the seconds that it takes; or the `reason` why it cannot be run."""
    _, package = LOADERS[system]
    interpreter = sys.executable if package == "sdhubert_ray" else python
    if "bfloat16" in system and not has_bfloat16():
        return {"reason": "the CPU has no instructions for it, and would take tens of times as long"}
    if interpreter is None:
        return {"reason": "no --peers: make peers"}
    command = [interpreter, str(WORKER), system, str(made), str(audio)]
    environment = {**os.environ, "HF_HOME": str(made), "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    except FileNotFoundError:
        return {"reason": f"there is no {interpreter}"}
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        return {"reason": lines[-1] if lines else f"exit code {error.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "process": time.perf_counter() - began}


def row(system: str, found: dict[str, Any], audio: float) -> str:
    if "reason" in found:
        return f"| {system} | not run: {found['reason']} | | | | | |"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    notes = "; ".join([versions, *found["notes"]])
    figures = f"{found['work']:.1f} | {audio / found['work']:.1f} | {found['load']:.1f} | {found['process']:.1f}"
    return f"| {system} | {figures} | {found['segments']} | {notes} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter that has the packages of PyPI")
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--checkpoint", default="base", help="base (HuBERT-base's shape), or a checkpoint of ours")
    parser.add_argument("--repeats", type=int, default=1, help="processes each; told is the one with the least work")
    parser.add_argument("--only", choices=LOADERS, nargs="+", default=list(LOADERS), metavar="SYSTEM")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made, audio = folder / "made", folder / "audio"
        made.mkdir()
        audio.mkdir()
        make_weights(given.checkpoint, made)
        for path in sorted((given.speech / "librispeech_test_other").rglob("*.flac"))[: given.files]:
            (audio / path.name).symlink_to(path.absolute())
        seconds = sum(soundfile.info(path).duration for path in audio.iterdir())
        print(f"{heading()}; {seconds:.0f} s in {given.files} files")
        print(
            "| system | work, s | x real time | loading, s | process, s | segments | |\n|---|---|---|---|---|---|---|"
        )
        for system in given.only:
            tried = [measure(system, given.peers, made, audio) for _ in range(given.repeats)]
            best = min(tried, key=lambda found: found.get("work", 0))
            print(row(system, best, seconds), flush=True)
            for name in ("work", "load", "process"):
                if name in best:
                    record(f"{system}: {name}", best[name], "s")


if __name__ == "__main__":
    main()
