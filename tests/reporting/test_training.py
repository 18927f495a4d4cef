"""The page of a training run: curves that keep their peaks, collapses, where it stands."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sdhubert_ray.reporting import ReportOptions, gather
from sdhubert_ray.reporting.training import thin
from sdhubert_ray.training.metrics import METRICS_FILE


def quiet(name, length):
    return lambda: None


@pytest.fixture
def run(tmp_path):
    """A run of 3,000 steps logged by tens: collapsed from 500 to 700 and from 2,000 on, once not finite."""
    folder = tmp_path / "run"
    folder.mkdir()
    record = {
        "kind": "training",
        "runs": 1,
        "config": {"max_steps": 4000, "model": {"lr": 1e-4}},
        "fingerprint": {},
        "found": {"num_train": 10, "num_val": 2, "too_short": 0},
        "versions": {"torch": "2"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    lines = ["step,loss,val_score,collapsed"]
    for step in range(10, 3001, 10):
        loss = "nan" if step == 100 else 99.0 if step == 1230 else 5.0
        collapsed = int(500 <= step <= 700 or step >= 2000)
        lines.append(f"{step},{loss},{0.5 if step % 500 == 0 else ''},{collapsed}")
    (folder / METRICS_FILE).write_text("\n".join(lines) + "\n")
    return str(folder)


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
