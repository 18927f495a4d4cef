"""Benchmarks at a tiny size: each prints its table, and its figures are lines of JSON where they are wanted."""

import itertools
import json
import runpy
import shutil
import sys
from pathlib import Path

import bench_cuts
import bench_mincut
import bench_peers
import bench_schedule
import pytest
import reporting
import run
from places import ROOT

from sdhubert_ray.speech.syllables import SEGMENTERS

BENCHMARKS = ROOT / "benchmarks"
DEMO = ROOT / "sdhubert_ray/assets/demo"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's figures are written."""
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def speech(golden: Path, tmp_path: Path) -> Path:
    """A folder of recordings laid out as that of the benchmarks: one recording."""
    folder = tmp_path / "speech" / "librispeech_test_other" / "1688"
    folder.mkdir(parents=True)
    shutil.copy(golden / "audio/synth_0.flac", folder)
    return tmp_path / "speech"


def call(name: str, *arguments: object) -> None:
    """A benchmark in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(BENCHMARKS / f"bench_{name}.py"), *map(str, arguments)])
        patch.syspath_prepend(str(BENCHMARKS))
        runpy.run_path(sys.argv[0], run_name="__main__")


def lines(results: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (results / f"{name}.jsonl").read_text().splitlines()]


def test_min_cut(results, monkeypatch, capsys):
    monkeypatch.setattr(bench_mincut, "FRAMES", (25,))
    monkeypatch.setattr(sys, "argv", ["bench_mincut.py", "--seconds", "0"])
    bench_mincut.main()
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    found = lines(results, "mincut")
    names = ("ours", "banded", "prefix", "oracle")
    assert sorted(line["name"].rpartition(": ")[2] for line in found) == sorted(names * 2)
    shown = dict(zip(names, (table[2].split()[column] for column in (2, 3, 4, 6)), strict=True))
    for line in found[:4]:
        assert float(shown[line["name"].rpartition(": ")[2]]) == pytest.approx(line["value"], abs=1e-3)


def test_cuts(results, monkeypatch, capsys):
    monkeypatch.setattr(bench_cuts, "SECONDS", 1)
    monkeypatch.setattr(bench_cuts, "WIDTH", 16)
    monkeypatch.setattr(sys, "argv", ["bench_cuts.py", "--seconds", "0"])
    bench_cuts.main()
    table = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in table[1:]] == list(SEGMENTERS)
    found = {line["name"]: line["value"] for line in lines(results, "cuts")}
    assert set(found) == {f"{name}, 1 s" for name in SEGMENTERS} | {
        f"{name}, 1 s: oracle" for name in ("greedy", "sse-dp")
    }
    assert float(table[3][3]) == pytest.approx(found["greedy, 1 s"], abs=0.01)


def test_a_line_tells_machine_code_and_command(results, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "bench_x.py"), "/somebodys/folder/speech", "--files", "2"])
    reporting.record("a figure", 1.5, "s")
    reporting.record("another", None, "ratio")
    one, other = lines(results, "x")
    assert {key: one[key] for key in ("command", "name", "value", "unit")} == {
        "command": "python benchmarks/bench_x.py speech --files 2",
        "name": "a figure",
        "value": 1.5,
        "unit": "s",
    }
    assert set(one) >= {"date", "machine", "cpu", "cores", "load", "commit", "torch", "ray"}
    assert other["value"] is None


def test_nothing_is_written_where_nobody_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    reporting.record("a figure", 1.5, "s")
    assert not list(tmp_path.iterdir())


def test_schedule(results, monkeypatch, capsys):
    monkeypatch.setattr(bench_schedule, "CORPORA", {"1 h of 12 s": (1, 12.0)})
    monkeypatch.setattr(sys, "argv", ["bench_schedule.py", "--workers", "4"])
    bench_schedule.main()
    assert capsys.readouterr().out.count("| 1 h of 12 s |") == 3
    assert len(lines(results, "schedule")) == 6


def test_kmeans(results, capsys):
    call("kmeans", "--vectors", "300", "--width", "4", "--clusters", "8", "--steps", "2")
    assert "MiniBatchKMeans" in capsys.readouterr().out
    assert {line["name"].rpartition(": ")[2] for line in lines(results, "kmeans")} == {
        "inertia",
        "seconds",
        "seeding",
        "step",
    }


def test_streaming(results, golden, tmp_path, monkeypatch, capsys, one_thread):
    import bench_streaming

    for corpus, part in itertools.product(bench_streaming.CORPORA, ("validation", "test")):
        shutil.copy(golden / "audio/synth_0.flac", tmp_path)
        truth = json.loads((DEMO / "syllables.json").read_text())["synth_0"]
        (tmp_path / f"syllables_{corpus}_{part}.json").write_text(json.dumps({"synth_0": truth}))
    monkeypatch.setattr(bench_streaming, "THRESHOLDS", (0.6,))
    monkeypatch.setattr(bench_streaming, "SETTINGS", (bench_streaming.Setting(2.0, 1.0),))
    monkeypatch.setattr(sys, "argv", ["bench_streaming.py", str(tmp_path), "--hours", "0.01"])
    bench_streaming.main()
    printed = capsys.readouterr().out
    *_, whole, streamed = (row.split("|") for row in printed.splitlines() if row.startswith("| "))
    found = {line["name"].rpartition(": ")[2]: line["value"] for line in lines(results, "streaming")}
    assert float(streamed[4]) == pytest.approx(100 * found["same syllables"], abs=0.1)
    assert float(streamed[5]) == pytest.approx(100 * found["same boundaries"], abs=0.1)
    assert found["same boundaries"] <= found["boundaries within 20 ms"] <= 1
    assert found["latency, median"] >= 2
    assert float(whole[8].split(",")[0]) > 60
    held = printed.splitlines()[-1].partition("MiB held: ")[2].split(", ")
    assert len(held) == 10
    assert all(float(size) > 50 for size in held)


# -- scaling


@pytest.mark.parametrize("cores", [2, 64])
def test_the_model_of_scaling_finds_what_made_the_runs(cores):
    from bench_scaling import Model, Run, fit

    made = Model(start=12.0, load=3.0, work=0.1, unit=0.4)
    runs = [
        Run(slots, 240.0, units, made.seconds(slots, cores, 240.0, units)) for slots in (1, 2, 4) for units in (4, 16)
    ]
    found = fit(runs, cores)
    assert found[2:] == pytest.approx(made[2:])
    if cores == 2:  # where a core has more than one slot: else start and load cannot be told apart
        assert found == pytest.approx(made)
    assert fit(runs[1:], cores).seconds(1, cores, 240.0, 4) == pytest.approx(runs[0].seconds)


# -- peers


def test_a_peer_that_cannot_be_run_is_told_with_its_reason(tmp_path):
    assert "make peers" in bench_peers.measure("sylber", None, tmp_path, tmp_path)["reason"]
    nowhere = bench_peers.measure("sylber", str(tmp_path / "python"), tmp_path, tmp_path)
    assert bench_peers.row("sylber", nowhere, 1.0).startswith("| sylber | not run: there is no ")


@pytest.mark.seconds
def test_a_peer_that_is_not_installed(tmp_path):
    found = bench_peers.measure("vg-hubert", sys.executable, tmp_path, tmp_path)
    assert found["reason"] == "ModuleNotFoundError: No module named 'vg_hubert'"


@pytest.mark.slow
def test_a_system_in_a_process_of_its_own(speech, tmp_path):
    system = "ours, float32"
    made = tmp_path / "made"
    made.mkdir()
    bench_peers.make_weights(str(ROOT / "sdhubert_ray/assets/bundled.pt"), made)
    folder = speech / "librispeech_test_other/1688"
    found = bench_peers.measure(system, None, made, folder)
    assert found["segments"] > 0
    assert found["process"] > found["load"] > 0
    assert bench_peers.row(system, found, 5.0).startswith(f"| {system} | {found['work']:.1f} | ")


def test_both_cuts_of_the_original_agree(golden):
    import original
    import torch

    from sdhubert_ray.encoder import fetch_checkpoint
    from sdhubert_ray.encoder.model import build_encoder

    torch.manual_seed(0)
    model = build_encoder(fetch_checkpoint(str(golden / "checkpoint/tiny.pt")).upstream).eval()
    found = [original.segment(model, golden / "audio/synth_0.flac", cut) for cut in ("definition", "compiled")]
    assert found[0]
    assert found[0] == found[1]


def test_states_that_are_the_same_in_all_chunks_stay_so():
    import numpy as np
    import original

    states = np.random.default_rng(0).standard_normal((700, 3))
    chunks = np.stack([states[start : start + 250] for start in (0, 225, 450)])
    np.testing.assert_allclose(original.overlap_add(chunks, 690), states[:690])


# -- all of them


def test_what_is_left_out_is_told_with_its_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "engines", "peers", "--results", str(tmp_path)])
    run.main()
    told = capsys.readouterr().out
    assert told.count("left out: no recordings: make bench SPEECH=FOLDER") == 4  # as they come, and at the end
    assert not list(tmp_path.iterdir())


def test_places_in_arguments_are_filled():
    arguments = ("SPEECH", "--peers", "PEERS", "OUT")
    assert run.fill(arguments, Path("/s"), "/p", Path("/o")) == ["/s", "--peers", "/p", "/o"]
    assert run.fill(arguments, Path("/s"), None, Path("/o")) == ["/s", "/o"]


def test_benchmarks_that_run_and_one_that_fails(results, tmp_path, capfd, monkeypatch):
    here = tmp_path / "benchmarks"
    here.mkdir()
    (here / "bench_bad.py").write_text("raise SystemExit(3)")
    (here / "bench_good.py").write_text("import os; print(os.environ['BENCH_RESULTS'])")
    monkeypatch.setattr(run, "HERE", here)
    monkeypatch.setattr(sys, "argv", ["run.py", "--results", str(results)])
    with pytest.raises(SystemExit) as ending:
        run.main()
    told = capfd.readouterr().out.splitlines()
    assert ending.value.code == 1
    assert str(results) in told
    assert told[-2:] == ["bench_bad.py: failed with exit code 3", "bench_good.py: 0.0 minutes"]


def test_all_that_are_named_are_there():
    assert set(run.COMMANDS) <= set(run.names())
    assert set(run.PROGRAMS) <= set(run.names())


# -- with processes of their own, at length


@pytest.mark.slow
def test_engines_and_scaling_and_the_rest(results, golden, speech, capsys):
    tiny = golden / "checkpoint/tiny.pt"
    call("engines", speech, "--files", "1", "--checkpoint", tiny, "--busy", "1")
    call("start", "--repeats", "1")
    call("scale", "--rows", "100")
    call("memory", "--seconds", "5")
    call("stages", "--seconds", "15")
    call("train", "--size", "tiny", "--batch", "1", "--seconds", "1", "--steps", "1", "--rounds", "1")
    for name in ("engines", "start", "scale", "memory", "stages", "train"):
        assert lines(results, name)
    assert "local Ray, float32" in capsys.readouterr().out
