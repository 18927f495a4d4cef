"""From a training run to a checkpoint that segments: the official format, bit for bit the student's states."""

import copy
import hashlib
import json

import lightning
import numpy as np
import pytest
import safetensors.torch
import torch
from commands import complaint, sdhubert
from huggingface_hub import ModelCard
from trainings import last_state, prepare, train_here, write_segments
from transformers import HubertConfig, HubertModel

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.convolutions import fold_weight_norm
from sdhubert_ray.encoder.weights import fetch_upstream
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.training.distillation import Head
from sdhubert_ray.training.export import export_checkpoint
from sdhubert_ray.training.metrics import read_metrics
from sdhubert_ray.training.module import DistillationModule
from sdhubert_ray.training.options import ModelOptions, OptimOptions

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*isinstance.treespec, LeafSpec.* is deprecated.*",  # Lightning's own use of it
    # The teacher and the frozen parts.
    "ignore:Found .* in eval mode at the start of training.*",
    "ignore:You defined a `validation_step` but have no `val_dataloader`.*",
)

SAMPLES = 8000


class Noise:
    """Batches of noise without end."""

    def __init__(self, perturbing):
        self.perturbing = perturbing

    def __iter__(self):
        rng = np.random.default_rng(0)
        while True:
            batch = {
                "samples": torch.from_numpy(rng.standard_normal((2, SAMPLES)).astype(np.float32)),
                "num_samples": torch.tensor([SAMPLES, SAMPLES // 2]),
                "seeds": torch.from_numpy(rng.integers(1000, size=2)),
                "index": torch.arange(2),
                "skipped": 0,
            }
            yield batch | self.perturbing.draw(batch["seeds"], batch["num_samples"], SAMPLES)


def train(module, steps=2):
    """A trainer that has trained a little, so that student, teacher and start differ."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Noise(module.views(training=True)))
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder as `sdhubert train` leaves it, and the model that was saved in it."""
    run = tmp_path_factory.mktemp("run")
    options = ModelOptions("tiny", final_dim=128, lr=1e-3, T_max=10)
    module = DistillationModule(options, OptimOptions(), 0, fetch_upstream("tiny"))
    trainer = train(module)
    (run / "run.json").write_text("{}")
    trainer.save_checkpoint(run / "checkpoint_000000002" / "checkpoint.ckpt")
    return run, module.eval()


@pytest.fixture
def exported(trained, tmp_path):
    run, module = trained
    result = export_checkpoint(str(run), str(tmp_path / "ours.pt"), "last")
    assert result.step == 2
    return tmp_path / "ours.pt", module


def test_exported_student_has_the_same_states_bit_for_bit(exported):
    path, module = exported
    model = load_model(fetch_checkpoint(str(path)), EncoderOptions(12, 12), "float32", "cpu")
    rng = np.random.default_rng(1)
    samples = torch.from_numpy(rng.standard_normal((3, 20_000)).astype(np.float32))
    counts = torch.tensor([20_000, 12_345, 400])
    trained = copy.deepcopy(module.distillation.student)
    fold_weight_norm(trained.speech_model.encoder.pos_conv_embed.conv)  # training sums its norm in float32
    trained.transform_positions()  # and convolves directly
    with torch.inference_mode():
        student = trained(samples, counts, list(range(13)))
        found = model(samples, counts, list(range(13)))
    for ours, expected in zip(found, student, strict=True):
        assert torch.equal(ours, expected)
    teacher = module.distillation.teacher.layers.state_dict()
    trained_layers = module.distillation.student.speech_model.encoder.layers.state_dict()
    assert any(not torch.equal(value, trained_layers[name]) for name, value in teacher.items())


def test_names_and_config_are_the_official_ones(exported, tiny_checkpoint):
    path, module = exported
    ours, official = (torch.load(file, weights_only=True) for file in (path, tiny_checkpoint))
    head = {f"{name}": value.shape for name, value in Head(48, 128).state_dict().items()}
    shapes = {name: value.shape for name, value in official["state_dict"].items()} | head
    assert {name: value.shape for name, value in ours["state_dict"].items()} == shapes
    assert ours["config"] == official["config"] | {"final_dim": 128, "speech_upstream": "tiny"}
    assert set(ours) == {"config", "state_dict", "segmentation", "upstream"}
    state, loss = ours["state_dict"], module.distillation.loss
    assert torch.equal(state["center"], loss.center)
    assert state["center"].abs().sum() > 0
    assert state["center_momentum_"] == pytest.approx(0.9)
    assert (state["temp_s"], state["temp_t"]) == (pytest.approx(0.2), pytest.approx(0.05))
    assert torch.equal(state["masked_spec_embed"], module.distillation.mask_vector)
    assert torch.equal(state["final_lin.weight"], module.distillation.head.final_lin.weight)


def test_no_larger_than_what_it_holds(exported):
    """Without the teacher and the optimizer, which share no memory with what is written."""
    path, _ = exported
    state = torch.load(path, weights_only=True)["state_dict"]
    held = sum(value.numel() * value.element_size() for value in state.values())
    assert path.stat().st_size < held + 1000 * len(state)


def test_exported_checkpoint_segments_with_the_options_it_carries(exported, golden):
    path, _ = exported
    checkpoint = fetch_checkpoint(str(path))
    assert checkpoint.options["encoder"] == {"layer": 9, "normcut_layer": 11}
    for preset in ("readme", "paper"):
        options = SDHuBERTSegmenter(path, preset=preset).options
        assert (options.encoder.layer, options.encoder.normcut_layer) == (9, 11)
        assert (options.speech.normcut_strategy, options.speech.normcut_threshold) == ("relative", 0.1)
    result = MincutWrapper()(SDHuBERTSegmenter(path)(golden / "audio" / "synth_0.flac"))
    assert result["features"].shape[1] == 48


def test_the_encoders_config_travels_inside(exported, tmp_path, monkeypatch):
    """Not beside, where it can be lost, or be another one's."""
    path, module = exported
    assert [entry.name for entry in tmp_path.iterdir()] == ["ours.pt"]
    assert fetch_checkpoint(str(path)).upstream == module.upstream_config
    for folder in ("upstream", "tiny"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text('{"hidden_size": 3}')
    monkeypatch.chdir(tmp_path)
    assert fetch_checkpoint("ours.pt").upstream == module.upstream_config
    content = torch.load(path, weights_only=True)
    torch.save(content | {"upstream": "tiny"}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="'upstream' that is no encoder's config"):
        fetch_checkpoint(str(tmp_path / "odd.pt"))


def test_best_and_last_are_told_apart(trained, tmp_path):
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    source = trained[0] / "checkpoint_000000002" / "checkpoint.ckpt"
    content = torch.load(source, weights_only=True)
    (run / "checkpoint_000000002").mkdir()
    (run / "checkpoint_000000002" / "checkpoint.ckpt").write_bytes(source.read_bytes())
    with pytest.raises(UserError, match=r"has no best checkpoint, as no validation has been done; take --which last"):
        export_checkpoint(str(run), str(tmp_path / "out.pt"), "best")
    torch.save(content | {"global_step": 1}, run / "best" / "step_000000001.ckpt")
    (run / "best.json").write_text(json.dumps({"file": "best/step_000000001.ckpt", "step": 1, "score": 0.5}))
    assert export_checkpoint(str(run), str(tmp_path / "out.pt"), "best").step == 1
    assert export_checkpoint(str(run), str(tmp_path / "out.pt"), "last").step == 2
    assert export_checkpoint(str(run / "checkpoint_000000002"), str(tmp_path / "out.pt")).step == 2


def test_what_cannot_be_exported_is_said(trained, tmp_path, tiny_checkpoint):
    run, out = trained[0], str(tmp_path / "out.pt")
    for target in (tmp_path, run / "run.json"):
        with pytest.raises(UserError, match=r"name a file that ends with \.pt"):
            export_checkpoint(str(run), str(target), "last")
    with pytest.raises(UserError, match=r"'newest'; it has to be last or best"):
        export_checkpoint(str(run), out, "newest")
    with pytest.raises(UserError, match=r"there is no checkpoint in .*nowhere"):
        export_checkpoint(str(tmp_path / "nowhere"), out, "last")
    with pytest.raises(UserError, match=r"tiny.pt is of no training by sdhubert_ray"):
        export_checkpoint(str(tiny_checkpoint), out)
    (tmp_path / "damaged.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"damaged.ckpt cannot be read without executing it, or is damaged"):
        export_checkpoint(str(tmp_path / "damaged.ckpt"), out)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"begun has no checkpoint yet"):
        export_checkpoint(str(tmp_path / "begun"), out, "last")


def test_a_run_from_a_folder_exports_that_folders_config(tmp_path):
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(config).save_pretrained(tmp_path / "start")
    options = ModelOptions(str(tmp_path / "start"), reinit_layers=(1,), final_dim=8)
    module = DistillationModule(options, OptimOptions(), 0, fetch_upstream(options.speech_upstream))
    train(module).save_checkpoint(tmp_path / "run.ckpt")
    export_checkpoint(str(tmp_path / "run.ckpt"), str(tmp_path / "out" / "ours.pt"))
    checkpoint = fetch_checkpoint(str(tmp_path / "out" / "ours.pt"))
    assert checkpoint.upstream["hidden_size"] == 16
    assert checkpoint.options["encoder"] == {"layer": 2, "normcut_layer": 2}
    model = load_model(checkpoint, EncoderOptions(2, 2), "float32", "cpu")
    assert model.num_layers == 2


def test_command_line(trained, tmp_path):
    done = sdhubert("export", trained[0], tmp_path / "ours.pt", "--which", "last")
    assert done.stdout.startswith("step 2 ")
    assert fetch_checkpoint(str(tmp_path / "ours.pt")).options["encoder"]["layer"] == 9
    refused = sdhubert("export", trained[0], tmp_path / "ours.pt", "--which", "last", expect=2)
    assert "ours.pt is there already; name another file, or --overwrite it" in complaint(refused)
    sdhubert("export", trained[0], tmp_path / "ours.pt", "--which", "last", "--overwrite")
    mistyped = sdhubert("export", trained[0], tmp_path / "ourz/ours.pt", "--which", "last", expect=2)
    assert f"there is no folder {tmp_path}/ourz" in complaint(mistyped)
    refused = sdhubert("export", trained[0], tmp_path / "best.pt", expect=2)
    assert "take --which last" in complaint(refused)
    assert len(refused.stderr.splitlines()) == 1


# -- as a folder for the hub


@pytest.fixture
def exported_folder(trained, tmp_path):
    sdhubert("export", trained[0], tmp_path / "ours", "--hub", "--which", "last")
    return tmp_path / "ours"


def assert_same_features(one, other, sound):
    found, expected = (SDHuBERTSegmenter(path, device="cpu")(sound) for path in (one, other))
    for key in ("features", "norm", "mask", "segments"):
        np.testing.assert_array_equal(found[key], expected[key])


def test_a_folder_loads_back_bit_for_bit(exported, exported_folder, golden):
    sound = golden / "audio" / "synth_0.flac"
    assert_same_features(exported_folder, exported[0], sound)
    checkpoint = fetch_checkpoint(str(exported_folder))
    assert checkpoint.options == fetch_checkpoint(str(exported[0])).options
    assert checkpoint.upstream == fetch_checkpoint(str(exported[0])).upstream
    state = safetensors.torch.load_file(exported_folder / "model.safetensors")
    packed = torch.load(exported[0], weights_only=True)["state_dict"]
    assert state.keys() == packed.keys()
    assert all(torch.equal(state[key], value) and state[key].dtype == value.dtype for key, value in packed.items())


@pytest.mark.parametrize("name", ["bundled", "tiny"])
def test_any_checkpoint_becomes_a_folder(name, tiny_checkpoint, tmp_path, golden):
    source = {"tiny": str(tiny_checkpoint)}.get(name, name)
    done = sdhubert("export", source, tmp_path / "folder", "--hub")
    assert f"sdhubert segment --checkpoint {tmp_path / 'folder'}" in done.stdout
    assert_same_features(tmp_path / "folder", source, golden / "audio" / "synth_3.flac")


def test_the_card_is_one_of_the_hub(exported_folder):
    content = (exported_folder / "README.md").read_text()
    card = ModelCard(content)
    assert card.data.library_name == "sdhubert_ray"
    assert "syllables" in card.data.tags
    assert "| trained for | 2 steps |" in card.text
    assert "speech.normcut_threshold=0.1" in card.text
    state = safetensors.torch.load_file(exported_folder / "model.safetensors")
    assert f"| weights | {sum(value.numel() for value in state.values()):,} |" in content
    assert str(exported_folder.parent) not in content
    assert sorted(path.name for path in exported_folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_digest_of_a_folder_is_that_of_its_weights(exported_folder):
    digest = hashlib.sha256((exported_folder / "model.safetensors").read_bytes()).hexdigest()
    fetch_checkpoint(f"{exported_folder}@sha256:{digest}")
    with pytest.raises(UserError, match="has the SHA-256"):
        fetch_checkpoint(f"{exported_folder}@sha256:{'0' * 64}")


def damage_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is a folder; name the .pt file in it"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "hubert"}'),
            "is a folder; name the .pt file",
        ),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "config .*config.json of checkpoint .* cannot be read",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "sdhubert"}'), "was it exported"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors beside its config"),
        (damage_weights, "the weights of checkpoint .* are damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is empty"),
    ],
)
def test_a_damaged_folder_is_refused(exported_folder, damage, sentence):
    damage(exported_folder)
    with pytest.raises(UserError, match=sentence):
        SDHuBERTSegmenter(exported_folder, device="cpu")


