"""From what a user names, an output, a training run or a file of figures, to the content of its page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.metrics import TOLERANCE
from sdhubert_ray.output import Contents, FileResult, read_run, require_contents
from sdhubert_ray.output.record import check_tokenized, fingerprint
from sdhubert_ray.output.summary import Totals, count_results
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.reporting.agreement import Agreement, References, compare, figure_tables
from sdhubert_ray.reporting.content import Cell, Page, Shown, Table, Tile
from sdhubert_ray.reporting.sound import EXCERPT_SECONDS, Sound, read_sounds
from sdhubert_ray.reporting.survey import Survey, survey
from sdhubert_ray.reporting.training import training_page

Progress = Callable[[str, int], Callable[[], None]]
"""Begins a stretch of work of a name and a length; what it gives is called for each step."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        sample: recordings to look at and listen to.
        references: reference syllables, or None.
        tier: of TextGrids, or None.
        rename: as `JoinOptions.rename`.
        by: columns of the table to group figures by.
    """

    sample: int = 200
    references: str | None = None
    tier: str | None = None
    rename: tuple[str, str] = ("", "")
    by: tuple[str, ...] = ()


def gather(target: str, options: ReportOptions, progress: Progress) -> Page:
    """The content of a report.

    Args:
        target: an output of `segment` or `resegment`, RUN of `train`, or what `evaluate --json` has written.
        options: what is shown.
        progress: told how far it is.

    Raises:
        UserError: it is none of these, or cannot be read; or as `compare`.
        TransientError: a store could not be reached.
    """
    if not storage.exists(target):
        raise UserError(
            f"{target} is not there; name an output of `sdhubert segment`, a RUN of `sdhubert train`, or FIGURES.json"
        )
    if not storage.is_folder(target):
        return _figures_page(target, _read_figures(target), options, progress)
    record = read_run(target)
    if record is None:
        raise UserError(f"{target} holds no run; name the output folder of `sdhubert segment` or `sdhubert train`")
    if record.get("kind") == "training":
        if options.references or options.by or options.tier or options.rename != ("", ""):
            raise UserError(
                f"{target} is a training run, which has no segments to compare with references; leave them out"
            )
        return training_page(target, record)
    references = None
    if options.references is not None:
        references = References(options.references, options.tier, options.rename, options.by)
    elif options.by or options.tier or options.rename != ("", ""):
        raise UserError("--by, --tier and --rename say how references are read; give --references, or leave them out")
    return _run_page(target, references, options.sample, progress)


def _run_page(output: str, references: References | None, sample: int, progress: Progress) -> Page:
    contents = require_contents(output)
    check_tokenized(output, contents.record)
    totals = count_results(output, contents.plans, contents.commits)
    if not totals.num_files:
        raise UserError(f"{output} has no recordings yet; run `sdhubert segment` again, or wait for it")
    agreement = Agreement() if references is None else compare(output, references)
    found = survey(output, sample, agreement.worst[: sample // 2], progress("counting", totals.num_files))
    sounds = read_sounds(contents, output, found.sample, progress("reading audio", len(found.sample)))
    record = contents.record
    quantizer = record.get("quantizer") or {}
    return Page(
        kind="run",
        title=storage.absolute(output).rpartition("/")[2],
        place=storage.absolute(output),
        about=list(_about(record)),
        notes=[*_notes(contents, totals, found, sounds), *agreement.notes],
        tiles=_tiles(record, totals),
        statuses=sorted(totals.statuses.items(), key=lambda entry: -entry[1]),
        reasons=[(count, *reason) for reason, count in totals.reasons.most_common(50)],
        failures=totals.failures,
        histograms=found.histograms(),
        units=found.unit_counts(quantizer.get("n_units")),
        times=_times(record),
        tables=agreement.tables,
        settings=list(fingerprint(record.get("config", {})).items()),
        recordings=[_show(result, sound, agreement) for result, sound in zip(found.sample, sounds, strict=True)],
        sounds=[sound.data for sound in sounds],
    )


def _figures_page(target: str, figures: Mapping[str, Any], options: ReportOptions, progress: Progress) -> Page:
    """The page of an evaluation: that of the output it is of, where that can still be read, or the figures alone."""
    if options.references is not None:
        raise UserError(f"{target} says what references its figures are of; leave out --references")
    if figures.get("metric") == "compare":
        raise UserError(f"{target} is of a comparison, whose page is beside it; `sdhubert compare` makes that again")
    try:
        if figures["metric"] == "ssabx":
            return _ssabx_page(target, figures)
        alone, references = _page_alone(target, figures, options)
    except (LookupError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{target} is not as `sdhubert evaluate --json` writes it ({error!r}); make it again"
        ) from error
    try:
        page = _run_page(figures["segments"], references, options.sample, progress)
    except UserError as error:
        return replace(alone, notes=[f"The recordings cannot be shown: {first_line(error)}."])
    theirs = {table.title for table in alone.tables}
    others = [table for table in page.tables if table.title not in theirs]
    return replace(page, about=[("figures", target), *alone.about[1:], *page.about], tables=[*alone.tables, *others])


def _page_alone(target: str, figures: Mapping[str, Any], options: ReportOptions) -> tuple[Page, References]:
    """The page without recordings, and how these meet their references."""
    shift, within = ((figures.get(name) or {}).get("seconds", 0.0) for name in ("shift", "zerosyl_shift"))
    by = options.by or tuple(figures.get("by", {}))
    tolerance = figures.get("tolerance") or TOLERANCE
    references = References(figures["references"], figures["tier"], options.rename, by, shift, tolerance, within)
    about = [(name, str(figures[name])) for name in ("segments", "references")]
    tables = list(figure_tables(figures, shift, within))
    return Page("figures", target.rpartition("/")[2], target, about, tables=tables), references


def _ssabx_page(target: str, figures: Mapping[str, Any]) -> Page:
    columns = ("embedding", "layer", "SSABX %", "from", "to", "correct", "ties")
    rows: list[list[Cell]] = []
    for score in figures["scores"]:
        shares = [score["accuracy"][name] for name in ("value", "low", "high")]
        percent = [None if share is None else round(100 * share, 1) for share in shares]
        rows.append([score["embedding"], score["layer"], *percent, score["correct"], score["ties"]])
    tables = [Table("Spoken-sentence ABX", columns, rows, "From and to hold 95 % of resamples over triplets.")]
    left_out = [[name, why] for name, why in figures["left_out"].items()]
    tables += [Table("Triplets left out", ("triplet", "why"), left_out)] if left_out else []
    names = ("checkpoint", "checkpoint_sha256", "preset", "dtype", "triplets", "audio_root")
    tiles = [
        Tile("triplets", f"{figures['num_triplets'] - len(left_out):,}", f"of {figures['num_triplets']:,}"),
        Tile("clips", f"{figures['num_clips']:,}", f"{figures['seconds'] / 3600:.2f} hours"),
    ]
    about = [(name.replace("_", " "), str(figures[name])) for name in names]
    return Page("figures", target.rpartition("/")[2], target, about, tiles=tiles, tables=tables)


def _read_figures(target: str) -> Mapping[str, Any]:
    try:
        figures = storage.read_json(target) or {}
    except ValueError:
        figures = {}
    if not {"metric", "sdhubert_ray"} <= figures.keys():
        raise UserError(
            f"{target} holds no figures of `sdhubert evaluate`; name an output, a RUN, or a file of its --json"
        )
    return figures


def _show(result: FileResult, sound: Sound, agreement: Agreement) -> Shown:
    shown = min(result.duration, EXCERPT_SECONDS)
    there = result.segments[:, 0] < result.offset + shown
    times = ((result.segments[there] - result.offset) * 1000).round().astype(int).clip(0, round(shown * 1000))
    return Shown(
        id=result.id,
        status=result.status,
        error=result.error,
        seconds=round(result.duration, 3),
        offset=round(result.offset, 3),
        shown=round(shown, 3),
        num_syllables=len(result.segments),
        times=times.ravel().tolist(),
        units=None if result.units is None else result.units[there].tolist(),
        truth=agreement.truth_of(result.id, result.offset, shown),
        silence=sound.silence,
    )


def _tiles(record: Mapping[str, Any], totals: Totals) -> list[Tile]:
    seconds, speech = totals.audio_seconds, totals.speech_seconds
    failed = f"{totals.num_failed:,} failed" if totals.num_failed else "none failed"
    rate = totals.num_syllables / seconds if seconds else 0.0
    within = f"{totals.num_syllables / speech:.2f} within syllables" if speech else ""
    audio = f"{seconds / 3600:,.1f}" if seconds >= 36000 else f"{seconds / 3600:.2f}"
    tiles = [
        Tile("hours of audio", audio, f"{speech / seconds:.0%} within syllables" if seconds else ""),
        Tile("recordings", f"{totals.num_files:,}", failed),
        Tile("syllables", f"{totals.num_syllables:,}", f"in {totals.num_rows:,} rows"),
        Tile("syllables per second", f"{rate:.2f}", within),
    ]
    summary = record.get("summary", {})
    if summary.get("wall_seconds"):
        factor = summary["run_audio_seconds"] / summary["wall_seconds"]
        tiles.append(Tile("times real time", f"{factor:,.0f}", f"the last run, {_told_time(summary['wall_seconds'])}"))
    return tiles


def _about(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    checkpoint, summary = record.get("checkpoint") or {}, record.get("summary") or {}
    told = {
        "state": record.get("state"),
        "finished": record.get("updated"),
        "input": record.get("input") or record.get("features"),
        "checkpoint": checkpoint.get("name"),
        "checkpoint sha256": checkpoint.get("sha256"),
        "quantizer": (record.get("config") or {}).get("quantizer"),
        "engine": summary.get("engine"),
        "run": record.get("run_id"),
        **(record.get("versions") or {}),
    }
    return [(name, str(value)) for name, value in told.items() if value is not None]


def _notes(contents: Contents, totals: Totals, found: Survey, sounds: list[Sound]) -> list[str]:
    notes = []
    if contents.rows_left:
        notes.append(f"The run is not finished: {contents.rows_left:,} rows are left; what is done so far is shown.")
    read = [sound for result, sound in zip(found.sample, sounds, strict=True) if result.status not in FAILED_STATUSES]
    silent = [sound.silence for sound in read if sound.silence is not None]
    if len(found.sample) < totals.num_files:
        notes.append(
            f"{len(found.sample):,} of {totals.num_files:,} recordings are here to listen to; figures are of all."
        )
    if silent:
        notes.append(f"{len(silent)} of {len(read)} recordings here have no sound: for one, {silent[0]}.")
    if any(result.duration > EXCERPT_SECONDS for result in found.sample):
        notes.append(f"Of recordings over {EXCERPT_SECONDS:.0f} s the first {EXCERPT_SECONDS:.0f} s are here.")
    return notes


def _times(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, float]]]]:
    profile = record.get("summary", {}).get("profile")
    if not profile:
        return []
    clock = [(name, profile[f"{name}_seconds"]) for name in ("list", "start", "work", "finish")]
    work = [*profile["stage_seconds"].items(), ("between stages", profile["between_seconds"])]
    return [("On the clock", clock), ("Of the work, summed over workers", work)]


def _told_time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.1f} s"
    )
