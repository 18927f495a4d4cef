"""What stages share that come out of pickles, as each task of Ray has its own: nothing is fetched or prepared twice."""

import gc
import weakref

import numpy as np
import pyarrow as pa
import pytest
from ray import cloudpickle

from sdhubert_ray import Quantizer
from sdhubert_ray.output import OutputOptions
from sdhubert_ray.output.tables import ragged_vectors, read_ragged
from sdhubert_ray.runs.stages import CutSyllables, SharedQuantizer
from sdhubert_ray.runs.stages.cutting import assign_units
from sdhubert_ray.speech.presets import get_preset


def make_quantizer(seed):
    return Quantizer(np.random.default_rng(seed).normal(size=(300, 8)).astype(np.float32))


@pytest.fixture
def stage_of(tmp_path):
    """The pickle of a stage that has a quantizer, and how often that was fetched."""
    preset = get_preset("readme")

    def make(quantizer):
        log = tmp_path / quantizer.sha256
        log.touch()
        centers = quantizer.centers

        def fetch():
            with log.open("a") as file:
                file.write("fetched\n")
            return Quantizer(centers)

        shared = SharedQuantizer(quantizer.sha256, fetch)
        pickled = cloudpickle.dumps(CutSyllables(preset, OutputOptions(), quantizer=shared))
        return pickled, lambda: len(log.read_text().splitlines())

    return make


def units_of(pickled, features):
    """What a task gives, and the search that it was found by."""
    quantizer = cloudpickle.loads(pickled).quantizer
    units = assign_units(pa.chunked_array([ragged_vectors([features], np.float32, 8)]), quantizer)
    return read_ragged(pa.chunked_array([units]))[0], quantizer._finders["cpu"]


def test_a_quantizer_is_fetched_and_prepared_once_a_process(stage_of):
    quantizer = make_quantizer(0)
    features = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    pickled, fetched = stage_of(quantizer)
    finders = set()
    for _ in range(3):
        units, finder = units_of(pickled, features)
        np.testing.assert_array_equal(units, quantizer.predict(features))
        finders.add(finder)
    assert len(finders) == fetched() == 1


def test_another_quantizer_takes_its_place(stage_of):
    """One is kept: memory does not grow with the runs of a process."""
    one, other = make_quantizer(0), make_quantizer(1)
    features = one.centers[:50]
    stages = {quantizer: stage_of(quantizer)[0] for quantizer in (one, other)}
    kept = []
    for quantizer in (one, other, one):
        units, finder = units_of(stages[quantizer], features)
        np.testing.assert_array_equal(units, quantizer.predict(features))
        kept.append(weakref.ref(finder))
        del finder
        gc.collect()
    assert [finder() is not None for finder in kept] == [False, False, True]
