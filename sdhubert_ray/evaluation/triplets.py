"""Triplets of spoken-sentence ABX, read from JSON."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError

ROLES = ("X", "P", "N")
"""The clips of a triplet: P (positive) says what X says, N (negative) does not."""
MAX_CLIP_SECONDS = 60.0
"""A clip is encoded whole, and attention is quadratic in its length."""


class Clip(NamedTuple):
    """Seconds [start, end) of a file."""

    uri: str
    start: float
    end: float


@dataclass(frozen=True)
class Triplets:
    """M triplets over C distinct clips.

    Attributes:
        ids: of each triplet.
        clips: each once.
        roles: (M, 3) int64, which clip is X, P and N.
    """

    ids: Sequence[str]
    clips: Sequence[Clip]
    roles: npt.NDArray[np.int64]

    @property
    def seconds(self) -> float:
        """Audio to be encoded, seconds."""
        return sum(clip.end - clip.start for clip in self.clips)


def read_triplets(uri: str, audio_root: str) -> Triplets:
    """Read triplets from JSON: id -> {X, P, N: {file_name, segment: [start, end], text}}.

    Args:
        uri: of the file.
        audio_root: folder or URI that file names are relative to, unless they are absolute.

    Raises:
        UserError: it cannot be read, or a triplet is not as it should be; the message names the triplet and the key.
    """
    content = _read_json(uri)
    if not isinstance(content, dict) or not content:
        raise UserError(f"triplets {uri} hold no triplet; they are an object of id -> {{X, P, N}}")
    clips: dict[Clip, int] = {}
    roles = [
        [clips.setdefault(clip, len(clips)) for clip in _read_triplet(f"triplets {uri}: {name!r}", triplet, audio_root)]
        for name, triplet in content.items()
    ]
    return Triplets(list(content), list(clips), np.array(roles, dtype=np.int64))


def _read_json(uri: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(storage.read_bytes(uri), object_pairs_hook=_unique, parse_int=float)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"triplets {uri} do not exist") from error
    except storage.TransientError:
        raise
    except OSError as error:
        raise UserError(f"triplets {uri} cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"triplets {uri} are no JSON of triplets ({error})") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r} is there twice")
    return found


def _read_triplet(where: str, triplet: object, audio_root: str) -> list[Clip]:
    if not isinstance(triplet, dict):
        raise UserError(f"{where} is no object of X, P and N")
    missing = [role for role in ROLES if role not in triplet]
    if missing:
        raise UserError(f"{where} has no {missing[0]}; a triplet has X, P and N")
    return [_read_clip(f"{where}, {role}", triplet[role], audio_root) for role in ROLES]


def _read_clip(where: str, clip: object, audio_root: str) -> Clip:
    if not isinstance(clip, dict):
        raise UserError(f"{where} is no object of file_name and segment")
    name, segment = clip.get("file_name"), clip.get("segment")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: file_name is {name!r}; it has to be the name of a file")
    if not isinstance(segment, list) or [type(value) for value in segment] != [float, float]:
        raise UserError(f"{where}: segment is {segment!r}; it has to be [start, end], seconds as numbers")
    start, end = segment
    if not 0 <= start < end < math.inf:
        raise UserError(f"{where}: segment is {segment!r}; it has to begin at 0 or later, and end after it begins")
    if end - start > MAX_CLIP_SECONDS:
        raise UserError(
            f"{where}: segment is {end - start:g} s long; clips of up to {MAX_CLIP_SECONDS:g} s are compared"
        )
    is_absolute = "://" in name or name.startswith("/")
    return Clip(storage.absolute(name if is_absolute else storage.join(audio_root, name)), start, end)
