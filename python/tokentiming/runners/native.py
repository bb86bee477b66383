"""Models run on the CPU by ``tokentiming._native``, for the architectures it supports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, PreTrainedModel

from tokentiming.runners.base import context_length
from tokentiming.runners.forest import ForestRunner
from tokentiming.runners.linear import native_linear
from tokentiming.runners.native_models import computes
from tokentiming.runners.native_module import BUILT, is_fast, require_built
from tokentiming.runners.torch import MASKED
from tokentiming.tokens.tree import Tree

if TYPE_CHECKING or BUILT:
    from tokentiming import _native

_LONG = 64
"""Longer prompts are read in torch where that is faster."""


class NativeRunner(ForestRunner):
    """Runs a bfloat16 model of Llama's architecture with rounded weights.

    In torch, the overhead of many small operations takes most of a small model's time. Here one
    token costs about as much as one read of the rounded weights, and the rows of all texts share
    it. Weights are rounded to 8 bits, or to 4 if that hardly changes them, as for weights that come
    from Q4_1 files; inputs of linear layers are rounded to 8 bits. In both, 32 numbers share a
    scale. The logits, float32, differ from the model's own by that rounding. The runner is meant
    for drafting, where the output distribution does not depend on the logits. On processors with
    AVX-512 the model itself reads long prompts, for which many rows share each weight.

    Args:
        model: borrowed, never changed; one for which ``NativeRunner.runs`` is True.

    Raises:
        RuntimeError: tokentiming was built without ``tokentiming._native``.
        ValueError: this processor lacks AVX2 and FMA (x86-64), or a weight is not finite.
    """

    _rounds = True

    def __init__(self, model: PreTrainedModel) -> None:
        require_built(type(self).__name__)
        super().__init__(model, device=model.device, max_length=context_length(model))
        config = model.config
        body = model.model
        self._size = model.get_input_embeddings().weight.shape[0]
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
            self._rounds,
        )

    def cache_bytes(self, texts: int, tokens: int) -> int:
        layers = self.model.model.layers
        floats: int = 2 * len(layers) * layers[0].self_attn.k_proj.weight.shape[0]
        return 2 * texts * tokens * floats * 4  # memory may be twice as large as what it holds

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by constructing from the model: ``_native`` does not expose its state."""
        return type(self), (self.model,)

    @staticmethod
    def runs(model: PreTrainedModel) -> bool:
        """Whether ``_native`` supports the model and this processor.

        False if tokentiming was built without ``_native``, or if the processor lacks AVX2 and FMA.
        """
        return is_fast() and computes(model)

    def _pass(self, rows: Sequence[Tree], first: int, wanted: Sequence[int]) -> list[torch.Tensor]:
        ends = list(accumulate(map(len, rows)))
        counts = list(wanted)
        picked = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
        logits = torch.empty((sum(counts), self._size), dtype=torch.float32, device="cpu")
        self._transformer.read(
            _tensor(chain.from_iterable(tree.tokens for tree in rows)),
            _tensor(chain.from_iterable(tree.parents for tree in rows), torch.int32),
            _tensor([0] * (first + 1) + ends),
            logits,
            _tensor(chain.from_iterable(picked)),
        )
        return list(torch.split(logits, counts))

    def _prefill(self, texts: Sequence[Sequence[int]], limit: int) -> None:
        for index, ids in enumerate(texts):
            if not self._texts[index].kept and len(ids) > self._most_rows():
                self._read_in_torch(index, ids[:-1])
        super()._prefill(texts, limit)

    def _most_rows(self) -> float:
        """The most tokens of a new text that are read natively; torch reads longer texts."""
        return _LONG if torch.backends.cpu.get_cpu_capability() != "AVX2" else math.inf

    def _read_in_torch(self, index: int, ids: Sequence[int]) -> None:
        """Read the beginning of a text by the model itself."""
        self._add_unread()
        cache = DynamicCache(config=self.model.config)
        linear = native_linear(self.model.get_input_embeddings().weight)
        for start in range(0, len(ids), self._prefill_chunk):
            chunk = torch.tensor([ids[start : start + self._prefill_chunk]], device="cpu")
            with linear(chunk.numel()) if linear else nullcontext():
                self.model.model(input_ids=chunk, past_key_values=cache, use_cache=True)
            self.forwards += 1
        keys, values = (
            torch.stack([x[0].transpose(0, 1).flatten(1).float() for x in of_layers])
            for of_layers in zip(*((one.keys, one.values) for one in cache.layers), strict=True)
        )
        self._transformer.commit(index, keys, values)
        self._texts[index].kept += ids

    def _keep(self, index: int, nodes: Sequence[int]) -> None:
        self._transformer.keep(index, _tensor(nodes))

    def _truncate(self, index: int, length: int) -> int:
        self._add_unread()
        self._transformer.truncate(index, length)
        return length

    def _drop(self, index: int) -> None:
        self._add_unread()
        self._transformer.drop(index)

    def _clear(self) -> None:
        self._transformer.clear()

    def _add_unread(self) -> None:
        """Add texts of which nothing has been read because their first pass was refused."""
        self._pass([], len(self._texts), [])


class ExactNativeRunner(NativeRunner):
    """Runs a bfloat16 model of Llama's architecture with its own weights.

    Results are rounded where torch rounds them. Logits differ from the model's own by the order of
    sums and by what torch rounds within attention: about as much as those of two kernels of torch.
    In torch the many small operations take about a third of the time of a pass over few rows.

    Args:
        model: borrowed, never changed; one for which ``ExactNativeRunner.runs`` is True.

    Raises:
        RuntimeError: tokentiming was built without ``tokentiming._native``; or, at a new text, a
            module, a setting or a weight of the model was replaced since.
        ValueError: this processor lacks AVX2 and FMA (x86-64).
    """

    _rounds = False

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._known = self._state()

    @staticmethod
    def runs(model: PreTrainedModel) -> bool:
        """Whether ``_native`` computes the model's own logits, and faster than torch."""
        return (
            NativeRunner.runs(model)
            and native_linear(model.get_input_embeddings().weight) is not None
            and model.config._attn_implementation in MASKED
        )

    def read(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> list[torch.Tensor]:
        if len(texts) > len(self._texts):
            self._require_unchanged()
        return super().read(texts, trees)

    def _most_rows(self) -> float:
        return _LONG

    def _require_unchanged(self) -> None:
        if not self.runs(self.model) or self._state() != self._known:
            raise RuntimeError(
                "ExactNativeRunner: a module, a setting or a weight of the model was replaced, or "
                "a hook was added, since this runner was made; make a new SpeculativeDecoder, or "
                "pass runner=TorchRunner(model), which runs the model's own code"
            )

    def _state(self) -> list[float]:
        """Where the weights are, and the rotation of positions, of which a copy is used."""
        rotation = self.model.model.rotary_emb
        addresses = [weight.data_ptr() for weight in self.model.parameters()]
        return [*addresses, *rotation.inv_freq.tolist(), rotation.attention_scaling]


def _tensor(numbers: Iterable[int], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor(list(numbers), dtype=dtype, device="cpu")


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
