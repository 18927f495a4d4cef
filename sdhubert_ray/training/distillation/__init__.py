"""Sentence-level self-distillation: a student learns from its own slow copy what a crop of speech is as a whole.

Rooms: `perturb` (masks and stretches of frames), `head` (projection head and teacher), `loss` (centred loss, sums over
all workers), `core` (a training step of them together).
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
from sdhubert_ray.training.distillation.perturb import (
    VIEWS,
    MaskOptions,
    Perturbation,
    PerturbationOptions,
    draw_perturbations,
    no_perturbation,
    perturb,
)

__all__ = [
    "VIEWS",
    "CentredLoss",
    "Distillation",
    "DistillationOptions",
    "Distilled",
    "Head",
    "MaskOptions",
    "Perturbation",
    "PerturbationOptions",
    "Sums",
    "Teacher",
    "add_sums",
    "draw_perturbations",
    "most_information",
    "no_perturbation",
    "perturb",
    "reinitialise",
    "sum_over_workers",
    "sum_states",
    "summarise",
]
