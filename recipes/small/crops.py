"""Crops to train with: recordings put together, perturbed, and what each frame of them is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from recipes.small.options import LEAST_SECONDS, CropOptions
from recipes.small.perturb import Generator, change_voice, draw_noise, perturb
from recipes.small.prepare import REFERENCES
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.audio import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE, normalise

NO_SYLLABLE = -1
_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
)  # fmt: skip
_SILENT_VARIANCE = 1e-12
"""Under the root of the z-score: a crop of digital silence is zeros."""
_MERGED = {"AX": "AH", "AXR": "ER", "IX": "IH", "UX": "UW"}
NUM_PARTS = 2 * len(_CONSONANTS) + len(_VOWELS)
"""Consonants of the onset, vowels, consonants of the coda."""


class Crop(NamedTuple):
    """A crop of T frames, or (B, ...) of them.

    Attributes:
        samples: (n,) float32, z-scored.
        syllable: (T,) int64, which syllable a frame is in, or `NO_SYLLABLE`.
        parts: (T, P) float32, 1 for the phones of its syllable's onset, nucleus and coda.
    """

    samples: Tensor
    syllable: Tensor
    parts: Tensor


@dataclass(frozen=True)
class Utterance:
    """A recording with its syllables: (n,) samples of 16 kHz, (S, 2) seconds, (S, P) phones."""

    samples: npt.NDArray[np.int16]
    syllables: npt.NDArray[np.float64]
    parts: npt.NDArray[np.float32]


def load_folder(folder: Path) -> list[Utterance]:
    """The recordings of `syllables.json` in a folder of `prepare`; none where there is no such folder."""
    if not (folder / REFERENCES).exists():
        return []
    utterances = []
    for reference in load_references(str(folder / REFERENCES)):
        samples, _ = soundfile.read(folder / reference.file_name, dtype="int16")
        parts = np.stack([parts_of(label) for label in reference.labels])
        utterances.append(Utterance(samples, reference.syllables, parts))
    return utterances


def parts_of(label: str) -> npt.NDArray[np.float32]:
    """(P,) of a label such as T-AY-M."""
    parts = np.zeros(NUM_PARTS, np.float32)
    offset = 0
    for symbol in label.split("-"):
        symbol = _MERGED.get(symbol, symbol)
        if symbol in _VOWELS:
            offset = len(_CONSONANTS) + len(_VOWELS)
            parts[len(_CONSONANTS) + _VOWELS.index(symbol)] = 1
        else:
            parts[offset + _CONSONANTS.index(symbol)] = 1
    return parts


class Crops(torch.utils.data.Dataset[Crop]):
    """Crops by number, without end: each is drawn from the seed and its number, and depends on nothing else."""

    def __init__(
        self, real: Sequence[Utterance], synthetic: Sequence[Utterance], options: CropOptions, seed: int
    ) -> None:
        self._groups = [real, synthetic]
        self._weights = [_by_length(group) for group in self._groups]
        self._options = options
        self._seed = seed

    def __getitem__(self, number: int) -> Crop:
        draw = np.random.default_rng((self._seed, number))
        options = self._options
        length = round(options.seconds * FRAME_RATE) * FRAME_SAMPLES
        if draw.random() < options.empty_share:
            samples, times, parts = draw_noise(length, draw), np.zeros((0, 2)), np.zeros((0, NUM_PARTS), np.float32)
        else:
            group = int(draw.random() < options.synthetic_share and len(self._groups[1]) > 0)
            samples, times, parts = self._speech(group, length, draw)
            samples = perturb(samples, options.perturb, draw)
        samples = normalise(samples.astype(np.float32), _SILENT_VARIANCE) * np.float32(
            draw.uniform(*options.perturb.gain)
        )
        syllable, of_frames = at_frames(times, parts, length // FRAME_SAMPLES)
        return Crop(torch.from_numpy(samples), torch.from_numpy(syllable), torch.from_numpy(of_frames))

    def _speech(
        self, group: int, length: int, draw: Generator
    ) -> tuple[Samples, npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Recordings in a row, each in a voice of its own, until they are as long as a crop."""
        samples = np.zeros(length, np.float32)
        times, parts, at = [], [], 0
        while length - at > LEAST_SECONDS * SAMPLE_RATE:
            utterance = self._groups[group][draw.choice(len(self._groups[group]), p=self._weights[group])]
            spoken, found, of_found = self._say(utterance, length - at, draw)
            samples[at : at + len(spoken)] = spoken[: length - at]
            times.append(found + at / SAMPLE_RATE)
            parts.append(of_found)
            at += len(spoken) + int(draw.uniform(0, self._options.pause) * SAMPLE_RATE)
        return samples, np.concatenate(times), np.concatenate(parts)

    def _say(
        self, utterance: Utterance, room: int, draw: Generator
    ) -> tuple[Samples, npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        options = self._options.perturb
        pitch = float(np.exp(draw.uniform(*np.log(options.pitch))))
        tempo = float(np.exp(draw.uniform(*np.log(options.tempo)))) if draw.random() < options.tempo_share else pitch
        needed = int(room * tempo) + 1
        begin = int(draw.integers(0, max(1, len(utterance.samples) - needed)))
        part = utterance.samples[begin : begin + needed].astype(np.float32) / np.float32(32768)
        level = float(np.sqrt(np.mean(np.square(part)))) or 1.0
        spoken = change_voice(part / np.float32(level), pitch, tempo)
        times = (utterance.syllables - begin / SAMPLE_RATE) / tempo
        end = len(spoken) / SAMPLE_RATE
        here = (times[:, 1] > 0) & (times[:, 0] < end)
        return spoken, times[here].clip(0, end), utterance.parts[here]  # what was cut off is not heard


class FolderCrops(torch.utils.data.Dataset[Crop]):
    """`Crops` of what `prepare` has written: each process reads it by itself, so that nobody has to be sent it."""

    def __init__(self, folder: str, options: CropOptions, seed: int) -> None:
        self._folder, self._options, self._seed = Path(folder), options, seed
        self._crops: Crops | None = None

    def __getitem__(self, number: int) -> Crop:
        if self._crops is None:
            real, synthetic = (load_folder(self._folder / name) for name in ("real", "synthetic"))
            self._crops = Crops(real, synthetic, self._options, self._seed)
        return self._crops[number]


def at_frames(
    times: npt.NDArray[np.float64], parts: npt.NDArray[np.float32], num_frames: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Which syllable the middle of each frame lies in, (T,), and its phones, (T, P)."""
    syllable = np.full(num_frames, NO_SYLLABLE)
    of_frames = np.zeros((num_frames, NUM_PARTS), np.float32)
    for number, (start, end) in enumerate(times):
        frames = slice(*np.clip(np.rint([start * FRAME_RATE, end * FRAME_RATE]), 0, num_frames).astype(int))
        syllable[frames], of_frames[frames] = number, parts[number]
    return syllable, of_frames


def _by_length(utterances: Sequence[Utterance]) -> npt.NDArray[np.float64]:
    lengths = np.array([len(utterance.samples) for utterance in utterances], np.float64)
    return lengths / lengths.sum() if len(lengths) else lengths
