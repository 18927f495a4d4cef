"""Doing a job with its progress on the terminal, and printing what came of it."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from sdhubert_ray.cli.console import (
    EXIT_FAILED_ROWS,
    EXIT_UNFINISHED,
    complain,
    console,
    note,
    raise_if_interrupted,
)
from sdhubert_ray.cli.progress import Phase, progress
from sdhubert_ray.cli.targets import write_figures
from sdhubert_ray.errors import BusyError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from sdhubert_ray.corpus import Listing
    from sdhubert_ray.output.summary import Totals
    from sdhubert_ray.runs.profile import Profile
    from sdhubert_ray.runs.session import Job, Summary

_SHOWN_FAILURES = 20


@contextlib.contextmanager
def ended_early(way: str = "the same command resumes") -> Iterator[None]:
    """Say why the work within could not be finished, and exit with 1; `way` is what can be done, or empty."""
    from sdhubert_ray.runs.session import IncompleteRunError

    then = way and f"; {way}"
    try:
        yield
    except BusyError as error:
        complain(str(error))
        raise typer.Exit(EXIT_UNFINISHED) from error
    except IncompleteRunError as error:
        if way and isinstance(error.__cause__, UserError):  # such as a full disk
            then = f"; that mended, {way}"
        complain(f"{error}{then}")
        raise typer.Exit(EXIT_UNFINISHED) from error
    except KeyboardInterrupt as error:
        complain(f"interrupted{then}")
        raise typer.Exit(EXIT_UNFINISHED) from error


@contextlib.contextmanager
def waiting(title: str, listing: "Listing | None" = None) -> "Iterator[Callable[[Listing], None]]":
    """Show that what is done within goes on, and how much it has gone through of an input, or of one it is told of."""
    with progress() as shown:

        def count(listing: "Listing") -> None:
            listing.batches = _counted(listing.batches, shown.begin(Phase(title, "rows")))

        if listing is None:
            shown.begin(Phase(title, ""))
        else:
            count(listing)
        yield count


def _counted(batches: "Iterator[pa.Table]", phase: Phase) -> "Iterator[pa.Table]":
    for batch in batches:
        yield batch
        phase.advance(batch.num_rows)


def tell_engine(job: "Job") -> str:
    """The engine of a job, and why it is that one."""
    return f"engine {job.engine}" + (f" ({job.engine_reason})" if job.engine_reason and job.rows_left else "")


def print_found(job: "Job") -> None:
    """Say what a job has before it and behind it."""
    found, done = job.found, job.num_rows - job.rows_left
    ignored = f", {found.ignored} other files ignored" if found.ignored else ""
    if job.kind == "retry":
        print(f"{job.staged.num_rows} rows to be tried again; {tell_engine(job)}")
    else:
        print(f"{found.recordings} recordings{ignored}, {job.num_rows} rows in all; {tell_engine(job)}")
    if done:
        print(f"{done} of {job.num_rows} rows are done already and skipped")
    if found.changed:
        names = ", ".join(found.changed_ids)
        note(
            f"warning: the source of {found.changed} recordings has changed since they were planned ({names}): rows "
            "that are done stay as they are, and others are read as planned, which may fail; choose another output, or "
            "--overwrite this one, to have them anew"
        )


def do_job(job: "Job", profile: bool = False, json_file: str | None = None) -> None:
    """Run a job and print its summary; exit with 1 where it cannot finish, with 3 where more failed than may.

    Args:
        job: as it was planned.
        profile: print where the time went, too.
        json_file: what gets the summary with all its figures.
    """
    from sdhubert_ray.runs.execute import run_job

    done = job.num_rows - job.rows_left
    with ended_early(), progress() as shown:
        # The longest units come first: time goes with the audio, where its length is known.
        effort = job.seconds_left if job.lengths_are_known else 0.0
        phase = shown.begin(Phase("segmenting", "rows", job.num_rows, done, effort))
        hours = 0.0

        def advance(count: int, seconds: float) -> None:
            nonlocal hours
            raise_if_interrupted()
            hours += seconds / 3600
            phase.advance(count, seconds, f"{hours:.2f} h of audio")

        def finish(title: str, count: int, total: int | None) -> None:
            nonlocal phase
            raise_if_interrupted()
            if phase.title != title:
                phase = shown.begin(Phase(title, "files" if total else "", total))
            phase.update(count)

        summary = run_job(job, advance, on_finish=finish)
    _print_summary(summary, profile)
    if json_file:
        _write_figures(json_file, summary)
    if summary.totals.num_failed > job.config.max_failed:
        raise typer.Exit(EXIT_FAILED_ROWS)


def _add_profile(table: Table, profile: "Profile") -> None:
    marks = {
        "list": profile.list_seconds,
        "start": profile.start_seconds,
        "work": profile.work_seconds,
        "finish": profile.finish_seconds,
    }
    table.add_row("on the clock", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in marks.items()))
    if profile.unit_seconds:
        parts = {**profile.stage_seconds, "between stages": profile.between_seconds}
        shares = ", ".join(f"{name} {seconds / profile.unit_seconds:.0%}" for name, seconds in parts.items())
        table.add_row("of the work", f"{shares}; {profile.units_at_once:.1f} units at once")


def _write_figures(target: str, summary: "Summary") -> None:
    profile = summary.profile
    derived = {"encoder_share": profile.encoder_share, "units_at_once": profile.units_at_once}
    figures = {
        **asdict(summary),
        "profile": {**asdict(profile), **derived},
        "totals": summary.totals.record(),
    }
    write_figures(target, "segment", figures)


def _rates(totals: "Totals") -> str:
    """Syllables per second, as others publish it, and of speech alone."""
    seconds = {"per second": totals.audio_seconds, "per second of speech": totals.speech_seconds}
    return ", ".join(f"{totals.num_syllables / (length or math.inf):.2f} {name}" for name, length in seconds.items())


def _print_summary(summary: "Summary", profile: bool) -> None:
    totals = summary.totals
    table = Table(show_header=False, box=None)
    statuses = ", ".join(f"{count} {status}" for status, count in totals.statuses.items())
    table.add_row("recordings", f"{totals.num_files} ({statuses})")
    table.add_row("audio", f"{totals.audio_seconds / 3600:.3f} hours")
    table.add_row("syllables", f"{totals.num_syllables} ({_rates(totals)})")
    if summary.rows_done:
        factor = summary.wall_seconds / summary.run_audio_seconds if summary.run_audio_seconds else 0.0
        table.add_row(
            "this run",
            f"{summary.rows_done} rows in {summary.wall_seconds:.1f} s, real-time factor {factor:.4f}",
        )
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.profile.stage_seconds.items())
        table.add_row("work per stage", stages)
        if profile:
            _add_profile(table, summary.profile)
    else:
        table.add_row("this run", "nothing was left to do")
    table.add_row("output", summary.output)
    console.print(table, soft_wrap=True)
    for name, status, error in totals.failures[:_SHOWN_FAILURES]:
        note(f"{status}: {name}: {error}")
    if totals.num_failed > _SHOWN_FAILURES:
        note(f"... and {totals.num_failed - _SHOWN_FAILURES} more, in run.json")
