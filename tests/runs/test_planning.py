"""What a second run finds: corpora that grew, sources that changed, rows to be tried again."""

import io
import itertools
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import RUN, commits_in

from sdhubert_ray import read_segments, storage
from sdhubert_ray.corpus import Selection, list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Commit, Plan, list_plans, pending_units, read_plan, read_unit, unit_name
from sdhubert_ray.output.commits import find_groups, remove_covered
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.runs.planning import DigestSet


@pytest.fixture
def corpus(golden, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(6):
        shutil.copy(golden / "audio" / "synth_3.flac", folder / f"{number}.flac")
    return folder


@pytest.fixture
def prepare(tiny_checkpoint, tmp_path):
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    jobs = []

    def call(source, *overrides, retry=(), **selection):
        config = load_config(None, ["resources.unit_rows=2", *overrides], {}, checkpoint.options)
        listing = None if retry else list_input(str(source), Selection(**selection))
        output = str(tmp_path / "out")
        jobs.append(prepare_job(config, checkpoint, str(source), listing, output, engine="local", retry=retry))
        return jobs[-1]

    yield call
    for job in jobs:
        job.folder.cleanup()


@pytest.fixture
def run(prepare):
    def call(source, *overrides, retry=(), **selection):
        return run_job(prepare(source, *overrides, retry=retry, **selection), lambda rows, seconds: None)

    return call


def raw_rows(output):
    """What pandas, polars or duckdb see: all rows of all files."""
    tables = [pq.read_table(path) for path in sorted((output / "segments").glob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.select(["key", "status"]).to_pylist()}, sum(
        table.num_rows for table in tables
    )


def test_of_a_corpus_that_grew_only_the_new_is_done(corpus, run, prepare, tmp_path, golden):
    assert run(corpus).rows_done == 6
    before = (tmp_path / "out" / "segments").stat().st_mtime_ns
    job = prepare(corpus)
    assert (job.rows_left, job.num_rows, job.found.recordings) == (0, 6, 6)
    assert (tmp_path / "out" / "segments").stat().st_mtime_ns == before
    for name in ("new", "0a"):
        shutil.copy(golden / "audio" / "synth_0.flac", corpus / f"{name}.flac")
    summary = run(corpus)
    assert (summary.rows_done, summary.rows_done_before, summary.totals.num_files) == (2, 6, 8)
    assert [plan.kind for plan in list_plans(str(tmp_path / "out"))] == ["input", "input"]
    assert len({result.id for result in read_segments(str(tmp_path / "out"))}) == 8


def test_a_sample_grows_into_the_whole(corpus, run):
    assert run(corpus, limit=2).rows_done == 2
    assert run(corpus, limit=4).rows_done == 2  # a larger sample holds the smaller one
    summary = run(corpus)
    assert (summary.rows_done, summary.totals.num_files) == (2, 6)


def test_a_source_that_changed_is_reported_and_left_alone(corpus, run, prepare, golden):
    run(corpus)
    os.utime(corpus / "3.flac", ns=(1, 1))
    shutil.copy(golden / "audio" / "synth_0.flac", corpus / "1.flac")
    found = prepare(corpus).found
    assert (found.changed, sorted(found.changed_ids)) == (2, ["1.flac", "3.flac"])
    assert run(corpus).rows_done == 0


def test_a_recording_that_moved_is_refused(corpus, run, tmp_path):
    run(corpus)
    shutil.move(corpus, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"has recording '0\.flac' from .*corpus/0\.flac, .*elsewhere"):
        run(tmp_path / "elsewhere")


def test_nothing_that_is_asked_for_is_refused(corpus, prepare, tmp_path):
    (tmp_path / "m.csv").write_text("id,uri,split\na,corpus/0.flac,test\n")
    with pytest.raises(UserError, match="has no row of split=dev"):
        prepare(tmp_path / "m.csv", where=("split=dev",))
    assert not (tmp_path / "out").exists()


# -- trying again


def test_rows_that_failed_are_tried_again_and_stand_once(corpus, run, tmp_path, golden):
    whole = (corpus / "2.flac").read_bytes()
    (corpus / "2.flac").write_bytes(b"no audio")
    (tmp_path / "m.csv").write_text("id,uri\n" + "".join(f"{n},corpus/{n}.flac\n" for n in range(7)))
    summary = run(tmp_path / "m.csv")
    assert summary.totals.statuses == {"missing": 1, "ok": 5, "unreadable": 1}
    (corpus / "2.flac").write_bytes(whole)
    shutil.copy(golden / "audio" / "synth_0.flac", corpus / "6.flac")
    assert run(tmp_path / "m.csv").rows_done == 0  # not by itself
    assert run(tmp_path / "m.csv", retry=("missing",)).totals.statuses == {"ok": 6, "unreadable": 1}
    summary = run(tmp_path / "m.csv", retry=("missing", "unreadable"))
    assert (summary.rows_done, summary.totals.statuses) == (1, {"ok": 7})
    rows, count = raw_rows(tmp_path / "out")
    assert count == len(rows) == 7
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {result.id for result in read_segments(str(tmp_path / "out"))} == {str(number) for number in range(7)}
    assert run(tmp_path / "m.csv", retry=("missing", "unreadable", "failed")).rows_done == 0


def test_a_recording_that_was_missing_may_be_a_long_one(run, tmp_path, golden):
    (tmp_path / "m.csv").write_text("id,uri\nlong,long.wav\n")
    run(tmp_path / "m.csv", "audio.piece_seconds=20")
    signal = soundfile.read(golden / "audio" / "synth_1.flac", dtype="float32")[0]
    soundfile.write(tmp_path / "long.wav", pa.array(signal).to_numpy().repeat(1).tolist() * 7, 16_000)
    summary = run(tmp_path / "m.csv", "audio.piece_seconds=20", retry=("missing",))
    assert summary.rows_done > 1
    assert summary.totals.statuses == {"ok": 1}
    rows, count = raw_rows(tmp_path / "out")
    assert count == len(rows) == summary.rows_done
    (result,) = read_segments(str(tmp_path / "out"))
    assert result.duration == pytest.approx(soundfile.info(tmp_path / "long.wav").duration)


def test_a_mended_shard_is_read_anew(golden, run, tmp_path):
    def write(first):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name, data in (("a.flac", first), ("b.flac", (golden / "audio/synth_1.flac").read_bytes())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    write(b"no audio" * 250)
    assert run(tmp_path / "x.tar").totals.statuses == {"ok": 1, "unreadable": 1}
    write((golden / "audio/synth_0.flac").read_bytes())
    assert run(tmp_path / "x.tar", retry=("unreadable",)).totals.statuses == {"ok": 2}
    found = {result.id: result.segments for result in read_segments(str(tmp_path / "out"))}
    expected = np.load(golden / "segmentation" / "readme" / "synth_0.npz")["segments"]
    np.testing.assert_array_equal(found["x/a.flac"], expected)


def test_rows_of_inputs_with_other_columns_are_tried_again(corpus, run, tmp_path):
    (tmp_path / "m1.csv").write_text("id,uri,speaker\na,corpus/0.flac,x\nb,corpus/gone.flac,y\n")
    (tmp_path / "m2.csv").write_text("id,uri,language,age\nc,corpus/none.flac,en,7\n")
    run(tmp_path / "m1.csv")
    run(tmp_path / "m2.csv")
    for name in ("gone", "none"):
        shutil.copy(corpus / "1.flac", corpus / f"{name}.flac")
    assert run(tmp_path / "m2.csv", retry=("missing",)).totals.statuses == {"ok": 3}
    table = pa.concat_tables(
        [pq.read_table(path) for path in sorted((tmp_path / "out" / "segments").iterdir())],
        promote_options="permissive",
    )
    carried = {row["id"]: (row["speaker"], row["language"], row["age"]) for row in table.to_pylist()}
    assert carried == {"a": ("x", None, None), "b": ("y", None, None), "c": (None, "en", 7)}


def test_a_run_that_came_late_leaves_the_work_of_another_alone(corpus, prepare, run, tmp_path):
    """Both saw an empty output; one has finished before the other begins."""
    late = prepare(corpus, "syllables.syl_dur=0.2")
    run(corpus)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(BusyError, match="was changed by another run"):
        run_job(late, lambda rows, seconds: None)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_the_same_folder_by_another_name_is_the_same(corpus, run, prepare):
    run(corpus)
    assert prepare(f"{corpus}/../{corpus.name}/").rows_left == 0


def test_retrying_is_refused_where_nothing_has_run(prepare, corpus):
    with pytest.raises(UserError, match="no run whose rows could be tried again"):
        prepare(corpus, retry=("failed",))
    with pytest.raises(UserError, match="--retry is 'ok'; it has to be one of failed, missing, unreadable"):
        prepare(corpus, retry=("ok",))


rows = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 3)), max_size=12)


