"""A recording to look at: its syllables, its audio, and what the encoder tells of its frames, read or made anew."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.api import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.corpus.shards import audio_to_decode
from sdhubert_ray.encoder import Checkpoint, fetch_checkpoint
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.output import FileResult, count_joined, frame_offset, join_pieces, read_plan, require_contents
from sdhubert_ray.output.tables import FAILED_STATUSES, MANIFEST_FIELDS, read_ragged, read_vectors
from sdhubert_ray.runs.config import JobConfig, load_config
from sdhubert_ray.runs.devices import local_device
from sdhubert_ray.runs.stages import AudioSource, load_piece, settle_pieces
from sdhubert_ray.speech import Samples, Span
from sdhubert_ray.speech.audio import probe_duration, read_audio
from sdhubert_ray.speech.spans import find_speech
from sdhubert_ray.viewing.view import Frames

_WITHOUT_FRAMES = ("silent", "too_short")


@dataclass(frozen=True)
class Seen:
    """A recording.

    Attributes:
        result: its syllables, its pieces joined.
        frames: of the whole recording.
        source: where its audio is.
        channel: that is meant of it, or None for the mean of all.
        checkpoint: what has encoded it is called.
    """

    result: FileResult
    frames: Frames
    source: AudioSource
    channel: int | None
    checkpoint: str

    def read(self, begin: float, end: float) -> Samples:
        """Its samples from `begin` to `end` seconds of the file, (n,) float32 at 16 kHz. Raises UserError."""
        return _decode(self.source, Span(begin, end), self.channel)


def file_id(uri: str) -> str:
    """What `sdhubert segment` calls a file that is all of its input."""
    return uri.rpartition("/")[2]


def segment_file(uri: str, checkpoint: str) -> Seen:
    """Segment an audio file, here and now.

    Args:
        uri: the file.
        checkpoint: a path or URI, `bundled` or `sdhubert_base`.

    Raises:
        UserError: the file or the checkpoint cannot be read.
    """
    segmenter = SDHuBERTSegmenter(checkpoint)
    try:
        speech = segmenter(uri)
    except (AudioError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    syllables = MincutWrapper()(speech)
    with audio_to_decode(uri, None, None, None, None) as file:
        duration = probe_duration(file)
    result = FileResult(
        file_id(uri),
        uri,
        speech["status"],
        speech["error"],
        duration,
        speech["length"],
        syllables["segments"],
        None,
        None,
    )
    options = segmenter.options
    frames = Frames(0.0, speech["features"], speech["norm"], options.speech.normcut_threshold)
    return Seen(result, frames, AudioSource(uri), options.audio.channel, checkpoint)


def revisit(output: str, pieces: pa.Table, checkpoint: str | None) -> Seen:
    """Look again at a recording of an output; where no frame features were kept, it is encoded anew.

    Args:
        output: of a run.
        pieces: the rows of the recording, with frame_features, norm and mask where these are there.
        checkpoint: where the run's checkpoint is now; None: where it was.

    Raises:
        UserError: there is nothing of it to be seen, its audio or its checkpoint is gone, or that is another one.
    """
    result = join_pieces(pieces)
    if result.status in FAILED_STATUSES:
        raise UserError(f"recording {result.id} has nothing to draw: it is {result.status} ({result.error})")
    contents = require_contents(output)
    config = _config_of(output, contents.record)
    rows = _planned(output, result.id, [field.name for field in MANIFEST_FIELDS])
    source = AudioSource(*(rows[0][name] for name in ("uri", "member", "byte_offset", "byte_size", "source_size")))
    channel = rows[0]["channel"] if rows[0]["channel"] is not None else config.audio.channel
    weights = contents.record["checkpoint"]
    if weights is None:
        raise UserError(f"{output} was made without an encoder: there are no frames to draw")
    if "frame_features" in pieces.column_names:
        parts = _read_kept(pieces)
    elif result.status in _WITHOUT_FRAMES:
        parts = []
    else:
        parts = _encode(rows, source, channel, config, _fetch_same(output, weights, checkpoint))
    return Seen(result, _join(parts, config.speech.normcut_threshold), source, channel, weights["name"])


@dataclass(frozen=True)
class _Part:
    """The frames of a piece that begins at `offset` seconds of the file: features (T, D), norm and mask (T,)."""

    offset: float
    features: npt.NDArray[np.floating]
    norm: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


def _config_of(output: str, record: Any) -> JobConfig:  # noqa: ANN401 - JSON
    try:
        return load_config(None, [], {}, {}, record["config"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{output} was made by another version of sdhubert_ray ({error}); make it again") from error


def _planned(output: str, recording: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The pieces of a recording as they were planned last, in order."""
    rows: dict[int, dict[str, Any]] = {}
    for plan in require_contents(output).plans:
        for table in read_plan(output, plan, columns):
            rows.update({row["piece"]: row for row in table.filter(pc.field("id") == recording).to_pylist()})
    return [row for _, row in sorted(rows.items())]


