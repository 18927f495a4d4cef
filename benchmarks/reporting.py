"""What all benchmarks share: the machine that they run on, and one line of JSON for each figure.

Figures are written where BENCH_RESULTS names a folder, as `make bench` does: appended to NAME.jsonl of the benchmark
bench_NAME.py. Without it, tables are printed and nothing is written.
"""

import datetime
import functools
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30


def record(name: str, value: float | None, unit: str) -> None:
    """Append a figure to the results of this benchmark, where they are wanted; none is one that is not defined."""
    folder = os.environ.get("BENCH_RESULTS")
    if folder is None:
        return
    line = {**about(), "command": command(), "name": name, "value": value, "unit": unit}
    path = Path(folder) / f"{Path(sys.argv[0]).stem.removeprefix('bench_')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


@functools.cache
def about() -> dict[str, object]:
    """Where and when this process runs, and on which code; `load` is what others did when it began."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {round(psutil.virtual_memory().total / GIB)} GiB",
        "cpu": machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "commit": commit(),
        **{name: version(name) for name in ("torch", "ray")},
    }


def heading() -> str:
    """The same as the first line of a table."""
    found = about()
    day = str(found["date"]).partition("T")[0]
    return f"{day}, {found['cpu']}, {found['cores']} cores, load {found['load']}, torch {found['torch']}"


def machine() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16: without, it is tens of times slower than float32."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def commit() -> str | None:
    """The commit of this tree, with a + if something but the results was changed since; none outside of git."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"]
        status = subprocess.run(changed, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


def command() -> str:
    """The command that runs, without the folders of this machine: results are published."""
    return shlex.join(
        ["python", *(Path(part).name if Path(part).is_absolute() else part for part in _relative(sys.argv))]
    )


def _relative(arguments: list[str]) -> list[str]:
    script = Path(arguments[0]).resolve()
    return [str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name, *arguments[1:]]
