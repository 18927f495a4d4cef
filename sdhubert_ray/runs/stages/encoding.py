"""The stage of the encoder: samples to frame features."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from sdhubert_ray.output.attempts import Attempts, run_unit
from sdhubert_ray.output.tables import ragged, ragged_vectors
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.stages.resampling import settle_rows
from sdhubert_ray.runs.stages.rows import GIVEN_UP, OVERFLOWS, failed, pack_rows, replaced, timed, unpack_rows
from sdhubert_ray.speech.audio import AudioOptions
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.speech.windows import WindowOptions

if TYPE_CHECKING:
    from sdhubert_ray.encoder import Checkpoint
    from sdhubert_ray.encoder.inference import EncodedPiece

TOO_LARGE = "does not fit into the memory of the GPU, alone and window by window; try a smaller audio.piece_seconds"


class EncodeSpeech:
    """Encode each row's samples with SD-HuBERT, on a GPU or one CPU.

    In:  samples (n,) float32 or null, samples_hz, and window_phase.
    Out: frame_features (T, D) float32 or float16 at 50 Hz, raw_norm and amplitude (T,) float32, or nulls. A row whose
         features are not finite, as an overflow of half precision makes them, is `failed`; what is constant at 16 kHz
         is `silent`.
    """

    def __init__(
        self,
        checkpoint: Callable[[], "Checkpoint"],
        audio: AudioOptions,
        windows: WindowOptions,
        layers: EncoderOptions,
        dtype: str,
        device: str,
        batch_seconds: float,
        attempts: Attempts | None = None,
    ) -> None:
        # Only here: torch takes seconds to import, and the other stages' workers do without it.
        from sdhubert_ray.encoder.resampling import check_resampler

        check_resampler(audio.resampler)
        from sdhubert_ray.encoder.checkpoint import load_model
        from sdhubert_ray.encoder.inference import batch_seconds_on

        self.model = load_model(checkpoint(), layers, dtype, device)
        self.audio = audio
        self.device = device
        self.windows = windows
        self.layers = layers
        self.dtype = np.float32 if dtype == "float32" else np.float16
        self.batch_seconds = batch_seconds_on(device, batch_seconds)
        self.attempts = attempts
        self._turn = threading.Lock()

    @classmethod
    def of(
        cls, checkpoint: Callable[[], "Checkpoint"], config: JobConfig, device: str, attempts: Attempts | None = None
    ) -> Self:
        """The stage as a job's configuration has it."""
        batch_seconds = config.resources.batch_seconds
        return cls(
            checkpoint, config.audio, config.windows, config.encoder, config.dtype, device, batch_seconds, attempts
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._turn:  # if this process dies, it has died of this unit
            return run_unit("encode", batch, self._encode, self.attempts)

    def _encode(self, batch: pa.Table, hopeless: bool) -> pa.Table:
        from sdhubert_ray.encoder.inference import OutOfMemoryError

        try:
            return self._encode_rows(_without_samples(batch, GIVEN_UP) if hopeless else batch)
        except OutOfMemoryError:
            if batch.num_rows == 1:
                return self._encode_rows(_without_samples(batch, TOO_LARGE))
        rows = [self._encode(batch.slice(row, 1), False) for row in range(batch.num_rows)]
        return pa.concat_tables(rows).combine_chunks()

    def _encode_rows(self, batch: pa.Table) -> pa.Table:
        from sdhubert_ray.encoder.inference import encode_pieces

        began = time.perf_counter()
        batch, samples = settle_rows(batch, self.audio, self.device)
        present = [row for row, array in enumerate(samples) if array is not None]
        pieces = [array for array in samples if array is not None]
        phases = [batch.column("window_phase")[row].as_py() for row in present]
        encoded = encode_pieces(self.model, pieces, self.windows, self.layers, self.batch_seconds, phases)
        by_row = dict(zip(present, encoded, strict=True))
        overflown = [row for row, piece in by_row.items() if not _is_finite(piece)]
        for row in overflown:  # no unit could be told of them, and whoever means over them would have NaN
            del by_row[row]
        batch = failed(batch, OVERFLOWS, overflown)
        rows = [by_row.get(row) for row in range(len(samples))]
        batch = batch.drop_columns(["samples", "samples_hz", "window_phase"])
        for name, column in (
            (
                "frame_features",
                ragged_vectors([row and row.features for row in rows], self.dtype, self.model.hidden_size),
            ),
            ("raw_norm", ragged([row and row.raw_norm for row in rows], pa.float32())),
            ("amplitude", ragged([row and row.amplitude for row in rows], pa.float32())),
        ):
            batch = batch.append_column(name, column)
        return timed(batch, "encode", began)


class EncodePacked(EncodeSpeech):
    """`EncodeSpeech` of rows that `pack_rows` has made one, and makes one again.

    Called by several threads: units are unpacked and packed while another is encoded.
    """

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pack_rows(super().__call__(unpack_rows(batch)))


def _is_finite(piece: "EncodedPiece") -> bool:
    return bool(np.isfinite(piece.features).all() and np.isfinite(piece.raw_norm).all())


def _without_samples(batch: pa.Table, reason: str) -> pa.Table:
    """Rows that cannot be encoded: `failed`, whatever they were."""
    batch = failed(batch, reason)
    nothing = pa.nulls(batch.num_rows, batch.schema.field("samples").type)
    return replaced(batch, "samples", nothing)
