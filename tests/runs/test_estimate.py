"""`segment --plan`: what it foretells is what the run does, and it writes nothing."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import sdhubert
from forks import COMMAND, FORKS, run_script

from sdhubert_ray.corpus import list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.estimate import (
    SAMPLE_ROWS,
    SAMPLE_SECONDS,
    Trial,
    WorkerCounts,
    draw_sample,
    estimate_job,
    extrapolate,
)
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.runs.session import Job, Summary

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture(scope="module")
def corpus(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty recordings of half a second to three, no two alike; six of them are broken."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(1)
    speech = np.concatenate([soundfile.read(golden / f"audio/synth_{number}.flac")[0] for number in range(5)])
    for number in range(54):
        begin, length = random.integers(0, len(speech) - 3 * 16_000), random.integers(8_000, 3 * 16_000)
        take = speech[begin : begin + length] + random.normal(0, 0.01, length)
        soundfile.write(folder / f"take{number:02d}.flac", take, 16_000)
    for number in range(6):
        (folder / f"take{9 * number:02d}x.wav").write_text("no audio\n" * 100)
    return folder


def plan(source: Path, output: Path, tiny_checkpoint: Path, overrides: list[str], engine: str = "local") -> Job:
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    config = load_config(None, overrides, {}, checkpoint.options)
    return prepare_job(config, checkpoint, str(source), list_input(str(source)), str(output), engine=engine)


@pytest.fixture(scope="module")
def done(
    corpus: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Summary]]:
    """Runs a job as it would be, once for each choice of options: its output and what it did."""

    @cache
    def run(*overrides: str) -> tuple[Path, Summary]:
        output = tmp_path_factory.mktemp("done") / "out"
        return output, run_job(plan(corpus, output, tiny_checkpoint, [*overrides]), lambda rows, seconds: None)

    return run


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("overrides", [[], ["output.frame_features=float16", "output.formats=[files,textgrid]"]])
def test_the_run_does_what_was_foretold(
    engine: str,
    overrides: list[str],
    corpus: Path,
    tiny_checkpoint: Path,
    done: Callable[..., tuple[Path, Summary]],
    tmp_path: Path,
) -> None:
    overrides = [*overrides, "resources.unit_rows=25", "max_failed=6"]
    job = plan(corpus, tmp_path / "out", tiny_checkpoint, overrides, engine)
    with job.folder:
        estimate = estimate_job(job)
    assert not (tmp_path / "out").exists()
    assert not Path(job.folder.name).exists()
    output, summary = done(*overrides)
    assert (estimate.rows, estimate.unknown_rows) == (60, 6)
    assert estimate.audio_seconds == pytest.approx(summary.totals.audio_seconds, rel=0.03)
    assert set(estimate.statuses) == set(summary.totals.statuses) == {"ok", "unreadable"}
    assert abs(estimate.statuses["unreadable"] - 6) <= 4
    assert sum(estimate.statuses.values()) == 60
    files = [path for path in output.rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files if path.parent.name != "manifest" and path.suffix != ".json")
    assert estimate.size == pytest.approx(written, rel=0.25)
    assert estimate.workers.engine == engine
    trial = estimate.trial
    assert trial.rows == SAMPLE_ROWS
    # How long it takes is measured, so it is not foretold here: what was measured is taken for as much audio.
    assert min(trial.stage_seconds.values()) > 0
    assert trial.encode_cpu_seconds > 0
    if estimate.workers.device == "cpu":
        work = sum(trial.stage_seconds.values()) * estimate.audio_seconds / trial.audio_seconds
        assert estimate.wall_seconds == pytest.approx(work / estimate.workers.encoders)


@FORKS
def test_the_command_prints_it_and_writes_nothing(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    for path in sorted(corpus.iterdir())[:30]:
        shutil.copy(path, half)
    command = ["segment", half, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--max-failed", "6"]
    command += ["--engine", "local"]
    sdhubert(*command)
    for path in sorted(corpus.iterdir())[30:]:
        shutil.copy(path, half)
    # What an interrupted run has left counts with what is new.
    (part,) = (tmp_path / "out/segments").iterdir()
    part.unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    told = [sdhubert(*command, "--plan").stdout, run_script(COMMAND, *command, "--plan").stdout]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    lines = dict(line.split("  ", 1) for line in told[0].splitlines() if "  " in line)
    assert {name: text.strip() for name, text in lines.items()}["rows"] == "60 to be done"
    seconds = sum(soundfile.info(path).duration for path in corpus.glob("*.flac"))
    assert float(lines["audio"].split()[0]) == pytest.approx(seconds / 3600, abs=0.001)
    assert "6 rows are of unknown duration, taken as the mean of" in lines["audio"]
    assert lines["statuses"].split()[:1] == ["about"]
    assert " ok, " in lines["statuses"]
    assert " unreadable (from " in lines["statuses"]
    for name in ("statuses", "output", "work per hour of audio", "CPU hours", "time"):
        assert "of 60 rows, " in lines[name], name
    assert "no GPU was seen" in lines["GPU hours"] or lines["GPU hours"].split()[0] == "about"
    assert lines["workers"].strip().startswith("this process")
    untimed = [
        [line for line in text.splitlines() if line.startswith(("rows", "audio", "statuses", "output"))]
        for text in told
    ]
    assert untimed[0] == untimed[1]


def test_the_sample_is_spread_over_all_that_is_left(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "corpus.csv"
    manifest.write_text(
        "id,uri,duration\n" + "".join(f"{row:05d},{golden}/audio/synth_4.flac,0.4\n" for row in range(6400))
    )
    options = ["resources.unit_rows=50"]
    job, again = (plan(manifest, tmp_path / "out", tiny_checkpoint, options) for _ in range(2))
    with job.folder, again.folder:
        ids = [int(name) for name in draw_sample(job).column("id").to_pylist()]
        assert [name // 200 for name in sorted(ids)] == list(range(32))
        assert ids != sorted(ids)
        assert draw_sample(again).column("id").to_pylist() == [f"{name:05d}" for name in ids]


def test_a_sample_of_long_rows_ends_early(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 100 * 16_000)
    for number in range(6):
        soundfile.write(tmp_path / f"audio/{number}.wav", noise, 16_000)
    job = plan(tmp_path / "audio", tmp_path / "out", tiny_checkpoint, [])
    with job.folder:
        estimate = estimate_job(job)
    assert (estimate.trial.rows, estimate.trial.audio_seconds) == (3, SAMPLE_SECONDS)
    assert estimate.audio_seconds == pytest.approx(600)
    assert estimate.statuses == {"ok": 6}


def test_recordings_without_audio_are_no_division_by_zero(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(3):
        (tmp_path / f"audio/{number}.wav").write_text("no audio\n")
    told = sdhubert("segment", tmp_path / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--plan").stdout
    assert "about 3 unreadable" in told
    assert "not measured: the sample of 3 rows has no audio" in told
    assert not (tmp_path / "out").exists()


def test_gpu_hours_and_workers() -> None:
    """Two encoders on each of four GPUs: by hand, for a hundred hours from a sample of 36 s."""
    trial = Trial(
        10, 36.0, 0, 0.0, {"ok": 9, "failed": 1}, 1000, 11_000, 0, {"decode": 2.0, "encode": 4.0, "cut": 1.0}, 9.0
    )
    estimate = extrapolate(trial, WorkerCounts("ray", "cuda", 8, 30, 0.5), 10_000, 600, 100 * 3600.0, 0)
    assert estimate.gpu_seconds == pytest.approx(40_000)
    assert estimate.cpu_seconds == pytest.approx(30_000)
    assert estimate.wall_seconds == pytest.approx(40_000 / 4)
    assert estimate.size == pytest.approx(600 * 1000 + 10_000 * 10_000)
    assert estimate.statuses == {"ok": 9000, "failed": 1000}
    on_cpu = extrapolate(trial, WorkerCounts("ray", "cpu", 8, 1), 10_000, 600, 100 * 3600.0, 0)
    assert on_cpu.gpu_seconds is None
    assert on_cpu.cpu_seconds == pytest.approx(30_000 + 90_000)
    assert on_cpu.wall_seconds == pytest.approx(30_000)  # the one worker that decodes holds the encoders up
