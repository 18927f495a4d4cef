"""How large units of work are, and in which order they are done."""

import heapq

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.corpus import split_units
from sdhubert_ray.output import Contents, Plan
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.engines import count_workers
from sdhubert_ray.runs.planning import UnitOptions, longest_first


def fitted(workers):
    return UnitOptions(600.0, None, 256, lambda: workers)


@settings(deadline=None)
@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(1, 4096))
def test_units_grow_with_what_is_before_them(one, other, workers):
    options = fitted(workers)
    less, more = sorted((one, other))
    assert 10.0 <= options.most_seconds(less, False) <= options.most_seconds(more, False) <= 600.0
    assert options.most_seconds(less, False) == 10.0 or options.most_seconds(less, False) <= less / (4 * workers)
    assert UnitOptions(600.0, 77.0, 256, lambda: workers).most_seconds(more, True) == 77.0
    assert options.most_seconds(less, True) == 600.0


def test_nobody_asks_a_cluster_for_a_unit_or_none():
    def ask():
        raise AssertionError

    options = UnitOptions(600.0, None, 256, ask)
    units = split_units(iter([pa.table({"duration": [4.0, 4.0]})]), options.most_seconds, options.unit_rows)
    assert [unit.num_rows for unit in units] == [2]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 64), st.floats(1.0, 30.0), st.floats(600, 3600), st.integers(0, 2**32))
def test_workers_end_at_about_the_same_time(workers, mean, seconds_each, seed):
    """Each unit to the first that is free; behind a long one there is work for its time, four times over."""
    draw = np.random.default_rng(seed)
    lengths = draw.exponential(mean, int(workers * seconds_each / mean)) + 0.1
    options = fitted(workers)
    units = split_units(iter([pa.table({"duration": lengths})]), options.most_seconds, options.unit_rows)
    seconds = sorted((float(np.sum(unit.column("duration").to_numpy())) for unit in units), reverse=True)
    free = [0.0] * workers
    for taken in seconds:
        heapq.heapreplace(free, free[0] + taken)
    assert max(free) - min(free) <= max(10.0, lengths.max()) + 1e-6


def test_the_longest_are_done_first():
    plans = [
        Plan(1, "a", "input", (1, 1, 1), (5.0, 50.0, 20.0), ""),
        Plan(2, "b", "input", (1, 1), (30.0, 20.0), ""),
    ]
    first, second = (plan.name for plan in plans)
    assert longest_first(Contents({}, plans, [])) == [(first, 1), (second, 0), (first, 2), (second, 1), (first, 0)]


@pytest.mark.ray
def test_workers_are_counted_where_the_run_will_be(ray_cluster):
    config = JobConfig(device="cpu")
    assert count_workers(config, "local", None) == 1
    assert count_workers(config, "auto", None) >= 1
    assert count_workers(config, "ray", "auto") >= 1
