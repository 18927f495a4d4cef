"""Manifests: list audio, or read a list of it; validate; cut long files into pieces."""

import difflib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from sdhubert_ray import storage
from sdhubert_ray.audio import probe_duration
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.tables import MANIFEST_FIELDS, PIPELINE_COLUMNS, RESULT_FIELDS

AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aiff",
        ".aif",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
        ".voc",
        ".sph",
        ".nist",
        ".m4a",
        ".aac",
        ".wma",
        ".webm",
        ".amr",
    ]
)
"""Files of a folder that are taken for audio; a file named by itself or by a glob is taken whatever its name."""
_MANIFEST_SUFFIXES = frozenset((".parquet", ".jsonl", ".csv"))
_COLUMNS = {
    "id": pa.string(),
    "uri": pa.string(),
    "start": pa.float64(),
    "end": pa.float64(),
    "duration": pa.float64(),
    "channel": pa.int32(),
}
_REQUIRED = ("id", "uri")
_RESERVED = (
    {field.name for field in (*MANIFEST_FIELDS, *RESULT_FIELDS)} | {"segment_features", "units", *PIPELINE_COLUMNS}
) - set(_COLUMNS)
_PROBES_AT_ONCE = 16


@dataclass(frozen=True)
class Listing:
    """What an input holds.

    Attributes:
        table: one row per file, with `id` and `uri`, perhaps `start`, `end`, `duration`, `channel`, and other columns.
        ignored: how many files of a folder were not taken for audio.
    """

    table: pa.Table
    ignored: int


def list_input(uri: str) -> Listing:
    """List the audio of a folder (recursively), a glob, one file, or a manifest (.parquet, .jsonl, .csv).

    An `id` is the path relative to the folder (or to the fixed part of the glob), with its ending.

    Raises:
        UserError: nothing there, nothing of use in it, or a broken manifest.
    """
    if not storage.exists(uri):
        if storage.has_magic(uri):
            return _list_glob(uri)
        raise UserError(f"input {uri} does not exist; name a file, a folder, a glob or a manifest")
    if storage.is_folder(uri):
        return _list_folder(uri)
    if PurePosixPath(uri).suffix.lower() in _MANIFEST_SUFFIXES:
        return Listing(read_manifest(uri), 0)
    return Listing(list_files([(PurePosixPath(uri).name, storage.absolute(uri))]), 0)


def read_manifest(uri: str) -> pa.Table:
    """Read and validate a manifest; relative uris are relative to it.

    Raises:
        UserError: unreadable, a column missing or of a wrong type, or two rows of one id.
    """
    data = storage.read_bytes(uri)
    try:
        table = _parse(PurePosixPath(uri).suffix.lower(), data)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"manifest {uri} cannot be read ({str(error).splitlines()[0]})") from error
    if not table.num_rows:
        raise UserError(f"manifest {uri} has no rows")
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise UserError(f"manifest {uri} has two columns {twice[0]!r}; rename one")
    for name in _REQUIRED:
        if name not in table.column_names:
            near = difflib.get_close_matches(name, table.column_names, 1)
            hint = f"; did you mean its column {near[0]!r}?" if near else f"; it has {', '.join(table.column_names)}"
            raise UserError(f"manifest {uri} has no column {name!r}{hint}")
    reserved = sorted(_RESERVED & set(table.column_names))
    if reserved:
        raise UserError(f"manifest {uri} has a column {reserved[0]!r}, which the output needs itself; rename it")
    table = _typed(table, uri)
    folder = uri.rpartition("/")[0] if "/" in uri else "."
    uris = [_resolve(value, folder) for value in table.column("uri").to_pylist()]
    table = table.set_column(table.column_names.index("uri"), "uri", pa.array(uris, type=pa.string()))
    _check_rows(table, uri)
    return table


