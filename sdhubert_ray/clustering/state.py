"""How far k-means has come, and the file of it. Without torch: what is done already is told at once."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line

Centers = npt.NDArray[np.float32]

STATE = "state.safetensors"


@dataclass(frozen=True)
class FitState:
    """How far k-means has come.

    Attributes:
        centers: (K, D) float32.
        limit: it has converged when the squared shift of the centers is no larger.
        inertias: of each step, for the centers that it began with.
        reseeded: empty clusters that were seeded anew, in all steps.
        ended: `converged`, or `iterations` (all that are allowed), or None while it goes on.
        inertia: of the final centers, once they are measured.
        empty: clusters without a vector in the end.
    """

    centers: Centers
    limit: float
    inertias: tuple[float, ...] = ()
    reseeded: int = 0
    ended: str | None = None
    inertia: float | None = None
    empty: int = 0

    @property
    def iteration(self) -> int:
        """Steps that are done."""
        return len(self.inertias)


def write_state(work: str, state: FitState) -> None:
    """Keep a state, whole.

    Raises:
        UserError: the place cannot be written.
        TransientError: the store could not be reached.
    """
    from safetensors.numpy import save

    record = {key: value for key, value in asdict(state).items() if key != "centers"}
    encoded = np.frombuffer(json.dumps(record).encode(), np.uint8)
    storage.put(storage.join(work, STATE), save({"centers": state.centers, "record": encoded}))


def read_state(work: str) -> FitState | None:
    """The state that was kept last, or None.

    Raises:
        UserError: it is damaged.
        TransientError: the store could not be reached.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    uri = storage.join(work, STATE)
    try:
        arrays = load(storage.read_bytes(uri))
        record: dict[str, Any] = json.loads(arrays["record"].tobytes())
        return FitState(arrays["centers"], **{**record, "inertias": tuple(record["inertias"])})
    except FileNotFoundError:
        return None
    except storage.TransientError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{uri} is damaged ({first_line(error)}); --overwrite the output") from error
