"""The stages that end a unit, and all of them as one."""

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.output import check_holder, write_commit
from sdhubert_ray.output.attempts import Attempts
from sdhubert_ray.output.tables import STAGES, STATUSES, UNIT_COLUMNS
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.stages.cutting import CutSyllables
from sdhubert_ray.runs.stages.decoding import DecodeAudio, ReadUnits
from sdhubert_ray.runs.stages.encoding import EncodeSpeech
from sdhubert_ray.runs.stages.rows import InTurn

if TYPE_CHECKING:
    from sdhubert_ray.encoder import Checkpoint
    from sdhubert_ray.units import Quantizer


class WriteSegments:
    """Commit each unit of rows as one Parquet file.

    In:  the segments table of a unit.
    Out: a report, one row: unit_name, rows, duration (seconds of audio), segments, size (bytes), the count of each
         status, the seconds of `WORK`, and unit_began and unit_ended (of `time.time`).
    Raises: LeaseLostError, if another run holds the output by now, or none: this worker has outlived its own.
    """

    def __init__(self, output: str, compression: str, run_id: str | None) -> None:
        """`run_id` is of the run that has to hold the output; None: there is none, as in a trial."""
        self.output = output
        self.compression = compression
        self.run_id = run_id

    def __call__(self, batch: pa.Table) -> pa.Table:
        began = time.perf_counter()
        name = batch.column("unit_name")[0].as_py()
        rows = batch.drop_columns(UNIT_COLUMNS)
        if self.run_id is not None:
            check_holder(self.output, self.run_id)
        size = write_commit(self.output, name, rows, self.compression)
        statuses = Counter(batch.column("status").to_pylist())
        return pa.table(
            {
                "unit_name": [name],
                "rows": [batch.num_rows],
                "duration": [pc.sum(batch.column("duration")).as_py()],
                "segments": [pc.sum(pc.list_value_length(batch.column("segments"))).as_py() or 0],
                "size": [size],
                **{status: [statuses[status]] for status in STATUSES},
                **{f"{stage}_seconds": [pc.sum(batch.column(f"{stage}_seconds")).as_py()] for stage in STAGES},
                "write_seconds": [time.perf_counter() - began],
                "unit_began": [batch.column("unit_began")[0].as_py()],
                "unit_ended": [time.time()],
            }
        )


class SegmentUnits(InTurn):
    """All stages of a unit, one after the other in one worker: reads, decodes, encodes, cuts and commits it.

    In:  one row: plan (its name), unit (int).
    Out: the report of `WriteSegments`.
    """

    def __init__(
        self,
        checkpoint: Callable[[], "Checkpoint"],
        config: JobConfig,
        device: str,
        output: str,
        run_id: str,
        attempts: Attempts | None = None,
        quantizer: "Callable[[], Quantizer] | None" = None,
    ) -> None:
        super().__init__(
            ReadUnits(output),
            DecodeAudio(config.audio, config.windows, attempts),
            EncodeSpeech.of(checkpoint, config, device, attempts),
            CutSyllables(config.segmentation, config.output, attempts, quantizer),
            WriteSegments(output, config.output.compression, run_id),
        )
