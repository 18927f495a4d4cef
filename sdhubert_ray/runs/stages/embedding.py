"""The stage of SSABX: a clip of speech to one vector."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sdhubert_ray.output.attempts import Attempts, run_unit
from sdhubert_ray.output.tables import ragged_vectors
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.stages.decoding import DecodeAudio
from sdhubert_ray.runs.stages.resampling import settle_rows
from sdhubert_ray.runs.stages.rows import GIVEN_UP, OVERFLOWS, unpack_rows
from sdhubert_ray.speech import FRAME_RATE
from sdhubert_ray.speech.presets import EncoderOptions

if TYPE_CHECKING:
    from sdhubert_ray.encoder import Checkpoint
    from sdhubert_ray.encoder.inference import PooledPiece

EMBEDDINGS = ("favg", "cls")
"""What a clip is in a layer: the mean over its frames, or its CLS state."""


class EmbedClips:
    """Fetch, decode, z-score and encode each clip by itself and whole, on a GPU or one CPU.

    In:  a manifest (`MANIFEST_FIELDS`, unit_name) of clips `start` to `end`.
    Out: key, error (one sentence, or null), and of each of `EMBEDDINGS` the L vectors of D float32, in the order of
         `layers`, or null, as all CLS states are where the encoder has none.
    """

    def __init__(
        self,
        checkpoint: Callable[[], "Checkpoint"],
        config: JobConfig,
        layers: Sequence[int],
        device: str,
        attempts: Attempts | None = None,
    ) -> None:
        # Only here: torch takes seconds to import.
        from sdhubert_ray.encoder.resampling import check_resampler

        check_resampler(config.audio.resampler)
        from sdhubert_ray.encoder.checkpoint import load_model
        from sdhubert_ray.encoder.inference import batch_seconds_on

        self.model = load_model(checkpoint(), EncoderOptions(max(layers), max(layers)), config.dtype, device)
        self.pad_samples = config.windows.pad_samples
        self.layers = layers
        self.batch_seconds = batch_seconds_on(device, config.resources.batch_seconds)
        self.audio = config.audio
        self.device = device
        self.decode = DecodeAudio(config.audio, config.windows)
        self.attempts = attempts
        self._turn = threading.Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._turn:  # if this process dies, it has died of this unit
            return run_unit("embed", batch, self._embed, self.attempts)

    def _embed(self, batch: pa.Table, hopeless: bool) -> pa.Table:
        uris = batch.column("uri").to_pylist()
        if hopeless:
            errors: list[str | None] = [f"{uri} {GIVEN_UP}" for uri in uris]
            pooled: list[PooledPiece | None] = [None] * len(uris)
        else:
            errors, pooled = self._embed_rows(self.decode(batch), batch.column("end").to_pylist())
        for row, piece in enumerate(pooled):
            if piece is not None and not all(np.isfinite(part).all() for part in piece if part is not None):
                errors[row] = f"{uris[row]} {OVERFLOWS}"
                pooled[row] = None
        width = self.model.hidden_size
        return pa.table(
            {
                "key": batch.column("key"),
                "error": pa.array(errors, pa.string()),
                "favg": ragged_vectors([piece and piece.means for piece in pooled], np.float32, width),
                "cls": ragged_vectors([piece and piece.cls for piece in pooled], np.float32, width),
            }
        )

    def _embed_rows(self, rows: pa.Table, ends: Sequence[float]) -> tuple[list[str | None], list["PooledPiece | None"]]:
        """Errors and embeddings of decoded rows, whose clips should reach to `ends`, in seconds of the file."""
        from sdhubert_ray.encoder.inference import pool_pieces

        rows, samples = settle_rows(rows, self.audio, self.device)
        facts = rows.select(["uri", "status", "error", "offset", "duration"]).to_pylist()
        errors = [_flaw(fact, end) for fact, end in zip(facts, ends, strict=True)]
        usable = [piece for piece, error in zip(samples, errors, strict=True) if piece is not None and error is None]
        pooled = iter(pool_pieces(self.model, usable, self.pad_samples, self.layers, self.batch_seconds))
        return errors, [None if error else next(pooled) for error in errors]


class EmbedPacked(EmbedClips):
    """`EmbedClips` of a manifest that `pack_rows` has made one row."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return super().__call__(unpack_rows(batch))


def _flaw(clip: dict[str, Any], end: float) -> str | None:
    """Why a clip that should reach to `end` seconds of its file cannot be used, as a sentence, or None."""
    if clip["error"]:
        return str(clip["error"])
    begins, ends = clip["offset"], clip["offset"] + clip["duration"]
    if ends < end - 1 / FRAME_RATE:
        return f"{clip['uri']} ends at {ends:.3f} s, before the end of its segment, {end:g} s"
    if clip["status"] == "ok":
        return None
    reason = "is silent (constant)" if clip["status"] == "silent" else "has less than 0.1 s"
    return f"{clip['uri']} {reason} from {begins:g} to {end:g} s"
