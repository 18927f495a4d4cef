"""Rates that are asked for, and what comes of them on recordings beside the sample that they were tuned on.

    python benchmarks/bench_rate.py SPEECH_FOLDER OUT [--rates 3 4 4.5 5 6]

SPEECH_FOLDER has manifest.jsonl with a column `split`. Each segmenter is tuned on a sample of `train`, as `sdhubert
resegment --rate` does it, and cuts all of `validation`; features are those of the bundled checkpoint. They are kept in
OUT, and not made again. Rates are syllables per second of audio; `-` is one that is out of reach.
"""

import argparse
import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from reporting import heading, record

from sdhubert_ray.errors import UserError
from sdhubert_ray.output.commits import read_commits
from sdhubert_ray.output.contents import require_contents
from sdhubert_ray.runs.rate import find_spoken
from sdhubert_ray.runs.resegment import SavedFeatures, load_options, open_features, prepare_resegment
from sdhubert_ray.speech.rate import Spoken
from sdhubert_ray.speech.syllables import SEGMENTERS, SyllableOptions, bind_segmenter

SDHUBERT = Path(sys.executable).parent / "sdhubert"
COLUMNS = ["frame_features", "raw_norm", "amplitude", "duration"]


def encode(speech: Path, split: str, out: Path) -> str:
    """An output with the features of a split."""
    output = str(out / split)
    words = ["--where", f"split={split}", "--checkpoint", "bundled", "--frame-features", "float32"]
    command = [str(SDHUBERT), "segment", str(speech / "manifest.jsonl"), output, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def read_spoken(features: SavedFeatures) -> list[Spoken]:
    """All recordings of an output, none longer than is taken of those of a sample."""
    contents = require_contents(features.output)
    tables = [table for _, table in read_commits(features.output, contents.commits, COLUMNS)]
    return find_spoken(pa.concat_tables(tables), load_options(features, None, [], {}).speech)


def rate_of(recordings: list[Spoken], options: SyllableOptions) -> float:
    cut = bind_segmenter(options)
    count = sum(len(cut(one.features, one.norms, one.spans)) for one in recordings)
    return count / math.fsum(one.seconds for one in recordings)


def found_at(rate: float, segmenter: str, train: SavedFeatures, recordings: list[Spoken], out: Path) -> float | None:
    """Tune a segmenter to a rate, and tell the one that it then has; none where that is out of reach."""
    options = load_options(train, None, [f"syllables.segmenter={segmenter}"], {"rate": rate})
    try:
        job = prepare_resegment(options, train, str(out / "not_written"), engine="local")
    except UserError as error:
        print(error, file=sys.stderr)
        return None
    job.discard()
    return rate_of(recordings, job.config.syllables)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[3, 4, 4.5, 5, 6], metavar="HZ")
    given = parser.parse_args()
    train, others = (open_features(encode(given.speech, split, given.out)) for split in ("train", "validation"))
    recordings = read_spoken(others)
    print(heading())
    print("\n| segmenter |" + "".join(f" {rate:g} |" for rate in given.rates), flush=True)
    print("|---|" + "---|" * len(given.rates))
    for segmenter in SEGMENTERS:
        found = [found_at(rate, segmenter, train, recordings, given.out) for rate in given.rates]
        print(
            f"| {segmenter} |" + "".join(f" {'-' if rate is None else f'{rate:.2f}'} |" for rate in found), flush=True
        )
        for asked, rate in zip(given.rates, found, strict=True):
            record(f"{segmenter}, asked {asked:g}", rate, "syllables/s")


if __name__ == "__main__":
    main()
