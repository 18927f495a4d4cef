"""Audio files to 16 kHz mono samples: probe, read a range, find joints between pieces, resample, z-score.

Works on open binary files, so that the bytes may come from anywhere. Everything that libsndfile or FFmpeg decodes is
read, judged by content and not by name.
"""

import math
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np
import soxr

from sdhubert_ray.errors import AudioError, require_choice
from sdhubert_ray.speech.containers import Part, after, first_part, is_chained_ogg
from sdhubert_ray.speech.decoders import Decoder, Samples, open_part

SAMPLE_RATE = 16_000
"""Samples per second that the encoder expects, Hz."""
FRAME_RATE = 50
"""Feature frames per second, Hz."""
FRAME_SAMPLES, _remainder = divmod(SAMPLE_RATE, FRAME_RATE)
"""Samples per frame."""
if _remainder:
    raise ImportError(f"{FRAME_RATE} Hz frames do not divide {SAMPLE_RATE} Hz samples")

SOXR, TORCHAUDIO = "soxr", "torchaudio"
RESAMPLERS = (SOXR, TORCHAUDIO)
"""What makes 16 kHz of other rates: soxr where audio is decoded, torchaudio on the device of the encoder."""
LEFT_RATES = (8_000, 12_000, 24_000, 32_000, 48_000)
"""Hz. Of these torchaudio makes what soxr does, to 80 dB below: soxr has other filters for others, as 44,100.
At most three times the samples of 16 kHz cross to the encoder.
"""
POPULATION, SAMPLE, NONE = "population", "sample", "none"
NORMALISATIONS = (POPULATION, SAMPLE, NONE)
"""Samples are z-scored by the variance of the population or, divided by n - 1, of the sample; `none`: left alone."""
MIN_SAMPLES = SAMPLE_RATE // 10
"""Shorter audio (under 0.1 s) has the status `too_short`."""
SILENT_STD = 1e-6
"""Audio of a smaller standard deviation is constant: status `silent`."""
JOINT_SEARCH_SECONDS = 10.0
"""Pieces of one file are joined at the quietest moment of this long a stretch around the nominal time."""

# Channels whose average is so much weaker than one of them (40 dB) cancel each other.
_CANCELLED = 0.01
# NumPy's sums add so many terms or more not one after the other.
_PAIRWISE = 8
# Audio of floats that is weaker than the least step of 16 bits is of another scale.
_WEAKEST_PEAK = 2.0**-15
# Ends that are asked for may lie so far behind that of the file.
_ROUNDING_SECONDS = 0.1
# Files that are joined in one.
_MOST_PARTS = 10_000
# No more of them is begun behind so much audio of one read: what is not known to be joined is not cut in pieces.
_MOST_JOINED_SECONDS = 3600.0


@dataclass(frozen=True)
class AudioOptions:
    """How audio is read and normalised.

    Attributes:
        channel: the channel to use, counted from 0; none averages all channels.
        piece_seconds: longer audio is decoded in pieces of at most about this many seconds.
        variance_floor: added to the variance under the root of the z-score (`paper`: 1e-7).
        normalisation: the z-score's variance, one of `NORMALISATIONS`.
        resampler: what makes 16 kHz of other rates, one of `RESAMPLERS`.
    """

    channel: int | None = None
    piece_seconds: float = 600.0
    variance_floor: float = 0.0
    normalisation: str = POPULATION
    resampler: str = SOXR

    def __post_init__(self) -> None:
        require_choice("audio.normalisation", self.normalisation, NORMALISATIONS)
        require_choice("audio.resampler", self.resampler, RESAMPLERS)
        if self.channel is not None and self.channel < 0:
            raise ValueError(f"audio.channel is {self.channel}; channels are counted from 0")
        if not 2 * JOINT_SEARCH_SECONDS <= self.piece_seconds < math.inf:
            raise ValueError(
                f"audio.piece_seconds is {self.piece_seconds:g}; "
                f"pieces need at least {2 * JOINT_SEARCH_SECONDS:g} seconds"
            )
        if not 0 <= self.variance_floor < math.inf:
            raise ValueError(f"audio.variance_floor is {self.variance_floor:g}; it has to be 0 or a small number")


