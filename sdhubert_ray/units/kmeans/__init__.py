"""k-means, exact and in whatever order: nearest centers, k-means++ seeds, Lloyd's step, Ward's reduction of centers.

A result does not depend on how vectors are grouped (batches, shards, workers, threads, devices): labels are those of
float64 arithmetic in one fixed order, and sums are integers.
"""

from sdhubert_ray.units.kmeans.lloyd import (
    Farthest,
    LloydSums,
    Moments,
    Scales,
    add_up,
    choose_scales,
    mean_variance,
    measure,
    move_centers,
)
from sdhubert_ray.units.kmeans.nearest import NearestCenters, nearest_centers
from sdhubert_ray.units.kmeans.seeding import count_candidates, seed_centers
from sdhubert_ray.units.kmeans.ward import PAIR_BYTES, ward_reduce

__all__ = [
    "PAIR_BYTES",
    "Farthest",
    "LloydSums",
    "Moments",
    "NearestCenters",
    "Scales",
    "add_up",
    "choose_scales",
    "count_candidates",
    "mean_variance",
    "measure",
    "move_centers",
    "nearest_centers",
    "seed_centers",
    "ward_reduce",
]
