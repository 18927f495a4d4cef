"""Arrays to a figure: waveform, self-similarity and boundaries of a recording."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdhubert_ray.speech import FRAME_RATE, SAMPLE_RATE, Samples

_SPEECH_BLUE, _BOUNDARY, _TRUE = "#2b5c8a", "#c0392b", "#2e7d32"

_MIN_SECONDS = 0.02  # an axis needs a length, whatever the recording


class Labelled(NamedTuple):
    """Intervals (R, 2) in seconds, and the label of each."""

    intervals: npt.NDArray[np.float64]
    labels: Sequence[str]


def draw_segments(
    samples: Samples,
    features: npt.NDArray[np.floating],
    segments: npt.NDArray[np.float64],
    title: str,
    true: Labelled | None = None,
) -> Figure:
    """Draw a recording.

    Args:
        samples: (n,) float32 at 16 kHz.
        features: (T, D) at 50 Hz, zero outside speech.
        segments: (S, 2) seconds.
        title: put above.
        true: syllables as they are, put below the waveform.
    """
    vectors = features.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    seconds = len(samples) / SAMPLE_RATE
    figure = Figure(figsize=(10, 11), layout="constrained")
    if true is None:
        wave, image = figure.subplots(2, 1, sharex=True, height_ratios=(1, 5))
    else:
        wave, below, image = figure.subplots(3, 1, sharex=True, height_ratios=(2, 0.6, 10))
        _draw_true(below, true)
    wave.plot(np.arange(len(samples)) / SAMPLE_RATE, samples, linewidth=0.4, color=_SPEECH_BLUE)
    wave.set(title=title, ylabel="amplitude")
    end = max(len(features) / FRAME_RATE, _MIN_SECONDS)
    shown = image.imshow(
        unit @ unit.T, origin="lower", extent=(0, end, 0, end), vmin=0, vmax=1, cmap="magma", aspect="auto"
    )
    for start, stop in segments:
        wave.axvline(start, color=_BOUNDARY, linewidth=0.8)
        wave.axvline(stop, color=_BOUNDARY, linewidth=0.8, linestyle=":")
        # The block of a segment on the diagonal is what the cut looked for.
        image.plot([start, stop, stop, start, start], [start, start, stop, stop, start], color="white", linewidth=0.8)
    image.set(xlabel="seconds", ylabel="seconds", xlim=(0, max(seconds, _MIN_SECONDS)), ylim=(0, end))
    figure.colorbar(shown, ax=image, label="cosine similarity of frames", shrink=0.8)
    return figure


def _draw_true(axes: Axes, true: Labelled) -> None:
    for (start, end), label in zip(true.intervals, true.labels, strict=True):
        axes.axvspan(start, end, facecolor=_TRUE, alpha=0.2, edgecolor=_TRUE)
        axes.text(
            (start + end) / 2,
            0.5,
            label,
            ha="center",
            va="center",
            fontsize=7,
            rotation=45,
            clip_on=True,
            parse_math=False,
        )
    axes.set(ylabel="true", yticks=[], ylim=(0, 1))
