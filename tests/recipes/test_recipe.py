"""The recipe of the bundled checkpoint: synthetic speech, alignment, and all of it at a small scale."""

import ctypes
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from commands import sdhubert
from places import GOLDEN, ROOT

from recipes.small.__main__ import NAME, main
from recipes.small.align import Aligner
from recipes.small.crops import load_folder
from recipes.small.options import PrepareOptions, TrainOptions
from recipes.small.prepare import prepare
from recipes.small.train import STATE, train
from recipes.small.voices import VOICES, Flite, Manner
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.syllabify import syllabify
from sdhubert_ray.metrics import count_onsets_offsets
from sdhubert_ray.output import Lease

RATE = 16_000


@pytest.mark.parametrize("voice", VOICES)
def test_flite_tells_where_its_phones_are(flite, voice):
    text = "he was not afraid of the elephants"
    spoken = flite.say(text, Manner(voice))
    phones = spoken.phones
    assert phones[-1].end == pytest.approx(len(spoken.samples) / RATE)
    assert all(left.end == right.start for left, right in itertools.pairwise(phones))
    words = {phone.word for phone in phones if phone.label != "pau"}
    assert words == set(range(len(text.split())))
    labels = [label for _, _, label in syllabify(phones, voice)]
    assert len(labels) == 10
    assert labels[:3] == ["HH-IY", "W-AA-Z", "N-AA-T"]
    vowels = [
        spoken.samples[int(one.start * RATE) : int(one.end * RATE)] for one in phones if one.label in ("iy", "aa")
    ]
    silent = spoken.samples[: int(phones[0].end * RATE / 2)]
    assert min(np.std(one) for one in vowels) > 5 * np.std(silent)


def test_manners_change_what_is_said(flite):
    slow, plain, again = (flite.say("good morning", Manner("slt", stretch)) for stretch in (1.3, 1.0, 1.0))
    assert len(slow.samples) == pytest.approx(1.3 * len(plain.samples), rel=0.05)
    assert plain.phones == again.phones  # its samples have a noise that goes on
    low, high = (flite.say("good morning", Manner("kal16", 1.0, pitch)).samples for pitch in (80.0, 200.0))
    length = min(len(low), len(high))
    assert not np.allclose(low[:length], high[:length], atol=0.01)


def test_an_alignment_finds_what_flite_has_said(flite):
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    text = "the zorkling was not afraid of all the elephants in the garden"  # a word that is in no dictionary
    spoken = flite.say(text, Manner("rms"))
    phones = Aligner(flite).align(spoken.samples, text)
    assert {phone.word for phone in phones if phone.label != "sil"} == set(range(len(text.split())))
    found, true = (np.array([one[:2] for one in syllabify(each, text)]) for each in (phones, spoken.phones))
    counts = count_onsets_offsets(true, found)
    assert counts.matched > 0.8 * max(counts.reference, counts.predicted)
    assert Aligner(flite).align(spoken.samples[:4000], "a long sentence that was not said " * 5) is None
    assert Aligner(flite).align(spoken.samples, "12 34") is None


# -- all of it


