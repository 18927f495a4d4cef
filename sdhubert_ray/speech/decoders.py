"""The decoders of audio: libsndfile, and FFmpeg (by PyAV) for the formats that it leaves.

A decoder reads one part of a file (`containers.Part`) from its beginning, block by block. Which of the two reads a file
is told by its content, not its name.
"""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from sdhubert_ray.errors import AudioError, first_line
from sdhubert_ray.speech.containers import FLAC_START, Part

MIN_RATE, MAX_RATE = 1000, 768_000
"""Sample rates that are taken, Hz; others are of broken headers."""

Samples = npt.NDArray[np.float32]

_MARK_OVERLAP = 7  # a mark may lie across the end of a read
_READ_FRAMES = 16_384
# Seeking in these codings, or in what is packed so, lands near the asked sample only: they are decoded from the start.
_INEXACT_FORMATS = frozenset({"MP3", "OGG"})
_INEXACT_CODINGS = frozenset({"MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "VORBIS", "OPUS"})
# Formats whose samples need not fill [-1, 1].
_FLOATING = frozenset({"FLOAT", "DOUBLE"})
_UNKNOWN_FRAMES = 1 << 50
# Samples of a channel that a byte may hold, with room to spare: silence takes a byte for 340 samples in flac, 220 in
# vorbis and 200 in ALAC; of the other codings mp3 of 8 kbit/s takes one for 48. Decoders of broken files give zeros for
# ever.
_DENSE_FORMATS = frozenset({"FLAC", "OGG"})
_DENSE, _SPARSE = 8192, 512
_LEAST_FRAMES = 1 << 16
_ENDLESS_BYTES = 1 << 53
# A header without samples before more bytes than this was never finished.
_MAX_EMPTY_BYTES = 1024
# A lossy decoder may leave out its own delay: two mp3 frames.
_MISSING_FRAMES = 2 * 1152
_MISSING_SECONDS = 0.1

# What FFmpeg reads, and how such a file begins: (offset, bytes, FFmpeg's name of the format). No other of its formats
# is tried: some are lists of further files or addresses.
_FFMPEG_ALONE = (
    (4, b"ftyp", "mov"),  # m4a, mp4, mov, 3gp
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),  # webm, mkv
    *((0, bytes([0xFF, second]), "aac") for second in (0xF0, 0xF1, 0xF8, 0xF9)),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),  # wma
    (0, b"#!AMR", "amr"),
    (0, b"\x0b\x77", "ac3"),
    (0, b"wvpk", "wv"),
    (0, b"TTA1", "tta"),
    (0, b"MAC ", "ape"),
    (0, b"FLV", "flv"),
    (0, b"G@\x00", "mpegts"),
    (0, b"G@\x11", "mpegts"),
)
# What libsndfile is asked for first: it may not know the coding; and it takes an mp3 for the rest of a Macintosh file
# where the working directory has a `.AppleDouble`, as file servers make them.
_FFMPEG_ELSE = (
    (0, b"RIFF", "wav"),
    (0, b"BW64", "wav"),
    (0, b"riff", "w64"),
    (0, b"FORM", "aiff"),
    (0, b"caff", "caf"),
    (0, b"OggS", "ogg"),
    *((0, bytes([0xFF, second]), "mp3") for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2, 0xFD, 0xFC, 0xF5, 0xF4)),
)
_MEASURED_FILES = frozenset({"matroska", "asf", "wv", "tta", "ape"})  # their header tells the length, of all streams
# What PyAV raises by itself where a broken file has a stream, a rate or a coding that it does not expect.
_OF_PYAV = (ArithmeticError, LookupError, ValueError)
# Nothing else is opened, whatever the file names.
_FFMPEG_OPTIONS = {"protocol_whitelist": "none"}


@dataclass(frozen=True)
class Block:
    """Samples as they were decoded.

    Attributes:
        samples: (n, channels) float32.
        error: decoding stopped at their end, and why; else None.
    """

    samples: Samples
    error: str | None = None


class Decoder(Protocol):
    """A part of a file that is being decoded, once.

    Attributes:
        rate: samples per second, Hz.
        channels: how many.
        frames: samples of each channel that its header promises; None if it does not tell.
        tolerance: so many may be missing.
        floating: its samples may have any scale.
        view: the part of the file that it reads, which tells how far it has been read.
    """

    rate: int
    channels: int
    frames: int | None
    tolerance: int
    floating: bool
    view: "_View"

    def seek(self, frame: int) -> bool:
        """Go on from a frame; False where that cannot be done to the sample, and then nothing has changed."""

    def blocks(self, frames: int | None) -> Iterator[Block]:
        """Decode at most so many frames; an error ends the last block early."""

    def close(self) -> None:
        """Let go of the file, which stays open."""


