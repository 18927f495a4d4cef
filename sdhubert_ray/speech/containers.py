"""What lies in an audio file before it is decoded: tags, files joined end to end, bytes that no header tells of.

A file of one piece is one `Part`. Files that were joined (`cat a.ogg b.ogg > c.ogg`, an archived stream) are several,
each of which a decoder takes for a file: libsndfile would give the first alone, and call it whole.
"""

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

UNKNOWN_SIZE = 0x7FFF_0000
"""Writers that cannot seek back leave such a size, or a larger one: it promises nothing."""
_UNKNOWN_WIDE = 1 << 62
_IN_DS64 = 0xFFFF_FFFF
_SLACK = 512
_SCAN_BYTES = 1 << 20
_BOX_HEADER = 8
# Broken files have more chunks, boxes and tags than any that is meant.
_MOST_CHUNKS = 10_000
_MOST_BOXES = 1_000_000
_MOST_TAGS = 100
_ID3V1_BYTES = 128
_TAGS_BEHIND = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")

FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_OGG_START = re.compile(rb"OggS\x00\x02")  # a page that begins a stream
_MARK_BYTES = 8  # of the longer one
_OGG_PAGE = 27
_OGG_LARGEST_PAGE = _OGG_PAGE + 255 + 255 * 255
_OGG_END = 4  # the flag of a page that ends a stream

_MP3_HEADER_BYTES = 4096
_MP3_MARKS = (b"Xing", b"Info", b"VBRI")
# An mp3 that tells its size may have left out a frame, or counted its tag: so near by the next one is looked for.
_MP3_NEAR = 2048
_MP3_KBPS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1, layer III
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}


@dataclass(frozen=True)
class Part:
    """A stretch of a file that is an audio file by itself.

    Attributes:
        start: first byte.
        end: end (excluded), bytes; of FLAC and Ogg that of the file, as they tell none.
        flaw: what is known to be lost of it, as a sentence without its subject, or None.
        measured: its header tells how long it is; False for an mp3 without such a header.
        following: where the next part begins, bytes; None if there is none, or if that is not known yet.
    """

    start: int
    end: int
    flaw: str | None = None
    measured: bool = True
    following: int | None = None


def first_part(file: BinaryIO) -> Part:
    """The first part of an audio file, behind its tags; all of it, whatever the file holds."""
    size = file.seek(0, 2)
    return _part_at(file, _skip_tags(file, 0, size), size, 0)


def after(file: BinaryIO, part: Part, reached: int) -> tuple[str | None, Part | None]:
    """What is known when a part has been decoded to its end: what is lost of it, and the part that follows.

    Args:
        file: the encoded bytes.
        part: a part of it.
        reached: the byte that its decoder has read to. Parts of FLAC and Ogg tell nothing of the next: it is looked for
            from there on, not in bytes that have been read.

    Returns:
        a sentence without its subject, or None; and the next part, or None.
    """
    size = file.seek(0, 2)
    magic = _read(file, part.start, 4)
    following, flaw = part.following, part.flaw
    if magic == b"fLaC":
        following = _find(file, FLAC_START, max(part.start + 4, reached - _MARK_BYTES), part.end)
    elif magic == b"OggS":
        # A decoder reads on behind the last page by so much, and streams that lie beside each other begin together.
        begin = max(_end_of_starts(file, part.start), reached - 2 * _OGG_LARGEST_PAGE)
        following = _find(file, _OGG_START, begin, size)
        flaw = _flaw_of_ogg(file, part.start, size if following is None else following)
    return flaw, None if following is None else _part_at(file, following, size, following)


def is_chained_ogg(file: BinaryIO) -> bool:
    """Tell whether a file is Ogg whose last page is of another stream than its first, without reading all of it."""
    size = file.seek(0, 2)
    start = _skip_tags(file, 0, size)
    last = _last_page(file, start, size) if _read(file, start, 4) == b"OggS" else None
    return last is not None and _read(file, last, _OGG_PAGE)[14:18] != _read(file, start, _OGG_PAGE)[14:18]


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
    b"BW64": _Layout(12, 4, "<I", False, 2, b"data"),
    b"riff": _Layout(40, 16, "<Q", True, 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),
    b"caff": _Layout(8, 4, ">q", False, 1, b"data"),
}
_AU = b".snd"
_MP4 = b"ftyp"
_BOXES = (_MP4, b"mdat", b"moov", b"moof", b"free", b"skip", b"wide", b"sidx", b"mfra", b"uuid", b"meta", b"styp")
_NIST = b"NIST_1A\n"
_NIST_NUMBER = re.compile(rb"(sample_count|channel_count|sample_n_bytes) -i (\d+)")


