"""Evaluation against reference syllables: reading them, joining them to a segments table, scoring, and tables of it."""

from sdhubert_ray.evaluation.joining import (
    Joined,
    JoinOptions,
    Utterance,
    find_reference,
    find_rename,
    join,
    renamed,
)
from sdhubert_ray.evaluation.purity import evaluate_purity
from sdhubert_ray.evaluation.references import Reference, load_references
from sdhubert_ray.evaluation.scoring import evaluate_boundary, tune_on

__all__ = [
    "JoinOptions",
    "Joined",
    "Reference",
    "Utterance",
    "evaluate_boundary",
    "evaluate_purity",
    "find_reference",
    "find_rename",
    "join",
    "load_references",
    "renamed",
    "tune_on",
]
