"""The sample of a table: the vectors of the smallest priorities, whatever the files."""

import json
from pathlib import Path

import numpy as np
import pytest
from clusterings import every_priority
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import commits_in, write_output
from segments import FINGERPRINT, clustered, make_table, publish_all

from sdhubert_ray.clustering import shards
from sdhubert_ray.clustering.sampling import (
    SampleLots,
    choose_limits,
    choose_priorities,
    join_reports,
    lot_table,
    make_lots,
)
from sdhubert_ray.clustering.shards import ALL, Sample, read_shard, read_smallest
from sdhubert_ray.clustering.source import open_source


def take_sample(source: str, work: Path, wanted: int, seed: int = 0) -> Sample:
    table = open_source(source)
    limits = choose_limits(table.num_vectors, wanted)
    stage = SampleLots(table.output, str(work), seed, limits)
    lots = [lot_table(number, lot) for number, lot in enumerate(make_lots(table, limits))]
    reports = [json.loads(stage(lot).column("report")[0].as_py()) for lot in lots]
    return join_reports(reports, table, limits, wanted)


def sampled(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a sample, by priority, and the priorities."""
    parts = [read_shard(uri, sample.limit) for uri in sample.shards]
    features, priorities = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    order = np.argsort(priorities)
    return features[order], priorities[order]


@pytest.mark.parametrize("wanted", [1, 30, 1500, 3990, 4000, 9999])
def test_the_sample_is_the_vectors_of_the_smallest_priorities(wanted: int, segments: str, tmp_path: Path) -> None:
    sample = take_sample(segments, tmp_path / "work", wanted)
    assert sample.num_vectors == min(wanted, 4000)
    features, priorities = sampled(sample)
    every, theirs = every_priority(segments)
    assert np.array_equal(priorities, theirs[:wanted])
    assert np.array_equal(features, every[:wanted])
    count = max(1, sample.num_vectors // 3)
    assert np.array_equal(read_smallest(sample, count), every[:count])


def test_the_sample_does_not_depend_on_the_files(
    segments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = take_sample(segments, tmp_path / "one", 1000)
    publish_all(segments)
    assert len(commits_in(segments)) == 1
    monkeypatch.setattr(shards, "SHARD_BYTES", 10_000)
    after = take_sample(segments, tmp_path / "two", 1000)
    assert len(after.shards) > len(before.shards)
    assert (after.limit, after.largest) == (before.limit, before.largest)
    for one, two in zip(sampled(before), sampled(after), strict=True):
        assert np.array_equal(one, two)


def test_another_seed_takes_another_sample(segments: str, tmp_path: Path) -> None:
    one, two = (sampled(take_sample(segments, tmp_path / str(seed), 1000, seed))[0] for seed in (0, 1))
    both = {row.tobytes() for row in one} & {row.tobytes() for row in two}
    assert 200 < len(both) < 300  # a quarter of each, as chance has it


def test_lots_that_are_done_are_not_done_again(segments: str, tmp_path: Path) -> None:
    take_sample(segments, tmp_path / "work", 1000)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work/sample").iterdir()}
    take_sample(segments, tmp_path / "work", 1000)
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work/sample").iterdir()}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_limits_hold_between_them_what_is_wanted(num_vectors: int, wanted: int) -> None:
    limits = choose_limits(num_vectors, wanted)
    assert 0 <= limits.lower <= limits.upper <= ALL
    if wanted < num_vectors:
        assert limits.lower / ALL * num_vectors <= wanted <= limits.upper / ALL * num_vectors
    else:
        assert limits.lower == ALL


def test_priorities_are_uniform_and_of_their_row_alone() -> None:
    counts = np.array([3, 0, 100_000, 7])
    priorities = choose_priorities(0, ["a", "b", "c", "d"], counts)
    assert np.array_equal(priorities[:3], choose_priorities(0, ["a"], counts[:1]))
    assert np.array_equal(priorities[-7:], choose_priorities(0, ["d"], counts[3:]))
    assert len(set(priorities.tolist())) == 100_010
    histogram = np.histogram(priorities.astype(np.float64) / ALL, 20, (0, 1))[0]
    assert abs(histogram - 5000).max() < 5 * np.sqrt(5000)


def test_of_a_key_that_was_tried_again_the_latest_attempt_counts(tmp_path: Path) -> None:
    first, second = np.ones((5, 4), np.float32), np.full((6, 4), 2, np.float32)
    tables = [
        (1, make_table(["a#0", "b#0"], [first, first])),
        (1, make_table(["c#0"], [first])),
        (2, make_table(["b#0"], [second])),
    ]
    source = write_output(str(tmp_path / "segments"), tables, FINGERPRINT)
    assert open_source(source).num_vectors == 16
    features, _ = sampled(take_sample(source, tmp_path / "work", 99))
    assert sorted(features[:, 0].tolist()) == [1.0] * 10 + [2.0] * 6


def test_missing_rows_are_counted_and_half_precision_is_kept(tmp_path: Path) -> None:
    table = make_table(["a#0", "b#0", "c#0"], [clustered(9, 4, 2), None, np.zeros((0, 4))], np.float16)
    source = open_source(write_output(str(tmp_path / "segments"), [(1, table)], FINGERPRINT))
    assert (source.num_vectors, source.rows_failed, source.num_rows, source.dtype) == (9, 1, 3, "float16")
    features, _ = sampled(take_sample(source.output, tmp_path / "work", 99))
    assert features.dtype == np.float16
