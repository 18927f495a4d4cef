"""The original's pipeline as its page describes it, plainly: no line of its code, no more thought than the page has.

Read, z-score, chunks of 5 s that share 0.5 s, all twelve layers of a batch of them with attention as it comes, states
overlapped and added, the norm cut, spans cut one by one, merged with all means anew in each round.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from mincut import min_cut
from mincut.reference import min_cut_reference
from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.speech.presets import PRESETS
from sdhubert_ray.speech.spans import find_speech
from sdhubert_ray.speech.windows import frame_amplitude

RATE, FRAME = 16_000, 320
CHUNK, SHARED, PAD = 5 * RATE, RATE // 2, 160
BATCH = 8
OPTIONS = PRESETS["readme"]
MERGE_THRESHOLD = 0.4
CUTS: dict[str, Callable[..., tuple]] = {"definition": min_cut_reference, "compiled": lambda *given: (min_cut(*given),)}


def segment(model: SDHuBERT, path: Path, cut: str) -> list[tuple[int, int]]:
    """Syllables of a recording in frames; `cut` names the minimum cut."""
    samples, _ = soundfile.read(path, dtype="float32")
    samples = (samples - samples.mean()) / samples.std()
    states, norms = encode(model, samples)
    raw_norm = np.linalg.norm(norms, axis=1).astype(np.float32)
    spans = find_speech(raw_norm, frame_amplitude(samples, len(states)), OPTIONS.speech).spans
    return [
        (int(start) + first, int(start) + last)
        for start, end in spans
        for first, last in cut_span(states[start:end], CUTS[cut])
    ]


def encode(model: SDHuBERT, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) states of the layer that is cut, and of that whose norm tells speech."""
    starts = range(0, max(len(samples) - SHARED, 1), CHUNK - SHARED)
    chunks = torch.zeros(len(starts), CHUNK + 2 * PAD)
    for row, start in zip(chunks, starts, strict=True):
        part = torch.from_numpy(samples[start : start + CHUNK])
        row[PAD : PAD + len(part)] = part
    with torch.no_grad():
        parts = [all_states(model, batch) for batch in chunks.split(BATCH)]
    wanted = []
    for layer in (OPTIONS.encoder.layer, OPTIONS.encoder.normcut_layer):
        states = torch.cat([part[layer][:, 1:] for part in parts]).numpy()
        wanted.append(overlap_add(states, len(samples) // FRAME))
    return wanted[0], wanted[1]


def all_states(model: SDHuBERT, samples: torch.Tensor) -> list[torch.Tensor]:
    speech_model = model.speech_model
    frames = speech_model.feature_projection(speech_model.feature_extractor(samples).transpose(1, 2))
    states = [model.put_cls(model.embed(frames))]
    for layer in speech_model.encoder.layers:
        states.append(layer(states[-1]))
    return states


def overlap_add(chunks: np.ndarray, num_frames: int) -> np.ndarray:
    step = (CHUNK - SHARED) // FRAME
    total = np.zeros((step * len(chunks) + chunks.shape[1], chunks.shape[2]))
    weight = np.zeros((len(total), 1))
    for number, chunk in enumerate(chunks):
        total[number * step :][: len(chunk)] += chunk
        weight[number * step :][: len(chunk)] += 1
    return total[:num_frames] / weight[:num_frames]


def cut_span(features: np.ndarray, cut: Callable[..., tuple]) -> list[tuple[int, int]]:
    n = len(features)
    if n == 1:
        return [(0, 1)]
    count = min(max(math.ceil(n / 50 / OPTIONS.syllables.syl_dur), 1), n - 1)
    products = features @ features.T
    boundaries = [int(boundary) for boundary in cut(products - products.min() + 1e-7, count)[0]]
    segments = list(itertools.pairwise([*boundaries[:-1], n]))
    while len(segments) >= 2:
        means = [features[start:end].mean(axis=0) for start, end in segments]
        alike = [
            float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
            for one, other in itertools.pairwise(means)
        ]
        best = int(np.argmax(alike))
        if alike[best] < MERGE_THRESHOLD:
            break
        segments[best : best + 2] = [(segments[best][0], segments[best + 1][1])]
    return segments
