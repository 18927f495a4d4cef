"""Arguments that the two calls take, and those they refuse."""

import numpy as np
import pytest

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.errors import UserError


def test_single_arguments_override_the_preset(tiny_checkpoint):
    options = SDHuBERTSegmenter(
        tiny_checkpoint, layer=3, normcut_layer=5, normcut_threshold=5.0, preset="paper", channel=1, piece_seconds=60
    ).options
    assert (options.encoder.layer, options.encoder.normcut_layer) == (3, 5)
    assert (options.speech.normcut_strategy, options.speech.normcut_threshold) == ("absolute", 5.0)
    assert (options.audio.channel, options.audio.piece_seconds) == (1, 60)
    assert options.windows.window_seconds is None


def test_arguments_of_mincut_reach_the_cut(segmenter, sounds):
    found = segmenter(sounds[1])
    default = MincutWrapper()(found)["segments"]
    nothing_merged = MincutWrapper(merge_threshold=1.1)(found)["segments"]
    all_merged = MincutWrapper(merge_threshold=-1.1)(found)["segments"]
    assert len(nothing_merged) > len(default) > len(all_merged) == len(found["segments"])
    np.testing.assert_array_equal(all_merged, found["segments"] / 50)
    uncut = MincutWrapper(min_cut_minimum=10_000)(found)["segments"]
    np.testing.assert_array_equal(uncut, found["segments"] / 50)
    # K = ceil(n / 50 / syl_dur) of each span, at most n - 1.
    counts = [min(-(-frames // 10), max(frames - 1, 1)) for frames in np.diff(found["segments"], axis=1).ravel()]
    assert len(MincutWrapper(syl_dur=0.2, merge_threshold=1.1)(found)["segments"]) == sum(counts)


def test_another_segmenter(segmenter, sounds):
    found = segmenter(sounds[1])
    uniform = MincutWrapper(segmenter="uniform", segmenter_options={"seconds": 0.1})(found)["segments"]
    spans = found["segments"]
    assert len(uniform) == sum(-(-(end - start) // 5) for start, end in spans)
    peaks = MincutWrapper(segmenter="norm-peaks")(found)
    assert len(spans) < len(peaks["segments"]) == len(peaks["segment_features"])


def test_other_frame_rates_scale_times_and_counts(segmenter, sounds):
    """At 100 Hz the same frames last half as long: half of syl_dur cuts them alike."""
    found = segmenter(sounds[0])
    slow = MincutWrapper(syl_dur=0.2)(found)
    fast = MincutWrapper(syl_dur=0.1, ft_sr=100)(found)
    np.testing.assert_allclose(fast["segments"], slow["segments"] / 2)
    np.testing.assert_array_equal(fast["segment_features"], slow["segment_features"])


def test_segment_features_are_means_of_the_features_given(segmenter, mincut, sounds):
    output = mincut(segmenter(sounds[2]))
    for (start, end), mean in zip(output["segments"], output["segment_features"], strict=True):
        frames = output["features"][round(start * 50) : round(end * 50)]
        np.testing.assert_allclose(mean, frames.astype(np.float64).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_features_are_float16(tiny_checkpoint, mincut, sounds, dtype):
    found = SDHuBERTSegmenter(tiny_checkpoint, dtype=dtype, device="cpu")([sounds[3], np.zeros(16_000)], 16_000)
    assert [item["features"].dtype for item in found] == [np.float16, np.float16]
    assert found[0]["norm"].dtype == np.float32
    output = mincut(found[0])
    assert output["segment_features"].dtype == np.float32
    assert len(output["segments"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"preset": "reademe"}, "unknown preset 'reademe'"),
        ({"dtype": "float8"}, "dtype is 'float8'.*float32, bfloat16, float16"),
        ({"normcut_strategy": "relativ"}, r"normcut_strategy is 'relativ'"),
        ({"layer": 13}, r"encoder\.layer is 13"),
        ({"layer": -1}, r"encoder\.layer is -1"),
        ({"piece_seconds": 5}, r"piece_seconds is 5"),
        ({"channel": -1}, r"channel is -1"),
        ({"device": "nosuchdevice"}, "device 'nosuchdevice' cannot be used"),
    ],
)
def test_wrong_arguments_of_the_segmenter(tiny_checkpoint, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        SDHuBERTSegmenter(tiny_checkpoint, **arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"preset": "papers"}, "unknown preset 'papers'"),
        ({"syl_dur": 0}, "syl_dur is 0"),
        ({"merge_threshold": float("nan")}, "merge_threshold"),
        ({"ft_sr": 0}, "ft_sr is 0"),
        ({"ft_sr": float("nan")}, "ft_sr is nan"),
        ({"min_cut_minimum": 0}, "min_cut_minimum is 0"),
        ({"segmenter": "greed"}, "syllables.segmenter is 'greed'"),
        ({"segmenter": "greedy", "syl_dur": 0.2}, "are for min-cut, and the segmenter is greedy"),
        ({"segmenter": "greedy", "segmenter_options": {"tau": 1}}, r"unknown option syllables\.greedy\.tau"),
        ({"segmenter": "uniform", "segmenter_options": {"seconds": 0}}, r"uniform\.seconds is 0"),
        ({"segmenter_options": {"tau": 1}}, "segmenter_options are for a segmenter that is given"),
    ],
)
def test_wrong_arguments_of_mincut(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        MincutWrapper(**arguments)
