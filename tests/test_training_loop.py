"""The loop of training: what is resumed is what would have been, whoever was killed; logs, checkpoints, refusals."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from trainings import TINY, assert_same_state, last_state, losses, prepare, train_here, write_speech
from typer.testing import CliRunner

from sdhubert_ray import storage
from sdhubert_ray.cli import app
from sdhubert_ray.errors import UserError
from sdhubert_ray.training.checkpoints import CHECKPOINT_FILE, find_checkpoint
from sdhubert_ray.training.data import Share
from sdhubert_ray.training.metrics import read_metrics

pytestmark = [
    # Lightning 2.6 looks at a tree in a way that torch 2.13 has deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # The teacher is in eval mode, and the tests take no processes to read with.
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*:UserWarning"),
]


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"))


# --- in this process -----------------------------------------------------------------------------------------------


def test_random_weights_are_announced_once(tmp_path, speech, caplog):
    for steps in (1, 2):
        train_here(prepare(tmp_path / "run", speech, "data.batch_size=2", f"max_steps={steps}"), tmp_path)
    assert caplog.text.count("RANDOM WEIGHTS: training begins with nothing learnt, as speech_upstream bundled") == 1


def test_a_resumed_run_is_the_undisturbed_one_bit_by_bit(tmp_path, speech):
    """Stopped between validations, and after one; with dropout, accumulation and passes over the data."""
    settings = (
        "data.batch_size=3",
        "val_check_interval=4",
        "checkpoint.every_steps=3",
        "optim.accumulate_grad_batches=2",
    )
    whole = prepare(tmp_path / "whole", speech, *settings, "max_steps=11")
    _, reported = train_here(whole, tmp_path)
    assert [name for name, _ in reported] == [f"checkpoint_{step:09d}" for step in (3, 4, 6, 8, 9, 11)]
    assert [("score" in metrics) for _, metrics in reported] == [False, True, False, True, False, False]
    for stop in (3, 8, 10):
        train_here(prepare(tmp_path / "parts", speech, *settings, f"max_steps={stop}"), tmp_path)
    run = prepare(tmp_path / "parts", speech, *settings, "max_steps=11")
    assert run.begun.step == 10
    train_here(run, tmp_path)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert sorted(losses(tmp_path / "whole")) == list(range(1, 12))
    assert_same_state(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))
    assert last_state(run.output)["sdhubert_progress"] == {"step": 11, "position": 11 * 2 * 3}
    best = {name: find_checkpoint(str(tmp_path / name), "best") for name in ("parts", "whole")}
    assert best["parts"].score == best["whole"].score
    assert best["parts"].step in (4, 8)


def test_a_run_goes_on_with_its_steps_divided_otherwise(tmp_path, speech):
    """As after a change of machines: other micro-batches of the same steps, and validations at the same steps."""
    settings = ("model.dropout=0.0", "lr=1e-4", "val_check_interval=4", "checkpoint.every_steps=3")
    train_here(prepare(tmp_path / "whole", speech, *settings, "data.batch_size=6", "max_steps=9"), tmp_path)
    for stop, batch, micro_batches in ((3, 6, 1), (4, 2, 3), (9, 3, 2)):
        divided = (f"data.batch_size={batch}", f"optim.accumulate_grad_batches={micro_batches}")
        train_here(prepare(tmp_path / "parts", speech, *settings, *divided, f"max_steps={stop}"), tmp_path)
    ours, expected = read_metrics(str(tmp_path / "parts")), read_metrics(str(tmp_path / "whole"))
    assert [row["step"] for row in ours] == [row["step"] for row in expected] == [str(step) for step in range(1, 10)]
    assert [row["step"] for row in ours if row["val_score"]] == ["4", "8"]
    for name in ("loss", "grad_norm", "lr", "center_norm"):
        columns = [[float(row[name]) for row in rows] for rows in (ours, expected)]
        np.testing.assert_allclose(*columns, rtol=1e-3, err_msg=name)
    for key, value in last_state(tmp_path / "whole")["state_dict"].items():
        np.testing.assert_allclose(last_state(tmp_path / "parts")["state_dict"][key], value, atol=1e-5, err_msg=key)


def test_a_machine_that_will_go_is_saved_from(tmp_path, speech):
    run = prepare(tmp_path / "run", speech, "max_steps=4", "data.batch_size=2", "val_check_interval=100")
    told = iter([False, True])  # asked no more once it is known
    _, reported = train_here(run, tmp_path, lambda: next(told))
    assert [name for name, _ in reported] == ["checkpoint_000000002", "checkpoint_000000004"]


def test_bad_recordings_are_counted_and_end_a_run_above_their_share(tmp_path, speech):
    folder = tmp_path / "speech"
    shutil.copytree(speech, folder)
    for number in range(0, 20, 3):
        (folder / f"{number:02d}.flac").write_bytes(b"damaged")
    settings = ("data.batch_size=4", "max_steps=30", "val_check_interval=100")
    refusal, _ = train_here(prepare(tmp_path / "strict", folder, *settings), tmp_path)
    assert "more than data.max_bad_share 0.01" in refusal
    rows = read_metrics(str(tmp_path / "strict"))
    assert float(rows[-1]["skipped"]) >= 10
    assert len(rows) < 30
    refusal, _ = train_here(
        prepare(tmp_path / "lenient", folder, *settings, "data.max_bad_share=0.9", "max_steps=5"), tmp_path
    )
    assert refusal is None
    assert float(read_metrics(str(tmp_path / "lenient"))[-1]["skipped"]) > 0


def test_weights_that_are_no_numbers_end_a_run_and_are_never_kept(tmp_path, speech):
    """By a learning rate that is far too high; what was sound before stays, and can be begun with again."""
    settings = ("data.batch_size=4", "val_check_interval=2", "checkpoint.every_steps=1", "log_every_n_steps=3")
    train_here(prepare(tmp_path / "run", speech, *settings, "max_steps=1"), tmp_path)
    kept = last_state(tmp_path / "run")
    with torch.no_grad():
        kept["state_dict"]["distillation.head.final_lin.bias"].fill_(math.inf)
    torch.save(kept, find_checkpoint(str(tmp_path / "run"), "last").uri)
    refusal, reported = train_here(prepare(tmp_path / "run", speech, *settings, "max_steps=30"), tmp_path)
    assert "loss or gradient has become infinite or NaN by step 3" in refusal
    assert "resume_ckpt" in refusal
    assert reported == []
    assert find_checkpoint(str(tmp_path / "run"), "last").step == 1
    assert find_checkpoint(str(tmp_path / "run"), "best") is None


def test_a_learning_rate_that_is_far_too_high_ends_a_run(tmp_path, speech):
    run = prepare(tmp_path / "run", speech, "data.batch_size=4", "max_steps=40", "val_check_interval=5", "lr=1e30")
    refusal, reported = train_here(run, tmp_path)
    assert "infinite or NaN" in refusal
    assert len(read_metrics(run.output)) < 40
    for name in [name for name, _ in reported]:
        state = torch.load(f"{run.output}/{name}/{CHECKPOINT_FILE}", weights_only=True)["state_dict"]
        assert torch.isfinite(state["distillation.loss.center"]).all()


@pytest.mark.parametrize("source", ["speech", "val"])
def test_nothing_but_bad_recordings_end_a_run(tmp_path, speech, source):
    folder = tmp_path / "junk"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.flac").write_bytes(b"damaged")
    where = {"speech": folder, "val": speech}[source]
    validate = () if source == "speech" else (f"data.val_source={folder}",)
    run = prepare(tmp_path / "run", where, *validate, "data.batch_size=4", "max_steps=4", "val_check_interval=2")
    refusal, _ = train_here(run, tmp_path)
    if source == "speech":
        assert "more than data.max_bad_share" in refusal
    else:
        assert refusal is None  # training has all it needs
        assert find_checkpoint(run.output, "last").step == 4
    assert find_checkpoint(run.output, "best") is None


def test_a_resumed_checkpoint_takes_the_options_of_the_new_run(tmp_path, speech):
    settings = ("data.batch_size=2", "val_check_interval=100")
    train_here(prepare(tmp_path / "first", speech, *settings, "max_steps=3"), tmp_path)
    options = ("lr=1e-6", "optim.weight_decay=0.5", "optim.betas=[0.5,0.6]", "model.teacher_temperature=0.5")
    second = prepare(
        tmp_path / "second", speech, *settings, *options, "max_steps=5", f"resume_ckpt={tmp_path / 'first'}"
    )
    train_here(second, tmp_path)
    expected = [1e-6 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 50)) / 2) for step in (3, 4)]
    np.testing.assert_allclose([float(row["lr"]) for row in read_metrics(second.output)], expected, rtol=1e-6)
    state = last_state(second.output)
    group = state["optimizer_states"][0]["param_groups"][0]
    assert (group["weight_decay"], tuple(group["betas"]), group["initial_lr"]) == (0.5, (0.5, 0.6), 1e-6)
    assert float(state["state_dict"]["distillation.loss.temp_t"]) == 0.5
    assert state["state_dict"]["distillation.loss.center"].abs().sum() > 0


def test_what_cannot_be_resumed_from_is_said(tmp_path, speech):
    settings = ("data.batch_size=2", "val_check_interval=100", "max_steps=3")
    train_here(prepare(tmp_path / "first", speech, *settings), tmp_path)
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    for number, (told, *overrides) in enumerate(
        [
            ("is no checkpoint, or damaged", f"resume_ckpt={tmp_path / 'junk.ckpt'}"),
            ("is no checkpoint of a training run", f"resume_ckpt={tmp_path / 'other.pt'}"),
            ("is of another model", f"resume_ckpt={tmp_path / 'first'}", "model.final_dim=64"),
            ("trained other parts", f"resume_ckpt={tmp_path / 'first'}", "model.freeze_extractor=false"),
            ("resume_ckpt is of step 3, and max_steps is 3", f"resume_ckpt={tmp_path / 'first'}"),
        ]
    ):
        run = prepare(tmp_path / f"run{number}", speech, *settings, *overrides)
        refusal, reported = train_here(run, tmp_path)
        assert told in refusal
        assert not reported


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, speech, caplog):
    settings = ("data.batch_size=3", "val_check_interval=100", "checkpoint.every_steps=2")
    train_here(prepare(tmp_path / "whole", speech, *settings, "max_steps=6"), tmp_path)
    train_here(prepare(tmp_path / "run", speech, *settings, "max_steps=4"), tmp_path)
    last = find_checkpoint(str(tmp_path / "run"), "last")
    content = bytearray(Path(last.uri).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)  # pages that a crash has lost
    Path(last.uri).write_bytes(content)
    train_here(prepare(tmp_path / "run", speech, *settings, "max_steps=6"), tmp_path)
    assert "going on from the one before" in caplog.text
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_resume_ckpt_begins_where_another_run_was(tmp_path, speech):
    settings = ("data.batch_size=2", "val_check_interval=100")
    train_here(prepare(tmp_path / "first", speech, *settings, "max_steps=3"), tmp_path)
    train_here(prepare(tmp_path / "whole", speech, *settings, "max_steps=5"), tmp_path)
    second = prepare(tmp_path / "second", speech, *settings, "max_steps=5", f"resume_ckpt={tmp_path / 'first'}")
    train_here(second, tmp_path)
    assert sorted(losses(tmp_path / "second")) == [4, 5]
    assert losses(tmp_path / "second") == {step: losses(tmp_path / "whole")[step] for step in (4, 5)}


def test_the_learning_rate_follows_the_cosine(tmp_path, speech):
    run = prepare(tmp_path / "run", speech, "max_steps=6", "data.batch_size=2", "T_max=5", "gamma=0.2", "lr=1e-3")
    train_here(run, tmp_path)
    rates = [float(row["lr"]) for row in read_metrics(run.output)]
    expected = [1e-3 * (0.2 + 0.8 * (1 + np.cos(np.pi * min(step, 5) / 5)) / 2) for step in range(6)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


# --- on Ray --------------------------------------------------------------------------------------------------------

STEPS = 14
# Steps of some tenths of a second, so that a process can be killed between two checkpoints.
SLOW = (
    "data.sample_len=0.9",
    "data.batch_size=32",
    "val_check_interval=10",
    "checkpoint.every_steps=5",
    f"max_steps={STEPS}",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, speech):
    """The run that the disturbed ones have to equal, made in this process."""
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    run = prepare(tmp_path / "run", speech, *SLOW)
    train_here(run, tmp_path)
    return run.output


def train_on_ray(run):
    from sdhubert_ray.training.loop import train

    return train(run, None)


def wait_for_step(output, step, is_alive=lambda: True, seconds=120):
    """Wait until a checkpoint of this step is there, whole."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and is_alive():
        found = find_checkpoint(str(output), "last")
        if found is not None and found.step >= step:
            return found.step
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of step {step}")


