"""Segmenting again from saved features: what the encoder would have given, from files alone. Real runs, real kills."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import sdhubert
from forks import FORKS, run_script
from outputs import commits_in
from recordings import write_corpus, write_long
from segmented import Segmenting, run

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import list_plans, pending_units, read_commit, read_segments
from sdhubert_ray.output.summary import count_results
from sdhubert_ray.runs import execute
from sdhubert_ray.runs.resegment import load_options, open_features, prepare_resegment
from sdhubert_ray.runs.session import IncompleteRunError, Job, Session, Summary

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.ray)]
SMALL = ["resources.unit_rows=3", "audio.piece_seconds=20"]
FEATURES = ["output.frame_features=float32"]
NEW = ["syllables.syl_dur=0.2", "speech.normcut_threshold=0.15", "syllables.merge_threshold=0.3"]


@pytest.fixture
def corpus(golden: Path, tmp_path: Path) -> Path:
    return write_corpus(golden, tmp_path)


@pytest.fixture(scope="module")
def segment(golden: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenting:
    """Run `segment` in this process."""
    return Segmenting(tmp_path_factory.mktemp("made"), tiny_checkpoint, [golden / "audio"])


def plan_again(features: Path, output: Path, overrides: Sequence[str] = NEW, engine: str = "local") -> Job:
    opened = open_features(str(features))
    return prepare_resegment(load_options(opened, None, list(overrides), {}), opened, str(output), engine=engine)


def resegment(features: Path, output: Path, overrides: Sequence[str] = NEW, engine: str = "local") -> Summary:
    return run(plan_again(features, output, overrides, engine))


def publish_only(job: Job) -> None:
    """Begin a run and end it before any unit is done."""
    with job.folder, Session(job, Summary(job.output, "local"), lambda rows, seconds: None):
        pass


def read_table(output: Path) -> pa.Table:
    """All rows as they stand in the files, by key."""
    files = [pq.read_table(output / commit.name) for commit in commits_in(output)]
    return pa.concat_tables(files).sort_by("key").combine_chunks()


def statuses(output: Path) -> dict[str, int]:
    return count_results(str(output), list_plans(str(output)), commits_in(output)).statuses


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_what_segmenting_with_these_options_gives(
    engine: str, corpus: Path, segment: Segmenting, tmp_path: Path
) -> None:
    segment(corpus, tmp_path / "features", [*SMALL, *FEATURES])
    segment(corpus, tmp_path / "expected", [*SMALL, *NEW])
    shutil.rmtree(tmp_path / "audio")
    summary = resegment(tmp_path / "features", tmp_path / "out", engine=engine)
    expected, table = read_table(tmp_path / "expected"), read_table(tmp_path / "out")
    assert table.schema == expected.schema
    assert table.equals(expected)
    assert len(set(table["key"].to_pylist())) == table.num_rows > len(set(table["id"].to_pylist())) == 13
    assert table["segments"].to_pylist() != read_table(tmp_path / "features")["segments"].to_pylist()
    assert summary.totals.statuses == {"missing": 1, "ok": 9, "silent": 1, "too_short": 1, "unreadable": 1}
    record, other = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("out", "expected"))
    assert record["fingerprint"] == other["fingerprint"]
    # What is done is done.
    assert resegment(tmp_path / "features", tmp_path / "out").rows_done == 0


@pytest.mark.parametrize("segmenter", ["min-cut-banded", "greedy", "sse-dp", "norm-peaks", "uniform"])
def test_another_segmenter_gives_what_segmenting_by_it_gives(
    segmenter: str, golden: Path, segment: Segmenting, tmp_path: Path
) -> None:
    chosen = [f"syllables.segmenter={segmenter}"]
    segment(golden / "audio", tmp_path / "features", FEATURES)
    segment(golden / "audio", tmp_path / "expected", chosen)
    resegment(tmp_path / "features", tmp_path / "out", chosen)
    assert read_table(tmp_path / "out").equals(read_table(tmp_path / "expected"))
    assert read_table(tmp_path / "out")["segments"] != read_table(tmp_path / "features")["segments"]
    record, other, before = (
        json.loads((tmp_path / name / "run.json").read_text())["fingerprint"]
        for name in ("out", "expected", "features")
    )
    assert record == other
    assert (record["syllables.segmenter"], "syllables.segmenter" in before) == (f'"{segmenter}"', False)
    with pytest.raises(UserError, match=r"syllables\.segmenter"):  # its output is not gone on with by another
        resegment(tmp_path / "features", tmp_path / "out", ["syllables.segmenter=min-cut"])


def test_golden_segments_of_another_cut(golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    segment(golden / "audio", tmp_path / "features", FEATURES)
    unmerged = ["syllables.syl_dur=0.2", "syllables.merge_threshold=null"]
    resegment(tmp_path / "features", tmp_path / "out", unmerged)
    results = list(read_segments(str(tmp_path / "out")))
    assert len(results) == 5
    for result in results:
        expected = np.load(golden / "segmentation/readme" / f"{Path(result.id).stem}.npz")
        np.testing.assert_array_equal(result.segments, expected["segments_unmerged"])


def test_a_preset_gives_its_speech_and_syllables_on_the_windows_that_are_there(
    golden: Path, tiny_checkpoint: Path, segment: Segmenting, tmp_path: Path
) -> None:
    from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter

    segment(golden / "audio", tmp_path / "features", FEATURES)
    # Spans of one frame, which the paper keeps, are not among those that the segmenter of the readme preset gives.
    options = ["speech.normcut_threshold=5", "speech.min_span_frames=2"]
    result = sdhubert("resegment", tmp_path / "features", tmp_path / "out", *options, "--preset", "paper")
    assert "note: of preset paper only speech and syllables are taken" in result.stderr
    config = json.loads((tmp_path / "out/run.json").read_text())["config"]
    assert (config["windows"]["window_seconds"], config["audio"]["variance_floor"]) == (5.0, 0.0)
    assert (config["syllables"]["drop_frames"], config["speech"]["normcut_threshold"]) == (2, 5.0)

    encoded = SDHuBERTSegmenter(
        tiny_checkpoint, normcut_strategy="absolute", normcut_threshold=5.0, silence_threshold=0
    )([str(path) for path in sorted((golden / "audio").glob("*.flac"))])
    mincut = MincutWrapper(preset="paper")
    results = list(read_segments(str(tmp_path / "out")))
    assert sum(len(result.segments) for result in results) > 20
    for result, features in zip(results, encoded, strict=True):
        np.testing.assert_array_equal(result.segments, mincut(features)["segments"])


@pytest.mark.parametrize(("dtype", "kept"), [("bfloat16", "float32"), ("bfloat16", "float16")])
def test_half_precision_is_kept_without_loss(
    dtype: str, kept: str, golden: Path, segment: Segmenting, tmp_path: Path
) -> None:
    segment(golden / "audio", tmp_path / "features", [f"dtype={dtype}", f"output.frame_features={kept}"])
    segment(golden / "audio", tmp_path / "expected", [f"dtype={dtype}", *NEW])
    resegment(tmp_path / "features", tmp_path / "out")
    assert read_table(tmp_path / "out").equals(read_table(tmp_path / "expected"))


def test_float16_of_float32_is_told_and_not_mixed_with_float32(
    golden: Path, segment: Segmenting, tmp_path: Path
) -> None:
    for kept in ("float16", "float32"):
        segment(golden / "audio", tmp_path / kept, [f"output.frame_features={kept}"])
    result = sdhubert("resegment", tmp_path / "float16", tmp_path / "out", *NEW)
    assert "note: the features were kept in float16" in result.stderr
    assert "rounded" not in sdhubert("resegment", tmp_path / "float32", tmp_path / "exact", *NEW).stderr
    rounded, exact = read_table(tmp_path / "out"), read_table(tmp_path / "exact")
    assert rounded.schema == exact.schema
    assert not rounded["segment_features"].equals(exact["segment_features"])
    with pytest.raises(UserError, match="another configuration: features_kept_as"):
        resegment(tmp_path / "float32", tmp_path / "out")
    with pytest.raises(UserError, match="keeps float16; take float16 or none"):
        resegment(tmp_path / "float16", tmp_path / "more", ["output.frame_features=float32"])
    # Features are kept again if asked for, and are a source again.
    resegment(tmp_path / "float16", tmp_path / "kept", ["output.frame_features=float16"])
    resegment(tmp_path / "kept", tmp_path / "third")
    assert read_table(tmp_path / "third").equals(rounded)


def test_further_formats_are_those_of_segment(golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    formats = ["output.formats=[parquet,files,textgrid]", *FEATURES]
    segment(golden / "audio", tmp_path / "features", FEATURES)
    segment(golden / "audio", tmp_path / "expected", [*NEW, *formats])
    sdhubert("resegment", tmp_path / "features", tmp_path / "out", *NEW, "--format", "files", "--format", "textgrid")
    names = sorted(path.name for path in (tmp_path / "expected").glob("synth*"))
    assert len(names) == 5 * 4
    assert sorted(path.name for path in (tmp_path / "out").glob("synth*")) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_features_and_output_on_an_object_store(
    golden: Path, tiny_checkpoint: Path, s3_bucket: str, tmp_path: Path
) -> None:
    arguments = ["--checkpoint", tiny_checkpoint, "--frame-features", "float32", "--engine", "local"]
    for output in (f"{s3_bucket}/features", tmp_path / "features"):
        sdhubert("segment", golden / "audio", output, *arguments)
    sdhubert("resegment", f"{s3_bucket}/features/", f"{s3_bucket}/out", *NEW)
    assert "nothing was left to do" in sdhubert("resegment", f"{s3_bucket}/features", f"{s3_bucket}/out", *NEW).stdout
    resegment(tmp_path / "features", tmp_path / "out")
    commits = commits_in(f"{s3_bucket}/out")
    expected = read_table(tmp_path / "out")
    tables = [read_commit(f"{s3_bucket}/out", commit.name, expected.column_names) for commit in commits]
    assert pa.concat_tables(tables).sort_by("key").combine_chunks().equals(expected)


# --- resuming, growing, trying again --------------------------------------------------------------------------------


# The command, whose process is killed at the third commit.
KILLED_AT_THE_THIRD = """
import os, signal
from sdhubert_ray import cli
from sdhubert_ray.runs.session import Session
add, done = Session.add, []
def add_some(session, report):
    add(session, report)
    done.append(report)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Session.add = add_some
