"""Recordings that are segmented, and quantizers that give them units; no test changes them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from recordings import write_corpus
from segmented import Segmenting
from tokenized import make_quantizer

from sdhubert_ray.runs.session import Job


@pytest.fixture(scope="session")
def quantizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`one` and `other`, and one for features of another width."""
    folder = tmp_path_factory.mktemp("quantizers")
    return {
        "one": make_quantizer(folder / "one"),
        "other": make_quantizer(folder / "other", seed=1),
        "wide": make_quantizer(folder / "wide", width=64),
    }


@pytest.fixture(scope="session")
def corpus(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of all kinds, which no test changes."""
    return write_corpus(golden, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def segment(golden: Path, corpus: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenting:
    """Run a `segment`."""
    return Segmenting(tmp_path_factory.mktemp("made"), tiny_checkpoint, [golden / "audio", corpus])


@pytest.fixture
def plan(segment: Segmenting) -> Callable[..., Job]:
    """Plan a `segment`."""
    return segment.plan
