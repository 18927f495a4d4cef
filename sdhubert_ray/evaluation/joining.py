"""Reference syllables joined to the recordings of a segments table.

The rule: names are compared without the ending of an audio file (.flac, .wav, .mp3 ...), and in one form of Unicode; a
recording's `id` is looked for among the references' file_name, and if it is none of these, among the references' ids.
All else in a name counts, folders too.
"""

import posixpath
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.corpus import AUDIO_SUFFIXES
from sdhubert_ray.corpus.columns import near_miss
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.references import Reference
from sdhubert_ray.output import Commit, join_pieces, read_files, require_contents
from sdhubert_ray.output.parquet import read_schema
from sdhubert_ray.output.record import check_tokenized
from sdhubert_ray.output.tables import FAILED_STATUSES, FRAME_COLUMNS, Array

Quantize = Callable[[Array], npt.NDArray[np.int32]]
"""From features (n, D) to units (n,)."""

MISSING = ("error", "skip", "empty")
_COLUMNS = ("id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units")
_NO_GROUP = "(none)"
_SHOWN = 3
_QUANTIZED_AT_ONCE = 8192
# References that end so many times later than their recordings are in milliseconds, or in samples.
_NO_SECONDS, _NO_MILLISECONDS = 100, 1500


@dataclass(frozen=True)
class JoinOptions:
    """How references and recordings meet.

    Attributes:
        missing: what becomes of a reference without a recording, or with one that could not be read: `error`, `skip`
            (left out) or `empty` (counts as a recording without segments).
        by: columns of the table, such as speaker, by whose values figures are given too.
        rename: how the names of references begin, and what stands there instead in the names of recordings.
    """

    missing: str = "error"
    by: tuple[str, ...] = ()
    rename: tuple[str, str] = ("", "")

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise UserError(f"--missing is {self.missing!r}; it has to be one of {', '.join(MISSING)}")


@dataclass(frozen=True)
class Utterance:
    """A recording and its reference.

    Attributes:
        reference: its syllables.
        segments: (P, 2) float64, seconds.
        units: (P,) int32, or None without a quantizer.
        duration: seconds; 0 where there is no recording.
        groups: its value of each column of `JoinOptions.by`, as text.
        recording: its id in the table; empty where there is no recording.
    """

    reference: Reference
    segments: npt.NDArray[np.float64]
    units: Array | None
    duration: float
    groups: tuple[str, ...] = ()
    recording: str = ""


@dataclass(frozen=True)
class Joined:
    """What met.

    Attributes:
        utterances: in the order of the references.
        by: the columns that groups are of.
        missing: file names of the references without a recording that could be read; see `JoinOptions`.
        failed: of these, by id, the recordings that are in the table, and their status.
        num_extra: recordings in the table that no reference is for.
        extra: the ids of some of them.
    """

    utterances: tuple[Utterance, ...]
    by: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    num_extra: int = 0
    extra: tuple[str, ...] = ()


def join(
    references: Sequence[Reference],
    output: str,
    options: JoinOptions,
    quantize: Quantize | None = None,
    progress: Callable[[int], None] = lambda recordings: None,
) -> Joined:
    """Join references to the recordings of an output. Recordings that none is for are read over, not held.

    Args:
        references: of distinct recordings.
        output: folder of a run.
        options: see `JoinOptions`.
        quantize: makes units of segment features; None takes those of the table, if it has any.
        progress: told of recordings that have been looked at.

    Raises:
        UserError: the output cannot be read or lacks a column; a reference or recording is there twice; a reference
            has no recording and `missing` is `error`, or none has one; times of references are no seconds.
    """
    references = [renamed(reference, *options.rename) for reference in references]
    meeting = _Meeting(references, output, options.by, quantize)
    for table in _read(output, options.by, with_features=quantize is not None):
        meeting.add(table)
        progress(1)
    found, failed = meeting.finish(), meeting.failed
    missing = [reference.file_name for number, reference in enumerate(references) if number not in found]
    if missing and (options.missing == "error" or not found):
        raise _missing_error(output, references, missing, failed, [*meeting.ids.values(), *meeting.extra])
    _refuse_other_times([(one.reference, meeting.ends[number]) for number, one in found.items()])
    if options.missing == "empty":
        for number, reference in enumerate(references):
            groups = meeting.groups.get(number, tuple(_NO_GROUP for _ in options.by))
            found.setdefault(number, Utterance(reference, np.zeros((0, 2)), None, 0.0, groups))
    utterances = tuple(found[number] for number in sorted(found))
    return Joined(utterances, options.by, tuple(missing), failed, meeting.num_extra, tuple(meeting.extra))


