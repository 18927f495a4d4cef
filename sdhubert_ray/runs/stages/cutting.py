"""The stage of the syllables: frame features to segments and their features."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray.output import OutputOptions
from sdhubert_ray.output.attempts import Attempts, run_unit
from sdhubert_ray.output.tables import (
    PIPELINE_COLUMNS,
    RESULT_FIELDS,
    SEGMENTS,
    SPANS,
    UNIT_COLUMNS,
    ragged,
    ragged_intervals,
    ragged_vectors,
    read_ragged,
    read_vectors,
)
from sdhubert_ray.runs.stages.rows import GIVEN_UP, failed, replaced, timed
from sdhubert_ray.speech.presets import SegmentationOptions
from sdhubert_ray.speech.segmenters import Segmenter
from sdhubert_ray.speech.spans import find_speech
from sdhubert_ray.speech.syllables import find_syllables, pool, to_seconds

if TYPE_CHECKING:
    from sdhubert_ray.units import Quantizer


class CutSyllables:
    """Find speech in each row and cut it into syllables, on CPU.

    In:  frame_features (T, D), raw_norm and amplitude (T,), or nulls.
    Out: the segments table (and the stages' report columns), with units where there is a quantizer.
    """

    def __init__(
        self,
        options: SegmentationOptions,
        output: OutputOptions,
        attempts: Attempts | None = None,
        quantizer: "Callable[[], Quantizer] | None" = None,
        segmenter: Segmenter | None = None,
    ) -> None:
        """`segmenter` cuts in the place of the one that the options name."""
        self.options = options
        self.output = output
        self.attempts = attempts
        self._quantizer = quantizer
        self._segmenter = segmenter

    @cached_property
    def quantizer(self) -> "Quantizer | None":
        """What gives units, fetched when the first are to be given."""
        return None if self._quantizer is None else self._quantizer()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return run_unit("cut", batch, self._cut_rows, self.attempts)

    def _cut_rows(self, batch: pa.Table, hopeless: bool) -> pa.Table:
        if hopeless:
            batch = _given_up_features(batch)
        began = time.perf_counter()
        features = read_vectors(batch.column("frame_features"))
        width = batch.schema.field("frame_features").type.value_type.list_size
        computed = batch.schema.field("frame_features").type.value_type.value_type.to_pandas_dtype()
        rows = [
            self._cut(*row)
            for row in zip(
                features,
                read_ragged(batch.column("raw_norm")),
                read_ragged(batch.column("amplitude")),
                batch.column("offset").to_pylist(),
                strict=True,
            )
        ]
        empty_vectors = np.zeros((0, width), np.float32)
        columns = {field.name: batch.column(field.name) for field in RESULT_FIELDS if field.name != "segments"}
        columns["segments"] = ragged_intervals([row.segments if row else np.zeros((0, 2)) for row in rows], SEGMENTS)
        kept = self.output.segment_features
        pooled = [row.features if row else empty_vectors for row in rows]
        vectors = ragged_vectors(pooled, computed if kept in ("auto", "none") else kept, width)
        if kept != "none":
            columns["segment_features"] = vectors
        units = pa.nulls(len(rows), pa.list_(pa.int32()))
        columns["units"] = (
            units if self.quantizer is None else assign_units(pa.chunked_array([vectors]), self.quantizer)
        )
        if self.output.frame_features != "none":
            columns["frame_features"] = ragged_vectors(features, self.output.frame_features, width)
            columns["norm"] = ragged([row and row.norm for row in rows], pa.float32())
            columns["mask"] = ragged([row and row.mask for row in rows], pa.bool_())
            columns["spans"] = ragged_intervals([row and row.spans for row in rows], SPANS)
            columns["raw_norm"] = batch.column("raw_norm")
            columns["amplitude"] = batch.column("amplitude")
        carried = [name for name in batch.column_names if name not in {*columns, *PIPELINE_COLUMNS}]
        reports = [name for name in UNIT_COLUMNS if name != "cut_seconds"]
        table = pa.table({**columns, **{name: batch.column(name) for name in (*carried, *reports)}})
        return timed(table, "cut", began)

    def _cut(
        self,
        features: npt.NDArray[np.floating] | None,
        raw_norm: npt.NDArray[np.float32] | None,
        amplitude: npt.NDArray[np.float32] | None,
        offset: float,
    ) -> "_CutRow | None":
        if features is None or raw_norm is None or amplitude is None:
            return None
        speech = find_speech(raw_norm, amplitude, self.options.speech)
        if self._segmenter is None:
            syllables = find_syllables(features, raw_norm, speech.spans, self.options.syllables)
        else:
            syllables = pool(features, self._segmenter(features, raw_norm, speech.spans))
        return _CutRow(to_seconds(syllables.frames, offset), syllables.features, *speech)


def assign_units(vectors: pa.ChunkedArray, quantizer: "Quantizer", device: str = "cpu") -> pa.ListArray:
    """The units of segments, list<int32>, from a column of their features (S, D) in the precision of the table."""
    arrays = read_vectors(vectors)
    present = [array for array in arrays if array is not None]
    if not present:
        return pa.nulls(len(arrays), pa.list_(pa.int32()))
    units = quantizer.predict(np.concatenate(present), device)
    ends = np.cumsum([len(array) for array in present])
    split = iter(np.split(units, ends[:-1]))
    return ragged([None if array is None else next(split) for array in arrays], pa.int32())


class _CutRow(NamedTuple):
    segments: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    spans: npt.NDArray[np.int64]


def _given_up_features(batch: pa.Table) -> pa.Table:
    batch = failed(batch, GIVEN_UP)
    for name in ("frame_features", "raw_norm", "amplitude"):
        batch = replaced(batch, name, pa.nulls(batch.num_rows, batch.schema.field(name).type))
    return batch
