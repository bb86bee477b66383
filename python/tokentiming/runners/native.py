"""Draft models run on the CPU by ``tokentiming._native``, for the architectures it supports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from tokentiming.runners.base import common_prefix, context_length
from tokentiming.runners.native_module import BUILT, is_fast, require_built

if TYPE_CHECKING or BUILT:
    from tokentiming import _native

_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")


class NativeRunner:
    """A borrowed bfloat16 model of Llama's architecture, with the interface of ``TorchRunner``.

    In torch, the overhead of many small operations takes most of a small model's time. Here one
    token costs about one pass over the weights, which are a copy rounded to 8 bits. The logits
    differ from the model's own by that rounding. This is for drafting, where the output
    distribution does not depend on them.

    Args:
        model: a model for which ``NativeRunner.runs`` is True. It is not changed.

    Raises:
        RuntimeError: tokentiming was built without ``tokentiming._native``.
        ValueError: this processor lacks AVX2 and FMA (x86-64), or a weight is not finite.
    """

    synchronizes = False

    def __init__(self, model: PreTrainedModel) -> None:
        require_built("NativeRunner")
        config = model.config
        body = model.model
        self._model = model
        self.device = model.device
        self.max_length = context_length(model)
        self.forwards = 0
        self._size = model.get_input_embeddings().weight.shape[0]
        self._ids: list[int] = []
        self._transformer = _native.Transformer(
            body.embed_tokens.weight.detach(),
            [_layer(layer) for layer in body.layers],
            body.norm.weight.detach(),
            model.lm_head.weight.detach(),
            body.rotary_emb.inv_freq.tolist(),
            float(body.rotary_emb.attention_scaling),
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rms_norm_eps,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by constructing from the model: ``_native`` does not expose its state."""
        return type(self), (self._model,)

    @staticmethod
    def runs(model: PreTrainedModel) -> bool:
        """Whether ``_native`` supports the model and this processor.

        False if tokentiming was built without ``_native``, or if the processor lacks AVX2 and FMA.
        """
        if type(model) not in (LlamaForCausalLM, Qwen2ForCausalLM) or not is_fast():
            return False
        config = model.config
        return (
            config.hidden_act == "silu"
            and set(getattr(config, "layer_types", ["full_attention"])) == {"full_attention"}
            and config.rope_parameters["rope_type"] in _FIXED_ROTATIONS
            and all(_is_plain(module) for module in model.modules())
            and all(_is_readable(weight) for weight in model.parameters())
        )

    def reset(self) -> None:
        """Forget everything read so far."""
        self._take_back(0)

    def logits(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Logits after each of the last ``keep`` tokens of ``ids``: float32 ``[keep, V]``."""
        known = min(common_prefix(self._ids, ids), len(ids) - keep)
        self._take_back(known)
        logits = torch.empty((keep, self._size), dtype=torch.float32, device="cpu")
        self._transformer.read(torch.tensor(ids[known:], device="cpu"), logits)
        self._ids = list(ids)
        self.forwards += 1
        return logits

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Logits after one more token, int64 ``[1]``: float32 ``[1, V]``."""
        return self.logits([*self._ids, int(token)])

    def identify(self, ids: list[int]) -> None:
        """Do nothing: ``step`` reads the id of its token."""

    def _take_back(self, known: int) -> None:
        self._transformer.truncate(known)
        self._ids = self._ids[:known]


def _layer(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        layer.input_layernorm.weight.detach(),
        _projection(attention.q_proj),
        _projection(attention.k_proj),
        _projection(attention.v_proj),
        _projection(attention.o_proj),
        layer.post_attention_layernorm.weight.detach(),
        _projection(mlp.gate_proj),
        _projection(mlp.up_proj),
        _projection(mlp.down_proj),
    )


def _projection(linear: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    return linear.weight.detach(), None if linear.bias is None else linear.bias.detach()


def _is_plain(module: nn.Module) -> bool:
    """False if a hook or a subclass of ``nn.Linear`` changes what a module computes."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and (not isinstance(module, nn.Linear) or type(module) is nn.Linear)


def _is_readable(weight: torch.Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.is_contiguous()
    return on_cpu and weight.dtype == torch.bfloat16
