"""What fits on the nodes of a cluster: how many workers of a size find a place, and how large so many can be.

Only `known_nodes` asks Ray; the rest is arithmetic on nodes that are given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

GIB = 1 << 30
"""Bytes; options and messages tell memory in GiB."""
_PARTS = 10_000
"""Ray counts CPUs and GPUs in parts of this size, in whole numbers: 1 // 0.1 is 9."""
_DRAINED_IDLE = 4
"""`DeathReason` of a node that the autoscaler took away (`NodeDeathInfo.AUTOSCALER_DRAIN_IDLE`)."""


@dataclass(frozen=True)
class Reservation:
    """What one worker reserves.

    Attributes:
        cpus: more than 0; may be a fraction.
        gpus: 0 for a worker without; below 1 several workers share one.
        memory: bytes.
    """

    cpus: float
    gpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Node:
    """What a node has.

    Attributes:
        cpus: may be 0, as of a head that does no work.
        gpus: it has.
        memory: that Ray hands out, bytes.
    """

    cpus: float
    gpus: float = 0.0
    memory: int = 0

    def places(self, each: Reservation) -> int:
        """How many such workers fit; the part of a GPU is a part of one GPU."""
        fits = [_parts(self.cpus) // _parts(each.cpus)]
        if each.gpus:
            fits.append(self.places_on_gpus(each.gpus))
        if each.memory:
            fits.append(self.memory // each.memory)
        return min(fits)

    def places_on_gpus(self, gpus: float) -> int:
        """How many workers that take so much of a GPU its GPUs are enough for."""
        return int(self.gpus // gpus) if gpus >= 1 else int(self.gpus) * (_PARTS // _parts(gpus))


@dataclass(frozen=True)
class KnownNode:
    """A node that is in a cluster or was.

    Attributes:
        id: that no other node ever has.
        alive: it is there.
        was_idle: it is not there as the autoscaler took it away: nothing ran on it.
        has: what it has; nothing, if it is not there.
    """

    id: str
    alive: bool
    was_idle: bool
    has: Node

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "KnownNode":
        """One of `ray.nodes()`. A node that was preempted, or stopped by hand, may have been at work."""
        has = record["Resources"]
        node = Node(has.get("CPU", 0.0), has.get("GPU", 0.0), int(has.get("memory", 0)))
        was_idle = not record["Alive"] and record.get("DeathReason") == _DRAINED_IDLE
        return cls(record["NodeID"], record["Alive"], was_idle, node)


def known_nodes() -> list[KnownNode]:
    """The nodes that the connected cluster has or had."""
    import ray

    return [KnownNode.of_record(record) for record in ray.nodes()]  # type: ignore[no-untyped-call]


def alive_nodes() -> list[Node]:
    """The nodes of the connected cluster that are alive."""
    return [node.has for node in known_nodes() if node.alive]


def total(nodes: Sequence[Node]) -> Node:
    """All nodes as if they were one."""
    return Node(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes), sum(node.memory for node in nodes))


def usable(nodes: Sequence[Node], part: float) -> list[Node]:
    """The nodes with this part of their memory: reservations must not fill one to the last byte."""
    return [replace(node, memory=int(node.memory * part)) for node in nodes]


def grantable(nodes: Sequence[Node], memory: float, part: float) -> int:
    """Memory to reserve, bytes: what is wanted, up to this part of the largest node.

    A reservation that no node can grant would wait for ever.
    """
    return int(min(memory, max((node.memory for node in nodes), default=0) * part))


def count_places(nodes: Sequence[Node], each: Reservation) -> int:
    """How many such workers fit on the nodes."""
    return sum(node.places(each) for node in nodes)


def places_beside(nodes: Sequence[Node], each: Reservation, left: float) -> list[int]:
    """How many such workers each node is given, if CPUs are left beside them for other work.

    A node with workers keeps so many CPUs; what it lacks of them, nodes without workers may have, so that GPUs stay
    in use where nodes without GPUs do the other work.

    Args:
        nodes: there are.
        each: a worker reserves.
        left: CPUs beside the workers of a node.
    """
    given = [node.places(each) for node in nodes]
    while any(given):
        free = [_parts(node.cpus) - count * _parts(each.cpus) for node, count in zip(nodes, given, strict=True)]
        lacking = [_parts(left) - cpus if count else 0 for cpus, count in zip(free, given, strict=True)]
        spare = sum(cpus for cpus, count in zip(free, given, strict=True) if not count)
        if sum(cpus for cpus in lacking if cpus > 0) <= spare:
            break
        given[max(range(len(nodes)), key=lambda index: (lacking[index], given[index]))] -= 1
    return given


def short_of_cpus(nodes: Sequence[Node], each: Reservation, beside: float) -> tuple[Node, float] | None:
    """Look for a node whose CPUs are too few to keep its GPUs busy.

    Args:
        nodes: there are.
        each: a worker on a GPU reserves.
        beside: CPUs that do other work for each worker, there or on nodes without GPUs.

    Returns:
        the node that lacks most, and the CPUs that its GPUs need; None where there are enough.
    """
    needed = [node.places_on_gpus(each.gpus) * (each.cpus + beside) for node in nodes]
    lacking = [max(0.0, cpus - node.cpus) if cpus else 0.0 for cpus, node in zip(needed, nodes, strict=True)]
    if _parts(sum(lacking)) <= _parts(sum(node.cpus for node, cpus in zip(nodes, needed, strict=True) if not cpus)):
        return None
    worst = max(range(len(nodes)), key=lacking.__getitem__)
    return nodes[worst], needed[worst]


def most_cpus(nodes: Sequence[Node], count: int, gpus: float = 0.0, limit: int | None = None) -> int:
    """How many whole CPUs each of `count` workers can have at most.

    Args:
        nodes: there are.
        count: workers, 1 or more.
        gpus: of each.
        limit: they need no more CPUs than this; None takes what a node has.

    Returns:
        CPUs; 0 where not so many workers find a place.
    """
    largest = int(max((node.cpus for node in nodes), default=0)) if limit is None else limit
    fitting = (cpus for cpus in range(largest, 0, -1) if count_places(nodes, Reservation(cpus, gpus)) >= count)
    return next(fitting, 0)


def most_memory(nodes: Sequence[Node], count: int, each: Reservation) -> int:
    """How much memory each of `count` workers can have at most, if it reserves the CPUs and GPUs of `each`.

    Returns:
        bytes; 0 where not so many workers find a place.
    """
    shares = {node.memory // there for node in nodes for there in range(1, node.places(replace(each, memory=0)) + 1)}
    fitting = (share for share in shares if share and count_places(nodes, replace(each, memory=share)) >= count)
    return max(fitting, default=0)


def _parts(amount: float) -> int:
    return round(amount * _PARTS)
