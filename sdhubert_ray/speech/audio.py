"""Audio files to 16 kHz mono samples: probe, read a range, find joints between pieces, resample, z-score.

Works on open binary files, so that the bytes may come from anywhere. Everything that libsndfile decodes is
read, judged by content and not by name.
"""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from sdhubert_ray.errors import AudioError

SAMPLE_RATE = 16_000
"""Samples per second that the encoder expects, Hz."""
FRAME_RATE = 50
"""Feature frames per second, Hz."""
FRAME_SAMPLES, _remainder = divmod(SAMPLE_RATE, FRAME_RATE)
"""Samples per frame."""
if _remainder:
    raise ImportError(f"{FRAME_RATE} Hz frames do not divide {SAMPLE_RATE} Hz samples")

MIN_SAMPLES = SAMPLE_RATE // 10
"""Shorter audio (under 0.1 s) has the status `too_short`."""
SILENT_STD = 1e-6
"""Audio of a smaller standard deviation is constant: status `silent`."""
JOINT_SEARCH_SECONDS = 10.0
"""Pieces of one file are joined at the quietest moment of this long a stretch around the nominal time."""

Samples = npt.NDArray[np.float32]

_READ_FRAMES = 16_384
# Seeking in these formats lands near the asked sample only, so they are decoded from the start.
_INEXACT_SEEK = frozenset({"MP3", "OGG"})
# libsndfile's log of a header that promises more bytes than the file has, e.g. "data : 224542 (should be 112249)".
_HEADER_SIZE = re.compile(r"(?:RIFF|Riff size|riff|data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
# Writers that cannot seek back leave such a size: it promises nothing.
_UNKNOWN_SIZE = 0x7FFF_0000
_SIZE_TOLERANCE = 512
# A lossy decoder may leave out its own delay: two mp3 frames.
_MISSING_TOLERANCE = 2 * 1152
_UNKNOWN_FRAMES = 1 << 50
_MP3_HEADER_BYTES = 4096
_ENDLESS_BYTES = 1 << 53
# A header without samples before more bytes than this was never finished.
_MAX_EMPTY_BYTES = 1024


@dataclass(frozen=True)
class AudioOptions:
    """How audio is read and normalised.

    Attributes:
        channel: the channel to use, counted from 0; none averages all channels.
        piece_seconds: longer audio is decoded in pieces of at most about this many seconds.
        variance_floor: added to the variance under the root of the z-score (`paper`: 1e-7).
    """

    channel: int | None = None
    piece_seconds: float = 600.0
    variance_floor: float = 0.0

    def __post_init__(self) -> None:
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
        samples: (n,) float32, 16 kHz, mono, not normalised.
        offset: where they begin, in seconds of the file.
        duration: how long they are, in seconds of the file.
        shortfall: a sentence when the header promises more than could be decoded, else None.
    """

    samples: Samples
    offset: float
    duration: float
    shortfall: str | None


def probe_duration(file: BinaryIO) -> float:
    """Tell the length of an audio file in seconds, from its header where that can be trusted, else by decoding it.

    Raises:
        AudioError: the file is not audio that libsndfile can decode.
    """
    with _open(file) as sound:
        frames = int(sound.frames)
        if frames >= _UNKNOWN_FRAMES:
            frames = sum(len(block.samples) for block in _blocks(sound, None))
        return float(frames / sound.samplerate)


def read_audio(file: BinaryIO, span: Span, channel: int | None = None) -> Audio:
    """Decode a span of an audio file to 16 kHz mono.

    Memory is bounded by the length of the span, whatever the length of the file.

    Args:
        file: the encoded bytes, seekable.
        span: what to read. A joint is looked for in the 10 s around its nominal time, from the same samples
            by both neighbours, so that they agree on it.
        channel: counted from 0; None averages all.

    Raises:
        AudioError: not decodable, holding NaN or infinite samples, or without the channel asked for.
    """
    with _open(file) as sound:
        if channel is not None and not 0 <= channel < sound.channels:
            raise AudioError(f"has {sound.channels} channel(s), but channel {channel} (from 0) was asked for")
        rate, margin = sound.samplerate, JOINT_SEARCH_SECONDS / 2
        first = max(0, round((span.start - margin * span.joint_start) * rate))
        stop = None if span.end is None else round((span.end + margin * span.joint_end) * rate)
        signal, shortfall = _read_range(sound, first, stop, channel)
    end = first + len(signal)
    begin = _find_joint(signal, first, span.start, rate) if span.joint_start else first
    if span.joint_end and span.end is not None:
        end = _find_joint(signal, first, span.end, rate)
    signal = signal[begin - first : end - first]
    if not np.isfinite(signal).all():
        bad = (begin + int(np.flatnonzero(~np.isfinite(signal))[0])) / rate
        raise AudioError(f"holds NaN or infinite samples, the first at {bad:.3f} s")
    return Audio(resample(signal, rate), begin / rate, len(signal) / rate, shortfall)


def resample(signal: Samples, rate: int) -> Samples:
    """Resample (n,) float32 at `rate` Hz to 16 kHz with soxr's high-quality band-limited filter.

    Returns:
        (round(n * 16000 / rate),) float32.
    """
    if rate == SAMPLE_RATE or not len(signal):
        return signal
    resampled: Samples = soxr.resample(signal, rate, SAMPLE_RATE, quality="HQ")
    return resampled


def is_silent(samples: Samples) -> bool:
    """Tell whether (n,) samples are constant: standard deviation under 1e-6."""
    return float(np.std(samples, dtype=np.float64)) < SILENT_STD


def normalise(samples: Samples, variance_floor: float) -> Samples:
    """Z-score (n,) float32 samples: (x - mean) / sqrt(population variance + variance_floor)."""
    mean = np.mean(samples, dtype=np.float64)
    scale = math.sqrt(np.var(samples, dtype=np.float64) + variance_floor)
    return ((samples - np.float32(mean)) / np.float32(scale)).astype(np.float32, copy=False)


@dataclass(frozen=True)
class _Block:
    samples: Samples  # (n, channels)
    error: str | None  # decoding stopped inside this block


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from one block to the next.

    soundfile seeks behind each block it has read of a seekable file, which resets the decoders of mp3, ogg and opus:
    samples would be lost at the start of every block.
    """

    def seekable(self) -> bool:
        return False


def _open(file: BinaryIO) -> soundfile.SoundFile:
    file.seek(0)
    try:
        sound = _Sequential(file)
        if sound.format == "MP3" and not _tells_length(file):
            sound.close()
            file.seek(0)
            sound = _Sequential(_Endless(file))
    except soundfile.LibsndfileError as error:
        file.seek(0)
        if not file.read(1):
            raise AudioError("is an empty file (0 bytes)") from error
        raise AudioError(f"is not audio that can be decoded ({_reason(error)})") from error
    if not sound.frames and (size := file.seek(0, 2)) > _MAX_EMPTY_BYTES:
        raise AudioError(f"has a header of 0 samples before {size} bytes; its writer did not finish it")
    if sound.samplerate <= 0 or sound.channels <= 0:
        raise AudioError(f"has a broken header ({sound.samplerate} Hz, {sound.channels} channels)")
    return sound


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(". ")


def _tells_length(file: BinaryIO) -> bool:
    """Tell whether an mp3 has a length header; else its length is guessed from its first frame's bitrate."""
    position = file.tell()
    file.seek(0)
    tag = file.read(10)
    if tag[:3] == b"ID3":  # before the first frame; its size has seven bits a byte
        file.seek(10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False)))
    else:
        file.seek(0)
    start = file.read(_MP3_HEADER_BYTES)
    file.seek(position)  # a decoder may be reading it
    return any(mark in start for mark in (b"Xing", b"Info", b"VBRI"))


