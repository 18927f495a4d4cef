"""The bundled checkpoint does what its card says: it finds syllables, and none where nobody speaks."""

import numpy as np
import pytest
import soundfile
from places import ROOT

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.metrics import BoundaryCounts, count_sdhubert, score_boundaries, tune_shift

pytestmark = pytest.mark.xdist_group("bundled")  # the checkpoint is loaded once


@pytest.fixture(scope="module")
def segments_of():
    segmenter, mincut = SDHuBERTSegmenter("bundled", device="cpu"), MincutWrapper()

    def find(audio, sample_rate=None):
        return mincut(segmenter(audio, sample_rate))["segments"]

    return find


def scores(pairs):
    shift, _ = tune_shift(pairs)
    counts = [count_sdhubert(*pair, shift) for pair in pairs]
    sums = np.sum([(one.matched, one.reference, one.predicted) for one in counts], axis=0)
    return score_boundaries(BoundaryCounts(*sums.tolist()))


def test_syllables_of_synthetic_speech(segments_of):
    demo = ROOT / "sdhubert_ray/assets/demo"
    references = load_references(str(demo / "syllables.json"))
    found = scores([(one.syllables, segments_of(demo / one.file_name)) for one in references])
    assert found.f1 > 0.7
    assert found.r_value > 0.7


@pytest.mark.seconds
@pytest.mark.parametrize(("corpus", "f1", "r_value"), [("timit", 0.72, 0.76), ("librispeech", 0.74, 0.78)])
def test_syllables_of_real_speech(segments_of, real_speech, corpus, f1, r_value):
    references = load_references(str(real_speech / f"syllables_{corpus}_validation.json"))
    found = scores([(one.syllables, segments_of(real_speech / one.file_name)) for one in references])
    assert found.f1 > f1
    assert found.r_value > r_value


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_noise_alone_has_next_to_no_syllables(segments_of, colour, rate):
    draw = np.random.default_rng(0)
    seconds = 10
    spectrum = np.fft.rfft(draw.standard_normal(seconds * rate))
    frequencies = np.maximum(np.fft.rfftfreq(seconds * rate, 1 / rate), 20)
    noise = np.fft.irfft(spectrum * frequencies**-colour).astype(np.float32)
    found = segments_of(0.1 * noise / np.std(noise), rate)
    assert len(found) / seconds < 0.3


@pytest.mark.seconds
def test_recorded_noise_has_next_to_no_syllables(segments_of, real_speech):
    """But for noise1.wav, whose murmur is taken for speech: the card says so."""
    for name in ("noise2.wav", "noise3.wav"):
        path = real_speech / "noise_only" / name
        assert len(segments_of(path)) / soundfile.info(path).duration < 0.3, name
