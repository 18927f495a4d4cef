"""The folder of a run: whose it is, and what may be done to it; and how far it is."""

import json
import shutil
import uuid
from pathlib import Path

import pytest
import torch
from commands import sdhubert
from trainings import TINY, prepare

from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Lease, write_run
from sdhubert_ray.training import runs
from sdhubert_ray.training.checkpoints import CHECKPOINT_FILE, put_best
from sdhubert_ray.training.metrics import last_step
from sdhubert_ray.training.options import load_train_config
from sdhubert_ray.training.runs import prepare_run


def keep_checkpoint(run, step):
    """What a worker would have left."""
    folder = Path(run.output) / f"checkpoint_{step:09d}"
    folder.mkdir()
    torch.save({}, folder / CHECKPOINT_FILE)


def everything(folder):
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


def test_another_configuration_is_refused_naming_its_keys(tmp_path, speech):
    keep_checkpoint(prepare(tmp_path / "run", speech), 5)
    prepare(tmp_path / "run", speech, "max_steps=7", "data.num_workers=3", "checkpoint.keep=5")  # change no weights
    with pytest.raises(UserError, match=r"another configuration: .*model\.lr \(0\.001 there, 0\.01 now\)"):
        prepare(tmp_path / "run", speech, "lr=0.01")
    with pytest.raises(UserError, match="global_batch"):
        prepare(tmp_path / "run", speech, "scaling.num_workers=2")
    prepare(tmp_path / "run", speech, "scaling.num_workers=2", "data.batch_size=4")  # the same batch
    prepare(tmp_path / "run", speech, "optim.accumulate_grad_batches=2", "data.batch_size=4")


def test_a_run_without_a_checkpoint_may_begin_with_another_configuration(tmp_path, speech):
    """So that a command that was refused later on can be mended."""
    prepare(tmp_path / "run", speech, "model.reinit_layers=[99]")
    run = prepare(tmp_path / "run", speech)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["model"]["reinit_layers"] == [9, 10, 11]
    assert run.begun is None


def test_a_run_goes_on_with_the_recordings_that_it_began_with(tmp_path, speech):
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder)
    first = prepare(tmp_path / "run", folder)
    shutil.copy(folder / "00.flac", folder / "99.flac")
    assert prepare(tmp_path / "run", folder).found == first.found


def test_other_folders_are_refused(tmp_path, speech):
    write_run(str(tmp_path / "segments"), {"fingerprint": {}, "runs": 1})
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is no training run"):
            prepare_run(tiny(speech), str(tmp_path / "segments"), "me", overwrite)
    run = prepare(tmp_path / "run", speech)
    keep_checkpoint(run, 5)
    (tmp_path / "run" / "run.json").unlink()
    before = everything(tmp_path / "run")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="run holds data, which no run in it is known to have written; choose"):
            prepare_run(tiny(speech), run.output, "me", overwrite)
    assert everything(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["data/speech.wav", "best/model.pt", "metrics.csv", "tensorboard/x", "best.json"])
def test_what_no_run_has_written_stays(tmp_path, speech, name):
    """A folder of one's own that is called as those of a run are."""
    foreign = tmp_path / "run" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=f"holds {name.partition('/')[0]}, which no run in it is known to have"):
            prepare_run(tiny(speech), str(tmp_path / "run"), "me", overwrite)
    assert foreign.read_text() == "mine"


def test_a_beginning_that_was_cut_short_is_begun_again(tmp_path, speech, monkeypatch):
    """Killed when its recordings are not all written down."""

    def killed(listed, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "put_recordings", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "run", speech)
    assert prepare(tmp_path / "run", speech).begun is None
    assert {"data/train.arrow", "data/val.arrow"} <= set(everything(tmp_path / "run"))


def tiny(speech, *overrides):
    return load_train_config("sdhubert_tiny", [f"data.source={speech}", *TINY, *overrides], {})


