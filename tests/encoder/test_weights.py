"""Where checkpoints come from: by name, path and URI, with a digest; and where their encoder's config does."""

import dataclasses
import hashlib
import io
import json
import logging
import shutil

import pytest
import torch
import transformers
from models import HUB_BASE, checkpoint_bytes

from sdhubert_ray.encoder import weights
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.convolutions import fold_weight_norm
from sdhubert_ray.encoder.weights import fetch_checkpoint
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import EncoderOptions
from sdhubert_ray.training.options import ModelOptions
from sdhubert_ray.training.start import build_distillation


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_a_digest_can_be_given_of_any_checkpoint(tiny_checkpoint, change):
    digest = change(hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest())
    assert (
        fetch_checkpoint(f"{tiny_checkpoint}@sha256:{digest}").sha256 == fetch_checkpoint(str(tiny_checkpoint)).sha256
    )
    with pytest.raises(UserError, match="has the SHA-256"):
        fetch_checkpoint(f"{tiny_checkpoint}@sha256:{digest[1:]}{digest[0]}")
    for wrong in ("", "abc"):  # the first is a variable of the shell that is not set
        with pytest.raises(UserError, match=f"'{wrong}' is no SHA-256; it has 64 hexadecimal digits"):
            fetch_checkpoint(f"{tiny_checkpoint}@sha256:{wrong}")


def test_a_digest_that_somebody_keeps_beside_a_checkpoint_is_theirs(tmp_path, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "c")
    (tmp_path / "c" / "tiny.pt.sha256").write_text("SHA256 (tiny.pt) = 00\n")
    fetch_checkpoint(str(tmp_path / "c" / "tiny.pt"))


def test_hub_models_are_asked_for_by_revision(tmp_path, monkeypatch):
    asked = []

    def answer(_, repository, revision, output_loading_info=False):
        asked.append((repository, revision))
        raise OSError("there is no network here")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", classmethod(answer))
    monkeypatch.setattr(transformers.HubertConfig, "from_pretrained", classmethod(answer))
    for name in ("some/hubert", "some/hubert@3f2a"):
        with pytest.raises(UserError, match="no network"):
            weights.fetch_upstream(name)
        with pytest.raises(UserError, match="no network"):
            fetch_checkpoint(write_checkpoint(tmp_path, name))
    assert asked == [("some/hubert", "main")] * 2 + [("some/hubert", "3f2a")] * 2


# -- the bundled one


def test_bundled_is_small_and_brings_its_options(caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint = fetch_checkpoint("bundled")
    assert caplog.records == []
    assert checkpoint.name == "bundled"
    assert len(checkpoint.data) < 12e6
    assert checkpoint.options["speech"]["normcut_strategy"] == "absolute"
    state = torch.load(io.BytesIO(checkpoint.data), weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float16}


def test_half_precision_is_of_the_file_only():
    """The positional convolution is folded of float32 weights, not rounded to half once more."""
    checkpoint = fetch_checkpoint("bundled")
    content = torch.load(io.BytesIO(checkpoint.data), weights_only=True)
    whole = {key: value.float() for key, value in content["state_dict"].items()}
    buffer = io.BytesIO()
    torch.save(content | {"state_dict": whole}, buffer)
    layers = EncoderOptions(1, 1)
    half, single = (
        load_model(one, layers, "float32", "cpu").state_dict()
        for one in (checkpoint, dataclasses.replace(checkpoint, data=buffer.getvalue()))
    )
    assert all(torch.equal(value, single[key]) for key, value in half.items())


def test_training_may_begin_with_the_bundled_one():
    found = weights.fetch_upstream("bundled")
    checkpoint = fetch_checkpoint("bundled")
    assert found.config == checkpoint.upstream
    options = ModelOptions("bundled", reinit_layers=(), final_dim=16)
    student = build_distillation(found, options, 0).student
    ours = load_model(checkpoint, EncoderOptions(6, 6), "float32", "cpu")
    fold_weight_norm(student.speech_model.encoder.pos_conv_embed.conv)
    student.transform_positions()
    expected = ours.speech_model.state_dict()
    state = student.speech_model.state_dict()
    assert set(state) - set(expected) == {"masked_spec_embed"}
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_the_bundled_one_may_be_asked_for_by_its_digest():
    data = fetch_checkpoint("bundled").data
    assert fetch_checkpoint(f"bundled@sha256:{hashlib.sha256(data).hexdigest()}").data == data
    with pytest.raises(UserError, match="has the SHA-256"):
        fetch_checkpoint(f"bundled@sha256:{'0' * 64}")


def test_other_checkpoints_announce_nothing(caplog, tiny_checkpoint):
    with caplog.at_level(logging.WARNING):
        fetch_checkpoint(str(tiny_checkpoint))
    assert caplog.records == []


# -- paths and URIs


@pytest.mark.parametrize("name", ["nowhere.pt", "no/such/folder/tiny.pt", "sdhubert-base"])
def test_missing_path_names_what_else_there_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"checkpoint {name} does not exist.*sdhubert_base.*bundled"):
        fetch_checkpoint(name)


