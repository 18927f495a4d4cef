import numpy as np
from numpy.typing import NDArray

def cut(
    similarity: NDArray[np.float64],
    row_sums: NDArray[np.float64],
    sums: NDArray[np.float64],
    costs: NDArray[np.float64],
    best: NDArray[np.float64],
    boundaries: NDArray[np.int64],
    shortest: int = 1,
) -> None: ...
