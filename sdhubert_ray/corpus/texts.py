"""Manifests as text: CSV in its dialects, JSON lines, and those of NeMo, lhotse, Kaldi and fairseq."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sdhubert_ray import storage
from sdhubert_ray.corpus.shards import beside

_JSON_SUFFIXES = (".jsonl", ".json")
_TABLE_SUFFIXES = (".csv", ".tsv")
_KALDI_SUFFIX = ".scp"
_GZIP_SUFFIX = ".gz"

URI_NAMES = ("uri", "audio_filepath")
"""What the column is called that names the audio."""
_TEXT_COLUMNS = ("id", *URI_NAMES, "member", "source_version")
_DELIMITERS = ",;\t"
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# What lhotse tells of who speaks, and what, where a cut has one supervision.
_OF_SUPERVISION = ("speaker", "language", "gender", "text")
_MOST_BYTES = 2 << 30
_ARCHIVE = re.compile(r"\.ark:\d+$")


def is_text_manifest(name: str) -> bool:
    """Tell by its name whether a file is a manifest in text."""
    return name.lower().removesuffix(_GZIP_SUFFIX).endswith((*_JSON_SUFFIXES, *_TABLE_SUFFIXES, _KALDI_SUFFIX))


def is_surely_manifest(name: str) -> bool:
    """Tell by its name whether a file is a manifest in text: one that is only called JSON may be anything."""
    bare = name.lower().removesuffix(_GZIP_SUFFIX)
    return is_text_manifest(name) and (not bare.endswith(".json") or "manifest" in bare)


def parse_manifest(uri: str) -> pa.Table:
    """Read a manifest in text as a whole: its rows, with the columns that it has, or those that ours are called.

    Args:
        uri: JSON lines or a list of JSON objects (.jsonl, .json), ours, NeMo's or lhotse's cuts or recordings; CSV with
            commas, semicolons or tabs (.csv, .tsv), or fairseq's; Kaldi's `wav.scp`, with the `segments`, `utt2spk`
            and `reco2dur` beside it. All may be compressed (.gz).

    Raises:
        ValueError: it is damaged; with the number of the line.
        ArrowException: it is no CSV.
        OSError: it cannot be read; or as `storage.open_binary`.
    """
    data = storage.read_bytes(uri)
    name = PurePosixPath(uri).name.lower()
    if name.endswith(_GZIP_SUFFIX):
        name = name.removesuffix(_GZIP_SUFFIX)
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(_MOST_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"it is no whole gzip file: {error}") from error
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it is over {_MOST_BYTES >> 30} GiB when unpacked; take Parquet for so many rows")
    text = _decode(data)
    if name.endswith(_KALDI_SUFFIX):
        return _from_kaldi(text, lambda other: _read_beside(uri, other))
    if name.endswith(_TABLE_SUFFIXES):
        listed = _from_fairseq(text)
        return _from_csv(text) if listed is None else listed
    return _from_json(text)


def _decode(data: bytes) -> str:
    mark, encoding = next((known for known in _BYTE_ORDER_MARKS if data.startswith(known[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    if not mark and b"\0" in data[:2]:  # of the two bytes of an ASCII character one is zero
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not {encoding.upper()}; save it as UTF-8") from error


def _from_csv(text: str) -> pa.Table:
    header = text.split("\n", 1)[0]
    names = {mark: {name.strip().strip('"') for name in header.split(mark)} for mark in _DELIMITERS}
    delimiter = next((mark for mark in _DELIMITERS if names[mark] & set(URI_NAMES)), ",")
    # Ids such as 0001 are names, not numbers.
    written = (name for name in header.rstrip("\r").split(delimiter) if name.strip().strip('"') in _TEXT_COLUMNS)
    types = {name.strip('"'): pa.string() for name in written}
    options = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    # In memory of Arrow's own: a thread of it that lets go of Python's needs the interpreter, see `parquet_file`.
    held = pa.BufferOutputStream()
    held.write(text.encode())
    table = pyarrow.csv.read_csv(
        pa.BufferReader(held.getvalue()),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=options,
    )
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type):
            broken = pc.index(pc.fill_null(pc.match_substring(column, "\n"), False), True).as_py()
            if broken >= 0:
                raise ValueError(
                    f"row {broken + 1} has a line break in column {name.strip()!r}, so that lines may have become one; "
                    "is a quote without its other one in it?"
                )
    return table.rename_columns([name.strip() for name in table.column_names])


def _from_fairseq(text: str) -> pa.Table | None:
    """A folder, then a relative path and its number of samples in each line; None if this is none."""
    root, *lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()] or [""]
    rows = [line.split("\t") for line in lines]
    if not rows or "\t" in root or not all(len(row) == 2 and row[1].isdecimal() for row in rows):
        return None
    paths = [row[0] for row in rows]
    return pa.table({"id": paths, "uri": [storage.join(root, path) for path in paths]})


def _from_json(text: str) -> pa.Table:
    if text.lstrip()[:1] == "[":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {error.lineno} is no JSON: {error.msg}") from error
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        numbered = [(f"entry {number}", row) for number, row in enumerate(rows, start=1)]
    else:
        numbered = [(f"line {number}", _parse_line(number, line)) for number, line in _lines(text)]
    for place, row in numbered:
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no JSON object")
    rows = [_checked_lhotse(place, row) if _is_lhotse(row) else row for place, row in numbered]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _lines(text: str) -> Iterable[tuple[int, str]]:
    # Only \n ends a line of JSON: transcripts may hold the other separators that splitlines knows.
    return ((number, line) for number, line in enumerate(io.StringIO(text, newline="\n"), start=1) if line.strip())


def _parse_line(number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is no JSON: {error.msg}; each line has to hold one object") from error
    except RecursionError as error:
        raise ValueError(f"line {number} is nested too deep") from error


def _is_lhotse(row: dict[str, Any]) -> bool:
    if set(URI_NAMES) & set(row):  # whose other columns may be called as lhotse's
        return False
    return isinstance(row.get("recording"), dict) or isinstance(row.get("sources"), list) or "tracks" in row


def _checked_lhotse(place: str, row: dict[str, Any]) -> dict[str, Any]:
    try:
        return _from_lhotse(place, row)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{place} is no cut or recording as lhotse writes it") from error


def _from_lhotse(place: str, row: dict[str, Any]) -> dict[str, Any]:
    """A cut, or a recording."""
    if "tracks" in row:
        raise ValueError(f"{place} is a cut mixed of several; write its audio first (lhotse: `save_audios`)")
    recording = row.get("recording", row)
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ValueError(f"{place} has not one source of audio; write its audio first (lhotse: `save_audios`)")
    source = sources[0]
    if source.get("type") not in ("file", "url") or recording.get("transforms"):
        raise ValueError(f"{place} is of audio that is made when it is read; write it first (lhotse: `save_audios`)")
    found = {"id": row.get("id"), "uri": source.get("source"), "duration": recording.get("duration")}
    if recording is not row:
        start, length = row.get("start") or 0.0, row.get("duration")
        if start or length != recording.get("duration"):
            found |= {"start": start, "end": None if length is None else start + length}
        channels = row.get("channel")
        channel = channels[0] if isinstance(channels, list) and len(channels) == 1 else channels
        there = source.get("channels") or []
        if isinstance(channel, list) and sorted(channel) != sorted(there):
            raise ValueError(f"{place} is of some channels of several; write its audio first (lhotse: `save_audios`)")
        if channel in there and len(there) > 1:
            found["channel"] = there.index(channel)
        supervisions = row.get("supervisions") or []
        if len(supervisions) == 1:
            found |= {name: supervisions[0].get(name) for name in _OF_SUPERVISION}
    return found


def _column(name: str, values: list[object]) -> pa.Array:
    try:
        column = pa.array(values)
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} has values of several types: {error}") from error
    except OverflowError as error:
        raise ValueError(f"column {name!r} has an integer of more than 64 bits; write it as text") from error
    if _has_empty_struct(column.type):  # which no writer can keep
        column = pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
    return column


def _has_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_empty_struct(field.type) for field in kind)
    return pa.types.is_list(kind) and _has_empty_struct(kind.value_type)


def _from_kaldi(text: str, read_beside: Callable[[str], str | None]) -> pa.Table:
    """Recordings of a `wav.scp`, or the utterances that the `segments` beside it cuts out of them."""
    recordings: dict[str, str] = {}
    for number, name, path in _pairs(text, "wav.scp"):
        if path.endswith("|"):
            raise ValueError(f"line {number} is a command, which is not run; write its audio to a file")
        if _ARCHIVE.search(path):
            raise ValueError(f"line {number} names a place in an archive; write its audio to a file (wav-copy)")
        if name in recordings:
            raise ValueError(f"line {number} names recording {name!r} again; leave out one")
        recordings[name] = path
    durations = {
        name: _seconds(value, f"reco2dur, line {number}")
        for number, name, value in _pairs(read_beside("reco2dur"), "reco2dur")
    }
    segments = read_beside("segments")
    rows = [{"id": name, "uri": uri, "duration": durations.get(name)} for name, uri in recordings.items()]
    if segments is not None:
        rows = []
        for number, name, rest in _pairs(segments, "segments"):
            place = f"segments, line {number}"
            fields = rest.split()
            if len(fields) not in (3, 4) or fields[0] not in recordings:
                raise ValueError(f"{place} is not: utterance, a recording of wav.scp, start, end")
            start, end = (_seconds(field, place) for field in fields[1:3])
            if len(fields) == 4 and not fields[3].isdecimal():
                raise ValueError(f"{place} has the channel {fields[3]!r}; it has to be a number, from 0")
            rows.append(
                {
                    "id": name,
                    **({"channel": int(fields[3])} if len(fields) == 4 else {}),
                    "uri": recordings[fields[0]],
                    "duration": durations.get(fields[0]),
                    "start": start,
                    "end": end if end >= 0 else None,  # Kaldi's -1 is the end of the recording
                }
            )
    speakers = {name: speaker for _, name, speaker in _pairs(read_beside("utt2spk"), "utt2spk")}
    if speakers:
        rows = [{**row, "speaker": speakers.get(str(row["id"]))} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _pairs(text: str | None, file: str) -> Iterable[tuple[int, str, str]]:
    """The lines of one of Kaldi's files: number, name, and what stands behind it."""
    for number, line in _lines(text or ""):
        name, *rest = line.strip().split(None, 1)
        if not rest:
            raise ValueError(f"{file}, line {number} has nothing behind {name!r}")
        yield number, name, rest[0]


def _seconds(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{place} has {text!r}, which is no number of seconds") from error


def _read_beside(uri: str, name: str) -> str | None:
    """The text of another file in the folder of a file, or None where there is none."""
    other = beside(uri, name)
    return _decode(storage.read_bytes(other)) if storage.exists(other) else None
