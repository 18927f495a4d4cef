"""A rate that is asked for: tuned once, on a sample that hangs on the recordings alone, and kept by its output."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from commands import complaint, sdhubert
from recordings import write_corpus
from segmented import Segmenting

from sdhubert_ray import read_segments, segment_corpus
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_run
from sdhubert_ray.runs import rate
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.resegment import load_options, open_features, prepare_resegment
from sdhubert_ray.runs.session import Job, Session, Summary

RATE = "rate=4"
DECIDED = ("syl_dur", "merge_threshold")


@pytest.fixture
def corpus(golden: Path, tmp_path: Path) -> Path:
    return write_corpus(golden, tmp_path)


@pytest.fixture(scope="module")
def segment(golden: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenting:
    """Run `segment` in this process."""
    return Segmenting(tmp_path_factory.mktemp("made"), tiny_checkpoint, [golden / "audio"])


def syllables_of(output: Path) -> dict[str, Any]:
    record = read_run(str(output))
    assert record is not None
    syllables: dict[str, Any] = record["config"]["syllables"]
    for name in DECIDED:
        assert json.loads(record["fingerprint"][f"syllables.{name}"]) == syllables[name]
    return syllables


def begin_only(job: Job) -> None:
    """Begin a run and end it before any unit is done."""
    with job.folder, Session(job, Summary(job.output, "local"), lambda rows, seconds: None):
        pass


def results(output: Path) -> list[tuple[str, list[list[float]]]]:
    return sorted((one.id, one.segments.tolist()) for one in read_segments(str(output)))


def test_an_output_has_the_rate_and_keeps_its_values(
    golden: Path, tiny_checkpoint: Path, segment: Segmenting, tmp_path: Path
) -> None:
    shutil.copytree(golden / "audio", tmp_path / "audio")
    command = ["segment", tmp_path / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", "local"]
    done = sdhubert(*command, "--rate", "4")
    seconds = sum(soundfile.info(path).duration for path in (golden / "audio").glob("*.flac"))
    found = sum(len(one.segments) for one in read_segments(str(tmp_path / "out")))
    assert found == round(4 * seconds)
    tuned = syllables_of(tmp_path / "out")
    values = ", ".join(f"syllables.{name}={tuned[name]}" for name in DECIDED)
    assert f"rate 4: {values}; {found / seconds:.2f} syllables per second in a sample of 5 rows" in done.stderr
    # These values by hand give the same.
    segment(golden / "audio", tmp_path / "by_hand", [f"syllables.{name}={tuned[name]}" for name in DECIDED])
    assert results(tmp_path / "by_hand") == results(tmp_path / "out")
    # What has come since would be another sample.
    for number in range(3):
        shutil.copy(golden / "audio/synth_0.flac", tmp_path / f"audio/more{number}.flac")
    again = sdhubert(*command, "--rate", "4")
    assert f"rate 4: {values}, as the output was begun with" in again.stderr
    assert "5 of 8 rows are done already and skipped" in again.stdout
    assert syllables_of(tmp_path / "out") == tuned
    sdhubert(*command, "--rate", "4", "--overwrite")
    assert syllables_of(tmp_path / "out") != tuned


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_task_of_the_cluster_encodes_what_this_process_would(
    golden: Path, segment: Segmenting, tmp_path: Path
) -> None:
    segment(golden / "audio", tmp_path / "local", [RATE])
    job = segment.plan(golden / "audio", tmp_path / "out", [RATE], engine="ray")
    job.discard()
    assert job.config.syllables.merge_threshold == syllables_of(tmp_path / "local")["merge_threshold"]


def test_a_run_that_was_killed_goes_on_with_its_values(
    golden: Path, segment: Segmenting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_only(segment.plan(golden / "audio", tmp_path / "out", [RATE]))
    values = syllables_of(tmp_path / "out")
    monkeypatch.setattr(rate, "draw_sample", None)  # nothing is tuned any more
    segment(golden / "audio", tmp_path / "out", [RATE])
    assert syllables_of(tmp_path / "out") == values
    assert len(results(tmp_path / "out")) == 5


def test_an_output_is_not_gone_on_with_at_another_rate(golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    segment(golden / "audio", tmp_path / "tuned", [RATE])
    segment(golden / "audio", tmp_path / "plain", [])
    refusals = {
        ("tuned", "rate=5"): r"another configuration: rate \(4.0 there, 5.0 now\); choose",
        ("tuned", "max_failed=0"): r"another configuration: rate \(4.0 there, unset now\), syllables\.merge_threshold",
        ("plain", RATE): r"another configuration: rate \(unset there, 4.0 now\); choose",
    }
    for (output, option), sentence in refusals.items():
        before = (tmp_path / output / "run.json").read_bytes()
        with pytest.raises(UserError, match=sentence):
            segment(golden / "audio", tmp_path / output, [option])
        assert (tmp_path / output / "run.json").read_bytes() == before
    with pytest.raises(UserError, match=r"syllables\.segmenter \(unset there"):
        segment(golden / "audio", tmp_path / "tuned", [RATE, "syllables.segmenter=uniform"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rate", "4", "syllables.merge_threshold=0.5"], "syllables.merge_threshold is given beside a rate, which"),
        (["rate=4", "syllables.merge_threshold=null"], "syllables.merge_threshold is given beside a rate, which"),
        (["--rate", "4", "syllables.syl_dur=0.1"], "syllables.syl_dur is given beside a rate, which decides it"),
        (
            ["--rate", "4", "syllables.segmenter=greedy", "syllables.greedy.merge_threshold=0.7"],
            "syllables.greedy.merge_threshold is given beside a rate, which decides it; leave out one of both",
        ),
        (["--rate", "0"], "rate is 0.0; it has to be a positive number of syllables per second"),
        (["--rate", "inf"], "rate is inf; it has to be"),
        (["--rate", "40"], "rate is 40, but by syllables.syl_dur and syllables.merge_threshold min-cut reaches"),
        (["--rate", "4", "speech.normcut_threshold=0.999"], "s of speech in a sample of"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    words: list[str], sentence: str, golden: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", "local"]
    assert sentence in complaint(sdhubert(*command, *words, expect=2))
    assert not (tmp_path / "out").exists()


def test_a_file_may_hold_all_options(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("rate: 4\nsyllables: {merge_threshold: 0.5}\n")
    assert load_config(str(tmp_path / "job.yaml"), [], {}, {}).rate == 4
    with pytest.raises(UserError, match=r"syllables\.merge_threshold is given beside a rate"):
        load_config(str(tmp_path / "job.yaml"), ["syllables.merge_threshold=0.4"], {}, {})


def test_a_plan_tunes_and_writes_nothing(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", tiny_checkpoint, "--engine", "local", "--rate", "4", "--plan"]
    done = sdhubert("segment", golden / "audio", tmp_path / "out", *words)
    assert "rate 4: syllables.syl_dur=" in done.stderr
    assert "rows                    5 to be done" in done.stdout
    assert not (tmp_path / "out").exists()


def test_from_python(golden: Path, tiny_checkpoint: Path, segment: Segmenting, tmp_path: Path) -> None:
    segment_corpus(golden / "audio", tmp_path / "out", checkpoint=tiny_checkpoint, engine="local", rate=4)
    segment(golden / "audio", tmp_path / "expected", [RATE])
    assert syllables_of(tmp_path / "out") == syllables_of(tmp_path / "expected")
    with pytest.raises(UserError, match=r"rate \(4.0 there, 3.0 now\)"):
        segment_corpus(golden / "audio", tmp_path / "out", checkpoint=tiny_checkpoint, engine="local", rate=3)


# --- from features ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segmenter", ["min-cut", "min-cut-banded", "greedy", "sse-dp", "norm-peaks", "uniform"])
def test_features_are_tuned_on_as_audio_is(segmenter: str, golden: Path, segment: Segmenting, tmp_path: Path) -> None:
    # Neighbouring frames of random weights are so little alike that greedy segments are short.
    options = [f"syllables.segmenter={segmenter}", "rate=20" if segmenter == "greedy" else "rate=3.5"]
    segment(golden / "audio", tmp_path / "features", ["output.frame_features=float32"])
    segment(golden / "audio", tmp_path / "expected", options)
    sdhubert("resegment", tmp_path / "features", tmp_path / "out", *options)
    record, expected = (read_run(str(tmp_path / name)) for name in ("out", "expected"))
    assert record is not None
    assert expected is not None
    assert record["fingerprint"] == expected["fingerprint"]
    assert results(tmp_path / "out") == results(tmp_path / "expected")
    again = sdhubert("resegment", tmp_path / "features", tmp_path / "out", *options)
    assert "as the output was begun with" in again.stderr
    assert "nothing was left to do" in again.stdout


def test_what_a_rate_has_decided_is_taken_over_from_features_and_the_rate_is_not(
    golden: Path, segment: Segmenting, tmp_path: Path
) -> None:
    segment(golden / "audio", tmp_path / "features", ["output.frame_features=float32", RATE])
    sdhubert("resegment", tmp_path / "features", tmp_path / "same")
    assert results(tmp_path / "same") == results(tmp_path / "features")
    sdhubert("resegment", tmp_path / "features", tmp_path / "other", "syllables.merge_threshold=0.2")
    assert syllables_of(tmp_path / "other")["merge_threshold"] == 0.2
    for name in ("same", "other"):
        record = read_run(str(tmp_path / name))
        assert record is not None
        assert (record["config"]["rate"], "rate" in record["fingerprint"]) == (None, False)


# --- the sample ------------------------------------------------------------------------------------------------------


def test_a_sample_hangs_on_the_recordings_and_not_on_their_order(
    corpus: Path, segment: Segmenting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "SAMPLE_ROWS", 6)
    lines = corpus.read_text().splitlines(keepends=True)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(lines)))
    small = ["resources.unit_rows=2", "audio.piece_seconds=20"]
    drawn = []
    for source, options in ((corpus, small), (turned, []), (turned, small)):
        with segment.plan(source, tmp_path / "out", options).folder as folder:
            drawn.append(rate.draw_sample(sorted(Path(folder).glob("*.parquet"))).to_pylist())
    assert len(drawn[0]) == 6
    assert drawn[0] == drawn[2]
    assert [row["key"] for row in drawn[0]] != sorted(row["key"] for row in drawn[0])
    # Another recording takes the place of one at most.
    turned.write_text("".join([*lines, '{"id": "new", "uri": "audio/take1.flac"}\n']))
    with segment.plan(turned, tmp_path / "out", small).folder as folder:
        keys = {row["key"] for row in rate.draw_sample(sorted(Path(folder).glob("*.parquet"))).to_pylist()}
    assert len({row["key"] for row in drawn[0]} - keys) <= 1


def test_what_cannot_be_had_is_left_out_and_what_is_silent_is_audio(corpus: Path, segment: Segmenting) -> None:
    """15 rows, of which 12 have audio; one is missing, one broken."""
    job = segment.plan(corpus, corpus.parent / "out", ["audio.piece_seconds=20"])
    checkpoint = job.origin.checkpoint
    assert checkpoint is not None
    with job.folder:
        sample = rate.encode_sample(rate.draw_sample(job.staged.parts), checkpoint, job.config, "cpu")
    spoken = rate.find_spoken(sample, job.config.speech)
    paths = [path for path in (corpus.parent / "audio").iterdir() if path.name != "broken.wav"]
    # 10 s around its joint are read by both pieces, of which one has each second in the end.
    assert sum(one.seconds for one in spoken) == pytest.approx(sum(soundfile.info(path).duration for path in paths))
    assert sum(len(one.features) > 0 for one in spoken) == 11


def test_a_sample_is_so_long_and_has_the_beginning_of_what_is_long(
    golden: Path, tiny_checkpoint: Path, segment: Segmenting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "PART_SECONDS", 2.0)
    monkeypatch.setattr(rate, "SAMPLE_SECONDS", 5.0)
    segment(golden / "audio", tmp_path / "features", ["output.frame_features=float32"])
    job = segment.plan(golden / "audio", tmp_path / "out", [])
    with job.folder:
        rows = rate.draw_sample(job.staged.parts)
        checkpoint = job.origin.checkpoint
        assert checkpoint is not None
        sample = rate.encode_sample(rows, checkpoint, job.config, "cpu")
        untold = rows.set_column(rows.column_names.index("duration"), "duration", pa.nulls(5, pa.float64()))
        assert rate.encode_sample(untold, checkpoint, job.config, "cpu")["num_frames"] == sample["num_frames"]
    spoken = rate.find_spoken(sample, job.config.speech)
    lengths = [min(2.0, soundfile.info(golden / "audio" / one).duration) for one in rows["id"].to_pylist()]
    enough = int(np.searchsorted(np.cumsum(lengths), 5.0)) + 1
    assert enough < 5
    assert [one.seconds for one in spoken] == pytest.approx(lengths[:enough])
    assert [len(one.norms) for one in spoken] == sample["num_frames"].to_pylist()
    opened = open_features(str(tmp_path / "features"))
    again = prepare_resegment(load_options(opened, None, [], {}), opened, str(tmp_path / "again"))
    with again.folder, rate._encoded(again, rate.draw_sample(again.staged.parts)) as read:
        from_features = rate.find_spoken(read, again.config.speech)
    assert [one.seconds for one in from_features] == [one.seconds for one in spoken]
    assert max(len(one.norms) for one in from_features) == 100
