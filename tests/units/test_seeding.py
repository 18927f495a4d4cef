"""The first centers of k-means: of the seed alone, spread, and different wherever vectors are."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.cluster import kmeans_plusplus
from units.vectors import clustered, inertia

from sdhubert_ray.units.kmeans import seed_centers, seeding


def test_seeds_are_of_the_seed_and_spread() -> None:
    features = clustered(3000, 8, 40, noise=0.05)
    seeds = seed_centers(features, 40, seed=5)
    assert np.array_equal(seeds, seed_centers(features, 40, seed=5))
    assert not np.array_equal(seeds, seed_centers(features, 40, seed=6))
    at_random = inertia(features, features[np.random.default_rng(0).choice(3000, 40, replace=False)])
    assert inertia(features, features[seeds]) < 0.2 * at_random
    with pytest.raises(ValueError, match="3 vectors cannot give 4 centers"):
        seed_centers(features[:3], 4, seed=0)
    assert sorted(seed_centers(features[:4], 4, seed=0)) == [0, 1, 2, 3]


@pytest.mark.parametrize("width", [1, 8, 70])
def test_seeds_are_the_same_on_any_number_of_threads(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "_CHUNK_BYTES", {"cpu": 1 << 16})  # many chunks
    features, before = clustered(5000, width, 40), torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found.append(seed_centers(features, 300, seed=1).tolist())
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("apart", "most"), [(1e-2, 70), (1e-3, 70), (1e-4, 50)])
def test_seeds_find_tight_clusters_far_from_the_mean(apart: float, most: int) -> None:
    """Where products in float32 do not tell them from each other; in the end those decide among draws by chance."""
    generator = np.random.default_rng(0)
    groups = np.repeat([[1.0], [-1.0]], 40, axis=0) * generator.standard_normal(768)
    centers = groups + apart * generator.standard_normal((80, 768))
    features = np.repeat(centers, 20, axis=0) + 0.01 * apart * generator.standard_normal((1600, 768))
    features = features.astype(np.float32)
    seeds = seed_centers(features, 80, seed=0)
    assert len(np.unique(seeds // 20)) > most


def test_seeds_spread_as_those_of_scikit_learn() -> None:
    """Greedy k-means++ one by one, there; the mean of ten, whose spread is 1 %."""
    features = clustered(4000, 16, 300, noise=0.5)
    ours = [inertia(features, features[seed_centers(features, 256, seed)]) for seed in range(10)]
    theirs = [inertia(features, kmeans_plusplus(features, 256, random_state=seed)[0]) for seed in range(10)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.05)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 200),
    st.integers(1, 5),
    st.integers(1, 60),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e15]),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(0, 2**32),
)
@example(48, 4, 48, 1e-30, np.float16, 3009)  # two copies of one vector among those taken together
def test_seeds_are_different_vectors_of_any_data(
    different: int, width: int, num_centers: int, scale: float, dtype: type, seed: int
) -> None:
    """Of copies of some vectors, far from the origin or not, each that differs is a seed where there are enough."""
    generator = np.random.default_rng(seed)
    few = generator.integers(-4, 5, (different, width)) * scale + generator.integers(0, 2) * 100 * scale
    features = few[generator.integers(different, size=250)].astype(dtype if scale in (1.0, 1e-3) else np.float64)
    seeds = seed_centers(features, num_centers, seed)
    assert len(set(seeds.tolist())) == num_centers
    distinct = len(np.unique(features, axis=0))
    assert len(np.unique(features[seeds], axis=0)) == min(num_centers, distinct)
