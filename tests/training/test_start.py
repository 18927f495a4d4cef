"""Where training starts: the weights of its upstream, new layers, what is wrong with an upstream."""

import json

import pytest
import torch
from distillations import QUIET, options_of
from foreign import make_folder, make_sylber, make_sylboost, make_vg_hubert, make_wavlm
from transformers import HubertConfig, HubertForCTC, HubertModel

from sdhubert_ray.encoder.checkpoint import load_model, load_plain, pack_checkpoint
from sdhubert_ray.encoder.weights import fetch_checkpoint, fetch_upstream
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.training.start import build_distillation

pytestmark = [QUIET, pytest.mark.usefixtures("one_thread")]


def test_weights_of_the_upstream_are_taken_but_for_new_layers(upstream):
    model = build_distillation(fetch_upstream(str(upstream)), options_of(upstream), seed=0)
    theirs = HubertModel.from_pretrained(upstream).state_dict()
    ours = model.student.speech_model.state_dict()
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        if not name.startswith("encoder.layers.2."):
            assert torch.equal(ours[name], value), name
    assert not torch.equal(
        ours["encoder.layers.2.attention.k_proj.weight"], theirs["encoder.layers.2.attention.k_proj.weight"]
    )
    assert torch.equal(model.mask_vector, theirs["masked_spec_embed"])
    name = "layers.2.attention.k_proj.weight"
    assert torch.equal(model.teacher.state_dict()[name], ours[f"encoder.{name}"])


def test_weights_of_a_model_with_a_task_are_taken(tmp_path, upstream):
    torch.manual_seed(1)
    model = HubertForCTC(HubertConfig(**json.loads((upstream / "config.json").read_text())))
    model.save_pretrained(tmp_path)
    ours = build_distillation(fetch_upstream(str(tmp_path)), options_of(upstream), 0).student.speech_model.state_dict()
    name = "encoder.layers.1.attention.k_proj.weight"
    assert torch.equal(ours[name], model.hubert.state_dict()[name])


def test_weights_pickled_by_torch_are_taken_without_executing_them(tmp_path, upstream):
    weights = HubertModel.from_pretrained(upstream).state_dict()
    (tmp_path / "config.json").write_text((upstream / "config.json").read_text())
    torch.save(weights, tmp_path / "pytorch_model.bin")
    ours = build_distillation(fetch_upstream(str(tmp_path)), options_of(upstream), 0).student.speech_model.state_dict()
    assert torch.equal(ours["encoder.layer_norm.weight"], weights["encoder.layer_norm.weight"])
    (tmp_path / "pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"pytorch_model.bin cannot be read without executing it"):
        fetch_upstream(str(tmp_path))


@pytest.mark.parametrize("name", ["tiny", "folder"])
def test_random_weights_come_from_the_seed(name, tmp_path, upstream):
    if name == "folder":
        (tmp_path / "config.json").write_text((upstream / "config.json").read_text())
        name = str(tmp_path)
    found = fetch_upstream(name)
    assert found.weights is None
    options = options_of(name, reinit_layers=(2,))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (build_distillation(found, options, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not torch.equal(one["student.cls_token"], other["student.cls_token"])


def test_the_cls_vector_begins_as_that_of_the_upstream_or_small(upstream):
    found = fetch_upstream("random")
    small = found._replace(config={**found.config, "num_hidden_layers": 1})
    cls_token = build_distillation(small, options_of("random", reinit_layers=()), 0).student.cls_token
    assert cls_token.std().item() == pytest.approx(768**-0.5, rel=0.1)
    bundled = fetch_upstream("bundled")
    theirs = build_distillation(bundled, options_of("bundled", reinit_layers=()), 0).student.cls_token
    assert torch.equal(theirs, load_plain("", fetch_checkpoint("bundled").data)["state_dict"]["cls_token"].float())


def test_random_is_as_large_as_hubert_base():
    found = fetch_upstream("random")
    assert found.weights is None
    assert found.config["hidden_size"] == 768


def test_what_is_wrong_with_an_upstream_is_said(tmp_path, upstream):
    with pytest.raises(UserError, match=r"speech_upstream 'no/such' is neither a folder .* nor .* from the hub"):
        fetch_upstream("no/such")
    found = fetch_upstream(str(upstream))
    with pytest.raises(UserError, match=r"model.reinit_layers names layer 7, but there are 3"):
        build_distillation(found, options_of(upstream, reinit_layers=(7,)), 0)
    lacking = {name: value for name, value in found.weights.items() if name != "encoder.layer_norm.weight"}
    with pytest.raises(UserError, match=r"lacks key 'encoder.layer_norm.weight'"):
        build_distillation(found._replace(weights=lacking), options_of(upstream), 0)
    with pytest.raises(UserError, match=r"has the unknown key 'decoder'"):
        build_distillation(found._replace(weights=found.weights | {"decoder": torch.ones(1)}), options_of(upstream), 0)
    wrong = found.weights | {"encoder.layer_norm.weight": torch.ones(3)}
    with pytest.raises(UserError, match=r"do not fit its config: size mismatch"):
        build_distillation(found._replace(weights=wrong), options_of(upstream), 0)
    with pytest.raises(UserError, match=r"no encoder of its config"):
        build_distillation(found._replace(config={**found.config, "num_attention_heads": 5}), options_of(upstream), 0)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model.safetensors are damaged"):
        fetch_upstream(str(tmp_path))


# -- encoders of other systems


@pytest.mark.parametrize("make", [make_sylber, make_vg_hubert])
def test_training_begins_with_the_weights_of_another_system(make, tmp_path):
    path, theirs = make(tmp_path)
    found = fetch_upstream(str(path))
    student = build_distillation(found, options_of(path, reinit_layers=(8,)), 0).student
    expected = theirs.speech_model.state_dict()
    for name, value in student.speech_model.state_dict().items():
        # The device of a training that neither file has to have.
        if not name.startswith(("encoder.layers.8.", "masked_spec_embed")):
            assert torch.equal(value, expected[name]), name
    if theirs.prefix:
        assert torch.equal(student.cls_token, theirs.cls_token)


@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
def test_training_begins_with_a_wav2vec2(prefix, tmp_path):
    folder, theirs = make_folder(tmp_path / "its", "wav2vec2", prefix=prefix)
    student = build_distillation(fetch_upstream(str(folder)), options_of(folder, reinit_layers=()), 0).student
    assert student.speech_model.config.model_type == "wav2vec2"
    samples = torch.randn(1, 8_000)
    with torch.no_grad():
        frames = theirs.project(samples, None)
        assert torch.equal(student.project(samples, None), frames)
    checkpoint = pack_checkpoint(
        {"speech_upstream": "a"}, student.speech_model.config.to_dict(), student.state_dict(), {}
    )
    (tmp_path / "ours.pt").write_bytes(checkpoint)
    again = load_model(fetch_checkpoint(str(tmp_path / "ours.pt")), EncoderOptions(4, 4), "float32", "cpu")
    with torch.no_grad():
        (found,), (expected,) = again(samples, None, [4]), student.eval()(samples, None, [4])
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_wavlm, "no encoder of its config .*pre-norm layers"),
        (make_sylboost, "no encoder of its config .*data2vec2"),
        (lambda folder: make_folder(folder / "its", do_stable_layer_norm=True), "pre-norm layers"),
    ],
)
def test_encoders_that_have_no_place_for_a_cls_state_are_refused(make, reason, tmp_path):
    path, _ = make(tmp_path)
    with pytest.raises(UserError, match=reason):
        build_distillation(fetch_upstream(str(path)), options_of(path), 0)
