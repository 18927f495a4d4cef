"""`sdhubert show`: an audio file at once, and recordings of an output, with frame features or without."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import complaint, sdhubert
from places import ROOT
from praatio import textgrid as praat

from sdhubert_ray import read_segments
from sdhubert_ray.cli import drawing
from sdhubert_ray.evaluation.textgrid import parse_textgrid
from sdhubert_ray.looking import revisit
from sdhubert_ray.output import read_files

DEMO = ROOT / "sdhubert_ray/assets/demo"
FRAMES = ["id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units"]
FRAMES += ["frame_features", "norm", "mask"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, golden: Path) -> Path:
    """An output with frame features, one recording of two pieces among them; its input lies beside it."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "in").mkdir()
    shutil.copy(golden / "audio" / "synth_1.flac", folder / "in" / "short.flac")
    noise = np.random.default_rng(0).normal(0, 0.1, (31 * 16_000, 2))
    noise[5 * 16_000 : 9 * 16_000] = 0
    soundfile.write(folder / "in" / "long.flac", noise, 16_000)
    (folder / "list.csv").write_text("id,uri,channel,start\nlong,in/long.flac,1,0.5\nshort.flac,in/short.flac,,\n")
    for name, more in (("out", ["--frame-features", "float32"]), ("bare", [])):
        sdhubert(
            "segment", folder / "list.csv", folder / name, "--checkpoint", tiny_checkpoint, "--engine", "local",
            "audio.piece_seconds=20", *more,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("recording", ["long", "short.flac"])
def test_frames_are_the_same_kept_or_made_anew(recording: str, kept: Path) -> None:
    """Of the channel, the part and the pieces that the run had."""
    seen = [
        revisit(str(kept / name), next(read_files(str(kept / name), FRAMES, only=recording)), None)
        for name in ("out", "bare")
    ]
    one, other = (each.frames for each in seen)
    assert one.features is not None
    assert len(one.features) == seen[0].result.num_frames
    assert one.begin == other.begin == seen[0].result.offset
    assert one.threshold == other.threshold == 0.1
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.norm, other.norm)
    assert one.norm is not None
    is_speech = one.norm > one.threshold
    assert not is_speech.all()
    np.testing.assert_array_equal(one.features.any(axis=1), is_speech)
    samples = seen[1].read(3.0, 4.0)
    file, channel = ("long.flac", 1) if recording == "long" else ("short.flac", 0)
    told = soundfile.read(kept / "in" / file, always_2d=True, dtype="float32")[0][3 * 16_000 : 4 * 16_000, channel]
    np.testing.assert_allclose(samples, told[: len(samples)], atol=1e-6)


@pytest.mark.parametrize("output", ["out", "bare"])
@pytest.mark.parametrize(
    ("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")]
)
def test_a_recording_of_an_output_is_drawn(output: str, ending: str, begins: bytes, kept: Path, tmp_path: Path) -> None:
    picture = tmp_path / f"x{ending}"
    done = sdhubert("show", kept / output, "long", "-o", picture, "--start", "19", "--end", "23")
    assert picture.read_bytes().startswith(begins)
    assert f"written to {picture}" in done.stdout
    shown = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    assert all(float(cells[3]) > 19 and float(cells[2]) < 23 for cells in shown)


def test_an_audio_file_is_shown_at_once(tmp_path: Path) -> None:
    """With the bundled checkpoint, and as `segment` finds its syllables; beside the true ones."""
    audio = DEMO / "synth_0.flac"
    done = sdhubert("show", audio, "-o", tmp_path / "x.png", "--references", DEMO / "syllables.json", "--json")
    shown = json.loads(done.stdout.splitlines()[0])
    sdhubert("segment", audio, tmp_path / "out", "--checkpoint", "bundled", "--engine", "local")
    (result,) = read_segments(str(tmp_path / "out"))
    assert (shown["id"], shown["status"]) == ("synth_0.flac", "ok")
    assert [[one["start"], one["end"]] for one in shown["syllables"]] == result.segments.tolist()
    truth = json.loads((DEMO / "syllables.json").read_text())["synth_0"]["syllables"]
    assert [one["label"] for one in shown["reference"]] == [one["label"] for one in truth]
    assert shown["duration"] == pytest.approx(result.duration)
    assert (tmp_path / "x.png").stat().st_size > 20_000


def test_several_recordings_are_one_page(kept: Path, tmp_path: Path) -> None:
    done = sdhubert("show", kept / "out", "long", "short.flac", "-o", tmp_path / "x.html", "--end", "4", "--json")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()[:2]] == ["long", "short.flac"]
    assert (tmp_path / "x.html").read_text().count("<section") == 2
    said = complaint(sdhubert("show", kept / "out", "long", "short.flac", "-o", tmp_path / "x.png", expect=2))
    assert "can hold one recording, not 2; name one, or a .html for several" in said


