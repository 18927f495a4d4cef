"""One system over a folder of recordings, in this process: seconds to load it, seconds of work, segments found.

    PYTHON benchmarks/peers.py SYSTEM MADE AUDIO_FOLDER

Started by bench_peers.py, with the interpreter of the system. MADE is a folder of made weights: `base.pt` for ours, and
a cache of the hub, as the packages themselves would have filled it, so that each is loaded as its own page says. One
line of JSON is printed last. The first recording is segmented before the clock starts: some load on their first call.
"""

import importlib.metadata
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

Segment = Callable[[list[Path]], int]
"""Segments recordings, and tells how many segments there are."""


def ours(dtype: str, made: Path) -> Segment:
    from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter

    segmenter, mincut = SDHuBERTSegmenter(str(made / "base.pt"), dtype=dtype), MincutWrapper()
    return lambda paths: sum(len(mincut(one)["segments"]) for one in segmenter([*paths]))


def original(cut: str, made: Path) -> Segment:
    import torch
    from original import segment

    from sdhubert_ray.encoder import fetch_checkpoint
    from sdhubert_ray.encoder.model import build_encoder

    checkpoint = fetch_checkpoint(str(made / "base.pt"))
    model = build_encoder(checkpoint.upstream).eval()
    model.load_state_dict(torch.load(made / "base.pt", weights_only=True)["state_dict"])
    model.speech_model.set_attn_implementation("eager")  # torch 1.13, which the page was tested on, has no other
    return lambda paths: sum(len(segment(model, path, cut)) for path in paths)


def sylber(made: Path) -> Segment:
    stand_in_for_torchaudio()
    from sylber import Segmenter

    segmenter = Segmenter(model_ckpt="sylber", device="cpu")
    return lambda paths: sum(len(segmenter(str(path))["segments"]) for path in paths)


def vg_hubert(made: Path) -> Segment:
    from vg_hubert import Segmenter

    segmenter = Segmenter(device="cpu")
    return lambda paths: sum(len(segmenter(str(path))["segments"]) for path in paths)


def findsylls(preset: str, made: Path) -> Segment:
    from findsylls.audio.utils import load_audio
    from findsylls.segmentation import presets

    segmenter = getattr(presets, preset)()
    return lambda paths: sum(len(segmenter.segment(*load_audio(str(path)))) for path in paths)


def stand_in_for_torchaudio() -> None:
    """Sylber reads its files with torchaudio, whose library does not load beside a torch without CUDA.

    Where it is not installed, soundfile reads for it, and `notes` says so.
    """
    if importlib.util.find_spec("torchaudio") is not None:
        return
    import soundfile
    import torch
    import transformers  # noqa: F401 - it looks for torchaudio, and is not to find this one

    def load(path: str) -> tuple[torch.Tensor, int]:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate

    module = types.ModuleType("torchaudio")
    module.load = load  # type: ignore[attr-defined]
    sys.modules["torchaudio"] = module
    notes.append("soundfile in the place of torchaudio")


notes: list[str] = []

LOADERS: dict[str, tuple[Callable[[Path], Segment], str]] = {  # how each is loaded, and the package that it is of
    "ours, float32": (lambda made: ours("float32", made), "sdhubert_ray"),
    "ours, bfloat16": (lambda made: ours("bfloat16", made), "sdhubert_ray"),
    "original, re-stated, min-cut compiled": (lambda made: original("compiled", made), "sdhubert_ray"),
    "original, re-stated, min-cut in Python": (lambda made: original("definition", made), "sdhubert_ray"),
    "sylber": (sylber, "sylber"),
    "vg-hubert": (vg_hubert, "vg-hubert"),
    "findsylls, Sylber": (lambda made: findsylls("SylberSegmenter", made), "findsylls"),
    "findsylls, VG-HuBERT": (lambda made: findsylls("VGHubertMinCutSegmenter", made), "findsylls"),
}


def main() -> None:
    system, made, audio = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    load, package = LOADERS[system]
    paths = sorted(audio.iterdir())
    began = time.perf_counter()
    segment = load(made)
    loaded = time.perf_counter()
    segment(paths[:1])
    warm = time.perf_counter()
    segments = segment(paths)
    done = time.perf_counter()
    found = {"load": loaded - began, "work": done - warm, "segments": segments, "notes": notes}
    versions = {name: importlib.metadata.version(name) for name in (package, "torch", "transformers")}
    print(json.dumps({**found, "versions": versions}))


if __name__ == "__main__":
    main()
