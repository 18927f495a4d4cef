"""k-means: exact labels against an oracle, sums that add up in any order, Ward's reduction by its definition."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from units.vectors import clustered, inertia

from sdhubert_ray.units.kmeans import (
    LloydSums,
    Moments,
    NearestCenters,
    Scales,
    add_up,
    choose_scales,
    mean_variance,
    measure,
    move_centers,
    nearest_centers,
    seed_centers,
    ward_reduce,
)
from sdhubert_ray.units.kmeans.lloyd import MOST_RESEEDED


def brute_force(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The first of the nearest centers by squared differences in float64, one pair at a time."""
    labels = []
    for feature in features.astype(np.float64):
        distances = [halves(np.square(feature - center)) for center in centers.astype(np.float64)]
        labels.append(int(np.argmin(distances)))
    return np.array(labels, np.int32)


def halves(squares: np.ndarray) -> float:
    """Their sum, halves added until one is left."""
    while len(squares) > 1:
        half = (len(squares) + 1) // 2
        upper = np.zeros(half)
        upper[: len(squares) - half] = squares[half:]
        squares = squares[:half] + upper
    return float(squares[0])


def sum_all(
    features: np.ndarray, priorities: np.ndarray, centers: np.ndarray, scales: Scales, parts: list[np.ndarray]
) -> LloydSums:
    """The sums of a step, taken part by part."""
    total = LloydSums.zero(*centers.shape)
    for part in parts:
        sums = LloydSums.zero(*centers.shape)
        add_up(features[part], priorities[part], NearestCenters(centers), scales, sums)
        total.add(sums)
    return total


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(0, 30),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.sampled_from(["normal", "grid", "far", "same"]),
    st.sampled_from([-20, 0, 12]),
)
def test_labels_are_those_of_the_oracle(
    seed: int, num_centers: int, width: int, count: int, dtype: type, kind: str, exponent: int
) -> None:
    generator = np.random.default_rng(seed)
    scale = 2.0 ** (min(exponent, 10) if dtype == np.float16 else exponent * 3)

    def draw(rows: int) -> np.ndarray:
        values = {
            "normal": generator.standard_normal((rows, width)),
            "grid": generator.integers(-1, 2, (rows, width)).astype(np.float64),  # exact ties
            "far": 50 + generator.standard_normal((rows, width)) / 64,  # long vectors, near to each other
            "same": np.full((rows, width), 0.3),
        }
        return values[kind] * scale

    centers, features = draw(num_centers).astype(np.float32), draw(count).astype(dtype)
    features.flags.writeable = False
    labels = nearest_centers(features, centers)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, brute_force(features, centers))


def test_labels_depend_on_no_batch_and_no_threads() -> None:
    features = clustered(3000, 24, 60, noise=0.1)
    centers = np.concatenate([features[:200], features[:200], features[200:300] + np.float32(1e-7)])
    labels = nearest_centers(features, centers)
    alone = np.concatenate([nearest_centers(features[row : row + 1], centers) for row in range(400)])
    assert np.array_equal(labels[:400], alone)
    sevens = np.concatenate([nearest_centers(features[row : row + 7], centers) for row in range(0, 3000, 7)])
    assert np.array_equal(labels, sevens)
    before = torch.get_num_threads()
    torch.set_num_threads(3 if before == 1 else 1)
    try:
        assert np.array_equal(nearest_centers(features, centers), labels)
    finally:
        torch.set_num_threads(before)


def test_a_thread_for_each_chunk_uses_itself_alone() -> None:
    features, before, seen = clustered(20_000, 24, 60), torch.get_num_threads(), set()

    def look(*_: object) -> None:
        seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))

    torch.set_num_threads(3)
    try:
        NearestCenters(features[:600]).search(features, look)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {(False, 1)}


def test_a_thread_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    features, before, started, start = clustered(20_000, 24, 60), torch.get_num_threads(), [], threading.Thread.start

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            nearest_centers(features, features[:600])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert not any(thread.is_alive() for thread in started)


def test_short_products_that_others_have_allowed_change_nothing() -> None:
    features, before = clustered(500, 16, 20), torch.get_float32_matmul_precision()
    centers = features[:100]
    expected = nearest_centers(features, centers)
    torch.set_float32_matmul_precision("medium")
    try:
        assert np.array_equal(nearest_centers(features, centers), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e18, 1e25])
