"""The benchmark of GPUs runs, here on a CPU, and says so where there is no GPU."""

import runpy
import sys

import pytest
import torch
from places import ROOT


def run(monkeypatch, *arguments):
    script = ROOT / "benchmarks" / "bench_gpu.py"
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    runpy.run_path(str(script), run_name="__main__")


def test_without_a_gpu_it_says_so_in_one_sentence_and_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ending:
        run(monkeypatch)
    assert str(ending.value).startswith("there is no GPU here that torch can use")
    assert "\n" not in str(ending.value)


@pytest.mark.seconds
def test_every_figure_is_printed(monkeypatch, capsys, tiny_checkpoint, one_thread):
    scale = ("--seconds", "1.5", "--hours", "0.001", "--size", "32", "--spans", "2")
    run(monkeypatch, "--device", "cpu", "--checkpoint", str(tiny_checkpoint), *scale)
    printed = capsys.readouterr().out
    for figure in ("kernel, one core", "kernel, 50 frames at most", "cpu, 50 frames at most, 2 spans"):
        assert f"  {figure}" in printed
    lines = [line.split() for line in printed.splitlines() if line]
    for dtype in ("float32", "bfloat16", "float16"):
        assert [words[1] for words in lines if words[0] == dtype][:6] == ["5", "20", "40", "80", "160", "320"]
    assert "of 0.00 h in 1 files" in printed