cli.main()
"""


@FORKS
def test_killed_half_way_and_resumed(golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(12):
        shutil.copy(golden / "audio/synth_4.flac", tmp_path / "audio" / f"{number:03d}.flac")
    segment(tmp_path / "audio", tmp_path / "features", [*FEATURES, "resources.unit_rows=1"])
    output = tmp_path / "out"
    command = ["resegment", tmp_path / "features", output, *NEW, "--engine", "local"]
    killed = run_script(KILLED_AT_THE_THIRD, *command)
    assert killed.returncode == -9, killed.stderr
    assert read_table(output).num_rows == 3
    result = sdhubert(*command)
    assert "3 of 12 rows are done already and skipped" in result.stdout
    resegment(tmp_path / "features", tmp_path / "undisturbed")
    assert read_table(output)["key"].to_pylist() == [f"{number:03d}.flac#0" for number in range(12)]
    assert read_table(output).equals(read_table(tmp_path / "undisturbed"))


def test_features_of_a_run_that_goes_on(golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    """Rows that are there are cut; those that come later, or are published meanwhile, by the same command."""
    (tmp_path / "audio").mkdir()
    for number in range(12):
        shutil.copy(golden / f"audio/synth_{3 * (number % 2)}.flac", tmp_path / "audio" / f"{number:02d}.flac")
    options = [*FEATURES, "resources.unit_rows=1", "output.rows_per_file=4"]
    features, output = tmp_path / "features", tmp_path / "out"
    segment_in_part(segment, tmp_path / "audio", features, options)
    names = sorted((features / "commits").iterdir())
    assert len(names) == 12
    late = {name: name.read_bytes() for name in names[3:8]}
    for name in late:  # as if they were not done yet
        name.unlink()
    result = sdhubert("resegment", features, output, *NEW)
    assert f"note: 5 rows of {features} are not done yet" in result.stderr
    assert read_table(output).num_rows == 7
    # The next run is planned and nothing of it done when the features' run goes on and publishes its commits.
    names[3].write_bytes(late[names[3]])
    job = plan_again(features, output)
    assert job.rows_left == 1
    publish_only(job)
    shutil.copy(golden / "audio/synth_1.flac", tmp_path / "audio" / "new.flac")
    segment(tmp_path / "audio", features, options)
    assert len(list((features / "segments").iterdir())) == 4
    summary = resegment(features, output)
    assert (summary.rows_done_before, summary.rows_done) == (7, 6)
    segment(tmp_path / "audio", tmp_path / "expected", NEW)
    assert read_table(output).equals(read_table(tmp_path / "expected"))


def segment_in_part(segment: Segmenting, source: Path, output: Path, options: Sequence[str]) -> None:
    """A run that is ended when all is done and nothing published."""

    def no_more(output: str, groups: object, compression: str, without: object) -> None:
        raise KeyboardInterrupt

    job = segment.plan(source, output, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "publish_here", no_more)
        with pytest.raises(KeyboardInterrupt):
            run(job)


def test_rows_that_were_tried_again_are_taken_from_their_latest_attempt(
    golden: Path, corpus: Path, segment: Segmenting, tmp_path: Path
) -> None:
    """Whether all was cut before they were, or planned only."""
    features, cut, planned = tmp_path / "features", tmp_path / "cut", tmp_path / "planned"
    segment(corpus, features, [*SMALL, *FEATURES])
    resegment(features, cut)
    assert statuses(cut)["missing"] == statuses(cut)["unreadable"] == 1
    publish_only(plan_again(features, planned))
    shutil.copy(golden / "audio/synth_3.flac", tmp_path / "audio/broken.wav")
    write_long(golden, tmp_path / "audio/missing.wav")  # in three pieces, where it was one row
    run(segment.plan(corpus, features, [*SMALL, *FEATURES], retry=("missing", "unreadable")))
    segment(corpus, tmp_path / "expected", [*SMALL, *NEW])
    for output in (cut, planned):
        resegment(features, output)
        assert statuses(output) == {"ok": 11, "silent": 1, "too_short": 1}
        assert pending_units(list_plans(str(output)), commits_in(output)) == []
        assert read_table(output).equals(read_table(tmp_path / "expected"))
        assert resegment(features, output).rows_done == 0


def test_rows_that_are_gone_are_told(golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    features, output = tmp_path / "features", tmp_path / "out"
    segment(golden / "audio", features, FEATURES)
    job = plan_again(features, output)
    publish_only(job)
    shutil.rmtree(features)
    (tmp_path / "other").mkdir()
    shutil.copy(golden / "audio/synth_0.flac", tmp_path / "other")
    segment(tmp_path / "other", features, FEATURES)
    gone = r"has row 'synth_1.flac#0' no more, which was planned from it; --overwrite"
    with pytest.raises(IncompleteRunError, match=gone):
        resegment(features, output)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(golden: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of one recording: `features`, and `plain` without any."""
    folder = tmp_path_factory.mktemp("made")
    for name, options in (("features", ["--frame-features", "float32"]), ("plain", [])):
        sdhubert("segment", golden / "audio/synth_0.flac", folder / name, "--checkpoint", tiny_checkpoint, *options)
    return folder


