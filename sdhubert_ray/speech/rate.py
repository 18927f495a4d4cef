"""How many syllables there are in a second: the options of a segmenter that decide it, and their values for a rate."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import FRAME_RATE
from sdhubert_ray.speech.spans import Spans
from sdhubert_ray.speech.syllables import (
    MIN_CUT,
    SEGMENTERS,
    SyllableOptions,
    banded_cut,
    banded_merging,
    bind_segmenter,
    initial_cut,
    merge,
)

LEAST_SPEECH_SECONDS = 10.0
"""With less speech than this a rate says little."""
_COSINES = tuple(round(place / 10_000, 4) for place in range(-10_000, 10_001))
# From a millionth to a million, a thousand to a decade; and none, of which most are found.
_LEVELS = (*(float(f"{10 ** (place / 1000):.4g}") for place in range(6000, -6001, -1)), 0.0)
# Of what was tried on speech the coarsest cut that had enough segments was best, or as good as any.
_CUTS = tuple(round(hundredths / 100, 2) for hundredths in range(20, 4, -2))
_LENGTHS = tuple(round(frames / FRAME_RATE, 6) for frames in range(30 * FRAME_RATE, 0, -1))


@dataclass(frozen=True)
class RateOption:
    """What decides how many syllables a segmenter finds, all its other options staying as they are.

    Attributes:
        name: of the option, in the section of the segmenter.
        values: that are tried: each finds as many syllables as the one before it, or more, or nearly so.
        stride: none where that is sure; else one in so many values is tried in any case.
        cuts: of `syl_dur`, where there is one, in seconds: the first is taken by which the rate can be had.
    """

    name: str
    values: Sequence[float]
    stride: int | None = None
    cuts: Sequence[float] = ()


RATE_OPTIONS: Mapping[str, RateOption] = {
    MIN_CUT: RateOption("merge_threshold", _COSINES, cuts=_CUTS),
    "min-cut-banded": RateOption("merge_threshold", _COSINES, cuts=_CUTS),
    # Another threshold moves centroids, too, so that fewer segments may come of a greater one.
    "greedy": RateOption("merge_threshold", _COSINES[10_000:], stride=100),
    "sse-dp": RateOption("max_error", _LEVELS),
    "norm-peaks": RateOption("prominence", _LEVELS),
    "uniform": RateOption("seconds", _LENGTHS),
}
"""By segmenter."""


class Spoken(NamedTuple):
    """A recording of T frames at 50 Hz, or a part of one, in which speech has been found.

    Attributes:
        features: (T, D) floating.
        norms: (T,) float32, what tells speech of each frame.
        spans: (P, 2) frames [start, end) of speech.
        seconds: of audio.
    """

    features: npt.NDArray[np.floating]
    norms: npt.NDArray[np.float32]
    spans: Spans
    seconds: float


class TunedRate(NamedTuple):
    """Options that come nearest to a rate.

    Attributes:
        options: all of them.
        rate: that they give, syllables per second of audio.
    """

    options: SyllableOptions
    rate: float


def rate_keys(segmenter: str) -> tuple[str, ...]:
    """The options of a segmenter that a rate decides, as users write them."""
    option = RATE_OPTIONS[segmenter]
    names = ("syl_dur", option.name) if option.cuts else (option.name,)
    return tuple(".".join(filter(None, ("syllables", SEGMENTERS[segmenter], name))) for name in names)


def with_own_values(options: SyllableOptions, values: Mapping[str, object]) -> SyllableOptions:
    """Options with other values of some that the segmenter has, by their names in its section."""
    section = SEGMENTERS[options.segmenter]
    changes: dict[str, Any] = dict(values)
    if section is not None:
        changes = {section: replace(getattr(options, section), **changes)}
    return replace(options, **changes)


def tune_rate(recordings: Sequence[Spoken], options: SyllableOptions, rate: float) -> TunedRate:
    """Find the options with which a segmenter finds so many syllables per second of audio, pauses included.

    The initial cut, where there is one, is the coarsest of `RateOption.cuts` that is fine enough. Of all values that
    are then tried the one nearest to the rate is taken; of equals that with fewer syllables, then the first. None of
    `RateOption.values` is nearer, but for `greedy`, whose number of syllables may fall a little where it should grow:
    there no value of two decimals is.

    Args:
        recordings: a sample.
        options: the segmenter and its rules; the values of `rate_keys` in them do not count.
        rate: syllables per second of audio, Hz.

    Raises:
        UserError: there is too little speech, or the rate is out of reach.
    """
    keys = " and ".join(rate_keys(options.segmenter))
    seconds = math.fsum(recording.seconds for recording in recordings)
    speech = sum(int(np.diff(recording.spans).sum()) for recording in recordings) / FRAME_RATE
    if speech < LEAST_SPEECH_SECONDS:
        raise UserError(
            f"rate is {rate:g}, but there are {speech:.1f} s of speech in a sample of {seconds:.0f} s of audio, and a "
            f"rate takes {LEAST_SPEECH_SECONDS:g} s; leave it out, and set {keys}"
        )
    option, wanted = RATE_OPTIONS[options.segmenter], rate * seconds
    fewest, most = math.inf, 0
    for cut in _cuts_of(options):
        count = cache(_counter(recordings, cut))
        tried = _try_values(option, count, wanted)
        found = [count(value) for value in tried]
        fewest, most = min(fewest, *found), max(most, *found)
        if min(found) <= wanted <= max(found):
            value = min(tried, key=lambda value: (abs(count(value) - wanted), count(value)))
            return TunedRate(with_own_values(cut, {option.name: value}), count(value) / seconds)
    # Rounded inwards, so that what is named is within.
    low, high = math.ceil(100 * fewest / seconds) / 100, math.floor(100 * most / seconds) / 100
    raise UserError(
        f"rate is {rate:g}, but by {keys} {options.segmenter} reaches {low:g} to {high:g} syllables per second of this "
        "audio; ask for one of these, or change its other options"
    )


def _cuts_of(options: SyllableOptions) -> list[SyllableOptions]:
    """The options with each initial cut that is tried and that their longest segment allows, the coarsest first."""
    rules: Any = options if SEGMENTERS[options.segmenter] is None else options.banded
    lengths = [
        length
        for length in RATE_OPTIONS[options.segmenter].cuts
        if rules.max_frames is None or round(length * FRAME_RATE) <= rules.max_frames
    ]
    return [with_own_values(options, {"syl_dur": length}) for length in lengths] or [options]


def _try_values(option: RateOption, count: Callable[[float], int], wanted: float) -> list[float]:
    """The values to choose from, in order: one in every stride, and two neighbours wherever `wanted` lies between."""
    last = len(option.values) - 1
    places = [*range(0, last, option.stride or last), last]
    tried = set(places)
    for low, high in pairwise(places):
        if count(option.values[low]) < wanted <= count(option.values[high]):
            found = bisect_left(option.values, wanted, low + 1, high, key=count)
            tried |= {found - 1, found}
    return [option.values[place] for place in sorted(tried)]


def _counter(recordings: Sequence[Spoken], options: SyllableOptions) -> Callable[[float], int]:
    """What counts the syllables that a value gives; what does not hang on it is done once."""
    if options.segmenter == MIN_CUT:
        return _count_merged(recordings, partial(initial_cut, options=options), options)
    if options.segmenter == "min-cut-banded":
        return _count_merged(recordings, partial(banded_cut, options=options.banded), banded_merging(options.banded))

    name = RATE_OPTIONS[options.segmenter].name

    def count(value: float) -> int:
        segmenter = bind_segmenter(with_own_values(options, {name: value}))
        return sum(len(segmenter(recording.features, recording.norms, recording.spans)) for recording in recordings)

    return count


def _count_merged(
    recordings: Sequence[Spoken], cut: Callable[[npt.NDArray[np.float64]], Spans], rules: SyllableOptions
) -> Callable[[float], int]:
    spans = [
        recording.features[start:end].astype(np.float64)
        for recording in recordings
        for start, end in recording.spans.tolist()
    ]
    cuts = [(span, cut(span)) for span in spans]
    return lambda value: sum(len(merge(*one, replace(rules, merge_threshold=value))[0]) for one in cuts)