def find_reference(references: Sequence[Reference], file_id: str) -> Reference | None:
    """The reference of a recording, by its id.

    Raises:
        UserError: two references name one recording.
    """
    number = _Index(references).find(file_id)
    return None if number is None else references[number]


def list_unmet(references: Sequence[Reference], recordings: Iterable[str]) -> list[str]:
    """The file names of the references that none of some recordings is for.

    Args:
        references: of distinct recordings.
        recordings: their ids.

    Raises:
        UserError: two references name one recording.
    """
    index = _Index(references)
    met = {index.find(recording) for recording in recordings}
    return [one.file_name for number, one in enumerate(references) if number not in met]


def refuse_shared(tested: Sequence[Reference], references: str, validation: Sequence[Reference], tune: str) -> None:
    """Refuse to choose shifts on a recording that they are tested on.

    Args:
        tested: what is tested.
        references: where that is from.
        validation: what shifts are chosen on.
        tune: where that is from.

    Raises:
        UserError: a recording is in both.
    """
    names = [{bare_name(name) for one in some for name in (one.file_name, one.id)} for some in (tested, validation)]
    both = names[0] & names[1]
    if both:
        raise UserError(
            f"{len(both)} recordings, such as {min(both)}, are in {tune} and in {references}; the shift has to be "
            "chosen on other recordings than it is tested on"
        )


def bare_name(name: str) -> str:
    """A name without the ending of an audio file, as names are compared: composed as macOS and Linux both write it."""
    name = unicodedata.normalize("NFC", name)
    stem, ending = posixpath.splitext(name)
    return stem if ending.lower() in AUDIO_SUFFIXES else name


def renamed(reference: Reference, old: str, new: str) -> Reference:
    """A reference whose names begin with `new` where they began with `old`."""
    names = [rename_one(name, old, new) for name in (reference.id, reference.file_name)]
    return replace(reference, id=names[0], file_name=names[1])


def rename_one(name: str, old: str, new: str) -> str:
    """A name that begins with `new` where it began with `old`."""
    return new + name.removeprefix(old) if name.startswith(old) else name


