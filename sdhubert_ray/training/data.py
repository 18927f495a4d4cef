"""Crops of recordings in an order that depends on nothing but the seed: not on workers, machines or restarts.

Crops are numbered without end: epoch e is a permutation of the n recordings, drawn from (seed, e), and crop number p is
of the recording at place p mod n in the permutation of epoch p div n. A step takes a stretch of these numbers, always
of the same length, which is divided among the workers and their micro-batches; so the crops of a step do not depend on
how many workers there are, and a run goes on at any number without reading what came before.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdhubert_ray import storage
from sdhubert_ray.corpus import shards
from sdhubert_ray.errors import AudioError, UserError, first_line
from sdhubert_ray.speech.audio import (
    FRAME_RATE,
    MIN_SAMPLES,
    SAMPLE_RATE,
    Span,
    is_silent,
    normalise,
    probe_duration,
    read_audio,
)
from sdhubert_ray.speech.decoders import Samples
from sdhubert_ray.training.noise import Heard, Hearing, segments_in_crop
from sdhubert_ray.training.perturbations import Perturbation, Perturbing
from sdhubert_ray.training.recordings import Recording, Recordings

_VALIDATION = 1 << 32
"""In the place of an epoch: that of validation, which training never reaches."""
_MOST_ATTEMPTS = 32
_MOST_TOLD = 5
"""So many recordings that cannot be used are named, by each process that reads."""
_MARGIN_SECONDS = 0.01
_REMOTE_AT_ONCE = 16
_ORDER, _CROP, _SEED, _OTHER = 1, 2, 3, 4  # what is drawn from a key
_NO_SEGMENTS = np.zeros((0, 2), np.int64)

logger = logging.getLogger(__name__)


class Batch(TypedDict):
    """A batch of B crops.

    Attributes:
        samples: (B, N) float32, 16 kHz, each z-scored over its own valid samples, zero beyond them.
        num_samples: (B,) int64, how many are valid.
        seeds: (B,) int64, one per crop, from (seed, epoch, recording).
        index: (B,) int64, the number of the recording.
        skipped: how many recordings could not be used and were replaced.
        audio_samples: valid samples of all crops; a number, for which no GPU has to be asked.
        student: how the student sees the crops, for the objective `sentence`.
        teacher: how the teacher sees them.
        heard: (B, N) float32, the samples as the student hears them, for the objective `segments`; see `noise.Heard`.
        merge_threshold: (B,) float64, likewise.
        segment: (B, T) int64, likewise.
    """

    samples: Tensor
    num_samples: Tensor
    seeds: Tensor
    index: Tensor
    skipped: int
    audio_samples: int
    student: NotRequired[Perturbation]
    teacher: NotRequired[Perturbation]
    heard: NotRequired[Tensor]
    merge_threshold: NotRequired[Tensor]
    segment: NotRequired[Tensor]


class Draw(NamedTuple):
    """A crop to be read: it is drawn from these three numbers and the seed.

    Attributes:
        epoch: how often all recordings have been used before.
        recording: its number.
        crop: which of several crops of it in an epoch.
    """

    epoch: int
    recording: int
    crop: int = 0


@dataclass(frozen=True)
class Crop:
    """A crop as it was read.

    Attributes:
        samples: (n,) float32, z-scored.
        seed: for what is drawn for it later.
        index: the number of the recording that it is of.
        failures: how many other recordings before it could not be used.
        start: where it begins, seconds of the file.
    """

    samples: Samples
    seed: int
    index: int
    failures: int
    start: float


@dataclass(frozen=True)
class Share:
    """A worker's share of every step.

    Attributes:
        rank: of the worker, from 0.
        world: how many workers there are.
        batch_size: crops per worker and micro-batch at most.
    """

    rank: int
    world: int
    batch_size: int

    def count_micro_batches(self, global_batch: int) -> int:
        """Micro-batches per worker that a step of `global_batch` crops takes: as many for all, and none is empty."""
        needed = -(-global_batch // (self.world * self.batch_size))
        return min(needed, global_batch // self.world)  # which is fewer for a batch_size of 1 only


class TrainingOrder:
    """A worker's micro-batches of draws, step by step: any number of passes over the recordings.

    The crops of a step are cut into as many stretches as all workers have micro-batches, of equal lengths but for one
    crop; each worker has one of each round.
    """

    def __init__(self, num_recordings: int, seed: int, share: Share, global_batch: int, start: int, steps: int) -> None:
        """Describe `steps` steps of `global_batch` crops, of all workers, from crop number `start` on.

        Raises:
            UserError: there are more workers than crops in a step.
        """
        if global_batch < share.world:
            raise UserError(f"a step has {global_batch} crops, too few for {share.world} workers; take fewer of them")
        self._count = num_recordings
        self._seed = seed
        self._share = share
        self._global_batch = global_batch
        self._start = start
        self._steps = steps
        self._epoch = -1
        self._permutation: npt.NDArray[np.integer] = np.zeros(0, np.int64)

    def __iter__(self) -> Iterator[list[Draw]]:
        share, crops = self._share, self._global_batch
        rounds = share.count_micro_batches(crops)
        stretches = rounds * share.world
        for step in range(self._steps):
            first = self._start + step * crops
            for stretch in range(share.rank, stretches, share.world):
                begin, end = (first + crops * edge // stretches for edge in (stretch, stretch + 1))
                yield [self._draw(number) for number in range(begin, end)]

    def _draw(self, number: int) -> Draw:
        epoch, place = divmod(number, self._count)
        if epoch != self._epoch:
            self._permutation = permutation_of(self._count, self._seed, epoch)
            self._epoch = epoch
        return Draw(epoch, int(self._permutation[place]))


def permutation_of(count: int, seed: int, epoch: int) -> npt.NDArray[np.integer]:
    """(count,) the order of the recordings in an epoch."""
    numbers: npt.NDArray[np.integer] = np.arange(count, dtype=np.int32 if count < 1 << 31 else np.int64)
    np.random.default_rng((seed, _ORDER, epoch)).shuffle(numbers)
    return numbers


def validation_order(num_recordings: int, share: Share, size: int, limit: float) -> list[list[Draw]]:
    """A worker's batches of validation: two crops side by side of each recording, always the same ones.

    All workers together have the same batches whatever their number, each of `size` recordings (the last may have
    fewer), so that scores compare. A worker that is left without one has a single crop, which nothing is compared with.

    Args:
        num_recordings: how many there are.
        share: of the worker; its `batch_size` does not count.
        size: recordings per batch.
        limit: batches at most, of all workers; a share of them if it is a fraction up to 1.0.
    """
    begins = range(0, num_recordings, size)
    if isinstance(limit, float) and limit <= 1:
        limit = max(1, round(limit * len(begins)))
    own = list(begins)[: int(limit)][share.rank :: share.world]
    recordings = [range(begin, min(begin + size, num_recordings)) for begin in own]
    batches = [[Draw(_VALIDATION, number, crop) for number in numbers for crop in (0, 1)] for numbers in recordings]
    return batches if batches or not num_recordings else [[Draw(_VALIDATION, 0)]]


class CropReader(Dataset[Crop]):
    """Reads crops by range, and takes others for those that cannot be read, by the same draws wherever it runs."""

    def __init__(
        self, recordings: Recordings, crop_samples: int, seed: int, views: Perturbing | Hearing | None = None
    ) -> None:
        """Read crops of `crop_samples`; `views` draws how they are seen or heard, none leaves that out of batches."""
        self._recordings = recordings
        self._crop_samples = crop_samples
        self._seed = seed
        self._views = views
        self._told = 0

    def __getitem__(self, draw: Draw) -> Crop:
        """Read a crop; a recording that cannot be used gives way to another.

        Where one after the other cannot be used, it becomes a short silence: the run ends by their number.

        Raises:
            TransientError: the store could not be reached.
        """
        failures = 0
        for attempt in range(_MOST_ATTEMPTS):
            key = (self._seed, _CROP, draw.epoch, draw.recording, draw.crop, attempt)
            random = np.random.default_rng(key)
            index = draw.recording if attempt == 0 else int(random.integers(len(self._recordings)))
            recording = self._recordings[index]
            try:
                found = read_crop(recording, self._crop_samples, random.random())
            except storage.TransientError:
                raise
            except (OSError, AudioError, UserError) as error:
                failures += 1
                self._tell(recording, error)
                continue
            return Crop(found.samples, _seed_of(key), index, failures, found.start)
        return Crop(np.zeros(MIN_SAMPLES, np.float32), _seed_of(key), index, failures, 0.0)

    def _tell(self, recording: Recording, error: Exception) -> None:
        self._told += 1
        if self._told <= _MOST_TOLD:
            more = "; others like it are only counted" if self._told == _MOST_TOLD else ""
            logger.warning("%s cannot be trained with: %s%s", recording.id, first_line(error), more)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Crop]:
        """Read the crops of a batch; several at once where they come from a store."""
        if not draws or storage.is_local(self._recordings[draws[0].recording].uri):
            return [self[draw] for draw in draws]
        with ThreadPoolExecutor(_REMOTE_AT_ONCE) as pool:
            return list(pool.map(self.__getitem__, draws))

    def read_batch(self, draws: Sequence[Draw]) -> Batch:
        """Read and collate the crops of a batch."""
        return self.collate(self.__getitems__(draws))

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Lay crops side by side, padded with zeros to the length of a full crop."""
        samples = np.zeros((len(crops), self._crop_samples), np.float32)
        for row, crop in enumerate(crops):
            samples[row, : len(crop.samples)] = crop.samples
        batch = Batch(
            samples=torch.from_numpy(samples),
            num_samples=torch.tensor([len(crop.samples) for crop in crops]),
            seeds=torch.tensor([crop.seed for crop in crops]),
            index=torch.tensor([crop.index for crop in crops]),
            skipped=sum(crop.failures for crop in crops),
            audio_samples=sum(len(crop.samples) for crop in crops),
        )
        if isinstance(self._views, Perturbing):
            drawn = self._views.draw(batch["seeds"], batch["num_samples"], self._crop_samples)
            batch["student"], batch["teacher"] = drawn["student"], drawn["teacher"]
        elif self._views is not None:
            batch = {**batch, **self._hear(crops, self._views)}
        return batch

    def _hear(self, crops: Sequence[Crop], views: Hearing) -> Heard:
        seeds, segments = [crop.seed for crop in crops], []
        for crop in crops:
            given = self._recordings[crop.index].segments
            num_frames = views.count_frames(len(crop.samples))
            segments.append(_NO_SEGMENTS if given is None else segments_in_crop(given, crop.start, num_frames))
        others = [self._read_other(seed) if views.wants_other(seed) else None for seed in seeds]
        return views.draw([crop.samples for crop in crops], seeds, others, segments, self._crop_samples)

    def _read_other(self, seed: int) -> Samples | None:
        """A crop of any recording, for the crop with this seed; none where it cannot be used."""
        random = np.random.default_rng((seed, _OTHER))
        recording = self._recordings[int(random.integers(len(self._recordings)))]
        try:
            return read_crop(recording, self._crop_samples, random.random()).samples
        except storage.TransientError:
            raise
        except (OSError, AudioError, UserError):  # told where it is a crop itself
            return None


