"""The stage that gives units to segments that are there already."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import check_holder
from sdhubert_ray.output.parquet import iter_row_groups, read_schema, to_parquet
from sdhubert_ray.output.totals import results_to_parquet
from sdhubert_ray.runs.stages.cutting import assign_units
from sdhubert_ray.runs.stages.rows import replaced

if TYPE_CHECKING:
    from sdhubert_ray.units import Quantizer

QUANTIZER_MARK = b"sdhubert.quantizer"
"""In the metadata of a file whose units were filled in: the digest of the quantizer."""
SOURCE_MARK = b"sdhubert.source_bytes"
"""In the metadata of a file of keys and units alone, beside the other: the size of the file that they are of."""


class AssignUnits:
    """Give units to the segments in a file of an output, from their features as they are stored.

    In:  one row: name, of the file.
    Out: a report, one row: name, rows, and done: whether the file had these units already.

    The file is replaced, whole, by one with units; or its keys and units go into a file of the same name in another
    folder. A row group is held at a time, and the bytes of the new file. What an interrupted run has done stays.
    Raises: LeaseLostError, if another run holds the folder by now, or none: this worker has outlived its own.
    """

    def __init__(
        self,
        quantizer: "Callable[[], Quantizer]",
        sha256: str,
        device: str,
        output: str,
        run_id: str,
        compression: str,
        parts: str | None = None,
    ) -> None:
        """`run_id` is of the run that holds the folder to be written into: or the one that `parts` is in."""
        self._quantizer = quantizer
        self.sha256 = sha256
        self.device = device
        self.output = output
        self.run_id = run_id
        self.compression = compression
        self.parts = parts

    @cached_property
    def quantizer(self) -> "Quantizer":
        """What gives units, fetched when the first are to be given."""
        return self._quantizer()

    def __call__(self, batch: pa.Table) -> pa.Table:
        name = batch.column("name")[0].as_py()
        part = None if self.parts is None else storage.join(self.parts, name)
        marks = {QUANTIZER_MARK: self.sha256.encode()}
        if part is not None:
            source = storage.stat(storage.join(self.output, name))
            marks[SOURCE_MARK] = str(source.size).encode()
        there = self._metadata(name, part)
        done = all(there.get(key) == mark for key, mark in marks.items())
        rows = 0

        def marked(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
            nonlocal rows
            for table in tables:
                rows += table.num_rows
                yield table.replace_schema_metadata({**(table.schema.metadata or {}), **marks})

        if not done:
            made = marked(self.read(name, None if part is None else ("key", "units")))
            data = (results_to_parquet if part is None else to_parquet)(made, self.compression)
            check_holder(self.output if self.parts is None else self.parts.rpartition("/")[0], self.run_id)
            storage.put(part or storage.join(self.output, name), data)
        return pa.table({"name": [name], "rows": pa.array([rows], pa.int64()), "done": [done]})

    def read(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read a file with its units, a row group at a time: all columns, or those of these that it has."""
        needed = None if columns is None else [*columns, "segment_features", "units"]
        for table in iter_row_groups(storage.join(self.output, name), needed):
            try:
                units = assign_units(table.column("segment_features"), self.quantizer, self.device)
            except UserError as error:
                raise UserError(f"{storage.join(self.output, name)}: {error}; segment its recordings again") from error
            table = replaced(table, "units", units)
            yield table if columns is None else table.select([name for name in table.column_names if name in columns])

    def _metadata(self, name: str, part: str | None) -> Mapping[bytes, bytes]:
        """That of the file that gets the units, if it is there."""
        if part is None:
            schema = read_schema(storage.join(self.output, name))
        elif storage.exists(part):
            schema = read_schema(part)
        else:
            return {}
        return schema.metadata or {}
