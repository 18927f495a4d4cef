"""Units, in one pass or into a table that is there: the same table, whoever makes it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from commands import sdhubert
from outputs import commits_in
from recordings import write_corpus
from segmented import SMALL, Segmenting, run
from tokenized import make_quantizer, read_record, read_table, resegment, row_groups, tokenize

from sdhubert_ray import Quantizer, read_segments, storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.textgrid import parse_textgrid
from sdhubert_ray.output import read_commit
from sdhubert_ray.output.tables import FAILED_STATUSES

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kept", ["auto", "float16"])
def test_a_table_gets_the_units_of_one_pass(
    engine: str, kept: str, corpus: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    options = [*SMALL, f"output.segment_features={kept}"]
    segment(corpus, tmp_path / "expected", [*options, f"quantizer={quantizers['one']}"])
    segment(corpus, tmp_path / "out", options)
    before, groups = read_table(tmp_path / "out"), row_groups(tmp_path / "out")
    assert before["units"].null_count == before.num_rows
    done = tokenize(tmp_path / "out", quantizers["one"], engine=engine)
    expected, table = read_table(tmp_path / "expected"), read_table(tmp_path / "out")
    assert table.schema == expected.schema
    assert table.equals(expected)
    assert table.drop_columns(["units"]).equals(before.drop_columns(["units"]))
    assert row_groups(tmp_path / "out") == groups == row_groups(tmp_path / "expected")
    assert len(groups) > 2
    assert read_record(tmp_path / "out") == read_record(tmp_path / "expected")
    assert (done.rows_done, done.usage.recordings, done.usage.left_out) == (15, 11, 2)
    # And that of the Python API.
    quantizer = Quantizer.load(quantizers["one"])
    results = list(read_segments(str(tmp_path / "out")))
    assert len(results) == 13
    assert sum(len(result.segments) for result in results) > 300
    for result in results:
        assert result.units is not None
        assert result.segment_features is not None
        assert result.segment_features.dtype == ("float16" if kept == "float16" else "float32")
        np.testing.assert_array_equal(result.units, quantizer.predict(result.segment_features))
    assert len(np.unique(np.concatenate([result.units for result in results if result.units is not None]))) > 5


def test_rows_without_segments_have_an_empty_list_of_units(
    corpus: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    segment(corpus, tmp_path / "out", [*SMALL, f"quantizer={quantizers['one']}"])
    rows = read_table(tmp_path / "out").select(["status", "segments", "units"]).to_pylist()
    empty = [row for row in rows if row["status"] in {*FAILED_STATUSES, "silent", "too_short"}]
    assert [row["units"] for row in empty] == [[]] * 4 == [row["segments"] for row in empty]
    assert all(len(row["units"]) == len(row["segments"]) for row in rows)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_one_pass_on_ray(corpus: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path) -> None:
    """By actors that do all; the stages that clusters with GPUs have are in tests/runs/test_pipeline.py."""
    options = [*SMALL, f"quantizer={quantizers['one']}", "device=cpu", "resources.encode.max_workers=1"]
    segment(corpus, tmp_path / "expected", options)
    run(segment.plan(corpus, tmp_path / "out", options, engine="ray"))
    assert read_table(tmp_path / "out").equals(read_table(tmp_path / "expected"))


def test_units_of_features_that_are_not_kept(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    """One pass finds them in the precision that `auto` would keep."""
    one = f"quantizer={quantizers['one']}"
    segment(golden / "audio", tmp_path / "kept", [one])
    segment(golden / "audio", tmp_path / "out", [one, "output.segment_features=none"])
    table = read_table(tmp_path / "out")
    assert "segment_features" not in table.column_names
    assert table["units"].equals(read_table(tmp_path / "kept")["units"])
    # There is nothing to be found then, but sequences can be written.
    assert tokenize(tmp_path / "out", quantizers["one"], "txt").rows_done == 0
    assert len((tmp_path / "out/units/units.txt").read_text().splitlines()) == 5
    with pytest.raises(UserError, match="keeps no segment features to find units by; make it again with"):
        tokenize(tmp_path / "out", quantizers["other"], overwrite=True)


def test_results_are_read_file_by_file(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    """What is damaged further on hurts only those who come there."""
    options = ["resources.unit_rows=1", "output.rows_per_file=1", f"quantizer={quantizers['one']}"]
    segment(golden / "audio", tmp_path / "out", options)
    last = max((tmp_path / "out/segments").iterdir())
    last.write_bytes(last.read_bytes()[:-100])
    results = read_segments(str(tmp_path / "out"))
    for _ in range(3):
        result = next(results)
        assert result.units is not None
        assert len(result.units) == len(result.segments) > 0
    with pytest.raises(UserError, match=f"{last} is damaged"):
        list(results)


def test_a_run_goes_on_after_its_table_got_units(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    """More input, and rows that failed: with the quantizer they are done, without it they are refused."""
    corpus = write_corpus(golden, tmp_path)
    one = [*SMALL, f"quantizer={quantizers['one']}"]
    segment(corpus, tmp_path / "out")
    tokenize(tmp_path / "out", quantizers["one"])
    with corpus.open("a") as lines:
        lines.write('{"id": "new.flac", "uri": "audio/take1.flac", "speaker": "s8"}\n')
    shutil.copy(golden / "audio/synth_3.flac", tmp_path / "audio/broken.wav")
    with pytest.raises(UserError, match=r"another configuration: quantizer.sha256 \(\"\w+\" there, unset now\)"):
        segment(corpus, tmp_path / "out")
    assert segment(corpus, tmp_path / "out", one).rows_done == 1
    assert run(segment.plan(corpus, tmp_path / "out", one, retry=["unreadable"])).rows_done == 1
    segment(corpus, tmp_path / "expected", one)
    assert read_table(tmp_path / "out").equals(read_table(tmp_path / "expected"))
    # Sequences have each recording once, that of the latest attempt.
    tokenize(tmp_path / "out", quantizers["one"], "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out/units/units.jsonl").read_text().splitlines()]
    expected = {result.id: result for result in read_segments(str(tmp_path / "expected"))}
    assert sorted(row["id"] for row in rows) == sorted(set(expected) - {"missing.wav"})
    for row in rows:
        np.testing.assert_array_equal(row["units"], expected[row["id"]].units)


def test_resegment_takes_the_quantizer_over_or_another(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    new = ["syllables.syl_dur=0.2"]
    segment(golden / "audio", tmp_path / "features", ["output.frame_features=float32"])
    tokenize(tmp_path / "features", quantizers["one"])
    given: dict[str, list[str]] = {"one": [], "other": [f"quantizer={quantizers['other']}"], "none": ["quantizer=null"]}
    for name, overrides in given.items():
        taken = [] if name == "none" else [f"quantizer={quantizers[name]}"]
        segment(golden / "audio", tmp_path / f"expected_{name}", [*new, *taken])
        resegment(tmp_path / "features", tmp_path / name, [*new, *overrides])
        assert read_table(tmp_path / name).equals(read_table(tmp_path / f"expected_{name}"))
        fingerprints = [read_record(tmp_path / output)["fingerprint"] for output in (name, f"expected_{name}")]
        assert fingerprints[0] == fingerprints[1]
    assert read_table(tmp_path / "none")["units"].null_count == 5
    with pytest.raises(UserError, match=f"is for features of width 64, those of {tmp_path}/features have 48"):
        resegment(tmp_path / "features", tmp_path / "wide", [f"quantizer={quantizers['wide']}"])


def test_resegment_tells_that_the_quantizer_is_gone(golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    options = ["output.frame_features=float32", f"quantizer={make_quantizer(tmp_path / 'gone')}"]
    segment(golden / "audio/synth_0.flac", tmp_path / "features", options)
    shutil.rmtree(tmp_path / "gone")
    told = sdhubert("resegment", tmp_path / "features", tmp_path / "out", expect=2).stderr
    assert f"the quantizer that {tmp_path}/features was made with cannot be taken over" in told
    assert "give quantizer=PATH, or quantizer=null for syllables without units" in told
    assert not (tmp_path / "out").exists()
    resegment(tmp_path / "features", tmp_path / "out", ["quantizer=null"])


def test_labels_of_textgrids_and_the_plan_of_a_run(
    golden: Path, tiny_checkpoint: Path, quantizers: dict[str, str], tmp_path: Path
) -> None:
    command = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--format", "textgrid"]
    command += ["--quantizer", quantizers["one"]]
    assert "5 to be done" in sdhubert(*command, "--plan").stdout
    assert not (tmp_path / "out").exists()
    sdhubert(*command)
    for result in read_segments(str(tmp_path / "out")):
        text = (tmp_path / "out" / result.id).with_suffix(".TextGrid").read_text()
        syllables, units = parse_textgrid(text, result.id)
        assert result.units is not None
        assert [label for *_, label in units.intervals if label] == [str(unit) for unit in result.units]
        assert [label for *_, label in syllables.intervals if label] == [str(n + 1) for n in range(len(result.units))]


def test_an_output_on_an_object_store(
    golden: Path, tiny_checkpoint: Path, quantizers: dict[str, str], s3_bucket: str, tmp_path: Path
) -> None:
    shutil.copytree(quantizers["one"], tmp_path / "quantizer")
    for name in ("quantizer.safetensors", "quantizer.json"):
        storage.put(f"{s3_bucket}/quantizer/{name}", (tmp_path / "quantizer" / name).read_bytes())
    given = ["--quantizer", f"{s3_bucket}/quantizer"]
    common = ["--checkpoint", tiny_checkpoint, "--engine", "local"]
    sdhubert("segment", golden / "audio", tmp_path / "expected", *common, *given)
    sdhubert("segment", golden / "audio", f"{s3_bucket}/out", *common)
    sdhubert("tokenize", f"{s3_bucket}/out", *given, "--format", "txt", "--format", "npy")
    sdhubert("tokenize", f"{s3_bucket}/out", f"{s3_bucket}/sequences", *given, "--format", "txt")
    expected = read_table(tmp_path / "expected")
    names = [commit.name for commit in commits_in(f"{s3_bucket}/out")]
    tables = [read_commit(f"{s3_bucket}/out", name, expected.column_names) for name in names]
    assert pa.concat_tables(tables).sort_by("key").combine_chunks().equals(expected)
    texts = [storage.read_bytes(f"{s3_bucket}/{name}/units.txt") for name in ("out/units", "sequences")]
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 5
    assert storage.list_files(f"{s3_bucket}/sequences") == ["units.json", "units.txt"]
