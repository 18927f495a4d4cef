"""Log-mel spectrograms at the frames of the encoder: what can be cut without one."""

import functools

import numpy as np
import numpy.typing as npt

from sdhubert_ray.speech.audio import FRAME_SAMPLES, SAMPLE_RATE

BANDS = 80
_WINDOW, _FFT = 400, 512


def log_mel(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Log energies of 25 ms around each frame of 20 ms: (n // 320, 80) of (n,) samples at 16 kHz."""
    from scipy.signal import get_window

    padded = np.pad(samples.astype(np.float64), ((_WINDOW - FRAME_SAMPLES) // 2, _WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::FRAME_SAMPLES]
    frames = windows[: len(samples) // FRAME_SAMPLES]
    power = np.abs(np.fft.rfft(frames * get_window("hann", _WINDOW), _FFT)) ** 2
    levels: npt.NDArray[np.float64] = np.log(power @ _filters().T + 1e-6)
    return levels


def mel_levels(bands: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """What tells speech in a (T, 80) log-mel spectrogram, in the place of norms: (T,) float32."""
    levels: npt.NDArray[np.float32] = bands.mean(axis=1).astype(np.float32)
    return levels


@functools.cache
def _filters() -> npt.NDArray[np.float64]:
    """(80, 257) triangles between 0 and 8 kHz, evenly spaced on the mel scale."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters: npt.NDArray[np.float64] = np.maximum(
        0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))
    )
    return filters
