"""The lengths of files that no manifest tells: read from their headers in this process, or by all of a cluster.

A million of them take minutes to hours. So they are kept in the output until the plan is there.
"""

import contextlib
from collections.abc import Iterator, Sequence

from sdhubert_ray.corpus import Place, Probe, probe_durations
from sdhubert_ray.errors import BusyError
from sdhubert_ray.output import keep_lengths, recall_lengths

_FEW = 256
"""Fewer files than these are read here, in the time that a cluster takes to answer."""
_KEPT = 1024
"""Fewer lengths than these are sooner read again than kept."""
_AT_ONCE = 64
"""Files of a task: a few thousand of a batch fill as many CPUs."""


@contextlib.contextmanager
def probing_on(address: str | None) -> Iterator[Probe]:
    """Give what reads lengths: with an address its cluster, which is joined when there is enough to do.

    A header in a store costs a client in Python milliseconds of one core, whatever the number of threads.
    """
    if address is None:
        yield probe_durations
        return
    with contextlib.ExitStack() as connection:
        joined = False

        def probe(places: Sequence[Place]) -> Sequence[float]:
            nonlocal joined
            if len(places) < _FEW:
                return probe_durations(places)
            from sdhubert_ray.runs.connect import connected

            if not joined:
                connection.enter_context(connected(address))
                joined = True
            return _probe_on_ray(places)

        yield probe


def remembering(probe: Probe, output: str) -> Probe:
    """Give what asks `probe` for the lengths that an output does not keep, and keeps them there.

    Raises:
        UserError: (when it is called) the output cannot be written.
    """

    def ask(places: Sequence[Place]) -> Sequence[float]:
        if len(places) < _KEPT:
            return probe(places)
        kept = recall_lengths(output, places)
        if kept is not None:
            return list(map(float, kept))
        seconds = probe(places)
        keep_lengths(output, places, seconds)
        return seconds

    return ask


def _probe_on_ray(places: Sequence[Place]) -> list[float]:
    import ray
    from ray.exceptions import RayError

    from sdhubert_ray.runs.connect import explain

    task = ray.remote(probe_durations)
    parts = [task.remote(places[begin : begin + _AT_ONCE]) for begin in range(0, len(places), _AT_ONCE)]
    try:
        return [seconds for part in ray.get(parts) for seconds in part]
    except RayError as error:
        raise BusyError(
            f"the lengths of files could not be read on the cluster ({explain(error)}); run it again, or make a "
            "manifest first: `sdhubert manifest`"
        ) from error
