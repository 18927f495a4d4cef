"""How well segments and units meet reference syllables: boundaries, tokens, purity, and their bootstrap intervals.

All figures are sums over utterances, so an utterance is a row of counts, and a resample is a weighting of the rows.
"""

from sdhubert_ray.metrics.abx import bootstrap_share, ssabx_margins
from sdhubert_ray.metrics.boundary import (
    SHIFTS,
    TOLERANCE,
    BoundaryCounts,
    BoundaryScores,
    best_shift,
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
from sdhubert_ray.metrics.findsylls import count_nuclei, count_spans
from sdhubert_ray.metrics.pairs import bootstrap_purity, match_segments, purity, syllable_information
from sdhubert_ray.metrics.rates import UnitRates, bootstrap_rates, unit_entropy, unit_rates
from sdhubert_ray.metrics.resampling import LEVEL, Interval
from sdhubert_ray.metrics.zerosyl import count_zerosyl, overlapped_syllables, speech_runs

__all__ = [
    "LEVEL",
    "SHIFTS",
    "TOLERANCE",
    "BoundaryCounts",
    "BoundaryScores",
    "Interval",
    "UnitRates",
    "best_shift",
    "bootstrap_boundaries",
    "bootstrap_purity",
    "bootstrap_rates",
    "bootstrap_share",
    "count_nuclei",
    "count_onsets_offsets",
    "count_sdhubert",
    "count_spans",
    "count_zerosyl",
    "match_boundaries",
    "match_segments",
    "onset_offset_boundaries",
    "overlapped_syllables",
    "pair_boundaries",
    "purity",
    "score_boundaries",
    "sdhubert_boundaries",
    "speech_runs",
    "ssabx_margins",
    "syllable_information",
    "tune_shift",
    "unit_entropy",
    "unit_rates",
]