@dataclass(frozen=True)
class Span:
    """The part of a file to read, in seconds of the file.

    Attributes:
        start: first second.
        end: end (excluded), or None for the end of the file.
        joint_start: `start` is only nominal; the piece begins at the joint near it.
        joint_end: likewise for `end`.
    """

    start: float = 0.0
    end: float | None = None
    joint_start: bool = False
    joint_end: bool = False

    @classmethod
    def of_piece(cls, start: float, end: float | None, piece: int, num_pieces: int) -> "Span":
        """The span of piece number `piece` of `num_pieces`: inner ends are joints."""
        return cls(start, end, joint_start=piece > 0, joint_end=piece < num_pieces - 1)


@dataclass(frozen=True)
class Audio:
    """Decoded audio.

    Attributes:
        samples: (n,) float32, mono, not normalised.
        offset: where they begin, in seconds of the file.
        duration: how long they are, in seconds of the file.
        shortfall: a sentence when there is more in the file than could be decoded, else None.
        cancelled: the average of its channels is far weaker than one of them is, as one is the other turned over.
        rate: of the samples, Hz.
    """

    samples: Samples
    offset: float
    duration: float
    shortfall: str | None = None
    cancelled: bool = False
    rate: int = SAMPLE_RATE


def probe_duration(file: BinaryIO) -> float:
    """Tell the length of an audio file in seconds, from its headers where they can be trusted, else by decoding it.

    Raises:
        AudioError: the file is not audio that can be decoded.
    """
    seconds, rate = 0.0, 0
    part: Part | None = first_part(file)
    looks_on = is_chained_ogg(file)
    while part is not None:
        try:
            with closing(open_part(file, part)) as sound:
                if sound.rate != (rate or sound.rate):
                    break
                rate, frames = sound.rate, sound.frames
                if frames is None:
                    frames = sum(len(block.samples) for block in sound.blocks(None))
                seconds += frames / rate
        except AudioError:
            if not rate:
                raise
            break  # it ends there for who reads it, too
        # Joined FLAC and Ogg are found when they are read; of Ogg the last page may tell.
        is_told = part.following is not None or looks_on
        part = after(file, part, part.start)[1] if is_told else None
    return seconds


def read_audio(file: BinaryIO, span: Span, channel: int | None = None, resampler: str = SOXR) -> Audio:
    """Decode a span of an audio file to mono, of 16 kHz. Files that were joined end to end are one.

    Memory is bounded by the length of the span, whatever the length of the file; where it goes to the end, by that of a
    part and an hour more.

    Args:
        file: the encoded bytes, seekable.
        span: what to read. A joint is looked for in the 10 s around its nominal time, from the same samples
            by both neighbours, so that they agree on it.
        channel: counted from 0; None averages all.
        resampler: one of `RESAMPLERS`; see `resample_or_leave`.

    Raises:
        AudioError: not decodable, holding NaN or infinite samples, or without the channel asked for.
    """
    part = first_part(file)
    with closing(open_part(file, part)) as sound:
        if channel is not None and not 0 <= channel < sound.channels:
            raise AudioError(f"has {sound.channels} channel(s), but channel {channel} (from 0) was asked for")
        rate, margin, floating = sound.rate, JOINT_SEARCH_SECONDS / 2, sound.floating
        first = max(0, round((span.start - margin * span.joint_start) * rate))
        stop = None if span.end is None else round((span.end + margin * span.joint_end) * rate)
        reading = _Reading(sound, first, stop, channel)
        following = reading.read(file, sound, part)
    for _ in range(_MOST_PARTS):
        if following is None:
            break
        if span.end is None and reading.position - first > _MOST_JOINED_SECONDS * rate:
            reading.stop_at(AudioError("was joined to it, of which this is too much at once; split the file"))
            break
        part = following
        try:
            with closing(open_part(file, part)) as sound:
                following = reading.read(file, sound, part)
        except AudioError as error:
            reading.stop_at(error)
            following = None
    reading.end()
    found = reading.signal()
    first = min(first, reading.position)
    end = first + len(found)
    begin = _find_joint(found, first, span.start, rate) if span.joint_start else first
    if span.joint_end and span.end is not None:
        end = _find_joint(found, first, span.end, rate)
    signal = found[begin - first : end - first]
    if not np.isfinite(signal).all():
        bad = (begin + int(np.flatnonzero(~np.isfinite(signal))[0])) / rate
        raise AudioError(f"holds NaN or infinite samples, the first at {bad:.3f} s")
    is_whole = not first and span.end is None  # in a loud file a weak part is silence
    samples, left_at = resample_or_leave(scale_up(signal) if floating and is_whole else signal, rate, resampler)
    return Audio(samples, begin / rate, len(signal) / rate, reading.shortfall, reading.levels.cancel(found), left_at)