def open_part(file: BinaryIO, part: Part) -> Decoder:
    """Open a part of a file.

    Raises:
        AudioError: it is no audio that can be decoded.
    """
    view = _View(file, part)
    head = view.read(16)
    if (name := _find_format(_FFMPEG_ALONE, head)) is not None:
        return _checked(_FFmpeg(view, name))
    if head.startswith(b"fLaC"):
        view.mark = FLAC_START
    try:
        return _checked(_Sndfile(view, part.measured))
    except soundfile.LibsndfileError as error:
        if not head:
            raise AudioError("is an empty file (0 bytes)") from error
        if (name := _find_format(_FFMPEG_ELSE, head)) is not None:
            with contextlib.suppress(AudioError):  # of the two, libsndfile tells better what is wrong
                return _checked(_FFmpeg(view, name))
        reason = _reason(error)
        raise AudioError(f"is not audio that can be decoded ({reason})") from error


def _find_format(known: Iterable[tuple[int, bytes, str]], head: bytes) -> str | None:
    return next((name for at, magic, name in known if head[at:].startswith(magic)), None)


def _checked(decoder: Decoder) -> Decoder:
    if not MIN_RATE <= decoder.rate <= MAX_RATE or decoder.channels <= 0:
        decoder.close()
        raise AudioError(f"has a broken header ({decoder.rate} Hz, {decoder.channels} channels)")
    return decoder


class _View:
    """A part of a file, as a file for libraries that read through callbacks, where no error can be raised.

    One that is endless says it is huge: libsndfile stops where it guesses the end of an mp3, and so guesses too late.
    One with a mark ends before the mark where that is read: libFLAC would take another file for damage.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._start = part.start
        self.size = part.end - part.start
        self._position = 0
        self.endless = False
        self.mark: re.Pattern[bytes] | None = None

    @property
    def reached(self) -> int:
        """The byte of the file up to which it was read."""
        return self._start + min(self._position, self.size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self.endless and whence == io.SEEK_END and offset == 0:
            self._position = _ENDLESS_BYTES  # the question for the size; a tag at the end is looked for where it is
        else:
            base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
            if base + offset >= 0:  # broken headers lead to before the beginning: it stays where it is
                self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "bytearray | memoryview") -> int:
        view = memoryview(buffer).cast("B")
        want = min(len(view), self.size - self._position)
        if want <= 0:  # where broken headers lead to, no file can be asked to go
            return 0
        self._file.seek(self._start + self._position)
        # The file's own: one from a store keeps its error for later, as a decoder cannot pass it on.
        got = int(self._file.readinto(view[:want]))  # type: ignore[attr-defined]
        if self.mark is not None:
            ahead = self._file.read(_MARK_OVERLAP) if got == want else b""
            # Its own, at the very beginning, ends nothing.
            found = self.mark.search(bytes(view[:got]) + ahead, 0 if self._position else 1)
            if found is not None and found.start() < got:
                got = found.start()
                self.size = self._position + got
        self._position += got
        return got

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self._position)
        data = bytearray(left if size < 0 else min(size, left))
        return bytes(data[: self.readinto(data)])

    def write(self, data: bytes) -> int:
        raise io.UnsupportedOperation("write")


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from one block to the next.

    soundfile seeks behind each block it has read of a seekable file, which resets the decoders of mp3, ogg and opus:
    samples would be lost at the start of every block.
    """

    def seekable(self) -> bool:
        return False


