"""Unit sequences as files, against plain Python."""

import json
import tempfile
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.errors import UserError
from sdhubert_ray.output.formats import (
    SequenceOptions,
    UnitSequence,
    merge_repeats,
    name_files,
    read_sequence,
    write_sequences,
)
from sdhubert_ray.output.formats.sequences import SEQUENCE_FORMATS
from sdhubert_ray.output.tables import SEGMENTS, ragged, ragged_intervals

# A unit and the frames that it lasts, and a gap before it.
TOKENS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.integers(0, 9)), max_size=12)
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=20)


def sequence_of(name, tokens):
    units = np.array([unit for unit, _, _ in tokens], np.int32)
    durations = np.array([frames for _, frames, _ in tokens], np.int32)
    gaps = np.array([gap for _, _, gap in tokens], np.int32)
    starts = np.cumsum(gaps + durations, dtype=np.int32) - durations
    return UnitSequence(name, "ok", 0.02 * float((gaps + durations).sum()), units, starts.astype(np.int32), durations)


def plain_merge(tokens):
    """(unit, start, frames) of runs of equal units."""
    at, merged = 0, []
    for unit, run in groupby(tokens, key=lambda token: token[0]):
        tokens_of_run = list(run)
        merged.append((unit, at + tokens_of_run[0][2], sum(frames for _, frames, _ in tokens_of_run)))
        at += sum(frames + gap for _, frames, gap in tokens_of_run)
    return merged


def unescape(text):
    plain = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    letters = iter(text)
    return "".join(plain[next(letters)] if letter == "\\" else letter for letter in letters)


