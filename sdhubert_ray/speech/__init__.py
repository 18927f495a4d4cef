"""The numerics of one recording, on NumPy alone: from bytes to samples, from frame features to syllables.

Rooms, in the order of their use: `audio` (decode, joints between pieces, resample, z-score), `windows` (framing and
overlap-add), `spans` (norm cut and silence filter: where speech is), `syllables` (min-cut, merging, pooling);
`presets` (the options of all of them, as `readme` and `paper` have them).
"""

from sdhubert_ray.speech.audio import FRAME_RATE, SAMPLE_RATE, Span
from sdhubert_ray.speech.decoders import Samples

__all__ = ["FRAME_RATE", "SAMPLE_RATE", "Samples", "Span"]
