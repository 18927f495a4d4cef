"""Which device is meant, on nodes that are given by hand, and what is told of it."""

import logging

import pytest
import torch

from sdhubert_ray.errors import UserError
from sdhubert_ray.runs import devices
from sdhubert_ray.runs.devices import cluster_device, local_device
from sdhubert_ray.runs.placement import Node


@pytest.fixture
def told(caplog):
    """The messages so far, each with its level; none is held back for having been told before."""
    devices._tell.cache_clear()
    caplog.set_level(logging.INFO, "sdhubert_ray")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.fixture
def have(monkeypatch):
    """Give the cluster nodes with so many GPUs each."""
    return lambda *gpus: monkeypatch.setattr(devices, "alive_nodes", lambda: [Node(4, count) for count in gpus])


@pytest.mark.parametrize("grows", [False, True])
def test_what_is_there_is_taken(grows, have, told):
    have(0, 2, 4)
    assert cluster_device("cuda", grows) == "cuda"
    assert cluster_device("cpu", grows) == "cpu"
    assert told() == []
    assert cluster_device("auto", grows) == cluster_device("auto", grows) == "cuda"
    have(0)
    assert cluster_device("auto", grows) == "cpu"
    assert told() == [
        ("INFO", "device auto is cuda: the nodes of the cluster have 6 GPUs now"),
        ("INFO", "device auto is cpu: the nodes of the cluster have 0 GPUs now"),
    ]


def test_gpus_that_are_named_may_come_yet_and_nobody_waits_unknowing(have, told):
    have(0, 0)
    assert cluster_device("cuda", grows=True) == cluster_device("cuda", grows=True) == "cuda"
    ((level, message),) = told()
    assert level == "WARNING"
    assert "waiting for its autoscaler" in message


def test_where_none_can_come_they_are_refused(have, told):
    have(0)
    with pytest.raises(UserError, match="no node of the cluster has a GPU"):
        cluster_device("cuda")
    assert told() == []


@pytest.mark.parametrize(("there", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_a_process_tells_what_it_chose(there, chosen, monkeypatch, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert local_device("auto") == local_device("auto") == chosen
    ((level, message),) = told()
    assert level == "INFO"
    assert message.startswith(f"device auto is {chosen}: torch sees ")
