"""Configuration of training: its files, the original's keys, what is refused and how, what makes two runs the same."""

import math

import pytest
import yaml
from option_trees import flatten, leaves, refused
from places import CONFIGS

from sdhubert_ray.output import fingerprint
from sdhubert_ray.training.options import TrainConfig, load_train_config


def load(*overrides, name="sdhubert_paper"):
    return load_train_config(name, overrides, {})


def refusal(*overrides, **given):
    return refused(load, *overrides, **given)


# Another value of each option: what changes the weights, and what does not.
RESULT_OPTIONS = {
    "seed": 1,
    "resume_ckpt": "elsewhere",
    "model.speech_upstream": "tiny",
    "model.reinit_layers": (10, 11),
    "model.ema_decay": 0.99,
    "model.final_dim": 256,
    "model.freeze_extractor": False,
    "model.freeze_pos_embedding": False,
    "model.center_momentum": 0.5,
    "model.perturb_teacher": False,
    "model.teacher": "frozen",
    "model.student_temperature": 0.1,
    "model.teacher_temperature": 0.04,
    "model.dropout": 0.0,
    "model.lr": 0.002,
    "model.T_max": 10,
    "model.gamma": 0.5,
    "model.loss_coefs.distillation_loss": 2.0,
    "optim.weight_decay": 0.1,
    "optim.betas": (0.8, 0.9),
    "optim.gradient_clip_val": 1.0,
    "optim.accumulate_grad_batches": 2,
    "optim.precision": "float32",
    "data.root_dir": "speech",
    "data.train_splits": ("train-clean-100",),
    "data.val_splits": ("dev-other",),
    "data.source": "speech",
    "data.val_source": "speech",
    "data.val_share": 0.2,
    "data.batch_size": 7,
    "data.sample_len": 3.0,
    "data.val_batch_size": 3,
    "scaling.num_workers": 2,
}
LAYOUT_OPTIONS = {
    "name": "mine",
    "max_steps": 7,  # a run may be made longer
    "val_check_interval": 7,
    "limit_val_batches": 0.5,
    "log_every_n_steps": 7,
    "optim.compile": True,
    "optim.max_skipped_steps": 7,
    "data.num_workers": 0,
    "data.prefetch": 7,
    "data.schemes": ("file", "https"),
    "data.max_bad_share": 0.5,
    "scaling.min_workers": 1,
    "scaling.use_gpu": "false",
    "scaling.cpus_per_worker": 3.0,
    "scaling.memory_gib": 3.0,
    "scaling.max_failures": -1,
    "checkpoint.every_steps": 7,
    "checkpoint.keep": 7,
}


def test_every_option_has_its_place():
    known = dict(leaves(TrainConfig()))
    assert set(RESULT_OPTIONS) | set(LAYOUT_OPTIONS) == set(known)
    assert not set(RESULT_OPTIONS) & set(LAYOUT_OPTIONS)
    assert all(known[key] != value for key, value in (RESULT_OPTIONS | LAYOUT_OPTIONS).items())


@pytest.mark.parametrize("key", [*RESULT_OPTIONS, *LAYOUT_OPTIONS])
def test_what_changes_the_weights_is_in_the_identity_and_nothing_else(key):
    value = (RESULT_OPTIONS | LAYOUT_OPTIONS)[key]
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
    changed = load(f"{key}={text}")
    assert dict(leaves(changed))[key] == value
    same = fingerprint(changed.identity()) == fingerprint(TrainConfig().identity())
    assert same == (key in LAYOUT_OPTIONS)


def test_the_file_of_the_paper_tells_every_key_and_its_default():
    text = (CONFIGS / "sdhubert_paper.yaml").read_text()
    assert set(flatten(yaml.safe_load(text))) == {key for key, _ in leaves(TrainConfig())}
    assert load() == TrainConfig()
    assert load().model.lr == 1e-4


def test_the_recipes_differ_where_the_table_of_the_docs_says_so():
    paper, base = (dict(leaves(load(name=name))) for name in ("sdhubert_paper", "sdhubert_base"))
    different = {key: value for key, value in base.items() if value != paper[key]}
    assert different.pop("name") == "sdhubert_base"
    assert different == {
        "model.teacher": "frozen",
        "model.gamma": 1.0,
        "model.loss_coefs.distillation_loss": 100.0,
        "scaling.num_workers": 2,
    }
    assert (load().global_batch, load(name="sdhubert_base").global_batch) == (100, 200)
    table = (CONFIGS.parent / "docs" / "training.md").read_text()
    assert all(key in table for key in different)


def test_the_public_codes_recipe_on_one_gpu_is_the_same():
    one, two = (
        load("scaling.num_workers=1", "optim.accumulate_grad_batches=2", name="sdhubert_base"),
        load(name="sdhubert_base"),
    )
    assert one.identity() == two.identity()


@pytest.mark.parametrize(
    ("overrides", "readers"),
    [
        (("scaling.cpus_per_worker=64",), 6),
        (("scaling.cpus_per_worker=5",), 4),
        (("scaling.cpus_per_worker=2",), 1),
        (("scaling.cpus_per_worker=0.5",), 1),
        ((), 1),
        (("scaling.cpus_per_worker=2", "data.num_workers=9"), 9),
        (("data.num_workers=0",), 0),
    ],
)
def test_readers_are_what_a_worker_has_cpus_for_or_as_told(overrides, readers):
    assert load(*overrides).num_readers == readers


def test_the_tiny_file_is_one():
    tiny = load(name="sdhubert_tiny")
    assert tiny.model.speech_upstream == "tiny"
    assert load(name=str(CONFIGS / "sdhubert_tiny.yaml")) == tiny


