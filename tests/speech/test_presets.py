"""The published sets of options, as the table of the design has them, and single options replaced."""

from dataclasses import FrozenInstanceError, fields

import pytest

from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import PRESETS, EncoderOptions, SegmentationOptions, get_preset, with_values
from sdhubert_ray.speech.syllables import SEGMENTERS
from sdhubert_ray.speech.systems import SYSTEMS

AS_IT_COMES = {"resampler": "soxr", "normalisation": "population"}
# The table of the design, row by row.
TABLE = {
    "readme": {
        "audio": {"variance_floor": 0.0, "channel": None, "piece_seconds": 600.0, **AS_IT_COMES},
        "windows": {"window_seconds": 5.0, "overlap_seconds": 0.5, "pad_samples": 160},
        "encoder": {"layer": 9, "normcut_layer": 11},
        "speech": {
            "normcut_strategy": "relative",
            "normcut_threshold": 0.1,
            "silence_threshold": 0.02,
            "min_span_frames": 2,
            "max_span_seconds": 30.0,
        },
        "syllables": {
            "syl_dur": 0.1,
            "merge_threshold": 0.4,
            "min_cut_minimum": 1,
            "keep_last_frame": True,
            "drop_frames": 0,
            "merge_minimum": 2,  # down to 1 segment
            "max_frames": None,
            "segmenter": "min-cut",
            "pooling": "mean",
        },
    },
    "paper": {
        "audio": {"variance_floor": 1e-7, "channel": None, "piece_seconds": 600.0, **AS_IT_COMES},
        "windows": {"window_seconds": None, "pad_samples": 0},
        "encoder": {"layer": 9, "normcut_layer": 11},
        "speech": {
            "normcut_strategy": "absolute",
            "normcut_threshold": 2.0,
            "silence_threshold": None,
            "min_span_frames": 0,
            "max_span_seconds": 30.0,
        },
        "syllables": {
            "syl_dur": 0.2,
            "merge_threshold": 0.3,
            "min_cut_minimum": 5,
            "keep_last_frame": False,
            "drop_frames": 2,
            "merge_minimum": 3,
            "max_frames": None,
            "segmenter": "min-cut",
            "pooling": "mean",
        },
    },
}


@pytest.mark.parametrize("name", ["readme", "paper"])
def test_presets_are_those_of_the_design(name):
    preset = get_preset(name)
    assert {section.name for section in fields(preset)} == set(TABLE[name])
    for section, values in TABLE[name].items():
        options = getattr(preset, section)
        assert {key: getattr(options, key) for key in values} == values
        unmentioned = {field.name for field in fields(options)} - set(values)
        # The overlap means nothing where whole pieces are encoded; the sections are of other segmenters.
        unmentioned -= {"overlap_seconds"} if name == "paper" else set()
        assert unmentioned <= (set(SEGMENTERS.values()) if section == "syllables" else set())


def test_readme_is_the_default_and_every_preset_stands_for_a_system():
    assert PRESETS["readme"] == SegmentationOptions()
    assert set(PRESETS) == set(SYSTEMS)


@pytest.mark.parametrize("name", ["reademe", "", "Readme"])
def test_unknown_preset_names_the_known_ones(name):
    with pytest.raises(UserError, match=f"unknown preset '{name}'.* readme, paper, "):
        get_preset(name)


@pytest.mark.parametrize("name", ["readme", "paper"])
def test_replacing_one_option_leaves_the_rest(name):
    preset = get_preset(name)
    changed = with_values(preset, {"speech": {"normcut_threshold": 0.7}, "encoder": {}})
    assert changed.speech.normcut_threshold == 0.7
    assert changed.speech.normcut_strategy == preset.speech.normcut_strategy
    assert changed.audio == preset.audio
    assert changed.syllables == preset.syllables
    assert get_preset(name).speech.normcut_threshold == TABLE[name]["speech"]["normcut_threshold"]
    assert with_values(preset, {}) == preset


def test_options_that_belong_together_can_be_replaced_together():
    """Each alone would be refused."""
    changed = with_values(get_preset("readme"), {"windows": {"window_seconds": 0.4, "overlap_seconds": 0.2}})
    assert changed.windows.window_frames == 20
    assert changed.windows.overlap_frames == 10


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"spech": {}}, "'spech'.*speech"),
        ({"speech": {"threshold": 1.0}}, r"speech\.threshold"),
        ({"speech": {"normcut_strategy": "absolut"}}, r"speech\.normcut_strategy.*relative, absolute"),
        ({"encoder": {"layer": -1}}, r"encoder\.layer is -1"),
        ({"encoder": {"normcut_layer": -3}}, r"encoder\.normcut_layer is -3"),
        ({"audio": {"channel": -1}}, r"audio\.channel is -1"),
        ({"audio": {"piece_seconds": 5.0}}, r"audio\.piece_seconds is 5.*at least 20 seconds"),
        ({"audio": {"piece_seconds": float("nan")}}, r"audio\.piece_seconds is nan"),
        ({"audio": {"variance_floor": -1e-7}}, r"audio\.variance_floor is -1e-07"),
        ({"audio": {"variance_floor": float("nan")}}, r"audio\.variance_floor is nan"),
        ({"syllables": {"merge_threshold": float("nan")}}, r"syllables\.merge_threshold"),
    ],
)
def test_refusals_name_the_option(values, named):
    with pytest.raises(UserError, match=named):
        with_values(get_preset("readme"), values)


def test_options_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        get_preset("readme").encoder.layer = 3  # type: ignore[misc]
    assert get_preset("readme").encoder == EncoderOptions(9, 11)


def test_values_of_a_section_within_a_section():
    options = with_values(PRESETS["readme"], {"syllables": {"segmenter": "greedy", "greedy": {"merge_threshold": 0.5}}})
    assert (options.syllables.greedy.merge_threshold, options.syllables.greedy.norm_threshold) == (0.5, 2.6)
    for values, message in [
        ({"greedy": {"tau": 1}}, r"^unknown option syllables\.greedy\.tau$"),
        (
            {"greedy": {"merge_threshold": "x"}},
            r"^syllables\.greedy\.merge_threshold is 'x'; it has to be float or int$",
        ),
        ({"greedy": {"merge_threshold": 2}}, r"^syllables\.greedy\.merge_threshold is 2; it has to be from 0 to 1$"),
        ({"greedy": 3}, r"^syllables\.greedy is 3; it has to be GreedyOptions$"),
    ]:
        with pytest.raises(UserError, match=message):
            with_values(PRESETS["readme"], {"syllables": values})
