"""Self-distillation: a student learns what its own copy says of speech, of a crop as a whole or of its segments.

Rooms: `objective` (what all objectives share); `core` (the objective `sentence`, a training step), `head` (its
projection head and teacher), `loss` (centred loss, sums over all workers); `segments` (the objective `segments`),
`norms` (its threshold of norms).
"""

from sdhubert_ray.training.distillation.core import Distillation, DistillationOptions, segmentation_of
from sdhubert_ray.training.distillation.head import Head, Teacher, reinitialise
from sdhubert_ray.training.distillation.loss import (
    CentredLoss,
    Sums,
    add_sums,
    most_information,
    sum_over_workers,
    sum_states,
    summarise,
)
from sdhubert_ray.training.distillation.norms import Norms, fit_norms, norms_of
from sdhubert_ray.training.distillation.objective import Distilled, Objective
from sdhubert_ray.training.distillation.segments import (
    SegmentDistillation,
    SegmentDistillationOptions,
    explained_share,
)

__all__ = [
    "CentredLoss",
    "Distillation",
    "DistillationOptions",
    "Distilled",
    "Head",
    "Norms",
    "Objective",
    "SegmentDistillation",
    "SegmentDistillationOptions",
    "Sums",
    "Teacher",
    "add_sums",
    "explained_share",
    "fit_norms",
    "most_information",
    "norms_of",
    "reinitialise",
    "segmentation_of",
    "sum_over_workers",
    "sum_states",
    "summarise",
]
