import numpy as np
from numpy.typing import NDArray

def cut(
    products: NDArray[np.float64],
    shortest: int,
    width: float,
    fewest: int,
    max_error: float,
    share: float,
    scratch: NDArray[np.float64],
    errors: NDArray[np.float64],
    best: NDArray[np.float64],
    boundaries: NDArray[np.int64],
) -> int: ...