def _part_at(file: BinaryIO, start: int, size: int, tagged: int) -> Part:
    """The part that begins at a byte, its tags at `tagged`, with what follows it where its header tells."""
    head = _read(file, start, 12)
    if _is_mp3(head):
        return _mp3_part(file, start, size, tagged)
    tag = size - _ID3V1_BYTES
    if head[:4] == b"fLaC" and tag > start and _read(file, tag, 3) == b"TAG":  # which libFLAC takes for damage
        return Part(start, tag)
    end = _told_end(file, start, size, head)
    if end is None or end <= start + len(head):
        return Part(start, size)
    if end > size + _SLACK:
        return Part(start, size, f"is truncated: its header promises {end - start} bytes, {size - start} are there")
    end = min(end, size)
    behind = _skip_tags(file, end, size)
    next_head = _read(file, behind, 8)
    if behind < size and (next_head[:4] in (*_LAYOUTS, _AU) or next_head[4:] == _MP4 or next_head == _NIST):
        return Part(start, end, following=behind)
    left = size - end
    behind_it = _read(file, end, 4096)
    is_nothing = left <= _SLACK or behind_it.startswith(_TAGS_BEHIND) or not any(behind_it)
    if is_nothing or head[4:8] == _MP4:  # whose index tells where its samples are
        return Part(start, size)
    told = end - start
    return Part(start, end, f"has {left} bytes behind the {told} that its header tells of; repair the header")


def _told_end(file: BinaryIO, start: int, size: int, head: bytes) -> int | None:
    """Where a part ends by what its header tells; None where it does not."""
    layout = _LAYOUTS.get(head[:4])
    if layout is not None:
        return _end_of_chunks(file, start, size, layout)
    if head[:4] == _AU and len(head) == 12:
        offset, length = struct.unpack(">4xII", head)
        return start + int(offset) + int(length) if 0 < length < UNKNOWN_SIZE else None
    if head[4:8] == _MP4:
        return _end_of_boxes(file, start, size)
    if head[: len(_NIST)] == _NIST:
        return _end_of_nist(file, start)
    return None


def _end_of_nist(file: BinaryIO, start: int) -> int | None:
    """Where the samples of a NIST Sphere file end by its header; None where it does not tell, or they are packed."""
    header = _read(file, start, 1024)
    told = {name: int(value) for name, value in _NIST_NUMBER.findall(header)}
    if not {b"sample_count", b"channel_count"} <= set(told) or b"shorten" in header or header[8:16].strip() != b"1024":
        return None
    width = told.get(b"sample_n_bytes", 1)  # mu-law and A-law go without it
    return start + 1024 + told[b"sample_count"] * told[b"channel_count"] * width


def _end_of_chunks(file: BinaryIO, start: int, size: int, layout: _Layout) -> int | None:
    """Where the samples and the chunks behind them end; None where that cannot be told."""
    header = layout.name + struct.calcsize(layout.size)
    wide: int | None = None  # the size of the samples in an RF64
    end = None
    is_filled_up = False
    position = start + layout.head
    for _ in range(_MOST_CHUNKS):
        if position + header > size:
            return end
        head = _read(file, position, header)
        if end is not None and not _is_chunk(head, layout, size - position):
            # Some writers leave out the byte that fills up samples of an odd size.
            earlier = _read(file, position - 1, header)
            if not is_filled_up or not _is_chunk(earlier, layout, size - position):
                return end
            position, head = position - 1, earlier
        name, length = head[: layout.name], int(struct.unpack(layout.size, head[layout.name :])[0])
        if end is not None and name[:4] in _LAYOUTS:
            return position
        if name == b"ds64":
            wide = int.from_bytes(_read(file, position + header + 8, 8), "little")
        if name == layout.data:
            is_narrow = layout.size[1] == "I"
            if is_narrow and length == _IN_DS64 and wide is not None:
                length = wide
            elif length <= 0 or length >= (UNKNOWN_SIZE if is_narrow else _UNKNOWN_WIDE):
                return None
        behind = position + length + (0 if layout.counts_header else header)
        if behind <= position:
            return end  # that was no chunk
        position = start + -(-(behind - start) // layout.align) * layout.align
        is_filled_up = position == behind + 1
        if end is not None or name == layout.data:
            end = position
    return end


def _is_chunk(head: bytes, layout: _Layout, left: int) -> bool:
    """Tell whether this is the header of a chunk, or of another file, of which so many bytes are left."""
    is_name = sum(32 <= byte < 127 for byte in head[:4]) >= 3  # some fill up their name with a zero
    length = int(struct.unpack(layout.size, head[layout.name :])[0])
    return is_name and (length <= left or head[:4] in _LAYOUTS)


def _end_of_boxes(file: BinaryIO, start: int, size: int) -> int | None:
    """Where the boxes of an mp4 end, or another mp4 begins, by what their headers tell."""
    position = start
    for _ in range(_MOST_BOXES):
        head = _read(file, position, 16)
        if position >= size or (position > start and head[4:8] == _MP4):
            return position
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < _BOX_HEADER:  # 0: up to the end of the file
            return None
        if position + length > size and head[4:8] not in _BOXES:  # what was put behind
            return position
        position += length
    return None


def _skip_tags(file: BinaryIO, start: int, size: int) -> int:
    """Where the ID3 tags at `start` end; `start` if there is none, or nothing behind them."""
    position = start
    for _ in range(_MOST_TAGS):
        tag = _read(file, position, 10)
        if tag[:3] == b"ID3" and len(tag) == 10:  # seven bits a byte; a footer is a second header
            position += 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
            position += 10 if tag[5] & 0x10 else 0
        elif tag[:3] == b"TAG" and position > 0:
            position += _ID3V1_BYTES
        else:
            break
    return position if position < size else start


def _is_mp3(head: bytes) -> bool:
    return len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6)


