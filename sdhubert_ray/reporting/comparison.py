"""The page of a comparison: figures of all systems, and the same recordings by each of them on one axis of time."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sdhubert_ray import storage
from sdhubert_ray.comparing.comparison import Comparison
from sdhubert_ray.comparing.scoring import SystemFigures
from sdhubert_ray.comparing.systems import Contender
from sdhubert_ray.comparing.tables import MARK, figure_rows, published_rows
from sdhubert_ray.corpus.selection import digests_of
from sdhubert_ray.evaluation import Joined
from sdhubert_ray.output import FileResult, join_pieces, read_files, require_contents
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.reporting.agreement import Agreement
from sdhubert_ray.reporting.content import Lane, Page, Shown, Table, Truth
from sdhubert_ray.reporting.sound import EXCERPT_SECONDS, Sound, read_sounds

_COLUMNS = ("id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units")
_INTERVALS = (
    "{count} recordings with a reference, the same for all; in brackets 95 % of resamples over recordings. Real-time "
    "factor: seconds on the clock for a second of audio, decoding included, loading not. Memory: the most that the "
    "process of the system has held."
)


def comparison_page(
    comparison: Comparison,
    systems: Sequence[SystemFigures],
    joined: Sequence[Joined],
    sample: int,
    advance: Callable[[], None],
) -> Page:
    """The content of the page.

    Args:
        comparison: what was asked for.
        systems: the figures of each.
        joined: its recordings with their references.
        sample: recordings to look at and listen to: those whose ids have the smallest digests.
        advance: called for each of these.

    Raises:
        UserError: an output cannot be read.
    """
    options = comparison.options
    ids = [one.recording for one in joined[0].utterances if one.recording]
    chosen = [ids[number] for number in np.argsort(digests_of(ids), kind="stable")[:sample]] if ids else []
    output = comparison.segments_of(comparison.systems[0])
    results = _read(output, chosen)
    sounds = read_sounds(require_contents(output), output, results, advance)
    agreements = [
        (one.system, Agreement(utterances={utterance.recording: utterance for utterance in some.utterances}))
        for one, some in zip(systems, joined, strict=True)
    ]
    notes = [note for one in systems for note in one.notes]
    if options.tune is None:
        notes.append("NOT TUNED: the shifts are 0; references of validation recordings would choose them (--tune).")
    if len(chosen) < len(ids):
        notes.append(f"{len(chosen):,} of {len(ids):,} recordings are here to listen to; figures are of all.")
    headings, published = published_rows()
    rows = [[", ".join(filter(None, (name, protocol))), *cells] for name, protocol, *cells in figure_rows(systems)]
    titles = [one.system.title for one in systems]
    note = _INTERVALS.format(count=systems[0].utterances)
    return Page(
        kind="comparison",
        title=", ".join(titles),
        place=storage.absolute(options.output),
        about=list(_about(comparison)),
        notes=notes,
        tables=[
            Table("Systems compared", ["figure, protocol", *titles], rows, note),
            Table("Published figures", headings, published, MARK),
        ],
        recordings=[_show(result, sound, agreements) for result, sound in zip(results, sounds, strict=True)],
        sounds=[sound.data for sound in sounds],
    )


def _about(comparison: Comparison) -> list[tuple[str, str]]:
    options = comparison.options
    told = {
        "input": ", ".join(options.inputs),
        "references": options.references,
        "shifts tuned on": options.tune,
        "units made of": options.train or "the input",
        "triplets": options.triplets,
    }
    systems = [(one.title, one.name + (f" = {one.checkpoint}" if one.checkpoint else "")) for one in comparison.systems]
    digests = [(f"sha256 of {title}", weights.sha256) for title, weights in comparison.weights.items()]
    return [*((name, value) for name, value in told.items() if value is not None), *systems, *digests]


def _read(output: str, ids: Sequence[str]) -> list[FileResult]:
    """The recordings of these ids, in the order of the table."""
    wanted = frozenset(ids)
    found = (join_pieces(table) for table in read_files(output, _COLUMNS) if table.column("id")[0].as_py() in wanted)
    return [result for result in found if result.status not in FAILED_STATUSES]


def _show(result: FileResult, sound: Sound, agreements: Sequence[tuple[Contender, Agreement]]) -> Shown:
    shown = min(result.duration, EXCERPT_SECONDS)
    lanes, truth = [], None
    for system, agreement in agreements:
        marks = agreement.truth_of(result.id, result.offset, shown)
        if marks is not None:
            truth = marks
            lanes.append(_lane(system.title, agreement, result, shown, marks))
    return Shown(
        id=result.id,
        status=result.status,
        error=result.error,
        seconds=round(result.duration, 3),
        offset=round(result.offset, 3),
        shown=round(shown, 3),
        num_syllables=0 if truth is None else len(truth.labels),
        times=(),
        units=None,
        truth=None if truth is None else replace(truth, missed=(), extra=(), f1=None),
        silence=sound.silence,
        lanes=lanes,
    )


def _lane(name: str, agreement: Agreement, result: FileResult, shown: float, marks: Truth) -> Lane:
    segments = agreement.utterances[result.id].segments
    there = segments[:, 0] < result.offset + shown
    times = ((segments[there] - result.offset) * 1000).round().astype(int).clip(0, round(shown * 1000))
    return Lane(name, times.ravel().tolist(), marks.extra, marks.f1)
