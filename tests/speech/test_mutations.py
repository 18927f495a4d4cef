"""Broken audio of every format: each file gets a status, none crashes its process, hangs it or fills its memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

MUTATIONS = Path(__file__).parent / "mutations.py"
STATUSES = {"ok", "silent", "too_short", "truncated", "unreadable"}


@pytest.mark.parametrize(
    ("count", "seed"), [(1000, 0), pytest.param(100_000, 1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_broken_files_get_a_status(count, seed):
    command = [sys.executable, str(MUTATIONS), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    total = Counter()
    for statuses in told["statuses"].values():
        total.update(statuses)
    assert sum(total.values()) == count
    assert set(total) <= STATUSES
    assert min(total["ok"], total["truncated"], total["unreadable"]) > count / 20
    assert len(told["statuses"]) > 80