class _Endless:
    """A file that says it is huge: libsndfile stops where it guesses the end of an mp3, and so guesses too late."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at_end = False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # Only the question for the size is answered so; a tag at the end is looked for where it is.
        self._at_end = whence == io.SEEK_END and offset == 0
        return _ENDLESS_BYTES if self._at_end else self._file.seek(offset, whence)

    def tell(self) -> int:
        return _ENDLESS_BYTES if self._at_end else self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        # The file's own: one from a store keeps its error for later, as a decoder cannot pass it on.
        return 0 if self._at_end else int(self._file.readinto(buffer))  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        return b"" if self._at_end else self._file.read(size)

    def write(self, data: bytes) -> int:
        raise io.UnsupportedOperation("write")


def _blocks(sound: soundfile.SoundFile, frames: int | None) -> Iterator[_Block]:
    """Decode from the present position, at most `frames` frames; a decoder's error ends the last block early."""
    left = frames
    while left is None or left > 0:
        want = _READ_FRAMES if left is None else min(left, _READ_FRAMES)
        # libsndfile reports an error only after it has filled what it could: the NaN that remain tell how much.
        block = np.full((want, sound.channels), np.nan, dtype=np.float32)
        try:
            got = len(sound.read(out=block, dtype="float32", always_2d=True))
        except soundfile.LibsndfileError as error:
            filled = np.flatnonzero(~np.isnan(block[:, 0]))
            yield _Block(block[: filled[-1] + 1 if len(filled) else 0], _reason(error))
            return
        if got:
            yield _Block(block[:got], None)
        if got < want:
            return
        left = None if left is None else left - got