@pytest.mark.parametrize("ending", ["", "/"])
def test_folder_is_told_apart_from_a_file(golden, ending):
    folder = f"{golden / 'checkpoint'}{ending}"
    with pytest.raises(UserError, match=r"is a folder; name the \.pt file in it"):
        fetch_checkpoint(folder)


def test_a_file_taken_for_a_folder(tiny_checkpoint):
    with pytest.raises(UserError, match="checkpoint"):
        fetch_checkpoint(f"{tiny_checkpoint}/tiny.pt")


def test_unknown_scheme_is_one_sentence():
    with pytest.raises(UserError, match=r"nosuchscheme://bucket/tiny\.pt"):
        fetch_checkpoint("nosuchscheme://bucket/tiny.pt")


def test_any_uri_gives_the_same_checkpoint(golden, tiny_checkpoint, monkeypatch):
    import fsspec

    memory = fsspec.filesystem("memory")
    upstream = golden / "checkpoint" / "upstream" / "config.json"
    memory.pipe(
        {"/models/tiny.pt": tiny_checkpoint.read_bytes(), "/models/upstream/config.json": upstream.read_bytes()}
    )
    monkeypatch.chdir(tiny_checkpoint.parent)
    expected = json.loads(upstream.read_text())
    identities = set()
    for name in (str(tiny_checkpoint), "tiny.pt", "./tiny.pt", f"file://{tiny_checkpoint}", "memory://models/tiny.pt"):
        checkpoint = fetch_checkpoint(name)
        assert checkpoint.name == name
        assert checkpoint.data == tiny_checkpoint.read_bytes()
        assert dict(checkpoint.upstream) == expected
        identities.add(checkpoint.sha256)
    assert len(identities) == 1
    memory.rm("/models", recursive=True)


# -- speech_upstream


def write_checkpoint(folder, upstream):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ours.pt"
    path.write_bytes(checkpoint_bytes(upstream))
    return str(path)


def write_config(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text)


def test_an_upstream_folder_is_that_beside_and_none_of_the_working_directory(tmp_path, monkeypatch):
    """Another encoder's shape may fit the weights too: two heads instead of four give other features."""
    monkeypatch.chdir(tmp_path)
    name = write_checkpoint(tmp_path / "models", "shape")
    write_config(tmp_path / "shape", '{"hidden_size": 1}')
    with pytest.raises(UserError, match=r"'shape' of checkpoint .* is a folder of the working directory"):
        fetch_checkpoint(name)
    write_config(tmp_path / "models" / "shape", '{"hidden_size": 2}')
    assert fetch_checkpoint(name).upstream == {"hidden_size": 2}


def test_upstream_may_be_an_absolute_folder(tmp_path):
    write_config(tmp_path / "elsewhere", '{"hidden_size": 3}')
    name = write_checkpoint(tmp_path / "models", str(tmp_path / "elsewhere"))
    uri = write_checkpoint(tmp_path / "more", f"file://{tmp_path}/elsewhere")
    assert fetch_checkpoint(uri).upstream == {"hidden_size": 3}
    assert fetch_checkpoint(name).upstream == {"hidden_size": 3}


def test_hubert_base_needs_no_network(tmp_path):
    """The published shape of HuBERT-base."""
    upstream = fetch_checkpoint(write_checkpoint(tmp_path, HUB_BASE)).upstream
    shape = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_bias": False,
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
    }
    assert {key: upstream[key] for key in shape} == shape


def test_a_folder_beside_replaces_the_offline_config(tmp_path):
    write_config(tmp_path / HUB_BASE, '{"hidden_size": 4}')
    assert fetch_checkpoint(write_checkpoint(tmp_path, HUB_BASE)).upstream == {"hidden_size": 4}


@pytest.mark.parametrize("upstream", ["someone/no-such-hubert", "no-such-folder", "../outside"])
def test_unknown_upstream_without_network_is_one_sentence(tmp_path, upstream):
    name = write_checkpoint(tmp_path, upstream)
    with pytest.raises(UserError) as refused:
        fetch_checkpoint(name)
    sentence = str(refused.value)
    assert repr(upstream) in sentence
    assert "config.json" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("text", ["{", "[1, 2]", "null", '"hubert"'])
def test_upstream_config_that_is_none_is_refused_by_path(tmp_path, text):
    name = write_checkpoint(tmp_path, "shape")
    write_config(tmp_path / "shape", text)
    with pytest.raises(UserError, match=r"shape/config\.json"):
        fetch_checkpoint(name)


def test_upstream_config_that_is_a_folder_is_refused_by_path(tmp_path):
    name = write_checkpoint(tmp_path, "shape")
    (tmp_path / "shape" / "config.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"shape/config\.json"):
        fetch_checkpoint(name)


def test_checkpoint_moves_with_its_upstream(tmp_path, golden):
    shutil.copytree(golden / "checkpoint", tmp_path / "moved ünd spaced")
    original = fetch_checkpoint(str(golden / "checkpoint" / "tiny.pt"))
    assert fetch_checkpoint(str(tmp_path / "moved ünd spaced" / "tiny.pt")).sha256 == original.sha256
