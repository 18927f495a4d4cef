"""Samples and features to images: envelope, mel spectrogram, self-similarity."""

import numpy as np
import numpy.typing as npt

from sdhubert_ray.speech import SAMPLE_RATE, Samples

HOP_SECONDS = 0.005
"""Between the columns of a spectrogram."""
MEL_TICKS = (0, 500, 1000, 2000, 4000, 8000)
"""Frequencies that are named beside a spectrogram, Hz."""
_WINDOW_SECONDS = 0.025
_FFT = 1024
_BANDS = 80
_RANGE = 70.0  # dB below the loudest

Floats = npt.NDArray[np.float64]


def envelope(samples: Samples, columns: int) -> tuple[Floats, npt.NDArray[np.float32]]:
    """The outline of (n,) samples as a line of at most two points a column.

    Returns:
        where each point lies, in samples from the first, and its amplitude. Few samples are given as they are.
    """
    step = -(-len(samples) // max(columns, 1))
    if step <= 2:
        return np.arange(len(samples), dtype=np.float64), samples
    padded = np.pad(samples, (0, -len(samples) % step), mode="edge").reshape(-1, step)
    extremes = np.stack([padded.min(axis=1), padded.max(axis=1)], axis=1)
    middles = (np.arange(len(padded)) + 0.5) * step
    return np.repeat(middles, 2), extremes.reshape(-1)


def mel_spectrogram(samples: Samples) -> Floats:
    """The mel spectrogram of (n,) samples at 16 kHz.

    Returns:
        (80, 1 + n // 80) float64, dB from -70 to 0, the loudest; column i is around i * `HOP_SECONDS`.
    """
    from transformers.audio_utils import mel_filter_bank

    hop, width = round(HOP_SECONDS * SAMPLE_RATE), round(_WINDOW_SECONDS * SAMPLE_RATE)
    padded = np.pad(samples, width // 2)
    starts = np.arange(1 + len(samples) // hop) * hop
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(padded, (0, width)), width)[starts]
    power = np.abs(np.fft.rfft(windows * np.hanning(width), _FFT)) ** 2
    filters = mel_filter_bank(1 + _FFT // 2, _BANDS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE)
    energy = power @ filters
    loudest = float(energy.max(initial=0.0))
    if not loudest:
        return np.full(energy.T.shape, -_RANGE)
    decibels: Floats = 10 * np.log10(np.maximum(energy / loudest, 10 ** (-_RANGE / 10)))
    return decibels.T


def mel_places() -> list[float]:
    """Where `MEL_TICKS` lie on the axis of a spectrogram, from 0 to 1."""
    from transformers.audio_utils import hertz_to_mel

    top = float(hertz_to_mel(SAMPLE_RATE / 2))
    return [float(hertz_to_mel(frequency)) / top for frequency in MEL_TICKS]


def similarity(features: npt.NDArray[np.floating]) -> Floats:
    """Cosine similarity of all pairs of (T, D) frames: (T, T); 0 where one is zero."""
    unit = _normed(features)
    return unit @ unit.T


def similarity_by_lag(features: npt.NDArray[np.floating], most: int) -> Floats:
    """Cosine similarity of (T, D) frames with those up to `most` later.

    Returns:
        (most + 1, 2 T): row d, column c is that of two frames d apart whose middle lies c half frames after the start
        of the first; NaN where there is no such pair.
    """
    unit = _normed(features)
    image = np.full((most + 1, 2 * len(unit)), np.nan)
    for lag in range(min(most + 1, len(unit))):
        values = np.einsum("td,td->t", unit[: len(unit) - lag], unit[lag:])
        image[lag, lag : 2 * len(unit) - lag] = np.repeat(values, 2)
    return image


def _normed(features: npt.NDArray[np.floating]) -> Floats:
    vectors = features.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
