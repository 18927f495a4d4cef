"""A comparison: its figures are those of the commands for one system alone, and what is done is not done again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_compare
import psutil
import pytest
import soundfile
from commands import sdhubert

from sdhubert_ray.comparing.scoring import SystemFigures
from sdhubert_ray.evaluation.published import SYSTEMS

pytestmark = [pytest.mark.seconds, pytest.mark.xdist_group("compare")]

TITLES = ["uniform", "sylber one.ckpt", "sylber two.ckpt"]
FOLDERS = ["uniform", "sylber-one.ckpt", "sylber-two.ckpt"]


def figures_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "comparison.json").read_text())
    return found


def evaluated(*arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sdhubert("evaluate", *arguments, "--json", "-").stdout)
    return found


def stamps(folder: Path) -> dict[Path, int]:
    """When each file below was written, but for the records, which count runs."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "run.json"}


@pytest.mark.parametrize("number", range(len(TITLES)), ids=FOLDERS)
def test_figures_are_those_of_the_commands_for_one_alone(
    number: int, compared: Path, divided: Path, tmp_path: Path
) -> None:
    segments, references = compared / "systems" / FOLDERS[number] / "segments", divided / "test.json"
    found = figures_of(compared)["systems"][number]
    assert found["system"]["title"] == TITLES[number]

    tuned = ("--tune", divided / "validation.json", "--tune-segments", segments)
    boundary = evaluated("boundary", segments, references, *tuned)
    assert found["boundary"]["protocols"] == boundary["protocols"]
    assert found["boundary"]["syllables"] == boundary["syllables"]
    assert set(boundary["protocols"]) == {"sdhubert", "onsets_offsets", "zerosyl"}
    for shift in ("shift", "zerosyl_shift"):
        assert {**found[shift], "tuned_on": None} == {**boundary[shift], "tuned_on": None}

    sdhubert("cluster", segments, tmp_path / "units", "--n-clusters", "8", "--n-units", "8", "--engine", "local")
    purity = evaluated("purity", segments, references, "--quantizer", tmp_path / "units")
    assert found["purity"]["protocols"] == purity["protocols"]
    assert found["token_rate"] == purity["token_rate"]
    assert found["num_units"] == 8


def test_sentences_are_compared_as_by_the_command(
    compared: Path, divided: Path, made: list[Path], golden: Path
) -> None:
    systems = figures_of(compared)["systems"]
    for number, checkpoint in enumerate(made, start=1):
        by = ("--checkpoint", checkpoint, "--preset", "sylber", "--embedding", "favg")
        layer = ("--layer", str(systems[number]["ssabx"]["layer"]))
        alone = evaluated("ssabx", golden / "audio", divided / "triplets.json", *by, *layer)
        assert systems[number]["ssabx"]["accuracy"] == alone["scores"][0]["accuracy"]
        assert systems[number]["ssabx"]["triplets"] == 3
    assert systems[0]["ssabx"] is None


def test_two_checkpoints_of_one_preset_are_two_systems(compared: Path) -> None:
    one, two = figures_of(compared)["systems"][1:]
    assert one["checkpoint_sha256"] != two["checkpoint_sha256"]
    assert one["boundary"]["protocols"] != two["boundary"]["protocols"]


def test_the_table_has_all_figures_and_what_is_published_apart(compared: Path) -> None:
    """In the words of whoever reads it: each cell is the figure of comparison.json."""
    said = (compared.parent / "said.txt").read_text()
    own, _, published = said.partition("Published by their authors")
    systems = figures_of(compared)["systems"]
    for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"), ("R-value", "r_value")):
        lines = [line for line in own.splitlines() if line.startswith(f"{name} %")]
        assert [line.split()[2] for line in lines] == ["sdhubert", "onsets_offsets", "zerosyl"]
        for line in lines:
            for one in systems:
                figure = one["boundary"]["protocols"][line.split()[2]][key]
                assert f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})" in line
    for start in ("syllable purity %", "cluster purity %", "bitrate, bit/s", "SSABX %", "real-time factor", "memory"):
        assert sum(line.startswith(start) for line in own.splitlines()) >= 1
    assert all(one.system in published and one.system not in own for one in SYSTEMS)
    assert "None of it was measured here" in published
    told = {tuple(sorted(one["figures"].items())) for one in figures_of(compared)["published"]}
    assert told == {tuple(sorted(one.figures.items())) for one in SYSTEMS}


def test_what_segmenting_has_cost(compared: Path, golden: Path) -> None:
    audio = sum(soundfile.info(path).duration for path in (golden / "audio").glob("*.flac"))
    for one in figures_of(compared)["systems"]:
        assert one["cost"]["audio_seconds"] == pytest.approx(audio, abs=0.01)
        assert one["real_time_factor"] == one["cost"]["wall_seconds"] / one["cost"]["audio_seconds"] > 0
        assert 50 * 2**20 < one["cost"]["peak_bytes"] < psutil.virtual_memory().total
    uniform, sylber, _ = figures_of(compared)["systems"]
    assert sylber["cost"]["peak_bytes"] > uniform["cost"]["peak_bytes"] + 50 * 2**20  # torch


