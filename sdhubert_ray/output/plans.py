"""Plans: what is to be done, as manifests in units of work, kept beside the results.

A plan is written before its work begins and never changed. A unit is decoded, encoded, cut and committed together;
it is a row group of the plan's Parquet files, so that a worker reads no more than its own rows.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output.commits import Commit, read_parquet

PLANS_FOLDER = "manifest"
_ADVICE = "restore it, or --overwrite the output"
UNITS_PER_PART = 64
"""Units in one Parquet file of a plan: few files, and a footer that is quickly read."""


@dataclass(frozen=True)
class Plan:
    """What one run added to the work of an output.

    Attributes:
        number: from 1.
        kind: `input` (new recordings), `retry` (rows of earlier plans again), `resegment` (other results' rows).
        unit_rows: rows of each unit.
        unit_seconds: audio of each unit as far as it is known, seconds.
        created: when, ISO 8601.
    """

    number: int
    kind: str
    unit_rows: tuple[int, ...]
    unit_seconds: tuple[float, ...]
    created: str = ""

    @property
    def num_rows(self) -> int:
        """Rows in all units."""
        return sum(self.unit_rows)

    @property
    def seconds(self) -> float:
        """Audio of all units as far as it is known, seconds."""
        return sum(self.unit_seconds)


@dataclass(frozen=True)
class StagedPlan:
    """A plan in a folder of this machine, not yet part of an output.

    Attributes:
        parts: its Parquet files, in order.
        unit_rows: as in `Plan`.
        unit_seconds: as in `Plan`.
    """

    parts: tuple[Path, ...]
    unit_rows: tuple[int, ...]
    unit_seconds: tuple[float, ...]

    @property
    def num_rows(self) -> int:
        """Rows in all units."""
        return sum(self.unit_rows)

    @property
    def seconds(self) -> float:
        """Audio of all units as far as it is known, seconds."""
        return sum(self.unit_seconds)


def unit_name(plan: int, unit: int) -> str:
    """What a unit and its commit are called."""
    return f"{plan:05d}-{unit:07d}"


def stage_plan(units: Iterator[pa.Table], folder: Path) -> StagedPlan:
    """Write units of rows (`MANIFEST_FIELDS` and carried columns) into a local folder; one unit is held at a time.

    Raises:
        UserError: the folder cannot be written.
    """
    parts: list[Path] = []
    rows: list[int] = []
    seconds: list[float] = []
    writer: pq.ParquetWriter | None = None
    try:
        for index, unit in enumerate(units):
            with _writing(folder):
                if writer is None or index % UNITS_PER_PART == 0:
                    if writer is not None:
                        writer.close()
                    parts.append(folder / f"{len(parts):05d}.parquet")
                    writer = pq.ParquetWriter(parts[-1], unit.schema, compression="zstd", write_page_checksum=True)
                writer.write_table(unit, row_group_size=unit.num_rows)
            rows.append(unit.num_rows)
            seconds.append(round(pc.sum(unit.column("duration")).as_py() or 0.0, 3))
    finally:
        if writer is not None:
            with _writing(folder):
                writer.close()
    return StagedPlan(tuple(parts), tuple(rows), tuple(seconds))


def publish_plan(output: str, staged: StagedPlan, number: int, kind: str) -> Plan:
    """Make a staged plan part of an output: its Parquet files first, and last the record that makes it count.

    Raises:
        BusyError: there is a plan of this number.
    """
    for part, path in enumerate(staged.parts):
        storage.put(_part_uri(output, number, part), path.read_bytes())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    plan = Plan(number, kind, staged.unit_rows, staged.unit_seconds, now)
    if not storage.create(storage.join(output, f"{PLANS_FOLDER}/{number:05d}.json"), json.dumps(asdict(plan)).encode()):
        raise BusyError(f"output {output} has been given plan {number} by another run just now")
    return plan


def list_plans(output: str) -> list[Plan]:
    """The plans of an output, the oldest first.

    Raises:
        UserError: a record of one is damaged.
    """
    folder = storage.join(output, PLANS_FOLDER)
    if not storage.exists(folder):
        return []
    plans = []
    for name in storage.list_files(folder):
        if not name.endswith(".json"):
            continue
        uri = storage.join(folder, name)
        try:
            values = json.loads(storage.read_bytes(uri))
            rows, seconds = tuple(values["unit_rows"]), tuple(values["unit_seconds"])
            plans.append(Plan(int(values["number"]), str(values["kind"]), rows, seconds, str(values["created"])))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{uri} is no plan of a run; choose another output, or --overwrite this one") from error
    return plans


def pending_units(plans: Sequence[Plan], commits: Sequence[Commit]) -> list[tuple[int, int]]:
    """The (plan, unit) that no commit covers, in order."""
    pending: list[tuple[int, int]] = []
    for plan in plans:
        done = np.zeros(len(plan.unit_rows), bool)
        for commit in commits:
            if commit.plan == plan.number:
                done[commit.first : commit.last + 1] = True
        pending.extend((plan.number, int(unit)) for unit in np.flatnonzero(~done))
    return pending


def read_unit(output: str, plan: int, unit: int) -> pa.Table:
    """The rows of a unit, and `unit_name`, the name of its commit.

    Raises:
        UserError: the plan is damaged.
    """
    part, group = divmod(unit, UNITS_PER_PART)
    uri = _part_uri(output, plan, part)
    table = read_parquet(uri, lambda parquet: parquet.read_row_group(group), advice=_ADVICE)
    names = pa.array([unit_name(plan, unit)] * table.num_rows, pa.string())
    return table.append_column("unit_name", names)


def read_plan(output: str, plan: Plan, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a plan, part by part; `columns` none: all of them."""
    for part in range(-(-len(plan.unit_rows) // UNITS_PER_PART)):
        chosen = None if columns is None else list(columns)
        uri = _part_uri(output, plan.number, part)
        yield read_parquet(uri, lambda parquet: parquet.read(columns=chosen), advice=_ADVICE)  # noqa: B023


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); free it, or set TMPDIR to a larger place") from error


def _part_uri(output: str, plan: int, part: int) -> str:
    return storage.join(output, f"{PLANS_FOLDER}/{plan:05d}-{part:05d}.parquet")
