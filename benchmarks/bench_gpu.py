"""What a GPU is used for: encoder, pipeline and min-cut, each against real time and against what the machine could do.

    python benchmarks/bench_gpu.py [--checkpoint CHECKPOINT] [--seconds 3600] [--hours 10]
    python benchmarks/bench_gpu.py --device cpu --checkpoint bundled --seconds 20 --hours 0.01 --size 512

Without --checkpoint an encoder of HuBERT-base's shape with random weights. `encoder` is windows of the preset, from
z-scored samples to blended features and norms in the host's memory, best of three; its share is that of the rate of one
large product in the same precision. `pipeline` is a whole run from files on the local disk to the published table, with
Ray on a GPU. `min-cut` is spans of 10 s, by the kernel on one core and by `encoder.cutting` on the device.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from bench_mincut import syllable_like
from bench_stages import make_checkpoint
from reporting import heading, record
from torch.utils.flop_counter import FlopCounterMode

from mincut import min_cut
from sdhubert_ray.corpus import list_input
from sdhubert_ray.encoder import Checkpoint, fetch_checkpoint
from sdhubert_ray.encoder.blending import encode_on_device
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.cutting import min_cuts
from sdhubert_ray.encoder.protocol import Encoder
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.speech.windows import cut_windows, padded_samples

ROOT = Path(__file__).parent.parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCH_SECONDS = (5, 20, 40, 80, 160, 320)
PIECE_SECONDS = 15
UNIT_SECONDS = 600
SPAN_FRAMES, SPAN_SEGMENTS, MAX_FRAMES = 500, 100, 50


def speech(seconds: float) -> np.ndarray:
    """(n,) float32: the bundled speech, repeated."""
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted(ROOT.glob("sdhubert_ray/assets/demo/*.flac"))]
    return np.resize(np.concatenate(parts), int(seconds * 16_000))


def seconds_of(work: Callable[[], object], device: str, times: int = 3) -> float:
    """The least time of some, each waited for to its end."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def matrix_rate(size: int, dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of a (size, size) product, of ten in a row."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right

    def ten() -> None:
        for _ in range(10):
            left @ right

    return 10 * 2 * size**3 / seconds_of(ten, device)


def operations(model: Encoder, layers: list[int], window: int) -> int:
    """Floating-point operations of one window of so many samples."""
    parameter = next(model.parameters())
    length = padded_samples(window)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, device=parameter.device, dtype=parameter.dtype), None, layers)
    return counter.get_total_flops()


def measure_encoder(weights: Checkpoint, seconds: float, size: int, device: str) -> None:
    config = load_config(None, [], {}, weights.options)
    samples = speech(min(seconds, UNIT_SECONDS))
    samples = (samples - samples.mean()) / samples.std()
    pieces = np.split(samples, range(PIECE_SECONDS * 16_000, len(samples), PIECE_SECONDS * 16_000))
    cut = [cut_windows(piece, config.windows) for piece in pieces]
    units = max(1, round(seconds / UNIT_SECONDS))
    audio = units * len(samples) / 16_000
    print(f"\n{'encoder':<10} {'batch s':>8} {'x real time':>12} {'Tflop/s':>8} {'of the product':>15} {'peak GiB':>9}")
    for name, dtype in DTYPES.items():
        model = load_model(weights, config.encoder, name, device)
        rate = matrix_rate(size, dtype, device)
        layers = [config.encoder.layer, config.encoder.normcut_layer]
        # Empty rows and what is padded count as nothing: the share is of what the audio needs.
        needed = units * sum(
            operations(model, layers, 80_320) * len(window) / 80_320 for part in cut for window in part
        )
        for batch in BATCH_SECONDS:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()

            def encode(model: Encoder = model, batch: int = batch) -> None:
                for _ in range(units):
                    encode_on_device(
                        model, pieces, cut, config.windows, config.encoder, float(batch), [0] * len(pieces)
                    )

            encode()
            best = seconds_of(encode, device)
            peak = f"{torch.cuda.max_memory_allocated() / 2**30:9.1f}" if device == "cuda" else f"{'-':>9}"
            share = f"{needed / best / rate:15.0%}"
            record(f"encoder, {name}, batches of {batch} s", audio / best, "x real time")
            record(f"encoder, {name}, batches of {batch} s: share of a product's rate", needed / best / rate, "ratio")
            print(
                f"{name:<10} {batch:>8} {audio / best:>12.0f} {needed / best / 1e12:>8.2f} {share} {peak}", flush=True
            )
        del model


