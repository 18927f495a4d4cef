"""Checkpoints: both namings, strict keys, carried options, and files that are none; nothing is executed."""

import io
import json
import pickle
import random

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel

from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.inference import encode_windows
from sdhubert_ray.encoder.official import Checkpoint
from sdhubert_ray.encoder.weights import read_config
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import EncoderOptions

LAYERS = EncoderOptions()
WEIGHT_NAMES = {
    "speech_model.encoder.pos_conv_embed.conv.weight_g": (
        "speech_model.encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    ),
    "speech_model.encoder.pos_conv_embed.conv.weight_v": (
        "speech_model.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    ),
}


@pytest.fixture
def content(tiny_checkpoint):
    """What the small checkpoint holds, to be changed."""
    return torch.load(tiny_checkpoint, weights_only=True)


@pytest.fixture(scope="module")
def upstream(golden):
    return json.loads((golden / "checkpoint" / "upstream" / "config.json").read_text())


def as_bytes(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(content, upstream, options=LAYERS):
    return load_model(Checkpoint("ours.pt", as_bytes(content), upstream, {}), options, "float32", "cpu")


def states(model):
    window = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    ((features, normed),) = encode_windows(model, [window], LAYERS, 80)
    return np.stack([features, normed])


# -- key names


def test_both_namings_of_the_positional_convolution_give_the_same_model(content, upstream, tiny_model):
    old = content["state_dict"]
    assert set(WEIGHT_NAMES) <= set(old)
    new = {**content, "state_dict": {WEIGHT_NAMES.get(key, key): value for key, value in old.items()}}
    assert not set(WEIGHT_NAMES) & set(new["state_dict"])
    np.testing.assert_array_equal(states(load(new, upstream)), states(tiny_model))
    np.testing.assert_array_equal(states(load(content, upstream)), states(tiny_model))


def test_the_positional_convolution_is_really_read(content, upstream, tiny_model):
    for key in WEIGHT_NAMES:
        changed = {**content["state_dict"], key: content["state_dict"][key].flip(2)}
        assert np.abs(states(load({**content, "state_dict": changed}, upstream)) - states(tiny_model)).max() > 0.01


def test_projection_head_and_training_state_are_not_needed(content, upstream, tiny_model):
    weights = content["state_dict"]
    head = {
        "final_proj.0.weight": torch.randn(20, 48),
        "final_proj.0.bias": torch.randn(20),
        "final_proj.2.weight": torch.randn(7, 20),
        "final_lin.weight": torch.randn(5, 7),
    }
    bare = {key: value for key, value in weights.items() if key.startswith("speech_model.") or key == "cls_token"}
    del bare["speech_model.masked_spec_embed"]
    assert len(bare) < len(weights)
    for state in ({**weights, **head}, bare):
        np.testing.assert_array_equal(states(load({**content, "state_dict": state}, upstream)), states(tiny_model))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.2)])
def test_weights_of_other_precisions_are_computed_with_in_float32(content, upstream, tiny_model, dtype, tolerance):
    content["state_dict"] = {key: value.to(dtype) for key, value in content["state_dict"].items()}
    model = load(content, upstream)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = states(tiny_model)
    assert np.abs(states(model) - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.parametrize(
    "key",
    [
        "cls_token",
        "speech_model.encoder.layers.3.attention.k_proj.weight",
        "speech_model.encoder.layers.11.final_layer_norm.bias",
        "speech_model.feature_extractor.conv_layers.0.layer_norm.weight",
    ],
)
def test_missing_key_is_named(content, upstream, key):
    del content["state_dict"][key]
    with pytest.raises(UserError, match=f"ours.pt lacks key '{key}'"):
        load(content, upstream)


@pytest.mark.parametrize("key", ["weight_g", "weight_v"])
def test_missing_half_of_the_positional_convolution_is_refused(content, upstream, key):
    del content["state_dict"][f"speech_model.encoder.pos_conv_embed.conv.{key}"]
    with pytest.raises(UserError, match=r"speech_model\.encoder\.pos_conv_embed\.conv"):
        load(content, upstream)


@pytest.mark.parametrize(
    "key", ["decoder.weight", "speech_model.encoder.layers.12.final_layer_norm.bias", "cls_tokens"]
)
def test_extra_key_is_named(content, upstream, key):
    content["state_dict"][key] = torch.zeros(48)
    with pytest.raises(UserError, match=f"ours.pt has the unknown key '{key}'"):
        load(content, upstream)


def test_wrong_shape_is_named(content, upstream):
    content["state_dict"]["cls_token"] = torch.zeros(49)
    with pytest.raises(UserError, match=r"ours.pt does not fit its speech_upstream: size mismatch for cls_token"):
        load(content, upstream)


def test_keys_that_are_no_names_are_refused(content, upstream):
    content["state_dict"][3] = torch.zeros(1)
    with pytest.raises(UserError, match=r"ours.pt"):
        load(content, upstream)


def test_weights_of_another_encoder_are_refused(content, upstream):
    with pytest.raises(UserError, match=r"ours.pt has the unknown key .*layers\.3\."):
        load(content, {**upstream, "num_hidden_layers": 3})
    with pytest.raises(UserError, match=r"ours.pt does not fit its speech_upstream"):
        load(content, {**upstream, "intermediate_size": 97})


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "many"},
        {"hidden_size": None},
        {"hidden_size": 50},
        {"hidden_act": "goelu"},
        {"conv_dim": [32]},
        {"feat_extract_norm": "batch"},
        {"num_attention_heads": 5},
        {"do_stable_layer_norm": True},
    ],
)
def test_an_encoder_that_cannot_be_built_is_refused(content, upstream, values):
    with pytest.raises(UserError, match=r"ours.pt"):
        load(content, {**upstream, **values})


