"""Figures of segments and units against reference syllables, with bootstrap intervals, for all and by groups.

Everything here is plain dataclasses of numbers: `dataclasses.asdict` of a report is what JSON gets.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.joining import Joined, Utterance
from sdhubert_ray.metrics import (
    TOLERANCE,
    BoundaryCounts,
    BoundaryScores,
    Interval,
    bootstrap_boundaries,
    bootstrap_purity,
    count_onsets_offsets,
    count_sdhubert,
    match_segments,
    purity,
    score_boundaries,
    tune_shift,
    unit_entropy,
)

Ints = npt.NDArray[np.int64]
T = TypeVar("T")

_MAX_PAIRS = 100_000_000
"""Syllables times segments of one recording that purity takes, at 24 bytes each."""
_DIGITS = re.compile(r"\d")


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: utterances are drawn anew `resamples` times, from this seed; 0 gives no intervals."""

    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Figure:
    """A figure and its bootstrap 95 % interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Shift:
    """Seconds added to the reference by the protocol `sdhubert`.

    Attributes:
        seconds: how many.
        source: `tuned`, `given` or `not tuned`.
        tuned_on: the references that it was chosen on.
        utterances: how many of them.
        r_value: theirs at this shift.
    """

    seconds: float = 0.0
    source: str = "not tuned"
    tuned_on: str | None = None
    utterances: int = 0
    r_value: float | None = None


@dataclass(frozen=True)
class TokenRate:
    """How much the segments, or their units, say.

    Attributes:
        segments: predicted.
        seconds: of audio of the utterances evaluated, pauses included.
        hertz: segments / seconds.
        units_in_use: different units, or None without units.
        num_units: of the quantizer, where it is known.
        bits_per_second: hertz x log2(num_units, or units in use where that is not known).
        entropy_bits_per_second: hertz x entropy of the units in use, from their counts.
    """

    segments: int
    seconds: float
    hertz: float | None
    units_in_use: int | None = None
    num_units: int | None = None
    bits_per_second: float | None = None
    entropy_bits_per_second: float | None = None


@dataclass(frozen=True)
class BoundaryResult:
    """Boundary detection by a protocol: counts summed over utterances, and `BoundaryScores`."""

    utterances: int
    matched: int
    reference: int
    predicted: int
    precision: Figure
    recall: Figure
    f1: Figure
    over_segmentation: Figure
    r_value: Figure
    r1: Figure
    r2: Figure


@dataclass(frozen=True)
class BoundaryReport:
    """By protocol, and by column, value and protocol."""

    protocols: dict[str, BoundaryResult]
    by: dict[str, dict[str, dict[str, BoundaryResult]]]


@dataclass(frozen=True)
class PurityResult:
    """Purity by a protocol.

    Attributes:
        utterances: evaluated.
        pairs: of a segment and a syllable.
        syllable_types: different labels among the pairs, digits removed.
        unit_types: different units among them.
        unmatched_syllables: without a pair.
        unmatched_segments: without a pair.
        cluster_purity: share of pairs whose unit is their syllable's commonest.
        syllable_purity: share of pairs whose syllable is their unit's commonest.
    """

    utterances: int
    pairs: int
    syllable_types: int
    unit_types: int
    unmatched_syllables: int
    unmatched_segments: int
    cluster_purity: Figure
    syllable_purity: Figure


@dataclass(frozen=True)
class PurityReport:
    """By protocol, and by column, value and protocol."""

    protocols: dict[str, PurityResult]
    by: dict[str, dict[str, dict[str, PurityResult]]]


def tune_on(joined: Joined, references: str, tolerance: float = TOLERANCE) -> Shift:
    """Choose the shift on validation data, for matches within `tolerance` seconds.

    Raises:
        UserError: no boundary is matched at any shift.
    """
    best = tune_shift([(one.reference.syllables, one.segments) for one in joined.utterances], tolerance)
    if best is None:
        raise UserError(f"no boundary of {references} is matched at any shift; are these the recordings that it is of?")
    return Shift(best[0], "tuned", references, len(joined.utterances), best[1])


def evaluate_boundary(
    joined: Joined, shift: float, bootstrap: Bootstrap, tolerance: float = TOLERANCE
) -> BoundaryReport:
    """Compare boundaries by both protocols, within `tolerance` seconds; the shift is of `sdhubert` only."""
    pairs = [(one.reference.syllables, one.segments) for one in joined.utterances]
    counts = {
        "sdhubert": _as_rows([count_sdhubert(*pair, shift, tolerance) for pair in pairs]),
        "onsets_offsets": _as_rows([count_onsets_offsets(*pair, tolerance) for pair in pairs]),
    }

    def result(chosen: Ints) -> dict[str, BoundaryResult]:
        return {protocol: _boundary_result(rows[chosen], bootstrap) for protocol, rows in counts.items()}

    return BoundaryReport(result(np.arange(len(pairs))), _by_groups(joined, result))


def evaluate_purity(joined: Joined, bootstrap: Bootstrap) -> PurityReport:
    """Compare units with syllables by both protocols.

    Raises:
        UserError: segments without units, or a recording too long for the assignment.
    """
    pairs = _Pairs(joined.utterances)

    def result(chosen: Ints) -> dict[str, PurityResult]:
        return {
            "sdhubert": pairs.result(chosen, bootstrap, strict=False),
            "strict": pairs.result(chosen, bootstrap, strict=True),
        }

    return PurityReport(result(np.arange(len(joined.utterances))), _by_groups(joined, result))


def measure_rate(joined: Joined, num_units: int | None = None) -> TokenRate:
    """Tell the token rate and, with units, the bitrate; recordings that are missing count in neither sum.

    Args:
        joined: what is evaluated.
        num_units: of the quantizer, if it is known.
    """
    here = [one for one in joined.utterances if one.duration]
    segments, seconds = sum(len(one.segments) for one in here), sum(one.duration for one in here)
    hertz = segments / seconds if seconds else None
    units = [one.units for one in here if one.units is not None and len(one.segments)]
    if hertz is None or not units or sum(map(len, units)) != segments:
        return TokenRate(segments, seconds, hertz)
    counts = np.unique(np.concatenate(units), return_counts=True)[1]
    bits = hertz * float(np.log2(num_units or len(counts)))
    return TokenRate(segments, seconds, hertz, len(counts), num_units, bits, hertz * unit_entropy(counts))


class _Pairs:
    """Pairs of a segment and a syllable, of all utterances: numbers of label, unit and utterance, and overlap."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        names: dict[str, int] = {}
        parts: list[tuple[Ints, Ints, Ints, npt.NDArray[np.float64]]] = []
        self._sizes = np.array([(len(one.reference.labels), len(one.segments)) for one in utterances]).reshape(-1, 2)
        for number, one in enumerate(utterances):
            name = one.reference.file_name
            units = np.zeros(0, np.int32) if one.units is None else one.units
            if len(units) != len(one.segments):
                raise UserError(
                    f"segments of {name} have no units; run `sdhubert tokenize` first, or name a --quantizer"
                )
            if len(one.segments) * len(one.reference.labels) > _MAX_PAIRS:
                raise UserError(
                    f"{name} has {len(one.segments)} segments and {len(one.reference.labels)} syllables, too many "
                    "to be assigned at once; cut it into shorter recordings"
                )
            syllables, segments, overlap = match_segments(one.reference.syllables, one.segments)
            labels = [_DIGITS.sub("", one.reference.labels[row]) for row in syllables]
            numbers = np.array([names.setdefault(label, len(names)) for label in labels], np.int64)
            parts.append((numbers, units[segments].astype(np.int64), np.full(len(numbers), number), overlap))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        self._labels, self._units, self._utterances, self._overlap = columns

    def result(self, chosen: Ints, bootstrap: Bootstrap, *, strict: bool) -> PurityResult:
        """Figures of some utterances, by ascending number."""
        used = np.isin(self._utterances, chosen)
        if strict:
            used &= self._overlap > 0
        labels, units = self._labels[used], self._units[used]
        utterances = np.searchsorted(chosen, self._utterances[used])
        values = purity(labels, units) or (None, None)
        intervals = bootstrap_purity(labels, units, utterances, len(chosen), bootstrap.resamples, bootstrap.seed)
        syllables, segments = self._sizes[chosen].sum(axis=0).tolist()
        return PurityResult(
            len(chosen),
            len(labels),
            len(np.unique(labels)),
            len(np.unique(units)),
            syllables - len(labels),
            segments - len(labels),
            *(_figure(value, interval) for value, interval in zip(values, intervals, strict=True)),
        )


