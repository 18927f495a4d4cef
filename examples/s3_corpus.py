"""A corpus in an object store, segmented into the same store: python examples/s3_corpus.py s3://BUCKET/PREFIX.

Credentials come from where users of S3 have them: AWS_* variables, ~/.aws, the role of the machine; AWS_ENDPOINT_URL
leads to other stores than Amazon's.
"""

import sys
from pathlib import Path

import fsspec

import sdhubert_ray
from sdhubert_ray import read_segments, segment_corpus

DEMO = Path(sdhubert_ray.__file__).parent / "assets" / "demo"


def main(place: str) -> None:
    """Print what was found, read back from the store."""
    audio, output = f"{place}/audio", f"{place}/out"
    for path in DEMO.glob("*.flac"):  # a corpus of yours is there already
        with fsspec.open(f"{audio}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    # On a cluster, with address="HEAD:6379" or by `ray job submit`, nodes read and write the store themselves.
    segment_corpus(audio, output, checkpoint="bundled")
    for recording in read_segments(output):
        print(recording.id, recording.uri, recording.status, len(recording.segments), "syllables")


if __name__ == "__main__":
    main(*sys.argv[1:])
