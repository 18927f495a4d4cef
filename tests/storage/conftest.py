"""Fixtures of the rooms of storage."""

import uuid

import pytest
from clocks import Clock
from storage.buckets import CONTENT, new_bucket, route

from sdhubert_ray import storage
from sdhubert_ray.storage import retries


@pytest.fixture
def bucket():
    """A folder of a filesystem that is not this machine's."""
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    storage.remove_own(name, lambda path: True)


@pytest.fixture(scope="module")
def stored(s3_server):
    """A file of 2 MB and one of 20 MB of the same over and over."""
    patch = pytest.MonkeyPatch()
    route(patch, s3_server.url)
    bucket = new_bucket(s3_server, {})
    storage.put(f"{bucket}/small", CONTENT)
    storage.put(f"{bucket}/large", CONTENT * 10)
    patch.undo()
    return bucket


@pytest.fixture
def pauses(monkeypatch):
    """How long was paused between attempts, seconds; in truth it is not."""
    clock = Clock()
    monkeypatch.setattr(retries, "time", clock)
    return clock.waits
