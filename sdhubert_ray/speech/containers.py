"""What lies in an audio file before it is decoded: tags, files joined end to end, bytes that no header tells of.

A file of one piece is one `Part`. Files that were joined (`cat a.ogg b.ogg > c.ogg`, an archived stream) are several,
each of which a decoder takes for a file: libsndfile would give the first alone, and call it whole.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

UNKNOWN_SIZE = 0x7FFF_0000
"""Writers that cannot seek back leave such a size, or a larger one: it promises nothing."""
_UNKNOWN_WIDE = 1 << 62
_IN_DS64 = 0xFFFF_FFFF
_SLACK = 512
_SCAN_BYTES = 1 << 20
_HEADER_BYTES = 4096
_MP3_SLACK = 1500  # a frame: some headers do not count their own
_BOX_HEADER = 8
_ID3V1_BYTES = 128
_TAGS_BEHIND = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")
_MP3_MARKS = (b"Xing", b"Info", b"VBRI")

_FLAC_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_OGG_START = b"OggS\x00\x02"  # a page that begins a stream
_OGG_PAGE = 27
_OGG_LARGEST_PAGE = _OGG_PAGE + 255 + 255 * 255
_OGG_END = 4  # the flag of a page that ends a stream


@dataclass(frozen=True)
class Part:
    """A stretch of a file that is an audio file by itself.

    Attributes:
        start: first byte.
        end: end (excluded), bytes.
        flaw: what is known to be lost of it, as a sentence without its subject, or None.
        measured: its header tells how long it is; False for an mp3 without such a header.
    """

    start: int
    end: int
    flaw: str | None = None
    measured: bool = True


def lay_out(file: BinaryIO, *, from_start: bool, to_end: bool) -> list[Part]:
    """Find the parts of an audio file: one, or several that were joined; tags before the first are left out.

    Joined FLAC and Ogg tell nothing of it in their headers: they are looked for in all bytes where those will be read
    anyway. Else FLAC is taken for one part, and so is Ogg whose last page has the serial number of its first.

    Args:
        file: the encoded bytes, seekable.
        from_start: it will be read from its beginning on.
        to_end: it will be read to its end.

    Returns:
        At least one part, whatever the file holds.
    """
    size = file.seek(0, 2)
    start = _skip_tags(file, 0, size)
    head = _read(file, start, 4)
    if head == b"fLaC":
        return _split_flac(file, start, size) if from_start and to_end else [Part(start, size)]
    if head == b"OggS":
        return _split_ogg(file, start, size, to_end)
    parts: list[Part] = []
    while True:
        part = _bound(file, start, size)
        after = _skip_tags(file, part.end, size)
        joined = after < size and (
            _layout_of(_read(file, after, 4)) is not None
            or (_is_mp3(_read(file, after, 2)) and _is_mp3(_read(file, start, 2)))
        )
        if not joined and part.end < size:
            part = _whole(file, part, size)
        parts.append(part)
        if not joined:
            return parts
        start = after


@dataclass(frozen=True)
class _Layout:
    """How a format of chunks is built.

    Attributes:
        head: bytes before the first chunk.
        name: bytes of a chunk's name.
        size: `struct` format of a chunk's size.
        counts_header: the size of a chunk includes its name and size.
        align: chunks begin at multiples of so many bytes.
        data: the name of the chunk of samples.
    """

    head: int
    name: int
    size: str
    counts_header: bool
    align: int
    data: bytes


_LAYOUTS = {
    b"RIFF": _Layout(12, 4, "<I", False, 2, b"data"),
    b"RIFX": _Layout(12, 4, ">I", False, 2, b"data"),
    b"RF64": _Layout(12, 4, "<I", False, 2, b"data"),
    b"FORM": _Layout(12, 4, ">I", False, 2, b"SSND"),
    b"riff": _Layout(40, 16, "<Q", True, 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),
    b"caff": _Layout(8, 4, ">q", False, 1, b"data"),
}
_AU = b".snd"


def _layout_of(magic: bytes) -> _Layout | bytes | None:
    return _AU if magic == _AU else _LAYOUTS.get(magic)


def _bound(file: BinaryIO, start: int, size: int) -> Part:
    """The part that begins at `start`, with nothing behind the bytes that its header tells of."""
    head = _read(file, start, 12)
    layout = _layout_of(head[:4])
    end = None
    if isinstance(layout, _Layout):
        end = _end_of_chunks(file, start, size, layout)
    elif layout == _AU and len(head) == 12:
        offset, length = struct.unpack(">4xII", head)
        end = start + offset + length if length < UNKNOWN_SIZE else None
    elif head[4:8] == b"ftyp":
        end = _end_of_boxes(file, start, size)
    elif _is_mp3(head):
        return _bound_mp3(file, start, size)
    if end is None or end <= start + len(head):
        return Part(start, size)
    flaw = None
    if end > size + _SLACK:
        flaw = f"is truncated: its header promises {end - start} bytes, {size - start} are there"
    return Part(start, min(end, size), flaw)


def _end_of_chunks(file: BinaryIO, start: int, size: int, layout: _Layout) -> int | None:
    """Where the samples and the chunks behind them end, by what their headers tell; None where that cannot be told."""
    header = layout.name + struct.calcsize(layout.size)
    wide: int | None = None  # the size of the samples in an RF64
    end = None
    position = start + layout.head
    while position + header <= size:
        head = _read(file, position, header)
        name, length = head[: layout.name], int(struct.unpack(layout.size, head[layout.name :])[0])
        if end is not None and (name in _LAYOUTS or not _is_chunk_name(name)):
            return end
        if name == b"ds64":
            wide = int.from_bytes(_read(file, position + header + 8, 8), "little")
        if name == layout.data:
            is_narrow = layout.size[1] == "I"
            if is_narrow and length == _IN_DS64 and wide is not None:
                length = wide
            elif length <= 0 or length >= (UNKNOWN_SIZE if is_narrow else _UNKNOWN_WIDE):
                return None
        behind = position + length + (0 if layout.counts_header else header)
        if behind <= position or (end is not None and behind > size + layout.align):
            return end  # that was no chunk
        position = start + -(-(behind - start) // layout.align) * layout.align
        if end is not None or name == layout.data:
            end = position
    return end


def _is_chunk_name(name: bytes) -> bool:
    return all(32 <= byte < 127 for byte in name[:4])


def _whole(file: BinaryIO, part: Part, size: int) -> Part:
    """The last part, with what lies behind it: a tag or a few bytes are no matter, all else was lost."""
    left = size - part.end
    if left <= _SLACK or _read(file, part.end, 16).startswith(_TAGS_BEHIND):
        return replace(part, end=size)
    return replace(
        part, flaw=f"has {left} bytes behind the {part.end - part.start} that its header tells of; repair the header"
    )


def _skip_tags(file: BinaryIO, start: int, size: int) -> int:
    """Where the ID3 tags at `start` end; `start` if there is none, or nothing behind them."""
    position = start
    while True:
        tag = _read(file, position, 10)
        if tag[:3] == b"ID3" and len(tag) == 10:  # seven bits a byte
            position += 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        elif tag[:3] == b"TAG" and position > 0:
            position += _ID3V1_BYTES
        else:
            return position if position < size else start


def _is_mp3(head: bytes) -> bool:
    return len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _bound_mp3(file: BinaryIO, start: int, size: int) -> Part:
    """An mp3 to the end that its first frame tells, if it tells one."""
    head = _read(file, start, _HEADER_BYTES)
    found = [(head.find(mark), mark) for mark in _MP3_MARKS if mark in head]
    if not found:
        return Part(start, size, measured=False)
    at, mark = min(found)
    length = 0
    if mark == b"VBRI":
        length = int.from_bytes(head[at + 10 : at + 14], "big")
    elif len(head) >= at + 16 and head[at + 7] & 2:  # flags; then frames if bit 0 is set, and bytes
        begin = at + 8 + 4 * (head[at + 7] & 1)
        length = int.from_bytes(head[begin : begin + 4], "big")
    if length > size:  # whether the tags before it were counted or not
        return Part(start, size, f"is truncated: its header promises {length} bytes, {size - start} are there")
    end = start + length
    return Part(start, end if length > 0 and end + _MP3_SLACK < size else size)


def _end_of_boxes(file: BinaryIO, start: int, size: int) -> int:
    """Where the boxes of an mp4 end, by what their headers tell."""
    position = start
    while position < size:
        head = _read(file, position, 16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < _BOX_HEADER:  # 0: up to the end of the file
            return size
        position += length
    return position


def _split_flac(file: BinaryIO, start: int, size: int) -> list[Part]:
    starts = [start, *_find(file, _FLAC_STARTS, start + 4, size)]
    return [Part(begin, end) for begin, end in zip(starts, [*starts[1:], size], strict=True)]


def _split_ogg(file: BinaryIO, start: int, size: int, thorough: bool) -> list[Part]:
    """The chained streams of an Ogg file; streams that begin together lie beside each other and are one."""
    last = _last_page(file, start, size)
    first_serial = _read(file, start, _OGG_PAGE)[14:18]
    if not thorough and (last is None or _read(file, last, _OGG_PAGE)[14:18] == first_serial):
        return [Part(start, size)]
    starts, behind = [start], _end_of_page(file, start)
    for at in _find(file, (_OGG_START,), start + 4, size):
        if at != behind:
            starts.append(at)
        behind = _end_of_page(file, at)
    ends = [*starts[1:], size]
    return [Part(begin, end, _flaw_of_ogg(file, begin, end)) for begin, end in zip(starts, ends, strict=True)]


def _flaw_of_ogg(file: BinaryIO, start: int, end: int) -> str | None:
    last = _last_page(file, start, end)
    if last is None or _end_of_page(file, last) > end:
        return "is truncated: it ends inside a page"
    if not _read(file, last, _OGG_PAGE)[5] & _OGG_END:
        return "is truncated: its last page is not marked as the end of its stream"
    return None


def _last_page(file: BinaryIO, start: int, end: int) -> int | None:
    """Where the last page of Ogg that begins in [start, end) begins."""
    begin = max(start, end - 2 * _OGG_LARGEST_PAGE)
    tail = _read(file, begin, end - begin)
    at = tail.rfind(b"OggS\x00", 0, len(tail) - _OGG_PAGE + 5)
    return None if at < 0 else begin + at


def _end_of_page(file: BinaryIO, start: int) -> int:
    head = _read(file, start, _OGG_PAGE)
    count = head[-1] if len(head) == _OGG_PAGE else 0
    return start + _OGG_PAGE + count + sum(_read(file, start + _OGG_PAGE, count))


def _find(file: BinaryIO, patterns: tuple[bytes, ...], start: int, size: int) -> Iterator[int]:
    """Where one of some patterns of the same length occurs at or behind `start`, in order."""
    overlap = len(patterns[0]) - 1
    position = start
    while position < size:
        block = _read(file, position, _SCAN_BYTES + overlap)
        at = 0
        while (found := [hit for pattern in patterns if (hit := block.find(pattern, at)) >= 0]) != []:
            at = min(found)
            if at >= _SCAN_BYTES:  # the next block begins there
                break
            yield position + at
            at += 1
        position += _SCAN_BYTES


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
