"""Lengths of recordings that a run has read before its plan is there: one that is stopped while it plans goes on.

OUTPUT/lengths/DIGEST.npy holds the lengths of some thousand places, and is called by what these are: whoever asks for
the same finds it, and what has changed is read again. The plan takes their place.
"""

import hashlib
import io
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage

_FOLDER = "lengths"
_NAME = re.compile(r"[0-9a-f]{32}\.npy")


def keep_lengths(output: str, places: Sequence[object], seconds: Sequence[float]) -> None:
    """Keep the lengths of places in an output, seconds. Raises UserError where it cannot be written."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(seconds, np.float64))
    storage.put(_uri(output, places), buffer.getvalue())


def recall_lengths(output: str, places: Sequence[object]) -> npt.NDArray[np.float64] | None:
    """The (n,) float64 lengths of places in seconds, as they were kept; None where they were not."""
    data = storage.read_now(_uri(output, places))
    if data is None:
        return None
    try:
        seconds: npt.NDArray[np.float64] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError):
        return None  # cut short, as by a disk that was full: they are read again
    return seconds if seconds.dtype == np.float64 and seconds.shape == (len(places),) else None


def forget_lengths(output: str) -> None:
    """Remove all that are kept in an output, and its folder if nothing else is there. Raises OSError, UserError."""
    folder = storage.join(output, _FOLDER)
    if storage.is_folder(folder):
        storage.remove_own(folder, _NAME.fullmatch)
        storage.tidy(output)


def _uri(output: str, places: Sequence[object]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for place in places:
        digest.update(repr(place).encode())
    return storage.join(output, f"{_FOLDER}/{digest.hexdigest()}.npy")
