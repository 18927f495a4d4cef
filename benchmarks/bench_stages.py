"""Work per hour of audio of each stage, for sizing a cluster; and what batches gain the encoder.

    python benchmarks/bench_stages.py [--seconds 300] [--device cpu] [--dtype float32]

An encoder of HuBERT-base's shape with random weights, one thread where it is on a CPU; the bundled speech, repeated, in
recordings of 15 s in several formats. Each stage is what a worker of a run calls; reading is from a local disk.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import soundfile
import soxr
import torch
from fsspec.implementations.memory import MemoryFileSystem
from reporting import heading, record
from transformers import HubertConfig

from sdhubert_ray.corpus import cut_pieces, list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.inference import encode_windows
from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.encoder.protocol import Encoder
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.stages import CutSyllables, DecodeAudio, EncodeSpeech, WriteSegments
from sdhubert_ray.runs.stages.rows import begun
from sdhubert_ray.speech.audio import AudioOptions
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.speech.windows import WindowOptions

ROOT = Path(__file__).parent.parent
FORMATS = {
    "flac, 16 kHz": ("flac", 16_000, 1),
    "wav, 48 kHz stereo": ("wav", 48_000, 2),
    "mp3, 44.1 kHz": ("mp3", 44_100, 1),
}
RECORDING_SECONDS = 15


def make_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    config = json.loads((ROOT / "configs" / "hubert-base-ls960.json").read_text())
    model = SDHuBERT(HubertConfig.from_dict(config))
    content = {"config": {"speech_upstream": "facebook/hubert-base-ls960"}, "state_dict": model.state_dict()}
    torch.save(content, folder / "base.pt")
    return folder / "base.pt"


def make_audio(folder: Path, seconds: int, formats: Iterable[str] = FORMATS) -> Path:
    """The bundled speech, repeated, in recordings of 15 s: a folder for each format, and which is the last of them."""
    speech = [soundfile.read(path, dtype="float32")[0] for path in sorted(ROOT.glob("sdhubert_ray/assets/demo/*.flac"))]
    whole = np.resize(np.concatenate(speech), seconds * 16_000)
    for name in formats:
        ending, rate, channels = FORMATS[name]
        (folder / name).mkdir(parents=True)
        for number in range(seconds // RECORDING_SECONDS):
            part = whole[number * RECORDING_SECONDS * 16_000 :][: RECORDING_SECONDS * 16_000]
            part = part if rate == 16_000 else soxr.resample(part, 16_000, rate)
            soundfile.write(folder / name / f"{number:03d}.{ending}", np.tile(part[:, None], (1, channels)), rate)
    return folder / name


def measure_stages(folder: Path, seconds: int, device: str, dtype: str, checkpoint: Path) -> None:
    weights = fetch_checkpoint(str(checkpoint))
    config = load_config(None, [f"dtype={dtype}"], {}, weights.options)
    encode = EncodeSpeech.of(lambda: weights, config, device)
    decode, cut = DecodeAudio(config.audio, config.windows), CutSyllables(config.segmentation, config.output)
    write = WriteSegments(str(folder / "out"), "zstd", None)
    print("seconds of work per hour of audio")
    hour = 3600 / seconds
    encoded = None
    for name in FORMATS:
        rows = cut_pieces(pa.concat_tables(list(list_input(str(folder / "audio" / name)).batches)), 600.0)
        rows = begun(rows.append_column("unit_name", pa.array(["00001-0000000"] * rows.num_rows)), time.time())
        decode(rows.slice(0, 1))
        began = time.perf_counter()
        decoded = decode(rows)
        work = (time.perf_counter() - began) * hour
        print(f"  decode ({name}) {work:26.1f}")
        record(f"decode ({name})", work, "s per hour of audio")
        if encoded is None:
            encode(decoded.slice(0, 1))
            began = time.perf_counter()
            encoded = encode(decoded)
            work = (time.perf_counter() - began) * hour
            print(f"  encode ({device}, {dtype}) {work:33.1f}")
            record(f"encode ({device}, {dtype})", work, "s per hour of audio")
    began = time.perf_counter()
    write(cut(encoded))
    work = (time.perf_counter() - began) * hour
    print(f"  cut and write {work:38.1f}")
    record("cut and write", work, "s per hour of audio")


class Latent(MemoryFileSystem):
    """A store that takes 40 ms for each answer."""

    protocol = "latent"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("latent://"))

    def cat_file(self, path, start=None, end=None, **options):
        time.sleep(0.04)
        return super().cat_file(path, start, end)


def measure_store(audio: Path) -> None:
    fsspec.register_implementation("latent", Latent, clobber=True)
    paths = (sorted(audio.iterdir()) * 100)[:100]
    for number, path in enumerate(paths):
        MemoryFileSystem().pipe_file(f"/{number}.flac", path.read_bytes())
    names, sizes = [f"{number}.flac" for number in range(100)], [path.stat().st_size for path in paths]
    uris = [f"latent://{name}" for name in names]
    rows = cut_pieces(pa.table({"id": names, "source_size": sizes, "uri": uris, "duration": [15.0] * 100}), 600.0)
    rows = rows.append_column("unit_name", pa.array(["00001-0000000"] * 100))
    decode = DecodeAudio(AudioOptions(), WindowOptions())
    alone = _time(lambda: [decode(rows.slice(row, 1)) for row in range(100)])
    ahead = _time(lambda: decode(rows))
    print("100 recordings of a store that answers after 40 ms, decoded: seconds")
    print(f"  one after the other {alone:8.2f}\n  fetched ahead       {ahead:8.2f}   {ahead / alone:.2f}")
    record("100 recordings of a store, one after the other", alone, "s")
    record("100 recordings of a store, fetched ahead", ahead, "s")


def measure_batches(model: Encoder) -> None:
    windows = [np.random.default_rng(number).standard_normal(80_320).astype(np.float32) for number in range(8)]
    options = EncoderOptions()
    print("encoder, windows of 5 s: seconds per window (best of 3), and relative to a window alone")
    alone = None
    for size in (1, 2, 4, 8):
        best = min(_time(lambda: encode_windows(model, windows, options, 5.02 * size)) for _ in range(3)) / len(windows)  # noqa: B023
        alone = alone or best
        print(f"  batches of {size}  {best:8.3f}  {best / alone:6.2f}")
        record(f"encoder, batches of {size}: a window", best, "s")


def _time(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(heading())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_checkpoint(folder)
        make_audio(folder / "audio", arguments.seconds)
        measure_store(folder / "audio" / "flac, 16 kHz")
        measure_stages(folder, arguments.seconds, arguments.device, arguments.dtype, checkpoint)
        from sdhubert_ray.encoder.checkpoint import load_model

        weights = fetch_checkpoint(str(checkpoint))
        measure_batches(load_model(weights, EncoderOptions(), arguments.dtype, arguments.device))


if __name__ == "__main__":
    main()
