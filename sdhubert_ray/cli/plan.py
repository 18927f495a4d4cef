"""`sdhubert segment --plan`: what a run would take, printed."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from sdhubert_ray.cli.running import waiting
from sdhubert_ray.cli.targets import write_figures

if TYPE_CHECKING:
    from sdhubert_ray.runs.estimate import Estimate
    from sdhubert_ray.runs.session import Job


def print_plan(job: "Job", json_file: str | None) -> None:
    """Try a sample of a job and print the estimate; nothing is written into the output.

    Args:
        job: as it was planned.
        json_file: what gets the estimate with all its figures.
    """
    if not job.rows_left:
        print("nothing is left to do")
        return
    from sdhubert_ray.runs.estimate import estimate_job

    with waiting("trying a sample"):
        estimate = estimate_job(job)
    if json_file:
        write_figures(json_file, "plan", asdict(estimate))
    trial, workers = estimate.trial, estimate.workers
    basis = f"from {trial.rows} of {estimate.rows} rows, {trial.audio_seconds:.1f} s of audio"
    _say("rows", f"{estimate.rows} to be done")
    _say("audio", f"{estimate.audio_seconds / 3600:.3f} hours ({_durations(estimate)})")
    statuses = ", ".join(f"{count} {status}" for status, count in estimate.statuses.items())
    _say("statuses", f"about {statuses} ({basis})")
    _say("output", f"about {_bytes(estimate.size)} ({basis})")
    if estimate.wall_seconds is None or estimate.cpu_seconds is None:
        _say("time", f"not measured: the sample of {trial.rows} rows has no audio that can be encoded")
    else:
        per_hour = 3600 / trial.audio_seconds
        stages = ", ".join(f"{stage} {seconds * per_hour:.1f} s" for stage, seconds in trial.stage_seconds.items())
        _say("work per hour of audio", f"{stages} (encoding on {workers.device}; {basis})")
        _say("CPU hours", f"about {_short(estimate.cpu_seconds / 3600)} ({basis})")
        gpu = "not measured: no GPU was seen; encoding is in the CPU hours"
        if estimate.gpu_seconds is not None:
            gpu = f"about {_short(estimate.gpu_seconds / 3600)} ({basis})"
        _say("GPU hours", gpu)
        _say("workers", _workers(estimate))
        _say("time", f"about {_time(estimate.wall_seconds)} with these workers ({basis})")
    print("This is an estimate from a sample; nothing was written. The same command without --plan does the work.")


def _say(name: str, text: str) -> None:
    print(f"{name:<24}{text}")


def _durations(estimate: "Estimate") -> str:
    unknown, trial = estimate.unknown_rows, estimate.trial
    if not unknown:
        return "the duration of every row is known"
    count = trial.unknown_rows or trial.rows
    which = "such rows" if trial.unknown_rows else "rows, as none of the sample was such a row"
    return f"{unknown} rows are of unknown duration, taken as the mean of {count} {which}"


def _workers(estimate: "Estimate") -> str:
    workers = estimate.workers
    if workers.engine == "local":
        return f"this process, encoding on {workers.device}"
    if not workers.others:
        return f"{workers.encoders} on {workers.device}, each for all stages"
    return f"encoding {workers.encoders} on {workers.device}, other stages {workers.others} on CPUs"


def _short(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.2g}"


def _bytes(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 1e3:.1f} kB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