@given(TOKENS)
def test_merging_runs(tokens):
    merged = merge_repeats(sequence_of("a", tokens))
    assert list(zip(merged.units, merged.starts, merged.durations, strict=True)) == plain_merge(tokens)
    assert {array.dtype for array in (merged.units, merged.starts, merged.durations)} == {np.dtype(np.int32)}


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(IDS, TOKENS, max_size=5), st.booleans(), st.booleans())
def test_every_format_gives_back_what_went_in(recordings, dedup, durations):
    sequences = [sequence_of(name, tokens) for name, tokens in recordings.items()]
    names = {name: f"npy/{number}" for number, name in enumerate(recordings)}
    expected = {
        name: plain_merge(tokens)
        if dedup
        else [
            (unit, int(start), frames)
            for (unit, frames, _), start in zip(tokens, sequence_of(name, tokens).starts, strict=True)
        ]
        for name, tokens in recordings.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        write_sequences(iter(sequences), folder, SequenceOptions(SEQUENCE_FORMATS, dedup, durations), names)
        out = Path(folder)
        lines = [line.split("\t") for line in (out / "units.txt").read_bytes().decode().split("\n")[:-1]]
        assert [unescape(line[0]) for line in lines] == list(recordings)
        for line, tokens in zip(lines, expected.values(), strict=True):
            numbers = [[unit for unit, _, _ in tokens], [frames for _, _, frames in tokens]]
            assert [[int(number) for number in part.split()] for part in line[1:]] == numbers[: 1 + durations]
        rows = [json.loads(line) for line in (out / "units.jsonl").read_bytes().decode().split("\n")[:-1]]
        for row, sequence, tokens in zip(rows, sequences, expected.values(), strict=True):
            told = {"id": sequence.id, "units": [unit for unit, _, _ in tokens], "duration": sequence.duration}
            if durations:
                told |= {
                    "durations": [frames for _, _, frames in tokens],
                    "starts": [start for _, start, _ in tokens],
                }
            assert row == told
        told = [json.loads(line) for line in (out / "features.jsonl").read_bytes().decode().split("\n")[:-1]]
        assert told == [
            {
                "units": [unit for unit, _, _ in tokens],
                "duration": [frames for _, _, frames in tokens],
                "file_name": name,
            }
            for name, tokens in expected.items()
        ]
        table = pq.read_table(out / "units.parquet")
        assert table.column_names == ["id", "status", "duration", "units", "durations"]
        assert table.schema.field("units").type == pa.list_(pa.int32())
        assert table["id"].to_pylist() == list(recordings)
        assert table["units"].to_pylist() == [[unit for unit, _, _ in tokens] for tokens in expected.values()]
        assert table["durations"].to_pylist() == [[frames for _, _, frames in tokens] for tokens in expected.values()]
        for name, tokens in expected.items():
            units = np.load(out / f"{names[name]}_units.npy")
            assert units.dtype == np.int32
            assert units.tolist() == [unit for unit, _, _ in tokens]
            lasting = out / f"{names[name]}_durations.npy"
            assert lasting.exists() == durations
            if durations:
                assert np.load(lasting).tolist() == [frames for _, _, frames in tokens]
        assert len([path for path in out.rglob("*") if path.is_file()]) == 4 + len(recordings) * (1 + durations)


def test_many_recordings_are_written_in_many_row_groups(tmp_path):
    sequences = (sequence_of(f"{number:05d}", [(number % 7, 3, 1)]) for number in range(10_000))
    write_sequences(sequences, str(tmp_path), SequenceOptions(("parquet",)), {})
    file = pq.ParquetFile(tmp_path / "units.parquet")
    assert file.num_row_groups == 3
    assert file.read()["units"].to_pylist() == [[number % 7] for number in range(10_000)]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 40), st.integers(0, 9)), max_size=5), min_size=1),
    st.sampled_from([0.0, 0.0137, 36_000.0]),
)
def test_pieces_are_joined_and_times_become_frames(pieces, offset):
    at, segments, units, expected = 0, [], [], []
    for piece in pieces:
        rows = []
        for unit, frames, gap in piece:
            rows.append((offset + (at + gap) / 50, offset + (at + gap + frames) / 50))
            expected.append((unit, round(offset * 50 + at + gap), frames))
            at += gap + frames
        segments.append(np.array(rows).reshape(-1, 2))
        units.append(np.array([unit for unit, _, _ in piece], np.int32))
    count = len(pieces)
    table = pa.table(
        {
            "id": ["a"] * count,
            "piece": list(range(count)),
            "duration": [1.5] * count,
            "status": ["silent"] * (count - 1) + ["ok"],
            "segments": ragged_intervals(segments, SEGMENTS),
            "units": ragged(units, pa.int32()),
        }
    )
    sequence = read_sequence(table)
    assert list(zip(sequence.units, sequence.starts, sequence.durations, strict=True)) == expected
    assert (sequence.id, sequence.status, sequence.duration) == ("a", "ok", 1.5 * count)


def test_a_table_without_units_is_refused():
    table = pa.table(
        {
            "id": ["a.wav"],
            "piece": [0],
            "duration": [1.0],
            "status": ["ok"],
            "segments": ragged_intervals([np.array([[0.0, 0.5]])], SEGMENTS),
            "units": pa.nulls(1, pa.list_(pa.int32())),
        }
    )
    with pytest.raises(UserError, match=r"'a\.wav' has 1 segments and 0 units; run `sdhubert tokenize`"):
        read_sequence(table)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("jsnl", "unknown --format 'jsnl'; did you mean jsonl?"),
        ("TextGrid", "unknown --format 'TextGrid'; it has to be one of txt, jsonl, npy, parquet, slamkit, card"),
    ],
)
def test_a_typo_in_a_format_names_the_near_one(name, sentence):
    with pytest.raises(UserError) as caught:
        SequenceOptions((name,))
    assert str(caught.value) == sentence


def test_names_of_npy_files_are_those_of_the_other_files(tmp_path):
    names = name_files(["a/b.wav", "a/b.flac", "c.wav"])
    sequences = [sequence_of(name, [(1, 2, 0)]) for name in names]
    write_sequences(sequences, str(tmp_path), SequenceOptions(("npy",)), names)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.npy")) == [
        "a/b.flac_units.npy",
        "a/b.wav_units.npy",
        "c_units.npy",
    ]
