"""Buckets of an S3 server on loopback, and what is refused about them."""

import random
import uuid

import pytest
import s3

from sdhubert_ray import storage

MEGABYTE = 1024 * 1024
CONTENT = random.Random(2).randbytes(2 * MEGABYTE)


def route(monkeypatch, url):
    """Lead this process to the server or proxy at `url`."""
    for name, value in s3.environment(url).items():
        monkeypatch.setenv(name, value)


def new_bucket(server, objects):
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    server.fill(bucket, objects)
    return f"s3://{bucket}"


def refusal(call, kind):
    """The message of an error: one sentence on one line, without secrets."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert s3.SECRET not in message
    assert not isinstance(caught.value, storage.TransientError) or kind is storage.TransientError
    return message
