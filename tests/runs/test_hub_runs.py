"""Runs whose recordings, checkpoint and output lie in repositories of a hub."""

import os

import pyarrow.parquet as pq
import pytest
from commands import complaint, sdhubert, sdhubert_process
from foreign import make_folder

from sdhubert_ray import SDHuBERTSegmenter, read_segments, segment_corpus, storage
from sdhubert_ray.errors import UserError

AUDIO, OUTPUT, MODEL = "hf://datasets/me/audio/takes", "hf://datasets/me/syllables/first", "hf://me/model"


@pytest.fixture
def hub(hub, golden, tiny_checkpoint):
    """With three recordings, an empty dataset, and the tiny checkpoint as a file and as a folder."""
    files = {f"takes/{number}.flac": (golden / f"audio/synth_{number}.flac").read_bytes() for number in (0, 1, 3)}
    hub.repositories["datasets/me/audio"] = {**files, "README.md": b"takes"}
    hub.repositories["datasets/me/syllables"] = {}
    hub.repositories["models/me/model"] = {}
    sdhubert("export", tiny_checkpoint, MODEL, "--hub")
    storage.upload(tiny_checkpoint, f"{MODEL}/old/tiny.pt")
    upstream = tiny_checkpoint.parent / "upstream"
    for path in upstream.glob("*") if upstream.is_dir() else ():
        storage.upload(path, f"{MODEL}/old/upstream/{path.name}")
    return hub


def test_a_whole_run_lies_in_the_hub(hub, golden, tiny_checkpoint, tmp_path):
    words = ["--checkpoint", MODEL, "--engine", "local", "--format", "csv"]
    done = sdhubert("segment", AUDIO, OUTPUT, *words)
    assert "3 ok" in done.stdout
    files = hub.repositories["datasets/me/syllables"]
    assert "first/lease.json" not in files
    assert {name.split("/")[1] for name in files} == {"run.json", "segments", "manifest", "syllables.csv"}
    segment_corpus(golden / "audio", tmp_path / "here", checkpoint=MODEL, engine="local")
    here = {recording.id: recording for recording in read_segments(tmp_path / "here")}
    there = [*read_segments(OUTPUT)]
    assert [recording.id for recording in there] == ["0.flac", "1.flac", "3.flac"]
    for recording in there:
        assert (recording.segments == here[f"synth_{recording.id}"].segments).all()
    again = sdhubert("segment", AUDIO, OUTPUT, *words)
    assert "nothing was left to do" in again.stdout
    assert "finished" in sdhubert("status", OUTPUT).stdout
    sdhubert("segment", AUDIO, OUTPUT, *words, "syllables.syl_dur=0.2", "--overwrite")
    assert len([*read_segments(OUTPUT)]) == 3


def test_a_checkpoint_of_the_hub_is_a_folder_or_a_file(hub, golden):
    sound = golden / "audio/synth_0.flac"
    expected = SDHuBERTSegmenter(golden / "checkpoint/tiny.pt", device="cpu")(sound)
    for name in (MODEL, f"{MODEL}/old/tiny.pt"):
        found = SDHuBERTSegmenter(name, device="cpu")(sound)
        assert (found["features"] == expected["features"]).all()


def test_a_name_of_the_hub_is_a_checkpoint(hub, golden, tmp_path, monkeypatch):
    folder, _ = make_folder(tmp_path / "made")
    hub.repositories["models/me/hubert-made"] = {}
    for path in folder.iterdir():
        storage.put(f"hf://me/hubert-made/{path.name}", path.read_bytes())
    monkeypatch.chdir(tmp_path)  # where a path of that name would go before
    sound = golden / "audio/synth_0.flac"
    expected = SDHuBERTSegmenter(folder, preset="hubert", device="cpu")(sound)
    found = SDHuBERTSegmenter("me/hubert-made", preset="hubert", device="cpu")(sound)
    assert (found["features"] == expected["features"]).all()
    with pytest.raises(UserError, match="me/no-such is no path here, and cannot be had from the hub: "):
        SDHuBERTSegmenter("me/no-such", device="cpu")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hf://datasets/me/nothing", "{out}"], "input hf://datasets/me/nothing does not exist"),
        (["hf://audio", "{out}"], "hf://audio names no repository"),
        ([AUDIO, "hf://datasets/me/none/out"], "or is private: correct the name, make the repository, or set HF_TOKEN"),
        ([AUDIO, "{out}", "--checkpoint", "hf://datasets/me/audio"], "is a folder; name the .pt file in it"),
        ([AUDIO, "{out}", "--checkpoint", f"{MODEL}/none.pt"], "none.pt does not exist"),
    ],
)
def test_mistakes_with_the_hub_are_said(hub, tiny_checkpoint, tmp_path, words, sentence):
    words = [word.format(out=tmp_path / "out") for word in words]
    given = [] if "--checkpoint" in words else ["--checkpoint", str(tiny_checkpoint)]
    said = complaint(sdhubert("segment", *words, *given, "--engine", "local", expect=(1, 2)))
    assert sentence in said


@pytest.mark.seconds
def test_a_command_finds_the_hub_by_its_environment(hub, tmp_path):
    told = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HOME": str(tmp_path)}
    done = sdhubert_process("manifest", AUDIO, tmp_path / "m.parquet", env=told)
    assert "3 recordings" in done.stdout
    assert pq.read_table(tmp_path / "m.parquet").column("uri").to_pylist()[0] == f"{AUDIO}/0.flac"
