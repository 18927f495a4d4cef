"""One recording from audio to syllables in Python, without Ray: python examples/python_api.py [AUDIO] [CHECKPOINT]."""

import sys
from pathlib import Path

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter

DEMO = Path(__file__).parent.parent / "sdhubert_ray" / "assets" / "demo" / "synth_0.flac"


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
