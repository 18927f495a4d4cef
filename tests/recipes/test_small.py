"""The recipe of the bundled checkpoint: its parts against what they are told to do, and all of it at a small scale."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from places import GOLDEN, ROOT

from recipes.small import perturb
from recipes.small.__main__ import main
from recipes.small.align import Aligner
from recipes.small.crops import NO_SYLLABLE, NUM_PARTS, CropOptions, Crops, Utterance, at_frames, load_folder, parts_of
from recipes.small.objective import Objective, ObjectiveOptions
from recipes.small.perturb import PerturbOptions
from recipes.small.prepare import PrepareOptions, prepare
from recipes.small.train import TrainOptions, share_of_lr
from recipes.small.voices import VOICES, Flite, Manner
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.syllabify import syllabify
from sdhubert_ray.metrics import count_onsets_offsets

RATE = 16_000
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def flite():
    try:
        return Flite()
    except UserError as error:
        pytest.skip(str(error))


def tone(hertz, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def loudest(samples):
    """Hz of the greatest bin of the spectrum."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * RATE / len(samples)


# -- waveforms


@settings(max_examples=20)
@given(st.floats(0.8, 1.25), st.floats(0.8, 1.3))
def test_pitch_and_tempo_are_changed_apart(pitch, tempo):
    found = perturb.change_voice(tone(440), pitch, tempo)
    assert found.dtype == np.float32
    assert len(found) == pytest.approx(RATE / tempo, rel=0.05)
    assert loudest(found[1000:-3000]) == pytest.approx(440 * pitch, rel=0.02)


def test_a_voice_that_is_not_changed_is_the_same():
    samples = tone(300)
    np.testing.assert_array_equal(perturb.change_voice(samples, 1.0, 1.0), samples)


@given(seeds, st.floats(-5, 60))
def test_noise_is_as_much_weaker_as_asked(seed, ratio):
    draw = np.random.default_rng(seed)
    speech = draw.standard_normal(4000).astype(np.float32)
    noise = perturb.draw_noise(4000, draw)
    assert noise.shape == (4000,)
    added = perturb.add_noise(speech, noise, ratio).astype(np.float64) - speech
    if np.abs(noise).max() > 1e-3:
        level = np.sqrt(np.mean(speech.astype(np.float64) ** 2) / np.mean(added**2))
        assert 20 * np.log10(level) == pytest.approx(ratio, abs=0.2)


def test_silence_stays_finite():
    silent = np.zeros(4000, np.float32)
    draw = np.random.default_rng(0)
    for _ in range(30):
        assert np.isfinite(perturb.perturb(silent, PerturbOptions(), draw)).all()


def test_a_telephone_keeps_its_band():
    draw = np.random.default_rng(0)
    kept, low, high = (
        np.std(perturb.through_channel(tone(hertz), True, 0.0, draw)) / np.std(tone(hertz))
        for hertz in (1000, 60, 7000)
    )
    assert kept == pytest.approx(1, abs=0.05)
    assert low < 0.1
    assert high < 0.02


def test_a_room_keeps_the_direct_sound_where_it_was():
    click = np.zeros(8000, np.float32)
    click[2000] = 1
    heard = perturb.in_room(click, 0.4, np.random.default_rng(0))
    assert len(heard) == 8000
    assert np.abs(heard[:2000]).max() < 1e-6
    assert np.argmax(np.abs(heard)) == 2000
    assert np.std(heard[2400:3200]) > 3 * np.std(heard[6400:7200])


@given(seeds, st.floats(0.01, 0.3))
def test_clipping_cuts_off_the_share_that_it_is_told(seed, share):
    samples = np.random.default_rng(seed).standard_normal(2000).astype(np.float32)
    clipped = perturb.clip(samples, share)
    assert np.mean(clipped != samples) == pytest.approx(share, abs=0.002)
    assert np.abs(clipped).max() <= np.quantile(np.abs(samples), 1 - share) + 1e-6


# -- crops


def test_the_parts_of_a_label():
    parts = parts_of("S-T-R-EH-NG-TH")
    assert parts.sum() == 6
    assert parts_of("AX").tolist() == parts_of("AH").tolist()
    assert parts_of("T-AY")[parts_of("AY-T") > 0].sum() == 1  # the vowel; a T of the onset is none of the coda
    assert parts.shape == (NUM_PARTS,)


