"""Perturbations of waveforms: tempo, pitch with formants, rooms, channels, noises. Each is drawn from a generator."""

from fractions import Fraction
from typing import cast

import av
import numpy as np
import scipy.signal
import soxr

from recipes.small.options import PerturbOptions
from sdhubert_ray.speech import SAMPLE_RATE, Samples

Generator = np.random.Generator

_SMALLEST = 1e-9


def change_voice(samples: Samples, pitch: float, tempo: float) -> Samples:
    """Multiply pitch and formants by `pitch`, and the tempo by `tempo`: (n,) becomes about (n / tempo,)."""
    faster = soxr.resample(samples, SAMPLE_RATE * pitch, SAMPLE_RATE) if pitch != 1 else samples
    return _change_tempo(faster, tempo / pitch) if tempo != pitch else faster


def _change_tempo(samples: Samples, factor: float) -> Samples:
    """By FFmpeg's `atempo`, which overlaps and adds stretches that fit."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=SAMPLE_RATE, format="fltp", layout="mono", time_base=Fraction(1, SAMPLE_RATE)
    )
    tempo, sink = graph.add("atempo", f"{factor:.5f}"), graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE, 0
    source.push(frame)
    source.push(None)
    parts: list[Samples] = []
    while True:
        try:
            frame = cast(av.AudioFrame, sink.pull())
        except (av.BlockingIOError, av.EOFError):
            return np.concatenate(parts)
        parts.append(frame.to_ndarray()[0])


def draw_noise(length: int, draw: Generator) -> Samples:
    """Noise of a colour between white and brown, knocks or tones; every third swells and fades."""
    kind = draw.random()
    if kind < 0.2:
        noise = np.zeros(length)
        for begin in range(0, length, int(SAMPLE_RATE * draw.uniform(0.15, 1.0))):
            times = np.arange(min(SAMPLE_RATE, length - begin)) / SAMPLE_RATE
            tones = 110 * 2 ** (draw.integers(0, 36, size=draw.integers(1, 4)) / 12)
            phases = 2 * np.pi * np.outer(np.outer(tones, range(1, 5)), times) + draw.uniform(0, 6, (4 * len(tones), 1))
            strengths = np.tile(1 / np.arange(1, 5), len(tones))
            noise[begin : begin + len(times)] += (strengths @ np.sin(phases)) * np.exp(-times * draw.uniform(2, 8))
    else:
        spectrum = np.fft.rfft(draw.standard_normal(length))
        frequencies = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 40)
        noise = np.fft.irfft(spectrum * frequencies ** -draw.uniform(0, 1.5), length)
        if kind < 0.4:
            knocks = (draw.random(length) < draw.uniform(0.5, 5) / SAMPLE_RATE).astype(np.float64)
            fading = np.exp(-np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE * draw.uniform(10, 60))
            noise = noise * (scipy.signal.fftconvolve(knocks, fading)[:length] + 0.02)
    if draw.random() < 1 / 3:
        knots = draw.uniform(0, 1, size=max(2, int(length / SAMPLE_RATE * draw.uniform(0.5, 6))))
        noise = noise * np.interp(np.linspace(0, len(knots) - 1, length), np.arange(len(knots)), knots)
    return noise.astype(np.float32)


def add_noise(samples: Samples, noise: Samples, ratio: float) -> Samples:
    """Add noise so that speech is `ratio` dB over it."""
    scale = _level(samples) / max(_level(noise), _SMALLEST) * 10 ** (-ratio / 20)
    return samples + noise * np.float32(scale)


def through_channel(samples: Samples, telephone: bool, gain: float, draw: Generator) -> Samples:
    """Filter by gains drawn at nine corners of the spectrum, in dB of the standard deviation `gain`."""
    corners = np.array([0, 100, 200, 400, 800, 1600, 3200, 5600, SAMPLE_RATE / 2])
    decibels = draw.normal(0, gain, size=len(corners))
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    response = np.interp(np.log1p(frequencies), np.log1p(corners), decibels)
    if telephone:
        low, high = draw.uniform(150, 350), draw.uniform(3000, 3900)
        response -= 24 * np.maximum(0, np.log2(low / np.maximum(frequencies, 1)))
        response -= 96 * np.maximum(0, np.log2(np.maximum(frequencies, 1) / high))
    filtered = np.fft.irfft(np.fft.rfft(samples) * 10 ** (response / 20), len(samples))
    return filtered.astype(np.float32)


def in_room(samples: Samples, seconds: float, draw: Generator) -> Samples:
    """Convolve with the direct sound and a tail of noise that falls by 60 dB in `seconds`."""
    length = int(seconds * SAMPLE_RATE)
    decay = np.exp(-np.log(1000) * np.arange(length) / length)
    tail = draw.standard_normal(length) * decay
    tail[: int(draw.uniform(0.002, 0.02) * SAMPLE_RATE)] = 0
    direct = 10 ** (draw.uniform(-3, 12) / 20) * np.sqrt(np.square(tail).sum())
    tail[0] = direct
    heard: Samples = scipy.signal.fftconvolve(samples, tail / direct)[: len(samples)].astype(np.float32)
    return heard


def clip(samples: Samples, share: float) -> Samples:
    """Cut off the peaks of a share of the samples."""
    limit = np.quantile(np.abs(samples), 1 - share)
    return np.clip(samples, -limit, limit)


def perturb(samples: Samples, options: PerturbOptions, draw: Generator) -> Samples:
    """Room, channel, noise and clipping of a crop."""
    if draw.random() < options.room_share:
        samples = in_room(samples, draw.uniform(*options.room_seconds), draw)
    if draw.random() < options.channel_share:
        samples = through_channel(samples, draw.random() < options.telephone_share, options.channel_gain, draw)
    ratio = options.noise_ratio if draw.random() < options.noise_share else options.floor_ratio
    samples = add_noise(samples, draw_noise(len(samples), draw), draw.uniform(*ratio))
    if draw.random() < options.clip_share:
        samples = clip(samples, draw.uniform(0.001, 0.05))
    return samples


def _level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