def _read_range(
    sound: soundfile.SoundFile, first: int, stop: int | None, channel: int | None
) -> tuple[Samples, str | None]:
    """Read frames [first, stop) as one channel; also tell a shortfall against what the header promises."""
    promised = sound.frames if sound.frames < _UNKNOWN_FRAMES else None
    skip = 0
    if first and sound.format not in _INEXACT_SEEK:
        first = first if promised is None else min(first, promised)
        try:
            sound.seek(first)
        except soundfile.LibsndfileError:  # a coding without seeking, or damage before `first`: it is read through
            skip = first
    else:
        skip = first
    parts: list[Samples] = []
    decoded, failure = first - skip, None
    for block in _blocks(sound, None if stop is None else stop - first + skip):
        failure = block.error
        samples = block.samples[skip:]
        skip = max(0, skip - len(block.samples))
        decoded += len(block.samples)
        # A copy: a view of one channel would keep all of them in memory.
        parts.append(samples[:, channel].copy() if channel is not None else samples.mean(axis=1, dtype=np.float32))
    signal = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return signal, _shortfall(sound, decoded, stop, promised, failure)


def _shortfall(
    sound: soundfile.SoundFile, decoded: int, stop: int | None, promised: int | None, failure: str | None
) -> str | None:
    seconds = decoded / sound.samplerate
    if promised is not None and decoded < promised:
        whole = promised / sound.samplerate
        if failure is not None:
            return f"is damaged: decoding stopped at {seconds:.3f} s of {whole:.3f} s ({failure})"
        if decoded < (promised if stop is None else min(stop, promised)) - _MISSING_TOLERANCE:
            return f"is truncated: its header promises {whole:.3f} s, it ends at {seconds:.3f} s"
    if stop is not None and promised is not None and stop > promised + _MISSING_TOLERANCE:
        return f"ends at {seconds:.3f} s, before the {stop / sound.samplerate:.3f} s that were asked for"
    if stop is None or (promised is not None and stop >= promised):
        for size, actual in _HEADER_SIZE.findall(sound.extra_info):
            if int(actual) + _SIZE_TOLERANCE < int(size) < _UNKNOWN_SIZE:
                return f"is truncated: its header promises {size} bytes, {actual} are there; it ends at {seconds:.3f} s"
    return None


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