def resample(signal: Samples, rate: int) -> Samples:
    """Resample (n,) float32 at `rate` Hz to 16 kHz with soxr's high-quality band-limited filter.

    Returns:
        (round(n * 16000 / rate),) float32.
    """
    if rate == SAMPLE_RATE or not len(signal):
        return signal
    resampled: Samples = soxr.resample(signal, rate, SAMPLE_RATE, quality="HQ")
    return resampled


def resample_or_leave(signal: Samples, rate: int, resampler: str) -> tuple[Samples, int]:
    """Resample (n,) float32 at `rate` Hz to 16 kHz, or leave that to the device of the encoder.

    Torchaudio is left what has one of `LEFT_RATES`; all else is soxr's.

    Returns:
        the samples, and their rate.
    """
    if resampler == TORCHAUDIO and rate in LEFT_RATES:
        return signal, rate
    return resample(signal, rate), SAMPLE_RATE


def count_resampled(num_samples: int, rate: int) -> int:
    """How many samples of 16 kHz `num_samples` at `rate` Hz become, whichever resampler makes them."""
    return (2 * num_samples * SAMPLE_RATE + rate) // (2 * rate)


def is_silent(samples: Samples) -> bool:
    """Tell whether (n,) samples of 16 kHz are constant: standard deviation under 1e-6."""
    return _deviation(samples) < SILENT_STD


def scale_up(samples: Samples) -> Samples:
    """Scale (n,) floats that are all weaker than the least step of 16 bits, by a power of two, to a peak of 0.5 to 1.

    Floats may have any scale, so that what is constant (`is_silent`) can be told after this only.
    """
    peak = float(np.abs(samples).max(initial=0))
    if not 0 < peak < _WEAKEST_PEAK:
        return samples
    return np.ldexp(samples, -math.frexp(peak)[1])


def _deviation(samples: Samples) -> float:
    return float(np.std(samples, dtype=np.float64)) if len(samples) else 0.0


def normalise(samples: Samples, variance_floor: float = 0.0, normalisation: str = POPULATION) -> Samples:
    """Z-score (n,) float32 samples: (x - mean) / sqrt(variance + variance_floor); see `NORMALISATIONS`."""
    if normalisation == NONE:
        return samples
    mean = np.mean(samples, dtype=np.float64)
    scale = math.sqrt(np.var(samples, dtype=np.float64, ddof=correction_of(normalisation)) + variance_floor)
    return ((samples - np.float32(mean)) / np.float32(scale)).astype(np.float32, copy=False)


def correction_of(normalisation: str) -> int:
    """What is taken from n where the sum of squares is divided."""
    return 1 if normalisation == SAMPLE else 0


def average_channels(samples: Samples) -> Samples:
    """The bits of `samples.mean(axis=1)` of (n, channels) float32; of few channels in a twentieth of its time."""
    if samples.shape[1] >= _PAIRWISE:
        average: Samples = samples.mean(axis=1, dtype=np.float32)
        return average
    average = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        average += samples[:, channel]
    average /= samples.shape[1]
    return average


