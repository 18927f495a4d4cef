"""The original's text and npy files, and Praat TextGrids: files for each recording."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import FileResult, count_joined, frame_offset, join_pieces, read_files
from sdhubert_ray.output.tables import FAILED_STATUSES, read_ragged, read_vectors

_COLUMNS = ("id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units")
_MAX_NAME_BYTES = 230  # of 255: the longest ending is _segmentfeature.npy
_FEATURE_COLUMNS = ("segment_features", "frame_features", "mask")


def export(output: str, formats: Sequence[str]) -> None:
    """Write an output's recordings in further formats, into the tree of the input, under the output folder.

    `files`: NAME_segments.txt (`start, end` per line, seconds), NAME_feature.npy (T, D) zero outside speech,
    NAME_segmentfeature.npy (S, D). `textgrid`: NAME.TextGrid, one interval tier. NAME is the id without its
    ending, or with it where two would be the same. A recording that could not be read gets none.

    Raises:
        UserError: the output cannot be read or written.
    """
    if not {"files", "textgrid"} & set(formats):
        return
    columns = [*_COLUMNS, *(_FEATURE_COLUMNS if "files" in formats else ())]
    names = name_files(
        [result for table in read_files(output, ["id"]) for result in table.column("id").to_pylist()[:1]]
    )
    for table in read_files(output, columns):
        result = join_pieces(table)
        if result.status in FAILED_STATUSES:
            continue
        target = storage.join(output, names[result.id])
        if "files" in formats:
            _write_files(target, table, result)
        if "textgrid" in formats:
            storage.put(f"{target}.TextGrid", to_textgrid(result).encode())


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
