"""Outputs that are given units, in the tests' own process."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from outputs import commits_in
from segmented import run

from sdhubert_ray import Quantizer
from sdhubert_ray.output.formats import SequenceOptions
from sdhubert_ray.runs.resegment import load_options, open_features, prepare_resegment
from sdhubert_ray.runs.session import Summary
from sdhubert_ray.tokenizing import Tokenized, prepare_tokenizing, run_tokenizing

WIDTH = 48


def make_quantizer(folder: Path, seed: int = 0, num_centers: int = 60, width: int = WIDTH) -> str:
    """Random centers near the features, reduced to a quarter of units."""
    random = np.random.default_rng(seed)
    num_units = max(1, num_centers // 4)
    rest = random.integers(0, num_units, num_centers - num_units)
    reducer = np.concatenate([np.arange(num_units), rest]).astype(np.int32)
    Quantizer(random.normal(0, 0.3, (num_centers, width)).astype(np.float32), reducer).save(str(folder))
    return str(folder)


def tokenize(segments: Path, quantizer: str, *formats: str, **options: object) -> Tokenized:
    sequences = SequenceOptions(formats, bool(options.pop("dedup", False)), bool(options.pop("durations", False)))
    job = prepare_tokenizing(str(segments), Quantizer.load(quantizer), quantizer, sequences, **options)  # type: ignore[arg-type]
    return run_tokenizing(job, lambda rows: None)


def resegment(features: Path, output: Path, overrides: Sequence[str]) -> Summary:
    opened = open_features(str(features))
    job = prepare_resegment(load_options(opened, None, overrides, {}), opened, str(output), engine="local")
    return run(job)


def read_table(output: Path) -> pa.Table:
    """All rows as they stand in the files, by key."""
    files = [pq.read_table(output / commit.name) for commit in commits_in(output)]
    return pa.concat_tables(files).sort_by("key").combine_chunks()


def row_groups(output: Path) -> dict[str, list[int]]:
    """By file (but for the run that its plan is named by), the rows of its row groups."""
    files = {path.name[-24:]: pq.ParquetFile(path).metadata for path in sorted((output / "segments").iterdir())}
    return {
        name: [found.row_group(index).num_rows for index in range(found.num_row_groups)]
        for name, found in files.items()
    }


def read_record(output: Path) -> dict[str, object]:
    """The run record less what differs from run to run."""
    record = json.loads((output / "run.json").read_text())
    return {
        key: value
        for key, value in record.items()
        if key not in ("run_id", "plans", "planning", "formats", "updated", "summary", "engine")
    }


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
