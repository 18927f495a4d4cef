"""`sdhubert status`: how far a run is, from its output alone."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sdhubert_ray.cli.console import console
from sdhubert_ray.cli.progress import percent, tell_seconds
from sdhubert_ray.cli.running import waiting
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.output import Contents
    from sdhubert_ray.output.summary import Totals

_SHOWN_REASONS = 10
_LOOKS = 5


def status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="An output folder, or RUN of a training; or a URI.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what an output holds: counts, failures by reason, the rate of the run on it, and what is left."""
    from sdhubert_ray.output import read_lease, read_run
    from sdhubert_ray.output.lease import is_held

    record = read_run(output)
    if record is not None and record.get("kind") == "training":
        _tell_training(output, record, as_json)
        return
    if record is None:
        raise UserError(f"{output} holds no run; name the output folder of `sdhubert segment` or `sdhubert train`")
    with waiting("counting"):
        contents, totals = _count(output)
        lease = read_lease(output)
        running = lease is not None and is_held(output)  # on another host it is watched for some seconds
    pending, rows_left = contents.pending, contents.rows_left
    seconds = {plan.name: plan.unit_seconds for plan in contents.plans}
    seconds_left = sum(seconds[plan][unit] for plan, unit in pending)
    unfinished = pending or contents.record.get("state") != "finished" or "tokenizing" in contents.record
    state = "running" if running else "interrupted" if unfinished else "finished"
    progress = lease["progress"] if running and lease is not None else {}
    rate, factor, seconds_to_go = 0.0, 0.0, None
    if progress.get("seconds") and progress["rows"]:
        rate, factor = progress["rows"] / progress["seconds"], progress["audio_seconds"] / progress["seconds"]
        # The longest units come first: time goes with the audio, where its length is known.
        known = factor and all(seconds[plan][unit] for plan, unit in pending)
        seconds_to_go = seconds_left / factor if known else rows_left / rate
    num_rows = sum(plan.num_rows for plan in contents.plans)
    rows_done = num_rows - rows_left
    if as_json:
        told = {
            "state": state,
            "run_id": contents.record.get("run_id"),
            "holder": lease if running else None,
            "percent_done": round(100 * rows_done / num_rows, 2) if num_rows else 100.0,
            "rows_left": rows_left,
            "audio_seconds_left": round(seconds_left, 3),
            "rows_per_second": round(rate, 3),
            "seconds_to_go": None if seconds_to_go is None else round(seconds_to_go, 1),
            **totals.record(),
        }
        print(json.dumps(told))
        return
    table = Table(show_header=False, box=None)
    holder = f" (process {lease['pid']} on {lease['host']}, heartbeat of {lease['time']})" if running and lease else ""
    table.add_row("state", f"{state}{holder}")
    table.add_row("done", f"{percent(rows_done, num_rows)} ({rows_done} of {num_rows} rows)")
    if rows_left:
        untold = "not known yet" if running else "nobody is at work"
        when = untold if seconds_to_go is None else f"about {tell_seconds(seconds_to_go)}"
        table.add_row("time left", f"{when} ({rows_left} rows)")
    if rate:
        table.add_row("rate", f"{rate:.1f} rows/s, {factor:.1f} times real time")
    statuses = ", ".join(f"{count} {name}" for name, count in totals.statuses.items())
    table.add_row("recordings", f"{totals.num_files} ({statuses})" if statuses else "none yet")
    table.add_row("audio", f"{totals.audio_seconds / 3600:.3f} hours, {totals.num_syllables} syllables")
    table.add_row("table", f"{totals.size / 1e6:.1f} MB in {len(contents.commits)} files")
    console.print(table, soft_wrap=True)
    for (name, reason), count in totals.reasons.most_common(_SHOWN_REASONS):
        print(f"{count} x {name}: {reason}")


def _tell_training(output: str, record: Mapping[str, Any], as_json: bool) -> None:
    from sdhubert_ray.training.standing import read_standing

    standing = read_standing(output, record)
    if as_json:
        print(json.dumps(standing.record()))
        return
    table = Table(show_header=False, box=None)
    for name, told in standing.rows():
        table.add_row(name, told)
    console.print(table, soft_wrap=True)


def _count(output: str) -> "tuple[Contents, Totals]":
    from sdhubert_ray.output import require_contents
    from sdhubert_ray.output.parquet import GoneError
    from sdhubert_ray.output.summary import count_results

    for look in range(1, _LOOKS + 1):
        contents = require_contents(output)
        try:
            return contents, count_results(output, contents.plans, contents.commits)
        except GoneError:  # published with others since it was listed
            if look == _LOOKS:
                raise
    raise AssertionError("not reached")
