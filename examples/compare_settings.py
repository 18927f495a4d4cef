"""Several settings of the cut on the same features, scored against true syllables.

python examples/compare_settings.py [FOLDER] [CHECKPOINT]

FOLDER holds recordings and their syllables.json, as the demo does: id -> {file_name, syllables: [{start, end, label}]}.
Choose on other recordings than you report on.
"""

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np

import sdhubert_ray
from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.metrics import BoundaryCounts, count_sdhubert, score_boundaries

DEMO = Path(sdhubert_ray.__file__).parent / "assets" / "demo"
SYL_DURS = (0.1, 0.2, 0.3)
MERGE_THRESHOLDS = (0.4, 0.64, 0.9)


def main(folder: str = str(DEMO), checkpoint: str = "bundled") -> None:
    """Print a line for each setting, the best last."""
    entries = json.loads((Path(folder) / "syllables.json").read_text()).values()
    true = [np.array([(one["start"], one["end"]) for one in entry["syllables"]], float) for entry in entries]
    # Once: the encoder takes most of the time, and no setting of the cut changes what it gives.
    speech = SDHuBERTSegmenter(checkpoint)([Path(folder) / entry["file_name"] for entry in entries])
    rows = []
    for syl_dur, merge_threshold in product(SYL_DURS, MERGE_THRESHOLDS):
        found = [outputs["segments"] for outputs in MincutWrapper(syl_dur, merge_threshold)(speech)]
        counts = [count_sdhubert(*pair) for pair in zip(true, found, strict=True)]
        matched, reference = sum(one.matched for one in counts), sum(one.reference for one in counts)
        scores = score_boundaries(BoundaryCounts(matched, reference, sum(one.predicted for one in counts)))
        rows.append((scores.f1, scores.r_value or 0.0, sum(map(len, found)), syl_dur, merge_threshold))
    print(f"{sum(map(len, true))} true syllables; boundaries within 50 ms, protocol sdhubert, not shifted")
    print("syl_dur  merge_threshold  syllables     F1  R-value")
    for f1, r_value, number, syl_dur, merge_threshold in sorted(rows):
        print(f"{syl_dur:7.2f}  {merge_threshold:15.2f}  {number:9d}  {f1:5.3f}  {r_value:7.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
