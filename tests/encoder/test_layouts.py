"""Files of other systems: recognised, read to the last key, refused in a sentence."""

import json

import numpy as np
import pytest
import torch
from foreign import MAKERS, make_folder, make_sylber, make_wavlm
from models import speech_like

from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import normalise
from sdhubert_ray.speech.presets import EncoderOptions, get_preset, with_values

DEPTHS = {"vg-hubert": 10, "sylber": 9, "wavlm": 24, "sylboost": 12}
PRESETS_OF = {"vg-hubert": "vg-hubert", "sylber": "sylber", "wavlm": "zerosyl", "sylboost": "sylboost-6.25"}


def states_of(model, layers, samples):
    with torch.inference_mode():
        return model(torch.from_numpy(samples)[None], None, layers)


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory):
    path, model = MAKERS[request.param](tmp_path_factory.mktemp("made"))
    return request.param, path, model


def test_a_file_is_recognised_and_gives_the_states_of_its_weights(made):
    layout, path, model = made
    checkpoint = fetch_checkpoint(str(path))
    assert checkpoint.layout == layout
    depth = DEPTHS[layout]
    assert checkpoint.upstream["num_hidden_layers"] == depth
    loaded = load_model(checkpoint, EncoderOptions(depth, depth), "float32", "cpu")
    samples = speech_like(30_000, 1)
    layers = [0, 1, depth // 2, depth]
    for found, expected in zip(states_of(loaded, layers, samples), states_of(model, layers, samples), strict=True):
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_its_preset_takes_it_and_says_the_same_as_the_file(made):
    """The file brings what its encoder was trained with: also another preset's options keep that."""
    layout, path, _ = made
    checkpoint, preset = fetch_checkpoint(str(path)), PRESETS_OF[layout]
    own = get_preset(preset)
    assert with_values(own, checkpoint.carried(preset)) == own
    other = with_values(get_preset("readme"), checkpoint.carried("readme"))
    assert other.audio.normalisation == own.audio.normalisation
    assert other.audio.variance_floor == own.audio.variance_floor
    assert (other.windows, other.encoder) == (own.windows, own.encoder)
    assert other.syllables == get_preset("readme").syllables


def test_the_presets_of_others_do_not_take_it(made):
    layout, path, _ = made
    checkpoint = fetch_checkpoint(str(path))
    for other, preset in PRESETS_OF.items():
        if other != layout:
            with pytest.raises(
                UserError, match=rf"preset {preset} is for a .*, but checkpoint .* is a .*; give --checkpoint one"
            ):
                checkpoint.carried(preset)


def test_a_preset_of_another_system_does_not_take_ours(tiny_checkpoint):
    with pytest.raises(UserError, match=r"preset sylber is for a Sylber or .*is an SD-HuBERT"):
        fetch_checkpoint(str(tiny_checkpoint)).carried("sylber")
    assert fetch_checkpoint(str(tiny_checkpoint)).carried("sd-hubert") == {}


# What is done to the weights in a file, by one key and another that nobody knows, and what is said of it.
FLAWS = {
    "lacks one": (lambda state, key, _: state.pop(key), "lacks key"),
    "has another": (lambda state, _, other: state.update({other: torch.zeros(1)}), "has the unknown key '.*another"),
    "misshapen": (lambda state, key, _: state.update({key: torch.zeros(3, 5)}), "not fit its config: size mismatch"),
}
INSIDE = {
    "vg-hubert": (lambda content: content["dual_encoder"], "audio_encoder.encoder.layers.3.fc1.bias", "audio_encoder."),
    "sylber": (lambda content: content, "encoder.layers.3.feed_forward.output_dense.bias", ""),
    "wavlm": (lambda content: content["model"], "encoder.layers.3.self_attn.grep_a", ""),
    "sylboost": (lambda content: content["model_seg"], "model.blocks.3.mlp.fc1.bias", "model."),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_every_key_is_asked_for(made, flaw, tmp_path):
    layout, path, _ = made
    find, key, prefix = INSIDE[layout]
    content = torch.load(path, weights_only=True)
    change, sentence = FLAWS[flaw]
    change(find(content), key, f"{prefix}another.weight")
    torch.save(content, tmp_path / path.name)
    with pytest.raises(UserError, match=sentence):
        load_model(fetch_checkpoint(str(tmp_path / path.name)), EncoderOptions(1, 1), "float32", "cpu")


def test_a_layer_that_it_does_not_have_is_refused(tmp_path):
    path, _ = make_sylber(tmp_path)
    with pytest.raises(UserError, match=r"encoder\.layer is 10, but checkpoint .* has 9 layers"):
        load_model(fetch_checkpoint(str(path)), EncoderOptions(10, 9), "float32", "cpu")


def test_a_key_by_two_names_is_refused(tmp_path):
    path, _ = make_wavlm(tmp_path)
    content = torch.load(path, weights_only=True)
    content["model"]["pos_conv.0.bias"] = content["model"]["encoder.pos_conv.0.bias"]
    torch.save(content, path)
    with pytest.raises(UserError, match="twice, by two names"):
        load_model(fetch_checkpoint(str(path)), EncoderOptions(1, 1), "float32", "cpu")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"gru_rel_pos": False}, "its relative positions have no gates"),
        ({"encoder_layers": "24"}, "cfg.encoder_layers is '24', not a whole number"),
        ({"conv_feature_layers": "__import__('os')"}, "no sum of lists"),
        ({"conv_feature_layers": None}, "no sum of lists"),
        ({"encoder_attention_heads": 3}, "no encoder of its config"),
    ],
)
def test_a_wavlm_of_another_kind_is_refused(tmp_path, values, reason):
    path, _ = make_wavlm(tmp_path)
    content = torch.load(path, weights_only=True)
    content["cfg"].update(values)
    torch.save(content, path)
    with pytest.raises(UserError, match=reason):
        load_model(fetch_checkpoint(str(path)), EncoderOptions(1, 1), "float32", "cpu")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("feature_extractor.conv_layers.6.conv.weight", "its extractor has 6 convolutions"),
        ("encoder.layers.0.feed_forward.intermediate_dense.weight", "lacks key"),
    ],
)
def test_what_only_looks_like_one_is_refused(tmp_path, key, reason):
    path, model = make_sylber(tmp_path)
    state = model.speech_model.state_dict()
    del state[key]
    torch.save(state, path)
    with pytest.raises(UserError, match=reason):
        fetch_checkpoint(str(path))