@settings(deadline=None)
@given(st.lists(rows, max_size=4), rows)
def test_a_digest_set_is_a_set(parts, asked):
    def table(values):
        kinds = (pa.string(), pa.int64())
        return pa.table([pa.array([row[side] for row in values], kinds[side]) for side in (0, 1)], names=["x", "y"])

    known = DigestSet(("x", "y"))
    for part in parts:
        known.add(table(part))
    there = {row for part in parts for row in part}
    assert known.holds(table(asked)).to_pylist() == [row in there for row in asked]
    untold = known.holds(table(asked), ("x", "no such column"))
    assert untold.to_pylist() == [(name, None) in there for name, _ in asked]


# -- plans and files


def test_a_unit_is_read_back_from_its_plan(corpus, run, tmp_path):
    run(corpus, "output.rows_per_file=1")
    (plan,) = list_plans(str(tmp_path / "out"))
    assert (plan.unit_rows, plan.num_rows) == ((2, 2, 2), 6)
    assert plan.seconds == pytest.approx(6 * soundfile.info(corpus / "0.flac").duration, abs=0.01)
    whole = pa.concat_tables(list(read_plan(str(tmp_path / "out"), plan)))
    for unit in range(3):
        rows = read_unit(str(tmp_path / "out"), plan.name, unit)
        assert set(rows["unit_name"].to_pylist()) == {unit_name(plan.name, unit)}
        assert rows.drop_columns("unit_name").equals(whole.slice(2 * unit, 2))


