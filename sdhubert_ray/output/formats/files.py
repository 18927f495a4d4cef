"""Files beside the table: the original's text and npy files and Praat TextGrids for each recording, a CSV for all."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    Contents,
    FileResult,
    Plan,
    count_joined,
    frame_offset,
    is_in_own_folder,
    join_pieces,
    read_contents,
    read_files,
    read_plan,
    require_contents,
)
from sdhubert_ray.output.commits import read_commits
from sdhubert_ray.output.formats.csv import CSV_FILE, write_csv
from sdhubert_ray.output.formats.naming import NAMING_COLUMNS, Grid, Naming
from sdhubert_ray.output.formats.textgrid import Tier, channels_to_textgrid, to_textgrid
from sdhubert_ray.output.tables import FAILED_STATUSES, read_ragged, read_vectors

_COLUMNS = ("id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units")
_MOST_PARTS = 256  # each lists the output anew
_FEATURE_COLUMNS = ("segment_features", "frame_features", "mask")
_GRID = ".TextGrid"
_ENDINGS = {"files": ("_segments.txt", "_segmentfeature.npy", "_feature.npy"), "textgrid": (_GRID,)}
_OF_ALL = {"csv": CSV_FILE}
"""The files that all recordings share."""


class ExportPart(NamedTuple):
    """What is exported at once: some of an output's recordings.

    Attributes:
        within: numbers of the commits that they begin in.
        names: by id, the path that their files are named by, but for TextGrids.
        grids: by id, the TextGrid that their tiers are in.
        others: by id, further tiers that they have.
    """

    within: range
    names: dict[str, str]
    grids: dict[str, Grid]
    others: dict[str, Sequence[Tier]]


ExportParts = Callable[[str, Sequence[str], Sequence[ExportPart]], None]
"""Does the parts of an export: of an output, in these formats."""
FurtherTiers = Callable[[str], Sequence[Tier]]
"""Gives the further tiers of a recording by its id, such as those of its reference."""


def export_here(output: str, formats: Sequence[str], parts: Sequence[ExportPart]) -> None:
    """Do the parts of an export one after the other in this process."""
    for part in parts:
        export_part(output, formats, part)


def export(
    output: str, formats: Sequence[str], do: ExportParts = export_here, further: FurtherTiers | None = None
) -> None:
    """Write an output's recordings in further formats, into the tree of the input, under the output folder.

    `files`: NAME_segments.txt (`start, end` per line, seconds), NAME_feature.npy (T, D) zero outside speech,
    NAME_segmentfeature.npy (S, D). `textgrid`: NAME.TextGrid, see `to_textgrid`; channels of a file share one, see
    `Naming.grids`. NAME is the id without its ending, or with it where two would be the same. A recording that could
    not be read gets none. `csv`: syllables.csv, a row for each syllable of all of them. Each file is there whole or not
    at all.

    Args:
        output: the folder.
        formats: others are left to those who know them.
        do: does the parts, each of which is done by any process, and may be done twice.
        further: gives further tiers of TextGrids.

    Raises:
        UserError: the output cannot be read or written, or further tiers cannot be had.
    """
    if "csv" in formats:
        write_csv(output)
    if not _ENDINGS.keys() & set(formats):
        return
    contents = require_contents(output)
    naming = _name(output, contents.plans)
    names, grids = naming.names(), naming.grids()
    commits = len(contents.commits)
    step = max(1, -(-commits // _MOST_PARTS))
    withins = [range(begin, min(begin + step, commits)) for begin in range(0, commits, step)]
    ids = [[table.column("id")[0].as_py() for table in read_files(output, ["id"], within=within)] for within in withins]
    scattered = _find_scattered(ids, grids)
    wants_grids = "textgrid" in formats

    def part_of(within: range, of_files: Iterable[str], of_grids: Iterable[str]) -> ExportPart:
        chosen = {file_id: grids[file_id] for file_id in (of_grids if wants_grids else ())}
        others = {} if further is None else {file_id: further(file_id) for file_id in chosen}
        return ExportPart(within, {file_id: names[file_id] for file_id in of_files}, chosen, others)

    parts = [
        part_of(within, of_part, [file_id for file_id in of_part if file_id not in scattered])
        for within, of_part in zip(withins, ids, strict=True)
    ]
    if scattered and wants_grids:
        parts.append(part_of(range(commits), (), scattered))
    do(output, formats, parts)


def _find_scattered(parts: Iterable[Iterable[str]], grids: Mapping[str, Grid]) -> set[str]:
    """Of the recordings of some parts, those that share a TextGrid with one of another part."""
    homes: dict[str, set[int]] = {}
    for number, ids in enumerate(parts):
        for file_id in ids:
            if grids[file_id].channel is not None:
                homes.setdefault(grids[file_id].name, set()).add(number)
    return {file_id for file_id, grid in grids.items() if len(homes.get(grid.name, ())) > 1}


def export_part(output: str, formats: Sequence[str], part: ExportPart) -> None:
    """Do a part of an export. Raises as `export`."""
    with_files = "files" in formats and bool(part.names)
    columns = [*_COLUMNS, *(_FEATURE_COLUMNS if with_files else ())]
    awaited = Counter(grid.name for grid in part.grids.values() if grid.channel is not None)
    channels: dict[str, dict[int, tuple[FileResult, Sequence[Tier]]]] = {}
    for table in read_files(output, columns, within=part.within):
        result = join_pieces(table)
        is_there = result.status not in FAILED_STATUSES
        if with_files and is_there:
            _write_files(storage.join(output, part.names[result.id]), table, result)
        grid, others = part.grids.get(result.id), part.others.get(result.id, ())
        if grid is None:
            continue
        if grid.channel is None:
            if is_there:
                _write_grid(output, grid, to_textgrid(result, others))
            continue
        awaited[grid.name] -= 1
        if is_there:
            channels.setdefault(grid.name, {})[grid.channel] = (replace(result, segment_features=None), others)
        if not awaited[grid.name] and grid.name in channels:
            _write_grid(output, grid, channels_to_textgrid(channels.pop(grid.name)))


def _write_grid(output: str, grid: Grid, text: str) -> None:
    storage.put(storage.join(output, f"{grid.name}{_GRID}"), text.encode())


def note_formats(
    before: Mapping[str, Any] | None, plans: Iterable[str], formats: Sequence[str]
) -> dict[str, list[str]]:
    """What run.json has to know before files are written: by the name of a plan, the formats of its recordings' files.

    Args:
        before: the record of the run that this one goes on with.
        plans: all plans that there are.
        formats: that this run writes.
    """
    plans = [*plans]
    noted = {} if before is None else _noted(before, plans)
    asked = {*_ENDINGS, *_OF_ALL} & {*formats}
    return {plan: sorted({*asked, *noted.get(plan, ())}) for plan in plans}


def formats_to_write(record: Mapping[str, Any], formats: Sequence[str]) -> Sequence[str]:
    """The formats of a run: those asked for, and of earlier runs those whose one file would lack its recordings else.

    Args:
        record: of the run, with what `note_formats` gives.
        formats: that are asked for.
    """
    noted = {name for names in record["formats"].values() for name in names}
    return [*formats, *sorted(noted & _OF_ALL.keys() - {*formats})]


def _noted(record: Mapping[str, Any], plans: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """What a record tells of the formats of plans; those of earlier versions tell what the last run was asked for."""
    asked = record.get("config", {}).get("output", {}).get("formats", ())
    noted: Mapping[str, Sequence[str]] = record.get("formats", dict.fromkeys(plans, asked))
    return noted


def check_free(output: str, there: Contents | None, planned: Iterable[pa.Table], formats: Sequence[str]) -> None:
    """Refuse names that files would be written to where there are some that no run has written.

    Args:
        output: the folder.
        there: what it holds.
        planned: all rows that there will be, in any order and number, with `NAMING_COLUMNS`.
        formats: that are asked for.

    Raises:
        UserError: there is such a file, or an id that leads into a folder of the output, or as `name_files`.
    """
    wanted = {_OF_ALL[name] for name in formats if name in _OF_ALL}
    naming = Naming()
    if _ENDINGS.keys() & set(formats):
        for rows in planned:
            naming.add(rows)
    names = naming.names()
    for file_id, name in names.items():
        if is_in_own_folder(name):
            raise UserError(
                f"the files of id {file_id!r} would lie among those of the output; --format files and textgrid need "
                "other ids"
            )
    wanted |= _list_files(naming, dict.fromkeys(names, formats))
    if not wanted:
        return
    taken = storage.find_any(output, wanted - _written(output, there) if there else wanted)
    if taken is not None:
        raise UserError(
            f"output {output} holds {taken}, which no run in it is known to have written; choose another output"
        )


def remove_files(output: str) -> None:
    """Remove the files beside the table that the runs in an output have written."""
    contents = read_contents(output)
    if contents is not None:
        storage.remove_files([storage.join(output, name) for name in sorted(_written(output, contents))])


def _written(output: str, there: Contents) -> set[str]:
    """The files, relative to an output, that its runs have written or may have: not of recordings that failed."""
    noted = {} if there.is_half_removed else _noted(there.record, [plan.name for plan in there.plans])
    all_noted = {name for names in noted.values() for name in names}
    written = {_OF_ALL[name] for name in all_noted if name in _OF_ALL}
    if not all_noted & _ENDINGS.keys():
        return written
    failed = _failed_recordings(output, there)
    formats: dict[str, Sequence[str]] = {}  # by id
    naming = Naming()
    for plan in there.plans:  # a name may change when another recording comes
        ids: set[str] = set()
        for table in read_plan(output, plan, NAMING_COLUMNS):
            naming.add(table)
            ids.update(table.column("id").to_pylist())
        if ids - formats.keys():
            formats = {**dict.fromkeys(sorted(ids), noted.get(plan.name, ())), **formats}
            written |= _list_files(naming, {name: formats[name] for name in formats if name not in failed})
    return written


def _name(output: str, plans: Iterable[Plan]) -> Naming:
    """The recordings of an output's plans."""
    naming = Naming()
    for plan in plans:
        for table in read_plan(output, plan, NAMING_COLUMNS):
            naming.add(table)
    return naming


