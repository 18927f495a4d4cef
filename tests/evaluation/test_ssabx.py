"""Spoken-sentence ABX: embeddings as of each clip alone, each clip once, and what is told of unusable clips."""

import json

import numpy as np
import pytest
import soundfile
import torch
from commands import complaint, sdhubert
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from places import GOLDEN
from triplet_inputs import GOOD, clip, write

from sdhubert_ray import storage
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.inference import pool_pieces
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.scoring import Figure
from sdhubert_ray.evaluation.ssabx import Scoring, cut_units, embed_clips, evaluate_ssabx
from sdhubert_ray.evaluation.triplets import Clip, read_triplets
from sdhubert_ray.metrics import Interval, bootstrap_share, ssabx_margins
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.engines import check_engine
from sdhubert_ray.runs.stages.embedding import EmbedClips
from sdhubert_ray.runs.stages.rows import GIVEN_UP
from sdhubert_ray.speech.audio import Span, normalise, read_audio
from sdhubert_ray.speech.presets import EncoderOptions

AUDIO = GOLDEN / "audio"
LAYERS = (3, 9)
# Lengths from 0.1 s on, several in one padded length, and two cuts of one file.
CLIPS = [("synth_0", 0.0, 1.0), ("synth_0", 0.5, 0.6), ("synth_1", 0.2, 2.15), ("synth_2", 0.013, 1.777)]
CLIPS += [("synth_2", 1.0, 1.9), ("synth_4", 0.0, 2.4)]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return fetch_checkpoint(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def config(checkpoint):
    return load_config(None, [], {"preset": "paper", "device": "cpu"}, checkpoint.options)


def evaluate(folder, triplets, checkpoint, config, root=AUDIO, embeddings=("favg",), layers=LAYERS, **options):
    found = read_triplets(write(folder, triplets), str(root))
    return evaluate_ssabx(found, checkpoint, config, Scoring(embeddings, layers), **{"engine": "local", **options})


# -- embeddings


def embed_alone(checkpoint, name, start, end, pad, floor):
    """The whole clip through the model by itself, neither batched nor padded to whole seconds."""
    model = load_model(checkpoint, EncoderOptions(9, 9), "float32", "cpu")
    with (AUDIO / f"{name}.flac").open("rb") as file:
        samples = normalise(read_audio(file, Span(start, end)).samples, floor)
    window = np.pad(samples, pad)
    with torch.inference_mode():
        states = model(torch.from_numpy(window)[None], torch.tensor([len(window)]), LAYERS)
    frames = len(samples) // 320 if pad else (len(samples) - 400) // 320 + 1
    means = [layer[0, 1 : 1 + frames].numpy().mean(axis=0, dtype=np.float64) for layer in states]
    return np.stack(means), np.stack([layer[0, 0].numpy() for layer in states])


def embed(checkpoint, config, clips, engine, progress=lambda count: None):
    named = [Clip(str(AUDIO / f"{name}.flac"), start, end) for name, start, end in clips]
    embedded, errors = embed_clips(named, checkpoint, config, LAYERS, engine=engine, address=None, progress=progress)
    assert errors == [None] * len(clips)
    return embedded


@pytest.mark.parametrize(("preset", "pad", "floor"), [("paper", 0, 1e-7), ("readme", 160, 0.0)])
def test_embeddings_are_those_of_each_clip_alone(checkpoint, preset, pad, floor):
    config = load_config(None, [], {"preset": preset, "device": "cpu"}, checkpoint.options)
    embedded = embed(checkpoint, config, CLIPS, "local")
    for index, place in enumerate(CLIPS):
        means, cls = embed_alone(checkpoint, *place, pad, floor)
        for name, expected in (("favg", means), ("cls", cls)):
            found = embedded[name][index]
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=f"{name} {place}")


def test_embeddings_do_not_depend_on_company_or_order(checkpoint, config):
    together = embed(checkpoint, config, CLIPS, "local")
    backwards = embed(checkpoint, config, CLIPS[::-1], "local")
    for name, vectors in together.items():
        np.testing.assert_array_equal(backwards[name][::-1], vectors)
        for index, place in enumerate(CLIPS):
            np.testing.assert_array_equal(embed(checkpoint, config, [place], "local")[name][0], vectors[index])


