"""Options of a segmentation job that are refused, each in a sentence."""

import math

import pytest
from job_options import LAYOUT_OPTIONS, RESULT_OPTIONS, get, load, refusal
from option_trees import leaves

from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.config import JobConfig


@pytest.mark.parametrize(
    ("override", "wrong", "near"),
    [
        ("presett=paper", "presett", "preset"),
        ("sylables.syl_dur=0.2", "sylables", "syllables"),
        ("syllables.syl_drr=0.2", "syllables.syl_drr", "syllables.syl_dur"),
        ("syl_dur=0.2", "syl_dur", "syllables.syl_dur"),
        ("normcut_threshold=0.2", "normcut_threshold", "speech.normcut_threshold"),
        ("encoder.normcut_threshold=0.2", "encoder.normcut_threshold", "speech.normcut_threshold"),
        ("resources.batchseconds=1", "resources.batchseconds", "resources.batch_seconds"),
        ("max-failed=1", "max-failed", "max_failed"),
        ("unit_row=4", "unit_row", "resources.unit_rows"),
    ],
)
def test_a_typo_is_refused_naming_the_near_miss(tmp_path, override, wrong, near):
    expected = f"unknown config key {wrong!r}; did you mean {near!r}?"
    assert refusal(override) == expected
    key, _, value = override.partition("=")
    assert refusal(flags={key: value}) == expected
    section, _, name = key.rpartition(".")
    path = tmp_path / "job.yaml"
    path.write_text(f"{section}:\n  {name}: {value}\n" if section else f"{name}: {value}\n")
    assert refusal(path=str(path)) == expected


def test_a_key_like_no_other_is_refused_naming_those_there_are():
    message = refusal("zzz=1")
    assert "'zzz'" in message
    assert all(key in message for key, _ in leaves(JobConfig()))


def test_a_dotted_key_in_a_file_is_refused_in_words_that_help(tmp_path):
    """`syllables.syl_dur: 0.2` is right on the command line and wrong in YAML: no help to propose it again."""
    path = tmp_path / "job.yaml"
    path.write_text("syllables.syl_dur: 0.2\n")
    assert "did you mean 'syllables.syl_dur'" not in refusal(path=str(path))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("syllables.syl_dur=slow", "slow"),
        ("encoder.layer=nine", "nine"),
        ("encoder.layer=9.5", "9.5"),
        ("max_failed=1.5", "1.5"),
        ("syllables.keep_last_frame=perhaps", "perhaps"),
        ("syllables=0.2", "0.2"),
        ("output.formats=textgrid", "formats"),
        ("resources.encode.max_workers=[1]", "max_workers"),
        ("resources.encode=3", "3"),
        ("syllables.syl_dur.value=1", "value"),
    ],
)
def test_a_wrong_type_is_refused_by_key(override, value):
    message = refusal(override)
    assert override.partition("=")[0].removesuffix(".value") in message
    assert value in message


@pytest.mark.parametrize(
    "override",
    [
        "syllables.syl_dur=0",
        "syllables.syl_dur=-0.1",
        "syllables.min_cut_minimum=0",
        "syllables.drop_frames=-1",
        "syllables.merge_minimum=1",
        "syllables.max_frames=4",
        "encoder.layer=-1",
        "encoder.normcut_layer=-1",
        "speech.normcut_strategy=relativ",
        "speech.min_span_frames=-1",
        "speech.max_span_seconds=0",
        "windows.window_seconds=5.001",
        "windows.window_seconds=-5",
        "windows.overlap_seconds=0.501",
        "windows.overlap_seconds=0",
        "windows.overlap_seconds=4",
        "windows.pad_samples=-1",
        "audio.channel=-1",
        "audio.piece_seconds=5",
        "audio.variance_floor=-1",
        "output.formats=[parquet,textgrit]",
        "output.frame_features=float64",
        "output.segment_features=yes",
        "output.compression=zip",
        "output.rows_per_file=0",
        "resources.decode.workers=0",
        "resources.encode.gpus=0",
        "resources.cut.cpus=-1",
        "resources.batch_seconds=0",
        "resources.unit_seconds=-1",
        "resources.unit_rows=0",
        "resources.encode.memory_gib=0",
        "device=tpu",
        "dtype=float64",
        "max_failed=-1",
    ],
)
def test_a_value_out_of_range_is_refused_by_the_key_as_written(override):
    assert override.partition("=")[0] in refusal(override)


FLOATS = [key for key, value in [*RESULT_OPTIONS.items(), *LAYOUT_OPTIONS.items()] if isinstance(value, float)]


@pytest.mark.parametrize("key", FLOATS)
def test_no_option_takes_nan(key):
    assert key in refusal(f"{key}=nan")


@pytest.mark.parametrize("key", FLOATS)
def test_infinity_is_refused_by_its_key_or_taken_as_a_limit_that_is_never_reached(key):
    """Where it is taken, it has to work: only limits may be infinite."""
    try:
        config = load(f"{key}=inf")
    except UserError as error:
        assert key in str(error)  # noqa: PT017 - either is right
    else:
        assert get(config, key) == math.inf
        assert key in (
            "audio.piece_seconds",
            "speech.max_span_seconds",
            "speech.silence_threshold",
            "syllables.merge_threshold",
            "resources.batch_seconds",
            "resources.unit_seconds",
        )


def test_an_unknown_preset_is_refused_naming_those_there_are():
    message = refusal("preset=papers")
    assert all(part in message for part in ("'papers'", "readme", "paper"))


@pytest.mark.parametrize("override", ["syllables.syl_dur", "=0.2", "", "--help"])
def test_what_is_no_override_is_refused(override):
    message = refusal(override)
    assert repr(override) in message
    assert "key=value" in message


@pytest.mark.parametrize(
    "override",
    ["syllables.syl_dur=[1", "checkpoint={a", "checkpoint=a: b: c", "checkpoint=${nowhere}", "syllables=${nowhere}"],
)
def test_what_cannot_be_read_is_refused(override):
    assert override.partition("=")[0] in refusal(override)


@pytest.mark.parametrize(
    "content",
    [
        b"preset: [paper",
        b"a: b: c",
        b"- preset",
        b"paper",
        b"preset: paper\npreset: readme\n",
        b"\tpreset: paper",
        b"preset: \xff",
        b"preset: \x00",
        b"syllables:\n",
        b"syllables: 3\n",
        b"syllables: [1]\n",
    ],
)
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    message = refusal(path=str(path))
    assert str(path) in message or any(key in message for key in ("syllables", "'paper'"))


def test_a_missing_file_is_refused(tmp_path):
    assert f"{tmp_path}/job.yaml does not exist" in refusal(path=f"{tmp_path}/job.yaml")
    assert str(tmp_path) in refusal(path=str(tmp_path))