def test_heads_of_another_width_are_refused(tmp_path):
    path, _ = make_sylber(tmp_path, hidden_size=96, num_attention_heads=3)
    with pytest.raises(UserError, match="96 values, no multiple of 64"):
        fetch_checkpoint(str(path))


@pytest.mark.parametrize("content", [{"cfg": {}, "model": {}}, {"args": {}, "model": {}}, [1, 2], {"model_seg": 3}])
def test_the_files_of_nobody_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="is not a dict of `config` and `state_dict`"):
        fetch_checkpoint(str(tmp_path / "a.pt"))


# -- folders of transformers


@pytest.mark.parametrize("model_type", ["hubert", "wav2vec2", "wavlm"])
@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("headed", [False, True])
def test_a_folder_gives_the_states_of_its_weights(tmp_path, model_type, pickled, headed):
    prefix = f"{model_type}." if headed else ""
    folder, model = make_folder(tmp_path / "its", model_type, prefix=prefix, pickled=pickled)
    loaded = load_model(fetch_checkpoint(str(folder)), EncoderOptions(4, 4), "float32", "cpu")
    samples = speech_like(20_000, 2)
    found, expected = (states_of(one, [0, 2, 4], samples) for one in (loaded, model))
    for states, wanted in zip(found, expected, strict=True):
        assert (states - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_folder_says_how_samples_are_normalised(tmp_path):
    normed, _ = make_folder(tmp_path / "normed")
    plain, _ = make_folder(tmp_path / "plain", normalised=False)
    for preset in ("readme", "hubert"):
        audio = fetch_checkpoint(str(normed)).carried(preset)["audio"]
        assert audio == {"normalisation": "population", "variance_floor": 1e-7}
        carried = fetch_checkpoint(str(plain)).carried(preset)
        assert carried["audio"] == {"normalisation": "none"}
        assert carried["encoder"] == {"layer": 3, "normcut_layer": 3}
    # A system's preset says itself what its encoder gets.
    assert fetch_checkpoint(str(normed)).carried("zerosyl") == {"audio": {}, "encoder": {}}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "copy its preprocessor_config.json too"),
        (lambda folder: rewrite(folder, "preprocessor_config.json", sampling_rate=8000), "takes samples at 8000 Hz"),
        (lambda folder: rewrite(folder, "preprocessor_config.json", do_normalize=None), "no do_normalize"),
        (lambda folder: rewrite(folder, "config.json", num_hidden_layers="4"), "no num_hidden_layers"),
        (
            lambda folder: rewrite(folder, "config.json", model_type="whisper"),
            "a model_type of hubert, wav2vec2, wavlm",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_model.bin"),
        (lambda folder: rewrite(folder, "config.json", add_adapter=True, model_type="wav2vec2"), "an adapter"),
        (lambda folder: rewrite(folder, "config.json", intermediate_size=65), "does not fit its config"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(tmp_path, damage, reason):
    folder, _ = make_folder(tmp_path / "its")
    damage(folder)
    with pytest.raises(UserError, match=reason):
        load_model(fetch_checkpoint(str(folder)), EncoderOptions(1, 1), "float32", "cpu")


def rewrite(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_identity_of_a_folder_is_that_of_weights_and_shape(tmp_path):
    first, second = (fetch_checkpoint(str(make_folder(tmp_path / name)[0])) for name in ("a", "b"))
    third = fetch_checkpoint(str(make_folder(tmp_path / "c", seed=1)[0]))
    assert first.sha256 == second.sha256 != third.sha256


def test_samples_are_left_alone_or_divided_by_the_deviation_of_the_sample():
    samples = np.array([1.0, 2.0, 4.0], np.float32)
    assert normalise(samples, normalisation="none") is samples
    np.testing.assert_allclose(normalise(samples, normalisation="sample").std(ddof=1), 1, rtol=1e-6)
    np.testing.assert_allclose(normalise(samples).std(), 1, rtol=1e-6)
