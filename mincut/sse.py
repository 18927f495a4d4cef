"""The least squared error of consecutive chunks, and how many there should be. Needs NumPy only."""

import numpy as np
from numpy.typing import NDArray

from mincut import _sse
from mincut.checks import checked_count, checked_features, checked_number, refuse_infinite

QUANTILE = 0.75
"""Of the errors per frame of the chunks: what decides on their number."""
MOST_PER_FRAME = 0.2
"""So many chunks per frame there are at most; the search begins at a third of that."""
_ROWS = 32  # of frames whose products are one call: few beside those that are not needed, enough to be fast


def sse_cut(
    features: NDArray[np.floating], max_error: float, min_frames: int = 3, max_frames: int = 35
) -> NDArray[np.int64]:
    """Cut n consecutive frames as SylBoost does (Baade et al. 2024, arXiv 2410.04029).

    The error of a chunk of L frames is their squared distance to its mean, over the dimensions:

        D = (sum |x_t|^2 - |sum x_t|^2 / L) / d

    For each K the K chunks of the least sum of D are found by dynamic programming, of equals those with the shortest
    last chunk. Of the K between m / 3 and m = floor(0.2 n) a binary search takes the largest at which the upper
    quartile of D / L is above max_error, as if it only fell with K; where there is none, the smallest.

    Sums are in float64; time is O(n d max_frames + n^2 max_frames), memory O(n^2). The GIL is released while chunks are
    found.

    Args:
        features: (n, d) float16, float32 or float64, finite. They are taken as float32.
        max_error: 0 or more, mean squared deviation from the mean of a chunk.
        min_frames: no chunk is shorter.
        max_frames: no chunk is longer.

    Returns:
        (K + 1,) int64 boundaries in frames, the first 0, the last n. K is 1 where no K of that range can be had with
        such chunks, as with n < min_frames.

    Raises:
        ValueError: an argument that is none of that.
    """
    matrix = checked_features(features)
    error = checked_number("max_error", max_error, 0)
    shortest = checked_count("min_frames", min_frames, 1)
    longest = checked_count("max_frames", max_frames, shortest)
    n, width = matrix.shape
    most = max(1, int(MOST_PER_FRAME * n))
    longest = min(longest, n)
    with np.errstate(invalid="ignore"):
        products = _products(matrix, longest)
    refuse_infinite(features, matrix, products[:, 0])
    boundaries = np.empty(most + 1, np.int64)
    count = 0
    if n >= shortest:
        count = _sse.cut(
            products,
            shortest=shortest,
            width=float(width),
            fewest=max(1, most // 3),
            max_error=error,
            share=QUANTILE,
            scratch=np.empty(max(longest, most)),
            errors=np.empty((longest - shortest + 1, n + 1)),
            best=np.empty((most + 1, n + 1)),
            boundaries=boundaries,
        )
    return boundaries[: count + 1] if count else np.array([0, n], np.int64)


def _products(features: NDArray[np.float32], longest: int) -> NDArray[np.float64]:
    """Return (n, longest) float64: of each frame and the l-th before it, 0 where there is none."""
    n, width = features.shape
    blocks = -(-n // _ROWS)
    before = longest - 1
    padded = np.zeros((before + blocks * _ROWS, width))
    padded[before : before + n] = features
    products = np.empty((blocks, _ROWS, longest))
    for block in range(blocks):
        first = block * _ROWS
        rows = padded[first + before : first + before + _ROWS]
        square = rows @ padded[first : first + before + _ROWS].T
        # Row r has the frames r..r + before, the last of them itself.
        banded = np.lib.stride_tricks.as_strided(
            square, (_ROWS, longest), (square.strides[0] + square.strides[1], square.strides[1]), writeable=False
        )
        products[block] = banded[:, ::-1]
    return products.reshape(-1, longest)[:n]