def cut_pieces(table: pa.Table, piece_seconds: float) -> pa.Table:
    """Give each file its rows: one, or for audio over `piece_seconds` one per piece, with `key` = id#piece.

    Durations that the table does not tell are read from the files; what cannot be read stays one row, and its
    reason is found where it is decoded.

    Returns:
        `MANIFEST_FIELDS` and the columns carried through. A nominal joint lies at each inner `end`.
    """
    rows = table.num_rows
    columns = {
        name: table.column(name).to_pylist() if name in table.column_names else [None] * rows for name in _COLUMNS
    }
    columns["duration"] = _known_durations(columns, piece_seconds)
    source: list[int] = []
    pieces: dict[str, list[object]] = {field.name: [] for field in MANIFEST_FIELDS}
    for row in range(rows):
        start, end, duration = columns["start"][row] or 0.0, columns["end"][row], columns["duration"][row]
        stop = min((time for time in (end, duration) if time is not None), default=None)
        stop = None if stop is None else max(start, stop)  # a part behind the end of its file is empty
        count = max(1, math.ceil((stop - start) / piece_seconds)) if stop is not None else 1
        for piece in range(count):
            source.append(row)
            length = (stop - start) / count if stop is not None else None
            last = piece == count - 1
            values = {
                "key": f"{columns['id'][row]}#{piece}",
                "id": columns["id"][row],
                "uri": columns["uri"][row],
                "piece": piece,
                "num_pieces": count,
                "start": start if not piece or length is None else start + piece * length,
                # The last piece reads to the end, whatever the header says.
                "end": end if last or length is None else start + (piece + 1) * length,
                "duration": length,
                "channel": columns["channel"][row],
            }
            for name, value in values.items():
                pieces[name].append(value)
    cut = pa.table({field.name: pa.array(pieces[field.name], type=field.type) for field in MANIFEST_FIELDS})
    carried = table.drop_columns([name for name in _COLUMNS if name in table.column_names]).take(
        pa.array(source, pa.int64())
    )
    for name in carried.column_names:
        cut = cut.append_column(carried.schema.field(name), carried.column(name))
    return cut


def split_units(manifest: pa.Table, unit_seconds: float, unit_rows: int) -> Iterator[pa.Table]:
    """Split a manifest into units of work: consecutive rows of about `unit_seconds` of audio, at most `unit_rows`."""
    begin, seconds = 0, 0.0
    for row, duration in enumerate(manifest.column("duration").to_pylist()):
        seconds += duration or 0.0
        if row > begin and (seconds > unit_seconds or row - begin >= unit_rows):
            yield manifest.slice(begin, row - begin)
            begin, seconds = row, duration or 0.0
    if begin < manifest.num_rows:
        yield manifest.slice(begin)


