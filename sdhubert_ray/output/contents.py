"""What an output holds: looked at, opened for a run, and cleared of what runs have written, and of nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output.commits import (
    COMMITS_FOLDER,
    SEGMENTS_FOLDER,
    Commit,
    list_commits,
    list_foreign,
    pending_units,
    remove_all,
)
from sdhubert_ray.output.plans import PLANS_FOLDER, Plan, list_parts, list_plans, record_name
from sdhubert_ray.output.record import RUN_RECORD, check_tokenized, read_run, refuse_other, write_run

_CLEARING = "clearing"
"""State of a run that is being removed."""
_FOLDERS = (SEGMENTS_FOLDER, COMMITS_FOLDER, PLANS_FOLDER)


@dataclass(frozen=True)
class Contents:
    """What an output holds.

    Attributes:
        record: of its run.
        plans: the oldest first.
        commits: that count.
    """

    record: Mapping[str, Any]
    plans: Sequence[Plan]
    commits: Sequence[Commit]

    @property
    def pending(self) -> list[tuple[str, int]]:
        """The units that are not done."""
        return pending_units(self.plans, self.commits)

    @property
    def is_half_removed(self) -> bool:
        """Whether an `--overwrite` of it was interrupted, which begins with further formats."""
        return self.record.get("state") == _CLEARING

    @property
    def rows_left(self) -> int:
        """Rows that are not done."""
        rows = {plan.name: plan.unit_rows for plan in self.plans}
        return sum(rows[plan][unit] for plan, unit in self.pending)


def read_contents(output: str) -> Contents | None:
    """Look at an output; None where there is no run.

    Raises:
        UserError: its record or a plan is damaged, or a plan is missing.
        TransientError: the store could not be reached.
    """
    record = read_run(output)
    if record is None:
        return None
    plans = list_plans(output)
    missing = sorted({*record.get("plans", ())} - {plan.name for plan in plans})
    if missing and record.get("state") != _CLEARING:
        name = record_name(int(missing[0].partition("-")[0]))
        raise UserError(
            f"{storage.join(output, name)} is missing, the plan of rows that the output holds; copy the whole folder, "
            "or choose another output"
        )
    return Contents(record, plans, list_commits(output, plans))


def require_contents(output: str) -> Contents:
    """As `read_contents`, where there has to be a run.

    Raises:
        UserError: there is none, or as `read_contents`.
    """
    contents = read_contents(output)
    if contents is None or contents.record.get("kind") == "training":
        raise UserError(f"{output} holds no run; name the output folder of `sdhubert segment`")
    return contents


def open_output(output: str, wanted: Mapping[str, str], overwrite: bool) -> Contents | None:
    """Look at an output before a run into it; nothing is changed.

    Returns:
        what the run has to go on with, or what `clear_output` will remove; None for a new output.

    Raises:
        UserError: it was made with another configuration (the message names the keys), or holds files that no run is
            known to have written where a run would write.
        TransientError: the store could not be reached.
    """
    try:
        if storage.exists(output) and not storage.is_folder(output):
            raise UserError(f"output {output} is a file; name a folder")
        contents = read_contents(output)
        foreign = list_foreign(output, contents.plans if contents else ())
        if contents is None:
            foreign = [name for folder in _FOLDERS for name in _files(output, folder)]
    except storage.TransientError:
        raise
    except OSError as error:
        raise UserError(f"output {output} cannot be reached ({error}); choose another, or mend the access") from error
    if contents is not None and contents.record.get("kind") == "training":
        raise UserError(f"output {output} holds a run of `sdhubert train`; choose another output")
    if foreign:
        raise UserError(
            f"output {output} holds {foreign[0]}, which no run in it is known to have written; choose another output"
        )
    if contents is not None and not overwrite:
        if contents.is_half_removed:
            raise UserError(f"output {output} is half removed: an --overwrite was interrupted; --overwrite it again")
        check_tokenized(output, contents.record)
        refuse_other(output, contents.record["fingerprint"], wanted)
    return contents


def clear_output(output: str) -> None:
    """Remove the rows and plans of earlier runs: the files that these and their record name, and no others.

    The record stays, and says that the output is half removed, until another one takes its place.

    Raises:
        UserError: they cannot be told, as `read_contents`.
    """
    contents = read_contents(output)
    if contents is None:
        return
    record, plans = contents.record, contents.plans
    write_run(output, {**record, "state": _CLEARING})  # whoever is killed between, here and below, can go on
    remove_all(output, plans)
    storage.remove_files([storage.join(output, record_name(plan.number)) for plan in reversed(plans)])
    names = {*record.get("plans", ()), str(record.get("planning")), *(plan.name for plan in plans)}
    storage.remove_files([storage.join(output, name) for name in list_parts(output, names)])
    tidy_output(output)


def tidy_output(output: str) -> None:
    """Remove what killed writers have left half written, and folders in which nothing is left."""
    for folder in _FOLDERS:
        storage.tidy(storage.join(output, folder))


def is_in_own_folder(name: str) -> bool:
    """Tell whether a path relative to an output leads into a folder that plans, commits or the table are in."""
    return name.partition("/")[0] in _FOLDERS


def is_in_output(folder: str) -> bool:
    """Tell whether a folder is one of those that an output is made of, or lies in one: it is no place for anything."""
    parts = folder.rstrip("/").split("/")
    for depth in range(1, len(parts)):
        if parts[depth] in _FOLDERS and storage.exists(storage.join("/".join(parts[:depth]), RUN_RECORD)):
            return True
    return False


def _files(output: str, folder: str) -> list[str]:
    uri = storage.join(output, folder)
    if storage.exists(uri) and not storage.is_folder(uri):
        return [folder]
    return [f"{folder}/{name}" for name in storage.list_files(uri)] if storage.exists(uri) else []
