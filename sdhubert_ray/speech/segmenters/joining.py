"""From span to span, and from boundaries to segments."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sdhubert_ray.speech.spans import Spans


def between(boundaries: npt.ArrayLike) -> Spans:
    """(S, 2) frames [start, end) between S + 1 ascending boundaries."""
    edges = np.asarray(boundaries, np.int64)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def joined(parts: Iterable[Spans]) -> Spans:
    """The segments of all spans, (S, 2) int64, in order."""
    return np.concatenate([np.zeros((0, 2), np.int64), *parts])
