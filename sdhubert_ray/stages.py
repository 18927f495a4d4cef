"""The stages of the pipeline: tables of rows in, tables of rows out. `__init__` loads, `__call__` maps a unit.

The same stages run in Ray's workers and in one process. Each leaves its seconds of work in a report column.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray import shards, storage
from sdhubert_ray.audio import MIN_SAMPLES, AudioOptions, Samples, Span, is_silent, normalise, read_audio
from sdhubert_ray.config import JobConfig
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.features import read_features
from sdhubert_ray.output import OutputOptions, read_unit, write_commit
from sdhubert_ray.output.attempts import Attempts, run_unit
from sdhubert_ray.presets import EncoderOptions, SegmentationOptions
from sdhubert_ray.speech import find_speech
from sdhubert_ray.syllables import cut_syllables, to_seconds
from sdhubert_ray.tables import (
    MANIFEST_FIELDS,
    PIPELINE_COLUMNS,
    RESULT_FIELDS,
    SEGMENTS,
    SPANS,
    STAGES,
    STATUSES,
    ragged,
    ragged_intervals,
    ragged_vectors,
    read_ragged,
    read_vectors,
)
from sdhubert_ray.windows import WindowOptions, count_frames, grid_phase

if TYPE_CHECKING:
    from sdhubert_ray.checkpoint import Checkpoint


GIVEN_UP = "has killed its worker three times (out of memory, or a crash in a decoder) and was given up"
TOO_LARGE = "does not fit into the memory of the GPU, alone and window by window; try a smaller audio.piece_seconds"


@dataclass(frozen=True)
class Piece:
    """A piece of a recording as it was found.

    Attributes:
        status: one of `tables.STATUSES`.
        error: a sentence without its subject, or None.
        offset: where it begins, in seconds of the file.
        duration: its length in seconds of the file.
        num_frames: T.
        samples: (n,) float32, 16 kHz, z-scored; None where there is nothing to encode.
        phase: where it lies on the window grid of its file, see `windows.grid_phase`.
    """

    status: str
    error: str | None
    offset: float
    duration: float
    num_frames: int
    samples: Samples | None
    phase: int = 0


@dataclass(frozen=True)
class AudioSource:
    """Where the bytes of a recording are.

    Attributes:
        uri: of a file, or of a shard.
        member: its name in a tar, or its row in a Parquet file; None for a file.
        byte_offset: where it begins in the tar, if that is known.
        byte_size: its length in the tar, if that is known.
        source_size: bytes of the file or shard, if that is known.
    """

    uri: str
    member: str | None = None
    byte_offset: int | None = None
    byte_size: int | None = None
    source_size: int | None = None

    def __str__(self) -> str:
        return self.uri if self.member is None else f"{self.uri} ({self.member})"


def load_piece(
    source: AudioSource, span: Span, channel: int | None, audio: AudioOptions, windows: WindowOptions
) -> Piece:
    """Fetch and decode a piece. What cannot be had becomes a status, never an exception."""
    try:
        with shards.open_audio(*astuple(source)) as file:
            try:
                decoded = read_audio(file, span, channel)
            finally:
                storage.raise_if_failed(file)  # a decoder takes a connection that is lost for the end of the file
    except FileNotFoundError as error:
        reason = "does not exist" if source.member is None else f"does not exist ({error})"
        return Piece("missing", reason, span.start, 0.0, 0, None)
    except AudioError as error:
        return Piece("unreadable", str(error), span.start, 0.0, 0, None)
    except (OSError, UserError) as error:
        return Piece("failed", f"cannot be fetched ({error})", span.start, 0.0, 0, None)
    piece = prepare_piece(decoded.samples, decoded.offset, decoded.duration, decoded.shortfall, audio, windows)
    # What begins where it was asked to begin has its first window there.
    return replace(piece, phase=grid_phase(piece.offset, windows) if span.joint_start else 0)


def prepare_piece(
    samples: Samples,
    offset: float,
    duration: float,
    shortfall: str | None,
    audio: AudioOptions,
    windows: WindowOptions,
) -> Piece:
    """Judge and z-score (n,) float32 16 kHz samples."""
    frames = count_frames(len(samples), windows)
    if len(samples) < MIN_SAMPLES:
        status = "too_short"
    elif is_silent(samples):
        status = "silent"
    else:
        status = "ok"
    usable = normalise(samples, audio.variance_floor) if status == "ok" else None
    return Piece("truncated" if shortfall else status, shortfall, offset, duration, frames, usable)


class ReadUnits:
    """Read the rows of a unit from the plan that it belongs to.

    In:  one row: plan, unit (int).
    Out: a manifest (`MANIFEST_FIELDS` and columns to carry), and unit_name.
    """

    def __init__(self, output: str) -> None:
        self.output = output

    def __call__(self, batch: pa.Table) -> pa.Table:
        return read_unit(self.output, batch.column("plan")[0].as_py(), batch.column("unit")[0].as_py())


class ReadFeatures:
    """Read the frame features of a unit's rows from the output that has them.

    In:  one row: plan, unit (int).
    Out: what `EncodeSpeech` gives; reading counts as decoding.
    """

    def __init__(self, source: str, output: str, dtype: str) -> None:
        self.source = source
        self.output = output
        self.dtype = np.float32 if dtype == "float32" else np.float16

    def __call__(self, batch: pa.Table) -> pa.Table:
        began = time.perf_counter()
        rows = read_unit(self.output, batch.column("plan")[0].as_py(), batch.column("unit")[0].as_py())
        table = read_features(self.source, rows, self.dtype)
        return _timed(_timed(table, "decode", began), "encode", time.perf_counter())


class DecodeAudio:
    """Fetch, decode and z-score each row's audio, on CPU.

    In:  a manifest (`MANIFEST_FIELDS`, unit_name, and columns to carry).
    Out: its key, id, uri, member, piece, unit_name and carried columns, with offset, duration, status, error,
         num_frames, samples (n,) float32 at 16 kHz or null, and window_phase.
    """

    def __init__(self, audio: AudioOptions, windows: WindowOptions, attempts: Attempts | None = None) -> None:
        self.audio = audio
        self.windows = windows
        self.attempts = attempts

    def __call__(self, batch: pa.Table) -> pa.Table:
        return run_unit("decode", batch, self._decode, self.attempts)

    def _decode(self, batch: pa.Table, hopeless: bool) -> pa.Table:
        began = time.perf_counter()
        names = [field.name for field in MANIFEST_FIELDS]
        pieces = [self._load(row, hopeless) for row in batch.select(names).to_pylist()]
        kept = ("key", "id", "uri", "member", "piece")
        columns = {
            **{name: batch.column(name) for name in kept},
            "offset": pa.array([piece.offset for piece in pieces], pa.float64()),
            "duration": pa.array([piece.duration for piece in pieces], pa.float64()),
            "status": pa.array([piece.status for piece in pieces], pa.string()),
            "error": pa.array([piece.error for piece in pieces], pa.string()),
            "num_frames": pa.array([piece.num_frames for piece in pieces], pa.int32()),
            "window_phase": pa.array([piece.phase for piece in pieces], pa.int32()),
            "samples": ragged([piece.samples for piece in pieces], pa.float32()),
        }
        carried = batch.drop_columns(names)
        table = pa.table({**columns, **dict(zip(carried.column_names, carried.columns, strict=True))})
        return _timed(table, "decode", began)

    def _load(self, row: dict[str, Any], hopeless: bool) -> Piece:
        span = Span.of_piece(row["start"], row["end"], row["piece"], row["num_pieces"])
        channel = row["channel"] if row["channel"] is not None else self.audio.channel
        source = AudioSource(row["uri"], row["member"], row["byte_offset"], row["byte_size"], row["source_size"])
        if hopeless:
            piece = Piece("failed", GIVEN_UP, span.start, 0.0, 0, None)
        else:
            piece = load_piece(source, span, channel, self.audio, self.windows)
        return replace(piece, error=f"{source} {piece.error}") if piece.error else piece


class EncodeSpeech:
    """Encode each row's samples with SD-HuBERT, on a GPU or one CPU.

    In:  samples (n,) float32 at 16 kHz or null, and window_phase.
    Out: frame_features (T, D) float32 or float16 at 50 Hz, raw_norm and amplitude (T,) float32, or nulls.
    """

    def __init__(
        self,
        checkpoint: Callable[[], "Checkpoint"],
        windows: WindowOptions,
        layers: EncoderOptions,
        dtype: str,
        device: str,
        batch_seconds: float,
        attempts: Attempts | None = None,
    ) -> None:
        # Only here: torch takes seconds to import, and the other stages' workers do without it.
        from sdhubert_ray.checkpoint import load_model
        from sdhubert_ray.model import batch_seconds_on

        self.model = load_model(checkpoint(), layers, dtype, device)
        self.windows = windows
        self.layers = layers
        self.dtype = np.float32 if dtype == "float32" else np.float16
        self.batch_seconds = batch_seconds_on(device, batch_seconds)
        self.attempts = attempts

    def __call__(self, batch: pa.Table) -> pa.Table:
        return run_unit("encode", batch, self._encode, self.attempts)

    def _encode(self, batch: pa.Table, hopeless: bool) -> pa.Table:
        from sdhubert_ray.model import OutOfMemoryError

        try:
            return self._encode_rows(_without_samples(batch, GIVEN_UP) if hopeless else batch)
        except OutOfMemoryError:
            if batch.num_rows == 1:
                return self._encode_rows(_without_samples(batch, TOO_LARGE))
        rows = [self._encode(batch.slice(row, 1), False) for row in range(batch.num_rows)]
        return pa.concat_tables(rows).combine_chunks()

    def _encode_rows(self, batch: pa.Table) -> pa.Table:
        from sdhubert_ray.model import encode_pieces

        began = time.perf_counter()
        samples = read_ragged(batch.column("samples"))
        present = [row for row, array in enumerate(samples) if array is not None]
        pieces = [array for array in samples if array is not None]
        phases = [batch.column("window_phase")[row].as_py() for row in present]
        encoded = encode_pieces(self.model, pieces, self.windows, self.layers, self.batch_seconds, phases)
        by_row = dict(zip(present, encoded, strict=True))
        rows = [by_row.get(row) for row in range(len(samples))]
        batch = batch.drop_columns(["samples", "window_phase"])
        for name, column in (
            (
                "frame_features",
                ragged_vectors([row and row.features for row in rows], self.dtype, self.model.hidden_size),
            ),
            ("raw_norm", ragged([row and row.raw_norm for row in rows], pa.float32())),
            ("amplitude", ragged([row and row.amplitude for row in rows], pa.float32())),
        ):
            batch = batch.append_column(name, column)
        return _timed(batch, "encode", began)


class CutSyllables:
    """Find speech in each row and cut it into syllables (min-cut and merge), on CPU.

    In:  frame_features (T, D), raw_norm and amplitude (T,), or nulls.
    Out: the segments table (and the stages' report columns).
    """

    def __init__(self, options: SegmentationOptions, output: OutputOptions, attempts: Attempts | None = None) -> None:
        self.options = options
        self.output = output
        self.attempts = attempts

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
        if self.output.segment_features != "none":
            dtype = computed if self.output.segment_features == "auto" else self.output.segment_features
            pooled = [row.features if row else empty_vectors for row in rows]
            columns["segment_features"] = ragged_vectors(pooled, dtype, width)
        columns["units"] = pa.nulls(len(rows), pa.list_(pa.int32()))
        if self.output.frame_features != "none":
            columns["frame_features"] = ragged_vectors(features, self.output.frame_features, width)
            columns["norm"] = ragged([row and row.norm for row in rows], pa.float32())
            columns["mask"] = ragged([row and row.mask for row in rows], pa.bool_())
            columns["spans"] = ragged_intervals([row and row.spans for row in rows], SPANS)
            columns["raw_norm"] = batch.column("raw_norm")
            columns["amplitude"] = batch.column("amplitude")
        carried = [name for name in batch.column_names if name not in {*columns, *PIPELINE_COLUMNS}]
        reports = ["unit_name", *(f"{stage}_seconds" for stage in ("decode", "encode"))]
        table = pa.table({**columns, **{name: batch.column(name) for name in (*carried, *reports)}})
        return _timed(table, "cut", began)

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
        syllables = cut_syllables(features, speech.spans, self.options.syllables)
        return _CutRow(to_seconds(syllables.frames, offset), syllables.features, *speech)


class WriteSegments:
    """Commit each unit of rows as one Parquet file.

    In:  the segments table of a unit.
    Out: a report, one row: unit_name, rows, duration (seconds of audio), segments, size (bytes), the count of each
         status, and the stages' seconds.
    """

    def __init__(self, output: str, compression: str) -> None:
        self.output = output
        self.compression = compression

    def __call__(self, batch: pa.Table) -> pa.Table:
        seconds = [f"{stage}_seconds" for stage in STAGES]
        name = batch.column("unit_name")[0].as_py()
        rows = batch.drop_columns([*seconds, "unit_name"])
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
                **{column: [pc.sum(batch.column(column)).as_py()] for column in seconds},
            }
        )


class SegmentUnits:
    """All stages of a unit, one after the other in one worker: reads, decodes, encodes, cuts and commits it.

    In:  one row: plan, unit (int).
    Out: the report of `WriteSegments`.
    """

    def __init__(
        self,
        checkpoint: Callable[[], "Checkpoint"],
        config: JobConfig,
        device: str,
        output: str,
        attempts: Attempts | None = None,
    ) -> None:
        self.stages: list[Callable[[pa.Table], pa.Table]] = [
            ReadUnits(output),
            DecodeAudio(config.audio, config.windows, attempts),
            EncodeSpeech(
                checkpoint,
                config.windows,
                config.encoder,
                config.dtype,
                device,
                config.resources.batch_seconds,
                attempts,
            ),
            CutSyllables(config.segmentation, config.output, attempts),
            WriteSegments(output, config.output.compression),
        ]

    def __call__(self, batch: pa.Table) -> pa.Table:
        for stage in self.stages:
            batch = stage(batch)
        return batch


class _CutRow(NamedTuple):
    segments: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    spans: npt.NDArray[np.int64]


def _timed(table: pa.Table, stage: str, began: float) -> pa.Table:
    share = (time.perf_counter() - began) / max(table.num_rows, 1)
    return table.append_column(f"{stage}_seconds", pa.array(np.full(table.num_rows, share)))


def _without_samples(batch: pa.Table, reason: str) -> pa.Table:
    """Rows that cannot be encoded: `failed`, whatever they were."""
    batch = _failed(batch, reason)
    nothing = pa.nulls(batch.num_rows, batch.schema.field("samples").type)
    return _replaced(batch, "samples", nothing)


def _given_up_features(batch: pa.Table) -> pa.Table:
    batch = _failed(batch, GIVEN_UP)
    for name in ("frame_features", "raw_norm", "amplitude"):
        batch = _replaced(batch, name, pa.nulls(batch.num_rows, batch.schema.field(name).type))
    return batch


def _failed(batch: pa.Table, reason: str) -> pa.Table:
    errors = [f"{uri} {reason}" for uri in batch.column("uri").to_pylist()]
    batch = _replaced(batch, "status", pa.array(["failed"] * batch.num_rows, pa.string()))
    return _replaced(batch, "error", pa.array(errors, pa.string()))


def _replaced(batch: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return batch.set_column(batch.column_names.index(name), name, column)