def _failed_recordings(output: str, there: Contents) -> set[str]:
    keys: set[str] = set()
    for _, table in read_commits(output, there.commits, ["key", "status"]):
        for key, status in zip(table.column("key").to_pylist(), table.column("status").to_pylist(), strict=True):
            (keys.add if status in FAILED_STATUSES else keys.discard)(key)
    return {key.rpartition("#")[0] for key in keys}


def _list_files(naming: Naming, formats: Mapping[str, Sequence[str]]) -> set[str]:
    """The files of recordings, given the formats of each by id."""
    names, grids = naming.names(), naming.grids()
    return {
        f"{grids[file_id].name if ending == _GRID else names[file_id]}{ending}"
        for file_id, wanted in formats.items()
        for name in wanted
        for ending in _ENDINGS.get(name, ())
    }


def _write_files(target: str, table: pa.Table, result: FileResult) -> None:
    lines = [f"{start:.3f}, {end:.3f}\n" for start, end in result.segments]
    storage.put(f"{target}_segments.txt", "".join(lines).encode())
    kind = table.schema.field("frame_features").type.value_type
    width, dtype = kind.list_size, kind.value_type.to_pandas_dtype()
    pooled = result.segment_features if result.segment_features is not None else np.zeros((0, width), dtype)
    storage.put(f"{target}_segmentfeature.npy", to_npy(pooled))
    storage.put(f"{target}_feature.npy", _npy_stream(table, width, np.dtype(dtype)))


def to_npy(array: npt.NDArray[np.generic]) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _npy_stream(table: pa.Table, width: int, dtype: np.dtype[np.generic]) -> Iterator[bytes]:
    """A .npy file of all frames of a recording, made piece by piece so that they are not held twice."""
    rows = table.select(["offset", "num_frames"]).to_pylist()
    total = count_joined([row["offset"] for row in rows], [row["num_frames"] for row in rows])
    begins = [frame_offset(row["offset"]) - frame_offset(rows[0]["offset"]) for row in rows]
    header = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total, width)}
    np.lib.format.write_array_header_1_0(header, shape)
    yield header.getvalue()
    features = read_vectors(table.column("frame_features"))
    masks = read_ragged(table.column("mask"))
    for piece, mask, begin, next_begin in zip(features, masks, begins, [*begins[1:], total], strict=True):
        end = max(begin, min(next_begin, total))
        block = np.zeros((end - begin, width), dtype)
        if piece is not None and mask is not None:
            block[: len(piece)] = np.where(mask[:, None], piece, 0)
        yield block.tobytes()
