"""Segment again from saved frame features: other thresholds or lengths, without the encoder and without the audio."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    Commit,
    Contents,
    Plan,
    StagedPlan,
    fingerprint,
    read_contents,
    read_plan,
    require_contents,
    stage_plan,
)
from sdhubert_ray.output.commits import read_commits
from sdhubert_ray.output.features import FILE, GROUP, read_width
from sdhubert_ray.output.summary import latest_attempts
from sdhubert_ray.output.tables import MANIFEST_FIELDS
from sdhubert_ray.runs.config import JobConfig, load_config
from sdhubert_ray.runs.execute import load_quantizer, plan_job
from sdhubert_ray.runs.planning import DigestSet, Found
from sdhubert_ray.runs.rate import settle_rate
from sdhubert_ray.runs.session import Job, Origin

_KEYS_OF_AUDIO = ("audio.", "windows.", "encoder.", "checkpoint", "dtype", "device")
"""What the encoder has done already."""
_ATTEMPT = "features_attempt"
"""Column of a plan: the plan of the features that a row was done for; a later one is another attempt at the row."""


@dataclass(frozen=True)
class SavedFeatures:
    """An output that keeps frame features.

    Attributes:
        output: its folder, absolute.
        config: that made it, as its run record has it.
        carried: segmentation options of its checkpoint.
        weights: its checkpoint, as its run record has it.
        sha256: of its checkpoint.
        precision: `float32` or `float16`: how features are kept.
        rows_left: rows of it that are not done.
    """

    output: str
    config: Mapping[str, object]
    carried: Mapping[str, Mapping[str, object]]
    weights: Mapping[str, object]
    sha256: str
    precision: str
    rows_left: int

    @property
    def is_rounded(self) -> bool:
        """Whether features were computed more precisely than they are kept."""
        return self.precision == "float16" and self.config["dtype"] == "float32"


def open_features(uri: str) -> SavedFeatures:
    """Look at an output whose features are to be taken.

    Raises:
        UserError: it is no output, or keeps no frame features.
    """
    output = storage.absolute(uri).rstrip("/")
    contents = read_contents(output)
    if contents is None:
        raise UserError(f"{uri} holds no run; name an output folder of `sdhubert segment --frame-features float32`")
    record = contents.record
    if "checkpoint" in record and record["checkpoint"] is None:
        raise UserError(f"{uri} was made without an encoder: there are no frame features to take")
    try:
        config: dict[str, Any] = record["config"]
        precision = str(config["output"]["frame_features"])
        sha256 = str(json.loads(record["fingerprint"]["checkpoint_sha256"]))
        weights: dict[str, Any] = record["checkpoint"]
        load_config(None, [], {}, {}, config)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{uri} was made by another version of sdhubert_ray ({error}); make it again") from error
    if precision == "none":
        raise UserError(f"{uri} keeps no frame features; run `sdhubert segment` with --frame-features float32")
    return SavedFeatures(output, config, weights.get("options", {}), weights, sha256, precision, contents.rows_left)


def load_options(
    features: SavedFeatures, path: str | None, overrides: Sequence[str], flags: Mapping[str, object]
) -> JobConfig:
    """Compose a configuration: that of the features, then a preset's speech and syllables, YAML file, key=value, flags.

    Which formats are written, whether frame features are kept again, and a rate are not taken over; what the rate has
    decided is.

    Raises:
        UserError: as `load_config`, or an option that is for the encoder.
    """
    kept: Any = features.config["output"]
    saved = {**features.config, "rate": None, "output": {**kept, "formats": ["parquet"], "frame_features": "none"}}
    before = load_config(None, [], {}, {}, saved)
    after = load_config(path, overrides, flags, features.carried, saved)
    old, new = fingerprint(asdict(before)), fingerprint(asdict(after))
    for key in new:
        if key.startswith(_KEYS_OF_AUDIO) and new[key] != old[key]:
            raise UserError(
                f"{key} is {old[key]} in {features.output}, and to change it takes the encoder: run `sdhubert segment`"
            )
    if after.output.frame_features == "float32" and features.precision == "float16":
        raise UserError(f"output.frame_features is float32, but {features.output} keeps float16; take float16 or none")
    return after


def prepare_resegment(
    config: JobConfig,
    features: SavedFeatures,
    output: str,
    *,
    engine: str = "auto",
    address: str | None = None,
    overwrite: bool = False,
) -> Job:
    """Check everything that can be checked before work begins, and plan the work.

    Args:
        config: of `load_options`.
        features: where frame features are.
        output: a folder, new or of an earlier run of the same configuration.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        overwrite: remove what an earlier run left.

    Raises:
        UserError: anything that the caller has to mend.
    """
    output = storage.absolute(output).rstrip("/")
    if storage.is_same_folder(output, features.output):
        raise UserError(f"output {output} is where the features are; choose another output")

    config = settle_rate(config, None if overwrite else output)

    def stage(plans: Sequence[Plan], _: Sequence[Commit], folder: Path) -> tuple[StagedPlan, Found, str]:
        return stage_features(features.output, output, plans, folder)

    made_with = fingerprint(config.identity(features.sha256))
    try:
        config, quantizer = load_quantizer(config, read_width(features.output), features.output, made_with)
    except UserError as error:
        if config.quantizer != features.config.get("quantizer"):
            raise
        raise UserError(
            f"the quantizer that {features.output} was made with cannot be taken over ({error}); give quantizer=PATH, "
            "or quantizer=null for syllables without units"
        ) from error
    identity = config.identity(features.sha256, quantizer.sha256 if quantizer else None)
    if features.is_rounded:
        identity["features_kept_as"] = features.precision
    origin = Origin(features.output, features.weights, None, features.output, quantizer)
    return plan_job(config, origin, identity, output, stage, engine=engine, address=address, overwrite=overwrite)


def stage_features(source: str, output: str, plans: Sequence[Plan], folder: Path) -> tuple[StagedPlan, Found, str]:
    """Stage the rows done in `source` that the output does not have, or has from an earlier attempt.

    A unit is a row group of the source. Held at once are 32 bytes for each row that the output has.

    Args:
        source: the output with the features.
        output: the one to be made.
        plans: of the output.
        folder: a local one.

    Returns:
        the plan, what the source holds, and the plan's kind: `retry` where a row was done before.

    Raises:
        UserError: the source has no rows.
    """
    found = Found()
    had = _Had(output, plans)
    staged = stage_plan(_lacking(source, had, found), folder)
    if not found.recordings:
        raise UserError(f"{source} has no rows that are done; run the `sdhubert segment` that makes it first")
    return staged, found, "retry" if had.again else "resegment"


class _Had:
    """The rows that an output has, or is to have, as digests of their keys and attempts."""

    def __init__(self, output: str, plans: Sequence[Plan]) -> None:
        self._keys = DigestSet(("key",))
        self._attempts = DigestSet(("key", _ATTEMPT))
        for plan in plans:
            for table in read_plan(output, plan, ["key", _ATTEMPT]):
                self._keys.add(table)
                self._attempts.add(table)
        self.again = False
        """Whether a row that was there has come again, from a later attempt."""

    def without(self, rows: pa.Table) -> pa.Table:
        """The rows that are new or come from another attempt."""
        fresh = rows.filter(pc.invert(self._attempts.holds(rows)))
        self.again |= bool(pc.any(self._keys.holds(fresh)).as_py())
        return fresh


def _lacking(source: str, had: _Had, found: Found) -> Iterator[pa.Table]:
    """The rows to be staged, a table for each row group of the source that has any."""
    contents = require_contents(source)
    latest = latest_attempts(source, contents.plans, contents.commits)
    retried = _Retried(source, contents)
    for plan in contents.plans:
        units = _plan_units(source, plan)
        here = [commit for commit in contents.commits if commit.plan == plan.number]
        for commit, done in read_commits(source, here, ["key", "duration"]):
            counts = [latest.get(key, plan.number) == plan.number for key in done.column("key").to_pylist()]
            done = done.filter(pa.array(counts, pa.bool_()))
            planned = dict(_take_units(units, commit))
            for unit, rows in _by_unit(done, planned).items():
                rows = _as_planned(rows, planned[unit], plan.number, retried)
                rows = _with_place(rows, commit.name, unit - commit.first)
                found.recordings += pc.sum(pc.equal(rows.column("piece"), 0)).as_py() or 0
                fresh = had.without(rows)
                if fresh.num_rows:
                    yield fresh


class _Retried:
    """The rows of a source that were done again, as the latest plan that did so has them. They are held.

    Attributes:
        rows: `MANIFEST_FIELDS` of them.
        attempts: by key, the number of that plan, and the place in `rows`.
    """

    def __init__(self, source: str, contents: Contents) -> None:
        pending = set(contents.pending)
        parts = [pa.schema(MANIFEST_FIELDS).empty_table()]
        self.attempts: dict[str, tuple[int, int]] = {}
        held = 0
        for plan in contents.plans:
            for unit, rows in _plan_units(source, plan) if plan.kind == "retry" else ():
                if (plan.name, unit) not in pending:
                    keys = enumerate(rows.column("key").to_pylist(), start=held)
                    self.attempts.update({key: (plan.number, place) for place, key in keys})
                    parts.append(rows)
                    held += rows.num_rows
        self.rows = pa.concat_tables(parts).combine_chunks()


def _take_units(units: Iterator[tuple[int, pa.Table]], commit: Commit) -> Iterator[tuple[int, pa.Table]]:
    """Those of the units of a plan that a file has; the ones before them are passed by."""
    for unit, rows in units:
        if unit >= commit.first:
            yield unit, rows
        if unit == commit.last:
            return


def _by_unit(done: pa.Table, planned: Mapping[int, pa.Table]) -> dict[int, pa.Table]:
    """The rows of a file by unit. A row that no unit has is a piece that has come after another one."""
    unit_of = {key: unit for unit, rows in planned.items() for key in rows.column("key").to_pylist()}
    places: dict[int, list[int]] = {}
    unit = min(planned)
    for row, key in enumerate(done.column("key").to_pylist()):
        unit = unit_of.get(key, unit)
        places.setdefault(unit, []).append(row)
    return {unit: done.take(pa.array(rows, pa.int64())) for unit, rows in places.items()}


def _as_planned(done: pa.Table, planned: pa.Table, plan: int, retried: _Retried) -> pa.Table:
    """Rows that are done, as the plan of their latest attempt has them, which is told; with their durations now."""
    here = {key: (plan, retried.rows.num_rows + row) for row, key in enumerate(planned.column("key").to_pylist())}
    found = [max(both.get(key, (0, 0)) for both in (here, retried.attempts)) for key in done.column("key").to_pylist()]
    rows = pa.concat_tables([retried.rows, planned]).take(pa.array([place for _, place in found], pa.int64()))
    rows = rows.set_column(rows.column_names.index("duration"), "duration", done.column("duration"))
    return rows.append_column(_ATTEMPT, pa.array([attempt for attempt, _ in found], pa.int32()))


def _with_place(rows: pa.Table, name: str, group: int) -> pa.Table:
    """Rows with the file and row group where they are."""
    rows = rows.append_column(FILE, pa.array([name] * rows.num_rows, pa.string()))
    return rows.append_column(GROUP, pa.array([group] * rows.num_rows, pa.int32()))


def _plan_units(source: str, plan: Plan) -> Iterator[tuple[int, pa.Table]]:
    unit = 0
    for part in read_plan(source, plan, [field.name for field in MANIFEST_FIELDS]):
        row = 0
        while row < part.num_rows:
            yield unit, part.slice(row, plan.unit_rows[unit])
            row += plan.unit_rows[unit]
            unit += 1
