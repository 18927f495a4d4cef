"""Recordings that a caller holds: NumPy arrays and tensors, with their rate beside or around them, as other tools give.

`soundfile.read`, `librosa.load` and `torchaudio.load` give a pair (samples, rate), `datasets` a mapping of `array` and
`sampling_rate`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import Levels, scale_up
from sdhubert_ray.speech.decoders import MAX_RATE, MIN_RATE, Samples

if TYPE_CHECKING:  # it takes seconds, and whoever cuts features needs none
    import torch

Array: TypeAlias = "npt.NDArray[np.floating | np.signedinteger] | torch.Tensor"
"""Samples, (n,), (channels, n) or, with few channels, (n, channels)."""
AudioInput: TypeAlias = "str | Path | Array | tuple[Array, float] | Mapping[str, object]"
"""A recording: a path or URI, samples, samples with their rate in Hz, or a mapping of `array` and `sampling_rate`."""

KNOWN = "a path, an array or tensor of samples, a pair (samples, rate) or a mapping of 'array' and 'sampling_rate'"

_BLOCK = 16_384
_MOST_CHANNELS = 16
_FULL_SCALES = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}
_ARRAY, _RATE = "array", "sampling_rate"


def is_samples(item: object) -> "TypeGuard[Array]":
    """Tell whether this is an array or a tensor."""
    import torch

    return isinstance(item, np.ndarray | torch.Tensor)


def is_pair(item: object) -> "TypeGuard[tuple[Array, float]]":
    """Tell whether this is samples and their rate, and not two recordings."""
    if not isinstance(item, tuple) or len(item) != 2:
        return False
    return is_samples(item[0]) and isinstance(item[1], int | float | np.integer | np.floating)


def tells_rate(item: object) -> bool:
    """Tell whether a recording needs no rate beside it: a file, a pair, a mapping."""
    return isinstance(item, str | Path | Mapping) or is_pair(item)


def check_input(item: object) -> None:
    """Refuse what is no `AudioInput`.

    Raises:
        UserError: the message names what there can be.
    """
    if isinstance(item, Mapping):
        if not {_ARRAY, _RATE} <= item.keys() or not is_samples(item[_ARRAY]):
            told = ", ".join(f"{name!r} ({type(value).__name__})" for name, value in item.items())
            raise UserError(f"a mapping has {told}; a recording is {_ARRAY!r}, samples, and {_RATE!r}, in Hz")
    elif isinstance(item, str | Path) or is_samples(item) or is_pair(item):
        if isinstance(item, str) and not item:
            raise UserError(f"str '' is no recording; give {KNOWN}")
    else:
        raise UserError(f"{type(item).__name__} {item!r:.80} is no recording; give {KNOWN}")


def read_samples(
    item: "Array | tuple[Array, float] | Mapping[str, object]", rate: float | None
) -> tuple[npt.NDArray[np.generic], int]:
    """The samples of a recording that is no file, and their rate in Hz.

    Args:
        item: one that `check_input` lets pass.
        rate: for samples that tell none, Hz.

    Raises:
        UserError: there is no rate, or none that can be.
    """
    samples: Any = item
    given: Any = rate
    if isinstance(item, Mapping):
        samples, given = item[_ARRAY], item[_RATE]
    elif is_pair(item):
        samples, given = item
    known = isinstance(given, int | float | np.integer | np.floating) and float(given).is_integer()
    if not known or not MIN_RATE <= given <= MAX_RATE:
        raise UserError(f"an array of samples needs its sample_rate in Hz, {MIN_RATE} to {MAX_RATE}, not {given!r}")
    return to_array(samples), int(given)


def to_array(samples: Array) -> npt.NDArray[np.generic]:
    """The same samples in NumPy; bfloat16 ones as float32."""
    import torch

    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        # NumPy has no bfloat16.
        samples = (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    return samples


def to_floats(array: npt.NDArray[np.generic]) -> Samples:
    """Samples as float32: floating ones as they are, int16 and int32 by their full scale.

    Raises:
        UserError: they are of another type.
    """
    if not np.issubdtype(array.dtype, np.floating) and array.dtype not in _FULL_SCALES:
        raise UserError(f"samples are {array.dtype}; give floating, int16 or int32 ones")
    floats: Samples = array.astype(np.float32, copy=False)
    if array.dtype in _FULL_SCALES:
        floats = floats / np.float32(_FULL_SCALES[array.dtype])
    return floats


def to_mono(array: npt.NDArray[np.generic], channel: int | None) -> tuple[Samples, bool]:
    """One channel of samples, float32 (n,): the one that is asked for, or the mean of all; and whether they cancel.

    Args:
        array: (n,), (channels, n) or (n, channels); floating, int16 or int32.
        channel: from 0; None averages all.

    Raises:
        UserError: they are no samples, or have no such channel.
    """
    stacked = array.ndim == 2 and 0 < len(array) <= array.shape[1]
    beside = array.ndim == 2 and 0 < array.shape[1] <= min(_MOST_CHANNELS, len(array))  # as soundfile gives them
    known = np.issubdtype(array.dtype, np.floating) or array.dtype in _FULL_SCALES
    if not (array.ndim == 1 or stacked or beside) or not known:
        raise UserError(
            f"samples are {array.dtype} of shape {array.shape}; give floating, int16 or int32 ones of shape (n,), "
            f"(channels, n), or (n, channels) with {_MOST_CHANNELS} channels or fewer"
        )
    signal = to_floats(array)
    cancelled = False
    if signal.ndim == 2:
        signal = signal if stacked else signal.T
        if channel is not None and channel >= len(signal):
            raise UserError(f"samples have {len(signal)} channel(s), but channel {channel} (from 0) was asked for")
        if channel is None:
            levels = Levels(len(signal))
            for begin in range(0, signal.shape[1], _BLOCK):
                levels.add(signal[:, begin : begin + _BLOCK].T)
            signal = signal.mean(axis=0)
            cancelled = levels.cancel(signal)
        else:
            signal = signal[channel]
    if np.issubdtype(array.dtype, np.floating):
        signal = scale_up(signal)
    return np.ascontiguousarray(signal), cancelled
