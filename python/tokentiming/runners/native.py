"""A draft model run by the core itself, for the models that it knows how to run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from tokentiming import _core, ops
from tokentiming.runners.base import common_prefix, context_length

_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")


class NativeRunner:
    """A borrowed model of Llama's architecture in bfloat16, with the interface of ``TorchRunner``.

    Most of a small model's time in torch goes into calling its many small operations; here a token
    costs about one reading of the weights, which the core keeps a copy of, rounded to 8 bits. The
    logits differ from the model's own by that rounding, so this is for drafting, where no
    distribution depends on them.

    Args:
        model: one that ``NativeRunner.runs``; it is left as it is.
    """

    synchronizes = False

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        body = model.model
        self._model = model
        self.device = model.device
        self.max_length = context_length(model)
        self.forwards = 0
        self._size = model.get_input_embeddings().weight.shape[0]
        self._ids: list[int] = []
        self._transformer = _core.Transformer(
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
        """Copy by construction from the model: the core does not give its weights back."""
        return type(self), (self._model,)

    @staticmethod
    def runs(model: PreTrainedModel) -> bool:
        """Whether the core knows the model's architecture and this processor is fast at it."""
        if type(model) not in (LlamaForCausalLM, Qwen2ForCausalLM) or not ops.linear_is_fast():
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
        """Nothing to learn: a step looks at its token."""

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
    """False where a hook, or a linear layer of another kind, changes what a module does."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and (not isinstance(module, nn.Linear) or type(module) is nn.Linear)


def _is_readable(weight: torch.Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.is_contiguous()
    return on_cpu and weight.dtype == torch.bfloat16
