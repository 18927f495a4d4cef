"""What a page shows: plain values, which JSON takes as they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | float | int | None


@dataclass(frozen=True)
class Tile:
    """A figure that stands out.

    Attributes:
        name: what it is.
        value: the figure, as it is shown.
        note: a few words below it.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Histogram:
    """How often values lie between `edges[i]` and `edges[i + 1]`.

    Attributes:
        title: of what.
        unit: of the edges.
        edges: (n + 1,) ascending.
        counts: (n,).
        beyond: values over the last edge.
        middle: the median, in the unit of the edges; None where there are no values.
    """

    title: str
    unit: str
    edges: Sequence[float]
    counts: Sequence[int]
    beyond: int
    middle: float | None


@dataclass(frozen=True)
class UnitCounts:
    """How units are used.

    Attributes:
        num_units: of the quantizer, or those in use where that is not known.
        perplexity: 2 to the entropy of their frequencies.
        counts: (unit, how often), the commonest first, of those in use.
    """

    num_units: int
    perplexity: float
    counts: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Curves:
    """Values over the steps of a training.

    Attributes:
        title: of what.
        names: of the curves, as metrics.csv has them.
        points: of each curve (steps, values).
    """

    title: str
    names: Sequence[str]
    points: Sequence[tuple[Sequence[int], Sequence[float]]]


@dataclass(frozen=True)
class Table:
    """Figures in rows. Percentages are numbers, so that a page can sort by them.

    Attributes:
        title: of what.
        columns: their headings; the first is what a row is of.
        rows: as many cells each.
        note: a sentence below it.
        links: the first cell is the id of a recording.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    links: bool = False


@dataclass(frozen=True)
class Truth:
    """Reference syllables of a recording; times in ms from where its sound begins.

    Attributes:
        times: start and end of each, (2 R,).
        labels: (R,).
        missed: reference boundaries that no prediction is near.
        extra: predicted boundaries that no reference is near.
        f1: of boundaries, percent; None where none are compared here.
    """

    times: Sequence[int]
    labels: Sequence[str]
    missed: Sequence[int]
    extra: Sequence[int]
    f1: float | None


@dataclass(frozen=True)
class Lane:
    """What a system finds in a recording, to be seen beside others; times in ms from where its sound begins.

    Attributes:
        name: of the system.
        times: start and end of each syllable, (2 S,).
        extra: boundaries that no reference is near.
        f1: of boundaries, percent.
    """

    name: str
    times: Sequence[int]
    extra: Sequence[int]
    f1: float | None


@dataclass(frozen=True)
class Shown:
    """A recording to look at and listen to; times in ms from where its sound begins.

    Attributes:
        id: as in the table.
        status: one of `tables.STATUSES`.
        error: why it is not ok, or None.
        seconds: how long it is.
        offset: where its sound begins, seconds of the file.
        shown: how much of it is shown, seconds.
        num_syllables: in all of it.
        times: start and end of each syllable that is shown, (2 S,).
        units: (S,), or None without a quantizer.
        truth: its reference, or None.
        silence: why there is no sound, or None where there is.
        lanes: of a comparison, what each system finds.
    """

    id: str
    status: str
    error: str | None
    seconds: float
    offset: float
    shown: float
    num_syllables: int
    times: Sequence[int]
    units: Sequence[int] | None
    truth: Truth | None
    silence: str | None
    lanes: Sequence[Lane] = ()


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        kind: `run`, `training`, `figures` or `comparison`.
        title: what it is of.
        place: where that is.
        about: (name, text), a line each.
        notes: sentences that a reader has to know first.
        tiles: the figures that stand out.
        statuses: (status, recordings).
        reasons: (rows, status, why) of what failed, the commonest first.
        failures: (id, status, error) of recordings that failed, the first thousand.
        histograms: of recordings and syllables.
        units: how they are used, or None.
        times: (title, (name, seconds) of each part) of where the time went.
        tables: of an evaluation.
        curves: of a training.
        alarms: first and last step of each collapse.
        best_step: of the best checkpoint, or None.
        settings: (key, value) of the configuration.
        recordings: a sample.
        sounds: Ogg Opus of each of `recordings`, or None; not among the values.
    """

    kind: str
    title: str
    place: str
    about: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    statuses: Sequence[tuple[str, int]] = ()
    reasons: Sequence[tuple[int, str, str]] = ()
    failures: Sequence[tuple[str, str, str]] = ()
    histograms: Sequence[Histogram] = ()
    units: UnitCounts | None = None
    times: Sequence[tuple[str, Sequence[tuple[str, float]]]] = ()
    tables: Sequence[Table] = ()
    curves: Sequence[Curves] = ()
    alarms: Sequence[tuple[int, int]] = ()
    best_step: int | None = None
    settings: Sequence[tuple[str, str]] = ()
    recordings: Sequence[Shown] = ()
    sounds: Sequence[bytes | None] = field(default=(), repr=False)
