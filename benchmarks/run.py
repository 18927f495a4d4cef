"""Every benchmark that this machine can run, one after the other; figures are appended to benchmarks/results.

    python benchmarks/run.py [--speech FOLDER] [--peers PYTHON] [--only NAME ...]

What is left out is told with its reason, at the end again with what failed; then the exit code is 1. `--speech` is a
folder of recordings with references, as bench_segmenters.py describes it. All take hours; `make bench` calls this.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
COMMANDS: dict[str, list[tuple[str, ...]]] = {  # words in capitals are filled in; others run without arguments
    "compare": [("SPEECH", "OUT")],
    "cuts": [("--peers", "PEERS")],
    "engines": [("SPEECH",)],
    "kmeans": [(), ("--default", "--steps", "4")],
    "parity": [("SPEECH",)],
    "peers": [("SPEECH", "--peers", "PEERS")],
    "rate": [("SPEECH", "OUT")],
    "recipes": [("MANIFEST", "OUT", "--crops", "4", "--seconds", "1.5")],
    "robustness": [("SPEECH", "OUT")],
    "schedule": [(), ("--real",)],
    "segmenters": [("SPEECH", "OUT")],
    "self_segmentation": [("SPEECH", "OUT")],
    "stages": [("--seconds", "120")],
    "streaming": [("SPEECH",)],
    "train": [("--batch", "2")],
}
PROGRAMS = {"robustness": "espeak-ng", "segmenters": "espeak-ng"}
"""What has to be installed beside Python."""


def names() -> list[str]:
    """All benchmarks: NAME of bench_NAME.py."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def why_not(name: str, arguments: tuple[str, ...], speech: Path | None) -> str | None:
    """Why a benchmark is left out here; none where it is not."""
    if {"SPEECH", "MANIFEST"} & set(arguments) and speech is None:
        return "no recordings: make bench SPEECH=FOLDER"
    if name.startswith("gpu") and not torch.cuda.is_available():
        return "there is no GPU"
    program = PROGRAMS.get(name)
    if program is not None and shutil.which(program) is None:
        return f"{program} is not installed"
    return None


def fill(arguments: tuple[str, ...], speech: Path | None, peers: str | None, out: Path) -> list[str]:
    """Arguments with places filled in. Without an interpreter for the peers its option goes, too."""
    values = {"SPEECH": str(speech), "MANIFEST": f"{speech}/manifest.jsonl", "OUT": str(out), "PEERS": peers or ""}
    if peers is None:
        arguments = tuple(part for part in arguments if part not in ("--peers", "PEERS"))
    return [values.get(part, part) for part in arguments]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speech", type=Path, metavar="FOLDER")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has the peers' packages: make peers")
    parser.add_argument("--only", choices=names(), nargs="+", default=names(), metavar="NAME")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    given = parser.parse_args()
    environment = {**os.environ, "BENCH_RESULTS": str(given.results.absolute())}
    ends = []
    failed = False
    for name in given.only:
        for arguments in COMMANDS.get(name, [()]):
            shown = " ".join((f"bench_{name}.py", *arguments))
            print(f"\n== {shown}", flush=True)
            reason = why_not(name, arguments, given.speech)
            if reason is None:
                began = time.perf_counter()
                with tempfile.TemporaryDirectory() as out:
                    filled = fill(arguments, given.speech, given.peers, Path(out))
                    code = subprocess.run(
                        [sys.executable, HERE / f"bench_{name}.py", *filled], env=environment, check=False
                    ).returncode
                failed = failed or code != 0
                minutes = (time.perf_counter() - began) / 60
                end = f"{minutes:.1f} minutes" if code == 0 else f"failed with exit code {code}"
            else:
                end = f"left out: {reason}"
                print(end, flush=True)
            ends.append(f"{shown}: {end}")
    print("\n" + "\n".join(ends))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