def _read_kept(pieces: pa.Table) -> list[_Part]:
    columns = (
        pieces.column("offset").to_pylist(),
        read_vectors(pieces.column("frame_features")),
        read_ragged(pieces.column("norm")),
        read_ragged(pieces.column("mask")),
    )
    return [
        _Part(offset, features, norm, mask)
        for offset, features, norm, mask in zip(*columns, strict=True)
        if features is not None and norm is not None and mask is not None
    ]


def _fetch_same(output: str, weights: Any, checkpoint: str | None) -> Checkpoint:  # noqa: ANN401 - JSON
    """The checkpoint that an output was made with."""
    name = checkpoint or weights["name"]
    kept = f"{output} keeps no frame features, and to make them anew takes its checkpoint"
    try:
        found = fetch_checkpoint(name)
    except UserError as error:
        raise UserError(f"{kept}: {error}; say with --checkpoint where it is now") from error
    if found.sha256 != weights["sha256"]:
        raise UserError(f"{kept} {weights['name']}, which {name} is not: its SHA-256 differs; name it by --checkpoint")
    return found


def _encode(
    rows: Sequence[dict[str, Any]],
    source: AudioSource,
    channel: int | None,
    config: JobConfig,
    checkpoint: Checkpoint,
) -> list[_Part]:
    from sdhubert_ray.encoder.checkpoint import load_model
    from sdhubert_ray.encoder.inference import batch_seconds_on, encode_pieces

    spans = [Span.of_piece(row["start"], row["end"], row["piece"], row["num_pieces"]) for row in rows]
    device = local_device("auto")
    loaded = [load_piece(source, span, channel, config.audio, config.windows) for span in spans]
    pieces = settle_pieces(loaded, config.audio, device)
    for piece in pieces:
        if piece.status in FAILED_STATUSES:
            raise UserError(f"the audio of recording {rows[0]['id']}, {source}, {piece.error}")
    present = [piece for piece in pieces if piece.samples is not None]
    model = load_model(checkpoint, config.encoder, config.dtype, device)
    encoded = encode_pieces(
        model,
        [piece.samples for piece in present if piece.samples is not None],
        config.windows,
        config.encoder,
        batch_seconds_on(device, config.resources.batch_seconds),
        [piece.phase for piece in present],
    )
    parts = []
    for piece, found in zip(present, encoded, strict=True):
        speech = find_speech(found.raw_norm, found.amplitude, config.speech)
        parts.append(_Part(piece.offset, found.features, speech.norm, speech.mask))
    return parts


def _join(parts: Sequence[_Part], threshold: float) -> Frames:
    """The frames of a recording's pieces; there may be one between two pieces that neither has."""
    if not parts:
        return Frames()
    first = frame_offset(parts[0].offset)
    length = count_joined([part.offset for part in parts], [len(part.norm) for part in parts])
    features = np.zeros((length, parts[0].features.shape[1]), np.float32)
    norm = np.full(length, np.nan, np.float32)
    for part in parts:
        begin = frame_offset(part.offset) - first
        features[begin : begin + len(part.norm)] = np.where(part.mask[:, None], part.features, 0)
        norm[begin : begin + len(part.norm)] = part.norm
    return Frames(parts[0].offset, features, norm, threshold)


def _decode(source: AudioSource, span: Span, channel: int | None) -> Samples:
    try:
        with audio_to_decode(*astuple(source)) as file:
            return read_audio(file, span, channel).samples
    except FileNotFoundError as error:
        raise UserError(f"{source} does not exist any more; put it back to draw it") from error
    except AudioError as error:
        raise UserError(f"{source} {error}") from error