@pytest.mark.parametrize(
    ("source", "overrides", "sentence"),
    [
        ("features", ["syllables.syl_durr=0.2"], "unknown config key 'syllables.syl_durr'; did you mean"),
        ("features", ["syllables.syl_dur=-1"], "syllables.syl_dur is -1"),
        ("features", ["encoder.layer=8"], "encoder.layer is 9 in {features}, and to change it takes the encoder"),
        ("features", ["audio.piece_seconds=60"], "audio.piece_seconds is 600.0 in {features}"),
        ("features", ["windows.window_seconds=null"], "windows.window_seconds is 5.0 in {features}"),
        ("features", ["checkpoint=bundled"], "checkpoint is "),
        ("features", ["dtype=bfloat16"], 'dtype is "float32" in {features}'),
        ("features", ["device=cuda"], 'device is "auto" in {features}'),
        ("features", ["preset=papier"], "unknown preset 'papier'"),
        ("features", ["syllables.segmenter=greed"], "syllables.segmenter is 'greed'"),
        (
            "features",
            ["syllables.greedy.merge_threshold=0.7"],
            "is for the segmenter greedy, but syllables.segmenter is",
        ),
        ("plain", [], "{plain} keeps no frame features; run `sdhubert segment` with --frame-features float32"),
        ("nowhere", [], "holds no run; name an output folder of `sdhubert segment --frame-features float32`"),
    ],
)
def test_refused(source: str, overrides: list[str], sentence: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        resegment(made / source, tmp_path / "out", overrides)
    assert sentence.format(features=made / "features", plain=made / "plain") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_options_as_they_are_may_be_said_again(made: Path, tmp_path: Path) -> None:
    """One YAML file for both commands."""
    (tmp_path / "all.yaml").write_text("encoder: {layer: 9}\ndtype: float32\nsyllables: {syl_dur: 0.3}\n")
    sdhubert("resegment", made / "features", tmp_path / "out", "--config", tmp_path / "all.yaml")
    assert json.loads((tmp_path / "out/run.json").read_text())["config"]["syllables"]["syl_dur"] == 0.3


def test_the_output_may_not_be_the_features(made: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (made / "features").rglob("*"))
    (tmp_path / "link").symlink_to(made / "features")
    for output in (made / "features", f"{made}/features/", f"{made}/plain/../features", tmp_path / "link"):
        result = sdhubert("resegment", made / "features", output, "--overwrite", expect=2)
        assert "is where the features are; choose another output" in result.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in (made / "features").rglob("*")) == before


def test_an_output_is_made_from_one_thing(made: Path, golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From audio or from features, even if the results were the same."""
    sdhubert("resegment", made / "features", tmp_path / "out")
    arguments = [golden / "audio/synth_0.flac", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    assert f"was made from the features in {made}/features" in sdhubert("segment", *arguments, expect=2).stderr
    assert "plain was made from audio" in sdhubert("resegment", made / "features", made / "plain", expect=2).stderr
    shutil.copytree(made / "features", tmp_path / "copy")
    refused = sdhubert("resegment", tmp_path / "copy", tmp_path / "out", expect=2)
    assert f"was made from the features in {made}/features" in refused.stderr
