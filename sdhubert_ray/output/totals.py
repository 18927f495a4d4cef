"""What the rows of a file amount to, kept in its footer, so that nobody has to read the rows to count them.

The pieces of a recording follow each other in the table, over the end of a file too. So a file counts by itself the
recordings that it has whole, and tells apart those that may have pieces in others.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.output.parquet import TOTALS, to_parquet
from sdhubert_ray.output.tables import FAILED_STATUSES, worst_status

TOTALS_COLUMNS = ("id", "uri", "piece", "status", "error", "duration", "segments")
"""What is counted."""
LISTED_FAILURES = 1000
"""Recordings that failed are listed up to so many."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Standing(NamedTuple):
    """Of some pieces of a recording: the number of the first, the worst status, and its error."""

    piece: int
    status: str
    error: str | None

    def joined(self, later: "Standing") -> "Standing":
        """With further pieces."""
        worst = worst_status([later.status, self.status])
        error = later.error if worst == later.status else self.error
        return Standing(min(self.piece, later.piece), worst, error)


class RowTotals:
    """What rows amount to: of a file, or of many.

    Attributes:
        num_rows: pieces.
        audio_seconds: audio.
        speech_seconds: the part of it within syllables.
        num_syllables: syllables.
        statuses: whole recordings by status.
        failures: (id, status, error) of those that failed, the first thousand.
        reasons: failed rows by (status, error without its names and numbers).
        parts: recordings that may have pieces elsewhere, by id.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self.audio_seconds = 0.0
        self.speech_seconds = 0.0
        self.num_syllables = 0
        self.statuses: Counter[str] = Counter()
        self.failures: list[tuple[str, str, str]] = []
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.parts: dict[str, Standing] = {}
        self._last: str | None = None  # recording of the rows

    @classmethod
    def of_file(cls, table: pa.Table, long: Collection[str] = ()) -> Self:
        """Count the rows of a file (`TOTALS_COLUMNS`), in their order; `long` as `end_file` takes it."""
        totals = cls()
        totals.add_rows(table)
        totals.end_file(long)
        return totals

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """What `encode` gave. Raises ValueError where it did not."""
        totals = cls()
        try:
            values = json.loads(text)
            totals.num_rows = int(values["rows"])
            totals.audio_seconds = float(values["audio_seconds"])
            totals.speech_seconds = float(values["speech_seconds"])
            totals.num_syllables = int(values["syllables"])
            totals.statuses.update(values["statuses"])
            totals.failures += [(file_id, status, error) for file_id, status, error in values["failures"]]
            totals.reasons.update({(status, reason): count for status, reason, count in values["reasons"]})
            totals.parts.update({file_id: Standing(*standing) for file_id, *standing in values["parts"]})
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{TOTALS.decode()} is {text[:80]!r}") from error
        return totals

    def encode(self) -> bytes:
        """As a footer has it: JSON."""
        values: dict[str, Any] = {
            "rows": self.num_rows,
            "audio_seconds": self.audio_seconds,
            "speech_seconds": self.speech_seconds,
            "syllables": self.num_syllables,
            "statuses": self.statuses,
            "failures": self.failures,
            "reasons": [[*key, count] for key, count in self.reasons.items()],
            "parts": [[file_id, *standing] for file_id, standing in self.parts.items()],
        }
        return json.dumps(values, separators=(",", ":")).encode()

    def add(self, later: "RowTotals") -> None:
        """Count what comes later in the table."""
        self.num_rows += later.num_rows
        self.audio_seconds += later.audio_seconds
        self.speech_seconds += later.speech_seconds
        self.num_syllables += later.num_syllables
        self.statuses.update(later.statuses)
        self.failures += later.failures[: LISTED_FAILURES - len(self.failures)]
        self.reasons.update(later.reasons)
        for file_id, standing in later.parts.items():
            self._add_part(file_id, standing)

    def add_rows(self, table: pa.Table) -> None:
        """Count rows, of recordings that may have further pieces, until `end_file` tells."""
        self.num_rows += table.num_rows
        self.audio_seconds += pc.sum(table.column("duration")).as_py() or 0.0
        flat = pc.list_flatten(table.column("segments"))
        self.num_syllables += len(flat)
        if len(flat):
            lengths = pc.subtract(pc.struct_field(flat, "end"), pc.struct_field(flat, "start"))
            self.speech_seconds += pc.sum(lengths).as_py()
        columns = (table.column(name).to_pylist() for name in ("id", "uri", "piece", "status", "error"))
        for file_id, uri, piece, status, error in zip(*columns, strict=True):
            self._add_part(file_id, Standing(piece, status, error))
            self._last = file_id
            if status in FAILED_STATUSES:
                self.reasons[status, _NUMBER.sub("N", str(error).removeprefix(uri).strip())] += 1

    def end_file(self, long: Collection[str] = ()) -> None:
        """Count the recordings that the rows so far, of a file, have whole: neither the last, nor any of `long`."""
        found, self.parts = self.parts, {}
        for file_id, standing in found.items():
            if standing.piece or file_id == self._last or file_id in long:
                self.parts[file_id] = standing
            else:
                self.add_recording(file_id, standing)

    def add_recording(self, file_id: str, standing: Standing) -> None:
        """Count a whole recording."""
        self.statuses[standing.status] += 1
        if standing.status in FAILED_STATUSES and len(self.failures) < LISTED_FAILURES:
            self.failures.append((file_id, standing.status, standing.error or ""))

    def _add_part(self, file_id: str, standing: Standing) -> None:
        before = self.parts.get(file_id)
        self.parts[file_id] = standing if before is None else before.joined(standing)


def results_to_parquet(tables: Iterable[pa.Table], compression: str) -> bytes:
    """The bytes of a file of the table: a row group for each of these, and in the footer what they amount to."""
    totals = RowTotals()

    def counted() -> Iterator[pa.Table]:
        for table in tables:
            totals.add_rows(table)
            yield table

    def footer() -> dict[bytes, bytes]:
        totals.end_file()
        return {TOTALS: totals.encode()}

    return to_parquet(counted(), compression, footer)