def _refuse_other_times(ended: Sequence[tuple[Reference, float]]) -> None:
    """Refuse references whose times are far behind the ends of their recordings: they are in no seconds.

    Args:
        ended: references, and where their recordings end, in seconds of the file.
    """
    measured = [(float(one.syllables.max()) / end, one, end) for one, end in ended if end and len(one.syllables)]
    if not measured:
        return
    measured.sort(key=lambda entry: entry[0])
    factor, one, end = measured[len(measured) // 2]
    if factor < _NO_SECONDS:
        return
    unit = "samples" if measured[-1][0] > _NO_MILLISECONDS else "milliseconds"
    raise UserError(
        f"the references are in {unit}, it seems: that of {one.file_name} ends at {one.syllables.max():g}, its "
        f"recording at {end:.3f} s; give seconds"
    )


class _Index:
    """References by the names that they may be found by."""

    def __init__(self, references: Sequence[Reference]) -> None:
        self._by_file = self._number([reference.file_name for reference in references], "file_name")
        self._by_id = self._number([reference.id for reference in references], "id")

    def find(self, file_id: str) -> int | None:
        """The number of the reference of a recording."""
        name = bare_name(file_id)
        return self._by_file.get(name, self._by_id.get(name))

    @staticmethod
    def _number(names: Sequence[str], kind: str) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for number, name in enumerate(names):
            other = numbers.setdefault(bare_name(name), number)
            if other != number:
                raise UserError(
                    f"two references have {kind} {names[other]!r} and {name!r}, which name one recording; leave out one"
                )
        return numbers


class _Meeting:
    """References and the recordings that have met them so far, by number of the reference."""

    def __init__(
        self, references: Sequence[Reference], output: str, by: Sequence[str], quantize: Quantize | None
    ) -> None:
        self._references, self._output, self._by, self._quantize = references, output, by, quantize
        self._index = _Index(references)
        self._found: dict[int, Utterance] = {}
        self._waiting: dict[int, Array] = {}  # features that are not quantized yet
        self.ids: dict[int, str] = {}
        self.groups: dict[int, tuple[str, ...]] = {}
        self.ends: dict[int, float] = {}  # of recordings, seconds of the file
        self.failed: dict[str, str] = {}
        self.num_extra = 0
        self.extra: list[str] = []

    def add(self, table: pa.Table) -> None:
        """Take the rows of a recording."""
        file_id = table.column("id")[0].as_py()
        number = self._index.find(file_id)
        if number is None:
            self.num_extra += 1
            self.extra += [file_id] if len(self.extra) < _SHOWN else []
            return
        reference = self._references[number]
        if number in self.ids:
            raise UserError(
                f"{self._output} has recordings {self.ids[number]!r} and {file_id!r} for the reference of "
                f"{reference.file_name}; leave out or rename one"
            )
        self.ids[number] = file_id
        self.groups[number] = tuple(_as_text(table.column(name)[0].as_py()) for name in self._by)
        result = join_pieces(table)
        if result.status in FAILED_STATUSES:
            self.failed[file_id] = result.status
            return
        self.ends[number] = result.duration + float(table.column("offset")[0].as_py())
        self._found[number] = Utterance(
            reference, result.segments, result.units, result.duration, self.groups[number], file_id
        )
        if self._quantize is not None and len(result.segments):
            if result.segment_features is None:
                raise UserError(
                    f"{self._output} keeps no segment features to quantize; run `sdhubert segment` with them"
                )
            self._waiting[number] = result.segment_features
            if sum(map(len, self._waiting.values())) >= _QUANTIZED_AT_ONCE:
                self._assign()

    def finish(self) -> dict[int, Utterance]:
        """All that have met."""
        self._assign()
        return self._found

    def _assign(self) -> None:
        """Make units of the features that wait, in one go."""
        if self._quantize is None or not self._waiting:
            return
        units = self._quantize(np.concatenate(list(self._waiting.values())))
        ends = np.cumsum([len(features) for features in self._waiting.values()])
        for number, part in zip(self._waiting, np.split(units, ends[:-1]), strict=True):
            self._found[number] = replace(self._found[number], units=part)
        self._waiting = {}


def _read(output: str, by: Sequence[str], *, with_features: bool) -> Iterator[pa.Table]:
    contents = require_contents(output)
    check_tokenized(output, contents.record)
    columns = [*_COLUMNS, *by, *(("segment_features",) if with_features else ())]
    there = _list_columns(output, contents.commits) if by else []
    for name in by if there else ():
        if name not in there:
            raise UserError(f"--by is {name!r}, but {output} has no such column to group by; {near_miss(name, there)}")
    yield from read_files(output, columns)


def _list_columns(output: str, commits: Sequence[Commit]) -> list[str]:
    """The columns of a table that figures can be grouped by."""
    if not commits:
        return []
    names: list[str] = read_schema(storage.join(output, commits[0].name)).names
    lists = {"segments", "segment_features", "units", *FRAME_COLUMNS}
    return [name for name in names if name not in lists]


def _missing_error(
    output: str,
    references: Sequence[Reference],
    missing: Sequence[str],
    failed: Mapping[str, str],
    there: Sequence[str],
) -> UserError:
    named = ", ".join(missing[:_SHOWN])
    unread = f" ({len(failed)} are there, but {', '.join(sorted({*failed.values()}))})" if failed else ""
    hint = f"; recordings there are called like {there[0]!r}" if there and not failed else ""
    way = "give their segments, or --missing skip leaves them out, --missing empty counts them as without segments"
    if len(missing) == len(references):
        way = how_names_meet(references, there)
    return UserError(
        f"{len(missing)} of {len(references)} referenced recordings have no segments in {output}{unread}, such as "
        f"{named}{hint}; {way}"
    )


def how_names_meet(references: Sequence[Reference], recordings: Sequence[str]) -> str:
    """What to do where no reference has a recording, in words; `recordings` are ids of some."""
    way = "names have to be the same but for the ending of the audio"
    rename = find_rename([reference.file_name for reference in references], recordings)
    return f"{way}; they are with --rename {shlex.quote(rename)}" if rename else way


def find_rename(references: Sequence[str], recordings: Sequence[str]) -> str | None:
    """OLD=NEW of `JoinOptions.rename` with which a recording has a reference, where one is named from a folder above.

    Args:
        references: their file names.
        recordings: ids of some recordings.
    """
    bare = [bare_name(name) for name in references]
    for recording in map(bare_name, recordings):
        for reference in bare:
            if reference.endswith(f"/{recording}"):
                return f"{reference.removesuffix(recording)}="
            if recording.endswith(f"/{reference}"):
                return f"={recording.removesuffix(reference)}"
    return None


def _as_text(value: object) -> str:
    return _NO_GROUP if value is None else str(value)