def test_a_folder_is_not_written_where_something_is(trained, exported_folder, tmp_path):
    command = ["export", trained[0], exported_folder, "--hub", "--which", "last"]
    assert "holds README.md already" in complaint(sdhubert(*command, expect=2))
    sdhubert(*command, "--overwrite")
    (tmp_path / "file").write_text("mine")
    assert "is a file; name a folder" in complaint(sdhubert("export", trained[0], tmp_path / "file", "--hub", expect=2))
    said = complaint(sdhubert("export", trained[0], tmp_path / "no" / "folder", "--hub", expect=2))
    assert "there is no folder" in said
    said = complaint(sdhubert("export", "nowhere.pt", tmp_path / "new", "--hub", expect=2))
    assert "checkpoint nowhere.pt does not exist" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.seconds
def test_a_student_of_segments_is_exported_with_its_thresholds_and_begun_with(tmp_path, speech):
    """It ends with the layer that was trained, segments greedily, and is the upstream of a second stage."""
    settings = ("objective=segments", "segments.layer=3", "model.reinit_layers=[]", "data.batch_size=2", "max_steps=2")
    given = (f"segments.source={write_segments(tmp_path / 'given')}", "model.teacher=frozen")
    run = prepare(tmp_path / "run", speech, *settings, *given)
    train_here(run, tmp_path)
    path = tmp_path / "one.pt"
    export_checkpoint(run.output, str(path), "last")
    checkpoint = fetch_checkpoint(str(path))
    assert checkpoint.upstream["num_hidden_layers"] == 3
    threshold = float(read_metrics(run.output)[-1]["norm_threshold"])
    assert checkpoint.options == {
        "encoder": {"layer": 3, "normcut_layer": 3},
        "speech": {
            "normcut_strategy": "absolute",
            "normcut_threshold": -1.0,
            "silence_threshold": None,
            "min_span_frames": 0,
        },
        "syllables": {
            "segmenter": "greedy",
            "greedy": {"norm_threshold": round(threshold, 3), "merge_threshold": 0.8},
        },
    }
    sdhubert("segment", speech, tmp_path / "out", "--checkpoint", path, "--engine", "local")
    norms = ("segments.speech_norm=[7,1]", "segments.quiet_norm=[5,1]", f"model.speech_upstream={path}")
    second = prepare(tmp_path / "second", speech, *settings, *norms)
    assert second.config.model.speech_upstream == str(path)
    train_here(second, tmp_path)
    trained = last_state(run.output)["state_dict"]["distillation.student.cls_token"]
    begun = fetch_upstream(str(path)).weights["cls_token"]
    assert torch.equal(begun, trained)
    assert len(read_metrics(second.output)) == 2
