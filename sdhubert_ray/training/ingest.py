"""Reading crops with Ray Data: all over the cluster, for audio that is far away or has to be decoded faster."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.data
import torch

from sdhubert_ray.training.data import Batch, CropReader, Draw
from sdhubert_ray.training.recordings import open_recordings

_WINDOW_BATCHES = 4096
"""Batches that are planned at once."""
_KEYS = ("samples", "num_samples", "seeds", "index")

Arrays = dict[str, npt.NDArray[Any]]


class ReadBatches:
    """Read and collate batches, each a row.

    In:  draws (3 B,) int64: the numbers of one `Draw` after the other.
    Out: samples (B, N) float32, num_samples, seeds, index (B,) int64, skipped int.
    """

    def __init__(self, folder: str, crop_samples: int, seed: int) -> None:
        self._cache = tempfile.TemporaryDirectory(prefix="sdhubert-")
        recordings = open_recordings(folder, "train", Path(self._cache.name))
        self._reader = CropReader(recordings, crop_samples, seed)

    def __call__(self, batch: Arrays) -> Arrays:
        read = [
            self._reader.read_batch([Draw(*row) for row in draws.reshape(-1, 3).tolist()]) for draws in batch["draws"]
        ]
        return {
            **{key: np.stack([one[key].numpy() for one in read]) for key in _KEYS},  # type: ignore[literal-required]
            "skipped": np.array([one["skipped"] for one in read]),
        }


class RayLoader:
    """Batches in the order of `order`, read by actors of one CPU each, at most `cpus` at once."""

    def __init__(self, folder: str, crop_samples: int, seed: int, order: Iterable[list[Draw]], cpus: int) -> None:
        """Describe the reading of the recordings in `folder`, as `put_recordings` has put them there."""
        self._of_reader = (folder, crop_samples, seed)
        self._order = order
        self._cpus = cpus

    def __iter__(self) -> Iterator[Batch]:
        order = iter(self._order)
        while draws := [batch for batch, _ in zip(order, range(_WINDOW_BATCHES), strict=False)]:
            yield from self._read(draws)

    def _read(self, draws: list[list[Draw]]) -> Iterator[Batch]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        # A row per batch, a block per row: an actor reads one block, and blocks come back in order.
        rows = [{"draws": np.array(batch, np.int64).ravel()} for batch in draws]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        read = dataset.map_batches(
            ReadBatches,
            fn_constructor_args=self._of_reader,
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._cpus),
        )
        for row in read.iter_rows():
            samples, num_samples, seeds, index = (torch.from_numpy(np.array(row[key])) for key in _KEYS)
            yield Batch(samples=samples, num_samples=num_samples, seeds=seeds, index=index, skipped=int(row["skipped"]))
