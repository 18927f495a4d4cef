"""Syllables while somebody speaks, each as soon as it is final: python examples/streaming.py [AUDIO] [CHECKPOINT].

A file stands for the microphone: it is read 20 ms at a time, as fast as it goes. What the thresholds do on the bundled
checkpoint: docs/streaming.md.
"""

import sys
from pathlib import Path

import soundfile

import sdhubert_ray
from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter, StreamingSegmenter

DEMO = Path(sdhubert_ray.__file__).parent / "assets" / "demo" / "synth_0.flac"
GREEDY = {"norm_threshold": 0.0, "merge_threshold": 0.62, "reset_count": True}


def main(audio: str = str(DEMO), checkpoint: str = "bundled") -> None:
    """Print when each syllable was known."""
    segmenter = SDHuBERTSegmenter(checkpoint)  # one may serve many streams
    mincut = MincutWrapper(segmenter="greedy", segmenter_options=GREEDY)
    rate = soundfile.info(audio).samplerate
    with StreamingSegmenter(segmenter, mincut, rate, look_ahead=0.5) as stream:
        for chunk in soundfile.blocks(audio, blocksize=rate // 50, dtype="float32", always_2d=True):
            for syllable in stream.push(chunk[:, 0]):
                print(f"at {stream.seconds:5.2f} s: {syllable.start:5.2f} to {syllable.end:5.2f}", flush=True)
        for syllable in stream.flush():
            print(f"at the end: {syllable.start:5.2f} to {syllable.end:5.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
