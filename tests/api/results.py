"""What the Python interface gives, compared."""

import numpy as np
import soundfile

FEATURE_KEYS = {"segments", "features", "mask", "norm", "length"}
SYLLABLE_KEYS = {"segments", "features", "segment_features", "length"}


def samples_of(path):
    return soundfile.read(path, dtype="float32")[0]


def assert_same(one, other, atol=1e-4):
    assert one["length"] == other["length"]
    assert one["status"] == other["status"]
    np.testing.assert_array_equal(one["segments"], other["segments"])
    np.testing.assert_allclose(one["features"], other["features"], atol=atol)
    for key in {"mask", "norm", "segment_features"} & set(one):
        np.testing.assert_allclose(one[key], other[key], atol=atol)


def check_shapes(features, output):
    length = output["length"]
    assert set(features) >= FEATURE_KEYS
    assert set(output) >= SYLLABLE_KEYS
    assert (features["features"].shape, features["features"].dtype) == ((length, 48), np.float32)
    assert (features["mask"].shape, features["mask"].dtype) == ((length,), np.bool_)
    assert (features["norm"].shape, features["norm"].dtype) == ((length,), np.float32)
    assert (features["segments"].shape[1:], features["segments"].dtype) == ((2,), np.int64)
    syllables = len(output["segments"])
    assert (output["segments"].shape, output["segments"].dtype) == ((syllables, 2), np.float64)
    assert (output["segment_features"].shape, output["segment_features"].dtype) == ((syllables, 48), np.float32)
    assert output["features"].shape == (length, 48)
    assert isinstance(length, int)
