"""What the functions of this package refuse alike."""

import math

import numpy as np
from numpy.typing import NDArray


def checked_features(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return (n, d) features as contiguous float32, or raise ValueError; `refuse_infinite` looks at their values."""
    given = np.asarray(features)
    if given.ndim != 2:
        raise ValueError(f"features must be a 2-D matrix, but their shape is {given.shape}")
    if given.size == 0:
        raise ValueError(f"features must not be empty, but their shape is {given.shape}")
    if given.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"features must be float16, float32 or float64, but their dtype is {given.dtype}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
        return np.ascontiguousarray(given, np.float32)


def refuse_infinite(features: NDArray[np.floating], matrix: NDArray[np.float32], norms: NDArray[np.float64]) -> None:
    """Raise ValueError where features, or what became of them in float32, are not finite.

    norms: (n,) float64 of the frames, squared or not: finite only where all values of a frame are. A pass over these is
    many times faster than one over features.
    """
    if not np.isfinite(norms).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0].tolist()
        value = float(np.asarray(features)[row, column])
        raise ValueError(f"features must be finite, but features[{row}, {column}] is {value}")


def checked_number(name: str, value: float, low: float, high: float = math.inf) -> float:
    """Return a finite number from low to high, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{name} must be a number, but it is {value!r}")
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {bounds}, but it is {value:g}")
    return float(value)


def checked_count(name: str, value: int, low: int) -> int:
    """Return an integer of at least low, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, but it is {value!r}")
    if value < low:
        raise ValueError(f"{name} must be {low} or more, but it is {value}")
    return int(value)
