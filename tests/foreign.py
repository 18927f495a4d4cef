"""Made checkpoints in the files of other systems, as their own code writes them; random weights, small."""

import json
import re

import safetensors.torch
import torch
from models import MINIMAL
from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig

from sdhubert_ray.encoder.data2vec2 import build_data2vec
from sdhubert_ray.encoder.model import TransformersEncoder, build_encoder, build_transformer

# Heads are 64 wide in every file that does not say how many there are.
WIDE = {
    **MINIMAL,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 10,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
}
CONFIGS = {"hubert": HubertConfig, "wav2vec2": Wav2Vec2Config, "wavlm": WavLMConfig}
_TO_FAIRSEQ = [
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "pos_conv.0.weight_g"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "pos_conv.0.weight_v"),
    (r"^encoder\.pos_conv_embed\.conv\.bias", "pos_conv.0.bias"),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"\.conv\.(weight|bias)$", r".0.\1"),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.attention\.", ".self_attn."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
]


def settled(model):
    """With norms and gates of which each does something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "gru_rel_pos" in name or "distance_scale" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


def renamed(state, pairs):
    found = {}
    for key, value in state.items():
        for pattern, by in pairs:
            key = re.sub(pattern, by, key)
        found[key] = value
    return found


def make_vg_hubert(folder, seed=0):
    """Its two networks together, of which one sees; and the encoder's states by our own class."""
    torch.manual_seed(seed)
    model = settled(build_encoder({**WIDE, "model_type": "hubert"}))
    state = {key.removeprefix("speech_model."): value for key, value in model.state_dict().items()}
    cls = state.pop("cls_token")
    state.pop("masked_spec_embed", None)
    names = [*_TO_FAIRSEQ, (r"^(feature_extractor\.conv_layers\.0)\.layer_norm\.", r"\1.2.")]
    audio = {"cls_token": cls[None, None], "mask_emb": torch.zeros(3), **renamed(state, names)}
    audio["final_proj.weight"] = torch.zeros(2, 2)
    both = {f"audio_encoder.{key}": value for key, value in audio.items()}
    path = folder / "vg-hubert-syllable.pth"
    torch.save({"dual_encoder": {**both, "trm.cls_token": torch.zeros(1, 1, 4)}}, path)
    return path, model


def make_sylber(folder, seed=0, **values):
    """A HubertModel of nine layers, its keys as they are."""
    torch.manual_seed(seed)
    shape = {**WIDE, "num_hidden_layers": 9, "model_type": "hubert", **values}
    model = settled(build_transformer(shape, TransformersEncoder))
    path = folder / "sylber.ckpt"
    torch.save(model.speech_model.state_dict(), path)
    return path, model


def make_wavlm(folder, seed=0):
    """As its authors wrote the large one, which ZeroSyl reads: two layers more than it needs."""
    torch.manual_seed(seed)
    shape = {
        **WIDE,
        "model_type": "wavlm",
        "num_hidden_layers": 24,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        "max_bucket_distance": 800,
    }
    model = settled(build_transformer(shape, TransformersEncoder))
    names = [
        *((pattern, f"encoder.{by}" if by.startswith("pos_conv") else by) for pattern, by in _TO_FAIRSEQ),
        (r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", r"\1.2.1."),
        (r"\.gru_rel_pos_linear\.", ".grep_linear."),
        (r"\.gru_rel_pos_const$", ".grep_a"),
        (r"\.rel_attn_embed\.", ".relative_attention_bias."),
    ]
    state = renamed(model.speech_model.state_dict(), names)
    state["mask_emb"] = state.pop("masked_spec_embed")
    cfg = {
        "extractor_mode": "layer_norm",
        "encoder_layers": 24,
        "encoder_embed_dim": 128,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "layer_norm_first": True,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        "conv_bias": False,
        "normalize": True,
        "conv_pos": 16,
        "conv_pos_groups": 2,
        "relative_position_embedding": True,
        "num_buckets": 320,
        "max_distance": 800,
        "gru_rel_pos": True,
    }
    path = folder / "WavLM-Large.pt"
    torch.save({"cfg": cfg, "model": state}, path)
    return path, model


def make_sylboost(folder, seed=0):
    """With the decoder of its training, which nobody needs."""
    torch.manual_seed(seed)
    shape = {
        "model_type": "data2vec2",
        "hidden_size": 24,
        "num_attention_heads": 6,
        "intermediate_size": 32,
        "conv_dim": [8] * 7,
        "position_groups": 2,
    }
    model = settled(build_data2vec(shape))
    audio = "model.modality_encoders.AUDIO"
    names = [
        (r"^extractor\.(\d+)\.conv\.", rf"{audio}.local_encoder.conv_layers.\1.0."),
        (r"^extractor\.(\d+)\.norm\.", rf"{audio}.local_encoder.conv_layers.\1.2.1."),
        (r"^projection\.norm\.", f"{audio}.project_features.1."),
        (r"^projection\.linear\.", f"{audio}.project_features.2."),
        (r"^positions\.(\d+)\.", rf"{audio}.relative_positional_encoder.\1.0."),
        (r"^distance_scale$", f"{audio}.alibi_scale"),
        (r"^norm\.", f"{audio}.context_encoder.norm."),
        (r"^prenet\.", f"{audio}.context_encoder.blocks."),
        (r"^layers\.", "model.blocks."),
        (r"\.qkv\.", ".attn.qkv."),
        (r"\.out\.", ".attn.proj."),
        (r"\.attention_norm\.", ".norm1."),
        (r"\.final_norm\.", ".norm2."),
        (r"\.wide\.", ".mlp.fc1."),
        (r"\.narrow\.", ".mlp.fc2."),
    ]
    state = renamed(model.state_dict(), names)
    state[f"{audio}.decoder.proj.weight"] = torch.zeros(2, 2)
    path = folder / "SylBoost_625Hz.pth"
    torch.save({"model_seg": state, "args": {"lr": 1e-4}}, path)
    return path, model


def make_folder(folder, model_type="hubert", *, prefix="", normalised=True, pickled=False, seed=0, **values):
    """A folder of transformers: config, preprocessor and weights."""
    torch.manual_seed(seed)
    shape = {**WIDE, "num_hidden_layers": 4, "model_type": model_type, **values}
    model = settled(build_transformer(shape, TransformersEncoder))
    folder.mkdir(parents=True, exist_ok=True)
    CONFIGS[model_type](**{key: value for key, value in shape.items() if key != "model_type"}).save_pretrained(folder)
    preprocessor = {"feature_size": 1, "sampling_rate": 16_000, "do_normalize": normalised, "padding_value": 0.0}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    state = {f"{prefix}{key}": value.contiguous() for key, value in model.speech_model.state_dict().items()}
    if prefix:
        state["lm_head.weight"] = torch.zeros(2, 2)
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder, model


MAKERS = {"vg-hubert": make_vg_hubert, "sylber": make_sylber, "wavlm": make_wavlm, "sylboost": make_sylboost}
