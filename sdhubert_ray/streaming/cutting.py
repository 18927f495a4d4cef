"""Frames to syllables as they come: spans of speech that grow, and what of their syllables is final."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sdhubert_ray.encoder.blending import EncodedPiece
from sdhubert_ray.speech.audio import FRAME_RATE
from sdhubert_ray.speech.spans import SpeechOptions, runs
from sdhubert_ray.speech.syllables import SyllableOptions, bind_segmenter, pool_frames

PROVISIONAL = {"greedy": 2, "uniform": 1}
"""How many of the last segments of a span may still change as it grows; with other segmenters all may."""


class StreamedSyllable(NamedTuple):
    """A syllable that is final.

    Attributes:
        start: seconds from the beginning of the stream.
        end: likewise, excluded.
        frames: (start, end) in frames of 50 Hz.
        feature: (D,) float32, of its frames by `syllables.pooling`.
    """

    start: float
    end: float
    frames: tuple[int, int]
    feature: npt.NDArray[np.float32]


class SyllableStream:
    """Frames in, final syllables out, by the rules of `find_speech` and `find_syllables`.

    A run of frames above the threshold grows until a frame is not; then all its syllables are final. As it grows, the
    segmenter is asked anew about all its frames. Of `greedy` all but the last two segments are final: frames join
    segments in order, so that only the last one grows, and neighbours are merged or their boundary is moved in order,
    so that only what becomes of the last pair hangs on it.

    Two rules need the future, and differ from offline. The loudness of a run is judged as far as it has come when
    something of it can be given out, once and for all. A run that becomes longer than `max_span_seconds` is cut where
    the norm is lowest in the second half of them, but behind what was given out.
    """

    def __init__(self, speech: SpeechOptions, syllables: SyllableOptions) -> None:
        """Begin before the first frame; norms have to be `absolute`."""
        self._speech = speech
        self._segment = bind_segmenter(syllables)
        self._pooling = syllables.pooling
        self._provisional = PROVISIONAL.get(syllables.segmenter)
        self._limit = round(speech.max_span_seconds * FRAME_RATE)
        self._position = 0  # frames that have come
        self._run: _Run | None = None

    def add(self, block: EncodedPiece) -> list[StreamedSyllable]:
        """Take the next frames, one at least."""
        count = len(block.raw_norm)
        found: list[StreamedSyllable] = []
        spans = runs(block.raw_norm > self._speech.normcut_threshold)
        if not len(spans) or spans[0, 0] > 0:
            found += self._close()
        for start, end in spans.tolist():
            if self._run is None:
                self._run = _Run(self._position + start, block)
            self._run.grow(block, start, end)
            while len(self._run.norms) > self._limit:
                found += self._split(self._run)
            if end < count:
                found += self._close()
        self._position += count
        if self._run is not None:
            found += self._settled(self._run)
        return found

    def end(self) -> list[StreamedSyllable]:
        """Syllables of the run that is open, as no frame follows."""
        return self._close()

    def _settled(self, run: "_Run") -> list[StreamedSyllable]:
        """What is final of a run that may go on."""
        if self._provisional is None or not self._counts(run):
            return []
        found = self._cut(run, 0, len(run.norms), slice(run.given, -self._provisional))
        if found:
            run.given += len(found)
            run.given_end = found[-1].frames[1] - run.start
        return found

    def _close(self) -> list[StreamedSyllable]:
        run, self._run = self._run, None
        if run is None or not self._counts(run):
            return []
        return self._cut(run, 0, len(run.norms), slice(run.given, None))

    def _split(self, run: "_Run") -> list[StreamedSyllable]:
        """Give out what lies before the cut; the run goes on behind it."""
        first = max(self._limit // 2, run.given_end)
        cut = first + int(np.argmin(run.norms[first : self._limit]))
        found = self._cut(run, run.given_end, cut, slice(None)) if cut > run.given_end and self._counts(run) else []
        run.forget(cut)
        return found

    def _counts(self, run: "_Run") -> bool:
        """Whether the run is long and loud enough, which it stays when it was."""
        threshold = self._speech.silence_threshold
        if not run.counts and run.length >= self._speech.min_span_frames:
            run.counts = threshold is None or run.loudness / run.length > threshold
        return run.counts

    def _cut(self, run: "_Run", first: int, last: int, wanted: slice) -> list[StreamedSyllable]:
        """Those of the syllables of frames [first, last) of a run that are wanted."""
        features, norms = run.features[first:last], run.norms[first:last]
        segments = self._segment(features, norms, np.array([[0, last - first]]))[wanted]
        found = []
        for start, end in segments.tolist():
            feature = pool_frames(features[start:end], self._pooling)
            frames = run.start + first + start, run.start + first + end
            found.append(StreamedSyllable(frames[0] / FRAME_RATE, frames[1] / FRAME_RATE, frames, feature))
        return found


class _Run:
    """A run of frames with speech that may go on."""

    def __init__(self, start: int, block: EncodedPiece) -> None:
        self.start = start  # the frame of the stream that the arrays begin with
        self.features = block.features[:0]
        self.norms = block.raw_norm[:0]
        self.length = 0  # frames, with those that were forgotten
        self.loudness = 0.0  # sum over them
        self.counts = False  # whether it was found long and loud enough
        self.given = 0  # syllables of the arrays that were given out
        self.given_end = 0  # where the last of them ends, from `start` on

    def grow(self, block: EncodedPiece, start: int, end: int) -> None:
        self.features = np.concatenate([self.features, block.features[start:end]])
        self.norms = np.concatenate([self.norms, block.raw_norm[start:end]])
        self.length += end - start
        self.loudness += float(block.amplitude[start:end].sum(dtype=np.float64))

    def forget(self, count: int) -> None:
        self.start += count
        self.features, self.norms = self.features[count:].copy(), self.norms[count:].copy()
        self.given = self.given_end = 0
