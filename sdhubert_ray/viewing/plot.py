"""A figure of a recording: waveform, spectrogram, syllables, norm and self-similarity on one axis of time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech import FRAME_RATE, SAMPLE_RATE, Span
from sdhubert_ray.speech.audio import read_audio, resample
from sdhubert_ray.viewing.images import (
    HOP_SECONDS,
    MEL_TICKS,
    envelope,
    mel_places,
    mel_spectrogram,
    similarity,
    similarity_by_lag,
)
from sdhubert_ray.viewing.notebook import ShownFigure
from sdhubert_ray.viewing.view import Frames, Labelled, View, look

# Of Okabe and Ito's palette: two that everybody tells apart. In grey, the tint does it.
_FOUND, _FOUND_TINT = "#0072B2", "#D6E8F3"
_REFERENCE, _REFERENCE_TINT = "#D55E00", "#FFFFFF"
_INK, _SPEECH = "#222222", "#BBBBBB"
_SIMILARITY = "cividis"
_NOTHING = "#00224e"  # what it begins with
_DARK_BEHIND = withStroke(linewidth=5, foreground=_NOTHING)  # white lines in a legend on white

_ROW_SECONDS = 10.0
"""What one row shows at most; longer stretches are broken into rows, as lines of a text."""
_LAG_SECONDS = 0.6
_POINTS_PER_INCH = 150

# Inches.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 10.0, 0.85, 0.75, 0.95, 0.5
_GAP, _ROW_GAP = 0.05, 0.4
_WAVE, _SPECTROGRAM, _NORM, _SQUARE, _LAGS = 0.6, 1.0, 0.5, 4.0, 0.7
_TIER, _LETTER, _MOST_LETTERS, _NARROWEST = 0.2, 0.062, 10, 0.075
# Points.
_LARGE, _SMALL, _SMALLEST = 10, 7, 6


@dataclass(frozen=True)
class Row:
    """A row of a figure.

    Attributes:
        begin: where it begins, seconds.
        end: where it ends, seconds.
        box: left, bottom, width and height of its panels, as parts of the figure.
    """

    begin: float
    end: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawing:
    """A figure, and where on it what was when."""

    figure: Figure
    rows: Sequence[Row]


@dataclass(frozen=True)
class _Panel:
    """A panel of each row: its name and its height in inches."""

    name: str
    height: float


@dataclass(frozen=True)
class _Tier:
    """Labelled intervals to be drawn in boxes; upright labels go up."""

    name: str
    items: Labelled
    upright: bool
    is_reference: bool


def plot_segmentation(
    audio: str | Path | npt.NDArray[np.floating | np.signedinteger],
    segments: npt.NDArray[np.float64],
    *,
    sample_rate: int | None = None,
    features: npt.NDArray[np.floating] | None = None,
    norm: npt.NDArray[np.floating] | None = None,
    threshold: float | None = None,
    units: npt.NDArray[np.integer] | None = None,
    reference: tuple[npt.NDArray[np.float64], Sequence[str]] | None = None,
    start: float = 0.0,
    end: float | None = None,
    title: str = "",
) -> Figure:
    """Draw a recording with its syllables, as a matplotlib figure: a notebook shows it, `savefig` saves it.

    Args:
        audio: a path or URI, or samples (n,).
        segments: (S, 2) seconds.
        sample_rate: of samples, Hz.
        features: (T, D) at 50 Hz, zero outside speech: draws their self-similarity.
        norm: (T,) at 50 Hz, as compared with the threshold: draws it.
        threshold: frames of a larger norm are speech.
        units: (S,), one a segment.
        reference: intervals (R, 2) in seconds and the label of each, put below.
        start: of what is shown, seconds.
        end: of what is shown, seconds; None is the end of the recording. 120 s are shown at most.
        title: put above.

    Raises:
        UserError: samples without a rate, units that are not one a segment, or a stretch that is too long or empty.
        AudioError: the file cannot be read.
        FileNotFoundError: there is no such file.
    """
    if not 0 <= start < (math.inf if end is None else end):
        raise UserError(f"start is {start:g} and end {end}; 0 <= start < end is needed")
    if isinstance(audio, str | Path):
        with storage.open_binary(str(audio)) as file:
            samples = read_audio(file, Span(start, end)).samples
    else:
        if sample_rate is None or audio.ndim != 1:
            raise UserError("samples have to be of shape (n,), and need their sample_rate in Hz")
        stop = None if end is None else round(end * sample_rate)
        samples = resample(audio[round(start * sample_rate) : stop].astype(np.float32), sample_rate)
    until = start + len(samples) / SAMPLE_RATE
    beside = None if reference is None else Labelled(*reference)
    frames = Frames(0.0, features, norm, threshold)
    view = look(samples, segments, start, until, units=units, frames=frames, reference=beside, title=title)
    return draw(view).figure


def draw(view: View) -> Drawing:
    """Draw a view: in one row, or in several where it is longer than 10 s."""
    count = max(1, math.ceil((view.end - view.begin) / _ROW_SECONDS - 1e-9))
    length = (view.end - view.begin) / count
    tiers = _list_tiers(view, (_WIDTH - _LEFT - _RIGHT) / length)
    panels = _list_panels(view, tiers, count == 1)
    height_of_row = sum(panel.height + _GAP for panel in panels) - _GAP
    height = _TOP + count * (height_of_row + _ROW_GAP) - _ROW_GAP + _BOTTOM
    figure = ShownFigure(figsize=(_WIDTH, height), dpi=_POINTS_PER_INCH)
    painter = _Painter(view, tiers, count == 1)
    rows = []
    for number in range(count):
        begin = view.begin + number * length
        top = height - _TOP - number * (height_of_row + _ROW_GAP)
        across = (_LEFT / _WIDTH, (top - height_of_row) / height)
        box = (*across, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, height_of_row / height)
        rows.append(Row(begin, begin + length, box))
        for panel in panels:
            bottom = (top - panel.height) / height
            axes = figure.add_axes((box[0], bottom, box[2], panel.height / height))
            painter.paint(panel.name, axes, begin, begin + length)
            is_lowest = panel is panels[-1]
            axes.tick_params(labelsize=_SMALL, labelbottom=is_lowest, bottom=is_lowest, length=2.5)
            if is_lowest and number == count - 1:
                axes.set_xlabel("seconds", fontsize=_SMALL + 1)
            top -= panel.height + _GAP
    _add_scale(figure, panels, height)
    figure.text(
        _LEFT / _WIDTH, 1 - 0.1 / height, _shortened(view.title, 120), va="top", fontsize=_LARGE, parse_math=False
    )
    legend = (_LEFT / _WIDTH, 1 - 0.32 / height)
    figure.legend(
        handles=list(_legend(view)), loc="upper left", bbox_to_anchor=legend, ncols=3, fontsize=_SMALL, frameon=False,
        borderpad=0, handlelength=2.2, columnspacing=1.5,
    )  # fmt: skip
    return Drawing(figure, rows)


def _list_tiers(view: View, inches: float) -> list[_Tier]:
    """The tiers of a view; `inches` a second."""
    found = [Labelled(view.segments, [str(number) for number in view.numbers])]
    names = ["syllable"]
    if view.units is not None:
        found.append(Labelled(view.segments, [str(unit) for unit in view.units]))
        names.append("unit")
    if view.reference is not None:
        found.append(
            Labelled(view.reference.intervals, [_shortened(each, _MOST_LETTERS) for each in view.reference.labels])
        )
        names.append("reference")
    return [
        _Tier(name, items, _is_tight(items, inches), name == "reference")
        for name, items in zip(names, found, strict=True)
    ]


def _is_tight(items: Labelled, inches: float) -> bool:
    """Tell whether a label is wider than its interval, so that all of them go up."""
    widths = (items.intervals[:, 1] - items.intervals[:, 0]) * inches
    return any(len(label) * _LETTER > width for label, width in zip(items.labels, widths, strict=True))


def _list_panels(view: View, tiers: Sequence[_Tier], in_one_row: bool) -> list[_Panel]:
    panels = [_Panel("wave", _WAVE), _Panel("spectrogram", _SPECTROGRAM)]
    for tier in tiers:
        longest = max(map(len, tier.items.labels), default=1)
        panels.append(_Panel(tier.name, max(_TIER, 0.1 + _LETTER * longest) if tier.upright else _TIER))
    if view.frames.norm is not None:
        panels.append(_Panel("norm", _NORM))
    if view.frames.features is not None:
        panels.append(_Panel("similarity", _SQUARE if in_one_row else _LAGS))
    return panels


class _Painter:
    """Draws the panels of a view, row by row."""

    def __init__(self, view: View, tiers: Sequence[_Tier], in_one_row: bool) -> None:
        self._view = view
        self._tiers = {tier.name: tier for tier in tiers}
        self._spectrogram = mel_spectrogram(view.samples)
        self._loudest = float(np.abs(view.samples).max(initial=0)) or 1.0
        self._norms = _find_limits(view.frames)
        self._in_one_row = in_one_row
        features = view.frames.features
        lags = round(_LAG_SECONDS * FRAME_RATE)
        self._similarity = None
        if features is not None:
            self._similarity = similarity(features) if in_one_row else similarity_by_lag(features, lags)

    def paint(self, name: str, axes: Axes, begin: float, end: float) -> None:
        """Draw a panel from `begin` to `end` seconds."""
        axes.set_xlim(begin, end)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if name in self._tiers:
            _paint_tier(axes, self._tiers[name], begin, end)
        elif name == "wave":
            self._paint_wave(axes, begin, end)
        elif name == "spectrogram":
            self._paint_spectrogram(axes)
        elif name == "norm":
            self._paint_norm(axes, begin, end)
        elif self._in_one_row:
            self._paint_similarity(axes)
        else:
            self._paint_lags(axes)

    def _paint_wave(self, axes: Axes, begin: float, end: float) -> None:
        first = max(0, round((begin - self._view.begin) * SAMPLE_RATE))
        part = self._view.samples[first : round((end - self._view.begin) * SAMPLE_RATE)]
        places, amplitudes = envelope(part, round(_WIDTH * _POINTS_PER_INCH))
        axes.plot(self._view.begin + (first + places) / SAMPLE_RATE, amplitudes, linewidth=0.4, color=_INK)
        axes.set(ylim=(-1.05 * self._loudest, 1.05 * self._loudest), yticks=[0])
        axes.set_ylabel("amplitude", fontsize=_SMALL)
        self._mark_boundaries(axes)

    def _paint_spectrogram(self, axes: Axes) -> None:
        view = self._view
        half = HOP_SECONDS / 2
        extent = (view.begin - half, view.begin + self._spectrogram.shape[1] * HOP_SECONDS - half, 0.0, 1.0)
        axes.imshow(self._spectrogram, origin="lower", extent=extent, vmin=-70, vmax=0, cmap="Greys", aspect="auto")
        axes.set(yticks=mel_places(), yticklabels=[f"{frequency / 1000:g}" for frequency in MEL_TICKS])
        axes.set_ylabel("kHz (mel)", fontsize=_SMALL)
        self._mark_boundaries(axes)

    def _mark_boundaries(self, axes: Axes) -> None:
        starts, across = self._view.segments[:, 0], axes.get_xaxis_transform()
        axes.vlines(starts, 0, 1, _FOUND, "solid", transform=across, linewidth=0.9)
        axes.vlines(_free_ends(self._view.segments), 0, 1, _FOUND, "dotted", transform=across, linewidth=0.9)

    def _paint_norm(self, axes: Axes, begin: float, end: float) -> None:
        frame = 1 / FRAME_RATE
        frames = self._view.frames.within(begin - frame, end + frame)  # the curve goes on beyond the row
        norm = np.asarray(frames.norm, np.float64)
        times = frames.begin + (np.arange(len(norm)) + 0.5) / FRAME_RATE
        known = np.isfinite(norm)
        low, high = self._norms
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        if frames.threshold is not None:
            axes.fill_between(
                times, 0, 1, where=norm > frames.threshold, step="mid", color=_SPEECH, alpha=0.5, linewidth=0,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
            axes.axhline(frames.threshold, color=_INK, linestyle="dashed", linewidth=0.8)
        axes.plot(times, np.where(known, norm, np.nan), color=_INK, linewidth=0.9)
        axes.yaxis.set_major_locator(MaxNLocator(3, prune="lower"))
        axes.set_ylabel("norm", fontsize=_SMALL)

    def _paint_similarity(self, axes: Axes) -> None:
        """All pairs of frames; a syllable is a square on the diagonal."""
        assert self._similarity is not None
        begin = self._view.frames.begin
        end = begin + len(self._similarity) / FRAME_RATE
        _show(axes, self._similarity, (begin, end, begin, end))
        corners = ([0, 0], [1, 0], [1, 1], [0, 1], [0, 0])
        _outline(axes, [[(pair[x], pair[y]) for x, y in corners] for pair in self._view.segments])
        axes.set(ylim=(self._view.begin, self._view.end), facecolor=_NOTHING)
        axes.set_ylabel("seconds", fontsize=_SMALL)

    def _paint_lags(self, axes: Axes) -> None:
        """Frames and those soon after; a syllable is a triangle that stands on its stretch of time."""
        assert self._similarity is not None
        begin, rows = self._view.frames.begin, len(self._similarity)
        end = begin + self._similarity.shape[1] / 2 / FRAME_RATE
        half = 0.5 / FRAME_RATE
        _show(axes, self._similarity, (begin, end, -half, rows / FRAME_RATE - half))
        _outline(
            axes, [[(start, 0), ((start + stop) / 2, stop - start), (stop, 0)] for start, stop in self._view.segments]
        )
        axes.set(ylim=(-half, rows / FRAME_RATE - half), yticks=[0, 0.2, 0.4], facecolor=_NOTHING)
        axes.set_ylabel("lag (s)", fontsize=_SMALL)


def _find_limits(frames: Frames) -> tuple[float, float]:
    """The least and the greatest norm, threshold and zero among them."""
    norm = np.zeros(0) if frames.norm is None else np.asarray(frames.norm, np.float64)
    shown = [0.0, *norm[np.isfinite(norm)], *([] if frames.threshold is None else [frames.threshold])]
    return min(shown), max(shown) or 1.0


def _outline(axes: Axes, outlines: Sequence[Sequence[tuple[float, float]]]) -> None:
    axes.add_collection(LineCollection(outlines, colors="white", linewidths=0.9), autolim=False)


def _show(axes: Axes, image: npt.NDArray[np.float64], extent: tuple[float, float, float, float]) -> None:
    if not image.size:
        return
    limits = axes.get_xlim()
    axes.imshow(
        image, origin="lower", extent=extent, vmin=0, vmax=1, cmap=_SIMILARITY, aspect="auto", interpolation="nearest"
    )
    axes.set_xlim(limits)


def _paint_tier(axes: Axes, tier: _Tier, begin: float, end: float) -> None:
    items = tier.items.within(begin, end)
    boxes = [Rectangle((start, 0.04), stop - start, 0.92) for start, stop in items.intervals]
    fill, edge = (_REFERENCE_TINT, _REFERENCE) if tier.is_reference else (_FOUND_TINT, _FOUND)
    axes.add_collection(PatchCollection(boxes, facecolor=fill, edgecolor=edge, linewidth=0.8))
    inches = (_WIDTH - _LEFT - _RIGHT) / (end - begin)
    for (start, stop), label in zip(items.intervals, items.labels, strict=True):
        left, right = max(start, begin), min(stop, end)
        if (right - left) * inches < _NARROWEST:
            continue  # it would lie on its neighbours
        axes.text(
            (left + right) / 2, 0.5, label, ha="center", va="center", rotation=90 if tier.upright else 0,
            fontsize=_SMALLEST if tier.upright else _SMALL, color="black", clip_on=True, parse_math=False,
        )  # fmt: skip
    axes.set(yticks=[], ylim=(0, 1))
    axes.set_ylabel(tier.name, fontsize=_SMALL, rotation=0, ha="right", va="center")
    axes.spines[["left", "bottom"]].set_visible(False)


def _free_ends(segments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The ends at which no other segment begins."""
    followed = np.isclose(segments[:, 1, None], segments[None, :, 0], rtol=0, atol=1e-6).any(axis=1)
    return segments[~followed, 1]


