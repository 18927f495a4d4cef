"""What decoding leaves to the device of the encoder: audio at the rate of its file becomes 16 kHz, z-scored."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from sdhubert_ray.output.tables import read_ragged
from sdhubert_ray.runs.stages.decoding import Piece
from sdhubert_ray.runs.stages.rows import replaced
from sdhubert_ray.speech.audio import SAMPLE_RATE, AudioOptions
from sdhubert_ray.speech.decoders import Samples


def settle_rows(batch: pa.Table, audio: AudioOptions, device: str) -> tuple[pa.Table, list[Samples | None]]:
    """Make the samples of decoded rows what the encoder reads.

    Args:
        batch: with samples, samples_hz and status.
        audio: how it was decoded.
        device: of the encoder.

    Returns:
        the rows, of which what is constant at 16 kHz is `silent` now, and (n,) float32 samples of each, or None.
    """
    samples, rates = read_ragged(batch.column("samples")), batch.column("samples_hz").to_pylist()
    settled = _settle(samples, rates, audio, device)
    statuses = batch.column("status").to_pylist()
    for row in _lost(samples, settled):
        statuses[row] = _silent(statuses[row])
    return replaced(batch, "status", pa.array(statuses, pa.string())), settled


def settle_pieces(pieces: Sequence[Piece], audio: AudioOptions, device: str) -> list[Piece]:
    """Pieces as `load_piece` gives them, with samples as the encoder reads them; see `settle_rows`."""
    samples = [piece.samples for piece in pieces]
    settled = _settle(samples, [piece.rate for piece in pieces], audio, device)
    ready = [replace(piece, samples=one, rate=SAMPLE_RATE) for piece, one in zip(pieces, settled, strict=True)]
    for index in _lost(samples, settled):
        ready[index] = replace(ready[index], status=_silent(ready[index].status))
    return ready


def _settle(
    samples: Sequence[Samples | None], rates: Sequence[int], audio: AudioOptions, device: str
) -> list[Samples | None]:
    left = {
        index: (one, rate)
        for index, (one, rate) in enumerate(zip(samples, rates, strict=True))
        if one is not None and rate != SAMPLE_RATE
    }
    if not left:
        return list(samples)
    # Only here: torch takes seconds to import.
    from sdhubert_ray.encoder.resampling import resample_on

    normed = resample_on(device, list(left.values()), audio.variance_floor, audio.normalisation)
    resampled = dict(zip(left, normed, strict=True))
    return [resampled.get(index, one) for index, one in enumerate(samples)]


def _lost(before: Sequence[Samples | None], after: Sequence[Samples | None]) -> list[int]:
    """Which had samples that were found constant."""
    pairs = enumerate(zip(before, after, strict=True))
    return [index for index, (had, has) in pairs if had is not None and has is None]


def _silent(status: str) -> str:
    """The status of audio that is silent: a truncated one stays so."""
    return "silent" if status == "ok" else status
