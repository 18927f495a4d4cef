"""The layout of an output folder: whose it is, what is to be done, what is done, and how it is read back.

OUTPUT/run.json                            configuration, fingerprint, versions, counts, times
OUTPUT/lease.json                          who is writing, and its heartbeat; gone when nobody is
OUTPUT/manifest/PLAN.json, PLAN-PART.parquet   what is to be done: rows in units, a row group each; only ever added to
OUTPUT/segments/PLAN-UNIT.parquet          the rows of a unit, once they are done
OUTPUT/segments/PLAN-FIRST-LAST.parquet    the rows of many, put together when a run has finished

A later plan holds the recordings that an input has gained, or rows to try again: the latest attempt of a key counts.
"""

from sdhubert_ray.output.commits import (
    Commit,
    committed_keys,
    drop_superseded,
    find_groups,
    list_commits,
    merge_commits,
    read_commit,
    write_commit,
)
from sdhubert_ray.output.lease import Lease, LeaseLostError, LeaseTimes, read_lease
from sdhubert_ray.output.plans import (
    Plan,
    StagedPlan,
    list_plans,
    pending_units,
    publish_plan,
    read_plan,
    read_unit,
    stage_plan,
    unit_name,
)
from sdhubert_ray.output.reading import (
    FileResult,
    count_joined,
    frame_offset,
    join_pieces,
    read_files,
    read_segments,
    worst_status,
)
from sdhubert_ray.output.record import (
    OutputOptions,
    clear_output,
    fingerprint,
    open_output,
    read_run,
    refuse_other,
    write_run,
)

__all__ = [
    "Commit",
    "FileResult",
    "Lease",
    "LeaseLostError",
    "LeaseTimes",
    "OutputOptions",
    "Plan",
    "StagedPlan",
    "clear_output",
    "committed_keys",
    "count_joined",
    "drop_superseded",
    "find_groups",
    "fingerprint",
    "frame_offset",
    "join_pieces",
    "list_commits",
    "list_plans",
    "merge_commits",
    "open_output",
    "pending_units",
    "publish_plan",
    "read_commit",
    "read_files",
    "read_lease",
    "read_plan",
    "read_run",
    "read_segments",
    "read_unit",
    "refuse_other",
    "stage_plan",
    "unit_name",
    "worst_status",
    "write_commit",
    "write_run",
]