def _add_scale(figure: Figure, panels: Sequence[_Panel], height: float) -> None:
    """The scale of the self-similarity, beside the last of it."""
    if panels[-1].name != "similarity":
        return
    place = figure.add_axes((1 - (_RIGHT - 0.12) / _WIDTH, _BOTTOM / height, 0.1 / _WIDTH, panels[-1].height / height))
    colors = ScalarMappable(cmap=_SIMILARITY)
    colors.set_clim(0, 1)
    scale = figure.colorbar(colors, cax=place)
    scale.set_label("cosine similarity", fontsize=_SMALL)
    scale.ax.tick_params(labelsize=_SMALL, length=2.5)


def _legend(view: View) -> Iterator[Artist]:
    yield Line2D([], [], color=_FOUND, label="start of a syllable, and end of the one before")
    yield Line2D([], [], color=_FOUND, linestyle="dotted", label="end of a syllable that no other follows at once")
    yield Patch(facecolor=_FOUND_TINT, edgecolor=_FOUND, label="syllables found")
    if view.reference is not None:
        yield Patch(facecolor=_REFERENCE_TINT, edgecolor=_REFERENCE, label="reference")
    if view.frames.norm is not None and view.frames.threshold is not None:
        yield Line2D([], [], color=_INK, linestyle="dashed", label="threshold of the norm")
        yield Patch(facecolor=_SPEECH, alpha=0.5, label="norm above it: speech")
    if view.frames.features is not None:
        yield Line2D([], [], color="white", label="frames of a syllable", path_effects=[_DARK_BEHIND])


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
