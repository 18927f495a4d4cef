"""An output counted, and a sample of its recordings, in one pass that holds the sample and some numbers a recording."""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sdhubert_ray.corpus.selection import digests_of
from sdhubert_ray.metrics import unit_rates
from sdhubert_ray.output import FileResult, join_pieces, read_files
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.reporting.content import Histogram, UnitCounts
from sdhubert_ray.speech import FRAME_RATE

_COLUMNS = ("id", "uri", "piece", "offset", "duration", "status", "error", "num_frames", "segments", "units")
_LONGEST_SYLLABLE = 40  # frames that have a bin of their own
_RATE_STEP, _FASTEST = 0.5, 12.0  # syllables a second
_BINS = 30
_NICE = (1, 2, 2.5, 5, 10)
_OTHER_SHARE = 10
"""Of the sample, a tenth are recordings of one status that is not `ok`, where there are so many."""


@dataclass
class Survey:
    """What was found.

    Attributes:
        sample: recordings, by id.
        durations: of recordings that could be read, seconds.
        rates: their syllables a second.
        frames: (F,) how many syllables last so many frames, the last also all longer ones.
        units: (U,) how often each occurs.
        audio_seconds: of recordings that could be read.
        speech_seconds: within syllables.
    """

    sample: list[FileResult] = field(default_factory=list)
    durations: "array[float]" = field(default_factory=lambda: array("d"))
    rates: "array[float]" = field(default_factory=lambda: array("d"))
    frames: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LONGEST_SYLLABLE + 1, np.int64))
    units: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    audio_seconds: float = 0.0
    speech_seconds: float = 0.0

    def histograms(self) -> list[Histogram]:
        """How long recordings and syllables are, and how many syllables a second recordings have."""
        found = []
        if len(self.durations):
            durations, rates = np.array(self.durations), np.array(self.rates)
            step = nice_step(float(np.quantile(durations, 0.99)) / _BINS)
            found.append(_histogram("Length of recordings", "s", durations, step, _BINS * step))
            found.append(_histogram("Syllables per second", "/s", rates, _RATE_STEP, _FASTEST))
        if self.frames.any():
            # A syllable lasts whole frames: each number of them is in the middle of its bin.
            edges = [1000 * (frame + 0.5) / FRAME_RATE for frame in range(_LONGEST_SYLLABLE)]
            middle = int(np.searchsorted(np.cumsum(self.frames), self.frames.sum() / 2))
            counts = self.frames[1:-1].tolist()
            title = "Length of syllables"
            beyond = int(self.frames[-1])
            found.append(Histogram(title, "ms", edges, counts, beyond, 1000.0 * middle / FRAME_RATE))
        return found

    def unit_counts(self, num_units: int | None) -> UnitCounts | None:
        """How units are used, of so many that there are, if that is known; None where there are none."""
        if not self.units.any():
            return None
        order = np.argsort(-self.units, kind="stable")
        used = order[self.units[order] > 0]
        rates = unit_rates(self.units, self.audio_seconds, self.speech_seconds)
        counts = [(int(unit), int(self.units[unit])) for unit in used]
        return UnitCounts(num_units or len(used), rates.perplexity, counts)

    def add(self, result: FileResult) -> None:
        """Count a recording."""
        if result.status in FAILED_STATUSES:
            return
        lengths = result.segments[:, 1] - result.segments[:, 0]
        frames = np.rint(lengths * FRAME_RATE).astype(np.int64).clip(0, _LONGEST_SYLLABLE)
        self.frames += np.bincount(frames, minlength=_LONGEST_SYLLABLE + 1)
        self.audio_seconds += result.duration
        self.speech_seconds += float(lengths.sum())
        if result.duration:
            self.durations.append(result.duration)
            self.rates.append(len(lengths) / result.duration)
        if result.units is not None and len(result.units):
            counted = np.bincount(result.units, minlength=len(self.units))
            counted[: len(self.units)] += self.units
            self.units = counted


def survey(output: str, size: int, wanted: Collection[str], advance: Callable[[], None]) -> Survey:
    """Go through an output.

    Args:
        output: folder of a run.
        size: recordings of the sample: first `wanted`, then those whose ids have the smallest digests, so that it is
            the same each time; of those of each status but `ok` a tenth, or more where there are no others.
        wanted: ids of recordings that have to be in it.
        advance: called for each recording.

    Raises:
        UserError: there is no run, or a file of it is damaged.
    """
    found = Survey()
    chosen: dict[str, FileResult] = {}
    wanted = frozenset(wanted)
    others: defaultdict[str, list[tuple[int, str, FileResult]]] = defaultdict(list)
    for table in read_files(output, _COLUMNS):
        result = join_pieces(table)
        found.add(result)
        advance()
        if result.id in wanted:
            chosen[result.id] = result
            continue
        heap = others[result.status]
        entry = (-int(digests_of([result.id])[0]), result.id, result)
        (heapq.heappush if len(heap) < size else heapq.heappushpop)(heap, entry)
    ranked = {status: sorted(heap, key=lambda entry: -entry[0]) for status, heap in others.items()}
    common, share = ranked.pop("ok", []), max(1, size // _OTHER_SHARE)
    first = [entry for heap in ranked.values() for entry in heap[:share]]
    last = [entry for heap in ranked.values() for entry in heap[share:]]
    drawn = sorted([*first, *common, *last][: max(0, size - len(chosen))], key=lambda entry: entry[1])
    found.sample = [*chosen.values(), *(result for _, _, result in drawn)]
    return found


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least so much."""
    if least <= 0:
        return 1.0
    scale = 10.0 ** np.floor(np.log10(least))
    return float(next(scale * factor for factor in _NICE if scale * factor >= least * (1 - 1e-9)))


def _histogram(title: str, unit: str, values: npt.NDArray[np.float64], step: float, end: float) -> Histogram:
    edges = np.arange(round(end / step) + 1) * step
    counts, _ = np.histogram(values, [*edges[:-1], np.nextafter(edges[-1], np.inf)])
    beyond = int((values > edges[-1]).sum())
    used = max(1, int(np.flatnonzero(counts).max(initial=0)) + 1) if not beyond else len(counts)
    middle = float(np.median(values))
    return Histogram(title, unit, edges[: used + 1].tolist(), counts[:used].tolist(), beyond, middle)
