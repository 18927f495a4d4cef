"""A tokenizing that is checked and planned: what is to be done, and what is refused."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    Commit,
    Contents,
    Plan,
    is_in_output,
    read_contents,
    read_plan,
    require_contents,
)
from sdhubert_ray.output.formats import SequenceOptions, name_files, sequence_files
from sdhubert_ray.output.parquet import read_schema
from sdhubert_ray.output.record import RUN_RECORD
from sdhubert_ray.runs.config import DEVICES
from sdhubert_ray.runs.engines import check_engine
from sdhubert_ray.units import Quantizer

ON_RAY_BYTES = 1 << 30
"""A smaller table gets its units without Ray, unless told otherwise."""
STATISTICS = "units.json"
SEQUENCES, _PARTS = "units", "parts"
SHA256 = "quantizer.sha256"


@dataclass(frozen=True)
class TokenizeJob:
    """A table to be given units, checked and not begun: nothing is written yet.

    Attributes:
        run_id: unique to this run.
        segments: the output whose segments get units, absolute.
        target: where sequences and statistics go; None: into `segments`, whose table gets the units.
        quantizer: that gives them.
        sha256: its digest.
        name: where it is, absolute.
        record: the run record of `segments`.
        commits: its files.
        to_do: whether units have to be found: they are not in the table.
        before: the statistics of an earlier run, or None.
        written: the files of sequences that earlier runs have written, or may have, relative to their folder.
        plans: the plans of `segments`.
        replaces: whether sequences and statistics that are there are of other units.
        sequences: what is exported.
        names: of the files of recordings, by id, where `sequences` has any.
        engine: `local` or `ray`.
        address: of a Ray cluster, or None.
        device: `auto`, `cpu` or `cuda`.
    """

    run_id: str
    segments: str
    target: str | None
    quantizer: Quantizer
    sha256: str
    name: str
    record: Mapping[str, Any]
    commits: Sequence[Commit]
    to_do: bool
    before: Mapping[str, Any] | None
    written: Sequence[str]
    plans: Sequence[str]
    replaces: bool
    sequences: SequenceOptions
    names: Mapping[str, str]
    engine: str
    address: str | None
    device: str

    @property
    def home(self) -> str:
        """The folder that is written into."""
        return self.segments if self.target is None else self.target

    @property
    def sequences_folder(self) -> str:
        """The folder of the sequences."""
        return storage.join(self.segments, SEQUENCES) if self.target is None else self.target

    @property
    def statistics(self) -> str:
        """The file of the statistics."""
        return storage.join(self.home, STATISTICS)

    @property
    def compression(self) -> str:
        """The Parquet codec of the table."""
        return str(self.record["config"]["output"]["compression"])

    @property
    def parts(self) -> str:
        """The folder that units pass through on their way to the sequences where the table is only read."""
        return storage.join(self.home, _PARTS)


def prepare_tokenizing(
    segments: str,
    quantizer: Quantizer,
    name: str,
    sequences: SequenceOptions | None = None,
    *,
    target: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    address: str | None = None,
    overwrite: bool = False,
    foreign: bool = False,
) -> TokenizeJob:
    """Check everything that can be checked before work begins.

    Args:
        segments: an output of `segment` or `resegment` whose run has finished.
        quantizer: that gives units.
        name: the path or URI that it was loaded from.
        sequences: what is exported; none: nothing.
        target: a folder for sequences and statistics; `segments` is then only read. Without one its table gets units.
        device: `auto`, `cpu` or `cuda`.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        overwrite: replace units of another quantizer, or what was exported of them.
        foreign: take a quantizer that was made from features of another checkpoint or layer.

    Raises:
        UserError: anything that the caller has to mend.
    """
    check_engine(engine, address)
    if device not in DEVICES:
        raise UserError(f"device is {device!r}; it has to be one of {', '.join(DEVICES)}")
    segments, name, sha256 = storage.absolute(segments).rstrip("/"), storage.absolute(name), quantizer.sha256
    contents = _read_finished(segments)
    record, commits = contents.record, contents.commits
    there = None if "tokenizing" in record else record["fingerprint"].get(SHA256)
    to_do = there != json.dumps(sha256)
    if to_do:
        _check_features(segments, record, commits, quantizer, name)
        quantizer.check_origin(record["fingerprint"], name, segments, foreign)
    if target is None:
        before = read_statistics(storage.join(segments, STATISTICS))
        _check_replaced(segments, record, sha256, name, overwrite)
        replaces = to_do
    else:
        target = storage.absolute(target).rstrip("/")
        before = _check_target(target, segments, sha256, overwrite)
        replaces = before is not None and overwrite
    sequences = sequences or SequenceOptions()
    names = _name_recordings(segments, contents.plans) if "npy" in sequences.formats else {}
    written = _known_files(before)
    folder = storage.join(segments, SEQUENCES) if target is None else target
    _check_folder(folder if target is None else storage.join(target, _PARTS))
    taken = storage.find_any(folder, {*sequence_files(sequences.formats, names.values())} - {*written})
    if taken is not None:
        raise UserError(
            f"output {folder} holds {taken}, which no `sdhubert tokenize` is known to have written; choose another "
            "output"
        )
    if engine == "auto":
        large = to_do and sum(commit.size for commit in commits) >= ON_RAY_BYTES
        engine = "ray" if address or large else "local"
    return TokenizeJob(
        run_id=uuid.uuid4().hex[:12],
        segments=segments,
        target=target,
        quantizer=quantizer,
        sha256=sha256,
        name=name,
        record=record,
        commits=commits,
        to_do=to_do,
        before=before,
        written=written,
        plans=tuple(plan.name for plan in contents.plans),
        replaces=replaces,
        sequences=sequences,
        names=names,
        engine=engine,
        address=address,
        device=device,
    )


def _name_recordings(segments: str, plans: Sequence[Plan]) -> Mapping[str, str]:
    """The names of the files of recordings, by id. Raises UserError where one would lead out of the folder."""
    tables = (table for plan in plans for table in read_plan(segments, plan, ["id"]))
    return name_files(dict.fromkeys(file_id for table in tables for file_id in table.column("id").to_pylist()))


def _read_finished(segments: str) -> Contents:
    """What the output of a run that has finished holds. Raises UserError."""
    contents = require_contents(segments)
    record, left = contents.record, contents.rows_left
    if not isinstance(record.get("config"), dict) or not isinstance(record["config"].get("output"), dict):
        raise UserError(f"{segments} was made by another version of sdhubert_ray; make it again")
    # Rows that a half-done tokenizing has lost are made anew by `segment` when the others have their units.
    if "tokenizing" not in record and (left or record.get("state") != "finished"):
        raise UserError(
            f"the run in {segments} has not finished ({left} rows are left); finish it first, by the command that "
            "began it"
        )
    if not contents.commits:
        raise UserError(f"{segments} has no rows to give units to; run `sdhubert segment` into it first")
    return contents


def _check_features(
    segments: str, record: Mapping[str, Any], commits: Sequence[Commit], quantizer: Quantizer, name: str
) -> None:
    if record["config"]["output"].get("segment_features") == "none":
        raise UserError(
            f"{segments} keeps no segment features to find units by; make it again with output.segment_features=auto, "
            "or with `sdhubert segment --quantizer`"
        )
    kind = read_schema(storage.join(segments, commits[0].name)).field("segment_features").type
    quantizer.check_width(kind.value_type.list_size, name, segments)


def _check_replaced(segments: str, record: Mapping[str, Any], sha256: str, name: str, overwrite: bool) -> None:
    """Units of another quantizer are replaced only if that is asked for."""
    begun = record.get("tokenizing")
    if overwrite:
        return
    if begun is not None and begun["sha256"] != sha256:
        raise UserError(
            f"{segments} is half way to the units of quantizer {begun['name']}; give that one, or --overwrite its units"
        )
    there = record["fingerprint"].get(SHA256)
    if begun is None and there not in (None, json.dumps(sha256)):
        before = record["config"].get("quantizer")
        raise UserError(
            f"{segments} has the units of quantizer {before}, which is another than {name}; --overwrite them, or name "
            "a folder to export to"
        )


def _check_target(target: str, segments: str, sha256: str, overwrite: bool) -> Mapping[str, Any] | None:
    """The statistics of an earlier run into a folder. Raises UserError where it was of other units, or none of ours."""
    if storage.is_same_folder(target, segments):
        raise UserError(f"output {target} is where the segments are; leave it out, or choose another")
    if storage.exists(target) and not storage.is_folder(target):
        raise UserError(f"output {target} is a file; name a folder")
    if storage.exists(storage.join(target, RUN_RECORD)):
        raise UserError(f"output {target} holds a run of `sdhubert segment`; choose another output")
    if is_in_output(target):
        raise UserError(f"output {target} is a part of the output of a run; choose another output")
    before = read_statistics(storage.join(target, STATISTICS))
    if before is not None and not overwrite:
        source, of = before["segments"], before["quantizer"]
        if (source, of["sha256"]) != (segments, sha256):
            raise UserError(
                f"output {target} has the units of {source} by quantizer {of['name']}; choose another output, or "
                "--overwrite it"
            )
    return before


def read_statistics(uri: str) -> Mapping[str, Any] | None:
    """The statistics of an earlier run, or None where there are none. Raises UserError."""
    try:
        before = storage.read_json(uri)
        if before is not None:
            _ = (
                before["segments"],
                before["quantizer"]["name"],
                before["quantizer"]["sha256"],
                before["sequences"]["formats"],
            )
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{uri} is no statistics of `sdhubert tokenize`; choose another output") from error
    return before


def _known_files(before: Mapping[str, Any] | None) -> list[str]:
    """The files of sequences that earlier runs have written, or may have, by the statistics of the last."""
    if before is None:
        return []
    # Those of earlier versions tell the formats of the last run only.
    formats, plans = before.get("written", before["sequences"]["formats"]), {*before.get("plans", ())}
    names: Mapping[str, str] = {}
    if "npy" in formats:
        there = read_contents(before["segments"])  # that of other segments, if they are to be replaced
        names = _name_recordings(
            before["segments"], [plan for plan in there.plans if plan.name in plans] if there else []
        )
    return sequence_files(formats, names.values())


def _check_folder(uri: str) -> None:
    """Raise UserError where a folder is to be made and a file is in its place."""
    if storage.exists(uri) and not storage.is_folder(uri):
        raise UserError(f"{uri} is a file where a folder is to be made; choose another output")
