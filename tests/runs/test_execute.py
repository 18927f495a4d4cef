"""Jobs end to end: both engines, resuming, kills, long files. Real Ray, real files, real processes killed."""

import json
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from clusters import in_sessions, kill_sessions
from commands import SDHUBERT
from forks import FORKS, Script
from outputs import commits_in

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter, read_segments
from sdhubert_ray.corpus import list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.runs.session import Summary
from sdhubert_ray.runs.stages import EncodeSpeech

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture
def corpus(golden: Path, tmp_path: Path) -> Path:
    """Twenty recordings in two folders."""
    folder = tmp_path / "corpus"
    for number in range(20):
        target = folder / f"speaker{number % 2}" / f"take{number:02d}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(golden / f"audio/synth_{number % 5}.flac", target)
    return folder


def run(
    source: Path,
    output: Path,
    tiny_checkpoint: Path,
    overrides: Sequence[str] = (),
    *,
    engine: str = "local",
    **flags: object,
) -> Summary:
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    config = load_config(None, list(overrides), dict(flags), checkpoint.options)
    job = prepare_job(config, checkpoint, str(source), list_input(str(source)), str(output), engine=engine)
    return run_job(job, lambda rows, seconds: None)


def read_table(output: Path) -> pa.Table:
    files = [pq.read_table(output / commit.name) for commit in commits_in(output)]
    return pa.concat_tables(files).sort_by("key").combine_chunks()


def assert_same_rows(left: pa.Table, right: pa.Table) -> None:
    """Identical to the last bit."""
    assert left.equals(right)


