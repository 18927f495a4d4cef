"""A worker's training, in this process: what is resumed is what would have been; refusals; what is kept of a run."""

import math
import queue
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import QUIET, assert_same_state, last_state, losses, prepare, train_here, write_segments

from sdhubert_ray.errors import UserError
from sdhubert_ray.training.checkpoints import CHECKPOINT_FILE, find_checkpoint
from sdhubert_ray.training.data import Share
from sdhubert_ray.training.fitting import Worker, fit
from sdhubert_ray.training.metrics import read_metrics

pytestmark = [*QUIET, pytest.mark.usefixtures("one_thread")]


def test_random_weights_are_announced_once(tmp_path, speech, caplog):
    for steps in (1, 2):
        train_here(prepare(tmp_path / "run", speech, "data.batch_size=2", f"max_steps={steps}"), tmp_path)
    assert caplog.text.count("RANDOM WEIGHTS: training begins with nothing learnt, as speech_upstream tiny") == 1


BUNDLED = ("model.speech_upstream=bundled", "segments.layer=5", "model.reinit_layers=[]", "objective=segments")


@pytest.mark.seconds
@pytest.mark.parametrize("objective", ["sentence", "given segments", "own segments"])
def test_a_resumed_run_is_the_undisturbed_one_bit_by_bit(tmp_path, speech, objective):
    """Stopped between validations, and after one; with dropout, accumulation and passes over the data."""
    of_objective = {
        "sentence": (),
        "given segments": (
            *BUNDLED,
            f"segments.source={write_segments(tmp_path / 'segments')}",
            "model.teacher=frozen",
        ),
        "own segments": (*BUNDLED, "segments.norm_decay=0.9", "segments.noise_share=0.6", "data.sample_len=0.4"),
    }
    settings = (
        *of_objective[objective],
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
    if objective != "sentence":
        rows = read_metrics(run.output)
        assert all(float(row["segment_rate"]) > 1 for row in rows)
        assert len({row["norm_threshold"] for row in rows}) == len(rows)


def test_norms_that_tell_nothing_are_refused(tmp_path, speech, monkeypatch):
    from sdhubert_ray.training import fitting

    monkeypatch.setattr(fitting, "fit_norms", lambda norms: None)
    run = prepare(tmp_path / "run", speech, *BUNDLED, "data.batch_size=2", "max_steps=1")
    refusal, reported = train_here(run, tmp_path)
    assert "do not tell speech from the rest; give segments.speech_norm and segments.quiet_norm" in refusal
    assert not reported


def test_norms_that_are_given_are_begun_with(tmp_path, speech):
    norms = ("segments.speech_norm=[16,1]", "segments.quiet_norm=[14,1]", "segments.norm_decay=1")
    run = prepare(tmp_path / "run", speech, *BUNDLED, *norms, "data.batch_size=2", "max_steps=1")
    train_here(run, tmp_path)
    assert float(read_metrics(run.output)[0]["norm_threshold"]) == pytest.approx(15)


def test_a_layer_that_the_upstream_lacks_is_refused(tmp_path, speech):
    run = prepare(tmp_path / "run", speech, *BUNDLED, "segments.layer=7", "data.batch_size=2")
    refusal, _ = train_here(run, tmp_path)
    assert "segments.layer is 7, but speech_upstream bundled has 6 layers" in refusal


@pytest.mark.gpu
def test_ten_steps_on_a_gpu_resumed_after_five_are_the_undisturbed_ones(tmp_path, speech):
    """But for the order of sums, which a GPU does not keep."""
    settings = ("data.batch_size=3", "val_check_interval=5", "checkpoint.every_steps=5", "model.dropout=0.0")
    train_here(prepare(tmp_path / "whole", speech, *settings, "max_steps=10"), tmp_path, use_gpu=True)
    for stop in (5, 10):
        train_here(prepare(tmp_path / "parts", speech, *settings, f"max_steps={stop}"), tmp_path, use_gpu=True)
    rows = [read_metrics(str(tmp_path / name)) for name in ("parts", "whole")]
    assert [[row["step"] for row in some] for some in rows] == [[str(step) for step in range(1, 11)]] * 2
    for name in ("loss", "lr", "center_norm"):
        np.testing.assert_allclose(*([float(row[name]) for row in some] for some in rows), rtol=1e-2, err_msg=name)


@pytest.mark.seconds
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
    weights = last_state(tmp_path / "parts")["state_dict"]
    for key, value in last_state(tmp_path / "whole")["state_dict"].items():
        np.testing.assert_allclose(weights[key], value, atol=1e-5, err_msg=key)


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


@pytest.mark.parametrize("every", [1, 100])
def test_weights_that_are_no_numbers_end_a_run_and_are_never_kept(tmp_path, speech, every):
    """Seen where they would have been saved, or by steps that cannot be taken; what was sound before stays."""
    settings = ("data.batch_size=4", "val_check_interval=100", "log_every_n_steps=3", "optim.max_skipped_steps=5")
    first = ("max_steps=1", "checkpoint.every_steps=1")
    train_here(prepare(tmp_path / "run", speech, *settings, *first), tmp_path)
    kept = last_state(tmp_path / "run")
    with torch.no_grad():
        kept["state_dict"]["distillation.head.final_lin.bias"].fill_(math.inf)
    torch.save(kept, find_checkpoint(str(tmp_path / "run"), "last").uri)
    run = prepare(tmp_path / "run", speech, *settings, f"checkpoint.every_steps={every}", "max_steps=30")
    refusal, reported = train_here(run, tmp_path)
    if every == 1:
        assert "weights or moments have become infinite or NaN by step 3; nothing of that has been saved" in refusal
    else:
        assert "loss or gradient was infinite or NaN in 5 steps in a row by step 6; nothing of that" in refusal
        assert [row["skipped_steps"] for row in read_metrics(run.output)][-2:] == ["2.0", "5.0"]
    assert "resume_ckpt" in refusal
    assert reported == []
    assert find_checkpoint(str(tmp_path / "run"), "last").step == 1
    assert find_checkpoint(str(tmp_path / "run"), "best") is None


def test_a_learning_rate_that_is_far_too_high_ends_a_run(tmp_path, speech):
    settings = ("data.batch_size=4", "max_steps=40", "val_check_interval=5", "lr=1e30", "optim.max_skipped_steps=4")
    run = prepare(tmp_path / "run", speech, *settings)
    refusal, reported = train_here(run, tmp_path)
    assert "infinite or NaN in 4 steps in a row by step" in refusal
    rows = read_metrics(run.output)
    assert len(rows) < 20
    assert float(rows[-1]["skipped_steps"]) >= 4
    for name, _ in reported:
        content = torch.load(f"{run.output}/{name}/{CHECKPOINT_FILE}", weights_only=True)
        moments = [value for state in content["optimizer_states"][0]["state"].values() for value in state.values()]
        assert all(torch.isfinite(value).all() for value in (*content["state_dict"].values(), *moments))


def test_a_skipped_step_is_told_and_training_goes_on(tmp_path, speech, monkeypatch, caplog):
    """One crop of one step is not finite, as a damaged decoder might leave it."""
    from sdhubert_ray.training import data

    normalise, made = data.normalise, []

    def spoil(samples, floor):
        made.append(1)
        return normalise(samples, floor) * (math.nan if len(made) == 7 else 1.0)

    monkeypatch.setattr(data, "normalise", spoil)
    settings = ("data.batch_size=4", "val_check_interval=100", "max_steps=4", "checkpoint.every_steps=2")
    run = prepare(tmp_path / "run", speech, *settings)
    refusal, reported = train_here(run, tmp_path)
    assert refusal is None
    assert [float(row["skipped_steps"]) for row in read_metrics(run.output)] == [0, 1, 1, 1]
    assert [metrics["skipped_steps"] for _, metrics in reported] == [1, 1]
    assert "steps skipped up to step 2, as loss or gradient was infinite or NaN: 1; 1 in all" in caplog.text
    assert all(value.isfinite().all() for value in last_state(run.output)["state_dict"].values())


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


def test_recordings_that_have_been_mended_are_not_held_against_a_run(tmp_path, speech):
    """Counted before: 20 bad ones and none used, which no share allows."""
    settings = ("data.batch_size=4", "val_check_interval=100", "checkpoint.every_steps=1", "log_every_n_steps=1")
    train_here(prepare(tmp_path / "run", speech, *settings, "max_steps=1"), tmp_path)
    kept = last_state(tmp_path / "run")
    kept["state_dict"]["skipped"].fill_(20)
    torch.save(kept, find_checkpoint(str(tmp_path / "run"), "last").uri)
    refusal, _ = train_here(prepare(tmp_path / "run", speech, *settings, "max_steps=3"), tmp_path)
    assert refusal is None
    assert float(read_metrics(str(tmp_path / "run"))[-1]["skipped"]) == 20


def test_what_the_first_worker_refuses_all_refuse(tmp_path, speech, monkeypatch):
    """Two workers whose words are exchanged as Ray does it, one after the other, and as often as the first one says."""
    from sdhubert_ray.training import fitting

    def no_listing(output):
        raise UserError("the folder cannot be listed")

    for name, broken in (("find_sound_checkpoint", no_listing), ("open_recordings", lambda *_: no_listing(""))):
        with monkeypatch.context() as patch:
            patch.setattr(fitting, name, broken)
            run = prepare(tmp_path / name, speech, "data.batch_size=2")
            words = queue.Queue()

            def agree(rank, word, words=words):
                if rank == 0:
                    words.put(word)
                    return word
                return words.get(timeout=120)

            def start(rank, run=run, agree=agree):
                worker = Worker(
                    output=run.output,
                    share=Share(rank, 2, 2),
                    folder=tmp_path,
                    shared=tmp_path,
                    use_gpu=False,
                    strategy="auto",
                    environments=(),
                    report=None,
                    is_going=None,
                    agree=partial(agree, rank),
                )
                return fit(run.config, worker)

            with ThreadPoolExecutor(2) as pool:
                assert list(pool.map(start, range(2))) == ["the folder cannot be listed"] * 2
            assert words.empty()


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


@pytest.mark.slow
def test_a_tiny_model_learns_of_real_speech(tmp_path, real_speech, caplog):
    """Cosines of two crops of one held-back recording are over those of different ones by 0.1 more than at first.

    From random weights, so that the extractor is trained, too. Neither student nor teacher collapses.
    """
    config = ("data.val_share=0.1", "data.sample_len=1.0", "data.batch_size=32", "data.val_batch_size=25")
    model = ("model.freeze_extractor=false", "model.ema_decay=0.98", "model.T_max=150", "limit_val_batches=1")
    speech = real_speech / "librispeech_train_clean_100"
    first = ("lr=1e-12", "max_steps=1", "val_check_interval=1")  # a step that leaves the weights as they were
    train_here(prepare(tmp_path / "first", speech, *config, *model, *first), tmp_path)
    train_here(prepare(tmp_path / "run", speech, *config, *model, "max_steps=60", "val_check_interval=60"), tmp_path)
    (before,), rows = read_metrics(str(tmp_path / "first")), read_metrics(str(tmp_path / "run"))
    after = rows[-1]
    assert float(after["val_margin"]) > float(before["val_margin"]) + 0.1
    assert float(after["val_score"]) > float(before["val_score"])
    for name in ("student_cls_spread", "teacher_cls_spread"):
        assert float(after[name]) > 0.3, name
    assert float(after["information"]) > 0.5
    assert "COLLAPSE" not in caplog.text


def test_the_learning_rate_follows_the_cosine(tmp_path, speech):
    run = prepare(tmp_path / "run", speech, "max_steps=6", "data.batch_size=2", "T_max=5", "gamma=0.2", "lr=1e-3")
    train_here(run, tmp_path)
    rates = [float(row["lr"]) for row in read_metrics(run.output)]
    expected = [1e-3 * (0.2 + 0.8 * (1 + np.cos(np.pi * min(step, 5) / 5)) / 2) for step in range(6)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
