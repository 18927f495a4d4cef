"""Segmenters without an encoder: where they cut, and that their runs are like those of `sdhubert segment`."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import complaint, sdhubert
from recordings import write_corpus
from scipy.signal import stft

from sdhubert_ray import read_segments
from sdhubert_ray.comparing.baselines import BASELINES, encode_mel, run_baseline
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_files
from sdhubert_ray.speech.audio import normalise

WHOLE = (
    *("speech.normcut_strategy=absolute", "speech.normcut_threshold=-1", "speech.silence_threshold=null"),
    *("speech.min_span_frames=0", "speech.max_span_seconds=1000"),
)
"""Options by which whole recordings are cut."""


def test_uniform_cuts_as_its_segmenter_does_behind_an_encoder(
    golden: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run_baseline("uniform", BASELINES["uniform"], [str(golden / "audio")], str(tmp_path / "ours"))
    cut = ("syllables.segmenter=uniform", "syllables.uniform.seconds=0.2")
    command = ["segment", golden / "audio", tmp_path / "theirs", "--checkpoint", tiny_checkpoint, "--engine", "local"]
    sdhubert(*command, *WHOLE, *cut)
    ours, theirs = (
        {one.id: one.segments.tolist() for one in read_segments(str(tmp_path / name))} for name in ("ours", "theirs")
    )
    assert ours == theirs
    assert len(ours) == 5


def hum(edges: list[float]) -> np.ndarray:
    """A hum of 200 Hz that swells and fades once between each two edges, in seconds: z-scored samples."""
    seconds = np.arange(int(16_000 * edges[-1])) / 16_000
    place = np.searchsorted(edges, seconds, side="right")
    start, end = np.array(edges)[place - 1], np.array(edges)[place]
    loudness = 0.03 + np.sin(np.pi * (seconds - start) / (end - start))
    sound = sum(np.sin(2 * np.pi * 200 * number * seconds) / number for number in range(1, 20))
    return normalise((sound * loudness).astype(np.float32), 0)


@pytest.mark.parametrize("name", ["energy", "mel-valleys"])
def test_valleys_are_where_the_sound_is_soft(name: str) -> None:
    edges = [0.0, 0.31, 0.62, 0.81, 1.2, 1.5]
    found = BASELINES[name].segment(hum(edges))
    assert len(found) == len(edges) - 1
    assert found[1:, 0] == pytest.approx(np.array(edges[1:-1]), abs=0.04)
    assert found[:-1, 1] == pytest.approx(np.array(edges[1:-1]), abs=0.04)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("samples", [0, 1, 319, 320, 1000])
def test_next_to_no_sound_is_cut_into_next_to_nothing(name: str, samples: int) -> None:
    found = BASELINES[name].segment(np.zeros(samples, np.float32))
    assert found.shape == (len(found), 2)
    assert found.size == 0 or found.max() <= samples / 16_000


def test_levels_follow_the_sound() -> None:
    """By another Fourier transform: what is louder by 20 dB is louder by ln 10 (amplitude) and ln 100 (power)."""
    noise = np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    noise = np.concatenate([noise, 10 * noise])
    _, energy, amplitude = encode_mel(noise, "energy")
    _, mel, _ = encode_mel(noise, "mel")
    inside = slice(1, 49)
    assert energy[50:][inside] - energy[:50][inside] == pytest.approx(np.full(48, np.log(10)), abs=0.01)
    assert mel[50:][inside] - mel[:50][inside] == pytest.approx(np.full(48, np.log(100)), abs=0.01)
    assert amplitude[7] == pytest.approx(np.abs(noise[7 * 320 : 8 * 320]).mean(), rel=1e-5)


def test_features_follow_the_spectrum() -> None:
    """A tone that goes up moves from band to band; each band has mean 0 and variance 1."""
    seconds = np.arange(32_000) / 16_000
    tone = np.sin(2 * np.pi * (500 + 1500 * seconds) * seconds).astype(np.float32)
    features, _, _ = encode_mel(tone)
    assert features.shape == (100, 80)
    assert np.abs(features.mean(axis=0)).max() < 1e-4
    assert features.std(axis=0) == pytest.approx(np.ones(80), abs=1e-3)
    hertz, _, spectrum = stft(tone, 16_000, nperseg=400, noverlap=80)
    highest = hertz[np.abs(spectrum).argmax(axis=0)]
    bands = features[10:90].argmax(axis=1)
    assert np.corrcoef(bands, highest[10:90])[0, 1] > 0.95


def test_a_run_has_the_rows_and_statuses_of_any_other(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    manifest = write_corpus(golden, tmp_path)
    summary = run_baseline("energy", BASELINES["energy"], [str(manifest)], str(tmp_path / "ours"))
    command = ["segment", manifest, tmp_path / "theirs", "--checkpoint", tiny_checkpoint, "--engine", "local"]
    sdhubert(*command, "--max-failed", "9")
    columns = ("id", "piece", "offset", "duration", "num_frames", "error")
    ours, theirs = (
        sorted(
            tuple(table.column(name)[row].as_py() for name in columns)
            for table in read_files(str(tmp_path / folder), columns)
            for row in range(table.num_rows)
        )
        for folder in ("ours", "theirs")
    )
    assert ours == theirs
    assert summary.totals.statuses["ok"] == 9
    again = run_baseline("energy", BASELINES["energy"], [str(manifest)], str(tmp_path / "ours"))
    assert again.run_audio_seconds == 0
    with pytest.raises(UserError, match="baseline"):
        run_baseline("uniform", BASELINES["uniform"], [str(manifest)], str(tmp_path / "ours"))


def test_a_syllable_has_the_mean_of_its_frames(golden: Path, tmp_path: Path) -> None:
    sound = golden / "audio/synth_0.flac"
    run_baseline("energy", BASELINES["energy"], [str(sound)], str(tmp_path / "out"))
    (result,) = read_segments(str(tmp_path / "out"))
    features, _, _ = encode_mel(normalise(soundfile.read(sound, dtype="float32")[0], 0))
    for (start, end), found in zip((result.segments * 50).round().astype(int), result.segment_features, strict=True):
        assert found == pytest.approx(features[start:end].mean(axis=0), abs=2e-3)  # kept in half precision


def test_what_needs_an_encoder_says_that_there_is_none(golden: Path, tmp_path: Path) -> None:
    run_baseline("uniform", BASELINES["uniform"], [str(golden / "audio")], str(tmp_path / "out"))
    for command in (
        ["show", tmp_path / "out", "synth_3.flac", "-o", tmp_path / "x.png"],
        ["resegment", tmp_path / "out", tmp_path / "x"],
    ):
        assert "was made without an encoder: there are no frame" in complaint(sdhubert(*command, expect=2))
    assert "synth_3" in sdhubert("show", tmp_path / "out", "synth_3.flac").stdout
    again = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", "bundled", "--engine", "local"]
    assert "made with another configuration" in complaint(sdhubert(*again, expect=2))


def test_better_than_a_cut_every_fifth_of_a_second(golden: Path, tmp_path: Path) -> None:
    """On synthetic speech, whose syllables are bursts."""
    found = {}
    for name in ("uniform", "energy", "mel-valleys"):
        run_baseline(name, BASELINES[name], [str(golden / "audio")], str(tmp_path / name))
        out = sdhubert("evaluate", "boundary", tmp_path / name, golden / "audio/syllables.json", "--json", "-").stdout
        found[name] = json.loads(out)["protocols"]["onsets_offsets"]["f1"]["value"]
    assert min(found["energy"], found["mel-valleys"]) > found["uniform"] + 0.1