def _list_folder(uri: str) -> Listing:
    names = storage.list_files(uri)
    audio = [name for name in names if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        found = f"none of its {len(names)} files has an audio ending" if names else "it holds no files"
        raise UserError(f"input folder {uri} has no audio: {found}; name another folder, or the files by a glob")
    root = storage.absolute(uri)
    return Listing(list_files([(name, storage.join(root, name)) for name in audio]), len(names) - len(audio))


def _list_glob(pattern: str) -> Listing:
    found = storage.expand_glob(pattern)
    if not found:
        raise UserError(f"input {pattern} matches no file; check the pattern (`**` stands for any depth of folders)")
    root = PurePosixPath(storage.fixed_part(pattern))
    return Listing(list_files([(str(PurePosixPath(uri).relative_to(root)), uri) for uri in found]), 0)


def list_files(files: Sequence[tuple[str, str]]) -> pa.Table:
    """The table of (id, absolute uri) pairs."""
    for name, _ in files:
        if not name.isprintable() and any("\ud800" <= char <= "\udfff" for char in name):
            raise UserError(f"file name {name.encode('utf-8', 'replace').decode()!r} is not UTF-8; rename the file")
    return pa.table(
        {
            "id": pa.array([name for name, _ in files], pa.string()),
            "uri": pa.array([uri for _, uri in files], pa.string()),
        }
    )


def _parse(suffix: str, data: bytes) -> pa.Table:
    if suffix == ".parquet":
        return pyarrow.parquet.read_table(io.BytesIO(data))
    if suffix == ".csv":
        # Ids such as 0001 are names, not numbers.
        options = pyarrow.csv.ConvertOptions(
            column_types={"id": pa.string(), "uri": pa.string()}, strings_can_be_null=True, null_values=[""]
        )
        return pyarrow.csv.read_csv(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")), convert_options=options)
    rows = []
    # Only \n ends a line of JSON: transcripts may hold the other separators that splitlines knows.
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is no JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _column(name: str, values: list[object]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} has values of several types: {error}") from error


def _typed(table: pa.Table, uri: str) -> pa.Table:
    for name, wanted in _COLUMNS.items():
        if name not in table.column_names:
            continue
        index = table.column_names.index(name)
        try:
            column = table.column(name).cast(wanted)
        except pa.ArrowException as error:
            raise UserError(
                f"manifest {uri}: column {name!r} is {table.column(name).type}, not {wanted} ({error})"
            ) from error
        table = table.set_column(index, name, column)
    for index, field in enumerate(table.schema):
        if pa.types.is_null(field.type):  # a type that no writer can keep
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
    return table


def _resolve(uri: str | None, folder: str) -> str | None:
    if not uri or "://" in uri or uri.startswith("/"):
        return uri
    return storage.absolute(storage.join(folder, uri))


def _check_rows(table: pa.Table, uri: str) -> None:
    for name in _REQUIRED:
        empty = [row for row, value in enumerate(table.column(name).to_pylist()) if not value]
        if empty:
            raise UserError(f"manifest {uri}: row {empty[0] + 1} has no {name}")
    counts = pc.value_counts(table.column("id").combine_chunks())
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        name = twice[0]["values"].as_py()
        uris = table.filter(pc.equal(table.column("id"), name)).column("uri").to_pylist()
        raise UserError(f"manifest {uri}: id {name!r} stands twice, for {uris[0]} and {uris[1]}; ids have to be unique")
    _check_numbers(table, uri)


def _check_numbers(table: pa.Table, uri: str) -> None:
    names = [name for name in ("start", "end", "duration", "channel") if name in table.column_names]
    if not names:
        return
    for row in table.select(["id", *names]).to_pylist():
        for name in names:
            if row[name] is not None and not 0 <= row[name] < math.inf:
                raise UserError(f"manifest {uri}: id {row['id']!r} has {name} {row[name]}; it has to be 0 or more")
        start, end, duration = row.get("start") or 0.0, row.get("end"), row.get("duration")
        stop = end if end is not None else duration
        if stop is not None and (stop < start or end == start):
            raise UserError(
                f"manifest {uri}: id {row['id']!r} has start {start}, end {end} and duration {duration}; "
                "start < end is needed, and start < duration of the file"
            )


def _known_durations(columns: Mapping[str, list[Any]], piece_seconds: float) -> list[float | None]:
    """Durations as told or, where the number of pieces hangs on them, as probed."""
    unknown = [
        row
        for row, (duration, start, end) in enumerate(
            zip(columns["duration"], columns["start"], columns["end"], strict=True)
        )
        if duration is None and (end is None or end - (start or 0.0) > piece_seconds)
    ]
    durations: list[float | None] = list(columns["duration"])
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        probed = pool.map(_probe, [str(columns["uri"][row]) for row in unknown])
        for row, duration in zip(unknown, probed, strict=True):
            durations[row] = duration
    return durations


def _probe(uri: str) -> float | None:
    try:
        with storage.open_binary(uri) as file:
            return probe_duration(file)
    except (OSError, AudioError, UserError):
        return None  # the decode stage meets the same error and records it in the row
