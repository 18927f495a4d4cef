"""How long one waits for commands that have little to do, and for the first syllables: best of some processes each.

python benchmarks/bench_start.py [--repeats 3]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reporting import heading, record

ROOT = Path(__file__).parent.parent
SDHUBERT = Path(sys.executable).parent / "sdhubert"
DEMO = ROOT / "sdhubert_ray/assets/demo"


def run(*arguments: object) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(list(map(str, arguments)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"{heading()}\n\n| | seconds |\n|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, bundled = DEMO / "synth_0.flac", ("--checkpoint", "bundled")
        run(SDHUBERT, "segment", DEMO, folder / "done", *bundled, "--frame-features", "float16")
        clusters = ("--n-clusters", "8", "--n-units", "4")
        run(SDHUBERT, "cluster", folder / "done", folder / "units", *clusters)
        run(SDHUBERT, "resegment", folder / "done", folder / "again")
        python = (sys.executable, "-c")
        commands = {
            "`--help`": (SDHUBERT, "--help"),
            "a usage error": (SDHUBERT, "segment", DEMO, folder / "new", "--engine", "nope"),
            "`segment`, nothing left": (
                SDHUBERT,
                "segment",
                DEMO,
                folder / "done",
                *bundled,
                "--frame-features",
                "float16",
            ),
            "`resegment`, done already": (SDHUBERT, "resegment", folder / "done", folder / "again"),
            "`cluster`, done already": (SDHUBERT, "cluster", folder / "done", folder / "units", *clusters),
            "`export` of what is not there": (SDHUBERT, "export", folder / "nothing", "x.pt"),
            "`train` without data": (SDHUBERT, "train", "data.source=/nowhere", "--output", folder / "run"),
            "`status`": (SDHUBERT, "status", folder / "done"),
            "`from sdhubert_ray import SDHuBERTSegmenter`": (*python, "from sdhubert_ray import SDHuBERTSegmenter"),
            "`SDHuBERTSegmenter('bundled')`": (
                *python,
                "import sdhubert_ray; sdhubert_ray.SDHuBERTSegmenter('bundled')",
            ),
            "`segment one.wav OUT`, in process": (SDHUBERT, "segment", one, folder / "one", *bundled, "--overwrite"),
            "`segment one.wav OUT --engine ray`": (
                *(SDHUBERT, "segment", one, folder / "ray", *bundled, "--overwrite", "--engine", "ray"),
            ),
        }
        for what, command in commands.items():
            seconds = min(run(*command) for _ in range(repeats))
            print(f"| {what} | {seconds:.2f} |", flush=True)
            record(what.replace("`", ""), seconds, "s")


if __name__ == "__main__":
    main()