@pytest.fixture(scope="module")
def speech(flite, tmp_path_factory):
    """Four sentences with transcripts, and validation recordings with syllables."""
    folder = tmp_path_factory.mktemp("speech")
    rows = []
    texts = ("the garden is easy to find", "one of them took it away", "he was not afraid", "all is well in the end")
    for number, text in enumerate(texts):
        spoken = flite.say(text, Manner(VOICES[number]))
        soundfile.write(folder / f"{number}.wav", spoken.samples, RATE)
        rows.append({"id": str(number), "uri": f"{number}.wav", "split": "train", "transcript": text})
    rows.append({"id": "other", "uri": "other.wav", "split": "test", "transcript": "it is not there"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in (GOLDEN / "audio").iterdir():
        shutil.copy(path, folder)
    return folder


SMALL = (
    "prepare.synthetic_minutes=0.1",
    "train.warmup=2",
    "train.batch_size=2",
    "train.checkpoint_every=2",
    "train.crops.seconds=1",
    "choose.references=[syllables.json]",
    "choose.layers=[6]",
    "choose.norms=[0.4,0.6]",
)


@pytest.mark.ray
@pytest.mark.seconds
def test_the_recipe_at_a_small_scale(speech, tmp_path, ray_cluster, monkeypatch, capsys):
    """From recordings to a checkpoint that segments; again, it does nothing."""
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    out = tmp_path / "out"

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["small", str(speech / "manifest.jsonl"), str(out), *SMALL, *overrides])
        main()
        return capsys.readouterr().out

    said = run("train.steps=4")
    for what in ("aligned 4 recordings; left out 0: none", "syllables.json: F1", "wrote"):
        assert what in said
    assert torch.load(out / STATE, weights_only=True)["step"] == 4
    sdhubert(
        "segment", GOLDEN / "audio", tmp_path / "segments", "--engine", "local", "--checkpoint", out / f"{NAME}.pt"
    )
    assert "is there already" in run("train.steps=4", "train.checkpoint_every=1")  # which changes nothing
    # Other thresholds are chosen of what is trained already, or of what is begun anew: nothing else is gone on with.
    trained = (out / STATE).stat().st_mtime_ns
    assert "wrote" in run("train.steps=4", "choose.layers=[5]")
    assert (out / STATE).stat().st_mtime_ns == trained
    shutil.rmtree(out / "speech")
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    with pytest.raises(SystemExit, match="2"):
        run("train.steps=5")
    assert "was begun with another manifest or other options" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before
    assert not (out / "lease.json").exists()


@pytest.mark.slow
def test_a_training_that_goes_on_makes_the_same_steps(speech, tmp_path):
    """Killed behind its second checkpoint, by the same command."""
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    commands = [
        [sys.executable, "-m", "recipes.small", speech / "manifest.jsonl", tmp_path / name, *SMALL, "train.steps=6"]
        for name in ("whole", "parts")
    ]
    whole = subprocess.run(commands[0], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    assert "step 2: pairs" in whole.stdout
    with subprocess.Popen(commands[1], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in process.stdout:
            if "step 4:" in line:
                process.kill()
    rest = subprocess.run(commands[1], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    assert "step 2:" not in rest.stdout
    assert "step 4:" not in rest.stdout
    states = [
        torch.load(tmp_path / name / "untuned.pt", weights_only=True)["state_dict"] for name in ("whole", "parts")
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_what_cannot_be_aligned_is_left_out_and_told(flite, tmp_path, capsys):
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    spoken = flite.say("all is well in the end", Manner("slt"))
    soundfile.write(tmp_path / "good.wav", spoken.samples, RATE)
    (tmp_path / "bad.wav").write_text("no audio")
    rows = [("good", "all is well in the end"), ("bad", "it is not read"), ("gone", "nor is this"), ("good", "12 men")]
    listed = [
        {"id": f"../{number}", "uri": f"{name}.wav", "split": "train", "transcript": text}
        for number, (name, text) in enumerate(rows)
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    prepare(str(tmp_path / "manifest.jsonl"), tmp_path / "out", PrepareOptions(synthetic_minutes=0.05), 0)
    said = capsys.readouterr().out
    assert "aligned 1 recordings; left out 3: ../1 (" in said
    assert "../3 (no alignment)" in said
    (real,), synthetic = (load_folder(tmp_path / "out" / name) for name in ("real", "synthetic"))
    assert len(real.syllables) == 6
    assert sum(len(one.samples) for one in synthetic) >= 3 * RATE
    assert sorted(path.name for path in (tmp_path / "out" / "real").iterdir()) == ["00000.flac", "syllables.json"]
    # Nothing of it is done again, and what is not asked for is not missed.
    (tmp_path / "manifest.jsonl").unlink()
    prepare(str(tmp_path / "manifest.jsonl"), tmp_path / "out", PrepareOptions(synthetic_minutes=0.05), 0)
    shutil.rmtree(tmp_path / "out" / "synthetic")
    prepare(str(tmp_path / "manifest.jsonl"), tmp_path / "out", PrepareOptions(synthetic_minutes=0), 0)
    assert load_folder(tmp_path / "out" / "synthetic") == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "a", "uri": "a.wav", "split": "train"}], "add the column `transcript`"),
        ([{"id": "a", "uri": "a.wav", "split": "train", "transcript": 5}], "has the transcript 5 for 'a'"),
        ([{"id": "a", "uri": "a.wav", "split": "train", "transcript": "a b"}], "none of 1 recordings can be aligned"),
    ],
)
def test_a_corpus_without_use_is_refused(flite, rows, said, tmp_path):
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=said):
        prepare(str(tmp_path / "manifest.jsonl"), tmp_path / "out", PrepareOptions(), 0)


