"""Samples to frames as they come: a window over the last seconds is encoded once every hop."""

from collections.abc import Iterator

import numpy as np

from sdhubert_ray.encoder.blending import EncodedPiece
from sdhubert_ray.encoder.inference import encode_pieces
from sdhubert_ray.encoder.protocol import Encoder
from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.audio import FRAME_SAMPLES, MIN_SAMPLES, SAMPLE_RATE, is_silent
from sdhubert_ray.speech.presets import SegmentationOptions
from sdhubert_ray.speech.windows import WindowOptions, count_frames
from sdhubert_ray.streaming.level import RunningLevel


def padding_of(options: SegmentationOptions) -> WindowOptions:
    """How a window of a stream is encoded: whole, whatever its length, and padded as those of a recording are."""
    return WindowOptions(window_seconds=None, pad_samples=options.windows.pad_samples)


def least_look_ahead(options: SegmentationOptions) -> int:
    """Frames that a window lacks of those that its samples fill: one where it is not padded."""
    return 1 - count_frames(FRAME_SAMPLES, padding_of(options))


class FrameStream:
    """Samples of 16 kHz in, frames out, each with `look_ahead` to `look_ahead + hop` frames of the future seen.

    What comes out hangs on the samples alone, not on how they are divided. Memory is that of one window.
    """

    def __init__(self, model: Encoder, options: SegmentationOptions, *, look_ahead: int, hop: int, window: int) -> None:
        """Begin with nothing.

        Args:
            model: in eval mode, on its device and in its precision.
            options: layers, what the z-score needs, and how a window is padded.
            look_ahead: frames behind those that are given out; `least_look_ahead` or more.
            hop: frames that are given out at once.
            window: frames that are encoded at once, `look_ahead + hop` or more.
        """
        self._model = model
        self._options = options
        self._padding = padding_of(options)
        self._hop = hop * FRAME_SAMPLES
        self._next = (look_ahead + hop) * FRAME_SAMPLES
        self._buffer = np.zeros(window * FRAME_SAMPLES, np.float32)
        self._filled = 0  # samples in the buffer
        self._fresh = 0  # the last of them, which the level has not seen
        self._begin = 0  # the frame that the buffer begins with
        self._given = 0  # frames
        self._level = RunningLevel(round(options.audio.piece_seconds * SAMPLE_RATE))

    def push(self, samples: Samples) -> Iterator[EncodedPiece]:
        """Take (n,) finite float32 samples; yields a hop of frames whenever it is known."""
        while len(samples):
            taken, samples = np.split(samples, [self._next - self._end])
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self._fresh += len(taken)
            if self._end == self._next:
                yield self._encode(self._given + self._hop // FRAME_SAMPLES)
                self._next += self._hop
                self._make_room()

    def end(self) -> Iterator[EncodedPiece]:
        """Yield the frames that wait for a future, once there is none; of under 0.1 s of audio there are none."""
        last = self._begin + count_frames(self._filled, self._padding)
        if self._end >= MIN_SAMPLES and last > self._given:
            yield self._encode(last)

    @property
    def _end(self) -> int:
        return self._begin * FRAME_SAMPLES + self._filled

    def _encode(self, until: int) -> EncodedPiece:
        """The frames from the first that has not been given to `until`."""
        window = self._buffer[: self._filled]
        if self._fresh:
            self._level.add(window[-self._fresh :])
            self._fresh = 0
        rows = slice(self._given - self._begin, until - self._begin)
        self._given = until
        if is_silent(window):  # as offline, where a recording without any sound is not encoded
            count = rows.stop - rows.start
            nothing = np.zeros(count, np.float32)
            return EncodedPiece(np.zeros((count, self._model.hidden_size), np.float32), nothing - np.inf, nothing)
        samples = self._level.normalise(window, self._options.audio)
        (piece,) = encode_pieces(self._model, [samples], self._padding, self._options.encoder, 0.0)
        return EncodedPiece(piece.features[rows].copy(), piece.raw_norm[rows], piece.amplitude[rows])

    def _make_room(self) -> None:
        excess = self._filled + self._hop - len(self._buffer)
        if excess > 0:
            self._buffer[: self._filled - excess] = self._buffer[excess : self._filled].copy()
            self._filled -= excess
            self._begin += excess // FRAME_SAMPLES
