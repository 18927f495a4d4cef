"""The files of a sample: vectors and their priorities, written and read a shard at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.output.tables import Array

SHARD_BYTES = 64 << 20
ALL = 2**64
"""A limit that every priority is below."""
SIGMAS = 8
"""A sample is this many standard deviations smaller or larger than a limit makes expect once in 10^15 times."""


@dataclass(frozen=True)
class Limits:
    """Priorities below `upper` are kept at first; those below `lower` are in the sample for sure."""

    lower: int
    upper: int


@dataclass(frozen=True)
class Sample:
    """A sample, in files.

    Attributes:
        shards: the URIs of the files.
        limit: priorities below it are in the sample; vectors of the files from it on do not count.
        num_vectors: in the sample.
        width: D.
        dtype: of the vectors.
        largest: absolute coordinate of all that was kept at first.
    """

    shards: tuple[str, ...]
    limit: int
    num_vectors: int
    width: int
    dtype: str
    largest: float


class ShardWriter:
    """Collects vectors and writes them, a file at a time."""

    def __init__(self, base: str, limits: Limits) -> None:
        self._base = base
        self._limits = limits
        self._features: list[Array] = []
        self._priorities: list[npt.NDArray[np.uint64]] = []
        self._size = 0
        self._shards: list[tuple[str, int]] = []
        self._near: list[int] = []
        self._largest = 0.0

    def add(self, features: Array | None, priorities: npt.NDArray[np.uint64]) -> None:
        """Take in vectors."""
        if features is None or not len(features):
            return
        near = priorities >= np.uint64(self._limits.lower) if self._limits.lower < ALL else np.zeros(0, bool)
        self._near += priorities[near].tolist() if near.any() else []
        self._largest = max(self._largest, float(np.abs(features).max()))
        step = max(1, SHARD_BYTES // (features.shape[1] * features.itemsize))
        for begin in range(0, len(features), step):
            self._features.append(features[begin : begin + step])
            self._priorities.append(priorities[begin : begin + step])
            self._size += self._features[-1].nbytes
            if self._size >= SHARD_BYTES:
                self._write()

    def report(self) -> dict[str, Any]:
        """What was written, all of it."""
        self._write()
        return {"shards": self._shards, "near": self._near, "largest": self._largest}

    def _write(self) -> None:
        if not self._features:
            return
        from safetensors.numpy import save

        features, priorities = np.concatenate(self._features), np.concatenate(self._priorities)
        uri = f"{self._base}-{len(self._shards):05d}.safetensors"
        storage.put(uri, save({"features": features, "priorities": priorities}))
        self._shards.append((uri, len(features)))
        self._features, self._priorities, self._size = [], [], 0


def read_shard(uri: str, limit: int) -> tuple[Array, npt.NDArray[np.uint64]]:
    """The vectors of a shard that are below a limit, and their priorities.

    Raises:
        UserError: it is gone or damaged.
        TransientError: the store could not be reached.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    advice = "run the same command with --overwrite"
    try:
        arrays = load(storage.read_bytes(uri))
        features, priorities = arrays["features"], arrays["priorities"]
    except storage.TransientError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{uri} is gone or damaged ({first_line(error)}); {advice}") from error
    if limit < ALL and not (priorities < np.uint64(limit)).all():
        chosen = priorities < np.uint64(limit)
        return features[chosen], priorities[chosen]
    return features, priorities


def read_smallest(sample: Sample, count: int) -> Array:
    """The vectors of a sample with the smallest priorities, in their order, as (count, D)."""
    limit, room = sample.limit, sample.num_vectors
    if count < room:
        # The priorities below the limit are uniform: this part of them is enough, and its size is known nearly.
        spread = SIGMAS * math.sqrt(count) + 2 * SIGMAS
        limit = min(limit, int((count + spread) / room * limit) + 1)
        room = min(room, int(count + 2 * spread) + 1)
    # In place: pieces that are kept between shards that are not would scatter memory.
    features, priorities, filled = np.empty((room, sample.width), sample.dtype), np.empty(room, np.uint64), 0
    for some, theirs in _read_shards(sample.shards, limit):
        places = slice(filled, filled + len(some))
        features[places], priorities[places] = some, theirs
        filled += len(some)
    return features[np.argsort(priorities[:filled], kind="stable")[:count]]


def _read_shards(shards: Sequence[str], limit: int) -> Iterator[tuple[Array, npt.NDArray[np.uint64]]]:
    for uri in shards:
        yield read_shard(uri, limit)
