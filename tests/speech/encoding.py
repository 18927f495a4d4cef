"""Audio files in every format, made in memory: by libsndfile, and by FFmpeg for those that it does not write."""

import io
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile

from sdhubert_ray.speech.audio import Span, read_audio

WHOLE = Span()
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav, floats": ("WAV", "FLOAT"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
ID3V2 = b"ID3\x03\x00\x00\x00\x06\x0d\x20" + b"\x07" * (6 * 2**14 + 0x0D * 2**7 + 0x20)  # 100 kB
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
LOSSLESS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
]
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
RATES = [8000, 11_025, 22_050, 44_100, 48_000]


def encode(signal, rate=16_000, container="WAV", subtype=None, **options):
    """By libsndfile: (n,) or (n, channels) samples in [-1, 1)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, rate, format=container, subtype=subtype, **options)
    return buffer.getvalue()


def encode_by_ffmpeg(signal, rate, container, codec, **options):
    """By FFmpeg: (n,) or (n, 2) samples in [-1, 1)."""
    signal = np.atleast_2d(np.asarray(signal).T).T
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "hexadecagonal"}[signal.shape[1]]
    with tempfile.NamedTemporaryFile() as target:
        _write(signal, layout, rate, target.name, container, codec, options)
        return Path(target.name).read_bytes()


def _write(signal, layout, rate, path, container, codec, options):
    with av.open(path, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=1024)
        whole = av.AudioFrame.from_ndarray(
            np.round(signal * 32_767).astype(np.int16).reshape(1, -1), format="s16", layout=layout
        )
        whole.sample_rate = rate
        queue = av.AudioFifo()
        for frame in resampler.resample(whole) + resampler.resample(None):
            queue.write(frame)
        size = stream.codec_context.frame_size or 1024
        while (frame := queue.read(size, partial=True)) is not None:
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def tone(frequency, seconds, rate=16_000, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def speech_like(seconds, rate=16_000, seed=0):
    """Noise whose loudness goes up and down, so that there are quiet moments."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate)
    step = rate // 10
    loudness = np.repeat(rng.uniform(0.003, 0.3, samples // step + 1), step)[:samples]
    return np.clip(rng.standard_normal(samples) * loudness, -0.99, 0.99)


def write(signal, name, rate=16_000):
    return encode(signal, rate, *FORMATS[name])


def made_by_ffmpeg(name, signal, rate=16_000):
    container, codec = name
    return encode_by_ffmpeg(signal, rate, container, codec)


def read(data, span=WHOLE, channel=None):
    return read_audio(io.BytesIO(data), span, channel)


def unmeasured_flac(signal, rate=16_000):
    """total_samples = 0, as an encoder writes that cannot seek."""
    data = bytearray(encode(signal, rate, container="FLAC"))
    assert data[:4] == b"fLaC"
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)
