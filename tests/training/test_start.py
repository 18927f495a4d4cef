"""Where training starts: the weights of its upstream, new layers, what is wrong with an upstream."""

import json

import pytest
import torch
from distillations import QUIET, options_of
from transformers import HubertConfig, HubertForCTC, HubertModel

from sdhubert_ray.encoder.checkpoint import load_plain
from sdhubert_ray.encoder.weights import fetch_checkpoint, fetch_upstream
from sdhubert_ray.errors import UserError
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
