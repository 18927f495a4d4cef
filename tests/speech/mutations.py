"""Broken audio through the decoder, in a process of its own: `python tests/speech/mutations.py COUNT SEED`.

Each file is a sound one of some format whose bytes were changed: headers, frames, lengths, pages put in another order.
Prints what became of them as JSON. A file that takes long, or too much memory, ends the process; a crash does so by
itself. The file that it was at is kept then, in the folder that is named on stderr.
"""

import contextlib
import faulthandler
import json
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.stages import AudioSource, load_piece
from sdhubert_ray.speech.audio import Span, probe_duration

sys.path.insert(0, str(Path(__file__).parent.parent))
from speech.encoding import encode, encode_by_ffmpeg, speech_like

SECONDS_PER_FILE = 60
MEMORY_BYTES = 6 << 30
"""Of addresses: those of the libraries themselves are some 3 GiB."""
EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]


def sound_files():
    """A file of each format and coding: (name, bytes)."""
    signal = speech_like(0.6)
    stereo = np.stack([signal, signal[::-1]], axis=1)
    for container in sorted(soundfile.available_formats().keys() - {"SD2"}):  # writes a file of its own, too
        for subtype in sorted(soundfile.available_subtypes(container)):
            for samples in (signal, stereo):
                with contextlib.suppress(soundfile.LibsndfileError):  # not every pair can be written
                    yield f"{container} {subtype}", encode(samples, 16_000, container, subtype)
    by_ffmpeg = [
        ("mp4", "aac", {}),
        ("mp4", "alac", {"movflags": "faststart"}),
        ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("adts", "aac", {}),
        ("webm", "libopus", {}),
        ("matroska", "alac", {}),
        ("mpegts", "aac", {}),
        ("flv", "aac", {}),
        ("wv", "wavpack", {}),
        ("tta", "tta", {}),
        ("wav", "libmp3lame", {}),
        ("ogg", "libopus", {}),
    ]
    for container, codec, options in by_ffmpeg:
        rate = 48_000 if codec == "libopus" else 16_000
        for samples in (speech_like(0.6, rate), np.stack([speech_like(0.6, rate)] * 2, axis=1)):
            yield f"{container} {codec}", encode_by_ffmpeg(samples, rate, container, codec, **options)


def mutate(data, rng, others):
    """Change a file at one to eight places."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        # Half of the changes are in the header, where they do most.
        place = int(rng.integers(0, max(1, len(data) if rng.random() < 0.5 else min(len(data), 256))))
        kind = rng.integers(0, 9)
        if kind == 0:
            data[place : place + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1 and place < len(data):
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice(EXTREMES)) & ((1 << (8 * width)) - 1)
            data[place : place + width] = value.to_bytes(width, str(rng.choice(["little", "big"])))
        elif kind == 3:
            data[place : place + int(rng.integers(1, 64))] = b""
        elif kind == 4:
            data[place:place] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 5:
            data[place : place + int(rng.integers(1, 2048))] = rng.bytes(int(rng.integers(1, 2048)))
        elif kind == 6:  # a stretch stands somewhere else
            stretch = data[place : place + int(rng.integers(4, 4096))]
            at = int(rng.integers(0, len(data) + 1))
            data[at : at + (len(stretch) if rng.random() < 0.5 else 0)] = stretch
        elif kind == 7:  # a stretch comes again and again
            stretch = data[place : place + int(rng.integers(1, 64))]
            data[place:place] = bytes(stretch) * int(rng.choice([2, 50, 4000]))
        else:  # from here on it is another file
            other = others[int(rng.integers(0, len(others)))][1]
            data[place:] = other[int(rng.integers(0, len(other))) :] if rng.random() < 0.5 else b""
    return with_page_checksums(bytes(data)) if rng.random() < 0.8 else bytes(data)


def with_page_checksums(data):
    """The pages of an Ogg with right checksums: else no decoder sees what was changed."""
    data = bytearray(data)
    at = data.find(b"OggS")
    while at >= 0 and at + 27 <= len(data):
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        end = min(at + 27 + len(lacing) + sum(lacing), len(data))
        data[at + 22 : at + 26] = bytes(4)
        data[at + 22 : at + 26] = struct.pack("<I", page_checksum(data[at:end]))
        at = data.find(b"OggS", at + 4)
    return bytes(data)


def page_checksum(page):
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ CRC[(value >> 24) ^ byte]
    return value


def checksum_table():
    table = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


CRC = checksum_table()


def run(count, seed):
    """Decode `count` broken files; tells how many had each status, by format, and the longest time, seconds."""
    config = load_config(None, [], {}, {})
    files = list(sound_files())
    statuses = {name: Counter() for name, _ in files}
    longest = (0.0, "")
    kept = Path(tempfile.mkdtemp(prefix="mutations-"))
    print(kept, file=sys.stderr)
    path = kept / "broken"
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        name, data = files[int(rng.integers(0, len(files)))]
        path.write_bytes(mutate(data, rng, files))
        faulthandler.dump_traceback_later(SECONDS_PER_FILE, exit=True)
        began = time.perf_counter()
        start = float(rng.choice([0.0, 0.0, 0.3]))
        end = None if rng.random() < 0.7 else start + 0.2
        piece = load_piece(AudioSource(str(path)), Span(start, end), None, config.audio, config.windows)
        if number % 4 == 0 and piece.status != "unreadable":
            with path.open("rb") as file:
                probe_duration(file)
        longest = max(longest, (time.perf_counter() - began, f"{name} {number}"))
        faulthandler.cancel_dump_traceback_later()
        statuses[name][piece.status] += 1
    path.unlink(missing_ok=True)
    kept.rmdir()
    return {"statuses": statuses, "longest_seconds": longest[0], "longest": longest[1]}


if __name__ == "__main__":
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
