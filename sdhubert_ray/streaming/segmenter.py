"""`StreamingSegmenter`: audio as it comes from a microphone to syllables that are final."""

import math
from dataclasses import replace
from types import TracebackType

import numpy as np
import soxr

from sdhubert_ray.api import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.arrays import Array, is_samples, to_array, to_floats
from sdhubert_ray.speech.audio import FRAME_RATE, SAMPLE_RATE
from sdhubert_ray.speech.decoders import MAX_RATE, MIN_RATE
from sdhubert_ray.streaming.cutting import StreamedSyllable, SyllableStream
from sdhubert_ray.streaming.frames import FrameStream, least_look_ahead


class StreamingSegmenter:
    """Samples in as they come, syllables out as soon as no sample that follows can change them.

    One for each stream; many may share a `SDHuBERTSegmenter`, one after the other. The same samples give the same
    syllables however they are divided. Memory is bounded, whatever the length of the stream: a window of samples, and
    the frames of a span of speech of `max_span_seconds`, or of `piece_seconds` where that is less.

        with StreamingSegmenter(segmenter, mincut) as stream:
            for samples in microphone:
                for syllable in stream.push(samples): ...
            for syllable in stream.flush(): ...
    """

    def __init__(
        self,
        segmenter: SDHuBERTSegmenter,
        mincut: MincutWrapper,
        sample_rate: float = SAMPLE_RATE,
        *,
        look_ahead: float = 0.5,
        hop: float = 0.2,
        window: float = 5.0,
    ) -> None:
        """Begin a stream.

        Args:
            segmenter: the encoder, and what is speech: by an `absolute` threshold of the norm.
            mincut: how speech is cut. With `greedy` a syllable is final when two others have begun after it, or speech
                has ended; with most others only when speech has.
            sample_rate: of what is pushed, Hz; other rates than 16,000 are resampled by soxr, 0.04 to 0.13 s later.
            look_ahead: what the encoder has at least heard after a frame that counts, seconds.
            hop: the encoder is called as often; a frame waits for it at most so long, seconds.
            window: what it hears each time, seconds; `window / hop` times the audio is encoded.

        Raises:
            UserError: options that need a whole recording, or are none of a stream.
        """
        _check_parts(segmenter, mincut)
        options = segmenter.options
        ahead = _frames("look_ahead", look_ahead, least_look_ahead(options))
        step, heard = _frames("hop", hop, 1), _frames("window", window, 1)
        longest = options.audio.piece_seconds
        if not ahead + step <= heard <= longest * FRAME_RATE:
            raise UserError(
                f"window is {window:g}; it has to be from look_ahead + hop, {look_ahead + hop:g} s, to what may be "
                f"encoded at once, {longest:g} s (piece_seconds)"
            )
        # A recording is cut at `piece_seconds`, too, so that no span of it is longer.
        speech = replace(options.speech, max_span_seconds=min(options.speech.max_span_seconds, longest))
        syllables = mincut.options_with(segmenter.syllable_options)
        if speech.normcut_strategy != "absolute":
            raise UserError(
                f"speech.normcut_strategy is {speech.normcut_strategy}, which needs all norms of a recording; a stream "
                "has none to come: give SDHuBERTSegmenter normcut_strategy='absolute' and a normcut_threshold"
            )
        if syllables.segmenter == "norm-peaks":
            raise UserError("norm-peaks scales norms by all of a recording; take another segmenter for a stream")
        if mincut.ft_sr != FRAME_RATE:
            raise UserError(f"ft_sr is {mincut.ft_sr:g}; the frames of a stream are of {FRAME_RATE} Hz")
        self.sample_rate = _rate(sample_rate)
        self._received = 0
        self._is_open = True
        self._resampler: soxr.ResampleStream | None = None
        if self.sample_rate != SAMPLE_RATE:
            self._resampler = soxr.ResampleStream(self.sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._frames = FrameStream(segmenter.model, options, look_ahead=ahead, hop=step, window=heard)
        self._syllables = SyllableStream(speech, syllables)

    @property
    def seconds(self) -> float:
        """How much audio was pushed."""
        return self._received / self.sample_rate

    def push(self, samples: Array) -> list[StreamedSyllable]:
        """Take the next samples.

        Args:
            samples: (n,) of one channel, NumPy or torch, any n: floating ones from -1 to 1, int16 or int32 ones by
                their full scale. They are copied.

        Returns:
            the syllables that are final by them, in order; most often none.

        Raises:
            UserError: they are no samples, or the stream has ended; the stream is as it was.
        """
        self._require_open()
        received = _read(samples)
        self._received += len(received)
        return self._take(received if self._resampler is None else self._resampler.resample_chunk(received))

    def flush(self) -> list[StreamedSyllable]:
        """End the stream: the syllables that were not final yet, in order.

        Raises:
            UserError: the stream has ended.
        """
        self._require_open()
        found = []
        if self._resampler is not None:
            found += self._take(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        for block in self._frames.end():
            found += self._syllables.add(block)
        found += self._syllables.end()
        self.close()
        return found

    def close(self) -> None:
        """End the stream; what is not final is lost. Again, it does nothing."""
        self._is_open = False

    def __enter__(self) -> "StreamingSegmenter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, samples: Samples) -> list[StreamedSyllable]:
        found = []
        for block in self._frames.push(samples):
            found += self._syllables.add(block)
        return found

    def _require_open(self) -> None:
        if not self._is_open:
            raise UserError("the stream has ended; begin another StreamingSegmenter")


def _check_parts(segmenter: object, mincut: object) -> None:
    if not isinstance(segmenter, SDHuBERTSegmenter) or not isinstance(mincut, MincutWrapper):
        raise UserError(
            f"StreamingSegmenter was given {type(segmenter).__name__} and {type(mincut).__name__}; it takes a "
            "SDHuBERTSegmenter and a MincutWrapper, in this order"
        )


def _rate(rate: float) -> int:
    """Hz, as a whole number; drivers of sound cards tell 44100.0."""
    known = isinstance(rate, int | float | np.integer | np.floating) and float(rate).is_integer()
    if not known or not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(f"sample_rate is {rate!r}; it has to be a whole number of Hz, {MIN_RATE} to {MAX_RATE}")
    return int(rate)


def _frames(name: str, seconds: float, least: int) -> int:
    """Whole frames of so many seconds."""
    if not isinstance(seconds, int | float):
        raise UserError(f"{name} is {seconds!r}; it has to be a number of seconds")
    frames = seconds * FRAME_RATE
    if not math.isfinite(frames) or abs(frames - round(frames)) > 1e-9 or round(frames) < least:
        raise UserError(
            f"{name} is {seconds:g}; it has to be a multiple of {1 / FRAME_RATE:g} s, {least} of them or more"
        )
    return round(frames)


def _read(samples: Array) -> Samples:
    """(n,) float32."""
    if not is_samples(samples):
        raise UserError(
            f"{type(samples).__name__} {samples!r:.80} is no array of samples; give NumPy ones or a tensor (of bytes, "
            "np.frombuffer(samples, np.int16))"
        )
    array = to_array(samples)
    if array.ndim != 1:
        raise UserError(
            f"samples are of shape {array.shape}; a stream takes one channel, of shape (n,); give "
            "samples[:, 0] or the like"
        )
    received = to_floats(array)
    if not np.isfinite(received).all():
        raise UserError("samples hold NaN or infinite values; leave them out, or push zeros in their place")
    return received
