"""Lengths that no manifest tells: the same, whoever reads them; and who is asked for which."""

import math

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from sdhubert_ray.corpus import cut_pieces, probe_durations
from sdhubert_ray.runs import probing
from sdhubert_ray.runs.probing import probing_on

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
