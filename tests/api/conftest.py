"""The two calls of the Python interface, and recordings for them."""

import pytest

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter


@pytest.fixture(scope="session")
def segmenter(tiny_checkpoint):
    return SDHuBERTSegmenter(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def mincut():
    return MincutWrapper()


@pytest.fixture
def sounds(golden):
    return sorted((golden / "audio").glob("*.flac"))
