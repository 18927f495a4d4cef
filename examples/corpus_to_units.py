"""A corpus to units for a language model: segment, cluster, tokenize, and read back what came out.

python examples/corpus_to_units.py [INPUT] [OUTPUT] [CLUSTERS] [UNITS]

Run again, each step does what is left. On a real corpus take thousands of clusters; the default of the command is
16384, made 4096 units.
"""

import json
import subprocess
import sys
from pathlib import Path

import sdhubert_ray
from sdhubert_ray import read_segments, segment_corpus

DEMO = Path(sdhubert_ray.__file__).parent / "assets" / "demo"


def main(source: str = str(DEMO), output: str = "out/units", clusters: str = "16", units: str = "8") -> None:
    """Print a line of units for each recording."""
    segments, quantizer, sequences = (f"{output}/{name}" for name in ("segments", "quantizer", "sequences"))
    segment_corpus(source, segments, checkpoint="bundled")
    sdhubert("cluster", segments, quantizer, "--n-clusters", clusters, "--n-units", units)
    # Lines of JSON for a language model, runs of one unit merged; without a folder for them the table gets the units.
    sdhubert("tokenize", segments, sequences, "--quantizer", quantizer, "--format", "jsonl", "--dedup", "--durations")
    lines = {line["id"]: line for line in map(json.loads, Path(sequences, "units.jsonl").read_text().splitlines())}
    for recording in read_segments(segments):
        print(recording.id, len(recording.segments), "syllables, units", *lines[recording.id]["units"])


def sdhubert(*arguments: str) -> None:
    """A command, in a process of its own; where it fails, so does this script."""
    subprocess.run([sys.executable, "-m", "sdhubert_ray", *arguments], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
