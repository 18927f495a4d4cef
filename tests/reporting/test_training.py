"""The page of a training run: curves that keep their peaks, collapses, where it stands."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given
from recorded import write_training

from sdhubert_ray.reporting import ReportOptions, gather
from sdhubert_ray.reporting.training import thin
from sdhubert_ray.training.metrics import METRICS_FILE


def quiet(name, length):
    return lambda: None


@pytest.fixture
def run(tmp_path):
    return write_training(tmp_path / "run")


def test_curves_alarms_and_standing(run):
    page = gather(run, ReportOptions(), quiet)
    assert page.alarms == [(500, 700), (2000, 3000)]
    assert page.notes[0].startswith("COLLAPSE from step 500 to 700")
    assert [curve.names for curve in page.curves] == [["loss"], ["val_score"]]
    steps, values = page.curves[0].points[0]
    assert len(steps) == 299
    assert values[steps.index(1230)] == 99.0
    assert 100 not in steps
    assert page.tiles[0].value == "3,000"
    assert ("model.lr", "0.0001") in page.settings
    assert json.dumps(page.curves[0].points)


def test_a_run_that_has_logged_nothing_has_a_page(run):
    from pathlib import Path

    (Path(run) / METRICS_FILE).unlink()
    page = gather(run, ReportOptions(), quiet)
    assert page.curves == []
    assert page.notes == ["Nothing is logged yet."]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(4, 60))
def test_a_thinned_curve_keeps_its_peaks_and_its_order(values, most):
    points = list(enumerate(values))
    kept = thin(points, most)
    assert len(kept) <= max(most + 2, min(len(points), most))
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert {*kept} <= {*points}
    assert max(value for _, value in kept) == max(values)
    assert min(value for _, value in kept) == min(values)