def test_an_encoder_with_batch_norm_in_its_positional_convolution_is_refused(content, upstream):
    """Its own weights, complete: only the padding would leak."""
    shape = {**upstream, "conv_pos_batch_norm": True}
    weights = HubertModel(HubertConfig(**shape)).state_dict()
    content["state_dict"] = {f"speech_model.{key}": value for key, value in weights.items()}
    content["state_dict"]["cls_token"] = torch.zeros(48)
    with pytest.raises(UserError, match="conv_pos_batch_norm"):
        load(content, shape)


# -- layers


@pytest.mark.parametrize(
    ("layer", "normcut_layer", "key"), [(13, 11, "layer"), (9, 13, "normcut_layer"), (20, 15, "layer")]
)
def test_layer_beyond_the_model_is_refused(content, upstream, layer, normcut_layer, key):
    deepest = max(layer, normcut_layer)
    with pytest.raises(UserError, match=rf"encoder\.{key} is {deepest}, but checkpoint ours.pt has 12 layers"):
        load(content, upstream, EncoderOptions(layer, normcut_layer))


@pytest.mark.parametrize(("layer", "normcut_layer", "kept"), [(9, 11, 11), (12, 3, 12), (0, 0, 0), (4, 4, 4)])
def test_no_layer_past_the_last_one_read_is_kept(content, upstream, layer, normcut_layer, kept):
    model = load(content, upstream, EncoderOptions(layer, normcut_layer))
    assert model.num_layers == kept
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


# -- files that are no checkpoint


class Executes:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


# Of a pickle that is not its own torch says the protocol: a warning beside the refusal.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("way", ["torch", "torch legacy", "pickle"])
def test_code_is_refused_and_not_executed(content, tmp_path, way):
    trace = tmp_path / "executed"
    evil = {**content, "config": {**content["config"], "extra": Executes(trace)}}
    buffer = io.BytesIO()
    if way == "pickle":
        pickle.dump(evil, buffer)
    else:
        torch.save(evil, buffer, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(UserError, match=r"checkpoint evil.pt cannot be read without executing it"):
        read_config("evil.pt", buffer.getvalue())
    assert not trace.exists()


def test_the_code_would_have_been_executed(tmp_path):
    """That the test above can fail."""
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Executes(trace))).close()
    assert trace.exists()


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tiny_checkpoint, fraction):
    data = tiny_checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"checkpoint half.pt cannot be read without executing it, or is damaged"):
        read_config("half.pt", data[: int(len(data) * fraction)])


@pytest.mark.parametrize("data", [b"RIFF....WAVEfmt ", b"no checkpoint at all\n", b"PK\x03\x04", b"{}", b"\x80\x02."])
def test_other_files_are_refused(data):
    with pytest.raises(UserError, match=r"checkpoint sound.wav cannot be read"):
        read_config("sound.wav", data)


def test_an_empty_file_is_said_to_be_empty():
    with pytest.raises(UserError, match=r"checkpoint a.pt is empty"):
        read_config("a.pt", b"")


def test_changed_weights_are_refused(content, upstream):
    """Torch compares no checksums: it would compute with whatever is there."""
    data = bytearray(as_bytes(content))
    weight = content["state_dict"]["cls_token"].numpy().tobytes()
    place = data.index(weight)
    data[place : place + 4] = b"\0\0\0\0"
    assert read_config("a.pt", bytes(data)).speech_upstream
    with pytest.raises(UserError, match=r"checkpoint a.pt .* is damaged .*data/\d+ in it is not what was written"):
        load_model(Checkpoint("a.pt", bytes(data), upstream, {}), EncoderOptions(), "float32", "cpu")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused_or_read_but_never_crash(zipped):
    """A thousand ways to be damaged, one way to be refused."""
    buffer = io.BytesIO()
    small = {"config": {"speech_upstream": "upstream"}, "state_dict": {"cls_token": torch.zeros(3)}}
    torch.save(small, buffer, _use_new_zipfile_serialization=zipped)
    chance = random.Random(0)
    refused = 0
    for _ in range(500):
        data = bytearray(buffer.getvalue())
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        try:
            read_config("damaged.pt", bytes(data))
        except UserError as error:
            assert str(error).startswith("checkpoint damaged.pt ")  # noqa: PT017 - reading some is fine
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: [1, 2], "is not a dict of `config` and `state_dict`"),
        (lambda content: content["state_dict"], "is not a dict of `config` and `state_dict`"),
        (lambda content: {"state_dict": content["state_dict"]}, "is not a dict of `config` and `state_dict`"),
        (lambda content: {**content, "state_dict": None}, "is not a dict of `config` and `state_dict`"),
        (lambda content: {**content, "config": {}}, "names no `speech_upstream`"),
        (lambda content: {**content, "config": None}, "names no `speech_upstream`"),
        (lambda content: {**content, "config": {"speech_upstream": 3}}, "names no `speech_upstream`"),
    ],
)
def test_what_is_missing_in_a_checkpoint_is_said(content, change, sentence):
    with pytest.raises(UserError, match=f"checkpoint other.pt {sentence}"):
        read_config("other.pt", as_bytes(change(content)))


