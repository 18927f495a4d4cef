"""References that a run puts into its TextGrids."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sdhubert_ray.cli.console import note
from sdhubert_ray.cli.help import MORE
from sdhubert_ray.cli.options import split_rename
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.evaluation.tiers import FurtherTiers
    from sdhubert_ray.runs.config import JobConfig
    from sdhubert_ray.runs.session import Job

Beside = Annotated[
    str | None,
    typer.Option(
        "--references",
        metavar="FILE",
        rich_help_panel=MORE,
        help="With --format textgrid: a folder of TextGrids whose tiers come along, or syllable JSON.",
    ),
]


def find_tiers(references: str | None, rename: str | None, config: "JobConfig") -> "FurtherTiers | None":
    """The references that TextGrids are to have. Raises UserError: there will be no TextGrids, or they are damaged."""
    if references is None:
        if rename is not None:
            raise UserError("--rename is of references; name them with --references")
        return None
    if "textgrid" not in config.output.formats:
        raise UserError("--references are for TextGrids; ask for them with --format textgrid")
    from sdhubert_ray.evaluation.tiers import FurtherTiers

    return FurtherTiers(references, split_rename(rename))


def with_tiers(job: "Job", further: "FurtherTiers | None") -> "Job":
    """A job whose TextGrids have the tiers of references, too.

    Raises:
        UserError: no recording has a reference.
    """
    if further is None:
        return job
    from sdhubert_ray.evaluation import find_rename
    from sdhubert_ray.runs.execute import planned_ids

    ids = set(planned_ids(job))
    without = sorted(file_id for file_id in ids if file_id not in further)
    if without and len(without) == len(ids):
        job.discard()
        way = find_rename(further.names, without)
        raise UserError(
            f"no recording has a reference; recordings are called like {without[0]!r}, references like "
            f"{further.names[0]!r}" + (f"; they meet with --rename {shlex.quote(way)}" if way else "")
        )
    if without:
        note(f"note: {len(without)} of {len(ids)} recordings have no reference, such as {without[0]}")
    return replace(job, further=further)
