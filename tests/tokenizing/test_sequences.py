"""Sequences of units, and statistics of them; what is replaced by another quantizer's, and what is not."""

import json
import shutil
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import sdhubert
from segmented import SMALL, Segmenting
from tokenized import content, read_record, read_table, tokenize

from sdhubert_ray import read_segments
from sdhubert_ray.errors import UserError
from sdhubert_ray.output.tables import FAILED_STATUSES

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("engine", ENGINES)
def test_sequences_in_another_folder_leave_the_table_as_it_is(
    engine: str, corpus: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    segment(corpus, tmp_path / "expected", [*SMALL, f"quantizer={quantizers['one']}"])
    segment(corpus, tmp_path / "out")
    before = content(tmp_path / "out")
    options = {"dedup": True, "durations": True, "target": str(tmp_path / "made"), "engine": engine}
    done = tokenize(tmp_path / "out", quantizers["one"], "txt", "npy", "parquet", **options)
    assert content(tmp_path / "out") == before
    assert done.rows_done == 15
    results = {result.id: result for result in read_segments(str(tmp_path / "expected"))}
    lines = [line.split("\t") for line in (tmp_path / "made/units.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == [name for name in results if name not in ("broken.wav", "missing.wav")]
    assert ["silent.wav", "", ""] in lines
    table = pq.read_table(tmp_path / "made/units.parquet")
    assert table["status"].to_pylist() == [results[name].status for name in table["id"].to_pylist()]
    for name, *numbers in lines:
        result = results[name]
        assert result.units is not None
        units, durations = ([int(number) for number in text.split()] for text in numbers)
        assert units == [unit for unit, _ in groupby(result.units)]
        frames = np.rint((result.segments[:, 1] - result.segments[:, 0]) * 50).astype(int)
        runs = groupby(range(len(frames)), key=lambda index: result.units[index])
        assert durations == [sum(frames[index] for index in run) for _, run in runs]
        stem = tmp_path / "made" / Path(name).stem
        assert np.load(f"{stem}_units.npy").tolist() == units
        assert np.load(f"{stem}_durations.npy").tolist() == durations
    assert sorted(path.name for path in (tmp_path / "made").iterdir() if path.suffix != ".npy") == [
        "units.json",
        "units.parquet",
        "units.txt",
    ]
    # A table that has the units already gives the same.
    tokenize(tmp_path / "expected", quantizers["one"], "txt", **{**options, "target": str(tmp_path / "again")})
    assert (tmp_path / "again/units.txt").read_bytes() == (tmp_path / "made/units.txt").read_bytes()
    statistics = [json.loads((tmp_path / name / "units.json").read_text()) for name in ("made", "again")]
    assert statistics[0]["units"] == statistics[1]["units"]
    every = [unit for result in results.values() for unit in result.units.tolist()]
    kept = [result for result in results.values() if result.status not in FAILED_STATUSES]
    seconds = sum(result.duration for result in kept)
    assert statistics[0]["units"]["tokens"] == len(every)
    assert statistics[0]["units"]["rate"] == pytest.approx(len(every) / seconds)
    assert statistics[0]["units"]["used"] == len(set(every))
    assert statistics[0]["merged"]["tokens"] == sum(len(list(groupby(result.units))) for result in kept)
    within = sum(float((result.segments[:, 1] - result.segments[:, 0]).sum()) for result in kept)
    assert statistics[0]["units"]["rate_in_segments"] == pytest.approx(len(every) / within)
    assert (statistics[0]["recordings"], statistics[0]["left_out"]) == (11, 2)


def test_the_same_quantizer_again_only_writes_sequences(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    segment(golden / "audio", tmp_path / "out")
    first = sdhubert("tokenize", tmp_path / "out", "--quantizer", quantizers["one"]).stdout
    assert "1 files of segments, 15 units; engine local" in first
    before = content(tmp_path / "out")
    copy = shutil.copytree(quantizers["one"], tmp_path / "copy")  # the same centers elsewhere
    again = sdhubert("tokenize", tmp_path / "out", "--quantizer", copy, "--format", "txt", "--dedup").stdout
    assert "has the units of this quantizer already" in again
    assert f"sequences (txt) are in {tmp_path}/out/units" in again
    after = content(tmp_path / "out")
    assert sorted(after.keys() - before.keys()) == ["units/units.txt"]
    assert {name for name in before if before[name] != after[name]} == {"units.json"}
    table = [line for line in again.splitlines() if "tokens" in line]
    told = json.loads(after["units.json"])
    assert [int(number) for number in table[0].replace("│", " ").split()[1:]] == [
        told["units"]["tokens"],
        told["merged"]["tokens"],
    ]


def test_units_of_another_quantizer_are_replaced_only_if_asked(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    segment(golden / "audio", tmp_path / "out")
    segment(golden / "audio", tmp_path / "expected", [*SMALL, f"quantizer={quantizers['other']}"])
    tokenize(tmp_path / "out", quantizers["one"], "txt")
    before = content(tmp_path / "out")
    told = sdhubert("tokenize", tmp_path / "out", "--quantizer", quantizers["other"], expect=2).stderr
    assert f"has the units of quantizer {quantizers['one']}, which is another than {quantizers['other']}" in told
    assert content(tmp_path / "out") == before
    tokenize(tmp_path / "out", quantizers["other"], overwrite=True)
    assert read_table(tmp_path / "out").equals(read_table(tmp_path / "expected"))
    assert read_record(tmp_path / "out") == read_record(tmp_path / "expected")
    assert not (tmp_path / "out/units").exists()  # sequences of the units that are gone
    # So with sequences in a folder of their own, which need no units in the table.
    made = str(tmp_path / "made")
    tokenize(tmp_path / "out", quantizers["other"], "txt", "jsonl", target=made)
    with pytest.raises(UserError, match=r"made has the units of .*/out by quantizer .*/other; choose another output"):
        tokenize(tmp_path / "out", quantizers["one"], "txt", target=made)
    tokenize(tmp_path / "out", quantizers["one"], "txt", target=made, overwrite=True)
    assert sorted(content(tmp_path / "made")) == ["units.json", "units.txt"]
    assert (tmp_path / "made/units.txt").read_bytes() == before["units/units.txt"]


@pytest.mark.seconds
def test_a_card_tells_datasets_what_to_load_and_people_what_it_is(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    segment(golden / "audio", tmp_path / "out")
    made = tmp_path / "syllables-of-mine"
    command = ["tokenize", tmp_path / "out", made, "--quantizer", quantizers["one"], "--dedup", "--durations"]
    formats = ["--format", "jsonl", "--format", "slamkit", "--format", "card"]
    sdhubert(*command, *formats, "--format", "parquet")
    expected = pq.read_table(made / "units.parquet").to_pylist()

    def load(*configuration: str) -> list[dict[str, object]]:
        return list(datasets.load_dataset(str(made), *configuration, split="train", cache_dir=str(tmp_path / "cache")))

    assert load() == load("parquet") == expected
    sdhubert(*command, *formats)
    assert datasets.get_dataset_config_names(str(made)) == ["jsonl", "slamkit"]
    assert load() == load("jsonl")
    columns = ("id", "units", "duration", "durations")
    assert [tuple(row[name] for name in columns) for row in load("jsonl")] == [
        tuple(row[name] for name in columns) for row in expected
    ]
    assert load("slamkit") == [
        {"units": row["units"], "duration": row["durations"], "file_name": row["id"]} for row in expected
    ]
    card = (made / "README.md").read_text()
    assert card.count("# syllables-of-mine\n") == 1
    told = json.loads((made / "units.json").read_text())
    assert f"| tokens | {told['merged']['tokens']}, {told['merged']['rate']:.2f} a second |" in card
    assert f"| quantizer | sha256 {told['quantizer']['sha256']} |" in card
    assert "durations and starts" in card
    assert "| encoder | tiny.pt, sha256 " in card  # and no folder of this machine
    assert str(tmp_path) not in card


def test_a_card_of_others_is_left_and_one_of_other_sequences_goes(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    segment(golden / "audio", tmp_path / "out")
    (tmp_path / "made").mkdir()
    (tmp_path / "made/README.md").write_text("mine")
    command = ["tokenize", tmp_path / "out", tmp_path / "made", "--quantizer", quantizers["one"], "--format", "jsonl"]
    told = sdhubert(*command, "--format", "card", expect=2).stderr
    assert "holds README.md, which no `sdhubert tokenize` is known to have written" in told
    sdhubert(*command)
    sdhubert(*command, "--dedup")
    assert (tmp_path / "made/README.md").read_text() == "mine"
    (tmp_path / "made/README.md").unlink()
    sdhubert(*command, "--format", "card")
    assert "as they are" in (tmp_path / "made/README.md").read_text()
    sdhubert(*command, "--dedup")
    assert sorted(content(tmp_path / "made")) == ["units.json", "units.jsonl"]


def test_a_card_alone_would_tell_of_nothing(quantizers: dict[str, str], tmp_path: Path) -> None:
    told = sdhubert("tokenize", tmp_path, "--quantizer", quantizers["one"], "--format", "card", expect=2).stderr
    assert "--format card is of sequences beside it; add --format parquet, or jsonl, or slamkit" in " ".join(
        told.split()
    )
