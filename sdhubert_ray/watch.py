"""Watching a run: counters for Prometheus."""

from collections.abc import Mapping

import pyarrow as pa
from ray.util.metrics import Counter

from sdhubert_ray.tables import STAGES, STATUSES


class RunMetrics:
    """Counters of a run, exported by Ray beside its own (`ray_sdhubert_...`), each tagged with the run's id.

    They are counted where reports of commits arrive, in the driver: work that was done twice is counted once.
    """

    def __init__(self, run_id: str) -> None:
        tags = ("run_id",)
        self._rows = Counter("sdhubert_rows", "Rows (pieces of recordings) committed, by status.", ("run_id", "status"))
        self._audio = Counter("sdhubert_audio_seconds", "Audio committed, seconds.", tags)
        self._syllables = Counter("sdhubert_syllables", "Syllables committed.", tags)
        self._bytes = Counter("sdhubert_output_bytes", "Bytes of segments tables committed.", tags)
        self._work = Counter("sdhubert_stage_seconds", "Work per stage, summed over workers.", ("run_id", "stage"))
        self._tags = {"run_id": run_id}

    def add(self, report: pa.Table) -> None:
        """Count a unit's report, of `stages.WriteSegments`."""
        row: Mapping[str, float] = report.to_pylist()[0]
        added = [
            *((self._rows, row[status], {"status": status}) for status in STATUSES),
            (self._audio, row["duration"], {}),
            (self._syllables, row["segments"], {}),
            (self._bytes, row["size"], {}),
            *((self._work, row[f"{stage}_seconds"], {"stage": stage}) for stage in STAGES),
        ]
        for counter, value, tags in added:
            if value:  # Ray refuses to add nothing
                counter.inc(value, {**self._tags, **tags})
