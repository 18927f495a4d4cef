"""Units, in one pass or into a table that is there: the same table, whoever makes it. Real runs, real kills."""

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import complaint, sdhubert
from forks import FORKS, run_script
from outputs import commits_in
from recordings import write_corpus
from segmented import SMALL, Segmenting, run

from sdhubert_ray import Quantizer, read_segments
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Lease, read_commit, read_run, write_run
from sdhubert_ray.output.formats import SequenceOptions
from sdhubert_ray.output.parquet import read_schema
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.runs.resegment import load_options, open_features, prepare_resegment
from sdhubert_ray.runs.session import Job, Session, Summary
from sdhubert_ray.runs.stages.tokens import QUANTIZER_MARK
from sdhubert_ray.tokenizing import Tokenized, prepare_tokenizing, run_tokenizing

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.ray)]
WIDTH = 48


def make_quantizer(folder: Path, seed: int = 0, num_centers: int = 60, width: int = WIDTH) -> str:
    """Random centers near the features, reduced to a quarter of units."""
    random = np.random.default_rng(seed)
    num_units = max(1, num_centers // 4)
    rest = random.integers(0, num_units, num_centers - num_units)
    reducer = np.concatenate([np.arange(num_units), rest]).astype(np.int32)
    Quantizer(random.normal(0, 0.3, (num_centers, width)).astype(np.float32), reducer).save(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def quantizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`one` and `other`, and one for features of another width."""
    folder = tmp_path_factory.mktemp("quantizers")
    return {
        "one": make_quantizer(folder / "one"),
        "other": make_quantizer(folder / "other", seed=1),
        "wide": make_quantizer(folder / "wide", width=64),
    }


@pytest.fixture(scope="module")
def corpus(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of all kinds, which no test changes."""
    return write_corpus(golden, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def segment(golden: Path, corpus: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenting:
    """Run a `segment`."""
    return Segmenting(tmp_path_factory.mktemp("made"), tiny_checkpoint, [golden / "audio", corpus])


@pytest.fixture
def plan(segment: Segmenting) -> Callable[..., Job]:
    """Plan a `segment`."""
    return segment.plan


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


# --- the same table -------------------------------------------------------------------------------------------------


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
        labels = [line.split('"')[1] for line in text.splitlines() if line.strip().startswith("text =")]
        assert result.units is not None
        assert [int(label) for label in labels if label] == result.units.tolist()


def test_an_output_on_an_object_store(
    golden: Path, tiny_checkpoint: Path, quantizers: dict[str, str], s3_bucket: str, tmp_path: Path
) -> None:
    shutil.copytree(quantizers["one"], tmp_path / "quantizer")
    for name in ("quantizer.safetensors", "quantizer.json"):
        from sdhubert_ray import storage

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


# --- sequences and statistics ---------------------------------------------------------------------------------------


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


# --- killed, and not let in -----------------------------------------------------------------------------------------


def marked(output: Path) -> int:
    """Files whose units are there."""
    schemas = [read_schema(str(output / commit.name)) for commit in commits_in(output)]
    return sum(QUANTIZER_MARK in (schema.metadata or {}) for schema in schemas)


def interrupted(output: Path, quantizer: str, files: int, target: str | None = None) -> None:
    """Ctrl-C when some files are done."""
    job = prepare_tokenizing(str(output), Quantizer.load(quantizer), quantizer, target=target)
    done = 0

    def interrupt(rows: int) -> None:
        nonlocal done
        done += 1
        if done == files:
            raise KeyboardInterrupt

    run_tokenizing(job, interrupt)


KILLED = """
import os, signal, sys
from pathlib import Path
from sdhubert_ray import cli

replace, allowed = Path.replace, 3

def replace_or_die(partial, target):
    global allowed
    if Path(target).parent.name == "segments":
        if not allowed:
            os.kill(os.getpid(), signal.SIGKILL)
        allowed -= 1
    return replace(partial, target)

Path.replace = replace_or_die
cli.main()
"""
"""A command that dies where it would put the fourth file with units in its place."""


@FORKS
def test_killed_half_way_and_gone_on(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(8):
        shutil.copy(golden / "audio/synth_4.flac", tmp_path / "audio" / f"{number:03d}.flac")
    options = ["resources.unit_rows=1", "output.rows_per_file=1"]
    output, one = tmp_path / "out", quantizers["one"]
    segment(tmp_path / "audio", output, options)
    command = ["tokenize", output, "--quantizer", one, "--engine", "local", "--format", "txt"]
    killed = run_script(KILLED, *command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert marked(output) == 3
    assert "interrupted" in sdhubert("status", output).stdout
    # No run may add rows to it, and no other quantizer may take over unasked.
    with pytest.raises(UserError, match=f"run `sdhubert tokenize {output} --quantizer {one}` first"):
        segment(tmp_path / "audio", output, options)
    with pytest.raises(UserError, match=f"half way to the units of quantizer {one}; give that one, or --overwrite"):
        tokenize(output, quantizers["other"])
    # Sequences of another folder do not trust the column.
    made = str(tmp_path / "made")
    assert tokenize(output, quantizers["other"], "txt", target=made).rows_done == 8
    assert "3 of 8 files had their units already and were skipped" in sdhubert(*command).stdout
    segment(tmp_path / "audio", tmp_path / "expected", [*options, f"quantizer={one}"])
    assert read_table(output).equals(read_table(tmp_path / "expected"))
    assert read_record(output) == read_record(tmp_path / "expected")
    assert not list(output.rglob("lease.json"))
    lines = (output / "units/units.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"{number:03d}.flac" for number in range(8)]


def test_results_half_way_to_their_units_are_not_read(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    segment(golden / "audio", output, ["resources.unit_rows=1", "output.rows_per_file=1"])
    with pytest.raises(KeyboardInterrupt):
        interrupted(output, quantizers["one"], files=2)
    assert marked(output) == 2
    with pytest.raises(UserError, match=f"run `sdhubert tokenize {output} --quantizer {quantizers['one']}` first"):
        next(read_segments(str(output)))
    assert tokenize(output, quantizers["one"]).files_done_before == 2
    assert len(list(read_segments(str(output)))) == 5


def test_sequences_go_on_where_they_were_interrupted(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    """Files that have changed since, or have units of another quantizer, are done again."""
    output, made = tmp_path / "out", tmp_path / "made"
    segment(golden / "audio", output, ["resources.unit_rows=1", "output.rows_per_file=1"])
    before = content(output)
    expected = {}
    for name in ("one", "other"):
        tokenize(output, quantizers[name], "txt", target=str(tmp_path / name))
        expected[name] = (tmp_path / name / "units.txt").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted(output, quantizers["one"], files=3, target=str(made))
    assert len(list((made / "parts" / "segments").iterdir())) == 3
    done = tokenize(output, quantizers["other"], "txt", target=str(made), overwrite=True)
    assert (done.files_done_before, done.rows_done) == (0, 5)
    assert (made / "units.txt").read_bytes() == expected["other"]
    shutil.rmtree(made)
    with pytest.raises(KeyboardInterrupt):
        interrupted(output, quantizers["one"], files=3, target=str(made))
    changed = min((output / "segments").iterdir())
    pq.write_table(pq.read_table(changed), changed, compression="none")
    done = tokenize(output, quantizers["one"], "txt", target=str(made))
    assert (done.files_done_before, done.rows_done) == (2, 3)
    assert (made / "units.txt").read_bytes() == expected["one"]
    assert sorted(content(made)) == ["units.json", "units.txt"]
    assert {name for name, data in content(output).items() if data != before[name]} == {f"segments/{changed.name}"}


def test_a_run_that_has_not_finished_is_refused(
    golden: Path, plan: Callable[..., Job], quantizers: dict[str, str], tmp_path: Path
) -> None:
    job = plan(golden / "audio", tmp_path / "out")
    with job.folder, Session(job, Summary(job.output, "local"), lambda rows, seconds: None):
        pass
    with pytest.raises(UserError, match=r"has not finished \(5 rows are left\); finish it first"):
        tokenize(tmp_path / "out", quantizers["one"])


def test_one_at_a_time(
    golden: Path,
    plan: Callable[..., Job],
    segment: Segmenting,
    quantizers: dict[str, str],
    tmp_path: Path,
) -> None:
    segment(golden / "audio", tmp_path / "out")
    before = content(tmp_path / "out")
    lease = Lease(str(tmp_path / "out"), "another")
    with pytest.raises(BusyError, match="is being written by another run"):
        tokenize(tmp_path / "out", quantizers["one"])
    lease.release()
    assert content(tmp_path / "out") == before
    # What was planned before the table got its units must not go on without them.
    shutil.copytree(golden / "audio", tmp_path / "audio")
    planned = plan(golden / "audio", tmp_path / "out")
    loaded = Quantizer.load(quantizers["one"])
    waiting = prepare_tokenizing(str(tmp_path / "out"), loaded, quantizers["one"])
    tokenize(tmp_path / "out", quantizers["one"])
    with pytest.raises(BusyError, match="was changed by another run"):
        run(planned)
    with pytest.raises(BusyError, match="was changed by another run just now"):
        run_tokenizing(waiting, lambda rows: None)
    assert not (tmp_path / "out/lease.json").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_fails_in_a_worker_is_told_in_its_own_words(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    segment(golden / "audio", tmp_path / "out", ["resources.unit_rows=1", "output.rows_per_file=1"])
    damaged = sorted((tmp_path / "out/segments").iterdir())[2]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-100])
    from sdhubert_ray.runs.session import IncompleteRunError

    with pytest.raises(IncompleteRunError, match=f"{damaged} is damaged"):
        tokenize(tmp_path / "out", quantizers["one"], engine="ray")
    damaged.write_bytes(whole)
    # In this process: a worker whose task was cancelled while it imported torch cannot import it any more, and the
    # tests' cluster would use that worker again.
    done = tokenize(tmp_path / "out", quantizers["one"])
    assert done.rows_done + done.files_done_before == 5


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(golden: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of one recording, a quantizer that is damaged, and folders that are no place for sequences."""
    folder = tmp_path_factory.mktemp("made")
    sdhubert("segment", golden / "audio/synth_0.flac", folder / "out", "--checkpoint", tiny_checkpoint)
    make_quantizer(folder / "damaged")
    tensors = folder / "damaged/quantizer.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-50])
    shutil.copytree(folder / "out", folder / "run")
    (folder / "file").write_text("")
    (folder / "foreign").mkdir()
    (folder / "foreign/units.json").write_text("[]")
    return folder


@pytest.mark.parametrize(
    ("quantizer", "options", "sentence"),
    [
        ("{wide}", {}, "quantizer {wide} is for features of width 64, those of {made}/out have 48"),
        ("{made}/nothing", {}, "{made}/nothing does not exist or is no quantizer"),
        ("{made}/damaged", {}, "is damaged"),
        ("{one}", {"device": "gpu"}, "device is 'gpu'; it has to be one of auto, cpu"),
        ("{one}", {"device": "cuda"}, "device is cuda, but torch sees no GPU here"),
        ("{one}", {"engine": "spark"}, "engine is 'spark'; it has to be one of"),
        ("{one}", {"engine": "local", "address": "auto"}, "the local engine uses no cluster"),
        ("{one}", {"target": "{made}/out"}, "is where the segments are; leave it out"),
        ("{one}", {"target": "{made}/run/../out/"}, "is where the segments are; leave it out"),
        ("{one}", {"target": "{made}/run"}, "output {made}/run holds a run of `sdhubert segment`"),
        ("{one}", {"target": "{made}/file"}, "output {made}/file is a file; name a folder"),
        ("{one}", {"target": "{made}/foreign"}, "units.json is no statistics of `sdhubert tokenize`"),
    ],
)
def test_refused(
    quantizer: str, options: dict[str, str], sentence: str, made: Path, quantizers: dict[str, str]
) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    names = {"made": made, **quantizers}
    before = content(made)
    with pytest.raises(UserError) as caught:
        tokenize(
            made / "out", quantizer.format(**names), **{key: text.format(**names) for key, text in options.items()}
        )
    assert sentence.format(**names) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(made) == before


def test_no_run_is_refused(made: Path, quantizers: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{made} holds no run; name the output folder of `sdhubert segment`"):
        tokenize(made, quantizers["one"])


def test_a_run_without_rows_is_refused(made: Path, quantizers: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    for name in ("manifest", "segments"):
        shutil.rmtree(tmp_path / "out" / name)
    record = read_run(str(tmp_path / "out"))
    write_run(str(tmp_path / "out"), {**record, "plans": []})
    with pytest.raises(UserError, match=f"{tmp_path}/out has no rows to give units to; run `sdhubert segment`"):
        tokenize(tmp_path / "out", quantizers["one"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "Missing option '--quantizer'"), (["--quantizer", "q", "--format", "parqet"], "did you mean parquet?")],
)
def test_the_command_line_refuses(arguments: list[str], sentence: str, made: Path) -> None:
    before = content(made)
    assert sentence in sdhubert("tokenize", made / "out", *arguments, expect=2).stderr
    assert content(made) == before


@pytest.mark.parametrize(
    ("quantizer", "sentence"),
    [
        ("{wide}", "is for features of width 64, those of checkpoint"),
        ("{made}/nothing", "does not exist or is no quantizer"),
        ("{made}/damaged", "is damaged"),
    ],
)
def test_segment_refuses_a_wrong_quantizer(
    quantizer: str,
    sentence: str,
    made: Path,
    golden: Path,
    plan: Callable[..., Job],
    quantizers: dict[str, str],
    tmp_path: Path,
) -> None:
    given = quantizer.format(made=made, **quantizers)
    with pytest.raises(UserError, match=sentence):
        plan(golden / "audio/synth_0.flac", tmp_path / "out", [f"quantizer={given}"])
    assert not (tmp_path / "out").exists()


def test_features_that_are_no_numbers_are_told_by_their_file(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    """And that the same command helps only when they have been mended."""
    segment(golden / "audio", tmp_path / "out")
    (path, *_) = sorted((tmp_path / "out/segments").iterdir())
    table = pq.read_table(path)
    place = table.column_names.index("segment_features")
    kind = table.schema.field(place).type
    vectors = table.column(place).to_pylist()
    vectors[0][0][0] = float("nan")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(vectors, kind)), path)
    said = complaint(sdhubert("tokenize", tmp_path / "out", "--quantizer", quantizers["one"], expect=1))
    assert f"{path}: features cannot be quantized: features have NaN or infinite values" in said
    assert "segment its recordings again; that mended, the same command resumes" in said