def measure_pipeline(weights: Checkpoint, hours: float, device: str, folder: Path) -> None:
    audio = folder / "audio"
    audio.mkdir()
    count = max(1, round(hours * 3600 / PIECE_SECONDS))
    parts = np.split(speech(20 * PIECE_SECONDS), 20)
    for number in range(count):
        soundfile.write(audio / f"{number:06d}.flac", parts[number % len(parts)], 16_000)
    total = count * PIECE_SECONDS
    print(f"\n{'pipeline':<10} {'seconds':>8} {'x real time':>12}   of {total / 3600:.2f} h in {count} files")
    for name in ("float32", "bfloat16"):
        config = load_config(None, [f"device={device}", f"dtype={name}"], {}, weights.options)
        output, engine = str(folder / name), "ray" if device == "cuda" else "local"

        def run(config=config, output=output, engine=engine) -> None:
            job = prepare_job(config, weights, str(audio), list_input(str(audio)), output, engine=engine)
            run_job(job, lambda *_: None)

        took = seconds_of(run, device, 1)
        record(f"pipeline, {name}", total / took, "x real time")
        print(f"{name:<10} {took:>8.1f} {total / took:>12.0f}", flush=True)


def measure_mincut(spans: int, device: str) -> None:
    matrices = [syllable_like(SPAN_FRAMES, seed) for seed in range(4)]
    similarity = torch.from_numpy(np.stack([matrices[span % 4] for span in range(spans)])).to(device)
    counts = [SPAN_FRAMES] * spans, [SPAN_SEGMENTS] * spans

    def on_device() -> list[np.ndarray]:
        return min_cuts(similarity, *counts, MAX_FRAMES)

    def by_kernel(max_frames: int | None) -> list[np.ndarray]:
        return [min_cut(matrix, SPAN_SEGMENTS, max_frames) for matrix in matrices]

    for found, expected in zip(on_device(), by_kernel(MAX_FRAMES), strict=False):
        if not np.array_equal(found, expected):
            raise SystemExit("min-cut: other boundaries on the device than by the kernel")
    print(f"\nmin-cut of {SPAN_FRAMES} frames into {SPAN_SEGMENTS} segments: ms a span")
    for name, took in (
        ("kernel, one core", seconds_of(lambda: by_kernel(None), "cpu") / len(matrices)),
        (f"kernel, {MAX_FRAMES} frames at most", seconds_of(lambda: by_kernel(MAX_FRAMES), "cpu") / len(matrices)),
        (f"{device}, {MAX_FRAMES} frames at most, {spans} spans", seconds_of(on_device, device) / spans),
    ):
        record(f"min-cut of a span, {name}", 1e3 * took, "ms")
        print(f"  {name:<36} {1e3 * took:8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to see that this runs")
    parser.add_argument("--checkpoint", help="default: the shape of HuBERT-base, random weights")
    parser.add_argument("--seconds", type=float, default=3600, help="audio for each figure of the encoder")
    parser.add_argument("--hours", type=float, default=10, help="audio for the pipeline")
    parser.add_argument("--size", type=int, default=8192, help="of the product that gives the matrix rate")
    parser.add_argument("--spans", type=int, default=64, help="cut at once on the device")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here that torch can use; --device cpu shows that the benchmark runs")
    name = torch.cuda.get_device_name() if given.device == "cuda" else "a CPU"
    print(f"{heading()}, {name}, CUDA {torch.version.cuda}")
    with tempfile.TemporaryDirectory() as folder:
        weights = fetch_checkpoint(given.checkpoint or str(make_checkpoint(Path(folder))))
        measure_mincut(given.spans, given.device)
        measure_encoder(weights, given.seconds, given.size, given.device)
        measure_pipeline(weights, given.hours, given.device, Path(folder))


if __name__ == "__main__":
    main()
