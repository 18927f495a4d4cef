"""The states and segments that the package of another system makes of a recording and a checkpoint.

    PYTHON tests/peer_states.py SYSTEM CHECKPOINT SAMPLES OUT

Run by the interpreter of the packages (`make peers`), which has none of ours. SAMPLES holds
arrays (n,) float32; OUT gets arrays `states0`, `segments0`, ... What these packages download is stood in for: a HuBERT
of the checkpoint's shape for the one that they begin with.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
import transformers


def sylber(checkpoint: Path, recordings: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each recording alone, then all of them again, in one batch."""
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # reads files, which are read already
    from sylber import Segmenter

    segmenter = Segmenter(model_ckpt=str(checkpoint), speech_upstream=str(checkpoint.parent), device="cpu")
    waves = [torch.from_numpy(one)[None] for one in recordings]
    waves = [(wave - wave.mean()) / wave.std() for wave in waves]
    found = [*(segmenter(wav=wave, in_second=False) for wave in waves), *segmenter(wav=waves, in_second=False)]
    return [(one["hidden_states"], np.asarray(one["segments"]).reshape(-1, 2)) for one in found]


def vg_hubert(checkpoint: Path, recordings: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    shape = json.loads((checkpoint.parent / "config.json").read_text())

    def base(_: str, **options: object) -> transformers.HubertModel:
        return transformers.HubertModel(transformers.HubertConfig(**shape, **options))

    transformers.HubertModel.from_pretrained = base
    from vg_hubert import Segmenter

    segmenter = Segmenter(model_ckpt=str(checkpoint.parent), device="cpu")
    found = [segmenter(wav=one, in_second=False) for one in recordings]
    return [(one["hidden_states"], np.asarray(one["segments"]).reshape(-1, 2)) for one in found]


def zerosyl(checkpoint: Path, recordings: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Its states are the means of segments, which is all that it gives."""
    from zerosyl.wavlm.WavLM import WavLMConfig
    from zerosyl.zerosyl import ZeroSylContinuous

    content = torch.load(checkpoint, weights_only=True)
    model = ZeroSylContinuous(WavLMConfig(content["cfg"]))
    model.load_state_dict(content["model"])
    model.eval()
    found = []
    for one in recordings:
        starts, ends, means = model.encode(torch.from_numpy(one)[None])
        found.append((means.numpy(), torch.stack([starts, ends], dim=1).numpy()))
    return found


def main() -> None:
    system, checkpoint, samples, out = sys.argv[1], *map(Path, sys.argv[2:])
    recordings = list(np.load(samples, allow_pickle=False).values())
    systems = {"sylber": sylber, "vg-hubert": vg_hubert, "zerosyl": zerosyl}
    found = systems[system](checkpoint, recordings)
    arrays = {f"states{index}": states for index, (states, _) in enumerate(found)}
    np.savez(out, **arrays, **{f"segments{index}": segments for index, (_, segments) in enumerate(found)})


if __name__ == "__main__":
    main()
