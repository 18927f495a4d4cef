"""Segments tables and references made by hand, for tests of what compares them."""

import json

import numpy as np
import pyarrow as pa
from outputs import write_output
from places import GOLDEN

from sdhubert_ray.evaluation import Reference, Utterance
from sdhubert_ray.output.tables import RESULT_FIELDS, SEGMENTS, ragged, ragged_intervals, ragged_vectors

EVALUATION = GOLDEN / "evaluation"


def make_row(file_id, segments=(), **values):
    """A row of a segments table, of ten seconds."""
    fixed = {"uri": f"/{file_id}", "member": None, "piece": 0, "offset": 0.0, "duration": 10.0, "status": "ok"}
    row = {"id": file_id, **fixed, "error": None, "units": None, "segment_features": None, **values}
    row["segments"] = np.array(segments, np.float64).reshape(-1, 2)
    row["num_frames"] = int(row["duration"] * 50)
    return {"key": f"{file_id}#{row['piece']}", **row}


def make_table(rows, carried=()):
    """Rows with a value of each carried column."""
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type)
        for field in RESULT_FIELDS
        if field.name != "segments"
    }
    columns["segments"] = ragged_intervals([row["segments"] for row in rows], SEGMENTS)
    if any(row["segment_features"] is not None for row in rows):
        width = next(row["segment_features"].shape[1] for row in rows if row["segment_features"] is not None)
        columns["segment_features"] = ragged_vectors([row["segment_features"] for row in rows], np.float32, width)
    columns["units"] = ragged([row["units"] for row in rows], pa.int32())
    for name in carried:
        columns[name] = pa.array([row.get(name) for row in rows], pa.string())
    return pa.table(columns)


def make_output(folder, *units, carried=()):
    """An output of units of rows. Returns its URI."""
    return write_output(str(folder), [(1, make_table(rows, carried)) for rows in units], {})


def golden_rows(split, with_units=True):
    """The golden predictions of `val` or `test`, with a speaker."""
    with np.load(EVALUATION / "quantizer.npz") as file:
        centers, reducer = file["centers"].astype(np.float64), file["reducer"]
    rows = []
    for path in sorted((EVALUATION / "segments" / split).glob("*.npz")):
        with np.load(path) as file:
            segments, features = file["segments"], file["segment_features"]
        distances = ((features.astype(np.float64)[:, None] - centers) ** 2).sum(axis=-1)
        units = reducer[distances.argmin(axis=1)].astype(np.int32) if with_units else None
        rows.append(
            make_row(
                f"{split}/{path.stem}.flac",
                segments,
                units=units,
                segment_features=features,
                speaker=f"s{int(path.stem) % 3}",
            )
        )
    return rows


def write_references(path, entries):
    """LibriSpeech syllable JSON of file name -> [(start, end, label)]. Returns its URI."""
    written = {
        f"r{number}": {
            "file_name": name,
            "syllables": [{"start": start, "end": end, "label": label} for start, end, label in syllables],
        }
        for number, (name, syllables) in enumerate(entries.items())
    }
    path.write_text(json.dumps(written))
    return str(path)


def utterance(syllables, labels, segments, units=None, duration=10.0, groups=("g",), name="a.wav"):
    reference = Reference(name, name, np.reshape(np.array(syllables, np.float64), (-1, 2)), tuple(labels))
    found = np.reshape(np.array(segments, np.float64), (-1, 2))
    return Utterance(reference, found, None if units is None else np.array(units, np.int32), duration, groups)


def random_utterances(seed, count):
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        edges = np.round(np.sort(random.uniform(0, 9, 2 * random.integers(0, 8))), 2).reshape(-1, 2)
        cuts = np.round(np.sort(random.uniform(0, 9, 2 * random.integers(0, 8))), 2).reshape(-1, 2)
        labels = random.choice(["A0", "A1", "B", "C"], len(edges))
        made.append(utterance(edges, labels, cuts, random.integers(0, 4, len(cuts)), groups=(f"g{number % 3}",)))
    return made