@pytest.mark.slow  # the fake GPUs of runs/test_pipeline.py embed on Ray, too, to the same bits
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_embeddings_of_ray_are_those_of_one_process(checkpoint):
    overrides = ["resources.unit_rows=2", "resources.encode.max_workers=1"]
    config = load_config(None, overrides, {"preset": "paper", "device": "cpu"}, checkpoint.options)
    counts = []
    on_ray = embed(checkpoint, config, CLIPS, "ray", counts.append)
    assert counts == [2, 2, 2]
    here = embed(checkpoint, config, CLIPS, "local")
    for name in ("favg", "cls"):
        np.testing.assert_array_equal(on_ray[name], here[name])


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1600, 70_000), min_size=1, max_size=6), st.sampled_from([0, 160]))
def test_a_piece_does_not_see_its_batch(tiny_model, sizes, pad):
    pieces = [np.random.default_rng(size).standard_normal(size).astype(np.float32) for size in sizes]
    batched = pool_pieces(tiny_model, pieces, pad, LAYERS, batch_seconds=80)
    for piece, found in zip(pieces, batched, strict=True):
        (alone,) = pool_pieces(tiny_model, [piece], pad, LAYERS, batch_seconds=0)
        for one, other in zip(found, alone, strict=True):
            assert one.shape == (2, 48)
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_each_distinct_clip_is_encoded_once(checkpoint, config, tmp_path, monkeypatch):
    encoded = []

    def count(self, batch):
        encoded.extend(zip(*(batch.column(name).to_pylist() for name in ("uri", "start", "end")), strict=True))
        return original(self, batch)

    original = EmbedClips.__call__
    monkeypatch.setattr(EmbedClips, "__call__", count)
    a, b, c = clip("synth_0", 0, 1), clip("synth_0", 0.0, 1.0), clip("synth_1", 0, 1)
    triplets = {str(number): {"X": a, "P": b, "N": c} for number in range(5)}
    result = evaluate(tmp_path, triplets, checkpoint, config, embeddings=("favg", "cls"))
    assert (result.num_triplets, result.num_clips, result.seconds) == (5, 2, 2.0)
    assert sorted(encoded) == [(str(AUDIO / f"synth_{number}.flac"), 0.0, 1.0) for number in (0, 1)]
    assert len(result.scores) == 4


# -- the score


def test_the_same_clip_is_nearest(checkpoint, config, tmp_path):
    """P = X is correct, N = X is wrong, P = N is a tie, which counts as wrong."""
    a, b = clip("synth_0", 0, 2), clip("synth_1", 0, 2)
    triplets = {"1": {"X": a, "P": a, "N": b}, "2": {"X": b, "P": b, "N": a}, "3": {"X": a, "P": a, "N": b}}
    triplets |= {"4": {"X": a, "P": b, "N": a}, "5": {"X": a, "P": b, "N": b}}
    result = evaluate(tmp_path, triplets, checkpoint, config, embeddings=("cls", "favg"))
    assert [(score.embedding, score.layer) for score in result.scores] == [
        ("cls", 3),
        ("cls", 9),
        ("favg", 3),
        ("favg", 9),
    ]
    for score in result.scores:
        assert (score.correct, score.ties, score.accuracy.value) == (3, 1, 0.6)
        assert 0.0 <= score.accuracy.low < 0.6 < score.accuracy.high <= 1.0


vectors = arrays(np.float32, (7, 5), elements=st.floats(-100, 100, width=32))


@given(vectors, vectors, vectors)
def test_margins_are_differences_of_cosines(x, p, n):
    def cosine(a, b):
        lengths = np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64))
        return float(np.dot(a.astype(np.float64), b.astype(np.float64)) / lengths) if lengths else 0.0

    expected = [cosine(one, pos) - cosine(one, neg) for one, pos, neg in zip(x, p, n, strict=True)]
    np.testing.assert_allclose(ssabx_margins(x, p, n), expected, atol=1e-7)
    assert not ssabx_margins(x, p, p).any()
    np.testing.assert_array_equal(ssabx_margins(x, n, p), -ssabx_margins(x, p, n))


def test_margins_of_many_triplets_are_those_of_each():
    x, p, n = np.random.default_rng(0).standard_normal((3, 9000, 8)).astype(np.float32)
    found = ssabx_margins(x, p, n)
    np.testing.assert_array_equal(found[5000:5100], ssabx_margins(x[5000:5100], p[5000:5100], n[5000:5100]))
    assert ssabx_margins(x[:0], p[:0], n[:0]).shape == (0,)


def test_bootstrap_interval_is_that_of_resampled_triplets():
    """Against resampling triplet by triplet, and seeded."""
    correct = np.zeros(200)
    correct[:140] = 1
    rng = np.random.default_rng(5)
    shares = rng.choice(correct, (20_000, 200)).mean(axis=1)
    found = bootstrap_share(140, 200, 20_000, 0)
    np.testing.assert_allclose((found.low, found.high), np.percentile(shares, (2.5, 97.5)), atol=0.006)
    assert bootstrap_share(140, 200, 1000, 3) == bootstrap_share(140, 200, 1000, 3)
    assert bootstrap_share(7, 7, 1000, 0) == Interval(1.0, 1.0)
    assert bootstrap_share(1, 1, 1000, 0) == bootstrap_share(5, 7, 0, 0) == Interval(None, None)