# -- identity


def test_identity_is_of_weights_and_shape(content, upstream):
    def digest(content, upstream, name="a"):
        return Checkpoint(name, as_bytes(content), upstream, {}).sha256

    ours = digest(content, upstream)
    assert digest(content, dict(reversed(upstream.items())), "b") == ours
    assert digest(content, {**upstream, "layer_norm_eps": 1e-6}) != ours
    content["state_dict"]["cls_token"][0] += 1
    assert digest(content, upstream) != ours


# -- options that a checkpoint carries


CARRIED = {
    "encoder": {"layer": 6, "normcut_layer": 7},
    "speech": {"normcut_strategy": "absolute", "normcut_threshold": 4.5, "silence_threshold": None},
    "syllables": {"syl_dur": 0.15, "merge_threshold": 0.6},
    "windows": {"window_seconds": 4.0, "pad_samples": 160},
}


def write_carrying(folder, golden, content, options):
    path = folder / "carrying.pt"
    path.write_bytes(as_bytes({**content, "segmentation": options}))
    (folder / "upstream").mkdir()
    config = (golden / "checkpoint" / "upstream" / "config.json").read_text()
    (folder / "upstream" / "config.json").write_text(config)
    return path


def test_carried_options_replace_the_presets(tmp_path, golden, content):
    path = write_carrying(tmp_path, golden, content, CARRIED)
    assert fetch_checkpoint(str(path)).options == CARRIED
    for preset in ("readme", "paper"):
        options = SDHuBERTSegmenter(path, preset=preset).options
        assert (options.encoder.layer, options.encoder.normcut_layer) == (6, 7)
        assert (options.speech.normcut_strategy, options.speech.normcut_threshold) == ("absolute", 4.5)
        assert options.speech.silence_threshold is None
        assert options.windows.window_seconds == 4.0
        # What it does not carry is the preset's.
        assert options.speech.min_span_frames == (2 if preset == "readme" else 0)
        assert options.audio.variance_floor == (0 if preset == "readme" else 1e-7)


def test_single_arguments_replace_both(tmp_path, golden, content):
    path = write_carrying(tmp_path, golden, content, CARRIED)
    options = SDHuBERTSegmenter(path, layer=5, normcut_strategy="relative", normcut_threshold=0.3).options
    assert (options.encoder.layer, options.encoder.normcut_layer) == (5, 7)
    assert (options.speech.normcut_strategy, options.speech.normcut_threshold) == ("relative", 0.3)


def test_carried_syllable_options_reach_mincut(tmp_path, golden, content):
    """What is carried changes the syllables as the same arguments do, and arguments win over it."""
    path = write_carrying(tmp_path, golden, content, {"syllables": {"syl_dur": 0.3, "merge_threshold": 0.9}})
    sound = golden / "audio" / "synth_0.flac"
    plain = SDHuBERTSegmenter(golden / "checkpoint" / "tiny.pt")(sound)
    carrying = SDHuBERTSegmenter(path)(sound)

    def segments(features, **arguments):
        return MincutWrapper(**arguments)(features)["segments"].tolist()

    assert segments(carrying) == segments(plain, syl_dur=0.3, merge_threshold=0.9)
    assert segments(carrying) != segments(plain)
    assert segments(carrying, syl_dur=0.1, merge_threshold=0.4) == segments(plain)
    assert segments(carrying, merge_threshold=0.4) == segments(plain, syl_dur=0.3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"speech": {"normcut_treshold": 0.1}}, "speech.normcut_treshold"),
        ({"speach": {"normcut_threshold": 0.1}}, "speach"),
        ({"speech": {"normcut_strategy": "relativ"}}, "speech.normcut_strategy"),
        ({"syllables": {"syl_dur": -1.0}}, "syllables.syl_dur"),
        ({"speech": {"normcut_threshold": "high"}}, "carrying.pt"),
        ({"encoder": {"layer": 9.5}}, "encoder.layer"),
        ({"speech": {3: 1, "a": 2}}, "carrying.pt"),
        ({"speech": 3}, "no mapping of sections"),
        ([1], "no mapping of sections"),
    ],
)
def test_wrong_carried_options_are_refused(tmp_path, golden, content, options, named):
    path = write_carrying(tmp_path, golden, content, options)
    with pytest.raises(UserError, match=r"carrying.pt") as refusal:
        fetch_checkpoint(str(path))
    assert named in str(refusal.value)