def _as_rows(counts: Sequence[BoundaryCounts]) -> Ints:
    return np.array([(one.matched, one.reference, one.predicted) for one in counts], np.int64).reshape(-1, 3)


def _boundary_result(rows: Ints, bootstrap: Bootstrap) -> BoundaryResult:
    counts = BoundaryCounts(*rows.sum(axis=0).tolist())
    scores = score_boundaries(counts)
    intervals = bootstrap_boundaries(rows, bootstrap.resamples, bootstrap.seed)
    names = [field.name for field in fields(BoundaryScores)]
    figures = [_figure(getattr(scores, name), intervals[name]) for name in names]
    return BoundaryResult(len(rows), counts.matched, counts.reference, counts.predicted, *figures)


def _by_groups(joined: Joined, result: Callable[[Ints], T]) -> dict[str, dict[str, T]]:
    """The result of each value of each column, the values sorted."""
    by: dict[str, dict[str, T]] = {}
    for place, column in enumerate(joined.by):
        values = np.array([one.groups[place] for one in joined.utterances])
        by[column] = {value: result(np.flatnonzero(values == value)) for value in sorted({*values.tolist()})}
    return by


def _figure(value: float | None, interval: Interval) -> Figure:
    return Figure(value, interval.low, interval.high) if value is not None else Figure(None, None, None)
