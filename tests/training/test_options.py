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
    "model.warmup_steps": 5,
    "model.gamma": 0.5,
    "model.loss_coefs.distillation_loss": 2.0,
    "optim.weight_decay": 0.1,
    "optim.betas": (0.8, 0.9),
    "optim.eps": 1e-4,
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
SEGMENT_OPTIONS = {
    "segments.source": "segmented",
    "segments.layer": 5,
    "segments.noise_share": 0.5,
    "segments.mix_share": 0.5,
    "segments.merge_threshold": (0.5, 0.7),
    "segments.norm_decay": 0.99,
}
"""Of the objective `segments`; norms come by two, see below."""
NORMS = ("segments.speech_norm=[6.1,0.87]", "segments.quiet_norm=[0.34,0.34]")
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
    norms = {text.partition("=")[0] for text in NORMS}
    assert {*RESULT_OPTIONS, *LAYOUT_OPTIONS, *SEGMENT_OPTIONS, *norms, "objective"} == set(known)
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


@pytest.mark.parametrize("key", SEGMENT_OPTIONS)
def test_what_changes_the_weights_of_segments_is_in_the_identity(key):
    value = SEGMENT_OPTIONS[key]
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
    plain, changed = load("objective=segments"), load("objective=segments", f"{key}={text}")
    assert dict(leaves(changed))[key] == value
    assert fingerprint(changed.identity()) != fingerprint(plain.identity())


def test_objective_and_norms_are_in_the_identity():
    one, other, normed = load(), load("objective=segments"), load("objective=segments", *NORMS)
    assert len({str(fingerprint(each.identity())) for each in (one, other, normed)}) == 3


def test_runs_of_before_there_were_other_objectives_go_on():
    """Their fingerprints have no such keys, so that those of today may not have them either."""
    identity = load().identity()
    assert {"objective", "segments"}.isdisjoint(identity)
    assert "warmup_steps" not in identity["model"]
    assert "eps" not in identity["optim"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("segments.layer=5",), "segments.layer is for the objective segments, but objective is sentence"),
        (
            ("objective=segments", "model.final_dim=64"),
            "model.final_dim is for the objective sentence, but objective is",
        ),
        (("objective=segment",), "objective is 'segment'; it has to be one of sentence, segments"),
        (
            ("objective=segments", "segments.source=a", "segments.merge_threshold=[0.5,0.6]"),
            "segments.merge_threshold is for segments that the teacher finds, but segments.source gives them",
        ),
        (("objective=segments", "segments.layer=0"), "segments.layer is 0; the first layer"),
        (("objective=segments", "segments.noise_share=2"), "segments.noise_share is 2.0; it has to be from 0 to 1"),
        (
            ("objective=segments", "segments.merge_threshold=[0.9,0.8]"),
            "segments.merge_threshold is [0.9, 0.8]; it has",
        ),
        (("objective=segments", NORMS[0]), "of segments.speech_norm and segments.quiet_norm one is given"),
        (
            ("objective=segments", "segments.speech_norm=[1,1]", "segments.quiet_norm=[2,1]"),
            "segments.speech_norm has the mean 1, which has to be above that of segments.quiet_norm, 2",
        ),
        (
            ("objective=segments", "segments.speech_norm=[1]", NORMS[1]),
            "segments.speech_norm is [1.0]; it has to be a mean",
        ),
    ],
)
def test_options_of_another_objective_and_bad_ones_are_refused(overrides, told):
    assert told in refusal(*overrides)


def test_the_stages_of_sylber_are_as_published():
    one = load("segments.source=segmented", name="sylber_stage1")
    two = load("model.speech_upstream=stage1.pt", name="sylber_stage2")
    assert (one.objective, one.model.teacher, one.model.lr, one.model.warmup_steps) == ("segments", "frozen", 1e-4, 500)
    assert (two.objective, two.model.teacher, two.model.lr, two.model.ema_decay) == ("segments", "ema", 5e-5, 0.9999)
    for config in (one, two):
        assert (config.optim.betas, config.optim.eps, config.optim.weight_decay) == ((0.9, 0.95), 1e-4, 0.1)
        assert (config.global_batch, config.data.crop_samples, config.model.gamma) == (100, 80_160, 1)
        assert (config.segments.layer, config.segments.noise_share) == (9, 0.2)
    assert two.segments.merge_threshold == (0.8, 0.9)


def test_what_a_stage_of_sylber_leaves_to_its_reader_has_to_be_given():
    assert refusal(name="sylber_stage1") == "config key segments.source has to be given; add segments.source=VALUE"
    assert "config key model.speech_upstream has to be given" in refusal(name="sylber_stage2")


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