class Levels:
    """How loud each channel of some audio is, as its samples go by."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums = np.zeros((2, channels))

    def add(self, samples: Samples) -> None:
        """Take (n, channels) samples: some thousands, whose sums float32 can hold."""
        self._count += len(samples)
        with np.errstate(invalid="ignore", over="ignore"):  # samples that are no numbers are refused elsewhere
            ones = np.ones(len(samples), np.float32)
            self._sums += [ones @ samples, np.diagonal(samples.T @ samples)]  # much faster than sums over an axis

    def cancel(self, average: Samples) -> bool:
        """Tell whether the average of the channels, (n,), is 40 dB weaker than the loudest of them makes it alone."""
        if not self._count:
            return False
        mean, power = self._sums / self._count
        with np.errstate(invalid="ignore", over="ignore"):
            loudest = math.sqrt(np.maximum(power - mean**2, 0).max())
            return loudest > 0 and _deviation(average) < _CANCELLED * loudest / self._sums.shape[1]


class _Reading:
    """Frames [first, stop) of a file as one channel, through all of its parts."""

    def __init__(self, sound: Decoder, first: int, stop: int | None, channel: int | None) -> None:
        self._like = sound
        self._first, self._stop, self._channel = first, stop, channel
        self._kept: list[Samples] = []
        self.levels = Levels(sound.channels)
        self.position = 0  # frames of the file that have been passed
        self.shortfall: str | None = None

    def read(self, file: BinaryIO, sound: Decoder, part: Part) -> Part | None:
        """Read a part, up to `stop`; tells the part to go on with, if there is one."""
        like = self._like
        if (sound.rate, sound.channels) != (like.rate, like.channels):
            self.shortfall = (
                f"goes on at {self._seconds():.3f} s with audio of {sound.rate} Hz and {sound.channels} channel(s), "
                "which was not read"
            )
            return None
        begin = self.position
        stop = None if self._stop is None else self._stop - begin
        skip = max(0, self._first - begin)
        if skip:
            target = skip if sound.frames is None else min(skip, sound.frames)
            if sound.seek(target):
                skip -= target
                self.position += target
        failure = None
        for block in sound.blocks(None if stop is None else stop - (self.position - begin)):
            failure = block.error
            if len(block.samples) > skip:
                self._keep(block.samples[skip:])
            skip = max(0, skip - len(block.samples))
            self.position += len(block.samples)
        is_over = stop is None or self.position - begin < stop
        flaw, following = after(file, part, sound.view.reached) if is_over else (None, None)
        self.shortfall = self._lost(sound, flaw, begin, stop, failure)
        return following if self.shortfall is None else None

    def signal(self) -> Samples:
        """(n,) float32."""
        return np.concatenate(self._kept) if self._kept else np.zeros(0, np.float32)

    def end(self) -> None:
        """Say so when there were no more parts before `stop`."""
        rounding = max(self._like.tolerance, round(_ROUNDING_SECONDS * self._like.rate))
        if self.shortfall is None and self._stop is not None and self.position < self._stop - rounding:
            wanted = self._stop / self._like.rate
            self.shortfall = f"ends at {self._seconds():.3f} s, before the {wanted:.3f} s that were asked for"

    def stop_at(self, reason: AudioError) -> None:
        """Say that the next part could not be opened."""
        self.shortfall = f"goes on at {self._seconds():.3f} s with a part that {reason}"

    def _keep(self, samples: Samples) -> None:
        if self._channel is not None:
            self._kept.append(samples[:, self._channel].copy())  # a view would keep all channels in memory
        else:
            self._kept.append(average_channels(samples))
            if samples.shape[1] > 1:
                self.levels.add(samples)

    def _seconds(self) -> float:
        return self.position / self._like.rate

    def _lost(self, sound: Decoder, flaw: str | None, begin: int, stop: int | None, failure: str | None) -> str | None:
        """What is missing of a part, as a sentence without its subject, or None."""
        at = f"{self._seconds():.3f} s"
        decoded, promised = self.position - begin, sound.frames
        if promised is not None and decoded < promised:
            whole = f"{(begin + promised) / sound.rate:.3f} s"
            if failure is not None:
                return f"is damaged: decoding stopped at {at} of {whole} ({failure})"
            if decoded < (promised if stop is None else min(stop, promised)) - sound.tolerance:
                return f"is truncated: its header promises {whole}, it ends at {at}"
        elif promised is None and failure is not None:
            return f"is damaged: decoding stopped at {at} ({failure})"
        return None if flaw is None else f"{flaw}; it ends at {at}"


def _find_joint(signal: Samples, first: int, nominal: float, rate: int) -> int:
    """Find the start of the quietest 20 ms within 5 s of `nominal` seconds, as a sample index of the file.

    Cells lie on the frame grid of the file, so that frame i of the file stays at i/50 s in every piece. (Where 20 ms
    are no whole number of samples, as at 11,025 Hz, cells are the shortest multiple that is.)
    """
    cell = rate // math.gcd(rate, FRAME_RATE)
    margin = JOINT_SEARCH_SECONDS / 2
    middle = Fraction(nominal) * rate / cell  # exact: a cell at the very edge is within or not, whatever is rounded
    low = max(math.ceil(middle - Fraction(margin) * rate / cell), math.ceil(first / cell))
    high = min(math.floor(middle + Fraction(margin) * rate / cell), (first + len(signal)) // cell)
    if high <= low:  # the file ends before the joint: what there is belongs to the earlier piece
        return first + len(signal)
    cells = signal[low * cell - first : high * cell - first].reshape(-1, cell)
    return (low + int(np.argmin(np.square(cells, dtype=np.float64).sum(axis=1)))) * cell
