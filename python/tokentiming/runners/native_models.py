"""Which models ``tokentiming._native`` computes: those that do exactly what it does."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

_PARTS = ("Attention", "DecoderLayer", "ForCausalLM", "MLP", "Model", "RMSNorm", "RotaryEmbedding")
_COMMON = {nn.Embedding, nn.Linear, nn.ModuleList, type(ACT2FN["silu"])}
_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")


def _classes(modeling: ModuleType, name: str) -> set[type[nn.Module]]:
    return _COMMON | {getattr(modeling, name + part) for part in _PARTS}


_CLASSES = {
    LlamaForCausalLM: _classes(modeling_llama, "Llama"),
    Qwen2ForCausalLM: _classes(modeling_qwen2, "Qwen2"),
}
"""For each model the classes of its modules."""


def computes(model: PreTrainedModel) -> bool:
    """Whether the native core gives the logits of a model, up to rounding, where it runs.

    False as well for a model whose modules, forwards, settings or weights are not those that its
    config gives it.
    """
    classes = _CLASSES.get(type(model))
    return (
        classes is not None
        and not torch_modules._has_any_global_hook()  # type: ignore[no-untyped-call]
        and ALL_ATTENTION_FUNCTIONS["sdpa"].__module__.startswith("transformers.")
        and all(type(module) in classes and _is_plain(module) for module in model.modules())
        and all(_is_readable(weight) for weight in model.parameters())
        and _is_as_configured(model)
    )


def _is_plain(module: nn.Module) -> bool:
    """False if a hook or another forward changes what a module computes."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    own = type(module).forward.__module__.partition(".")[0] in ("torch", "transformers")
    return not hooked and own


def _is_readable(weight: torch.Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.is_contiguous()
    return type(weight) is nn.Parameter and on_cpu and weight.dtype == torch.bfloat16


def _is_as_configured(model: Any) -> bool:
    config, body = model.config, model.model
    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    return (
        config.hidden_act == "silu"
        and set(getattr(config, "layer_types", ["full_attention"])) == {"full_attention"}
        and config.rope_parameters["rope_type"] in _FIXED_ROTATIONS
        and [layer.self_attn.layer_idx for layer in body.layers]
        == list(range(config.num_hidden_layers))
        and all(norm.variance_epsilon == config.rms_norm_eps for norm in norms)
        and all(_attends_as_configured(layer.self_attn, config) for layer in body.layers)
        and all(layer.mlp.gate_proj.weight.shape == layer.mlp.up_proj.weight.shape
                for layer in body.layers)
        and body.embed_tokens.max_norm is None
        and model.lm_head.bias is None
        and model.lm_head.weight.shape == body.embed_tokens.weight.shape
    )  # fmt: skip


def _attends_as_configured(attention: Any, config: Any) -> bool:
    size, hidden = attention.head_dim, config.hidden_size
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    return (
        attention.config is config
        and attention.is_causal
        and attention.scaling == size**-0.5
        and size % 8 == 0
        and attention.q_proj.weight.shape == (heads * size, hidden)
        and attention.k_proj.weight.shape == (key_heads * size, hidden)
        and attention.v_proj.weight.shape == (key_heads * size, hidden)
        and attention.o_proj.weight.shape == (hidden, heads * size)
    )
