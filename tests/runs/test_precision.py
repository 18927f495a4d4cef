"""The precision, where it is left to the machine."""

import json
import logging

import pytest
import torch
from commands import sdhubert

from sdhubert_ray import SDHuBERTSegmenter
from sdhubert_ray.encoder.model import fastest_dtype
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.precision import settle_precision, warn_if_slow


@pytest.fixture
def cpu(monkeypatch):
    """Makes this CPU one that has these instructions."""

    def become(**has):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, **has})

    return become


@pytest.mark.parametrize("instructions", ["amx_bf16", "avx512_bf16", "bf16"])
def test_auto_is_bfloat16_where_a_cpu_multiplies_it(cpu, instructions):
    cpu(**{instructions: True})
    assert fastest_dtype("cpu") == "bfloat16"
    cpu(avx512_vnni=True)
    assert fastest_dtype("cpu") == "float32"


def test_torch_tells_of_this_cpu():
    """The names are torch's, and what it tells is what its products are made with."""
    has = torch.cpu.get_capabilities()
    if has["architecture"] == "x86_64":
        assert {"amx_bf16", "avx512_bf16"} <= set(has)
        assert fastest_dtype("cpu") == ("bfloat16" if has["amx_bf16"] or has["avx512_bf16"] else "float32")


def test_what_was_named_stays(cpu):
    cpu(avx512_bf16=True)
    assert settle_precision(JobConfig(dtype="float16"), None) == JobConfig(dtype="float16")
    assert settle_precision(JobConfig(dtype="auto"), None).dtype == "bfloat16"


def test_a_run_goes_on_in_the_precision_that_it_began_with(cpu, golden, tiny_checkpoint, tmp_path):
    command = ["segment", golden / "audio" / "synth_0.flac", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    cpu(avx512_bf16=True)
    begun = sdhubert(*command, "--dtype", "auto")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["dtype"] == "bfloat16"
    assert "dtype auto: bfloat16" in begun.stderr
    cpu()
    again = sdhubert(*command, "--dtype", "auto")
    assert "nothing was left to do" in again.stdout
    assert "dtype" not in again.stderr
    assert "dtype" in sdhubert(*command, expect=2).stderr
    sdhubert(*command, "--dtype", "auto", "--overwrite")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["dtype"] == "float32"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_tells_of_its_own_cpu(cpu):
    """Which is not the driver's: this process has been told another one."""
    here = fastest_dtype("cpu")
    cpu(avx512_bf16=here == "float32")
    assert fastest_dtype("cpu") != here
    assert settle_precision(JobConfig(dtype="auto", device="cpu"), "auto").dtype == here


def test_the_api_takes_auto(cpu, tiny_checkpoint):
    cpu(amx_bf16=True)
    model = SDHuBERTSegmenter(tiny_checkpoint, device="cpu", dtype="auto").model
    assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(("dtype", "warned"), [("float32", False), ("bfloat16", False), ("float16", True)])
def test_what_is_slower_than_float32_is_told(cpu, caplog, dtype, warned):
    cpu(avx512_bf16=True)
    with caplog.at_level(logging.WARNING):
        warn_if_slow(dtype, "cpu")
        warn_if_slow(dtype, "cuda")
    assert len(caplog.records) == warned
