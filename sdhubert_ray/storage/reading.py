"""Files that are read by parts: of a local file, or of one in a store, block by block."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_BLOCK = 64 * 1024
"""Bytes that are fetched first, and after each jump: a header and its like need no more."""
LARGEST_BLOCK = 8 * 1024 * 1024
"""Bytes that are fetched at once when a file is read on and on. Each block is four times the one before."""
_BUFFER = 64 * 1024


class RangeFile(io.BufferedReader):
    """A file whose error is not lost when C reads it.

    libsndfile reads through callbacks, where an exception goes nowhere: it is printed, and the file seems to end there.
    So `readinto`, which is what such a callback asks, tells the end of the file instead and keeps the error for
    `raise_if_failed`. `read` raises, as that of every file.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw, _BUFFER)
        self.failure: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; from the first error on it is raised without a new attempt."""
        raise_if_failed(self)
        try:
            return super().read(size)
        except OSError as error:
            self.failure = error
            raise

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read into a buffer; 0 at the end of the file, and from the first error on."""
        if self.failure is not None:
            return 0
        try:
            return super().readinto(buffer)
        except OSError as error:
            self.failure = error
            return 0


def raise_if_failed(file: BinaryIO) -> None:
    """Raise the error that a reader by callbacks has taken for the end of this file; do nothing if there is none."""
    if isinstance(file, RangeFile) and file.failure is not None:
        raise file.failure


class _Seekable(io.RawIOBase):
    """Bytes [start, start + size) of a file, as a file; how to read them is the subclass's."""

    def __init__(self, start: int, size: int) -> None:
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        want = min(len(view), self._size - self._position)
        if want <= 0:
            return 0
        got = self._read_at(self._position, view[:want])
        self._position += got
        return got

    def _read_at(self, position: int, buffer: memoryview) -> int:
        raise NotImplementedError


class LocalPart(_Seekable):
    """A part of an open local file."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        super().__init__(start, size)
        self._file = file

    def close(self) -> None:
        """Close the file that this is a part of."""
        self._file.close()
        super().close()

    def _read_at(self, position: int, buffer: memoryview) -> int:
        self._file.seek(self._start + position)
        return self._file.readinto(buffer) or 0


class Blocks(_Seekable):
    """A part of a remote file, of which one block at a time is held."""

    def __init__(self, fetch: Callable[[int, int], bytes], start: int, size: int) -> None:
        """Fetch the first block, so that a file that is not there is known at once.

        Args:
            fetch: gives all bytes [start, end) of the file, or raises.
            start: where the part begins in the file, bytes.
            size: its length, bytes.
        """
        super().__init__(start, size)
        self._fetch = fetch
        self._block = b""
        self._block_position = 0
        self._step = FIRST_BLOCK
        if size:
            self._load(0)

    def _read_at(self, position: int, buffer: memoryview) -> int:
        offset = position - self._block_position
        if not 0 <= offset < len(self._block):
            # Headers of a tar are read on too, over members smaller than a block.
            reads_on = 0 <= offset - len(self._block) <= self._step
            self._step = min(self._step * 4, LARGEST_BLOCK) if reads_on else FIRST_BLOCK
            self._load(position)
            offset = 0
        got = min(len(buffer), len(self._block) - offset)
        buffer[:got] = self._block[offset : offset + got]
        return got

    def _load(self, position: int) -> None:
        self._block = b""  # two are never held
        end = min(position + self._step, self._size)
        self._block = self._fetch(self._start + position, self._start + end)
        self._block_position = position
