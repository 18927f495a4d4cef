"""Figures of units against reference syllables: purity and mutual information, by three ways to pair them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.joining import Joined, Utterance
from sdhubert_ray.evaluation.scoring import Bootstrap, Figure, by_groups, figure_of
from sdhubert_ray.metrics import bootstrap_purity, match_segments, overlapped_syllables, purity, syllable_information

Ints = npt.NDArray[np.int64]

_MAX_PAIRS = 100_000_000
"""Syllables times segments of one recording that purity takes, at 24 bytes each."""
_DIGITS = re.compile(r"\d")
_SILENCE = ""
"""The label of what is no syllable, as tiers of TextGrids write it."""


@dataclass(frozen=True)
class PurityResult:
    """Purity by a protocol.

    Attributes:
        utterances: evaluated.
        pairs: of a segment and a syllable, by `zerosyl` also of a segment and a silence.
        syllable_types: different labels among the pairs, digits removed but by `zerosyl`, which counts silence as one.
        unit_types: different units among them.
        unmatched_syllables: without a pair.
        unmatched_segments: without a pair.
        cluster_purity: share of pairs whose unit is their syllable's commonest.
        syllable_purity: share of pairs whose syllable is their unit's commonest.
        snmi: mutual information of syllable and unit / entropy of the syllables.
    """

    utterances: int
    pairs: int
    syllable_types: int
    unit_types: int
    unmatched_syllables: int
    unmatched_segments: int
    cluster_purity: Figure
    syllable_purity: Figure
    snmi: Figure


@dataclass(frozen=True)
class PurityReport:
    """By protocol, and by column, value and protocol."""

    protocols: dict[str, PurityResult]
    by: dict[str, dict[str, dict[str, PurityResult]]]


def evaluate_purity(joined: Joined, bootstrap: Bootstrap) -> PurityReport:
    """Compare units with syllables by all protocols.

    Raises:
        UserError: segments without units, or a recording too long for the assignment.
    """
    assigned = [_assign(one) for one in joined.utterances]
    protocols = {
        "sdhubert": _Pairs([both for both, _ in assigned]),
        "strict": _Pairs([strict for _, strict in assigned]),
        "zerosyl": _Pairs([_by_overlap(one) for one in joined.utterances]),
    }

    def result(chosen: Ints) -> dict[str, PurityResult]:
        return {protocol: pairs.result(chosen, bootstrap) for protocol, pairs in protocols.items()}

    return PurityReport(result(np.arange(len(joined.utterances))), by_groups(joined, result))


@dataclass(frozen=True)
class _Paired:
    """The pairs of an utterance.

    Attributes:
        labels: of the syllable of each.
        units: of the segment of each, (n,).
        alone: syllables and segments without a pair.
    """

    labels: Sequence[str]
    units: Ints
    alone: tuple[int, int]


def _assign(one: Utterance) -> tuple[_Paired, _Paired]:
    """Segments assigned to syllables: all pairs, and those that overlap."""
    units, labels = _units_of(one), [_DIGITS.sub("", label) for label in one.reference.labels]
    if len(units) * len(labels) > _MAX_PAIRS:
        raise UserError(
            f"{one.reference.file_name} has {len(units)} segments and {len(labels)} syllables, too many to be assigned "
            "at once; cut it into shorter recordings"
        )
    syllables, segments, overlap = match_segments(one.reference.syllables, one.segments)

    def paired(used: npt.NDArray[np.bool_]) -> _Paired:
        count = int(used.sum())
        named = [labels[row] for row in syllables[used]]
        return _Paired(named, units[segments[used]], (len(labels) - count, len(units) - count))

    return paired(np.ones(len(overlap), np.bool_)), paired(overlap > 0)


def _by_overlap(one: Utterance) -> _Paired:
    """Every segment with what it overlaps most, a syllable or a silence."""
    found = overlapped_syllables(one.reference.syllables, one.segments)
    labels = [_SILENCE if row < 0 else one.reference.labels[row] for row in found]
    return _Paired(labels, _units_of(one), (len(one.reference.labels) - len({*found.tolist()} - {-1}), 0))


def _units_of(one: Utterance) -> Ints:
    units = np.zeros(0, np.int64) if one.units is None else one.units.astype(np.int64)
    if len(units) != len(one.segments):
        raise UserError(
            f"segments of {one.reference.file_name} have no units; run `sdhubert tokenize` first, or name a --quantizer"
        )
    return units


class _Pairs:
    """The pairs of all utterances: numbers of label, unit and utterance."""

    def __init__(self, utterances: Sequence[_Paired]) -> None:
        labels = np.array([label for one in utterances for label in one.labels], np.str_)
        self._labels = np.unique(labels, return_inverse=True)[1]
        self._units = np.concatenate([np.zeros(0, np.int64), *(one.units for one in utterances)])
        self._utterances = np.repeat(np.arange(len(utterances)), [len(one.labels) for one in utterances])
        self._alone = np.array([one.alone for one in utterances], np.int64).reshape(-1, 2)

    def result(self, chosen: Ints, bootstrap: Bootstrap) -> PurityResult:
        """Figures of some utterances, by ascending number."""
        used = np.isin(self._utterances, chosen)
        labels, units = self._labels[used], self._units[used]
        utterances = np.searchsorted(chosen, self._utterances[used])
        values = (*(purity(labels, units) or (None, None)), syllable_information(labels, units))
        intervals = bootstrap_purity(labels, units, utterances, len(chosen), bootstrap.resamples, bootstrap.seed)
        return PurityResult(
            len(chosen),
            len(labels),
            len(np.unique(labels)),
            len(np.unique(units)),
            *self._alone[chosen].sum(axis=0).tolist(),
            *(figure_of(value, interval) for value, interval in zip(values, intervals, strict=True)),
        )
