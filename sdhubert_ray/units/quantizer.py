"""Quantizers: centers and the unit of each, as files, and from features to units."""

import hashlib
import io
import json
import logging
import pickle
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.output import read_run
from sdhubert_ray.output.tables import Array
from sdhubert_ray.threads import import_whole

if TYPE_CHECKING:
    from sdhubert_ray.units.kmeans import NearestCenters

TENSORS, CARD = "quantizer.safetensors", "quantizer.json"
FORMAT = "sdhubert_ray quantizer 1"

# What joblib's and pickle's readers raise on files that are damaged, something else, or of another scikit-learn.
_UNPICKLE_ERRORS = (
    pickle.UnpicklingError,
    ImportError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    OSError,
    struct.error,
    zlib.error,
)
# What units depend on besides centers: the key of a fingerprint, what it tells, its value where there is none.
_ORIGIN = (
    ("checkpoint_sha256", "checkpoint", None),
    ("encoder.layer", "layer", None),
    ("syllables.pooling", "kind", '"mean"'),
)
_TENSOR_TYPES = {"centers": np.float32, "reducer": np.int32}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Centers of k-means, and the unit that each stands for.

    Attributes:
        centers: (K, D) float32.
        reducer: (K,) int32, the unit of each center, each of 0..U-1 at least once; None: a unit is a center.
        card: where it comes from, as JSON has it.
    """

    centers: npt.NDArray[np.float32]
    reducer: npt.NDArray[np.int32] | None = None
    card: Mapping[str, object] = field(default_factory=dict)
    _finders: "dict[str, NearestCenters]" = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        fault = _find_fault(self.centers, self.reducer)
        if fault:
            raise ValueError(f"a quantizer's {fault}")

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Leave behind what is prepared for a device."""
        return type(self), (self.centers, self.reducer, self.card)

    @property
    def num_units(self) -> int:
        """U, how many units there are."""
        return len(self.centers) if self.reducer is None else int(self.reducer.max()) + 1

    @property
    def width(self) -> int:
        """D, of the features."""
        return int(self.centers.shape[1])

    @property
    def sha256(self) -> str:
        """Identity of centers and reducer: a hex digest."""
        digest = hashlib.sha256()
        for array in (self.centers, self.reducer):
            digest.update(b"none" if array is None else str(array.shape).encode() + np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def predict(self, features: Array, device: str = "cpu") -> npt.NDArray[np.int32]:
        """The unit of each feature: that of its nearest center, exactly, whatever else is in the batch.

        Args:
            features: (n, D) float16, float32 or float64.
            device: `cpu` or `cuda`.

        Returns:
            (n,) int32.

        Raises:
            UserError: features of another width, or NaN or infinite ones.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            width = features.shape[-1] if features.ndim == 2 else features.shape
            raise UserError(
                f"features are {width} wide, the quantizer's centers {self.width}; take the quantizer that was made "
                "from features of this encoder"
            )
        if not len(features):
            return np.zeros(0, np.int32)
        if device not in self._finders:
            import_whole("sdhubert_ray.units.kmeans")
            from sdhubert_ray.units.kmeans import NearestCenters

            self._finders[device] = NearestCenters(self.centers, device)
        try:
            labels = self._finders[device].find(features)
        except ValueError as error:
            raise UserError(f"features cannot be quantized: {error}") from error
        return labels if self.reducer is None else self.reducer[labels]

    def check_width(self, width: int, name: str, source: str) -> None:
        """Raise UserError where this quantizer, called `name`, is not for the features of `source`, `width` wide."""
        if width != self.width:
            raise UserError(
                f"quantizer {name} is for features of width {self.width}, those of {source} have {width}; choose the "
                "quantizer that was made from such features"
            )

    def check_origin(self, made_with: Mapping[str, str], name: str, source: str, foreign: bool) -> None:
        """Raise UserError where this quantizer was made from features of another checkpoint, layer or pooling.

        Units of such features mean nothing, though they are as wide. One that was imported tells nothing, and is taken.

        Args:
            made_with: the fingerprint of what the features are made with.
            name: of the quantizer, as its user calls it.
            source: what the features come from.
            foreign: it may be of others.
        """
        settings = self.card.get("settings")
        own = settings.get("segments_made_with") if isinstance(settings, Mapping) else None
        if foreign or not isinstance(own, Mapping):
            return
        for key, what, usual in _ORIGIN:
            there, here = own.get(key, usual), made_with.get(key, usual)
            if None not in (there, here) and there != here:
                raise UserError(
                    f"quantizer {name} was made from features of another {what} than those of {source} ({key} is "
                    f"{there} there, {here} here); choose one that was made from such features, or say that it is "
                    "meant (--foreign-quantizer, foreign_quantizer=true)"
                )

    def identity(self) -> dict[str, object]:
        """What the run record of a table with its units tells of it."""
        return {"sha256": self.sha256, "n_units": self.num_units}

    def full_card(self) -> dict[str, object]:
        """The card with sizes and digest, as `save` writes it."""
        own = {
            "format": FORMAT,
            "n_clusters": len(self.centers),
            "n_units": self.num_units,
            "width": self.width,
            "sha256": self.sha256,
        }
        return own | {key: value for key, value in self.card.items() if key not in own}

    def save(self, folder: str) -> None:
        """Write quantizer.safetensors and, last, quantizer.json into a folder or URI.

        Raises:
            UserError: it cannot be written.
            TransientError: the store could not be reached.
        """
        from safetensors.numpy import save

        tensors: dict[str, Array] = {"centers": np.ascontiguousarray(self.centers)}
        if self.reducer is not None:
            tensors["reducer"] = np.ascontiguousarray(self.reducer)
        storage.put(storage.join(folder, TENSORS), save(tensors))
        storage.put(storage.join(folder, CARD), json.dumps(self.full_card(), indent=1).encode() + b"\n")

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read a quantizer: a folder of `save`, or a .safetensors file with or without its card beside it.

        Raises:
            UserError: it is not there, damaged, or its card is another quantizer's.
            TransientError: the store could not be reached.
        """
        is_file = uri.endswith(".safetensors")
        tensors_uri = uri if is_file else storage.join(uri, TENSORS)
        card_uri = f"{uri.removesuffix('.safetensors')}.json" if is_file else storage.join(uri, CARD)
        arrays = _parse_tensors(tensors_uri, _read(tensors_uri, uri))
        card = {} if is_file and not storage.exists(card_uri) else _parse_card(card_uri, _read(card_uri, uri))
        fault = _find_fault(arrays["centers"], arrays.get("reducer"))
        if fault:
            raise UserError(f"quantizer {tensors_uri} is damaged: its {fault}; make it again")
        quantizer = cls(arrays["centers"], arrays.get("reducer"), card)
        if card:
            own = quantizer.full_card()
            differing = [name for name, value in own.items() if card.get(name) != value]
            if differing:
                name = differing[0]
                raise UserError(
                    f"{card_uri} is the card of another quantizer than {tensors_uri}: {name} is {card.get(name)} there "
                    f"and {own[name]} in fact; copy both files again"
                )
        return quantizer


def check_place(folder: str, begun: bool) -> bool:
    """Look at a folder before a quantizer is written into it.

    Args:
        folder: its path or URI.
        begun: whether it is known that a quantizer was about to be written into it.

    Returns:
        whether there is a quantizer, which would be replaced.

    Raises:
        UserError: it is a file or an output, or would be written over a file that is none of a quantizer's.
        TransientError: the store could not be reached.
    """
    if storage.exists(folder) and not storage.is_folder(folder):
        raise UserError(f"output {folder} is a file; name a folder")
    if read_run(folder) is not None:
        raise UserError(f"output {folder} is the output of another command; choose another folder for the quantizer")
    card = storage.join(folder, CARD)
    if storage.exists(card):
        _parse_card(card, _read(card, card))
        return True
    if not begun and storage.exists(storage.join(folder, TENSORS)):
        raise UserError(
            f"output {folder} holds {TENSORS} without {CARD}, which is not known to be a quantizer's; choose another "
            "folder"
        )
    return False


def read_original(km_path: str, reducer_path: str, trust_pickle: bool) -> Quantizer:
    """Read the original system's pair: a joblib pickle of a scikit-learn k-means, and a .npy with the reducer.

    Args:
        km_path: path or URI of the pickle.
        reducer_path: path or URI of the reducer.
        trust_pickle: reading a pickle executes what is in it; without this it is refused.

    Raises:
        UserError: it is not trusted, not there, no k-means, or the two do not fit.
        TransientError: the store could not be reached.
    """
    if not trust_pickle:
        raise UserError(
            f"{km_path} is a pickle, and reading it executes whatever code its author put in; if you trust where it "
            "comes from, give --trust-pickle"
        )
    km_data, reducer_data = _read(km_path, km_path), _read(reducer_path, reducer_path)
    try:
        reducer = np.load(io.BytesIO(reducer_data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"reducer {reducer_path} is no .npy array ({first_line(error)}); name the .npy file") from error
    if not isinstance(reducer, np.ndarray) or reducer.ndim != 1 or reducer.dtype.kind not in "iu" or not reducer.size:
        raise UserError(f"reducer {reducer_path} has to be a .npy array of integers, one per center")
    if not 0 <= int(reducer.min()) <= int(reducer.max()) < len(reducer):
        raise UserError(f"reducer {reducer_path} has units out of range; it has to hold 0 to U - 1, one per center")
    centers = _unpickle_centers(km_path, km_data)
    fault = _find_fault(centers, reducer.astype(np.int32))
    if fault:
        raise UserError(f"{km_path} and {reducer_path} do not make a quantizer: the {fault}; name a pair that does")
    source = {"km": km_path, "km_sha256": hashlib.sha256(km_data).hexdigest(), "reducer": reducer_path}
    return Quantizer(centers, reducer.astype(np.int32), {"source": source})


def sklearn_files(n_clusters: int, n_units: int) -> tuple[str, str]:
    """The names of the pair that the original system reads, k-means and reducer."""
    return f"km_{n_clusters}.pt", f"km_{n_clusters}to{n_units}.npy"


def write_sklearn(quantizer: Quantizer, folder: str) -> tuple[str, str]:
    """Write the pair that the original system reads with joblib and NumPy: km_K.pt and km_KtoU.npy.

    Returns:
        their URIs.

    Raises:
        UserError: they cannot be written.
        TransientError: the store could not be reached.
    """
    import joblib
    from sklearn.cluster import KMeans

    count = len(quantizer.centers)
    model = KMeans(count, n_init=1)
    model.cluster_centers_ = np.ascontiguousarray(quantizer.centers)
    model.n_features_in_ = quantizer.width
    model.n_iter_ = 1
    model._n_threads = 1
    pickled, saved = io.BytesIO(), io.BytesIO()
    joblib.dump(model, pickled)
    np.save(saved, np.arange(count, dtype=np.int32) if quantizer.reducer is None else quantizer.reducer)
    km, reducer = (storage.join(folder, name) for name in sklearn_files(count, quantizer.num_units))
    storage.put(km, pickled.getvalue())
    storage.put(reducer, saved.getvalue())
    return km, reducer


def _unpickle_centers(name: str, data: bytes) -> npt.NDArray[np.float32]:
    """The centers of a pickled k-means, whatever the version of scikit-learn as long as it can be read."""
    import joblib
    from sklearn.exceptions import InconsistentVersionWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = joblib.load(io.BytesIO(data))
        except _UNPICKLE_ERRORS as error:
            raise UserError(
                f"{name} cannot be read as a joblib pickle ({type(error).__name__}: {first_line(error)}); name the "
                "k-means of the original system, or convert it where it was made"
            ) from error
    for warning in caught:
        if isinstance(warning.message, InconsistentVersionWarning):
            version = warning.message.original_sklearn_version
            logger.warning("%s was pickled by scikit-learn %s; only its centers are taken", name, version)
            break
    centers = getattr(model, "cluster_centers_", None)
    if not isinstance(centers, np.ndarray) or centers.ndim != 2 or centers.dtype.kind != "f":
        raise UserError(f"{name} holds a {type(model).__name__} without cluster_centers_; name a fitted k-means")
    return np.ascontiguousarray(centers, np.float32)


def _find_fault(centers: Array, reducer: Array | None) -> str | None:
    """What is wrong with the arrays of a quantizer, or None."""
    if centers.dtype != np.float32 or centers.ndim != 2 or not centers.size:
        return f"centers are {centers.dtype} {centers.shape}, not float32 (K, D)"
    if not np.isfinite(centers).all():
        return "centers have NaN or infinite values"
    if reducer is None:
        return None
    if reducer.dtype != np.int32 or reducer.shape != (len(centers),):
        return f"reducer is {reducer.dtype} {reducer.shape}, not int32 ({len(centers)},)"
    if reducer.min() < 0 or reducer.max() >= len(centers):
        return f"reducer has units {reducer.min()} to {reducer.max()}, out of the range of {len(centers)} centers"
    counts = np.bincount(reducer)
    if not counts.all():
        return f"reducer has no center for unit {int(np.flatnonzero(counts == 0)[0])} of {len(counts)}"
    return None


def _read(uri: str, named: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except storage.TransientError:
        raise
    except FileNotFoundError as error:
        wanted = "" if uri == named else f" (there is no {uri})"
        raise UserError(
            f"{named} does not exist or is no quantizer{wanted}; name what `sdhubert cluster` wrote"
        ) from error
    except OSError as error:
        raise UserError(f"{uri} cannot be read ({first_line(error)}); name another, or mend the access") from error


def _parse_tensors(uri: str, data: bytes) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, Array] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"quantizer {uri} is damaged ({first_line(error)}); make it again") from error
    if "centers" not in arrays:
        raise UserError(f"quantizer {uri} has no tensor `centers`; name what `sdhubert cluster` wrote")
    for name, dtype in _TENSOR_TYPES.items():
        if name in arrays and arrays[name].dtype != dtype:
            raise UserError(f"quantizer {uri} has {name} of {arrays[name].dtype}, not {dtype.__name__}; make it again")
    return arrays


def _parse_card(uri: str, data: bytes) -> dict[str, Any]:
    try:
        card = json.loads(data)
    except ValueError as error:
        raise UserError(f"{uri} is damaged ({first_line(error)}); make the quantizer again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{uri} is no card of a quantizer that this version reads; make the quantizer again")
    return card