def _seed_of(key: tuple[int, ...]) -> int:
    """A seed for what is drawn for a crop later, from the key that it was drawn with."""
    seed, _, *rest = key
    return int(np.random.SeedSequence((seed, _SEED, *rest)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class CropSamples(NamedTuple):
    """What was read of a recording.

    Attributes:
        samples: (n,) float32, mean 0 and variance 1 over the crop.
        start: where it begins, seconds of the file.
    """

    samples: Samples
    start: float


def read_crop(recording: Recording, crop_samples: int, place: float) -> CropSamples:
    """Read a crop of a recording by range and z-score it; a shorter recording is taken whole.

    Of a recording with segments it begins between two of its frames, so that frames of both are the same.

    Formats without exact seeking (mp3, ogg, opus) are read through to it.

    Args:
        recording: where it is.
        crop_samples: length of the crop, samples at 16 kHz.
        place: where the crop lies among the places it can have, in [0, 1).

    Returns:
        at most `crop_samples`, at least `MIN_SAMPLES`, and where they begin.

    Raises:
        AudioError: it is unreadable, too short, constant, or ends before the crop.
        OSError, UserError: it cannot be fetched.
    """
    place_of = (recording.uri, recording.member, recording.byte_offset, recording.byte_size, recording.source_size)
    with shards.audio_to_decode(*place_of) as file:
        told = [seconds for seconds in (recording.end, recording.duration) if seconds is not None]
        end = min(told) if told else probe_duration(file)
        begin, length = recording.start or 0.0, crop_samples / SAMPLE_RATE
        start = begin + place * max(0.0, end - begin - length)
        if recording.segments is not None:
            between = (math.floor(start * FRAME_RATE - 0.5) + 0.5) / FRAME_RATE
            start = between if between >= begin else start
        # A little more than a crop: resampling rounds.
        stop = recording.end if end - begin <= length else start + length + _MARGIN_SECONDS
        decoded = read_audio(file, Span(start, stop), recording.channel)
    samples = decoded.samples[:crop_samples]
    if decoded.shortfall:
        raise AudioError(decoded.shortfall)
    if len(samples) < MIN_SAMPLES:
        raise AudioError(f"is too short: {len(samples) / SAMPLE_RATE:.3f} s")
    if decoded.cancelled:
        raise AudioError("is silent as the average of its channels, which cancel each other")
    if is_silent(samples):
        raise AudioError(f"is silent: the crop at {start:.3f} s is constant")
    return CropSamples(normalise(samples, 0.0), start)


def torch_loader(
    reader: CropReader, order: Iterable[list[Draw]], num_workers: int, prefetch: int, pin_memory: bool
) -> "DataLoader[Crop]":
    """Batches in the order of `order`, read by processes beside this one (0: in this one).

    With `pin_memory` a thread puts them where a GPU fetches them from without anyone having to wait.
    """
    return DataLoader(
        reader,
        batch_sampler=order,
        collate_fn=reader.collate,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        pin_memory=pin_memory,
        # The caller's threads and stores do not survive a fork.
        multiprocessing_context="forkserver" if num_workers else None,
        # Its own: the order of the global one belongs to the model.
        generator=torch.Generator(),
    )
