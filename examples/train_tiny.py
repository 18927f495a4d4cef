"""From a folder of speech to a checkpoint of one's own that segments, in a minute on a CPU.

python examples/train_tiny.py [OUTPUT]

It shows how the machinery is used. Six steps on two recordings teach nothing: real training takes days on GPUs.
"""

import json
import subprocess
import sys
from pathlib import Path

import soundfile

import sdhubert_ray

DEMO = Path(sdhubert_ray.__file__).parent / "assets" / "demo"
SYLLABLES_PER_CLIP = 4


def main(output: str = "out/train_tiny") -> None:
    """Cut the demo into clips, train on them, export, segment."""
    clips, trained = cut_clips(Path(output, "clips")), f"{output}/trained.pt"
    # It goes on from an encoder that finds syllables; the hub's HuBERT is facebook/hubert-base-ls960.
    model = ("model.speech_upstream=bundled", "model.reinit_layers=[]", "model.lr=1e-4")
    data = ("data.sample_len=0.6", "data.batch_size=4", "data.val_batch_size=2", "data.val_share=0.2")
    steps = ("max_steps=6", "val_check_interval=3", "checkpoint.every_steps=3")
    run = ("--config-name", "sdhubert_tiny", "--output", f"{output}/run", f"data.source={clips}")
    sdhubert("train", *run, *model, *data, *steps)
    sdhubert("export", f"{output}/run", trained, "--which", "last", "--overwrite")
    sdhubert("segment", str(DEMO), f"{output}/segments", "--checkpoint", trained, "--engine", "local")


def cut_clips(folder: Path) -> Path:
    """Write clips of a few syllables each, cut where true syllables of the demo end."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in json.loads((DEMO / "syllables.json").read_text()).items():
        samples, rate = soundfile.read(DEMO / entry["file_name"])
        ends = [one["end"] for one in entry["syllables"]][SYLLABLES_PER_CLIP - 1 :: SYLLABLES_PER_CLIP]
        for number, (start, end) in enumerate(zip([0.0, *ends], ends, strict=False)):
            soundfile.write(folder / f"{name}_{number}.flac", samples[int(start * rate) : int(end * rate)], rate)
    return folder


def sdhubert(*arguments: str) -> None:
    """A command, in a process of its own; where it fails, so does this script."""
    subprocess.run([sys.executable, "-m", "sdhubert_ray", *arguments], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
