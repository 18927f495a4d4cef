"""How long a small corpus takes from command to table: in process and on local Ray, idle and beside busy processes.

    python benchmarks/bench_engines.py SPEECH_FOLDER [--files 16] [--checkpoint base|PATH] [--busy 4]

The first files of SPEECH_FOLDER/librispeech_test_other; `base` has HuBERT-base's shape and random weights.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import soundfile
from bench_stages import make_checkpoint
from reporting import has_bfloat16, heading, record

SDHUBERT = Path(sys.executable).parent / "sdhubert"
SPIN = "while True: sum(range(100000))"


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run(audio: Path, output: Path, *options: str) -> tuple[float, str]:
    """Seconds of the whole command, and what it says of itself."""
    began = time.perf_counter()
    command = [str(SDHUBERT), "segment", str(audio), str(output), "--overwrite", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [" ".join(line.split()) for line in done.stdout.splitlines() if "this run" in line or "work per" in line]
    return time.perf_counter() - began, "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--checkpoint", default="base")
    parser.add_argument("--busy", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = str(make_checkpoint(folder)) if given.checkpoint == "base" else given.checkpoint
        audio = folder / "audio"
        audio.mkdir()
        for path in sorted((given.speech / "librispeech_test_other").rglob("*.flac"))[: given.files]:
            (audio / path.name).symlink_to(path)
        seconds = sum(soundfile.info(path).duration for path in audio.iterdir())
        print(f"{heading()}; {seconds:.0f} s in {given.files} files")
        print("| | command, s | |\n|---|---|---|")
        for what, others, options in (
            ("in process, float32", 0, ("--engine", "local")),
            ("in process, bfloat16", 0, ("--engine", "local", "--dtype", "bfloat16")),
            ("local Ray, float32", 0, ("--engine", "ray")),
            (f"in process, float32, {given.busy} busy processes", given.busy, ("--engine", "local")),
        ):
            if "bfloat16" in options and not has_bfloat16():
                print(f"| {what} | not run: the CPU has no instructions for it | |", flush=True)
                continue
            with busy(others):
                took, said = run(audio, folder / "out", "--checkpoint", checkpoint, *options)
            print(f"| {what} | {took:.1f} | {said} |", flush=True)
            record(f"{what}: the command", took, "s")


if __name__ == "__main__":
    main()
