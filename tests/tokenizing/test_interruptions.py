"""Tokenizing that is killed, interrupted or not let in, and goes on where it was. Real runs, real kills."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import sdhubert
from forks import FORKS, run_script
from outputs import commits_in
from segmented import Segmenting, run
from tokenized import content, read_record, read_table, tokenize

from sdhubert_ray import Quantizer, read_segments
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Lease
from sdhubert_ray.output.parquet import read_schema
from sdhubert_ray.runs.session import IncompleteRunError, Job, Session, Summary
from sdhubert_ray.runs.stages.tokens import QUANTIZER_MARK
from sdhubert_ray.tokenizing import prepare_tokenizing, run_tokenizing


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
    with pytest.raises(IncompleteRunError, match=f"{damaged} is damaged"):
        tokenize(tmp_path / "out", quantizers["one"], engine="ray")
    damaged.write_bytes(whole)
    # In this process: a worker whose task was cancelled while it imported torch cannot import it any more, and the
    # tests' cluster would use that worker again.
    done = tokenize(tmp_path / "out", quantizers["one"])
    assert done.rows_done + done.files_done_before == 5