def test_the_originals_keys_keep_working(tmp_path):
    """Where they stood: some at the top, and the GPUs as a list."""
    path = tmp_path / "old.yaml"
    path.write_text(
        "name: old\ngpus: [0, 1]\nlr: 2.0e-4\nT_max: 5000\ngamma: 0.2\nloss_coefs:\n  distillation_loss: 0.5\n"
        "resume_ckpt:\nmax_steps: 5000\nlimit_val_batches: 20\nval_check_interval: 500\n"
        "model:\n  speech_upstream: facebook/hubert-base-ls960\n  reinit_layers: [9, 10, 11]\n  ema_decay: 0.999\n"
        "  final_dim: 2048\n  freeze_extractor: true\n  freeze_pos_embedding: true\n  center_momentum: 0.9\n"
        "  perturb_teacher: true\ndata:\n  root_dir: /libri\n  batch_size: 50\n  num_workers: 8\n  sample_len: 80160\n"
    )
    config = load("gpus=4", "lr=3e-4", name=str(path))
    assert (config.model.lr, config.model.T_max, config.model.gamma) == (3e-4, 5000, 0.2)
    assert config.model.loss_coefs.distillation_loss == 0.5
    assert (config.scaling.num_workers, config.scaling.use_gpu) == (4, "true")
    assert load(name=str(path)).scaling.num_workers == 2
    assert config.data.crop_samples == load().data.crop_samples == 80_160
    assert config.global_batch == 200
    assert load("gpus='0,1'").scaling == load("gpus=[0,1]").scaling
    assert load("model.loss_coefs.distill_loss=0.5").model.loss_coefs.distillation_loss == 0.5
    assert load("loss_coefs.distill_loss=0.5", "model.gamma=0.2").model.loss_coefs.distillation_loss == 0.5


def test_the_length_of_a_crop_is_in_seconds_or_samples():
    assert load("data.sample_len=5.01").data.crop_samples == 80_160
    assert load("data.sample_len=80160").data.crop_samples == 80_160
    assert load("data.sample_len=16000").identity() == load("data.sample_len=1.0").identity()


def test_the_same_batch_of_other_workers_is_the_same_run():
    one, two = load("data.batch_size=100"), load("data.batch_size=50", "scaling.num_workers=2")
    half = load("data.batch_size=50", "optim.accumulate_grad_batches=2")
    assert one.global_batch == two.global_batch == half.global_batch == 100
    assert fingerprint(one.identity()) == fingerprint(two.identity()) == fingerprint(half.identity())


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.ema_decy=0.5", "did you mean 'model.ema_decay'"),
        ("batch_size=5", "did you mean 'data.batch_size'"),
        ("data.sample_length=5", "did you mean 'data.sample_len'"),
        ("max_stepps=5", "did you mean 'max_steps'"),
        ("model=5", "model is a section"),
        ("max_steps=many", "max_steps"),
        ("max_steps=0", "max_steps is 0; it has to be a positive number"),
        ("model.ema_decay=1.5", "model.ema_decay is 1.5; it has to be 0 or more and 1 or less"),
        ("model.teacher=none", "model.teacher is 'none'; it has to be one of ema, frozen"),
        ("data.loader=auto", "config key data.loader is gone"),
        ("data.batch_size=0", "data.batch_size is 0"),
        ("data.sample_len=0.01", "data.sample_len is 0.01"),
        ("data.max_bad_share=2", "data.max_bad_share is 2"),
        ("scaling.use_gpu=perhaps", "scaling.use_gpu is 'perhaps'"),
        ("scaling.min_workers=3", "scaling.min_workers is 3; it has to be 1 to 1"),
        ("scaling.max_failures=-2", "scaling.max_failures is -2"),
        ("checkpoint.keep=0", "checkpoint.keep is 0"),
        ("optim.precision=float16", "optim.precision is 'float16'"),
        ("optim.betas=[0.9,1.0]", "optim.betas"),
        ("model.reinit_layers=[-1]", "model.reinit_layers is [-1]"),
        ("gpus=first", "gpus is 'first'"),
        ("gpus=[2,3]", "CUDA_VISIBLE_DEVICES, and give scaling.num_workers=2"),
        ("checkpoint_epoch=1", "give checkpoint.every_steps, in steps"),
        ("check_val_every_n_epoch=1", "give val_check_interval, in steps"),
        ("model.loss_coefs.distillation_loss=.nan", "model.loss_coefs.distillation_loss is nan"),
        ("optim.betas=[0.9]", "optim.betas is [0.9]; it has to be two numbers"),
        ("name=..", "name is '..'"),
        ("name=a/b", "name is 'a/b'"),
        ("max_steps", "is no override"),
    ],
)
def test_mistakes_are_told_with_their_key(override, told):
    assert told in refusal(override)


def test_both_names_of_the_recordings_are_one_too_many():
    assert "data.root_dir and data.source" in refusal("data.root_dir=a", "data.source=b")


def test_an_unknown_configuration_names_the_near_one(tmp_path):
    assert "did you mean sdhubert_base" in refusal(name="sdhubert_bas")
    assert "does not exist" in refusal(name=str(tmp_path / "none.yaml"))


def test_true_of_yaml_is_true(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("scaling:\n  use_gpu: true\n")
    assert load(name=str(path)).scaling.use_gpu == "true"


def test_defaults_are_finite():
    assert all(math.isfinite(value) for _, value in leaves(TrainConfig()) if isinstance(value, float))
