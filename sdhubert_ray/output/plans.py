"""Plans: what is to be done, as manifests in units of work, kept beside the results.

A plan is written before its work begins and never changed. A unit is decoded, encoded, cut and committed together;
it is a row group of the plan's Parquet files, so that a worker reads no more than its own rows.

A plan is named by its number and by the run that made it, and so are all files of its rows: what a worker of a run that
was overwritten commits late is of no plan that is there.
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdhubert_ray import storage
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output.parquet import read_parquet

PLANS_FOLDER = "manifest"
_ADVICE = "restore it, or choose another output"
UNITS_PER_PART = 64
"""Units in one Parquet file of a plan: few files, and a footer that is quickly read."""

_RECORD = re.compile(r"[0-9]{5}\.json")
_PART = re.compile(r"([0-9]{5}(?:-[0-9a-f]{12})?)-[0-9]{5}\.parquet")


@dataclass(frozen=True)
class Plan:
    """What one run added to the work of an output.

    Attributes:
        number: from 1.
        run: the id of the run that made it; empty in outputs of earlier versions.
        kind: `input` (new recordings), `retry` (rows of earlier plans again), `resegment` (other results' rows).
        unit_rows: rows of each unit.
        unit_seconds: audio of each unit as far as it is known, seconds.
        created: when, ISO 8601.
    """

    number: int
    run: str
    kind: str
    unit_rows: tuple[int, ...]
    unit_seconds: tuple[float, ...]
    created: str = ""

    @property
    def name(self) -> str:
        """What its files and those of its rows begin with; no plan of another run has it."""
        return plan_name(self.number, self.run)

    @property
    def num_parts(self) -> int:
        """Its Parquet files."""
        return -(-len(self.unit_rows) // UNITS_PER_PART)

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


def plan_name(number: int, run: str) -> str:
    """What a plan is called, which no other run has made."""
    return f"{number:05d}-{run}" if run else f"{number:05d}"


def unit_name(plan: str, unit: int) -> str:
    """What a unit and its commit are called: by the name of its plan and its place in it."""
    return f"{plan}-{unit:07d}"


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


def publish_plan(output: str, staged: StagedPlan, number: int, run: str, kind: str) -> Plan:
    """Make a staged plan part of an output: its Parquet files first, and last the record that makes it count.

    Raises:
        BusyError: there is a plan of this number.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    plan = Plan(number, run, kind, staged.unit_rows, staged.unit_seconds, now)
    for part, path in enumerate(staged.parts):
        storage.put(_part_uri(output, plan.name, part), path.read_bytes())
    if not storage.create(storage.join(output, record_name(number)), json.dumps(asdict(plan)).encode()):
        raise BusyError(f"output {output} has been given plan {number} by another run just now")
    return plan


def list_plans(output: str) -> list[Plan]:
    """The plans of an output, the oldest first.

    Raises:
        UserError: a file of one is missing, or its record is damaged.
    """
    folder = storage.join(output, PLANS_FOLDER)
    names = set(storage.list_files(folder)) if storage.exists(folder) else set()
    plans = [_read_record(storage.join(folder, name)) for name in sorted(names) if _RECORD.fullmatch(name)]
    wanted = [record_name(number) for number in range(1, plans[-1].number if plans else 1)]
    wanted += [_part_name(plan.name, part) for plan in plans for part in range(plan.num_parts)]
    for name in wanted:
        if name.removeprefix(f"{PLANS_FOLDER}/") not in names:
            raise UserError(f"{storage.join(output, name)} is missing, which a plan of its run is in; {_ADVICE}")
    return plans


def record_name(number: int) -> str:
    """The file of a plan's record, relative to the output."""
    return f"{PLANS_FOLDER}/{number:05d}.json"


def list_parts(output: str, plans: Collection[str]) -> list[str]:
    """The Parquet files that there are of plans of these names, relative to the output."""
    folder = storage.join(output, PLANS_FOLDER)
    names = storage.list_files(folder) if storage.exists(folder) else []
    return [f"{PLANS_FOLDER}/{name}" for name in names if (match := _PART.fullmatch(name)) and match[1] in plans]


def read_unit(output: str, plan: str, unit: int) -> pa.Table:
    """The rows of a unit of the plan of this name, and `unit_name`, the name of its commit.

    Raises:
        UserError: the plan is damaged.
    """
    part, group = divmod(unit, UNITS_PER_PART)
    uri = _part_uri(output, plan, part)
    table = read_parquet(uri, lambda parquet: parquet.read_row_group(group, use_threads=False), advice=_ADVICE)
    names = pa.array([unit_name(plan, unit)] * table.num_rows, pa.string())
    return table.append_column("unit_name", names)


def read_plan(output: str, plan: Plan, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a plan, part by part; `columns` none: all of them."""
    for part in range(plan.num_parts):
        chosen = None if columns is None else list(columns)
        uri = _part_uri(output, plan.name, part)
        yield read_parquet(uri, lambda parquet: parquet.read(columns=chosen, use_threads=False), advice=_ADVICE)  # noqa: B023


def _read_record(uri: str) -> Plan:
    try:
        values = json.loads(storage.read_bytes(uri))
        rows, seconds = tuple(values["unit_rows"]), tuple(values["unit_seconds"])
        run, kind = str(values.get("run", "")), str(values["kind"])
        return Plan(int(values["number"]), run, kind, rows, seconds, str(values["created"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{uri} is no plan of a run; {_ADVICE}") from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); free it, or set TMPDIR to a larger place") from error


def _part_name(plan: str, part: int) -> str:
    return f"{PLANS_FOLDER}/{plan}-{part:05d}.parquet"


def _part_uri(output: str, plan: str, part: int) -> str:
    return storage.join(output, _part_name(plan, part))