@given(arrays.arrays(np.float64, st.integers(0, 8), elements=st.floats(0, 1.2), unique=True))
def test_frames_are_of_the_syllable_that_their_middle_lies_in(edges):
    edges = np.sort(edges)
    times = np.stack([edges[:-1], edges[1:]], axis=1) if len(edges) > 1 else np.zeros((0, 2))
    parts = np.eye(NUM_PARTS, dtype=np.float32)[: len(times)]
    syllable, of_frames = at_frames(times, parts, 50)
    for frame in range(50):
        middle = (frame + 0.5) / 50
        inside = [number for number, (start, end) in enumerate(times) if start < middle < end]
        near = np.abs(edges - middle).min(initial=1) < 1e-9
        if not near:
            assert syllable[frame] == (inside[0] if inside else NO_SYLLABLE)
            assert of_frames[frame].sum() == len(inside)


def utterances(seed, count=3):
    """Loud syllables of half a second with silence between."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        samples = np.zeros(4 * RATE)
        times = np.array([[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]])
        for start, end in times:
            samples[int(start * RATE) : int(end * RATE)] = draw.normal(0, 8000, int((end - start) * RATE))
        parts = np.stack([parts_of(label) for label in ("T-AY", "M-AA", "K-IH")])
        made.append(Utterance(np.clip(samples, -32768, 32767).astype(np.int16), times, parts))
    return made


PLAIN = PerturbOptions(
    channel_share=0.0, room_share=0.0, noise_share=0.0, clip_share=0.0, floor_ratio=(60.0, 60.0), tempo_share=1.0
)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(0, 1000))
def test_syllables_are_where_they_are_heard(seed, number):
    """Whatever the voice, tempo and place of a crop."""
    crops = Crops(
        utterances(seed), [], CropOptions(seconds=2.0, synthetic_share=0.5, empty_share=0.0, perturb=PLAIN), 0
    )
    samples, syllable, parts = crops[number]
    assert samples.shape == (32_000,)
    assert syllable.shape == (100,)
    loud = samples.reshape(100, 320).square().mean(dim=1) > 0.2
    speech = syllable != NO_SYLLABLE
    assert (loud != speech).float().mean() < 0.12  # edges, and what the change of tempo moves
    assert (parts.sum(dim=1) == 2).equal(speech)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(0, 1000))
def test_recordings_in_a_row_keep_to_their_places(seed, number):
    """Short ones, and the last of them cut: its first syllable does not reach into the pause before."""
    made = [Utterance(one.samples[: 2 * RATE], one.syllables[:2], one.parts[:2]) for one in utterances(seed)]
    options = CropOptions(seconds=6.0, synthetic_share=0.0, empty_share=0.0, perturb=PLAIN)
    samples, syllable, _ = Crops(made, [], options, 0)[number]
    loud = samples.reshape(300, 320).square().mean(dim=1) > 0.2
    speech = (syllable != NO_SYLLABLE).numpy()
    edges = np.flatnonzero(np.diff(speech.astype(int)))
    for frame in np.flatnonzero(loud.numpy() != speech):
        assert np.abs(edges - frame).min(initial=300) <= 4  # what the change of tempo moves


def test_a_crop_depends_on_seed_and_number_alone():
    options = CropOptions(seconds=1.0)
    first, again, other = (Crops(utterances(0), utterances(1), options, seed) for seed in (0, 0, 1))
    several = [first[number] for number in (0, 1, 2, 3)]
    for number in (3, 1):
        for left, right in zip(again[number], several[number], strict=True):
            assert torch.equal(left, right)
    assert not torch.equal(other[0].samples, several[0].samples)


def test_crops_without_speech_have_no_syllables():
    crops = Crops(utterances(0), [], CropOptions(seconds=1.0, empty_share=1.0), 0)
    samples, syllable, parts = crops[0]
    assert (syllable == NO_SYLLABLE).all()
    assert not parts.any()
    assert samples.std() > 0.5


# -- the objective


def test_states_as_they_are_asked_for_cost_less():
    syllable = torch.tensor([[0, 0, 0, 1, 1, 1, NO_SYLLABLE, NO_SYLLABLE, 2, 2]])
    parts = torch.zeros(1, 10, NUM_PARTS)
    objective = Objective(16, ObjectiveOptions())
    wanted = torch.zeros(1, 10, 16)
    for frame, number in enumerate(syllable[0].tolist()):
        if number != NO_SYLLABLE:
            wanted[0, frame, number] = 4.0  # the norm is sqrt(D)
    mixed = wanted[:, torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    right, wrong = objective(wanted, syllable, parts), objective(mixed, syllable, parts)
    for name in ("pairs", "speech"):
        assert right[name] < 0.1 < wrong[name]
    weighted = right["pairs"] + right["speech"] + ObjectiveOptions().parts_weight * right["parts"]
    assert right["sum"].item() == pytest.approx(weighted.item())


def test_pairs_beyond_reach_do_not_count():
    """And both answers weigh the same, however many pairs there are of each."""
    objective = Objective(8, ObjectiveOptions(reach=1))
    states = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    syllable = torch.tensor([[0, 0, 0, 0, 1, NO_SYLLABLE]])
    loss = objective._pairs(states, syllable, syllable != NO_SYLLABLE)
    unit = torch.nn.functional.normalize(states[0], dim=1)
    logits = [(unit[at] @ unit[at + 1] - 0.4) * 8 for at in range(4)]
    softplus = torch.nn.functional.softplus
    expected = (sum(softplus(-one) for one in logits[:3]) / 3 + softplus(logits[3])) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert not states.grad[0, 5].any()


def test_batches_without_speech_have_a_loss():
    objective = Objective(8, ObjectiveOptions())
    syllable = torch.full((2, 5), NO_SYLLABLE)
    losses = objective(torch.randn(2, 5, 8), syllable, torch.zeros(2, 5, NUM_PARTS))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_learning_rate_rises_and_falls():
    options = TrainOptions(steps=100, warmup=10)
    shares = [share_of_lr(step, options) for step in range(1, 101)]
    assert np.argmax(shares) == 9
    assert shares[0] == pytest.approx(0.1, rel=0.01)
    assert shares[-1] == pytest.approx(0, abs=1e-12)
    assert all(left > right for left, right in itertools.pairwise(shares[9:]))


def test_workers_have_to_share_a_batch_evenly():
    with pytest.raises(ValueError, match=r"train\.workers is 3; it has to divide train\.batch_size, 8"):
        TrainOptions(workers=3)


# -- synthetic speech and alignment


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


def make(*arguments):
    command = [sys.executable, "-m", "recipes.small", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


SMALL = (
    "prepare.synthetic_minutes=0.1",
    "train.warmup=2",
    "train.batch_size=2",
    "train.checkpoint_every=2",
    "train.crops.seconds=1",
    "choose.references=[syllables.json]",
    "choose.layers=[6]",
)


@pytest.mark.ray
@pytest.mark.seconds
def test_the_recipe_at_a_small_scale(speech, tmp_path):
    """One command from recordings to a checkpoint that segments; again, it does nothing."""
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    out = tmp_path / "out"
    done = make(speech / "manifest.jsonl", out, *SMALL, "train.steps=4")
    assert done.returncode == 0, done.stderr
    for said in ("aligned 4 recordings; left out 0: none", "step 4: pairs", "syllables.json: F1", "wrote"):
        assert said in done.stdout
    segmented = subprocess.run(
        [sys.executable, "-m", "sdhubert_ray", "segment", GOLDEN / "audio", tmp_path / "segments", "--engine", "local",
         "--checkpoint", out / "sdhubert_small.pt"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert segmented.returncode == 0, segmented.stderr
    assert "is there already" in make(speech / "manifest.jsonl", out, *SMALL, "train.steps=4").stdout
    other = make(speech / "manifest.jsonl", out, *SMALL, "train.steps=5")
    assert other.returncode == 2
    assert "was begun with another manifest or other options" in other.stderr


@pytest.mark.slow
def test_a_training_that_goes_on_makes_the_same_steps(speech, tmp_path):
    """Killed behind its second checkpoint, by the same command."""
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    whole, parts = (
        (speech / "manifest.jsonl", tmp_path / name, *SMALL, "train.steps=6") for name in ("whole", "parts")
    )
    assert "step 2:" in make(*whole).stdout
    command = [sys.executable, "-m", "recipes.small", *map(str, parts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in process.stdout:
            if "step 4:" in line:  # the state of step 2 is kept by then
                process.kill()
    rest = make(*parts)
    assert rest.returncode == 0, rest.stderr
    assert "step 2:" not in rest.stdout
    assert "step 6:" in rest.stdout
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "input nowhere.jsonl does not exist"),
        (["{manifest}", "train.stepss=3"], "did you mean 'train.steps'?"),
        (["{manifest}", "train.steps=0"], "train.steps is 0; it has to be 1 or more"),
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
    syllables = [{"start": 0, "end": 1, "label": "A"}]
    (tmp_path / "lost.json").write_text(json.dumps({"a": {"file_name": "gone.wav", "syllables": syllables}}))
    given = [str(manifest) if text == "{manifest}" else text for text in arguments]
    references = [] if any("references" in text for text in given) else ["choose.references=[]"]
    monkeypatch.setattr(sys, "argv", ["small", given[0], str(tmp_path / "out"), *given[1:], *references])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not (tmp_path / "out" / "speech").exists()
