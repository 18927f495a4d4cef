"""Files beside the table: the original's text and npy files and Praat TextGrids for each recording, a CSV for all."""

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import (
    Contents,
    FileResult,
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
from sdhubert_ray.output.tables import FAILED_STATUSES, read_ragged, read_vectors

_COLUMNS = ("id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units")
_MOST_PARTS = 256  # each lists the output anew
_MAX_NAME_BYTES = 230  # of 255: the longest ending is _segmentfeature.npy
_FEATURE_COLUMNS = ("segment_features", "frame_features", "mask")
_ENDINGS = {"files": ("_segments.txt", "_segmentfeature.npy", "_feature.npy"), "textgrid": (".TextGrid",)}
_OF_ALL = {"csv": CSV_FILE}
"""The files that all recordings share."""


class ExportPart(NamedTuple):
    """What is exported at once: some of an output's recordings.

    Attributes:
        within: numbers of the commits that they begin in.
        names: by id, the path that their files are named by.
    """

    within: range
    names: dict[str, str]


ExportParts = Callable[[str, Sequence[str], Sequence[ExportPart]], None]
"""Does the parts of an export: of an output, in these formats."""


def export_here(output: str, formats: Sequence[str], parts: Sequence[ExportPart]) -> None:
    """Do the parts of an export one after the other in this process."""
    for part in parts:
        export_part(output, formats, part)


def export(output: str, formats: Sequence[str], do: ExportParts = export_here) -> None:
    """Write an output's recordings in further formats, into the tree of the input, under the output folder.

    `files`: NAME_segments.txt (`start, end` per line, seconds), NAME_feature.npy (T, D) zero outside speech,
    NAME_segmentfeature.npy (S, D). `textgrid`: NAME.TextGrid, one interval tier. NAME is the id without its
    ending, or with it where two would be the same. A recording that could not be read gets none. `csv`: syllables.csv,
    a row for each syllable of all of them. Each file is there whole or not at all.

    Args:
        output: the folder.
        formats: others are left to those who know them.
        do: does the parts, each of which is done by any process, and may be done twice.

    Raises:
        UserError: the output cannot be read or written.
    """
    if "csv" in formats:
        write_csv(output)
    if not _ENDINGS.keys() & set(formats):
        return
    commits = len(require_contents(output).commits)
    step = max(1, -(-commits // _MOST_PARTS))
    withins = [range(begin, min(begin + step, commits)) for begin in range(0, commits, step)]
    ids = [[table.column("id")[0].as_py() for table in read_files(output, ["id"], within=within)] for within in withins]
    names = name_files(dict.fromkeys(file_id for of_part in ids for file_id in of_part))
    parts = zip(withins, ids, strict=True)
    do(output, formats, [ExportPart(within, {name: names[name] for name in of_part}) for within, of_part in parts])


def export_part(output: str, formats: Sequence[str], part: ExportPart) -> None:
    """Do a part of an export. Raises as `export`."""
    columns = [*_COLUMNS, *(_FEATURE_COLUMNS if "files" in formats else ())]
    for table in read_files(output, columns, within=part.within):
        result = join_pieces(table)
        if result.status in FAILED_STATUSES:
            continue
        target = storage.join(output, part.names[result.id])
        if "files" in formats:
            _write_files(target, table, result)
        if "textgrid" in formats:
            storage.put(f"{target}.TextGrid", to_textgrid(result).encode())


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


def check_free(output: str, there: Contents | None, ids: Iterable[str], formats: Sequence[str]) -> None:
    """Refuse names that files would be written to where there are some that no run has written.

    Args:
        output: the folder.
        there: what it holds.
        ids: of all recordings that there will be, in any order and number.
        formats: that are asked for.

    Raises:
        UserError: there is such a file, or an id that leads into a folder of the output, or as `name_files`.
    """
    wanted = {_OF_ALL[name] for name in formats if name in _OF_ALL}
    names = name_files(dict.fromkeys(ids)) if _ENDINGS.keys() & set(formats) else {}
    for file_id, name in names.items():
        if is_in_own_folder(name):
            raise UserError(
                f"the files of id {file_id!r} would lie among those of the output; --format files and textgrid need "
                "other ids"
            )
    wanted |= _with_endings(names.values(), formats)
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
    for plan in there.plans:  # a name may change when another recording comes
        ids = {file_id for table in read_plan(output, plan, ["id"]) for file_id in table.column("id").to_pylist()}
        if ids - formats.keys():
            formats = {**dict.fromkeys(sorted(ids), noted.get(plan.name, ())), **formats}
            for file_id, name in name_files(formats).items():
                if file_id not in failed:
                    written |= _with_endings([name], formats[file_id])
    return written


def _failed_recordings(output: str, there: Contents) -> set[str]:
    keys: set[str] = set()
    for _, table in read_commits(output, there.commits, ["key", "status"]):
        for key, status in zip(table.column("key").to_pylist(), table.column("status").to_pylist(), strict=True):
            (keys.add if status in FAILED_STATUSES else keys.discard)(key)
    return {key.rpartition("#")[0] for key in keys}


def _with_endings(names: Iterable[str], formats: Collection[str]) -> set[str]:
    endings = [ending for name in formats for ending in _ENDINGS.get(name, ())]
    return {f"{name}{ending}" for name in names for ending in endings}


def name_files(ids: Iterable[str]) -> dict[str, str]:
    """For each id the relative path, without ending, that its files are named by.

    Raises:
        UserError: an id that would lead out of the output folder.
    """
    names: dict[str, str] = {}
    taken: dict[str, int] = {}
    for file_id in ids:
        path = PurePosixPath(file_id)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise UserError(f"id {file_id!r} leads out of the output folder; --format files needs relative ids")
        if "\0" in file_id or any(len(part.encode()) > _MAX_NAME_BYTES for part in path.parts):
            raise UserError(f"id {file_id[:80]!r} is no name for a file; --format files and textgrid need other ids")
        names[file_id] = str(path.with_suffix(""))
        taken[names[file_id]] = taken.get(names[file_id], 0) + 1
    whole = {str(PurePosixPath(file_id)): file_id for file_id in names}
    if len(whole) < len(names):
        twin = next(file_id for file_id in names if whole[str(PurePosixPath(file_id))] != file_id)
        raise UserError(f"ids {twin!r} and {whole[str(PurePosixPath(twin))]!r} name the same file; rename one")
    return {
        file_id: name if taken[name] == 1 and name not in whole else str(PurePosixPath(file_id))
        for file_id, name in names.items()
    }


def to_textgrid(result: FileResult) -> str:
    """A Praat TextGrid (long form) with one tier, `syllables`; an interval's text is its unit, or its number from 1."""
    end = max(result.offset + result.duration, float(result.segments[-1, 1]) if len(result.segments) else 0.0)
    labels = result.units if result.units is not None else range(1, len(result.segments) + 1)
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for (start, stop), label in zip(result.segments.tolist(), labels, strict=True):
        if start > at:
            intervals.append((at, start, ""))
        intervals.append((start, stop, str(label)))
        at = stop
    if at < end or not intervals:
        intervals.append((at, end, ""))
    head = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.6f}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        '        name = "syllables"',
        "        xmin = 0",
        f"        xmax = {end:.6f}",
        f"        intervals: size = {len(intervals)}",
    ]
    for number, (start, stop, text) in enumerate(intervals, start=1):
        head += [
            f"        intervals [{number}]:",
            f"            xmin = {start:.6f}",
            f"            xmax = {stop:.6f}",
            f'            text = "{text}"',
        ]
    return "\n".join(head) + "\n"


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
