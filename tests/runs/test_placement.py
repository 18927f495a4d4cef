"""What fits on nodes that are given by hand, and the pools and layouts that come of it. No Ray is started."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.clustering.options import Workers
from sdhubert_ray.clustering.remote import lay_out
from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.config import EncoderResources, JobConfig, Resources
from sdhubert_ray.runs.pipeline import plan_encoders
from sdhubert_ray.runs.placement import (
    GIB,
    Node,
    Reservation,
    count_places,
    grantable,
    most_cpus,
    most_memory,
    places_beside,
    short_of_cpus,
    total,
    usable,
)

HEAD, SMALL, LARGE, GPUS = Node(0, 0, 8 * GIB), Node(4, 0, 8 * GIB), Node(16, 0, 64 * GIB), Node(8, 4, 64 * GIB)


@pytest.mark.parametrize(
    ("nodes", "each", "places"),
    [
        ([], Reservation(1), 0),
        ([HEAD], Reservation(1), 0),
        ([SMALL, SMALL], Reservation(3), 2),  # none is divided between two nodes
        ([Node(1)], Reservation(0.1), 10),  # 1 // 0.1 is 9
        ([SMALL, LARGE], Reservation(1, memory=4 * GIB), 2 + 16),
        ([GPUS, LARGE], Reservation(1, 1), 4),
        ([GPUS], Reservation(1, 0.5), 8),
        ([GPUS], Reservation(0.5, 0.4), 8),  # two on each GPU: a part of one GPU and of another is no GPU
        ([GPUS], Reservation(1, 2), 2),
        ([GPUS], Reservation(3, 1), 2),
        ([GPUS], Reservation(1, 1, 30 * GIB), 2),
    ],
)
def test_workers_that_fit(nodes, each, places):
    assert count_places(nodes, each) == places


def test_nodes_together_and_what_one_may_reserve():
    assert total([SMALL, GPUS]) == Node(12, 4, 72 * GIB)
    assert total([]) == Node(0)
    assert usable([SMALL], 0.5) == [Node(4, 0, 4 * GIB)]
    assert grantable([SMALL, LARGE], 3.5 * GIB, 0.25) == int(3.5 * GIB)
    assert grantable([SMALL, LARGE], 100 * GIB, 0.25) == 16 * GIB
    assert grantable([], GIB, 0.25) == 0


def test_the_most_that_so_many_can_have():
    assert most_cpus([SMALL, LARGE], 5) == 4
    assert most_cpus([SMALL, LARGE], 21) == 0
    assert most_cpus([GPUS, LARGE], 3, gpus=1) == 2
    assert most_cpus([LARGE], 1, limit=5) == 5
    assert most_memory([SMALL, LARGE], 3, Reservation(4)) == 64 * GIB // 3
    assert most_memory([SMALL, LARGE], 5, Reservation(4)) == 8 * GIB
    assert most_memory([SMALL, LARGE], 6, Reservation(4)) == 0


def sizes(nodes, num_units, device="cpu", **encode):
    """Sizes of the pool: least, first and most encoders, and memory of each."""
    config = JobConfig(device=device, resources=Resources(encode=EncoderResources(**encode)))
    pool, memory = plan_encoders(config, num_units, nodes)
    return pool.min_size, pool.initial_size, pool.max_size, memory


def test_pools_follow_the_cluster_and_the_options():
    low, _, high, memory = sizes([SMALL], 100, memory_gib=0.5)
    assert (low, high, memory) == (4, 4, GIB // 2)
    assert sizes([SMALL], 2, memory_gib=0.5)[2] == 2  # never more than there is work
    assert sizes([SMALL], 100, memory_gib=0.5, cpus=2)[2] == 2
    assert sizes([SMALL], 100, min_workers=1, initial_workers=2, max_workers=9)[:3] == (1, 2, 9)
    # What no node could grant is not asked for, and two that are as large as can be find a place.
    assert sizes([SMALL], 100, memory_gib=100_000)[2:] == (2, int(8 * GIB * 0.45))
    assert sizes([SMALL, LARGE, HEAD], 100, memory_gib=4)[2] == 1 + 14
    assert sizes([HEAD], 100)[2] == 1  # there is one at least: a cluster may grow


def test_encoders_have_a_gpu_each_and_leave_a_cpu():
    assert sizes([GPUS, LARGE], 100, "cuda")[2] == 4
    assert sizes([GPUS, LARGE], 100, "cuda", gpus=0.5)[2] == 8
    assert sizes([GPUS], 100, "cuda", gpus=0.5)[2] == 7
    assert sizes([Node(1, 1, GIB)], 100, "cuda")[2] == 1


def test_each_node_keeps_cpus_beside_its_encoders():
    full = Node(8, 8, 64 * GIB)
    assert sizes([full] * 4, 1000, "cuda", memory_gib=0.5)[2] == 4 * 7  # not 31 and one CPU for all
    assert sizes([full] * 4 + [LARGE], 1000, "cuda", memory_gib=0.5)[2] == 4 * 8  # others decode and cut
    assert sizes([full] * 4 + [Node(2)], 1000, "cuda", memory_gib=0.5)[2] == 4 * 7 + 2
    single = Node(1, 1, 8 * GIB)
    assert sizes([single] * 8 + [Node(4)], 1000, "cuda", memory_gib=0.5)[2] == 6


def test_nodes_whose_gpus_would_wait():
    each, full = Reservation(1, 1), Node(8, 8)
    assert short_of_cpus([], each, 2) is None
    assert short_of_cpus([LARGE, SMALL], each, 2) is None
    assert short_of_cpus([Node(12, 4)], each, 2) is None
    assert short_of_cpus([GPUS], each, 2) == (GPUS, 12)
    assert short_of_cpus([GPUS, full, LARGE], each, 2) == (full, 24)
    assert short_of_cpus([GPUS, full, LARGE, SMALL], each, 2) is None
    assert short_of_cpus([GPUS], Reservation(1, 0.5), 2) == (GPUS, 24)


gib = st.integers(0, 64).map(lambda size: size * GIB)
clusters = st.lists(
    st.builds(Node, st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0, 16.0]), st.sampled_from([0.0, 1.0, 2.0, 8.0]), gib),
    min_size=1,
    max_size=5,
)
reservations = st.builds(
    Reservation, st.sampled_from([0.1, 0.5, 1.0, 3.0]), st.sampled_from([0.0, 0.3, 0.5, 1, 2]), gib
)


def place(nodes, each, count):
    """Put workers on nodes one by one, as a scheduler does, GPU by GPU. Returns how many found no place."""
    left = [[node.cpus, [1.0] * int(node.gpus), node.memory] for node in nodes]
    for placed in range(count):
        for node in left:
            free = [number for number, part in enumerate(node[1]) if part >= min(each.gpus, 1) - 1e-9]
            gpus = free[: max(1, int(each.gpus))] if each.gpus else []
            if node[0] >= each.cpus - 1e-9 and node[2] >= each.memory and len(gpus) >= each.gpus:
                node[0] -= each.cpus
                node[2] -= each.memory
                for number in gpus:
                    node[1][number] -= min(each.gpus, 1)
                break
        else:
            return count - placed
    return 0


@settings(deadline=None)
@given(clusters, reservations)
def test_as_many_as_are_counted_find_a_place_and_no_more(nodes, each):
    places = count_places(nodes, each)
    assert place(nodes, each, places) == 0
    assert place(nodes, each, places + 1) == 1


@settings(deadline=None)
@given(clusters, st.sampled_from(["cpu", "cuda"]), st.integers(1, 9) | st.none())
def test_workers_of_a_clustering_find_a_place(nodes, device, count):
    try:
        layout = lay_out(Workers(count), device, nodes)
    except UserError:
        assert place(nodes, Reservation(1, int(device == "cuda")), count or 1) > 0
        return
    each = Reservation(layout.cpus, layout.gpus, layout.memory)
    assert place(usable(nodes, 0.8), each, layout.count) == 0
    assert place(nodes, replace(each, cpus=layout.cpus + 1, memory=0), layout.count) > 0
    # Some have no more: with a byte on top not so many find a place.
    assert layout.memory == 0 or place(usable(nodes, 0.8), replace(each, memory=layout.memory + 1), layout.count) > 0


@settings(deadline=None)
@given(clusters, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.5, 1.0]), st.booleans())
def test_encoders_of_a_pool_find_a_place(nodes, cpus, gpus, on_gpu):
    resources = Resources(encode=EncoderResources(cpus=cpus, gpus=gpus))
    config = JobConfig(device="cuda" if on_gpu else "cpu", resources=resources)
    pool, memory = plan_encoders(config, 1000, nodes)
    each = Reservation(cpus, gpus if on_gpu else 0, memory)
    # Ray makes calls of an actor wait for each other unless it is told otherwise.
    assert (pool.max_concurrent_calls_per_actor, pool.enable_true_multi_threading) == ((2 if on_gpu else None), on_gpu)
    assert pool.max_size == 1 or place(nodes, each, pool.max_size) == 0


@settings(deadline=None)
@given(clusters, reservations, st.sampled_from([0.5, 1.0, 2.0]))
def test_what_is_left_beside_workers(nodes, each, left):
    """Each node with workers has it, or nodes without do; and no worker is left out for nothing."""
    allotted = places_beside(nodes, each, left)
    places = [node.places(each) for node in nodes]
    assert all(0 <= count <= most for count, most in zip(allotted, places, strict=True))
    free = [node.cpus - count * each.cpus for node, count in zip(nodes, allotted, strict=True)]
    lacking = sum(max(0.0, left - cpus) for cpus, count in zip(free, allotted, strict=True) if count)
    spare = sum(cpus for cpus, count in zip(free, allotted, strict=True) if not count)
    assert lacking <= spare + 1e-6
    enough = all(node.cpus - most * each.cpus >= left - 1e-9 for node, most in zip(nodes, places, strict=True) if most)
    assert allotted == places or not enough


@settings(deadline=None)
@given(clusters, reservations.filter(lambda each: each.gpus), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_node_is_short_of_cpus_only_where_its_gpus_need_more(nodes, each, beside):
    each = replace(each, memory=0)
    short = short_of_cpus(nodes, each, beside)
    workers = sum(replace(node, cpus=1e4).places(each) for node in nodes)
    if short is None:
        assert total(nodes).cpus >= workers * (each.cpus + beside) - 1e-6
    else:
        node, needed = short
        assert node in nodes
        assert node.cpus < needed == pytest.approx(replace(node, cpus=1e4).places(each) * (each.cpus + beside))
