"""Figures of segments against reference syllables, with bootstrap intervals, for all and by groups; rates of units.

Everything here is plain dataclasses of numbers: `dataclasses.asdict` of a report is what JSON gets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.joining import Joined
from sdhubert_ray.metrics import (
    TOLERANCE,
    BoundaryCounts,
    BoundaryScores,
    Interval,
    best_shift,
    bootstrap_boundaries,
    bootstrap_rates,
    count_nuclei,
    count_onsets_offsets,
    count_sdhubert,
    count_spans,
    count_zerosyl,
    score_boundaries,
    tune_shift,
    unit_entropy,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Ends = tuple[float | None, float | None]
T = TypeVar("T")


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
    """Seconds added to the reference by the protocols `sdhubert` and `zerosyl`, each of which has its own.

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
        hertz_interval: its bootstrap 95 % interval.
        units_in_use: different units, or None without units.
        num_units: of the quantizer, where it is known.
        bits_per_second: hertz x log2(num_units, or units in use where that is not known).
        entropy_bits_per_second: hertz x entropy of the units in use, from their counts; what ZeroSyl calls bitrate.
        entropy_interval: its bootstrap 95 % interval, moved to have it as mean, as that of purity.
    """

    segments: int
    seconds: float
    hertz: float | None
    hertz_interval: Ends = (None, None)
    units_in_use: int | None = None
    num_units: int | None = None
    bits_per_second: float | None = None
    entropy_bits_per_second: float | None = None
    entropy_interval: Ends = (None, None)


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
class SyllableResult:
    """Syllables found, not boundaries: counts summed over utterances, and as `BoundaryScores`."""

    utterances: int
    matched: int
    reference: int
    predicted: int
    precision: Figure
    recall: Figure
    f1: Figure


@dataclass(frozen=True)
class BoundaryReport:
    """What segments find.

    Attributes:
        protocols: boundaries, by protocol.
        by: the same by column, value and protocol.
        syllables: `zerosyl_tokens`, `findsylls_spans`, and where vowels are known `findsylls_nuclei`.
        syllables_by: the same by column, value and count.
    """

    protocols: dict[str, BoundaryResult]
    by: dict[str, dict[str, dict[str, BoundaryResult]]]
    syllables: dict[str, SyllableResult]
    syllables_by: dict[str, dict[str, dict[str, SyllableResult]]]


def tune_on(joined: Joined, references: str, tolerance: float = TOLERANCE) -> tuple[Shift, Shift]:
    """Choose the shifts of `sdhubert` and `zerosyl` on validation data, for matches within `tolerance` seconds.

    Where no boundary within a run of speech is matched at any shift, that of `zerosyl` is not tuned.

    Raises:
        UserError: no boundary is matched at any shift by `sdhubert`.
    """
    pairs = _pairs(joined)
    best = tune_shift(pairs, tolerance)
    if best is None:
        raise UserError(f"no boundary of {references} is matched at any shift; are these the recordings that it is of?")

    def count(shift: float) -> BoundaryCounts:
        rows = _as_rows([count_zerosyl(*pair, _in_milliseconds(shift), tolerance)[0] for pair in pairs])
        return BoundaryCounts(*rows.sum(axis=0).tolist())

    def tuned(seconds: float, r_value: float) -> Shift:
        return Shift(seconds, "tuned", references, len(pairs), r_value)

    within = best_shift(count)
    return tuned(*best), Shift() if within is None else tuned(_in_milliseconds(within[0]), within[1])


def evaluate_boundary(
    joined: Joined, shift: float, bootstrap: Bootstrap, tolerance: float = TOLERANCE, zerosyl_shift: float = 0.0
) -> BoundaryReport:
    """Compare boundaries and syllables by all protocols.

    Args:
        joined: what is evaluated.
        shift: of `sdhubert`, seconds added to the reference.
        bootstrap: of the intervals.
        tolerance: seconds within which a pair matches.
        zerosyl_shift: of `zerosyl`, seconds added to the reference.
    """
    pairs = _pairs(joined)
    within = [count_zerosyl(*pair, zerosyl_shift, tolerance) for pair in pairs]
    counts = {
        "sdhubert": _as_rows([count_sdhubert(*pair, shift, tolerance) for pair in pairs]),
        "onsets_offsets": _as_rows([count_onsets_offsets(*pair, tolerance) for pair in pairs]),
        "zerosyl": _as_rows([boundaries for boundaries, _ in within]),
    }
    tokens = {
        "zerosyl_tokens": _as_rows([tokens for _, tokens in within]),
        "findsylls_spans": _as_rows([count_spans(*pair, tolerance) for pair in pairs]),
    }
    voiced = [(one.reference.nuclei, one.segments) for one in joined.utterances]
    nuclei = _as_rows(
        [BoundaryCounts(0, 0, 0) if one is None else count_nuclei(one, found, tolerance) for one, found in voiced]
    )
    known = np.array([one is not None for one, _ in voiced], np.bool_)

    def boundaries(chosen: Ints) -> dict[str, BoundaryResult]:
        return {protocol: _boundary_result(rows[chosen], bootstrap) for protocol, rows in counts.items()}

    def syllables(chosen: Ints) -> dict[str, SyllableResult]:
        results = {name: _syllable_result(rows[chosen], bootstrap) for name, rows in tokens.items()}
        told = chosen[known[chosen]]
        return results | ({"findsylls_nuclei": _syllable_result(nuclei[told], bootstrap)} if len(told) else {})

    all_of_them = np.arange(len(pairs))
    return BoundaryReport(
        boundaries(all_of_them), by_groups(joined, boundaries), syllables(all_of_them), by_groups(joined, syllables)
    )


def measure_rate(joined: Joined, bootstrap: Bootstrap, num_units: int | None = None) -> TokenRate:
    """Tell the token rate and, with units, the bitrate; recordings that are missing count in neither sum.

    Args:
        joined: what is evaluated.
        bootstrap: of the intervals.
        num_units: of the quantizer, if it is known.
    """
    here = [one for one in joined.utterances if one.duration]
    sizes = [len(one.segments) for one in here]
    segments, seconds = sum(sizes), sum(one.duration for one in here)
    hertz = segments / seconds if seconds else None
    units = [one.units for one in here if one.units is not None and len(one.segments)]
    told = hertz is not None and bool(units) and sum(map(len, units)) == segments
    # Without units all segments are of one.
    names, columns = np.unique(np.concatenate(units) if told else np.zeros(segments), return_inverse=True)
    rows = np.repeat(np.arange(len(here)), sizes)
    counts = csr_array((np.ones(segments, np.int64), (rows, columns)), shape=(len(here), len(names)))
    durations = np.array([one.duration for one in here])
    intervals = bootstrap_rates(counts, durations, bootstrap.resamples, bootstrap.seed)
    rate = figure_of(hertz, intervals[0])
    if hertz is None or not told:
        return TokenRate(segments, seconds, hertz, (rate.low, rate.high))
    of_units = np.asarray(counts.sum(axis=0)).ravel()
    bits, entropy = hertz * float(np.log2(num_units or len(names))), hertz * unit_entropy(of_units)
    between = (intervals[1].low, intervals[1].high)
    return TokenRate(segments, seconds, hertz, (rate.low, rate.high), len(names), num_units, bits, entropy, between)


def _pairs(joined: Joined) -> list[tuple[Floats, Floats]]:
    return [(one.reference.syllables, one.segments) for one in joined.utterances]


def _in_milliseconds(shift: float) -> float:
    """A shift as it is written: what times in two decimals round to would depend on its last bits."""
    return round(shift, 3)


def _as_rows(counts: Sequence[BoundaryCounts]) -> Ints:
    return np.array([(one.matched, one.reference, one.predicted) for one in counts], np.int64).reshape(-1, 3)


def _boundary_result(rows: Ints, bootstrap: Bootstrap) -> BoundaryResult:
    counts = BoundaryCounts(*rows.sum(axis=0).tolist())
    scores = score_boundaries(counts)
    intervals = bootstrap_boundaries(rows, bootstrap.resamples, bootstrap.seed)
    names = [field.name for field in fields(BoundaryScores)]
    figures = [figure_of(getattr(scores, name), intervals[name]) for name in names]
    return BoundaryResult(len(rows), counts.matched, counts.reference, counts.predicted, *figures)


def _syllable_result(rows: Ints, bootstrap: Bootstrap) -> SyllableResult:
    result = _boundary_result(rows, bootstrap)
    return SyllableResult(**{field.name: getattr(result, field.name) for field in fields(SyllableResult)})


def by_groups(joined: Joined, result: Callable[[Ints], T]) -> dict[str, dict[str, T]]:
    """The result of each value of each column, the values sorted."""
    by: dict[str, dict[str, T]] = {}
    for place, column in enumerate(joined.by):
        values = np.array([one.groups[place] for one in joined.utterances])
        by[column] = {value: result(np.flatnonzero(values == value)) for value in sorted({*values.tolist()})}
    return by


def figure_of(value: float | None, interval: Interval) -> Figure:
    """A figure and its interval; without a figure there is none."""
    return Figure(value, interval.low, interval.high) if value is not None else Figure(None, None, None)