def test_files_of_the_table_stay_as_they_are(corpus, run, tmp_path):
    """Whoever reads the folder while a corpus grows finds what was there, by the same names."""
    run(corpus, "output.rows_per_file=4", limit=5)
    folder = tmp_path / "out" / "segments"
    assert [(commit.first, commit.last) for commit in commits_in(tmp_path / "out")] == [(0, 1), (2, 2)]
    assert [pq.ParquetFile(path).num_row_groups for path in sorted(folder.iterdir())] == [2, 1]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(corpus)
    now = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(now) == 3
    assert {name: now[name] for name in before} == before
    assert not (tmp_path / "out" / "commits").exists()
    assert len(list(read_segments(str(tmp_path / "out")))) == 6


def test_a_publishing_that_was_cut_short_shows_no_row_twice(corpus, run, prepare, tmp_path, monkeypatch):
    """Killed between the new file and the removal of the commits; a worker that comes late leaves the same."""
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_files", lambda uris: None)
        run(corpus)
    assert len(list((tmp_path / "out" / "commits").iterdir())) == 3
    assert raw_rows(tmp_path / "out")[1] == 6
    assert prepare(corpus).rows_left == 0
    assert len(list(read_segments(str(tmp_path / "out")))) == 6
    (tmp_path / "out" / "lease.json").unlink()
    summary = run(corpus)
    assert summary.totals.num_rows == 6
    assert raw_rows(tmp_path / "out")[1] == 6
    assert not (tmp_path / "out" / "commits").exists()


@st.composite
def committed(draw):
    """A plan, and files that cover some of its units, in any order."""
    rows = draw(st.lists(st.integers(1, 5), min_size=1, max_size=30))
    bounds = sorted(draw(st.sets(st.integers(0, len(rows)), max_size=12)) | {0, len(rows)})
    spans = [(first, end - 1) for first, end in itertools.pairwise(bounds)]
    kept = [span for span in spans if draw(st.booleans())]
    commits = [Commit(1, first, last, draw(st.booleans()), f"{first}-{last}", 10) for first, last in kept]
    return Plan(1, RUN, "input", tuple(rows), tuple(float(count) for count in rows)), commits


@settings(deadline=None)
@given(committed(), st.integers(1, 12))
def test_pending_units_and_groups(case, max_rows):
    plan, commits = case
    done = {unit for commit in commits for unit in range(commit.first, commit.last + 1)}
    left = [unit for unit in range(len(plan.unit_rows)) if unit not in done]
    assert pending_units([plan], commits) == [(plan.name, unit) for unit in left]
    groups = find_groups(commits, plan, max_rows)
    members = [commit for group in groups for commit in group]
    assert members == [commit for commit in commits if not commit.published]
    for group in groups:
        assert all(left.last + 1 == right.first for left, right in itertools.pairwise(group))
        rows = sum(sum(plan.unit_rows[commit.first : commit.last + 1]) for commit in group)
        assert len(group) == 1 or rows <= max_rows


def test_nothing_to_remove_is_nothing_to_do(tmp_path):
    remove_covered(str(tmp_path), [])
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize("name", ["", "/", "/out", "/../corpus/out", "/deep/er"])
def test_an_output_in_its_input_is_refused(corpus, tiny_checkpoint, name):
    """Its files would be an input of the next run."""
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    config = load_config(None, [], {}, checkpoint.options)
    with pytest.raises(UserError, match=f"is in the input {corpus}; choose an output outside of it"):
        prepare_job(config, checkpoint, str(corpus), list_input(str(corpus)), f"{corpus}{name}", engine="local")
    assert not (corpus / "out").exists()