# On Ray: tokenizing/test_running.py shows that its table is the local one to the bit, whatever the recordings.
@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_table_has_the_golden_segments(
    engine: str, preset: str, golden: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    overrides = ["resources.encode.max_workers=1"]
    overrides += ["speech.normcut_threshold=5.0"] if preset == "paper" else []
    run(golden / "audio", tmp_path / "out", tiny_checkpoint, overrides, engine=engine, preset=preset)
    results = list(read_segments(str(tmp_path / "out")))
    assert [result.id for result in results] == [f"synth_{number}.flac" for number in range(5)]
    for result in results:
        expected = np.load(golden / "segmentation" / preset / f"{Path(result.id).stem}.npz")
        np.testing.assert_array_equal(result.segments, expected["segments"])
        np.testing.assert_allclose(result.segment_features, expected["segment_features"], atol=1e-4)


def shortest_of_each_corpus(real_speech: Path) -> list[dict[str, str]]:
    """Rows of the manifest: of rates from 16 to 48 kHz, in four formats, in many languages, and noise."""
    rows = [json.loads(line) for line in (real_speech / "manifest.jsonl").read_text().splitlines()]
    shortest = {row["uri"].partition("/")[0]: row for row in sorted(rows, key=lambda row: -row["duration"])}
    assert len(shortest) >= 15
    return list(shortest.values())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_both_engines_write_the_table_that_python_computes(
    real_speech: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    rows = shortest_of_each_corpus(real_speech)
    manifest = tmp_path / "few.jsonl"
    manifest.write_text(
        "".join(
            json.dumps({"id": row["id"], "uri": str(real_speech / row["uri"]), "split": row["split"]}) + "\n"
            for row in rows
        )
    )
    for engine in ("local", "ray"):
        run(
            manifest,
            tmp_path / engine,
            tiny_checkpoint,
            ["resources.unit_seconds=20", "resources.encode.max_workers=1"],
            engine=engine,
        )
    local, distributed = read_table(tmp_path / "local"), read_table(tmp_path / "ray")
    assert_same_rows(local, distributed)
    assert sorted(zip(local["id"].to_pylist(), local["split"].to_pylist(), strict=True)) == sorted(
        (row["id"], row["split"]) for row in rows
    )

    segmenter, mincut = SDHuBERTSegmenter(tiny_checkpoint), MincutWrapper()
    outputs = mincut(segmenter([str(real_speech / row["uri"]) for row in rows]))
    by_id = {result.id: result for result in read_segments(str(tmp_path / "ray"))}
    for row, output in zip(rows, outputs, strict=True):
        result = by_id[row["id"]]
        assert (result.status, result.num_frames) == (output["status"], output["length"])
        np.testing.assert_array_equal(result.segments, output["segments"])
        np.testing.assert_allclose(result.segment_features, output["segment_features"], atol=1e-5)


def test_a_second_run_does_nothing_and_another_config_is_refused(
    corpus: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert run(corpus, output, tiny_checkpoint).rows_done == 20
    before = {path: path.stat().st_mtime_ns for path in (output / "segments").iterdir()}
    again = run(corpus, output, tiny_checkpoint)
    assert (again.rows_done, again.rows_done_before, again.totals.num_files) == (0, 20, 20)
    assert {path: path.stat().st_mtime_ns for path in (output / "segments").iterdir()} == before
    with pytest.raises(UserError, match=r"speech\.normcut_threshold \(0\.1 there, 0\.2 now\)"):
        run(corpus, output, tiny_checkpoint, ["speech.normcut_threshold=0.2"])


def test_layout_and_resources_may_change_on_resume_and_new_files_are_done(
    corpus: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run(corpus / "speaker0", tmp_path / "out", tiny_checkpoint)
    shutil.copy(corpus / "speaker1" / "take01.flac", corpus / "speaker0" / "new.flac")
    summary = run(corpus / "speaker0", tmp_path / "out", tiny_checkpoint, ["resources.batch_seconds=5"])
    assert (summary.rows_done, summary.rows_done_before) == (1, 10)
    assert len(read_table(tmp_path / "out")) == 11


# `sdhubert`, whose driver is killed by the worker that makes the third commit: other workers, if any, outlive it.
KILLED_AT_THE_THIRD = """
import contextlib, os, signal, sys
from pathlib import Path
from sdhubert_ray import cli
from sdhubert_ray.runs import execute, pipeline
driver, commits = os.getpid(), Path(sys.argv[3], "commits")
class SegmentUnits(pipeline.SegmentUnits):
    def __call__(self, batch):
        report = super().__call__(batch)
        if len(list(commits.glob("[!.]*.parquet"))) >= 3:
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver, signal.SIGKILL)
        return report
execute.SegmentUnits = pipeline.SegmentUnits = SegmentUnits
cli.main()
"""


@FORKS
@pytest.mark.parametrize("engine", ENGINES)
def test_driver_killed_after_its_third_commit(
    engine: str, corpus: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One worker, which has not all of the units when it kills the driver; each commit becomes a file of the table.
    small = ["resources.unit_rows=1", "output.rows_per_file=1", "resources.encode.max_workers=1"]
    output, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    command = ["segment", str(corpus), str(output), *small, "--checkpoint", str(tiny_checkpoint), "--engine", engine]
    monkeypatch.setenv("RAY_ADDRESS", "")
    process = Script(KILLED_AT_THE_THIRD, *command)
    try:
        assert process.wait().returncode == -signal.SIGKILL
        wait_until_workers_have_ended(process.pid)
    finally:
        process.kill()
        kill_sessions({process.pid})
    kept = {path.stem: pq.read_table(path) for path in (output / "commits").glob("[!.]*.parquet")}
    done = sum(table.num_rows for table in kept.values())
    assert len(kept) >= 3
    assert done < 20, "nothing was left to resume"

    encoded = []
    original = EncodeSpeech.__call__

    def counting(stage: EncodeSpeech, batch: pa.Table) -> pa.Table:
        encoded.extend(batch["key"].to_pylist())
        return original(stage, batch)

    monkeypatch.setattr(EncodeSpeech, "__call__", counting)
    # Resumed in this process, where calls can be counted; the engine may change as results do not depend on it.
    summary = run(corpus, output, tiny_checkpoint, small)
    assert (summary.rows_done, summary.rows_done_before) == (20 - done, done)
    assert len(encoded) == 20 - done
    for name, table in kept.items():
        assert pq.read_table(output / "segments" / f"{name}-{name[-7:]}.parquet").equals(table)
    run(corpus, undisturbed, tiny_checkpoint, small)
    assert_same_rows(read_table(output), read_table(undisturbed))


def wait_until_workers_have_ended(session: int) -> None:
    """Ray's workers outlive a killed driver by a moment, and may still commit."""
    deadline = time.monotonic() + 120
    while any(is_worker(process) for process in in_sessions({session})):
        assert time.monotonic() < deadline, "workers of a killed driver do not end"
        time.sleep(0.05)


def is_worker(process: psutil.Process) -> bool:
    """Whether it may commit; Ray's own agents take a minute to end."""
    try:
        return "ray::MapWorker" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended just now
        return False


def test_half_written_files_of_a_killed_run_are_not_rows(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out", tiny_checkpoint)
    whole = next((tmp_path / "out" / "segments").iterdir())
    (whole.parent / f".{whole.name}.abc").write_bytes(whole.read_bytes()[:1000])
    assert run(corpus, tmp_path / "out", tiny_checkpoint).totals.num_files == 20


def test_long_audio_is_one_recording_in_pieces(golden: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Other cut points change segments near the joints, and little else."""
    audio = [soundfile.read(golden / f"audio/synth_{number}.flac", dtype="float32")[0] for number in (1, 2, 4, 0)]
    signal = np.concatenate(audio * 9)
    soundfile.write(tmp_path / "long.wav", signal, 16_000)
    times: dict[int, np.ndarray] = {}
    joints: list[float] = []
    for seconds in (100, 75):
        output = tmp_path / str(seconds)
        run(tmp_path / "long.wav", output, tiny_checkpoint, [f"audio.piece_seconds={seconds}"])
        (result,) = read_segments(str(output))
        rows = read_table(output)
        # Pieces tile the file.
        offsets, durations = rows["offset"].to_numpy(), rows["duration"].to_numpy()
        order = np.argsort(offsets)
        np.testing.assert_allclose(offsets[order][1:], (offsets + durations)[order][:-1])
        assert result.duration == pytest.approx(len(signal) / 16_000)
        assert np.all(np.diff(result.segments[:, 0]) > 0)
        times[seconds] = result.segments
        joints += offsets[order][1:].tolist()
        for joint in offsets[order][1:]:
            assert not np.any((result.segments[:, 0] < joint - 1e-9) & (result.segments[:, 1] > joint + 1e-9))
    assert len(set(joints)) == 5
    # Away from the joints what remains is that each piece is normalised by itself, which moves a few frames over the
    # threshold. (Without a common window grid 7 in 10 would be identical.)
    far = [
        {
            (start, end)
            for start, end in found.tolist()
            if all(abs(start - joint) > 10 and abs(end - joint) > 10 for joint in joints)
        }
        for found in times.values()
    ]
    assert len(far[0] & far[1]) > 0.85 * max(map(len, far)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["wav", "mp3"])
def test_two_hours_without_a_pause_in_bounded_memory(
    ending: str, real_speech: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    speech = [
        soundfile.read(path, dtype="float32")[0] for path in sorted(real_speech.glob("librispeech_test_other/*.flac"))
    ]
    signal = np.concatenate(speech)
    soundfile.write(tmp_path / f"long.{ending}", np.resize(signal, 7200 * 16_000), 16_000)
    command = [SDHUBERT, "segment", str(tmp_path / f"long.{ending}"), str(tmp_path / "out"), "--engine", "ray"]
    process = psutil.Popen([*command, "--checkpoint", str(tiny_checkpoint)])
    peak = 0
    while process.poll() is None:
        for member in (process, *process.children(recursive=True)):
            try:
                peak = max(peak, member.memory_info().rss)
            except psutil.Error:
                continue
        time.sleep(0.2)
    assert process.returncode == 0
    assert 0 < peak < 3 << 30
    (result,) = read_segments(str(tmp_path / "out"))
    assert result.duration == pytest.approx(7200, abs=0.2)


@pytest.mark.slow
def test_every_real_recording_is_accounted_for(real_speech: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = {
        str(path.relative_to(real_speech))
        for path in real_speech.rglob("*")
        if path.suffix in {".wav", ".flac", ".mp3", ".opus"}
    }
    summary = run(real_speech, tmp_path / "out", tiny_checkpoint)
    assert {result.id for result in read_segments(str(tmp_path / "out"))} == found
    assert sum(summary.totals.statuses.values()) == len(found)
    assert summary.totals.num_failed == 0


def test_run_record_tells_what_made_the_output(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    summary = run(corpus, tmp_path / "out", tiny_checkpoint)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["fingerprint"]["checkpoint_sha256"]
    assert record["config"]["syllables"]["syl_dur"] == 0.1
    assert (
        record["summary"]["totals"]["num_syllables"]
        == summary.totals.num_syllables
        == sum(len(result.segments) for result in read_segments(str(tmp_path / "out")))
    )
    profile = record["summary"]["profile"]
    assert set(profile["stage_seconds"]) == {"decode", "encode", "cut", "write"}
    assert all(seconds > 0 for seconds in profile["stage_seconds"].values())
