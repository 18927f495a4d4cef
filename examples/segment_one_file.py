"""One recording from audio to syllables, in this process: python examples/segment_one_file.py [AUDIO] [CHECKPOINT]."""

import sys
from pathlib import Path

import sdhubert_ray
from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter

DEMO = Path(sdhubert_ray.__file__).parent / "assets" / "demo" / "synth_0.flac"


def main(audio: str = str(DEMO), checkpoint: str = "bundled") -> None:
    """Print the syllables of a recording."""
    segmenter = SDHuBERTSegmenter(checkpoint)  # layers and thresholds are those that the checkpoint brings
    mincut = MincutWrapper()
    outputs = mincut(segmenter(audio))
    print(f"{outputs['length']} frames, features {outputs['features'].shape}")
    for (start, end), feature in zip(outputs["segments"], outputs["segment_features"], strict=True):
        print(f"{start:6.2f} {end:6.2f}  |feature| {float((feature**2).sum()) ** 0.5:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