def test_overwriting_removes_what_a_run_has_written_and_nothing_else(tmp_path, speech):
    run = prepare(tmp_path / "run", speech)
    keep_checkpoint(run, 5)
    put_best(run.output, Path(run.output) / "checkpoint_000000005" / CHECKPOINT_FILE, 5, 0.5)
    (tmp_path / "run" / "metrics.csv").write_text("step\n")
    keep_checkpoint(run, 10)
    mine = ("notes.txt", "data/notes.txt", "best/notes.txt", "checkpoint_000000005/notes.txt")
    for name in mine:
        (tmp_path / "run" / name).write_text("mine")
    new = prepare_run(tiny(speech, "lr=0.5"), run.output, "me", overwrite=True)
    new.lease.release()
    assert new.begun is None
    left = everything(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint_000000010").exists()
    assert {*mine, "run.json", "data/train.arrow", "data/val.arrow"} <= set(left)
    assert not [name for name in left if name.endswith((".ckpt", "best.json", "metrics.csv"))]


@pytest.mark.parametrize("mistake", ["source", "resume_ckpt", "itself", "busy"])
def test_nothing_is_removed_before_all_is_checked(tmp_path, speech, mistake):
    run = prepare(tmp_path / "run", speech)
    keep_checkpoint(run, 5)
    before = everything(tmp_path / "run")
    lease = Lease(run.output, "another") if mistake == "busy" else None
    config = {
        "source": tiny(tmp_path / "nowhere"),
        "resume_ckpt": tiny(speech, f"resume_ckpt={tmp_path / 'nowhere'}"),
        "itself": tiny(speech, f"resume_ckpt={run.output}"),
        "busy": tiny(speech),
    }[mistake]
    try:
        with pytest.raises(BusyError if mistake == "busy" else UserError):
            prepare_run(config, run.output, "me", overwrite=True)
    finally:
        if lease is not None:
            lease.release()
    assert everything(tmp_path / "run") == before


def test_a_run_begun_with_anothers_checkpoint_is_resumed_whatever_becomes_of_that(tmp_path, speech):
    first = prepare(tmp_path / "first", speech)
    keep_checkpoint(first, 5)
    second = prepare(tmp_path / "second", speech, f"resume_ckpt={first.output}")
    assert second.config.resume_ckpt.endswith("checkpoint_000000005/checkpoint.ckpt")
    keep_checkpoint(first, 10)
    again = prepare(tmp_path / "second", speech, f"resume_ckpt={first.output}")
    assert again.config.resume_ckpt == second.config.resume_ckpt
    shutil.rmtree(first.output)
    keep_checkpoint(second, 7)
    assert prepare(tmp_path / "second", speech, f"resume_ckpt={first.output}").begun.step == 7


# --- how far it is -------------------------------------------------------------------------------------------------


def status(output, *options):
    return sdhubert("status", output, *options).stdout


def test_status_tells_how_far_a_run_is(tmp_path, speech):
    run = prepare(tmp_path / "run", speech, "max_steps=20")
    told = json.loads(status(run.output, "--json"))
    assert (told["kind"], told["state"], told["step"], told["checkpoint_step"]) == ("training", "interrupted", 0, None)
    assert "no checkpoint yet" in status(run.output)
    keep_checkpoint(run, 10)
    put_best(run.output, Path(run.output) / "checkpoint_000000010" / CHECKPOINT_FILE, 10, 0.25)
    (tmp_path / "run" / "metrics.csv").write_text(
        "step,loss,val_score,steps_per_second,audio_seconds_per_second\n10,2.5,0.25,2.0,9.0\n12,nan,,2.0,9.0\n"
    )
    lease = Lease(run.output, uuid.uuid4().hex)
    try:
        told = json.loads(status(run.output, "--json"))
        assert (told["state"], told["step"], told["max_steps"], told["seconds_left"]) == ("running", 12, 20, 4.0)
        assert (told["best_step"], told["best_score"], told["checkpoint_step"]) == (10, 0.25, 10)
        assert told["metrics"]["loss"] is None
        assert told["metrics"]["val_score"] == 0.25
        shown = status(run.output)
        assert "60 % (12 of 20 steps)" in shown
        assert "about 0.0 hours, at 2 steps/s" in shown
        assert "step 10, val_score 0.2500" in shown
    finally:
        lease.release()
    assert json.loads(status(run.output, "--json"))["state"] == "interrupted"
    keep_checkpoint(run, 20)
    told = json.loads(status(run.output, "--json"))
    assert (told["state"], told["step"], told["seconds_left"]) == ("finished", 20, None)


def test_the_last_step_is_read_from_the_end_of_the_metrics(tmp_path):
    metrics = tmp_path / "metrics.csv"
    assert last_step(str(tmp_path)) == 0
    metrics.write_text("step,loss\n")
    assert last_step(str(tmp_path)) == 0
    metrics.write_text("step,loss\n1,2.5\n2,2.25\n3,2.1")  # the last is being written
    assert last_step(str(tmp_path)) == 2
    metrics.write_text("step,loss\n" + "".join(f"{step},{step / 7}\n" for step in range(1, 9000)))
    assert last_step(str(tmp_path)) == 8999


def test_segments_that_are_no_output_are_refused(tmp_path, speech):
    for source, told in ((tmp_path / "none", "is no output of `sdhubert segment`"), (speech, "is no output of")):
        with pytest.raises(UserError, match=told):
            prepare(tmp_path / "run", speech, "objective=segments", f"segments.source={source}")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_to_begin_with_that_is_not_there_is_refused_at_once(tmp_path, speech):
    with pytest.raises(UserError, match=r"model\.speech_upstream .*none\.pt does not exist"):
        prepare(tmp_path / "run", speech, f"model.speech_upstream={tmp_path / 'none.pt'}")
    assert not (tmp_path / "run").exists()
