"""The layers of a WavLM: those of transformers, whose attention is computed without the weights that nobody reads."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sdhubert_ray.encoder.protocol import valid


def run_wavlm_layers(states: Tensor, counts: Tensor | None, layers: nn.ModuleList) -> Iterator[Tensor]:
    """Yield what each layer makes of (B, T, D) states, of which (B,) counts are valid; None: all are.

    The first layer has the bias of relative positions for all of them; each gates it by its states (Chen et al. 2022,
    arXiv 2110.13900).
    """
    if not layers:
        return
    length = states.shape[1]
    first: Any = layers[0]
    bias = first.attention.compute_bias(length, length)[None]
    outside = None if counts is None else ~valid(counts, length)[:, None, None]
    for each in layers:
        layer: Any = each
        normed_before = type(layer).__name__.endswith("StableLayerNorm")
        attended = _attend(layer.attention, layer.layer_norm(states) if normed_before else states, bias, outside)
        states = states + layer.dropout(attended)
        if normed_before:
            states = states + layer.feed_forward(layer.final_layer_norm(states))
        else:
            states = layer.layer_norm(states)
            states = layer.final_layer_norm(states + layer.feed_forward(states))
        yield states


def _attend(attention: Any, states: Tensor, bias: Tensor, outside: Tensor | None) -> Tensor:  # noqa: ANN401
    """(B, T, D) states; (1, H, T, T) bias of positions; (B, 1, 1, T) bool, which states are nobody's."""
    apart = (attention.num_heads, attention.head_dim)
    heads = states.view(*states.shape[:-1], *apart).transpose(1, 2)
    projected: Tensor = attention.gru_rel_pos_linear(heads)
    gates = projected.view(*heads.shape[:-1], 2, 4).sum(-1).sigmoid()
    first, second = gates[..., :1], gates[..., 1:]
    gated = (first * (second * attention.gru_rel_pos_const - 1) + 2) * bias
    if outside is not None:
        gated = gated.masked_fill(outside, -math.inf)
    query, key, value = (
        project(states).view(*states.shape[:-1], *apart).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    dropout = attention.dropout if attention.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=gated, dropout_p=dropout)
    out: Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return out
