"""Sentence-level self-distillation: a student learns from its own slow copy what a crop of speech is as a whole.

Rooms: `head` (projection head and teacher), `loss` (centred loss, sums over all workers), `core` (a training step of
them together).
"""

from sdhubert_ray.training.distillation.core import Distillation, DistillationOptions, Distilled
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

__all__ = [
    "CentredLoss",
    "Distillation",
    "DistillationOptions",
    "Distilled",
    "Head",
    "Sums",
    "Teacher",
    "add_sums",
    "most_information",
    "reinitialise",
    "sum_over_workers",
    "sum_states",
    "summarise",
]