def _mp3_part(file: BinaryIO, start: int, size: int, tagged: int) -> Part:
    """An mp3, up to the next one if it tells its size and another follows near by."""
    head = _read(file, start, _MP3_HEADER_BYTES)
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
    for begin in dict.fromkeys((start, tagged)) if length else ():
        following = _next_mp3(file, begin + length, size, bare=begin == start)
        if following is not None:
            return Part(start, following, following=following)
    return Part(start, size)


def _next_mp3(file: BinaryIO, told: int, size: int, *, bare: bool) -> int | None:
    """Where another mp3 begins about the byte that one is said to end at: with a tag or a header, or (bare) frames."""
    near = _read(file, told, _MP3_NEAR)
    places = [0, *(match.start() for match in re.finditer(rb"ID3[\x02-\x04]|TAG", near))]
    frame = _mp3_frame(near)
    if frame is not None:  # the last frame of the first, where it was not counted; else the first of the next
        places.append(frame)
    for place in sorted(dict.fromkeys(places)):
        begin = _skip_tags(file, told + place, size)
        length = _mp3_frame(_read(file, begin, 4))
        is_marked = any(mark in _read(file, begin, _MP3_NEAR // 4) for mark in _MP3_MARKS)
        if length is not None and (is_marked or begin > told + place) and begin + length < size:
            return begin
    # No header: what goes on with frames is read as a part without one.
    if bare and frame is not None and _mp3_frame(_read(file, told + frame, 4)) is not None:
        return told
    return None


def _mp3_frame(head: bytes) -> int | None:
    """The length of the frame of layer III that begins here, bytes; None if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, kbps, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version not in _MP3_RATES or not 0 < kbps < 15 or rate == 3:
        return None
    is_first = version == 3
    bits = (144_000 if is_first else 72_000) * _MP3_KBPS[is_first][kbps]
    return bits // _MP3_RATES[version][rate] + (head[2] >> 1 & 1)


def _end_of_starts(file: BinaryIO, start: int) -> int:
    """Where the first pages of the streams end that begin together at a byte."""
    position = start
    for _ in range(_MOST_TAGS):
        if _OGG_START.match(_read(file, position, _OGG_PAGE)) is None:
            break
        position = _end_of_page(file, position)
    return position


def _flaw_of_ogg(file: BinaryIO, start: int, end: int) -> str | None:
    last = _last_page(file, start, end)
    if last is None:
        is_filled = not any(_read(file, max(start, end - _SLACK), _SLACK))
        return None if is_filled else "ends with bytes that are no page of Ogg"
    if _end_of_page(file, last) > end:
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


def _find(file: BinaryIO, mark: re.Pattern[bytes], start: int, size: int) -> int | None:
    """Where a mark first occurs at or behind `start`; None if it does not."""
    for position in range(start, size, _SCAN_BYTES):
        found = mark.search(_read(file, position, _SCAN_BYTES + _MARK_BYTES))
        if found is not None:
            return position + found.start()
    return None


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
