"""The stages that begin a unit: its rows are read, and their audio decoded, or their features read back."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from sdhubert_ray.corpus import shards
from sdhubert_ray.corpus.ahead import open_ahead
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.output import read_unit
from sdhubert_ray.output.attempts import Attempts, run_unit
from sdhubert_ray.output.features import read_features
from sdhubert_ray.output.tables import MANIFEST_FIELDS, ragged
from sdhubert_ray.runs.stages.rows import GIVEN_UP, begun, timed
from sdhubert_ray.speech.audio import (
    MIN_SAMPLES,
    SAMPLE_RATE,
    Audio,
    AudioOptions,
    Span,
    count_resampled,
    is_silent,
    normalise,
    read_audio,
)
from sdhubert_ray.speech.decoders import Samples
from sdhubert_ray.speech.windows import WindowOptions, count_frames, grid_phase

_CANCELLED = "is silent as the average of its channels, which cancel each other; take one of them (audio.channel=0)"


@dataclass(frozen=True)
class Piece:
    """A piece of a recording as it was found.

    Attributes:
        status: one of `tables.STATUSES`.
        error: a sentence without its subject, or None.
        offset: where it begins, in seconds of the file.
        duration: its length in seconds of the file.
        num_frames: T.
        samples: (n,) float32, 16 kHz, z-scored; or as decoded, where `rate` is another; None where there is nothing to
            encode.
        phase: where it lies on the window grid of its file, see `windows.grid_phase`.
        rate: of the samples, Hz; what is left at another one than 16 kHz, `resampling.settle_pieces` makes ready.
    """

    status: str
    error: str | None
    offset: float
    duration: float
    num_frames: int
    samples: Samples | None
    phase: int = 0
    rate: int = SAMPLE_RATE


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
    source: AudioSource,
    span: Span,
    channel: int | None,
    audio: AudioOptions,
    windows: WindowOptions,
    opening: Callable[[], BinaryIO] | None = None,
) -> Piece:
    """Fetch and decode a piece; `opening` gives its file where that is fetched already.

    What cannot be had becomes a status, never an exception.
    """
    try:
        with shards.to_decode(opening or partial(shards.open_audio, *astuple(source))) as file:
            decoded = read_audio(file, span, channel, audio.resampler)
    except FileNotFoundError as error:
        reason = "does not exist" if source.member is None else f"does not exist ({error})"
        return Piece("missing", reason, span.start, 0.0, 0, None)
    except AudioError as error:
        return Piece("unreadable", str(error), span.start, 0.0, 0, None)
    except (OSError, UserError) as error:
        return Piece("failed", f"cannot be fetched ({error})", span.start, 0.0, 0, None)
    piece = prepare_piece(decoded, audio, windows)
    # What begins where it was asked to begin has its first window there.
    return replace(piece, phase=grid_phase(piece.offset, windows) if span.joint_start else 0)


def prepare_piece(decoded: Audio, audio: AudioOptions, windows: WindowOptions) -> Piece:
    """Judge and z-score decoded audio; what was left at its rate is z-scored, and found silent, when it has 16 kHz."""
    samples, is_ready = decoded.samples, decoded.rate == SAMPLE_RATE
    length = count_resampled(len(samples), decoded.rate)
    status, error = "ok", decoded.shortfall
    if length < MIN_SAMPLES:
        status = "too_short"
    elif decoded.cancelled:
        status, error = "silent", error or _CANCELLED
    elif is_ready and is_silent(samples):
        status = "silent"
    usable: Samples | None = None
    if status == "ok":
        usable = normalise(samples, audio.variance_floor, audio.normalisation) if is_ready else samples
    frames = count_frames(length, windows)
    status = "truncated" if decoded.shortfall else status
    return Piece(status, error, decoded.offset, decoded.duration, frames, usable, rate=decoded.rate)


class ReadUnits:
    """Read the rows of a unit from the plan that it belongs to.

    In:  one row: plan (its name), unit (int).
    Out: a manifest (`MANIFEST_FIELDS` and columns to carry), unit_name, and unit_began.
    """

    def __init__(self, output: str) -> None:
        self.output = output

    def __call__(self, batch: pa.Table) -> pa.Table:
        began = time.time()
        return begun(read_unit(self.output, batch.column("plan")[0].as_py(), batch.column("unit")[0].as_py()), began)


class ReadFeatures:
    """Read the frame features of a unit's rows from the output that has them.

    In:  one row: plan (its name), unit (int).
    Out: what `EncodeSpeech` gives; reading counts as decoding.
    """

    def __init__(self, source: str, output: str, dtype: str) -> None:
        self.source = source
        self.output = output
        self.dtype = np.float32 if dtype == "float32" else np.float16

    def __call__(self, batch: pa.Table) -> pa.Table:
        unit_began, began = time.time(), time.perf_counter()
        rows = read_unit(self.output, batch.column("plan")[0].as_py(), batch.column("unit")[0].as_py())
        table = read_features(self.source, rows, self.dtype)
        return timed(timed(begun(table, unit_began), "decode", began), "encode", time.perf_counter())


class DecodeAudio:
    """Fetch, decode and z-score each row's audio, on CPU.

    In:  a manifest (`MANIFEST_FIELDS`, unit_name, and columns to carry).
    Out: its key, id, uri, member, piece, unit_name and carried columns, with offset, duration, status, error,
         num_frames, samples (n,) float32 or null, samples_hz, and window_phase. Samples of another rate than 16 kHz
         are not z-scored yet, see `settle_rows`.
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
        rows = batch.select(names).to_pylist()
        if hopeless:
            pieces = [_give_up(row) for row in rows]
        else:
            sources = [_source_of(row) for row in rows]
            with contextlib.closing(open_ahead([astuple(source) for source in sources])) as openings:
                pieces = [self._load(*of_row) for of_row in zip(rows, sources, openings, strict=True)]
        kept = ("key", "id", "uri", "member", "piece")
        columns = {
            **{name: batch.column(name) for name in kept},
            "offset": pa.array([piece.offset for piece in pieces], pa.float64()),
            "duration": pa.array([piece.duration for piece in pieces], pa.float64()),
            "status": pa.array([piece.status for piece in pieces], pa.string()),
            "error": pa.array([piece.error for piece in pieces], pa.string()),
            "num_frames": pa.array([piece.num_frames for piece in pieces], pa.int32()),
            "window_phase": pa.array([piece.phase for piece in pieces], pa.int32()),
            "samples_hz": pa.array([piece.rate for piece in pieces], pa.int32()),
            "samples": ragged([piece.samples for piece in pieces], pa.float32()),
        }
        carried = batch.drop_columns(names)
        table = pa.table({**columns, **dict(zip(carried.column_names, carried.columns, strict=True))})
        return timed(table, "decode", began)

    def _load(self, row: dict[str, Any], source: AudioSource, opening: Callable[[], BinaryIO]) -> Piece:
        channel = row["channel"] if row["channel"] is not None else self.audio.channel
        piece = load_piece(source, _span_of(row), channel, self.audio, self.windows, opening)
        return replace(piece, error=f"{source} {piece.error}") if piece.error else piece


def _give_up(row: dict[str, Any]) -> Piece:
    return Piece("failed", f"{_source_of(row)} {GIVEN_UP}", _span_of(row).start, 0.0, 0, None)


def _source_of(row: dict[str, Any]) -> AudioSource:
    return AudioSource(row["uri"], row["member"], row["byte_offset"], row["byte_size"], row["source_size"])


def _span_of(row: dict[str, Any]) -> Span:
    return Span.of_piece(row["start"], row["end"], row["piece"], row["num_pieces"])