def training_workers():
    """Those of this process's own Ray: others on this machine may train too."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                yield process


def test_one_process_at_a_time_trains_a_run(tmp_path, speech):
    from sdhubert_ray.output import Lease

    run = prepare(tmp_path / "run", speech)
    lease = Lease(run.output, "another")
    try:
        result = CliRunner().invoke(
            app, ["train", "--config-name", "sdhubert_tiny", "--output", run.output, f"data.source={speech}", *TINY]
        )
    finally:
        lease.release()
    assert result.exit_code == 1
    assert "is being written by another run" in result.output


def test_a_run_that_another_process_has_taken_over_is_ended(tmp_path, monkeypatch):
    from sdhubert_ray.output import lease as module
    from sdhubert_ray.session import IncompleteRunError
    from sdhubert_ray.training import loop

    for where in (module, loop):
        monkeypatch.setattr(where, "BEAT_SECONDS", 0.1)
    lease = module.Lease(str(tmp_path), "mine")
    taken = (tmp_path / "lease.json").read_bytes().replace(b"mine", b"theirs")
    threading.Timer(0.5, storage.put, (str(tmp_path / "lease.json"), taken)).start()
    with pytest.raises(IncompleteRunError, match="another run has taken over"), loop._ended_without(lease):
        time.sleep(20)
    lease.release()
    assert b"theirs" in (tmp_path / "lease.json").read_bytes()
    with loop._ended_without(module.Lease(str(tmp_path / "other"), "mine")):
        time.sleep(0.3)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_the_machine_has_are_refused(tmp_path, speech):
    with pytest.raises(UserError, match="num_workers is 9, but there is room for 4 with 1 CPUs each"):
        train_on_ray(prepare(tmp_path / "run", speech, "scaling.num_workers=9"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_equal_one_with_twice_the_batch(tmp_path, speech):
    """The weights that are exported, after five steps without dropout, to 1e-5; and what is logged."""
    arguments = [f"data.source={speech}", *TINY, "model.dropout=0.0", "max_steps=5", "val_check_interval=5", "lr=1e-4"]
    one, two, exports = tmp_path / "one", tmp_path / "two", []
    for run, workers, batch in ((one, 1, 8), (two, 2, 4)):
        layout = [f"scaling.num_workers={workers}", f"data.batch_size={batch}"]
        for command in (
            ["train", "--config-name", "sdhubert_tiny", "--output", str(run), *arguments, *layout],
            ["export", str(run), f"{run}.pt", "--which", "last"],
        ):
            result = CliRunner().invoke(app, command)
            assert result.exit_code == 0, result.output
        exports.append(torch.load(f"{run}.pt", weights_only=True)["state_dict"])
    assert exports[0].keys() == exports[1].keys()
    for key, value in exports[0].items():
        np.testing.assert_allclose(exports[1][key], value, atol=1e-5, rtol=1e-5, err_msg=key)
    assert last_state(one)["sdhubert_progress"] == last_state(two)["sdhubert_progress"]
    assert sorted(losses(one)) == sorted(losses(two)) == [1, 2, 3, 4, 5]
    for step, row in losses(one).items():
        np.testing.assert_allclose(*(np.array(each[:6], float) for each in (row, losses(two)[step])), rtol=1e-4)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_comes_back_and_the_run_is_the_undisturbed_one(tmp_path, speech, undisturbed):
    run = prepare(tmp_path / "run", speech, *SLOW)
    killed = []

    def kill():
        wait_for_step(run.output, 5)
        for process in training_workers():
            process.kill()
            killed.append(find_checkpoint(run.output, "last").step)

    thread = threading.Thread(target=kill)
    thread.start()
    assert train_on_ray(run) == STEPS
    thread.join()
    assert killed == [5]  # off a checkpoint's step, as those of steps 10 and 14 were not there
    assert losses(run.output) == losses(undisturbed)
    assert sorted(losses(run.output)) == list(range(1, STEPS + 1))
    assert_same_state(last_state(run.output), last_state(undisturbed))


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_lives_in_an_object_store_with_its_audio(tmp_path, speech, s3_bucket):
    """The same numbers as on disk; the second command goes on from what the first has left there."""
    for path in sorted(speech.iterdir()):
        storage.put(f"{s3_bucket}/speech/{path.name}", path.read_bytes())
    settings = [*TINY, "data.batch_size=4", "val_check_interval=2", "checkpoint.keep=1"]
    arguments = ["--config-name", "sdhubert_tiny", "--output", f"{s3_bucket}/runs/one"]
    arguments += [f"data.source={s3_bucket}/speech", *settings]
    for steps in (2, 4):
        command = [sys.executable, "jobs/train.py", *arguments, f"max_steps={steps}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "going on from step 2 of 4" in done.stdout
    run = prepare(tmp_path / "here", speech, *settings, "max_steps=4")
    train_here(run, tmp_path)
    assert losses(f"{s3_bucket}/runs/one") == losses(run.output)
    names = storage.list_files(f"{s3_bucket}/runs/one")
    assert [name for name in names if name.endswith(CHECKPOINT_FILE)] == [f"checkpoint_000000004/{CHECKPOINT_FILE}"]
    assert sum(name.startswith("tensorboard/") for name in names) == 2
    assert find_checkpoint(f"{s3_bucket}/runs/one", "best").score == find_checkpoint(run.output, "best").score


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_reads_the_same_batches(tmp_path, speech):
    from sdhubert_ray.training.data import CropReader, TrainingOrder
    from sdhubert_ray.training.ingest import RayLoader
    from sdhubert_ray.training.recordings import open_recordings

    folder = f"{prepare(tmp_path / 'run', speech).output}/data"
    recordings = open_recordings(folder, "train", tmp_path)
    order = TrainingOrder(len(recordings), 3, Share(1, 2, 4), 7, 8, 5)
    reader = CropReader(recordings, 8_000, 3)
    batches = list(RayLoader(folder, 8_000, 3, order, 2))
    for batch, draws in zip(batches, order, strict=True):
        expected = reader.read_batch(draws)
        assert batch.keys() == expected.keys()
        for key in ("samples", "num_samples", "seeds", "index"):
            assert torch.equal(batch[key], expected[key])
            assert batch[key].dtype == expected[key].dtype
        assert batch["skipped"] == expected["skipped"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_is_gone_on_from_by_the_same_command(tmp_path, speech, undisturbed):
    output = tmp_path / "run"
    arguments = ["--config-name", "sdhubert_tiny", "--output", str(output), f"data.source={speech}", *TINY, *SLOW]
    driver = subprocess.Popen(
        [sys.executable, "jobs/train.py", *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_for_step(output, 5, lambda: driver.poll() is None) == 5
    finally:
        children = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, signal.SIGKILL)
        for process in children:  # Ray ends them, but some seconds later: they would have finished the run
            with contextlib.suppress(psutil.Error):
                process.kill()
        driver.wait()
    assert find_checkpoint(str(output), "last").step == 5
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 0, result.output
    assert "going on from step 5 of 14" in result.output
    assert losses(output) == losses(undisturbed)
    assert_same_state(last_state(output), last_state(undisturbed))
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 0
    assert "14 steps are done" in result.output
