"""The syllables of an output as one CSV file, a row each: for spreadsheets, R, and whatever reads no Parquet."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output.reading import read_syllables
from sdhubert_ray.output.syllables import SYLLABLES

CSV_FILE = "syllables.csv"

_DECIMALS = 6
"""Of seconds: frames lie at multiples of 20 ms, whose sums are not written with the digits of their rounding."""


def write_csv(output: str) -> None:
    """Write OUTPUT/syllables.csv, whole or not at all: the columns of `SYLLABLES`, a header, UTF-8, times in seconds.

    It is written to a temporary file of this machine first, as a row takes some 60 bytes and an hour has 18,000.

    Raises:
        UserError: the output cannot be read or written, or the folder for temporary files not.
    """
    with tempfile.TemporaryDirectory(prefix="sdhubert-") as scratch:
        local = Path(scratch) / CSV_FILE
        try:
            with pyarrow.csv.CSVWriter(local, SYLLABLES) as writer:
                for table in read_syllables(output):
                    if table.num_rows:  # without any, pyarrow 17 writes those before again
                        writer.write_table(_rounded(table))
        except storage.TransientError:
            raise
        except OSError as error:
            raise UserError(
                f"{scratch} cannot be written ({error}); free it, or set TMPDIR to a larger place"
            ) from error
        storage.upload(local, storage.join(output, CSV_FILE))


def _rounded(table: pa.Table) -> pa.Table:
    for name in ("start", "end"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pc.round(table.column(name), _DECIMALS))
    return table
