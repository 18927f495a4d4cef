"""Configuration: who wins over whom, and what makes two runs the same."""

import dataclasses

import pytest
from job_options import LAYOUT_OPTIONS, OPTIONAL, RESULT_OPTIONS, SEGMENTER_OPTIONS, as_text, get, load, refusal
from omegaconf import OmegaConf
from option_trees import flatten, leaves
from places import CONFIGS

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import fingerprint
from sdhubert_ray.runs.config import JobConfig, load_config
from sdhubert_ray.speech.presets import PRESETS, with_values
from sdhubert_ray.speech.syllables import SEGMENTERS


def test_every_option_is_known_to_this_test():
    """A new option has to be put into one of the tables: does it change results or not, with one segmenter alone?"""
    known = {*RESULT_OPTIONS, *LAYOUT_OPTIONS, *SEGMENTER_OPTIONS, "syllables.segmenter"}
    assert {key for key, _ in leaves(JobConfig())} == known


# -- values


def test_without_anything_the_config_is_the_readme_preset():
    assert load() == JobConfig()
    assert load("preset=readme") == JobConfig()


@pytest.mark.parametrize(("key", "value"), [*RESULT_OPTIONS.items(), *LAYOUT_OPTIONS.items()])
def test_every_option_can_be_set_in_every_way_and_changes_nothing_else(tmp_path, key, value):
    assert get(JobConfig(), key) != value
    section, _, name = key.rpartition(".")
    path = tmp_path / "job.yaml"
    indent, text = "", ""
    for part in key.split("."):
        text += f"{indent}{part}:\n"
        indent += "  "
    path.write_text(f"{text.rstrip()} {as_text(value)}\n")
    ways = [load(f"{key}={as_text(value)}"), load(path=str(path)), load(flags={key: value})]
    if key.partition(".")[0] in ("audio", "windows", "encoder", "speech", "syllables"):
        ways.append(load(carried={section: {name: value}}))
    for config in ways:
        found = get(config, key)
        assert found == value
        assert type(found) is type(value)
        if key != "preset":
            assert dict(leaves(config)) == {**dict(leaves(load())), key: found}


def test_the_paper_preset():
    """The column `paper` of the table in DESIGN, and its rules of merging."""
    config = load("preset=paper")
    expected = {
        "encoder.layer": 9,
        "encoder.normcut_layer": 11,
        "speech.normcut_strategy": "absolute",
        "speech.normcut_threshold": 2.0,
        "speech.silence_threshold": None,
        "speech.min_span_frames": 0,
        "windows.window_seconds": None,
        "windows.pad_samples": 0,
        "audio.variance_floor": 1e-7,
        "syllables.syl_dur": 0.2,
        "syllables.merge_threshold": 0.3,
        "syllables.min_cut_minimum": 5,
        "syllables.keep_last_frame": False,
        "syllables.drop_frames": 2,
        "syllables.merge_minimum": 3,
    }
    assert {key: get(config, key) for key in expected} == expected


def test_the_readme_preset():
    expected = {
        "encoder.layer": 9,
        "encoder.normcut_layer": 11,
        "speech.normcut_strategy": "relative",
        "speech.normcut_threshold": 0.1,
        "speech.silence_threshold": 0.02,
        "speech.min_span_frames": 2,
        "speech.max_span_seconds": 30.0,
        "windows.window_seconds": 5.0,
        "windows.overlap_seconds": 0.5,
        "windows.pad_samples": 160,
        "audio.variance_floor": 0.0,
        "audio.piece_seconds": 600.0,
        "syllables.syl_dur": 0.1,
        "syllables.merge_threshold": 0.4,
        "syllables.min_cut_minimum": 1,
        "syllables.keep_last_frame": True,
    }
    assert {key: get(load(), key) for key in expected} == expected


