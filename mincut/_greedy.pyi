import numpy as np
from numpy.typing import NDArray

def find(
    features: NDArray[np.float32],
    norm_threshold: float,
    merge_threshold: float,
    reset_count: bool,
    norms: NDArray[np.float64],
    sums: NDArray[np.float64],
    first_counts: NDArray[np.float64],
    contrast: NDArray[np.float64],
    segments: NDArray[np.int64],
) -> int: ...
