"""The sound of a sample of recordings, read again from where it is, and packed small."""

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdhubert_ray.corpus.selection import in_order
from sdhubert_ray.corpus.shards import audio_to_decode
from sdhubert_ray.errors import AudioError, UserError, first_line
from sdhubert_ray.output import Contents, FileResult, read_plan
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.speech import SAMPLE_RATE, Samples
from sdhubert_ray.speech.audio import Span, read_audio

EXCERPT_SECONDS = 60.0
"""Of a longer recording so much is shown, from its beginning."""
MOST_BYTES = 28_000_000
"""Of all sounds: base64 makes 37.3 MB of them, which leaves room in a page of 40 MB."""

_BIT_RATE = 16_000
_OPUS = {"application": "voip", "compression_level": "5"}
# As loud as they may be, but not more than 20 dB louder than they are: what is nearly silent stays so.
_PEAK, _MOST_GAIN = 0.97, 10.0
_AT_ONCE = 8
_FULL = "there was no room for more sound in one page"
_PLACE = ("id", "piece", "member", "byte_offset", "byte_size", "channel", "source_size")


@dataclass(frozen=True)
class Sound:
    """Ogg Opus of a recording, or None and why there is none."""

    data: bytes | None
    silence: str | None = None


def read_sounds(
    contents: Contents, output: str, sample: Sequence[FileResult], advance: Callable[[], None]
) -> list[Sound]:
    """Read the audio of recordings again, several at once, from their first sample on, up to `EXCERPT_SECONDS`.

    What cannot be had is told in place of the sound. Once `MOST_BYTES` are full there are no more sounds.

    Args:
        contents: of the output, whose plans tell where in a shard the audio lies.
        output: its folder.
        sample: recordings.
        advance: called for each recording.
    """
    channel = contents.record.get("config", {}).get("audio", {}).get("channel")
    places = _find_places(contents, output, [result.id for result in sample])

    def read(result: FileResult) -> Sound:
        return _read_sound(result, places.get(result.id, {}), channel)

    sounds: list[Sound] = []
    size = 0
    for sound in in_order(read, sample, min(_AT_ONCE, os.cpu_count() or 1)):
        size += len(sound.data or b"")
        if size > MOST_BYTES:
            break
        sounds.append(sound)
        advance()
    return [*sounds, *[Sound(None, _FULL)] * (len(sample) - len(sounds))]


def to_opus(samples: Samples) -> bytes:
    """Ogg Opus of (n,) float32 samples at 16 kHz, made louder where there is room, at about 16 kbit/s."""
    peak = float(np.abs(samples).max(initial=0.0))
    gain = min(_PEAK / peak, _MOST_GAIN) if peak else 1.0
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", options=_OPUS)
        stream.bit_rate = _BIT_RATE
        frame = av.AudioFrame.from_ndarray(samples[None] * np.float32(gain), format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in (frame, None):
            container.mux(stream.encode(part))
    return file.getvalue()


def _read_sound(result: FileResult, place: Mapping[str, Any], channel: int | None) -> Sound:
    if result.status in FAILED_STATUSES:
        return Sound(None, result.error or result.status)
    chosen = place.get("channel")
    span = Span(result.offset, result.offset + min(result.duration, EXCERPT_SECONDS))
    try:
        with audio_to_decode(
            result.uri,
            place.get("member"),
            place.get("byte_offset"),
            place.get("byte_size"),
            place.get("source_size"),
        ) as file:
            samples = read_audio(file, span, channel if chosen is None else chosen).samples
    except FileNotFoundError:
        return Sound(None, "its audio is no longer where it was")
    except AudioError as error:
        return Sound(None, f"its audio {error}")
    except (OSError, UserError) as error:
        return Sound(None, f"its audio cannot be fetched ({first_line(error)})")
    return Sound(to_opus(samples)) if len(samples) else Sound(None, "it has no audio")


def _find_places(contents: Contents, output: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By id, what the latest plan tells of where the first piece lies."""
    wanted = pa.array(ids, pa.string())
    return {row["id"]: row for row in _planned(contents, output, wanted)}


def _planned(contents: Contents, output: str, wanted: pa.Array) -> Iterator[dict[str, Any]]:
    for plan in contents.plans:
        for table in read_plan(output, plan, _PLACE):
            first = pc.equal(table.column("piece"), 0)
            yield from table.filter(pc.and_(first, pc.is_in(table.column("id"), wanted))).to_pylist()
