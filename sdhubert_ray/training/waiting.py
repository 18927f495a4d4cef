"""How long a training waits for its data."""

import threading
import time
from collections.abc import Iterable, Iterator

from sdhubert_ray.training.data import Batch


class Waiting:
    """A loader that tells how long it was waited for."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self._loader = loader
        self._lock = threading.Lock()
        self._seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                with self._lock:
                    self._seconds += time.perf_counter() - began
            yield batch

    def take_seconds(self) -> float:
        """Seconds waited since this was asked last."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
            return seconds