def test_sentences_that_two_speakers_say(real_speech, tmp_path):
    """Real speech: six triplets say little of an encoder, so no more is asked than that all are scored."""
    speakers = sorted(path.name for path in (real_speech / "timit_nltk").iterdir())[:3]
    triplets = {}
    for one, other in ((0, 1), (1, 2), (2, 0)):
        names = f"{speakers[one]}/sa1.wav", f"{speakers[other]}/sa1.wav", f"{speakers[one]}/sa2.wav"
        triplets[speakers[one]] = {
            role: {"file_name": name, "segment": [0.0, 2.0]} for role, name in zip("XPN", names, strict=True)
        }
    checkpoint = fetch_checkpoint("bundled")
    config = load_config(None, [], {"preset": "paper", "device": "cpu"}, checkpoint.options)
    result = evaluate(tmp_path, triplets, checkpoint, config, root=real_speech / "timit_nltk", layers=(6,))
    assert not result.left_out
    assert result.num_clips == 6


# -- what cannot be used


def test_triplets_of_clips_that_cannot_be_used_are_left_out_and_told(checkpoint, config, tmp_path):
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, np.zeros(16_000), 16_000)
    (tmp_path / "text.wav").write_text("no audio, whatever its name says")
    good = clip("synth_0", 0, 1)
    bad = {
        "missing": clip("synth_9", 0, 1),
        "text": {"file_name": str(tmp_path / "text.wav"), "segment": [0, 1]},
        "silent": {"file_name": str(quiet), "segment": [0.25, 0.75]},
        "short": clip("synth_0", 0.5, 0.59),
        "beyond": clip("synth_0", 1, 60),
        "far beyond": clip("synth_0", 50, 60),
        "a little beyond": {"file_name": str(quiet), "segment": [0.5, 1.05]},
    }
    triplets = {name: {"X": good, "P": one, "N": good} for name, one in bad.items()}
    triplets["good"] = {"X": good, "P": good, "N": clip("synth_1", 0, 1)}
    result = evaluate(tmp_path, triplets, checkpoint, config)
    whole = soundfile.info(AUDIO / "synth_0.flac").duration
    assert result.left_out.pop("text").startswith(f"P: {tmp_path}/text.wav is not audio that can be decoded (")
    assert result.left_out == {
        "missing": f"P: {AUDIO}/synth_9.flac does not exist",
        "silent": f"P: {quiet} is silent (constant) from 0.25 to 0.75 s",
        "short": f"P: {AUDIO}/synth_0.flac has less than 0.1 s from 0.5 to 0.59 s",
        "beyond": f"P: {AUDIO}/synth_0.flac ends at {whole:.3f} s, before the 60.000 s that were asked for",
        "far beyond": f"P: {AUDIO}/synth_0.flac ends at {whole:.3f} s, before the 60.000 s that were asked for",
        "a little beyond": f"P: {quiet} ends at 1.000 s, before the end of its segment, 1.05 s",
    }
    assert [score.accuracy.value for score in result.scores] == [1.0, 1.0]
    result = evaluate(tmp_path, {"a": triplets["missing"]}, checkpoint, config)
    assert [score.accuracy for score in result.scores] == [Figure(None, None, None)] * 2


class Died:
    """Attempts in which each clip with one of `keys` has killed two workers alone."""

    def __init__(self, keys):
        self.keys = keys

    def begin(self, stage, unit):
        return dict.fromkeys(self.keys, 2)

    def alone(self, stage, unit, key):
        assert key not in self.keys

    def end(self, stage, unit):
        pass


def test_a_clip_that_kills_its_worker_is_given_up(checkpoint, config):
    clips = [Clip(str(AUDIO / "synth_0.flac"), start, start + 0.5) for start in (0.0, 0.5, 1.0)]
    (unit,) = cut_units(clips, config)
    embed = EmbedClips(lambda: checkpoint, config, LAYERS, "cpu")
    expected = embed(unit)
    embed.attempts = Died({"1"})
    found = embed(unit)
    assert found.column("key").to_pylist() == ["0", "1", "2"]
    assert found.column("error").to_pylist() == [None, f"{AUDIO}/synth_0.flac {GIVEN_UP}", None]
    for name in ("favg", "cls"):
        vectors = found.column(name).to_pylist()
        assert vectors == [expected.column(name)[0].as_py(), None, expected.column(name)[2].as_py()]
    assert expected.column("error").to_pylist() == [None] * 3


def test_half_precision_gives_float32_embeddings_near_those_of_float32(checkpoint):
    full, half = (
        embed(
            checkpoint, load_config(None, [], {"preset": "paper", "device": "cpu", "dtype": dtype}, {}), CLIPS, "local"
        )
        for dtype in ("float32", "bfloat16")
    )
    for name, vectors in half.items():
        assert vectors.dtype == np.float32
        assert 0 < np.abs(vectors - full[name]).max() < 0.05 * np.abs(full[name]).max()


