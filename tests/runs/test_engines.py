"""Which engine does a job, and why; what is told of the end of a run."""

from dataclasses import replace

import pytest
from segmented import Segmenting

from sdhubert_ray.output import Lease
from sdhubert_ray.runs.engines import choose_engine
from sdhubert_ray.runs.execute import run_job
from sdhubert_ray.runs.session import Session, Summary


@pytest.fixture
def plan(golden, tiny_checkpoint, tmp_path):
    segmenting = Segmenting(tmp_path / "made", tiny_checkpoint, ())
    return lambda: segmenting.plan(golden / "audio", tmp_path / "out", engine="auto")


def test_little_is_done_here_and_much_on_ray(plan):
    job = plan()
    assert (job.engine, job.engine_reason) == ("local", "")
    asked = replace(job, engine="auto")
    hours = replace(job.staged, unit_seconds=(5400.0, *(0.0 for _ in job.staged.unit_seconds[1:])))
    assert choose_engine(replace(asked, staged=hours)) == ("ray", "1.50 hours of audio are worth its start")
    assert choose_engine(replace(asked, address="node:1"))[0] == "ray"
    assert choose_engine(replace(asked, staged=hours, engine="local")) == ("local", "")
    assert job.lengths_are_known
    assert not replace(job, staged=replace(job.staged, unit_seconds=(5400.0, 0.0))).lengths_are_known
    job.folder.cleanup()


def test_what_was_killed_goes_on_on_ray_which_is_said(plan, tmp_path):
    job = plan()
    with job.folder, Session(job, Summary(job.output, "local"), lambda rows, seconds: None):
        pass  # an output that has been begun
    lease = Lease(job.output, "killed")
    left = (tmp_path / "out/lease.json").read_bytes()
    lease.release()
    (tmp_path / "out/lease.json").write_bytes(left)
    again = plan()
    assert again.engine == "ray"
    assert "the run before was killed" in again.engine_reason
    assert "--engine local" in again.engine_reason
    again.folder.cleanup()


def test_the_end_of_a_run_is_told_of(plan):
    told = []
    run_job(plan(), lambda rows, seconds: None, on_finish=lambda *what: told.append(what))
    assert told == [("publishing", 0, 1), ("writing files of other formats", 0, None), ("counting", 0, None)]
