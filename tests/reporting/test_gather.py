"""From what is named to what is shown."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import sdhubert
from evaluation_inputs import EVALUATION, golden_rows, make_output, make_row
from outputs import refusal
from recorded import DEMO

from sdhubert_ray.reporting import ReportOptions, gather


def quiet(name, length):
    return lambda: None


def page_of(target, **options):
    return gather(str(target), ReportOptions(**options), quiet)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory, tiny_checkpoint):
    """A run of the command: of a file, a member of a tar, and the right channel of a file whose left one is silent."""
    folder = tmp_path_factory.mktemp("segmented")
    with tarfile.open(folder / "audio.tar", "w") as tar:
        tar.add(DEMO / "synth_0.flac", "a/synth_0.flac")
        tar.add(DEMO / "synth_2.flac", "a/synth_2.flac")
    tone = 0.3 * np.sin(np.arange(16_000) * 0.4)
    soundfile.write(folder / "stereo.wav", np.stack([np.zeros(16_000), tone], axis=1), 16_000)
    rows = [
        {"id": "file", "uri": str(DEMO / "synth_0.flac")},
        {"id": "member", "uri": str(folder / "audio.tar"), "member": "a/synth_2.flac"},
        {"id": "right", "uri": str(folder / "stereo.wav"), "channel": 1},
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sdhubert("segment", folder / "m.jsonl", folder / "out", "--checkpoint", tiny_checkpoint, "--engine", "local")
    return folder / "out"


def test_sounds_are_read_from_where_the_plan_says(segmented):
    page = page_of(segmented)
    sounds = {
        one.id: soundfile.read(io.BytesIO(data))[0] for one, data in zip(page.recordings, page.sounds, strict=True)
    }
    assert len(sounds["member"]) == pytest.approx(soundfile.info(DEMO / "synth_2.flac").frames, abs=320)
    assert np.abs(sounds["right"][2000:14_000]).max() > 0.8


def test_a_run_tells_what_it_was_and_where_its_time_went(segmented):
    page = page_of(segmented)
    assert {tile.name: tile.value for tile in page.tiles}["recordings"] == "3"
    assert dict(page.about)["checkpoint"].endswith("tiny.pt")
    assert dict(page.about)["input"].endswith("m.jsonl")
    assert ("syllables.syl_dur", "0.1") in page.settings
    names = [[name for name, _ in parts] for _, parts in page.times]
    assert names == [["list", "start", "work", "finish"], ["decode", "encode", "cut", "write", "between stages"]]
    assert [one.title for one in page.histograms] == [
        "Length of recordings",
        "Syllables per second",
        "Length of syllables",
    ]
    assert all(sound is not None for sound in page.sounds)
    assert page.notes == []
    record = json.loads((segmented / "run.json").read_text())["summary"]["totals"]
    assert sum(one.num_syllables for one in page.recordings) == record["num_syllables"]


def test_times_begin_where_the_sound_does_and_end_with_the_excerpt(tmp_path):
    segments = [(1.0, 1.2), (60.9, 61.2), (61.5, 61.7)]
    rows = [make_row("a", segments, offset=1.0, duration=80.0, units=None, uri="/nowhere.wav")]
    page = page_of(make_output(tmp_path / "out", rows))
    (one,) = page.recordings
    assert (one.times, one.shown, one.num_syllables) == ([0, 200, 59900, 60000], 60.0, 3)
    assert one.silence == "its audio is no longer where it was"
    assert page.notes == [
        "1 of 1 recordings here have no sound: for one, its audio is no longer where it was.",
        "Of recordings over 60 s the first 60 s are here.",
    ]


def test_a_sample_is_told(tmp_path):
    output = make_output(tmp_path / "out", [make_row(f"{number}", uri="/nowhere.wav") for number in range(5)])
    page = page_of(output, sample=3)
    assert len(page.recordings) == 3
    assert page.notes[0] == "3 of 5 recordings are here to listen to; figures are of all."


@pytest.fixture(scope="module")
def golden_output(tmp_path_factory):
    return make_output(tmp_path_factory.mktemp("golden") / "out", golden_rows("test"), carried=("speaker",))


def test_figures_of_evaluate_lead_to_their_recordings(golden_output, tmp_path):
    references = EVALUATION / "syllables_test.json"
    file = tmp_path / "figures.json"
    sdhubert("evaluate", "boundary", golden_output, references, "--shift", "0.02", "--by", "speaker", "--json", file)
    page = page_of(file)
    titles = [table.title for table in page.tables]
    assert titles == ["Boundaries", "Syllables", "By speaker", "By length", "Worst recordings first"]
    assert page.tables[0].columns[1] == "protocol sdhubert, shifted by +20 ms"
    figures = json.loads(file.read_text())
    f1 = next(row for row in page.tables[0].rows if row[0] == "F1 %")
    assert f1[1].startswith(f"{100 * figures['protocols']['sdhubert']['f1']['value']:.1f} (")
    assert any(one.truth is not None for one in page.recordings)
    assert dict(page.about)["figures"] == str(file)


def test_figures_are_shown_alone_where_their_recordings_are_gone(golden_output, tmp_path):
    file = tmp_path / "figures.json"
    sdhubert("evaluate", "purity", golden_output, EVALUATION / "syllables_test.json", "--json", file)
    figures = json.loads(file.read_text())
    file.write_text(json.dumps({**figures, "segments": str(tmp_path / "gone")}))
    page = page_of(file)
    assert page.kind == "figures"
    assert [table.title for table in page.tables] == ["Purity"]
    assert "gone holds no run" in page.notes[0]


def test_figures_of_ssabx_have_a_page(tmp_path):
    accuracy = {"value": 0.75, "low": 0.5, "high": None}
    figures = {
        "metric": "ssabx",
        "sdhubert_ray": "0.1.0",
        "scores": [{"embedding": "favg", "layer": 9, "correct": 3, "ties": 0, "accuracy": accuracy}],
        "left_out": {"t1": "a.wav does not exist"},
        "num_triplets": 5,
        "num_clips": 12,
        "seconds": 36.0,
        **dict.fromkeys(("checkpoint", "checkpoint_sha256", "preset", "dtype", "triplets", "audio_root"), "x"),
    }
    (tmp_path / "f.json").write_text(json.dumps(figures))
    page = page_of(tmp_path / "f.json")
    assert page.tables[0].rows == [["favg", 9, 75.0, 50.0, None, 3, 0]]
    assert page.tables[1].rows == [["t1", "a.wav does not exist"]]
    assert page.tiles[0].value == "4"


def test_what_is_no_output_is_refused(tmp_path):
    def said(target, **options):
        return refusal(gather, str(target), ReportOptions(**options), quiet)

    assert "is not there" in said(tmp_path / "nothing")
    assert "holds no run" in said(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    assert "holds no figures" in said(tmp_path / "x.json")
    for content in ({"metric": "boundary"}, {"metric": "ssabx", "scores": [1]}, {"metric": "purity", "protocols": {}}):
        (tmp_path / "y.json").write_text(json.dumps({"sdhubert_ray": "1", **content}))
        assert "is not as `sdhubert evaluate --json` writes it" in said(tmp_path / "y.json")
    (tmp_path / "x.wav").write_bytes(b"RIFF\xff\xfe")
    assert "holds no figures" in said(tmp_path / "x.wav")
    output = make_output(tmp_path / "out", [make_row("a")])
    assert "give --references" in said(output, by=("speaker",))
    empty = make_output(tmp_path / "empty")
    assert "no recordings yet" in said(empty)
    training = tmp_path / "run"
    training.mkdir()
    Path(training / "run.json").write_text(json.dumps({"kind": "training", "fingerprint": {}, "runs": 1}))
    assert "training run" in said(training, references="x.json")