class _Sndfile:
    """libsndfile."""

    def __init__(self, view: _View, measured: bool) -> None:
        view.seek(0)
        sound = _Sequential(view)
        if sound.format == "MP3" and not measured:
            sound.close()
            view.endless = True
            view.seek(0)
            sound = _Sequential(view)
        self._sound, self.view = sound, view
        if not sound.frames and view.size > _MAX_EMPTY_BYTES:
            sound.close()
            raise AudioError(f"has a header of 0 samples before {view.size} bytes; its writer did not finish it")
        self.rate = int(sound.samplerate)
        self.channels = int(sound.channels)
        self.frames = int(sound.frames) if sound.frames < _UNKNOWN_FRAMES else None
        is_dense = sound.format in _DENSE_FORMATS or sound.subtype.startswith("ALAC")
        self._most = _LEAST_FRAMES + view.size * (_DENSE if is_dense else _SPARSE)
        if self.frames is not None and self.frames > self._most:
            sound.close()
            raise AudioError(f"has a broken header ({self.frames} samples in {view.size} bytes)")
        is_mpeg = sound.format == "MP3" or sound.subtype.startswith("MPEG")
        self.tolerance = _MISSING_FRAMES if is_mpeg else 0
        self.floating = sound.subtype in _FLOATING

    def close(self) -> None:
        self._sound.close()

    def seek(self, frame: int) -> bool:
        if self._sound.format in _INEXACT_FORMATS or self._sound.subtype in _INEXACT_CODINGS:
            return False
        try:
            self._sound.seek(frame)
        except soundfile.LibsndfileError:  # a coding without seeking, or damage before the frame
            return False
        return True

    def blocks(self, frames: int | None) -> Iterator[Block]:
        left = frames
        decoded = 0
        while left is None or left > 0:
            if decoded > self._most:
                yield Block(np.zeros((0, self.channels), np.float32), "more samples come than its bytes can hold")
                return
            want = _READ_FRAMES if left is None else min(left, _READ_FRAMES)
            # libsndfile reports an error only after it has filled what it could: the NaN that remain tell how much.
            block = np.full((want, self.channels), np.nan, dtype=np.float32)
            try:
                got = len(self._sound.read(out=block, dtype="float32", always_2d=True))
            except soundfile.LibsndfileError as error:
                filled = np.flatnonzero(~np.isnan(block[:, 0]))
                yield Block(block[: filled[-1] + 1 if len(filled) else 0], _reason(error))
                return
            if got:
                yield Block(block[:got])
            if got < want:
                return
            decoded += got
            left = None if left is None else left - got


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(". ")


class _FFmpeg:
    """FFmpeg: the first audio stream of a file."""

    def __init__(self, view: _View, name: str) -> None:
        import av

        self.view = view
        self._errors = (av.FFmpegError, *_OF_PYAV)
        view.seek(0)
        with contextlib.ExitStack() as on_failure:
            try:
                # Titles may be in any encoding.
                container = av.open(view, "r", format=name, options=_FFMPEG_OPTIONS, metadata_errors="replace")
                on_failure.callback(container.close)
                if not container.streams.audio:
                    raise AudioError("has no audio in it")
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    raise AudioError("has audio of a coding that is not known")
                stream.codec_context.thread_count = 1
                self._frames = container.decode(stream)
                first = next(self._frames, None)
                if first is None:
                    raise AudioError("has no audio in it")
                # PyAV's own arrays of channels that lie apart read behind their end where there are eight or more.
                self._beside = av.AudioResampler("flt", first.layout, first.sample_rate)
                self._next = self._beside.resample(first)
            except self._errors as error:
                raise AudioError(f"is not audio that can be decoded ({_cause(error)})") from error
            on_failure.pop_all()
        self._container = container
        # Only what is decoded tells the rate of some AAC.
        self.rate, self.channels = first.sample_rate, first.layout.nb_channels
        self.floating = stream.codec_context.name.startswith(("pcm_f32", "pcm_f64"))
        seconds = None
        self._is_cut = name == "mov"
        if self._is_cut and stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif name in _MEASURED_FILES and len(self._container.streams) == 1 and self._container.duration is not None:
            seconds = self._container.duration / av.time_base
        self.frames = None if seconds is None else max(0, round(seconds * self.rate))
        if self.frames is not None and self.frames > _LEAST_FRAMES + view.size * _DENSE:
            self.frames = None  # it is decoded to be measured
        self.tolerance = round(_MISSING_SECONDS * self.rate)

    def close(self) -> None:
        self._container.close()

    def seek(self, frame: int) -> bool:
        return False  # it lands on the packet before, whose decoder begins without the ones before that

    def blocks(self, frames: int | None) -> Iterator[Block]:
        # An m4a tells where it ends; what fills its last packet is no sound.
        ends = [end for end in (frames, self.frames if self._is_cut else None) if end is not None]
        left = min(ends, default=None)
        nothing = np.zeros((0, self.channels), np.float32)
        decoded = ended = 0  # samples that came; where the last of them lie in the file
        while left is None or left > 0:
            for beside in self._next:
                samples: Samples = beside.to_ndarray().reshape(-1, self.channels)[:left].astype(np.float32, copy=False)
                yield Block(samples)
                decoded += len(samples)
                left = None if left is None else left - len(samples)
            try:
                frame = next(self._frames, None)
                if frame is None:
                    if self.frames is not None and ended >= self.frames - self.tolerance:
                        self.frames = decoded  # silence between its packets, or before them, counts in what it promises
                    return
                if (frame.sample_rate, frame.layout.nb_channels) != (self.rate, self.channels):
                    yield Block(nothing, "its rate or channels change")
                    return
                if frame.pts is not None and frame.time_base is not None:
                    ended = round(float(frame.pts * frame.time_base) * self.rate) + frame.samples
                self._next = self._beside.resample(frame)
            except self._errors as error:
                yield Block(nothing, _cause(error))
                return


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or first_line(error))
