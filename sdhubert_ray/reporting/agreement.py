"""An output beside references: figures for all and by groups, the worst recordings, and what each of them misses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sdhubert_ray.evaluation import Joined, JoinOptions, Utterance, evaluate_boundary, join, load_references
from sdhubert_ray.evaluation.scoring import Bootstrap
from sdhubert_ray.metrics import (
    TOLERANCE,
    BoundaryCounts,
    onset_offset_boundaries,
    pair_boundaries,
    score_boundaries,
)
from sdhubert_ray.reporting.content import Cell, Table, Truth

_LENGTH = "length"
_LENGTHS = {"under 2 s": 2.0, "2 to 5 s": 5.0, "5 to 10 s": 10.0, "10 to 20 s": 20.0}
"""Recordings are grouped by these lengths: names, and the seconds under which they are."""
_LONGEST = "20 s and more"
_WORST = 50
_TITLES = {
    "precision": "precision %",
    "recall": "recall %",
    "f1": "F1 %",
    "r_value": "R-value %",
    "over_segmentation": "over-segmentation %",
    "cluster_purity": "cluster purity %",
    "syllable_purity": "syllable purity %",
    "snmi": "SNMI %",
}
_OF_GROUPS = ("f1", "r_value", "cluster_purity", "syllable_purity")
_FOUND = (
    "zerosyl: within runs of speech, both ends right; findsylls spans: assigned by intersection over union, both ends "
    "right; findsylls nuclei: vowels with the middle of a segment."
)
_MARKED = (
    "onsets_offsets: unique starts and ends of both, nearer than {tolerance:.0f} ms, not shifted; this is what is "
    "marked below the spectrogram."
)


@dataclass(frozen=True)
class References:
    """Where references are, and how they meet recordings.

    Attributes:
        uri: as `load_references` takes it.
        tier: of TextGrids, or None.
        rename: as `JoinOptions.rename`.
        by: columns of the table to group by.
        shift: seconds that protocol `sdhubert` adds to the reference.
        zerosyl_shift: seconds that protocol `zerosyl` adds to the reference.
        tolerance: seconds within which boundaries match.
    """

    uri: str
    tier: str | None = None
    rename: tuple[str, str] = ("", "")
    by: tuple[str, ...] = ()
    shift: float = 0.0
    tolerance: float = TOLERANCE
    zerosyl_shift: float = 0.0


@dataclass(frozen=True)
class Agreement:
    """What came of it.

    Attributes:
        tables: for all, by groups, and the worst recordings first.
        worst: the ids of these.
        utterances: by id of the recording.
        tolerance: seconds within which boundaries match.
        notes: what is missing.
    """

    tables: list[Table] = field(default_factory=list)
    worst: list[str] = field(default_factory=list)
    utterances: Mapping[str, Utterance] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    notes: list[str] = field(default_factory=list)

    def truth_of(self, recording: str, offset: float, shown: float) -> Truth | None:
        """The reference of a recording, of what is shown of it: `shown` seconds from `offset` on."""
        utterance = self.utterances.get(recording)
        if utterance is None:
            return None
        marks = _Marks(utterance, self.tolerance)
        begin, end = offset * 1000, (offset + shown) * 1000
        syllables = np.rint(utterance.reference.syllables * 1000 - begin).astype(int)
        there = (syllables[:, 1] > 0) & (syllables[:, 0] < end - begin)
        labels = [label for label, kept in zip(utterance.reference.labels, there, strict=True) if kept]
        return Truth(
            times=syllables[there].ravel().tolist(),
            labels=labels,
            missed=[round(time - begin) for time in marks.missed if begin <= time <= end],
            extra=[round(time - begin) for time in marks.extra if begin <= time <= end],
            f1=round(100 * marks.scores.f1, 1),
        )


def _rows(results: Mapping[str, Any], names: Sequence[str]) -> list[list[Cell]]:
    return [[_TITLES[name], *(_told(one[name]) for one in results.values())] for name in names]


def _shifted(shift: float) -> str:
    return f", shifted by {1000 * shift:+.0f} ms" if shift else ""


def compare(output: str, references: References) -> Agreement:
    """Join references to an output and score it. References without a recording are left out, and told.

    Raises:
        UserError: as `load_references` and `join`.
    """
    options = JoinOptions("skip", references.by, references.rename)
    joined = join(load_references(references.uri, references.tier), output, options)
    shifts = references.shift, references.zerosyl_shift
    report = evaluate_boundary(_with_lengths(joined), shifts[0], Bootstrap(), references.tolerance, shifts[1])
    scored = sorted(_scored(joined, references.tolerance), key=lambda row: (row[1], str(row[0])))
    columns = ("recording", "F1 %", "recall %", "precision %", "missed", "extra", "seconds")
    worst = scored[:_WORST]
    tables = list(figure_tables(asdict(report), *shifts))
    marked = _MARKED.format(tolerance=1000 * references.tolerance)
    tables.append(Table("Worst recordings first", columns, worst, marked, links=True))
    notes = []
    if joined.missing:
        notes.append(
            f"References without a recording are left out: {len(joined.missing)}, such as {joined.missing[0]}."
        )
    utterances = {one.recording: one for one in joined.utterances}
    return Agreement(tables, [str(row[0]) for row in worst], utterances, references.tolerance, notes)


def figure_tables(figures: Mapping[str, Any], shift: float, zerosyl_shift: float = 0.0) -> Iterator[Table]:
    """Tables of a boundary or purity report, as `asdict` or the JSON of `sdhubert evaluate` has it.

    One of all, with 95 % intervals, one of whole syllables where they are counted, and one for each column that it is
    grouped by, the worst group first.
    """
    protocols = figures["protocols"]
    names = [name for name in _TITLES if name in next(iter(protocols.values()))]
    shifts = {"sdhubert": shift, "zerosyl": zerosyl_shift}
    size = next(iter(protocols.values()))["utterances"]
    note = f"{size} recordings with a reference; in brackets 95 % of resamples over recordings."
    what = "Boundaries" if "f1" in names else "Purity"
    heads = [f"protocol {name}{_shifted(shifts.get(name, 0.0))}" for name in protocols]
    yield Table(what, ["", *heads], _rows(protocols, names), note)
    syllables = figures.get("syllables")
    if syllables:
        found = [name for name in _TITLES if name in next(iter(syllables.values()))]
        heads = [name.replace("_", " ") for name in syllables]
        yield Table("Syllables", ["", *heads], _rows(syllables, found), _FOUND)
    for column, groups in figures.get("by", {}).items():
        chosen = [(protocol, name) for protocol in protocols for name in _OF_GROUPS if name in names]
        headings = [column, "recordings", *(f"{_TITLES[name]}, {protocol}" for protocol, name in chosen)]
        lines: list[list[Cell]] = []
        for value, of_group in groups.items():
            count = next(iter(of_group.values()))["utterances"]
            lines.append([value, count, *(_percent(of_group[protocol][name]["value"]) for protocol, name in chosen)])
        if column == _LENGTH:
            lines.sort(key=lambda line: [*_LENGTHS, _LONGEST].index(str(line[0])))
        else:
            lines.sort(key=lambda line: line[2] if isinstance(line[2], float) else -1.0)
        yield Table(f"By {column}", headings, lines)


def _with_lengths(joined: Joined) -> Joined:
    """Grouped by length, too."""
    utterances = tuple(replace(one, groups=(*one.groups, _length_of(one.duration))) for one in joined.utterances)
    return replace(joined, by=(*joined.by, _LENGTH), utterances=utterances)


def _length_of(seconds: float) -> str:
    return next((name for name, end in _LENGTHS.items() if seconds < end), _LONGEST)


class _Marks:
    """Boundaries of the reference and of the prediction that have no partner, ms of the file, and figures of all."""

    def __init__(self, one: Utterance, tolerance: float) -> None:
        reference, predicted = onset_offset_boundaries(one.reference.syllables, one.segments)
        pairs = pair_boundaries(reference, predicted, tolerance * 1000, strict=True)
        found, right = ({pair[side] for pair in pairs} for side in (0, 1))
        self.missed = [time for number, time in enumerate(reference.tolist()) if number not in found]
        self.extra = [time for number, time in enumerate(predicted.tolist()) if number not in right]
        self.scores = score_boundaries(BoundaryCounts(len(pairs), len(reference), len(predicted)))


def _scored(joined: Joined, tolerance: float) -> Iterator[list[Cell]]:
    for one in joined.utterances:
        marks = _Marks(one, tolerance)
        figures = [_percent(value) for value in (marks.scores.f1, marks.scores.recall, marks.scores.precision)]
        yield [one.recording, *figures, len(marks.missed), len(marks.extra), round(one.duration, 2)]


def _told(figure: Mapping[str, float | None]) -> str:
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})")


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)
