"""Each example, run as its first lines say, on the demo; none is long."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from commands import sdhubert
from forks import FORKS, run_script
from nbclient import NotebookClient
from places import ROOT
from transformers import OPTForCausalLM

from sdhubert_ray import read_segments

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
DEMO = ROOT / "sdhubert_ray" / "assets" / "demo"
CODE = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
MOST_LINES = 60


def run(name: str, *arguments: str | Path) -> str:
    """What an example prints, run in a process of its own."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def found_in(output: Path | str) -> dict[str, int]:
    return {recording.id: len(recording.segments) for recording in read_segments(str(output))}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < MOST_LINES
    assert f"python examples/{path.name}" in text.partition('"""\n\n')[0] + text[:300]
    assert path.name in (ROOT / "docs/examples.md").read_text()
    assert f"{path.stem}.py" in Path(__file__).read_text()


@FORKS
def test_one_file_has_the_syllables_that_the_command_finds(tmp_path: Path) -> None:
    result = run_script(CODE, EXAMPLES / "segment_one_file.py", DEMO / "synth_0.flac")
    assert result.returncode == 0, result.stderr
    sdhubert("segment", DEMO / "synth_0.flac", tmp_path / "out", "--checkpoint", "bundled")
    (recording,) = read_segments(str(tmp_path / "out"))
    printed = [tuple(map(float, line.split()[:2])) for line in result.stdout.splitlines()[1:]]
    assert printed == [tuple(segment) for segment in recording.segments.tolist()]


@FORKS
def test_syllables_are_printed_while_they_are_said() -> None:
    result = run_script(CODE, EXAMPLES / "streaming.py", DEMO / "synth_0.flac")
    assert result.returncode == 0, result.stderr
    lines = re.findall(r"^at +(the end|[\d.]+ s): +([\d.]+) to +([\d.]+)$", result.stdout, flags=re.MULTILINE)
    assert len(lines) == len(result.stdout.splitlines())
    ends = [float(end) for *_, end in lines]
    assert ends == sorted(ends)
    known = [float(when.removesuffix(" s")) for when, *_ in lines if when != "the end"]
    assert len(known) > len(lines) / 2
    # None before its end and what the encoder looks ahead; most within a second of it.
    delays = [when - end for when, end in zip(known, ends, strict=False)]
    assert min(delays) >= 0.5
    assert sorted(delays)[len(delays) // 2] < 1


@FORKS
def test_settings_are_compared_and_those_of_the_checkpoint_are_good() -> None:
    result = run_script(CODE, EXAMPLES / "compare_settings.py")
    assert result.returncode == 0, result.stderr
    title, _, *rows = result.stdout.splitlines()
    assert title.startswith("41 true syllables")
    scores = {tuple(map(float, row.split()[:2])): float(row.split()[3]) for row in rows}
    assert len(scores) == 9
    assert list(scores.values()) == sorted(scores.values())
    assert scores[0.2, 0.64] > 0.6


@pytest.mark.seconds
@pytest.mark.xdist_group("processes")
def test_a_corpus_becomes_lines_of_units(tmp_path: Path) -> None:
    printed = run("corpus_to_units.py", DEMO, tmp_path, 6, 3)
    lines = re.findall(r"^(synth_\d\.flac) (\d+) syllables, units ((?:\d+ ?)+)$", printed, flags=re.MULTILINE)
    assert {name: int(count) for name, count, _ in lines} == found_in(tmp_path / "segments")
    for _, count, units in lines:
        assert 0 < len(units.split()) <= int(count)
        assert set(units.split()) <= {"0", "1", "2"}


@pytest.mark.seconds
@FORKS
def test_a_language_model_of_units_learns_what_follows_what(tmp_path: Path) -> None:
    """Of units that follow each other in a ring: each is about as frequent as the others, and known from the last."""
    random = np.random.default_rng(0)
    rings = [((np.arange(12) + begin) % 6).tolist() for begin in random.integers(0, 6, 40)]
    lines = [{"id": f"{number:02}", "units": ring} for number, ring in enumerate(rings)]
    units = tmp_path / "units.jsonl"
    units.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    result = run_script(CODE, EXAMPLES / "unit_lm.py", units, tmp_path / "model", "60")
    assert result.returncode == 0, result.stderr
    sizes, *steps = result.stdout.splitlines()
    assert sizes == f"{36 * 13} tokens of 7 kinds to learn from, {4 * 13} held out"
    losses = [re.fullmatch(r"step +(\d+)  held out ([\d.]+)  unigram ([\d.]+)", step) for step in steps]
    assert [int(loss[1]) for loss in losses if loss] == [20, 40, 60]
    # As if each of the seven tokens had been seen once more: the units, as often each, and the end of a recording.
    seen, held_out = (np.concatenate(part) for part in (rings[4:], rings[:4]))
    chances = (np.bincount(seen, minlength=6) + 1) / (36 * 13 + 7)
    expected = -(np.log(chances[held_out]).sum() + 4 * np.log(37 / (36 * 13 + 7))) / (4 * 13)
    assert {loss[3] for loss in losses if loss} == {f"{expected:.3f}"}
    assert float(losses[-1][2]) < 0.7 * expected
    model = OPTForCausalLM.from_pretrained(tmp_path / "model")
    tokens = torch.tensor([[0, *(unit + 1 for unit in ring), 0] for ring in rings[:4]])
    assert model(tokens, labels=tokens).loss.item() == pytest.approx(float(losses[-1][2]), abs=1e-3)
    assert (tmp_path / "model/curve.png").stat().st_size > 5_000


def test_a_corpus_in_a_store(s3_bucket: str) -> None:
    printed = run("s3_corpus.py", f"{s3_bucket}/speech")
    found = found_in(f"{s3_bucket}/speech/out")
    assert set(found) == {"synth_0.flac", "synth_2.flac"}
    for name, count in found.items():
        assert f"{name} {s3_bucket}/speech/audio/{name} ok {count} syllables" in printed


@pytest.mark.slow
@pytest.mark.ray
def test_a_checkpoint_is_trained_and_segments(tmp_path: Path) -> None:
    run("train_tiny.py", tmp_path)
    told = json.loads(sdhubert("status", tmp_path / "run", "--json").stdout)
    assert told["state"] == "finished"
    assert set(found_in(tmp_path / "segments")) == {"synth_0.flac", "synth_2.flac"}
    assert all(count > 0 for count in found_in(tmp_path / "segments").values())


@pytest.mark.seconds
@pytest.mark.xdist_group("processes")
def test_the_notebook_runs_and_its_pictures_are_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of progress bars, which notebooks have widgets for
    kept, fresh = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=300, kernel_name="python3").execute()
    assert kinds_of_outputs(kept) == kinds_of_outputs(fresh)
    assert {"image/png", "text/html", "stdout"} <= set(kinds_of_outputs(kept))
    assert "stderr" not in kinds_of_outputs(kept)


def kinds_of_outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """What its cells put out: names of streams, kinds of data."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [kind for output in outputs for kind in sorted(output.get("data", {output.get("name", "error"): None}))]