@pytest.mark.parametrize("missing", ["flite", "pocketsphinx"])
def test_what_is_not_installed_is_named(missing, flite, monkeypatch):
    def refuse(name, **_):
        raise OSError(f"{name}: cannot open shared object file")

    if missing == "flite":
        monkeypatch.setattr(ctypes, "CDLL", refuse)
        with pytest.raises(UserError, match="apt-get install flite"):
            Flite()
    else:
        monkeypatch.setitem(sys.modules, "pocketsphinx", None)
        with pytest.raises(UserError, match=r"pip install 'sdhubert_ray\[recipes\]'"):
            Aligner(flite)


def refused(monkeypatch, capsys, *arguments, code=2):
    """The one sentence that the recipe ends with."""
    monkeypatch.setattr(sys, "argv", ["small", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("name", ["recipe.json", "state.pt", "sdhubert_small.pt", "speech/notes.txt"])
def test_what_is_not_its_own_stays(speech, name, tmp_path, monkeypatch, capsys):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"soup": "of my grandmother"}')
    said = refused(monkeypatch, capsys, speech / "manifest.jsonl", tmp_path, *SMALL)
    assert "name another folder" in said
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ['{"soup": "of my grandmother"}']


def test_a_folder_is_one_recipes_at_a_time(speech, tmp_path, monkeypatch, capsys):
    lease = Lease(str(tmp_path), "other")
    try:
        said = refused(monkeypatch, capsys, speech / "manifest.jsonl", tmp_path, *SMALL, code=1)
    finally:
        lease.release()
    assert "another" in said
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / STATE).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"state\.pt cannot be read .*; remove it to train anew"):
        train({}, tmp_path, tmp_path, TrainOptions(), 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "input nowhere.jsonl does not exist"),
        (["{manifest}", "train.stepss=3"], "did you mean 'train.steps'?"),
        (["{manifest}", "trian.steps=3"], "did you mean 'train'?"),
        (["{manifest}", "train.lr=-1"], "train.lr is -1.0; it has to be more than 0"),
        (["{manifest}", "prepare.words=[16,3]"], "prepare.words is [16, 3]; it has to be [least, most], from 1 on"),
        (["{manifest}", "train.crops.perturb.room_share=2"], "perturb.room_share is 2.0; it has to be from 0 to 1"),
        (["{manifest}", "choose.layers=[7]"], "choose.layers has 7, but the encoder has 6 layers"),
        (["{manifest}", "choose.norms=[]"], "choose.norms is empty; name at least one"),
        (["{manifest}", "choose.references=[]"], "choose.references is empty; name at least one"),
        (["{manifest}", "train.steps=0"], "train.steps is 0; it has to be more than 0"),
        (["{manifest}", "train.crops.seconds=0.2"], "crops.seconds is 0.2; it has to be more than 0.3"),
        (["{manifest}", "choose.references=[none.json]"], "none.json"),
        (["{manifest}", "choose.references=[lost.json]"], "lost.json names gone.wav, which is not in"),
        (["{manifest}", "prepare.split=dev"], "has no split 'dev'; it has train"),
        (["{manifest}", "--config", "none.yaml", "train.steps=3"], "config file none.yaml does not exist"),
    ],
)
def test_mistakes_are_one_sentence(arguments, said, tmp_path, capsys, monkeypatch):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"id": "a", "uri": "a.wav", "split": "train", "transcript": "a"}\n')
    (tmp_path / "there.wav").write_bytes(b"")
    for name in ("lost", "there"):
        one = {
            "file_name": "gone.wav" if name == "lost" else "there.wav",
            "syllables": [{"start": 0, "end": 1, "label": "A"}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps({"a": one}))
    given = [str(manifest) if text == "{manifest}" else text for text in arguments]
    references = [] if any("references" in text for text in given) else ["choose.references=[there.json]"]
    assert said in refused(monkeypatch, capsys, given[0], tmp_path / "out", *given[1:], *references)
    assert not (tmp_path / "out").exists()