def test_clips_of_an_object_store(checkpoint, config, tmp_path, s3_bucket):
    for number in (0, 1):
        storage.put(f"{s3_bucket}/a/synth_{number}.flac", (AUDIO / f"synth_{number}.flac").read_bytes())
    good, other, missing = clip("a/synth_0", 0, 1), clip("a/synth_1", 0, 1), clip("a/synth_2", 0, 1)
    triplets = {"1": {"X": good, "P": good, "N": other}, "2": {"X": good, "P": good, "N": missing}}
    storage.put(f"{s3_bucket}/triplets.json", json.dumps(triplets).encode())
    found = read_triplets(f"{s3_bucket}/triplets.json", s3_bucket)
    result = evaluate_ssabx(found, checkpoint, config, Scoring(("favg",), (9,)), engine="local")
    assert result.left_out == {"2": f"N: {s3_bucket}/a/synth_2.flac does not exist"}
    assert result.scores[0].accuracy.value == 1.0


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_layer_that_is_not_there_is_refused(checkpoint, config, tmp_path, engine):
    """Before any cluster is asked for."""
    triplets = {"t": {"X": GOOD, "P": GOOD, "N": GOOD}}
    with pytest.raises(UserError, match=r"encoder\.layer is 13, but checkpoint .* has 12 layers"):
        evaluate(tmp_path, triplets, checkpoint, config, layers=(9, 13), engine=engine)


def test_engines_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="engine is 'spark'"):
        check_engine("spark", None)
    with pytest.raises(UserError, match="leave out --address"):
        check_engine("local", "127.0.0.1:6379")


# -- the command


def test_command(tmp_path, tiny_checkpoint):
    a, b = clip("synth_0", 0, 1), clip("synth_1", 0, 1)
    triplets = {"good": {"X": a, "P": a, "N": b}, "bad": {"X": a, "P": clip("none", 0, 1), "N": b}}
    path = write(tmp_path, triplets)
    common = (AUDIO, path, "--checkpoint", tiny_checkpoint, "--device", "cpu", "--json", tmp_path / "result.json")
    wanted = ("--embedding", "favg", "--embedding", "cls", "--layer", "3", "--layer", "9")
    result = sdhubert("evaluate", "ssabx", *common, *wanted, expect=3)
    assert f"left out: bad: P: {AUDIO}/none.flac does not exist" in result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    for name in ("favg", "cls"):
        for layer in ("3", "9"):
            assert [name, layer, "100.0", "-", "0"] in rows
    written = json.loads((tmp_path / "result.json").read_text())
    assert list(written["left_out"]) == ["bad"]
    assert written["scores"][0] == {
        "embedding": "favg",
        "layer": 3,
        "correct": 1,
        "ties": 0,
        "accuracy": {"value": 1.0, "low": None, "high": None},
    }
    assert (written["metric"], written["num_triplets"], written["preset"]) == ("ssabx", 2, "paper")
    assert written["bootstrap"] == {"resamples": 1000, "seed": 0, "level": 0.95, "over": "triplets"}
    result = sdhubert("evaluate", "ssabx", *common, "--max-failed", "1", "--engine", "local", "audio.channel=0")
    assert [line.split()[:2] for line in result.stdout.splitlines() if "favg" in line] == [["favg", "9"]]


def test_a_wrong_root_is_one_sentence(tmp_path, tiny_checkpoint):
    """Not one for each triplet."""
    missing = [{"file_name": f"{number}.flac", "segment": [0, 1]} for number in range(50)]
    path = write(tmp_path, {str(number): {"X": one, "P": one, "N": one} for number, one in enumerate(missing)})
    result = sdhubert("evaluate", "ssabx", tmp_path, path, "--checkpoint", tiny_checkpoint, expect=2)
    assert f"such as {tmp_path}/0.flac; name the folder that they are relative to" in complaint(result)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--embedding", "mean"], "--embedding is 'mean'; it has to be one of favg, cls"),
        (["speech.normcut_threshold=1"], "'speech.normcut_threshold=1' does not apply here"),
        (["--preset", "other"], "unknown preset 'other'"),
        (["--layer", "13"], "has 12 layers"),
        ([], "none is no folder; name the one that the file names are relative to"),
    ],
)
def test_command_refuses_in_one_sentence(tmp_path, tiny_checkpoint, arguments, reason):
    good = clip("synth_0", 0, 1)
    path = write(tmp_path, {"t": {"X": good, "P": good, "N": good}})
    root = tmp_path / "none" if arguments == [] else AUDIO
    result = sdhubert("evaluate", "ssabx", root, path, "--checkpoint", tiny_checkpoint, *arguments, expect=2)
    assert reason in complaint(result)
