"""The tiers of references come along in the TextGrids of a run."""

import json
import shutil

import pytest
from commands import complaint, sdhubert
from praatio import textgrid as praat

from sdhubert_ray.evaluation.textgrid import parse_textgrid
from sdhubert_ray.evaluation.tiers import FurtherTiers
from sdhubert_ray.output.formats import Tier

TIERS = {"phones": [(0.0, 0.2, "K"), (0.2, 0.6, "AE1")], "words": [(0.0, 0.6, 'c"at')]}


def write_grid(path, tiers):
    grid = praat.Textgrid()
    for name, intervals in tiers.items():
        grid.addTier(praat.IntervalTier(name, intervals, 0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(str(path), "long_textgrid", includeBlankSpaces=True)


def write_json(path, *names, file_name="{}.flac"):
    entry = [{"start": 0.1, "end": 0.3, "label": "da"}]
    path.write_text(json.dumps({name: {"file_name": file_name.format(name), "syllables": entry} for name in names}))
    return str(path)


def test_all_tiers_of_textgrids_by_the_names_of_recordings(tmp_path):
    write_grid(tmp_path / "grids" / "sub" / "a.TextGrid", TIERS)
    write_grid(tmp_path / "grids" / "b.TextGrid", {"anything": [(0.0, 1.0, "x")]})  # without syllables or phones
    further = FurtherTiers(str(tmp_path / "grids"))
    assert sorted(further.names) == ["b", "sub/a"]
    assert [tier.name for tier in further("sub/a.flac")] == ["phones", "words"]
    assert further("b.wav") == [Tier("anything", True, ((0.0, 1.0, "x"),))]
    assert "sub/a" in further
    assert "a.flac" not in further
    assert further("a.flac") == []
    assert "a.flac" in FurtherTiers(str(tmp_path / "grids"), ("sub/", ""))


def test_syllables_of_json_by_file_name_or_id(tmp_path):
    further = FurtherTiers(write_json(tmp_path / "x.json", "one", file_name="deep/{}.flac"))
    expected = [Tier("syllables", True, ((0.1, 0.3, "da"),))]
    assert further("deep/one.wav") == further("one") == expected
    assert further("two") == []


def test_a_run_writes_them(golden, tiny_checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        shutil.copy(golden / "audio" / "synth_1.flac", tmp_path / "in" / f"{name}.flac")
    write_grid(tmp_path / "grids" / "x" / "a.TextGrid", TIERS)
    command = ["segment", tmp_path / "in", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", "local"]
    beside = ["--format", "textgrid", "--references", tmp_path / "grids"]
    said = complaint(sdhubert(*command, *beside, expect=2))
    assert "no recording has a reference; recordings are called like 'a.flac', references like 'x/a'" in said
    assert said.endswith("they meet with --rename x/=")
    assert not (tmp_path / "out").exists()
    done = sdhubert(*command, *beside, "--rename", "x/=", "--frame-features", "float32")
    assert "note: 1 of 2 recordings have no reference, such as b.flac" in done.stderr
    names = {}
    for name in ("a", "b"):
        text = (tmp_path / "out" / f"{name}.TextGrid").read_text()
        names[name] = [tier.name for tier in parse_textgrid(text, name)]
    assert names == {"a": ["syllables", "phones", "words"], "b": ["syllables"]}
    # Again, with others: nothing is left to segment, and the TextGrids are written anew.
    beside[-1] = write_json(tmp_path / "x.json", "a", "b")
    sdhubert(*command, *beside, "--frame-features", "float32")
    sdhubert("resegment", tmp_path / "out", tmp_path / "again", *beside, "--engine", "local")
    for name in ("out", "again"):
        text = (tmp_path / name / "b.TextGrid").read_text()
        assert [tier.name for tier in parse_textgrid(text, "b")] == ["syllables", "reference - syllables"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--references", "{grids}"], "ask for them with --format textgrid"),
        (["--rename", "a=b"], "name them with --references"),
        (["--format", "textgrid", "--references", "{nothing}"], "is not there"),
        (["--format", "textgrid", "--references", "{empty}"], "is a folder without TextGrids"),
        (["--format", "textgrid", "--references", "{grids}", "--rename", "ab"], "it has to be OLD=NEW"),
    ],
)
def test_mistakes_are_told_before_the_work(options, sentence, golden, tiny_checkpoint, tmp_path):
    write_grid(tmp_path / "grids" / "a.TextGrid", TIERS)
    (tmp_path / "empty").mkdir()
    places = {"grids": tmp_path / "grids", "nothing": tmp_path / "no.json", "empty": tmp_path / "empty"}
    command = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    said = complaint(sdhubert(*command, *(one.format(**places) for one in options), expect=2))
    assert sentence in said
    assert not (tmp_path / "out").exists()
