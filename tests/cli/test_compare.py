"""`sdhubert compare` as it is typed: what it refuses, and how it ends and goes on."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import soundfile
from commands import SDHUBERT, complaint, sdhubert
from foreign import make_sylber

COPIES = 150


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--systems", "sylbr"], "--systems has 'sylbr', which is no system; the systems are bundled, "),
        (["--systems", "sylber"], "system sylber needs its checkpoint, as in sylber=FILE"),
        (["--systems", "sylber={audio}/gone.ckpt"], "gone.ckpt does not exist"),
        (["--systems", "sylber={tiny}"], "preset sylber is for a Sylber"),
        (["--systems", "uniform,uniform"], "which are called alike; give one a title"),
        (["--references", "gone.json"], "references gone.json is not there"),
        (["--references", "{audio}/synth_0.flac"], "synth_0.flac"),
        (["--tune", "{audio}/syllables.json"], "the shift has to be chosen on other recordings than it is tested on"),
        (["--train", "{audio}/gone"], "gone does not exist"),
        (["--triplets", "{audio}/gone.json"], "gone.json do not exist"),
        (["--device", "tpu"], "device is 'tpu'; it has to be one of auto, cpu, cuda"),
        (["--missing", "perhaps"], "--missing is 'perhaps'; it has to be one of error, skip, empty"),
        (["--rename", "a"], "--rename"),
        (["-o", "{audio}/synth_0.flac"], "synth_0.flac is a file; name a folder"),
        (["-o", "{audio}/within"], "is in the input"),
        (["-o", "/gone/compared"], "there is no folder /gone to write /gone/compared into"),
    ],
)
def test_what_is_refused_and_nothing_is_written(
    words: list[str], sentence: str, golden: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    audio = tmp_path / "audio"
    shutil.copytree(golden / "audio", audio)
    before = sorted(tmp_path.rglob("*"))
    given = {
        "--systems": "uniform",
        "--references": str(audio / "syllables.json"),
        "-o": str(tmp_path / "out"),
        words[0]: words[1].format(audio=audio, tiny=tiny_checkpoint),
    }
    said = complaint(sdhubert("compare", audio, *(part for pair in given.items() for part in pair), expect=2))
    assert sentence in said
    assert sorted(tmp_path.rglob("*")) == before


def test_references_of_what_is_no_input_are_refused_before_the_work(golden: Path, tmp_path: Path) -> None:
    command = ["compare", golden / "audio/synth_0.flac", "--systems", "uniform", "-o", tmp_path / "out"]
    said = complaint(sdhubert(*command, "--references", golden / "audio/syllables.json", expect=2))
    assert "4 of 5 recordings of" in said
    assert "are not among the inputs, such as synth_1.flac" in said
    assert "--missing skip leaves their references out" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["error", "skip"])
def test_references_that_are_of_nothing_are_refused_before_the_work(missing: str, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").symlink_to(golden / "audio")
    command = ["compare", *(tmp_path / f"deep/synth_{number}.flac" for number in (1, 2)), "--missing", missing]
    command += ["--systems", "uniform", "--references", golden / "audio/syllables.json", "-o", tmp_path / "out"]
    said = complaint(sdhubert(*command, expect=2))
    assert "5 of 5 recordings of" in said
    assert "names have to be the same but for the ending of the audio; they are with --rename =" in said
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_other_pieces_is_refused_before_the_work(golden: Path, tmp_path: Path) -> None:
    sdhubert("manifest", golden / "audio", tmp_path / "m.parquet", "--piece-seconds", "20")
    command = ["compare", tmp_path / "m.parquet", "--systems", "uniform", "-o", tmp_path / "out"]
    said = complaint(sdhubert(*command, "--references", golden / "audio/syllables.json", expect=2))
    assert "m.parquet is cut into pieces of 20 s, but uniform takes 600 s; name the recordings themselves" in said
    assert not (tmp_path / "out").exists()


def test_a_page_and_figures_of_others_are_left_alone(golden: Path, tmp_path: Path) -> None:
    command = ["compare", golden / "audio", "--systems", "uniform", "--references", golden / "audio/syllables.json"]
    site, figures = tmp_path / "site", tmp_path / "figures"
    for folder, name in ((site, "index.html"), (figures, "comparison.json")):
        folder.mkdir()
        (folder / name).write_text("{}")
    said = complaint(sdhubert(*command, "-o", site, expect=2))
    assert f"{site} holds index.html already, which is of no comparison; name another folder" in said
    said = complaint(sdhubert(*command, "-o", figures, expect=2))
    assert "comparison.json is there already and holds no figures; name another file" in said
    assert (site / "index.html").read_text() == (figures / "comparison.json").read_text() == "{}"


def test_a_report_of_a_comparison_is_its_own_page(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps({"metric": "compare", "sdhubert_ray": "0", "systems": []}))
    said = complaint(sdhubert("report", tmp_path / "comparison.json", "-o", tmp_path / "page.html", expect=2))
    assert "is of a comparison, whose page is beside it" in said


@pytest.fixture
def long_work(golden: Path, tmp_path: Path) -> list[str | Path]:
    """A comparison that has several units of work left after its first."""
    (tmp_path / "audio").mkdir()
    for number in range(COPIES):
        shutil.copy(golden / "audio/synth_4.flac", tmp_path / "audio" / f"{number:03d}.flac")
    checkpoint, _ = make_sylber(tmp_path)
    (syllables,) = (
        one
        for one in json.loads((golden / "audio/syllables.json").read_text()).values()
        if one["file_name"] == "synth_4.flac"
    )
    references = {"0": {**syllables, "file_name": "000.flac"}, "1": {**syllables, "file_name": "001.flac"}}
    (tmp_path / "references.json").write_text(json.dumps(references))
    command = ["compare", tmp_path / "audio", "--systems", f"uniform,sylber={checkpoint}", "--n-units", "4"]
    return [*command, "--references", tmp_path / "references.json", "-o", tmp_path / "out"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_comparison_goes_on(sent: signal.Signals, long_work: list[str | Path], tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to all processes, or the end of the parent alone; no process stays."""
    process = subprocess.Popen([SDHUBERT, *map(str, long_work)], stderr=subprocess.PIPE, text=True, process_group=0)
    segments = tmp_path / "out/systems/sylber/segments"
    deadline = time.monotonic() + 120
    while not list(segments.glob("commits/0*.parquet")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == (1 if sent == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said
    if sent == signal.SIGINT:
        assert "sdhubert: interrupted; the same command resumes" in said
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive

    sdhubert(*long_work)
    figures = json.loads((tmp_path / "out/comparison.json").read_text())
    uniform, sylber = (one["cost"]["audio_seconds"] for one in figures["systems"])
    every = COPIES * soundfile.info(tmp_path / "audio/000.flac").duration
    assert uniform == pytest.approx(every)
    assert 0 < sylber < every  # what the process that was ended has done, nobody has measured
