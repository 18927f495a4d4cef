"""TextGrids as Praat reads them: by Praat itself, in praat-parselmouth."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import parselmouth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parselmouth.praat import call

from sdhubert_ray.output import FileResult
from sdhubert_ray.output.formats import Tier, channels_to_textgrid, to_textgrid


def make_result(segments=(), duration=2.0, units=None, offset=0.0):
    segments = np.asarray(segments, np.float64).reshape(-1, 2)
    units = None if units is None else np.asarray(units, np.int32)
    return FileResult("a.wav", "/a.wav", "ok", None, duration, 0, segments, None, units, offset)


def in_praat(text):
    """What Praat reads: the end in seconds, and by tier its intervals (start, end, text) or points (time, text)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.TextGrid"
        path.write_text(text, encoding="utf-8")
        grid = parselmouth.read(str(path))
    assert grid.class_name == "TextGrid"
    tiers = {}
    for tier in range(1, int(call(grid, "Get number of tiers")) + 1):
        name = call(grid, "Get tier name", tier)
        assert name not in tiers
        if call(grid, "Is interval tier", tier):
            tiers[name] = [
                (
                    call(grid, "Get start time of interval", tier, number),
                    call(grid, "Get end time of interval", tier, number),
                    call(grid, "Get label of interval", tier, number),
                )
                for number in range(1, int(call(grid, "Get number of intervals", tier)) + 1)
            ]
        else:
            tiers[name] = [
                (call(grid, "Get time of point", tier, number), call(grid, "Get label of point", tier, number))
                for number in range(1, int(call(grid, "Get number of points", tier)) + 1)
            ]
    return call(grid, "Get end time"), tiers


def assert_tiles(intervals, end):
    assert intervals[0][0] == 0
    assert intervals[-1][1] == end
    assert all(start < stop for start, stop, _ in intervals)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(intervals))


def test_syllables_and_units_are_tiers_with_empty_intervals_between():
    end, tiers = in_praat(to_textgrid(make_result([[0.1, 0.3], [0.3, 0.56], [1.0, 1.2]], units=[5, 0, 16383])))
    assert end == 2.0
    assert [*tiers] == ["syllables", "units"]
    times = [(0, 0.1), (0.1, 0.3), (0.3, 0.56), (0.56, 1.0), (1.0, 1.2), (1.2, 2.0)]
    for name, labels in {"syllables": ["1", "2", "3"], "units": ["5", "0", "16383"]}.items():
        assert_tiles(tiers[name], end)
        np.testing.assert_allclose([interval[:2] for interval in tiers[name]], times, atol=1e-6)
        assert [text for *_, text in tiers[name] if text] == labels


@pytest.mark.parametrize("duration", [0.0, 1.5])
def test_a_recording_without_syllables_is_one_empty_interval(duration):
    end, tiers = in_praat(to_textgrid(make_result(duration=duration)))
    assert end == pytest.approx(duration, abs=1e-5)
    assert tiers == {"syllables": [(0, end, "")]}


def test_a_reference_keeps_all_of_its_tiers():
    """Words and points, too; what is called as ours is renamed; quotes and letters of any kind stay what they are."""
    others = [
        Tier("syllables", True, ((0.0, 0.2, ""), (0.2, 0.5, 'ka"t'))),
        Tier("Wörter", True, ((0.2, 1.0, "кот ʃ 猫"),)),
        Tier("tones", False, ((0.7, 0.7, "H*"), (0.4, 0.4, "L%"))),
    ]
    end, tiers = in_praat(to_textgrid(make_result([[0.1, 0.3]]), others))
    assert [*tiers] == ["syllables", "reference - syllables", "Wörter", "tones"]
    assert [text for *_, text in tiers["syllables"]] == ["", "1", ""]
    assert [text for *_, text in tiers["reference - syllables"]] == ["", 'ka"t', ""]
    assert [text for *_, text in tiers["Wörter"]] == ["", "кот ʃ 猫", ""]
    assert [(pytest.approx(time), text) for time, text in tiers["tones"]] == [(0.4, "L%"), (0.7, "H*")]
    assert end == 2.0


def test_a_reference_that_ends_later_makes_the_grid_longer():
    end, tiers = in_praat(to_textgrid(make_result([[0.1, 0.3]]), [Tier("words", True, ((1.0, 2.5, "x"),))]))
    assert end == 2.5
    assert tiers["syllables"][-1] == (0.3, 2.5, "")


def test_channels_have_tiers_each():
    words = Tier("words", True, ((0.0, 1.0, "yes"),))
    channels = {
        1: (make_result([[0.5, 0.7]], units=[7]), ()),
        0: (make_result([[0.1, 0.3], [0.3, 0.4]], 1.5), [words]),
    }
    end, tiers = in_praat(channels_to_textgrid(channels))
    assert end == 2.0
    assert [*tiers] == [
        "channel 0 - syllables",
        "channel 0 - words",
        "channel 1 - syllables",
        "channel 1 - units",
    ]
    assert [text for *_, text in tiers["channel 0 - syllables"]] == ["", "1", "2", ""]
    assert [text for *_, text in tiers["channel 1 - units"]] == ["", "7", ""]
    for tier in tiers.values():
        assert_tiles(tier, end)


labelled = st.tuples(st.floats(0, 20), st.floats(0, 20), st.text(st.characters(exclude_categories=["C", "Z"])))


@settings(max_examples=60)
@given(st.lists(labelled, max_size=8), st.floats(0, 30))
def test_whatever_a_reference_holds_praat_can_read(rows, duration):
    """Overlapping, touching, nested and minute intervals: the tier tiles the recording, and keeps what is apart."""
    rows = [(min(one, other), max(one, other), text) for one, other, text in rows]
    end, tiers = in_praat(to_textgrid(make_result(duration=duration), [Tier("words", True, tuple(rows))]))
    assert end == pytest.approx(max([duration, *(stop for _, stop, _ in rows)]), abs=3e-6)
    assert_tiles(tiers["words"], end)
    assert {text for *_, text in tiers["words"]} <= {"", *(text for *_, text in rows)}
    alone = [
        row
        for row in rows
        if row[1] - row[0] > 1e-5 and all(row is other or other[1] <= row[0] or other[0] >= row[1] for other in rows)
    ]
    for start, stop, text in alone:
        near = [one for one in tiers["words"] if abs(one[0] - start) < 1e-5 and abs(one[1] - stop) < 1e-5]
        assert [one[2] for one in near] == [text]
