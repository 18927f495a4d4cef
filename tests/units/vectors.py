"""Vectors in clusters, for tests of k-means."""

import numpy as np

from sdhubert_ray.units.kmeans import nearest_centers


def clustered(count: int, width: int, clusters: int, seed: int = 0, noise: float = 0.7) -> np.ndarray:
    """Vectors around random centers, with clusters of different sizes."""
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((clusters, width))
    labels = generator.choice(clusters, count, p=generator.dirichlet(np.ones(clusters)))
    return (centers[labels] + noise * generator.standard_normal((count, width))).astype(np.float32)


def inertia(features: np.ndarray, centers: np.ndarray) -> float:
    return float(np.square(features.astype(np.float64) - centers[nearest_centers(features, centers)]).sum())
