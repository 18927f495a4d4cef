"""Lengths that no manifest tells: the same, whoever reads them; and who is asked for which."""

import math

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from commands import sdhubert
from segmented import Segmenting

from sdhubert_ray.corpus import cut_pieces, probe_durations
from sdhubert_ray.errors import UserError
from sdhubert_ray.runs import probing
from sdhubert_ray.runs.probing import probing_on, remembering

NOBODY = "127.0.0.1:9"


@pytest.fixture
def files(tmp_path):
    """Recordings of 0.1 to 2.4 s; every fifth is not there, every seventh no audio."""
    made = []
    for number in range(24):
        path = tmp_path / f"{number:02d}.wav"
        if number % 7 == 6:
            path.write_text("no audio")
        elif number % 5 != 4:
            soundfile.write(path, np.zeros(1600 * (number + 1), np.int16), 16_000)
        made.append((str(path), None, None, None, None))
    return made


def test_only_lengths_that_matter_are_asked_for_and_all_at_once():
    manifest = pa.table(
        {
            "id": ["told", "part", "a", "long part", "b"],
            "uri": ["told", "part", "a", "long part", "b"],
            "duration": pa.array([90.0, None, None, None, None], pa.float64()),
            "end": pa.array([None, 20.0, None, 95.0, None], pa.float64()),
        }
    )
    asked = []

    def probe(places):
        asked.append([uri for uri, *_ in places])
        return [61.0, math.nan, 30.0]

    pieces = cut_pieces(manifest, 30.0, probe)
    assert asked == [["a", "long part", "b"]]
    told = ["told"] * 3 + ["part"] + ["a"] * 3 + ["long part"] * 4 + ["b"]
    assert pieces.column("id").to_pylist() == told


def test_few_are_read_here_and_no_cluster_is_joined(files):
    with probing_on(NOBODY) as probe:
        np.testing.assert_array_equal(probe(files), probe_durations(files))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_many_are_read_by_the_workers_in_their_order(files, monkeypatch):
    monkeypatch.setattr(probing, "_FEW", 5)
    monkeypatch.setattr(probing, "_AT_ONCE", 7)
    expected = probe_durations(files)
    assert expected[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, math.nan], nan_ok=True)
    with probing_on("auto") as probe:
        np.testing.assert_array_equal(probe(files), expected)
        np.testing.assert_array_equal(probe(files[::-1]), expected[::-1])


@pytest.fixture
def kept_from_five(monkeypatch):
    monkeypatch.setattr(probing, "_KEPT", 5)


class Probing:
    """Tells lengths, and remembers what it was asked for; `fails_at` a call of that number."""

    def __init__(self, fails_at=None):
        self.asked = []
        self.fails_at = fails_at

    def __call__(self, places):
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append(places)
        return probe_durations(places)


@pytest.mark.usefixtures("kept_from_five")
def test_what_was_read_before_a_stop_is_not_read_again(files, tmp_path):
    output = str(tmp_path / "out")
    stopped = Probing(fails_at=2)
    ask = remembering(stopped, output)
    told = [*ask(files[:8]), *ask(files[8:16])]
    with pytest.raises(KeyboardInterrupt):
        ask(files[16:])
    again = Probing()
    ask = remembering(again, output)
    np.testing.assert_array_equal([*ask(files[:8]), *ask(files[8:16])], told)
    np.testing.assert_array_equal(ask(files[16:]), probe_durations(files[16:]))
    assert again.asked == [files[16:]]


@pytest.mark.usefixtures("kept_from_five")
def test_a_file_of_another_size_is_read_again(files, tmp_path):
    output = str(tmp_path / "out")
    remembering(probe_durations, output)(files)
    soundfile.write(files[3][0], np.zeros(32_000, np.int16), 16_000)
    changed = [(*place[:4], 64_044 if place is files[3] else None) for place in files]
    assert remembering(probe_durations, output)(changed)[3] == 2.0


@pytest.mark.usefixtures("kept_from_five")
@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_lengths_that_were_cut_short_are_read_again(files, tmp_path, damage):
    output = tmp_path / "out"
    remembering(probe_durations, str(output))(files)
    (kept,) = (output / "lengths").iterdir()
    kept.write_bytes(kept.read_bytes()[:-8] if damage is None else damage)
    np.testing.assert_array_equal(remembering(probe_durations, str(output))(files), probe_durations(files))


def test_a_few_are_not_kept(files, tmp_path):
    remembering(probe_durations, str(tmp_path / "out"))(files)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("kept_from_five")
def test_a_run_goes_on_with_its_lengths_and_removes_them_when_it_has_its_plan(tiny_checkpoint, tmp_path, monkeypatch):
    segmenting = Segmenting(tmp_path / "made", tiny_checkpoint, ())
    speech, output = tmp_path / "speech", tmp_path / "out"
    speech.mkdir()
    for number in range(8):
        soundfile.write(speech / f"{number}.wav", np.zeros(1600, np.int16), 16_000)
    segmenting.plan(speech, output).folder.cleanup()  # stopped before it began
    assert len(list((output / "lengths").iterdir())) == 1
    monkeypatch.setattr(probing, "probe_durations", None)  # nobody reads them again
    assert segmenting(speech, output).totals.statuses == {"silent": 8}
    assert not (output / "lengths").exists()


@pytest.mark.usefixtures("kept_from_five")
def test_a_plan_keeps_no_lengths(files, tmp_path):
    speech = tmp_path / "speech.csv"
    speech.write_text("\n".join(["id,uri", *(f"{number},{uri}" for number, (uri, *_) in enumerate(files))]))
    assert "hours" in sdhubert("segment", speech, tmp_path / "out", "--checkpoint", "bundled", "--plan").stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("kept_from_five")
def test_a_command_that_is_refused_keeps_no_lengths(tiny_checkpoint, files, tmp_path):
    speech, output = tmp_path / "speech.csv", tmp_path / "out"
    rows = [f"{number},{uri}" for number, (uri, *_) in enumerate(files)]
    speech.write_text("\n".join(["id,uri", *rows]))
    output.mkdir()
    (output / "0.TextGrid").write_text("somebody's")
    segmenting = Segmenting(tmp_path / "made", tiny_checkpoint, ())
    with pytest.raises(UserError, match=r"0\.TextGrid"):
        segmenting.plan(speech, output, ["output.formats=[textgrid]"])
    assert [path.name for path in output.iterdir()] == ["0.TextGrid"]