def test_memory_is_the_most_that_was_held() -> None:
    """Of this process and of no parent: 200 MiB that were held, and given back, count."""
    code = (
        "import numpy as np\n"
        "from sdhubert_ray.comparing.running import peak_memory\n"
        "before = peak_memory()\n"
        "held = np.ones(200 * 2**20, np.uint8)\n"
        "del held\n"
        "print(peak_memory() - before)\n"
    )
    ballast = bytearray(b"x") * (600 * 2**20)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    del ballast
    assert 199 * 2**20 < int(done.stdout) < 230 * 2**20


def test_a_system_that_is_added_is_all_the_work(
    arguments: list[str | Path], copied: Path, tiny_checkpoint: Path
) -> None:
    before, then = figures_of(copied)["systems"][0], stamps(copied / "systems")
    place = arguments.index("--systems") + 1
    more = [*arguments[:place], f"mine:readme={tiny_checkpoint},uniform", *arguments[place + 1 :]]
    sdhubert("compare", *more, "-o", copied)
    after = stamps(copied / "systems")
    assert {path: after[path] for path in then} == then
    assert {path.relative_to(copied / "systems").parts[0] for path in after.keys() - then.keys()} == {"mine"}
    added, other = figures_of(copied)["systems"]
    assert other == before
    assert added["system"] == {"title": "mine", "name": "readme", "checkpoint": str(tiny_checkpoint)}


def test_units_may_be_made_of_other_recordings(golden: Path, divided: Path, tmp_path: Path) -> None:
    command = ["compare", golden / "audio", "--systems", "energy", "--references", divided / "test.json"]
    sdhubert(*command, "--train", golden / "audio/synth_4.flac", "--n-units", "4", "-o", tmp_path / "out")
    alone = tmp_path / "out/systems/energy"
    sdhubert("cluster", alone / "train", tmp_path / "q", "--n-clusters", "4", "--n-units", "4", "--engine", "local")
    purity = evaluated("purity", alone / "segments", divided / "test.json", "--quantizer", tmp_path / "q")
    (found,) = figures_of(tmp_path / "out")["systems"]
    assert found["purity"]["protocols"] == purity["protocols"]
    assert found["shift"]["source"] != "tuned"


def test_too_few_syllables_for_the_units_are_told(golden: Path, divided: Path, copied: Path) -> None:
    command = ["compare", golden / "audio", "--systems", "uniform", "--references", divided / "test.json"]
    done = sdhubert(*command, "-o", copied)
    assert "uniform has fewer syllables than units, so there is no purity" in done.stderr
    assert "NOT TUNED" in done.stderr
    (found,) = figures_of(copied)["systems"]
    assert found["purity"] is found["num_units"] is found["ssabx"] is None
    assert set(found) == {*SystemFigures.__dataclass_fields__}


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["skip", "empty"])
def test_recordings_that_are_missing_are_told(missing: str, golden: Path, divided: Path, tmp_path: Path) -> None:
    for name in ("synth_1.flac", "synth_2.flac"):
        (tmp_path / "audio").mkdir(exist_ok=True)
        (tmp_path / "audio" / name).symlink_to(golden / "audio" / name)
    command = [tmp_path / "audio", "--systems", "energy", "--references", divided / "test.json", "--missing", missing]
    done = sdhubert("compare", *command, "-o", tmp_path / "out", "--n-units", "4")
    assert "energy: 1 recordings are missing" in done.stderr
    (found,) = figures_of(tmp_path / "out")["systems"]
    assert found["utterances"] == {"skip": 2, "empty": 3}[missing]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "preset"),
    [("vg-hubert", "vg-hubert"), ("wavlm", "zerosyl"), ("sylboost", "sylboost-5.0"), ("sylboost", "sylboost-8.33")],
)
def test_every_system_can_be_compared(layout: str, preset: str, golden: Path, divided: Path, tmp_path: Path) -> None:
    from foreign import MAKERS

    path, _ = MAKERS[layout](tmp_path)
    systems = f"bundled,mel-valleys,noise:{preset}={path}"
    command = [golden / "audio", "--systems", systems, "--references", divided / "test.json", "--n-units", "4"]
    sdhubert("compare", *command, "--tune", divided / "validation.json", "-o", tmp_path / "out")
    for one in figures_of(tmp_path / "out")["systems"]:
        assert one["token_rate"]["segments"] > 0
        assert one["boundary"]["protocols"]["sdhubert"]["f1"]["value"] > 0


def test_the_benchmark_prints_the_table_of_the_page(compared: Path) -> None:
    header, rule, *rows = bench_compare.markdown(compared, small=False)
    assert header == f"| figure, protocol | {' | '.join(TITLES)} |"
    assert {line.count("|") for line in (header, rule, *rows)} == {len(TITLES) + 2}
    (f1,) = (line for line in rows if line.startswith("| F1 %, zerosyl |"))
    for one, cell in zip(figures_of(compared)["systems"], f1.split("|")[2:-1], strict=True):
        value = one["boundary"]["protocols"]["zerosyl"]["f1"]["value"]
        assert cell.split()[0] == f"{100 * value:.1f}"
    assert next(bench_compare.markdown(compared, small=True)) == f"| figure, protocol | {TITLES[0]} |"
