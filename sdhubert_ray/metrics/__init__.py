"""How well segments and units meet reference syllables: boundaries, purity, and their bootstrap intervals.

All figures are sums over utterances, so an utterance is a row of counts, and a resample is a weighting of the rows.
"""

from sdhubert_ray.metrics.abx import bootstrap_share, ssabx_margins
from sdhubert_ray.metrics.boundary import (
    SHIFTS,
    TOLERANCE,
    BoundaryCounts,
    BoundaryScores,
    bootstrap_boundaries,
    count_onsets_offsets,
    count_sdhubert,
    match_boundaries,
    onset_offset_boundaries,
    pair_boundaries,
    score_boundaries,
    sdhubert_boundaries,
    tune_shift,
)
from sdhubert_ray.metrics.pairs import bootstrap_purity, match_segments, purity
from sdhubert_ray.metrics.rates import UnitRates, unit_entropy, unit_rates
from sdhubert_ray.metrics.resampling import LEVEL, Interval

__all__ = [
    "LEVEL",
    "SHIFTS",
    "TOLERANCE",
    "BoundaryCounts",
    "BoundaryScores",
    "Interval",
    "UnitRates",
    "bootstrap_boundaries",
    "bootstrap_purity",
    "bootstrap_share",
    "count_onsets_offsets",
    "count_sdhubert",
    "match_boundaries",
    "match_segments",
    "onset_offset_boundaries",
    "pair_boundaries",
    "purity",
    "score_boundaries",
    "sdhubert_boundaries",
    "ssabx_margins",
    "tune_shift",
    "unit_entropy",
    "unit_rates",
]
