"""The Python interface as its page shows it, its golden results, and that it needs no Ray."""

import json

import numpy as np
import pytest
from api.results import SYLLABLE_KEYS, assert_same, samples_of
from forks import FORKS, run_script

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter


def test_the_page_of_the_original(golden, tiny_checkpoint):
    """Word for word, but for the paths and the device."""
    device = "cpu"
    ckpt_path = str(tiny_checkpoint)
    segmenter = SDHuBERTSegmenter(
        ckpt_path,
        layer=9,
        normcut_strategy="relative",
        normcut_threshold=0.1,
        silence_threshold=0.02,
        device=device,
    )
    mincut = MincutWrapper(syl_dur=0.1, merge_threshold=0.4, ft_sr=50)
    wav_file = str(golden / "audio" / "synth_0.flac")
    outputs = mincut(segmenter(wav_file))
    expected = np.load(golden / "segmentation" / "readme" / "synth_0.npz")
    assert set(outputs) >= SYLLABLE_KEYS
    np.testing.assert_array_equal(outputs["segments"], expected["segments"])
    np.testing.assert_allclose(outputs["segment_features"], expected["segment_features"], atol=1e-4)
    np.testing.assert_allclose(outputs["features"], expected["frame_features"] * expected["mask"][:, None], atol=1e-4)
    assert outputs["length"] == len(expected["mask"])

    both = mincut(segmenter([wav_file, wav_file]))
    assert isinstance(both, list)
    for output in both:
        assert_same(output, outputs)


def check_golden(folder, preset, threshold, count):
    segmenter = SDHuBERTSegmenter(
        folder / "checkpoint" / "tiny.pt",
        preset=preset,
        normcut_threshold=threshold if preset == "paper" else None,
        device="cpu",
    )
    paths = sorted(path for path in (folder / "audio").iterdir() if path.suffix in {".wav", ".flac"})
    assert len(paths) == count
    found = segmenter(paths)
    syllables = MincutWrapper(preset=preset)(found)
    unmerged = MincutWrapper(syl_dur=0.2, merge_threshold=1.1, preset=preset)(found)
    for path, features, output, cut in zip(paths, found, syllables, unmerged, strict=True):
        expected = np.load(folder / "segmentation" / preset / f"{path.stem}.npz")
        mask = expected["mask"]
        np.testing.assert_array_equal(features["mask"], mask)
        np.testing.assert_allclose(features["norm"], expected["norm"], atol=1e-4, rtol=0)
        np.testing.assert_array_equal(features["segments"], expected["speech_spans"])
        np.testing.assert_allclose(features["features"][mask], expected["frame_features"][mask], atol=1e-4, rtol=0)
        assert not features["features"][~mask].any()
        np.testing.assert_array_equal(output["segments"], expected["segments"])
        np.testing.assert_allclose(output["segment_features"], expected["segment_features"], atol=1e-4, rtol=0)
        if preset == "readme":
            np.testing.assert_array_equal(cut["segments"], expected["segments_unmerged"])
        # One by one, as in the list.
        assert_same(MincutWrapper(preset=preset)(segmenter(str(path))), output)


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_golden(golden, preset):
    check_golden(golden, preset, 5.0, 5)


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_real_golden(real_golden, preset):
    check_golden(real_golden, preset, 5.5, 4)


@pytest.mark.parametrize(("suffix", "arguments"), [("m04", {}), ("m03", {"syl_dur": 0.2, "merge_threshold": 0.3})])
def test_golden_mincut(golden, suffix, arguments):
    values = np.load(golden / "mincut.npz")
    for case in range(11):
        features = values[f"case{case}_features"]
        output = MincutWrapper(**arguments)(as_speech(features, [(0, len(features))]))
        np.testing.assert_array_equal(output["segments"], values[f"case{case}_merged_{suffix}"])
        np.testing.assert_allclose(output["segment_features"], values[f"case{case}_pooled_{suffix}"], atol=1e-4)


def test_golden_merge_of_the_paper(golden):
    values = np.load(golden / "merge_paper.npz")
    for case in range(8):
        output = MincutWrapper(preset="paper")(as_speech(values[f"case{case}_features"], values[f"case{case}_spans"]))
        np.testing.assert_array_equal(output["segments"], values[f"case{case}_segments"])
        np.testing.assert_allclose(output["segment_features"], values[f"case{case}_pooled"], atol=1e-4)


def as_speech(features, spans):
    frames = len(features)
    return {
        "segments": np.asarray(spans, np.int64).reshape(-1, 2),
        "features": features,
        "mask": np.ones(frames, bool),
        "norm": np.ones(frames, np.float32),
        "length": frames,
        "status": "ok",
        "error": None,
        "syllable_options": {},
    }


@FORKS
def test_it_works_where_ray_cannot_be_imported(sounds):
    code = (
        "import sys, json\n"
        "assert not {'ray', 'sdhubert_ray'} & set(sys.modules)\n"
        "sys.modules['ray'] = None\n"
        "from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter\n"
        "output = MincutWrapper()(SDHuBERTSegmenter('bundled', device='cpu')(sys.argv[1]))\n"
        "print(json.dumps([output['length'], len(output['segments'])]))\n"
    )
    result = run_script(code, sounds[0])
    assert result.returncode == 0, result.stderr
    length, syllables = json.loads(result.stdout)
    assert length == len(samples_of(sounds[0])) // 320
    assert syllables > 0
    assert "RANDOM" not in result.stderr
