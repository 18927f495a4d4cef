"""The layout of an output folder: whose it is, what is to be done, what is done, and how it is read back.

OUTPUT/run.json                            configuration, fingerprint, versions, counts, times
OUTPUT/lease.json                          who is writing, and its heartbeat; gone when nobody is
OUTPUT/manifest/NUMBER.json                a plan, by its number and the run that made it: PLAN is NUMBER-RUN
OUTPUT/lengths/DIGEST.npy                  while a plan is made       : lengths of files, as far as they are read
OUTPUT/manifest/PLAN-PART.parquet          what is to be done: rows in units, a row group each; plans are only added to
OUTPUT/commits/PLAN-UNIT.parquet           the rows of a unit, once they are done, until the run has finished
OUTPUT/segments/PLAN-FIRST-LAST.parquet    the table: the rows of many units, from then on

A later plan holds the recordings that an input has gained, or rows to try again: the latest attempt of a key counts,
and takes the place of the one before when the run finishes.
"""

from sdhubert_ray.output.commits import (
    Commit,
    commit_name,
    find_groups,
    list_commits,
    pending_units,
    publish_commits,
    read_commit,
    write_commit,
)
from sdhubert_ray.output.contents import (
    Contents,
    clear_output,
    is_in_output,
    is_in_own_folder,
    open_output,
    read_contents,
    require_contents,
    tidy_output,
)
from sdhubert_ray.output.lease import Lease, LeaseLostError, LeaseTimes, check_holder, read_lease
from sdhubert_ray.output.lengths import forget_lengths, keep_lengths, recall_lengths
from sdhubert_ray.output.plans import (
    Plan,
    StagedPlan,
    list_plans,
    plan_name,
    publish_plan,
    read_plan,
    read_unit,
    stage_plan,
    unit_name,
)
from sdhubert_ray.output.reading import (
    FileResult,
    Recordings,
    count_joined,
    frame_offset,
    join_pieces,
    read_files,
    read_segments,
    read_syllables,
)
from sdhubert_ray.output.record import (
    OutputOptions,
    fingerprint,
    read_run,
    refuse_other,
    write_run,
)
from sdhubert_ray.output.retries import replace_rows
from sdhubert_ray.output.tables import worst_status

__all__ = [
    "Commit",
    "Contents",
    "FileResult",
    "Lease",
    "LeaseLostError",
    "LeaseTimes",
    "OutputOptions",
    "Plan",
    "Recordings",
    "StagedPlan",
    "check_holder",
    "clear_output",
    "commit_name",
    "count_joined",
    "find_groups",
    "fingerprint",
    "forget_lengths",
    "frame_offset",
    "is_in_output",
    "is_in_own_folder",
    "join_pieces",
    "keep_lengths",
    "list_commits",
    "list_plans",
    "open_output",
    "pending_units",
    "plan_name",
    "publish_commits",
    "publish_plan",
    "read_commit",
    "read_contents",
    "read_files",
    "read_lease",
    "read_plan",
    "read_run",
    "read_segments",
    "read_syllables",
    "read_unit",
    "recall_lengths",
    "refuse_other",
    "replace_rows",
    "require_contents",
    "stage_plan",
    "tidy_output",
    "unit_name",
    "worst_status",
    "write_commit",
    "write_run",
]