def test_the_later_wins_preset_checkpoint_file_override_flag(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("preset: paper\nsyllables:\n  syl_dur: 3\n  drop_frames: 30\n")
    carried = {"syllables": {"syl_dur": 2.0, "drop_frames": 20, "merge_minimum": 200}}
    given = {"path": str(path), "carried": carried}
    steps = [
        (load("preset=paper"), (0.2, 2, 3)),
        (load("preset=paper", carried=carried), (2.0, 20, 200)),
        (load(**given), (3.0, 30, 200)),
        (load("syllables.syl_dur=4", **given), (4.0, 30, 200)),
        (load("syllables.syl_dur=4", "syllables.syl_dur=5", **given), (5.0, 30, 200)),
        (load("syllables.syl_dur=4", flags={"syllables.syl_dur": 6.0}, **given), (6.0, 30, 200)),
    ]
    for config, expected in steps:
        syllables = config.syllables
        assert (syllables.syl_dur, syllables.drop_frames, syllables.merge_minimum) == expected
        assert syllables.min_cut_minimum == 5  # of the preset, in the file too
    assert load("preset=readme", path=str(path)).syllables.min_cut_minimum == 1
    assert load("preset=readme", path=str(path), flags={"preset": "paper"}).syllables.min_cut_minimum == 5


@pytest.mark.parametrize("key", OPTIONAL)
def test_null_is_none_for_optional_values(tmp_path, key):
    section, _, name = key.rpartition(".")
    path = tmp_path / "job.yaml"
    parts = key.split(".")
    path.write_text(": {".join(parts) + ": null" + "}" * (len(parts) - 1) + "\n")
    base = {section: {name: RESULT_OPTIONS[key]}} if section and key in RESULT_OPTIONS else {}
    if key == "windows.window_seconds":  # whole pieces take no padding
        path.write_text(f"{section}: {{{name}: null, pad_samples: 0}}\n")
        assert get(load(f"{key}=null", "windows.pad_samples=0", carried=base), key) is None
        assert get(load(path=str(path), carried=base), key) is None
        return
    assert get(load(f"{key}=null", carried=base), key) is None
    assert get(load(path=str(path), carried=base), key) is None


@pytest.mark.parametrize(
    "key", [key for key, _ in leaves(JobConfig()) if key not in (*OPTIONAL, "syllables.banded.merge_threshold")]
)
def test_null_is_refused_for_all_others(key):
    assert key in refusal(f"{key}=null")


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load(path=str(tmp_path / "empty.yaml")) == JobConfig()


# -- what a configuration is


def all_options(options):
    yield options
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if dataclasses.is_dataclass(value):
            yield from all_options(value)


def test_every_options_object_is_frozen():
    for config in (JobConfig(), load("output.formats=[parquet,textgrid]", flags={"preset": "paper"})):
        objects = list(all_options(config))
        assert len(objects) == 16
        for options in objects:
            for option in dataclasses.fields(options):
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(options, option.name, None)


def test_a_loaded_configuration_has_no_part_that_can_change():
    """Frozen to the last value: two equal ones have one hash."""
    config = load("output.formats=[parquet,textgrid]")
    assert config.output.formats == ("parquet", "textgrid")
    assert hash(config) == hash(load("output.formats=[parquet,textgrid]"))
    assert len({load(), load("preset=readme"), load("preset=paper")}) == 2


def identity(config):
    return fingerprint(config.identity("0" * 64))


@pytest.mark.parametrize(("key", "value"), RESULT_OPTIONS.items())
def test_identity_holds_every_option_that_changes_results(key, value):
    before, after = identity(load()), identity(load(flags={key: value}))
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == {key}


@pytest.mark.parametrize(("key", "value"), [item for item in LAYOUT_OPTIONS.items() if item[0] != "preset"])
def test_identity_holds_no_option_that_does_not(key, value):
    config = load(flags={key: value})
    assert config != load()
    assert identity(config) == identity(load())


def test_identity_knows_a_preset_by_its_options():
    by_hand = load(
        *(
            f"{key}={'null' if get(load('preset=paper'), key) is None else get(load('preset=paper'), key)}"
            for key in RESULT_OPTIONS
        )
    )
    assert identity(by_hand) == identity(load("preset=paper"))
    assert identity(by_hand) != identity(load())


def test_identity_holds_the_weights():
    assert JobConfig().identity("a") != JobConfig().identity("b")


def test_identity_holds_the_quantizer_if_there_is_one():
    """An output from before there were quantizers has the identity of one without."""
    without, one, other = (fingerprint(JobConfig().identity("a", sha256)) for sha256 in (None, "b", "c"))
    assert one == {**without, "quantizer.sha256": '"b"'} != other
    assert not [key for key in without if "quantizer" in key]


def test_identity_holds_a_longest_segment_if_there_is_one():
    """An output from before segments could have one has the identity of one without."""
    assert not [key for key in identity(load()) if "max_frames" in key]
    assert identity(load("syllables.max_frames=50"))["syllables.max_frames"] == "50"


@pytest.mark.parametrize(("key", "value"), SEGMENTER_OPTIONS.items())
def test_options_of_a_segmenter_can_be_set_in_every_way_with_it_and_are_of_its_identity(tmp_path, key, value):
    section, name = key.split(".")[1:]
    segmenter = next(one for one, own in SEGMENTERS.items() if own == section)
    chosen = f"syllables.segmenter={segmenter}"
    path = tmp_path / "job.yaml"
    path.write_text(f"syllables:\n  segmenter: {segmenter}\n  {section}:\n    {name}: {as_text(value)}\n")
    ways = [
        load(chosen, f"{key}={as_text(value)}"),
        load(path=str(path)),
        load(flags={"syllables.segmenter": segmenter, key: value}),
        load(chosen, carried={"syllables": {section: {name: value}}}),
    ]
    for config in ways:
        assert dict(leaves(config)) == {**dict(leaves(load())), "syllables.segmenter": segmenter, key: value}
        before, after = identity(load(chosen)), identity(config)
        assert {one for one in {*before, *after} if before.get(one) != after.get(one)} == {key}
    message = refusal(f"{key}={as_text(value)}")
    assert message.startswith(
        f"syllables.{section} is for the segmenter {segmenter}, but syllables.segmenter is min-cut;"
    )


@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_identity_holds_the_options_of_the_segmenter_alone(segmenter):
    """An output from before there was a choice has the identity of one by min-cut."""
    found = {
        key.split(".")[1] for key in identity(load(f"syllables.segmenter={segmenter}")) if key[:10] == "syllables."
    }
    of_min_cut = {key.split(".")[1] for key in RESULT_OPTIONS if key.startswith("syllables.")} - {
        "max_frames",
        "pooling",
    }
    assert found == ({"segmenter", SEGMENTERS[segmenter]} if SEGMENTERS[segmenter] else of_min_cut)
    pooled = identity(load(f"syllables.segmenter={segmenter}", "syllables.pooling=unit"))
    assert pooled["syllables.pooling"] == '"unit"'
    assert load("syllables.segmenter=greedy", carried={"syllables": {"syl_dur": 9.0}}).syllables.syl_dur == 9


def test_options_of_min_cut_are_refused_where_they_would_do_nothing(tmp_path):
    message = refusal("syllables.segmenter=greedy", "syllables.syl_dur=0.2")
    assert message.startswith("syllables.syl_dur is for the segmenter min-cut, but syllables.segmenter is greedy;")
    assert "sse-dp" in refusal("syllables.segmenter=greedy", "syllables.sse_dp.max_error=0.2")
    assert "'greedi'" in refusal("syllables.segmenter=greedi")
    (tmp_path / "all.yaml").write_text("syllables: {segmenter: greedy, syl_dur: 0.2}\n")
    assert load(path=str(tmp_path / "all.yaml")).syllables.segmenter == "greedy"


def test_identity_is_the_same_however_a_value_was_written():
    ways = [load("syllables.syl_dur=1"), load("syllables.syl_dur=1.0"), load(flags={"syllables.syl_dur": 1})]
    ways.append(load(carried={"syllables": {"syl_dur": 1}}))
    assert len({str(identity(config)) for config in ways}) == 1


def test_the_yaml_that_shows_every_option_holds_the_defaults():
    path = CONFIGS / "segment.yaml"
    assert load_config(str(path), [], {}, {}) == load_config(None, [], {}, {})
    shown = OmegaConf.to_container(OmegaConf.load(path))
    assert set(flatten(shown)) == {key for key, _ in leaves(JobConfig())}


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}",
        "a/${oc.env:SECRET,x}/b",
        "${ oc.decode:x}",
        "${now:%Y}",
        "${${checkpoint}:SECRET}",
        "${oc.${checkpoint}:SECRET}",
        r"\\${oc.env:SECRET}",
    ],
)
@pytest.mark.parametrize("place", ["override", "file", "flag"])
def test_nothing_is_looked_up_outside_the_configuration(tmp_path, monkeypatch, text, place):
    """It would stand in run.json, for all who read the output."""
    monkeypatch.setenv("SECRET", "hush")
    path = tmp_path / "job.yaml"
    path.write_text(f"quantizer: '{text}'\n")
    given = {"override": [f"quantizer={text}"], "file": [], "flag": []}[place]
    message = refusal(
        *given,
        path=str(path) if place == "file" else None,
        flags={"quantizer": text} if place == "flag" else {},
    )
    assert "quantizer" in message
    assert "would be read from outside the configuration" in message
    assert "hush" not in message


def test_one_option_may_be_that_of_another():
    assert (
        load("syllables.merge_minimum=${syllables.drop_frames}", "syllables.drop_frames=5").syllables.merge_minimum == 5
    )


def test_a_checkpoint_says_nothing_of_where_audio_may_come_from():
    with pytest.raises(UserError, match="schemes"):
        with_values(PRESETS["readme"], {"audio": {"schemes": ["http"]}})
    assert "schemes" not in dataclasses.asdict(load("audio.schemes=[http]").segmentation)["audio"]
