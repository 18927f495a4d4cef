"""Quantizers: written and read back, the original's pair, damage told in one sentence, and units against an oracle."""

import json
import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.cluster import KMeans, MiniBatchKMeans

from sdhubert_ray import Quantizer
from sdhubert_ray.errors import UserError
from sdhubert_ray.units.quantizer import read_original, write_sklearn


@pytest.fixture
def quantizer() -> Quantizer:
    """40 centers of width 6 in 12 units."""
    generator = np.random.default_rng(1)
    centers = generator.standard_normal((40, 6)).astype(np.float32)
    reducer = generator.permutation(np.arange(40) % 12).astype(np.int32)
    return Quantizer(centers, reducer, {"source": {"output": "/somewhere"}, "seed": 7})


def vectors(count: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((count, 6)).astype(dtype)


def test_it_is_read_back_as_it_was_written(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.save(str(tmp_path))
    for again in (Quantizer.load(str(tmp_path)), Quantizer.load(str(tmp_path / "quantizer.safetensors"))):
        assert np.array_equal(again.centers, quantizer.centers)
        assert again.reducer is not None
        assert np.array_equal(again.reducer, quantizer.reducer)
        assert (again.num_units, again.width, again.sha256) == (12, 6, quantizer.sha256)
        assert again.card["seed"] == 7
    card = json.loads((tmp_path / "quantizer.json").read_text())
    assert (card["format"], card["n_clusters"], card["n_units"], card["width"]) == (
        "sdhubert_ray quantizer 1",
        40,
        12,
        6,
    )


def test_without_a_reducer_a_unit_is_a_center(quantizer: Quantizer, tmp_path: Path) -> None:
    plain = Quantizer(quantizer.centers)
    plain.save(str(tmp_path))
    again = Quantizer.load(str(tmp_path))
    assert again.reducer is None
    assert again.num_units == 40
    assert np.array_equal(again.predict(plain.centers), np.arange(40))
    assert again.sha256 != quantizer.sha256


def test_a_bare_tensor_file_needs_no_card(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.save(str(tmp_path))
    (tmp_path / "quantizer.json").unlink()
    assert Quantizer.load(str(tmp_path / "quantizer.safetensors")).sha256 == quantizer.sha256
    with pytest.raises(UserError, match=r"there is no .*quantizer\.json"):
        Quantizer.load(str(tmp_path))


def test_an_object_store_holds_it_too(quantizer: Quantizer, s3_bucket: str) -> None:
    quantizer.save(f"{s3_bucket}/q")
    assert Quantizer.load(f"{s3_bucket}/q").sha256 == quantizer.sha256
    km, reducer = write_sklearn(quantizer, f"{s3_bucket}/pair")
    assert read_original(km, reducer, trust_pickle=True).sha256 == quantizer.sha256


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_units_are_those_of_the_nearest_centers(quantizer: Quantizer, dtype: type) -> None:
    features = vectors(300, dtype)
    distances = np.square(features[:, None].astype(np.float64) - quantizer.centers).sum(axis=2)
    assert quantizer.reducer is not None
    units = quantizer.predict(features)
    assert units.dtype == np.int32
    assert np.array_equal(units, quantizer.reducer[distances.argmin(axis=1)])
    alone = [quantizer.predict(features[row : row + 1])[0] for row in range(300)]
    assert np.array_equal(units, alone)


def test_no_features_give_no_units_and_another_width_is_refused(quantizer: Quantizer) -> None:
    assert quantizer.predict(np.zeros((0, 6), np.float32)).shape == (0,)
    with pytest.raises(UserError, match="features are 5 wide, the quantizer's centers 6"):
        quantizer.predict(np.zeros((0, 5), np.float32))
    with pytest.raises(UserError, match="NaN"):
        quantizer.predict(np.full((1, 6), np.nan, np.float32))


def test_it_travels_to_workers_after_it_was_used(quantizer: Quantizer) -> None:
    units = quantizer.predict(vectors(9))
    assert np.array_equal(pickle.loads(pickle.dumps(quantizer)).predict(vectors(9)), units)


def test_golden_units_of_one_recording(golden: Path) -> None:
    with np.load(golden / "evaluation/quantizer.npz") as arrays:
        quantizer = Quantizer(arrays["centers"].astype(np.float32), arrays["reducer"].astype(np.int32))
    with np.load(golden / "evaluation/segments/val/000.npz") as prediction:
        features = prediction["segment_features"]
    centers = quantizer.centers.astype(np.float64)
    nearest = np.square(features[:, None].astype(np.float64) - centers).sum(axis=2).argmin(axis=1)
    assert quantizer.reducer is not None
    assert np.array_equal(quantizer.predict(features), quantizer.reducer[nearest])


def test_the_pair_of_the_original_predicts_the_same(quantizer: Quantizer, tmp_path: Path) -> None:
    km_path, reducer_path = write_sklearn(quantizer, str(tmp_path))
    assert (Path(km_path).name, Path(reducer_path).name) == ("km_40.pt", "km_40to12.npy")
    km, reducer = joblib.load(km_path), np.load(reducer_path)
    features = vectors(500)
    assert np.array_equal(reducer[km.predict(features)], quantizer.predict(features))
    again = read_original(km_path, reducer_path, trust_pickle=True)
    assert again.sha256 == quantizer.sha256


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_models_of_scikit_learn_are_imported(kind: type, tmp_path: Path) -> None:
    features = vectors(200).astype(np.float64)
    km = kind(8, n_init=1, random_state=0).fit(features)
    reducer = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    joblib.dump(km, tmp_path / "km.pt", compress=3)
    np.save(tmp_path / "reducer.npy", reducer)
    quantizer = read_original(str(tmp_path / "km.pt"), str(tmp_path / "reducer.npy"), trust_pickle=True)
    assert quantizer.num_units == 3
    assert np.array_equal(quantizer.predict(features), reducer[km.predict(features)])


def test_an_old_pickle_is_told_in_one_line(
    quantizer: Quantizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    km_path, reducer_path = write_sklearn(quantizer, str(tmp_path))
    model = joblib.load(km_path)
    state = {**model.__getstate__(), "_sklearn_version": "0.24.2"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = _Pickled(KMeans, state)
    joblib.dump(old, km_path)
    assert read_original(km_path, reducer_path, trust_pickle=True).sha256 == quantizer.sha256
    assert [record.getMessage() for record in caplog.records] == [
        f"{km_path} was pickled by scikit-learn 0.24.2; only its centers are taken"
    ]


class _Pickled:
    """Pickles as an object of another class in a given state."""

    def __init__(self, kind: type, state: dict[str, object]) -> None:
        self.kind, self.state = kind, state

    def __reduce__(self) -> tuple[object, ...]:
        return self.kind, (), self.state


class _Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_executed_only_if_it_is_trusted(quantizer: Quantizer, tmp_path: Path) -> None:
    _, reducer_path = write_sklearn(quantizer, str(tmp_path))
    (tmp_path / "km.pt").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match=r"executes whatever code .* --trust-pickle"):
        read_original(str(tmp_path / "km.pt"), reducer_path, trust_pickle=False)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(UserError, match="holds a NoneType without cluster_centers_"):
        read_original(str(tmp_path / "km.pt"), reducer_path, trust_pickle=True)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("reducer", "reason"),
    [
        (np.zeros((2, 2), np.int32), "array of integers"),
        (np.zeros(40), "array of integers"),
        (np.full(40, 41), "out of range"),
        (np.arange(39), "do not make a quantizer"),
        (np.repeat([0, 2], 20), "no center for unit 1 of 3"),
        (np.array([None] * 40), r"no \.npy array"),
    ],
)
def test_reducers_that_do_not_fit_are_refused(
    reducer: np.ndarray, reason: str, quantizer: Quantizer, tmp_path: Path
) -> None:
    km_path, _ = write_sklearn(quantizer, str(tmp_path))
    np.save(tmp_path / "bad.npy", reducer)
    with pytest.raises(UserError, match=reason):
        read_original(km_path, str(tmp_path / "bad.npy"), trust_pickle=True)


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1])[:-3]])
def test_files_that_are_no_pickle_are_refused(content: bytes, quantizer: Quantizer, tmp_path: Path) -> None:
    _, reducer_path = write_sklearn(quantizer, str(tmp_path))
    (tmp_path / "km.pt").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a joblib pickle"):
        read_original(str(tmp_path / "km.pt"), reducer_path, trust_pickle=True)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist or is no quantizer"):
        Quantizer.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"km\.pt does not exist"):
        read_original(str(tmp_path / "km.pt"), str(tmp_path / "r.npy"), trust_pickle=True)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_file_is_refused(keep: int, quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.save(str(tmp_path))
    path = tmp_path / "quantizer.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="is damaged"):
        Quantizer.load(str(tmp_path))


CENTERS = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"reducer": np.zeros(3, np.int32)}, "no tensor `centers`"),
        ({"centers": CENTERS.astype(np.float64)}, "centers of float64"),
        ({"centers": np.ones(3, np.float32)}, r"not float32 \(K, D\)"),
        ({"centers": np.full((3, 2), np.nan, np.float32)}, "NaN or infinite"),
        ({"centers": CENTERS, "reducer": np.zeros(2, np.int32)}, r"not int32 \(3,\)"),
        ({"centers": CENTERS, "reducer": np.array([0, 1, 3], np.int32)}, "out of the range"),
        ({"centers": CENTERS, "reducer": np.array([0, -1, 1], np.int32)}, "out of the range"),
        ({"centers": CENTERS, "reducer": np.array([0, 2, 2], np.int32)}, "no center for unit 1"),
    ],
)
def test_wrong_tensors_are_refused(tensors: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
    (tmp_path / "q.safetensors").write_bytes(save(tensors))
    with pytest.raises(UserError, match=reason):
        Quantizer.load(str(tmp_path / "q.safetensors"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "another"}'])
def test_what_is_no_card_is_refused(content: str, quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.save(str(tmp_path))
    (tmp_path / "quantizer.json").write_text(content)
    with pytest.raises(UserError, match=r"quantizer\.json is (damaged|no card)"):
        Quantizer.load(str(tmp_path))


def test_the_card_of_another_quantizer_is_refused(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.save(str(tmp_path))
    tensors = load((tmp_path / "quantizer.safetensors").read_bytes())
    changed = {**tensors, "centers": tensors["centers"] + 1}
    (tmp_path / "quantizer.safetensors").write_bytes(save(changed))
    with pytest.raises(UserError, match=r"card of another quantizer .*: sha256 is "):
        Quantizer.load(str(tmp_path))
