"""What the stages of a worker's process share: each task of Ray has its stage anew, out of a pickle."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdhubert_ray.units import Quantizer


class SharedQuantizer:
    """A quantizer that a process fetches once and keeps, with what is prepared for the search of nearest centers."""

    def __init__(self, sha256: str, fetch: "Callable[[], Quantizer]") -> None:
        """`fetch` gives the quantizer of this digest, to any process that this object is sent to."""
        self.sha256 = sha256
        self.fetch = fetch

    def __call__(self) -> "Quantizer":
        """Give the quantizer: the one that this process has, if it is the one meant."""
        return _fetched(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharedQuantizer) and other.sha256 == self.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)


@lru_cache(1)  # a run has one, and what is prepared takes three times the room of the centers
def _fetched(shared: SharedQuantizer) -> "Quantizer":
    return shared.fetch()