def test_numbers_at_the_ends_of_float32(scale: float) -> None:
    generator = np.random.default_rng(4)
    features, centers = ((generator.standard_normal((count, 6)) * scale).astype(np.float32) for count in (40, 15))
    assert np.array_equal(nearest_centers(features, centers), brute_force(features, centers))


def test_no_features_have_no_labels() -> None:
    assert nearest_centers(np.zeros((0, 3), np.float16), np.ones((2, 3), np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("features", "centers", "reason"),
    [
        (np.full((2, 3), np.nan), np.ones((2, 3), np.float32), "features have NaN"),
        (np.full((2, 3), np.inf), np.ones((2, 3), np.float32), "features have NaN"),
        (np.ones((2, 3)), np.full((2, 3), np.nan, np.float32), "centers have NaN"),
        (np.ones((2, 3)), np.ones((2, 3)), "have to be float32"),
        (np.ones((2, 3)), np.ones((0, 3), np.float32), "have to be float32"),
        (np.ones((2, 4)), np.ones((2, 3), np.float32), r"have to be floats \(n, 3\)"),
        (np.ones((2, 3), int), np.ones((2, 3), np.float32), r"have to be floats \(n, 3\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(features: np.ndarray, centers: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        nearest_centers(features, centers)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32]), st.integers(1, 9))
def test_a_step_is_the_same_to_the_bit_in_any_order_and_grouping(seed: int, dtype: type, num_parts: int) -> None:
    generator = np.random.default_rng(seed)
    features = clustered(600, 8, 12, seed=seed % 1000).astype(dtype)
    features[::7] = features[0]  # equally far
    priorities = generator.integers(0, 2**64, 600, np.uint64)
    centers = features[[*range(1, 7), *range(8, 14), 1, 2, 3]].astype(np.float32)  # three are never the first
    scales = choose_scales(float(np.abs(features).max()), 600, 8)
    whole = sum_all(features, priorities, centers, scales, [np.arange(600)])
    order = generator.permutation(600)
    split = sum_all(features, priorities, centers, scales, np.array_split(order, num_parts))
    assert np.array_equal(whole.counts, split.counts)
    assert np.array_equal(whole.sums, split.sums)
    assert whole.inertia == split.inertia
    assert [array.tobytes() for array in whole.farthest] == [array.tobytes() for array in split.farthest]
    moved, reseeded = move_centers(whole, centers, scales)
    assert moved.tobytes() == move_centers(split, centers, scales)[0].tobytes()
    assert reseeded == 3


def test_a_step_is_that_of_the_definition() -> None:
    features = clustered(2000, 16, 30)
    centers = features[:50]
    scales = choose_scales(float(np.abs(features).max()), 2000, 16)
    sums = sum_all(features, np.arange(2000, dtype=np.uint64), centers, scales, [np.arange(2000)])
    labels = brute_force(features, centers)
    moved, reseeded = move_centers(sums, centers, scales)
    assert reseeded == 0
    for label in range(50):
        mean = features[labels == label].astype(np.float64).mean(axis=0)
        assert np.allclose(moved[label], mean, rtol=2**-23, atol=2**-30)
    assert np.ldexp(float(sums.inertia), -scales.squares) == pytest.approx(inertia(features, centers), rel=1e-9)
    assert len(sums.farthest.distances) == MOST_RESEEDED
    distances = np.square(features.astype(np.float64) - centers[labels]).sum(axis=1)
    assert np.allclose(sums.farthest.distances, np.sort(distances)[::-1][:MOST_RESEEDED], rtol=1e-12)


@pytest.mark.parametrize("largest", [0.0, 1e-30, 1.0, 65504.0, 3e38])
@pytest.mark.parametrize("count", [1, 1000])
def test_no_sum_overflows(largest: float, count: int) -> None:
    features = np.full((count, 768), largest, np.float32)
    features[::2] *= -1
    scales = choose_scales(float(np.abs(features).max()), count, 768)
    centers = features[:1]
    sums = sum_all(features, np.arange(count, dtype=np.uint64), centers, scales, [np.arange(count)])
    if count > 1 and largest:
        expected = float(np.square(features.astype(np.float64) - centers).sum())
        assert np.ldexp(float(sums.inertia), -scales.squares) == pytest.approx(expected, rel=1e-9)
        assert 2**50 < sums.inertia < 2**63
    assert np.allclose(move_centers(sums, centers, scales)[0], features.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_the_variance_is_that_of_the_coordinates() -> None:
    features = clustered(1000, 12, 5) + np.float32(3)
    scales = choose_scales(float(np.abs(features).max()), 1000, 12)
    total = Moments.zero(12)
    for part in np.array_split(features, 7):
        total.add(measure(part, scales))
    assert mean_variance(total, scales) == pytest.approx(
        float(features.astype(np.float64).var(axis=0).mean()), rel=1e-9
    )


def test_empty_clusters_move_to_the_farthest_vectors() -> None:
    features = np.concatenate([np.zeros((50, 2)), [[9, 0], [0, 8], [7, 0]]]).astype(np.float32)
    centers = np.array([[0, 0], [100, 100], [200, 200]], np.float32)
    scales = choose_scales(9.0, 53, 2)
    sums = sum_all(features, np.arange(53, dtype=np.uint64), centers, scales, [np.arange(53)])
    moved, reseeded = move_centers(sums, centers, scales)
    assert reseeded == 2
    assert moved[1:].tolist() == [[9, 0], [0, 8]]
    assert np.allclose(moved[0], [7 / 51, 0])


def test_where_too_few_vectors_differ_empty_clusters_stay() -> None:
    features = np.repeat(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), 20, axis=0)
    seeds = seed_centers(features, 5, seed=0)
    assert len(set(seeds.tolist())) == 5
    centers = features[seeds]
    assert {tuple(center) for center in centers.tolist()} == {(1.0, 2.0), (3.0, 4.0)}
    scales = choose_scales(4.0, 40, 2)
    sums = sum_all(features, np.arange(40, dtype=np.uint64), centers, scales, [np.arange(40)])
    moved, reseeded = move_centers(sums, centers, scales)
    assert reseeded == 0
    assert np.array_equal(moved, centers)


def test_from_the_same_centers_it_goes_where_scikit_learn_goes() -> None:
    features = clustered(2000, 10, 30).astype(np.float64)
    start = features[:20]
    theirs = KMeans(20, init=start, n_init=1, max_iter=30, tol=0).fit(features)
    scales = choose_scales(float(np.abs(features).max()), *features.shape)
    centers = start.astype(np.float32)
    for _ in range(theirs.n_iter_):
        sums = sum_all(features, np.arange(2000, dtype=np.uint64), centers, scales, [np.arange(2000)])
        centers, _ = move_centers(sums, centers, scales)
    assert np.allclose(centers, theirs.cluster_centers_, atol=1e-5)


def merge_by_definition(centers: np.ndarray, num_units: int) -> set[frozenset[int]]:
    """Groups of centers, merged where that adds least to the squared distances to the groups' means."""
    groups = [[center] for center in range(len(centers))]

    def spread(group: list[int]) -> float:
        members = centers[group].astype(np.float64)
        return float(np.square(members - members.mean(axis=0)).sum())

    while len(groups) > num_units:
        pairs = [(one, two) for two in range(len(groups)) for one in range(two)]
        spreads = [spread(group) for group in groups]
        added = [spread(groups[one] + groups[two]) - spreads[one] - spreads[two] for one, two in pairs]
        one, two = pairs[int(np.argmin(added))]
        groups[one] += groups.pop(two)
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("num_units", [1, 2, 9, 29, 30])
@pytest.mark.parametrize("seed", [0, 1])
def test_ward_merges_by_the_definition(num_units: int, seed: int) -> None:
    centers = clustered(30, 7, 6, seed=seed)
    reducer = ward_reduce(centers, num_units)
    units = {frozenset(np.flatnonzero(reducer == unit).tolist()) for unit in range(num_units)}
    assert units == merge_by_definition(centers, num_units)
    first = [int(np.flatnonzero(reducer == unit)[0]) for unit in range(num_units)]
    assert first == sorted(first)
    assert reducer.dtype == np.int32


@pytest.mark.parametrize("num_units", [0, 4])
def test_ward_refuses_more_units_than_centers(num_units: int) -> None:
    with pytest.raises(ValueError, match=f"3 centers cannot become {num_units} units"):
        ward_reduce(np.ones((3, 2), np.float32), num_units)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits() -> None:
    features = clustered(5000, 64, 300)
    centers = np.concatenate([features[:500], features[:100]])
    scales = choose_scales(float(np.abs(features).max()), *features.shape)
    results = []
    for device in ("cpu", "cuda"):
        sums = LloydSums.zero(*centers.shape)
        add_up(features, np.arange(5000, dtype=np.uint64), NearestCenters(centers, device), scales, sums)
        results.append((sums.counts.tobytes(), sums.sums.tobytes(), sums.inertia, sums.farthest.distances.tobytes()))
    assert results[0] == results[1]
