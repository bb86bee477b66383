"""A decoder of Llama's architecture, written out: float64 within an operation, bfloat16 between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def logits(model: Any, ids: list[int]) -> Tensor:
    """Logits ``[len(ids), V]`` after each id."""
    config, body = model.config, model.model
    embedding = body.rotary_emb
    angles = torch.outer(torch.arange(len(ids)).float(), embedding.inv_freq.float())
    scaling = embedding.attention_scaling
    cosines, sines = rounded(angles.cos() * scaling), rounded(angles.sin() * scaling)
    x = body.embed_tokens.weight[ids].double()
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        normal = norm(x, layer.input_layernorm, config.rms_norm_eps)
        size = 2 * cosines.shape[-1]
        query, key, value = (
            linear(normal, projection).unflatten(-1, (-1, size)).transpose(0, 1)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        attended = attend(rotate(query, cosines, sines), rotate(key, cosines, sines), value)
        x = rounded(x + linear(attended.transpose(0, 1).flatten(1), attention.o_proj))
        normal = norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
        gate, up = linear(normal, mlp.gate_proj), linear(normal, mlp.up_proj)
        gated = rounded(rounded(torch.nn.functional.silu(gate)) * up)
        x = rounded(x + linear(gated, mlp.down_proj))
    return linear(norm(x, body.norm, config.rms_norm_eps), model.lm_head)


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().double()


def linear(x: Tensor, layer: Any) -> Tensor:
    bias = 0.0 if layer.bias is None else layer.bias.double()
    return rounded(x @ layer.weight.double().T + bias)


def norm(x: Tensor, layer: Any, epsilon: float) -> Tensor:
    scale = (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return rounded(rounded(x * scale) * layer.weight.double())


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs of entries of ``[H, n, D]`` that are half of D apart."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        [
            rounded(rounded(first * cosines) - rounded(second * sines)),
            rounded(rounded(second * cosines) + rounded(first * sines)),
        ],
        dim=-1,
    )


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention ``[H, n, D]``, in which consecutive query heads share a key head."""
    share = query.shape[0] // key.shape[0]
    key, value = (x.repeat_interleave(share, 0) for x in (key, value))
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return rounded(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value)
