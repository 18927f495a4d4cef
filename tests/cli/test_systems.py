"""Presets of other systems from the command line."""

import json
import re

import pytest
from commands import complaint, sdhubert
from foreign import MAKERS, make_folder

from sdhubert_ray import read_segments

PRESETS = {"vg-hubert": "vg-hubert", "sylber": "sylber", "wavlm": "zerosyl", "sylboost": "sylboost-5.0"}


@pytest.mark.parametrize("layout", PRESETS)
def test_a_corpus_goes_through_each(layout, golden, tmp_path):
    path, _ = MAKERS[layout](tmp_path)
    arguments = [golden / "audio", tmp_path / "out", "--preset", PRESETS[layout], "--checkpoint", path]
    sdhubert("segment", *arguments, "--engine", "local", "--max-failed", "9")
    found = {one.id: one.status for one in read_segments(str(tmp_path / "out"))}
    assert "ok" in found.values()
    again = sdhubert("segment", *arguments, "--engine", "local", "--max-failed", "9").stdout
    assert f"{len(found)} of {len(found)} rows are done already" in again
    said = complaint(sdhubert("segment", *arguments, "--engine", "local", "encoder.layer=3", expect=2))
    assert "encoder.layer" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--preset", "sylber"],
            "preset sylber is for a Sylber or .*, but checkpoint sdhubert_base",
        ),
        (["--preset", "zerosyl", "--checkpoint", "bundled"], "but checkpoint bundled is an SD-HuBERT"),
        (["--preset", "sylbr"], "unknown preset 'sylbr'"),
        (["--checkpoint", "{folder}", "--encoder-layer", "5"], "encoder.layer is 5, but checkpoint .* has 4 layers"),
        (["--checkpoint", "{folder}", "audio.normalisation=sampl"], "audio.normalisation is 'sampl'"),
    ],
)
def test_what_does_not_go_together_is_refused_and_nothing_is_written(words, sentence, golden, tmp_path):
    folder, _ = make_folder(tmp_path / "its")
    words = [word.format(folder=folder) for word in words]
    said = complaint(sdhubert("segment", golden / "audio", tmp_path / "out", *words, expect=2))
    assert re.search(sentence, said)
    assert not (tmp_path / "out").exists()


def test_the_layer_is_a_flag(golden, tmp_path):
    folder, model = make_folder(tmp_path / "its")
    arguments = ["--checkpoint", folder, "--engine", "local"]
    sound = golden / "audio/synth_0.flac"
    sdhubert("segment", sound, tmp_path / "two", *arguments, "--encoder-layer", "2")
    sdhubert("segment", sound, tmp_path / "same", *arguments, "encoder.layer=2")
    sdhubert("segment", sound, tmp_path / "other", *arguments)
    (two,), (same,), (other,) = (read_segments(str(tmp_path / name)) for name in ("two", "same", "other"))
    assert (two.segment_features == same.segment_features).all()
    assert two.segment_features.shape[1] == model.hidden_size
    assert two.segment_features.tolist() != other.segment_features.tolist()


def test_an_encoder_without_cls_states_has_none(golden, tmp_path):
    folder, _ = make_folder(tmp_path / "its")
    clip = {"file_name": "synth_0.flac", "segment": [0, 1], "text": ""}
    (tmp_path / "triplets.json").write_text(json.dumps({"0": {"X": clip, "P": clip, "N": clip}}))
    words = ["--checkpoint", folder, "--embedding", "cls"]
    said = complaint(sdhubert("evaluate", "ssabx", golden / "audio", tmp_path / "triplets.json", *words, expect=2))
    assert "has no CLS state; take --embedding favg" in said