def test_a_long_recording_is_drawn_in_part(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_DRAWN_SECONDS", 2.0)
    done = sdhubert("show", kept / "out", "long", "-o", tmp_path / "x.png")
    assert "long is 30.5 s long; 0.5 to 2.5 s are drawn (--start, --end)" in done.stderr


def test_a_textgrid_with_all_tiers_of_the_reference(kept: Path, tmp_path: Path) -> None:
    grid = praat.Textgrid()
    tiers = {"phones": [(0.0, 0.2, "K"), (0.2, 0.5, "AE1"), (0.5, 0.6, "T")], "words": [(0.0, 0.6, "cat")]}
    for name, intervals in tiers.items():
        grid.addTier(praat.IntervalTier(name, intervals, 0, 1.0))
    (tmp_path / "grids").mkdir()
    grid.save(str(tmp_path / "grids" / "short.TextGrid"), "short_textgrid", includeBlankSpaces=True)
    command = ["show", kept / "out", "short.flac", "--references", tmp_path / "grids"]
    done = sdhubert(*command, "-o", tmp_path / "x.TextGrid")
    assert "K-AE-T" in done.stdout
    found = parse_textgrid((tmp_path / "x.TextGrid").read_text(), "here")
    assert [tier.name for tier in found] == ["syllables", "phones", "words"]
    assert [label for *_, label in found[2].intervals if label] == ["cat"]
    entry = {"file_name": "short", "syllables": [{"start": 0.1, "end": 0.3, "label": "da"}]}
    (tmp_path / "x.json").write_text(json.dumps({"short": entry}))
    command[-1] = tmp_path / "x.json"
    sdhubert(*command, "-o", tmp_path / "y.TextGrid")
    found = parse_textgrid((tmp_path / "y.TextGrid").read_text(), "here")
    assert [tier.name for tier in found] == ["syllables", "reference - syllables"]


def test_names_stay_text(kept: Path, tmp_path: Path) -> None:
    name = tmp_path / "<script>alert(1)<script> $x^$ 猫.flac"
    shutil.copy(kept / "in" / "short.flac", name)
    done = sdhubert("show", name, "-o", tmp_path / "x.html")
    assert "lacks some characters" in done.stderr
    assert "<script>alert" not in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize(("seconds", "status"), [(1.0, "silent"), (0.05, "too_short")])
def test_what_has_no_frames_is_drawn_without(
    seconds: float, status: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(round(16_000 * seconds)), 16_000)
    sdhubert("segment", tmp_path / "a.wav", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", "local")
    done = sdhubert("show", tmp_path / "out", "-o", tmp_path / "x.png")
    assert f"a.wav: {status}, {seconds:.2f} s, 0 syllables" in done.stdout
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    again = sdhubert("show", tmp_path / "a.wav", "--checkpoint", tiny_checkpoint, "-o", tmp_path / "y.png")
    assert again.stdout.splitlines()[0] == done.stdout.splitlines()[0]


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{in}/no.flac"], "is not there; name an audio file, or an output folder"),
        (["{in}"], "holds no run"),
        (["{list}"], "is not audio that can be decoded"),
        (["{in}/short.flac", "--references", "{json}"], "has no reference for recording 'short.flac'"),
        (["{in}/short.flac", "an-id"], "is one recording; leave out 'an-id'"),
        (["{out}", "long", "-o", "x.gif"], "has to end with .png, .svg, .html or .TextGrid"),
        (["{out}", "long", "-o", "{list}"], "has to end with"),
        (["{out}", "long", "-o", "{in}/no/x.png"], "there is no folder"),
        (["{out}", "long", "--start", "5", "--end", "5"], "the end has to come after the start"),
        (["{out}", "short.flac", "--start", "500"], "has nothing at --start 500"),
        (["{bare}", "long", "--end", "121", "-o", "{new}"], None),
        (["{out}", "--tier", "phones"], "name them with --references"),
        (["{in}/short.flac", "--checkpoint", "{in}/no.pt"], "does not exist; give a path or URI"),
        (["{bare}", "-o", "{new}", "--checkpoint", "bundled"], "its SHA-256 differs"),
        (["{bare}", "-o", "{new}", "--checkpoint", "{in}/no.pt"], "keeps no frame features, and to make them anew"),
    ],
)
def test_each_mistake_is_one_sentence(arguments: list[str], sentence: str | None, kept: Path, tmp_path: Path) -> None:
    places = {
        "json": DEMO / "syllables.json",
        "in": kept / "in",
        "out": kept / "out",
        "bare": kept / "bare",
        "list": kept / "list.csv",
    }
    filled = [one.format(**places, new=tmp_path / "x.png") for one in arguments]
    done = sdhubert("show", *filled, expect=0 if sentence is None else 2)
    if sentence is not None:
        assert sentence in complaint(done)
        assert not (tmp_path / "x.png").exists()


def test_a_picture_is_replaced_only_when_asked(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("mine")
    command = ["show", kept / "out", "short.flac", "-o", tmp_path / "x.png"]
    assert "is there already" in complaint(sdhubert(*command, expect=2))
    assert (tmp_path / "x.png").read_text() == "mine"
    sdhubert(*command, "--overwrite")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_audio_and_checkpoint_that_are_gone(tiny_checkpoint: Path, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(golden / "audio" / "synth_1.flac", tmp_path / "in" / "a.flac")
    weights = shutil.copy(tiny_checkpoint, tmp_path / "w.pt")
    shutil.copytree(tiny_checkpoint.parent / "upstream", tmp_path / "upstream")
    sdhubert("segment", tmp_path / "in", tmp_path / "out", "--checkpoint", weights, "--engine", "local")
    (tmp_path / "w.pt").rename(tmp_path / "moved.pt")
    command = ["show", tmp_path / "out", "-o", tmp_path / "x.png"]
    said = complaint(sdhubert(*command, expect=2))
    assert "say with --checkpoint where it is now" in said
    assert "syllables" in sdhubert("show", tmp_path / "out").stdout  # which needs neither
    sdhubert(*command, "--checkpoint", tmp_path / "moved.pt")
    (tmp_path / "in" / "a.flac").unlink()
    said = complaint(sdhubert(*command, "--checkpoint", tmp_path / "moved.pt", "--overwrite", expect=2))
    assert "does not exist" in said
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_recording_that_failed_has_nothing_to_draw(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    command = ["segment", tmp_path / "a.wav", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--max-failed", "1"]
    sdhubert(*command)
    said = complaint(sdhubert("show", tmp_path / "out", "-o", tmp_path / "x.png", expect=2))
    assert "has nothing to draw: it is unreadable" in said
