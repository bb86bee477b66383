"""What `generate` accepts, by either way in, and what it refuses before any model runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any, NoReturn

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.generation import GenerationMode

from tokentiming.prompts import Prompt

DEFAULT_NEW_TOKENS = 128

_REFUSED = {
    "assistant_model": "the drafter is given to SpeculativeDecoder",
    "assistant_tokenizer": "the drafter is given to SpeculativeDecoder",
    "custom_generate": "SpeculativeDecoder.generate is one itself",
    "input_ids": "ids are given as the prompt",
    "inputs": "ids are given as the prompt",
    "inputs_embeds": "proposals are ids; give the prompt as ids or text",
    "attention_mask": "give each prompt without padding, several as a list",
    "past_key_values": "the decoder keeps its own cache; give the whole prompt",
}

_REFUSED_IN_CONFIG = {
    "output_scores": "rejected rows have no place in it; score out.sequences with the target",
    "output_logits": "rejected rows have no place in it; score out.sequences with the target",
    "output_attentions": "run the target over out.sequences instead",
    "output_hidden_states": "run the target over out.sequences instead",
}

_WITHOUT_EFFECT = frozenset({"attention_mask", "logits_to_keep", "past_key_values", "use_cache"})
"""Inputs of a model that are used, or that do not change what it computes."""

_PARAMETERS = (
    _WITHOUT_EFFECT
    | {"input_ids", "position_ids", "tokenizer", "token_type_ids"}
    | set(inspect.signature(GenerationMixin.generate).parameters)
)
"""Names that are not for the model alone, or are looked at more closely."""

_DROPPED = {
    "streamer": "give it to custom_generate(streamer=...)",
    "assistant_model": "give it to custom_generate(draft_model=...)",
}
"""Arguments that `generate` keeps from a `custom_generate` callable."""


def integer(value: Any, name: str, *, least: int, caller: str = "generate") -> int:
    """An argument that is an integer of any type, NumPy's and tensors' included.

    Raises:
        TypeError: it is none.
        ValueError: it is below the least.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        result = index(value)
    except TypeError:
        raise TypeError(
            f"{caller}: {name} is {value!r}, a {type(value).__name__}; give an integer"
        ) from None
    if result < least:
        raise ValueError(f"{caller}: {name} is {result}; give at least {least}")
    return result


def seed(value: Any) -> int:
    """A seed that fits the noise's key."""
    result = integer(value, "seed", least=0)
    if result >= 2**63:
        raise ValueError(f"generate: seed is {result}; give 0 to 2**63 - 1")
    return result


def refuse_generate_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of transformers' ``generate`` that have no meaning here."""
    for name, way_out in (_REFUSED | _REFUSED_IN_CONFIG).items():
        if arguments.get(name) is not None and arguments[name] is not False:
            raise ValueError(f"generate: {name} cannot be honoured: {way_out}")
    refuse_other_inputs(arguments)


def refuse_config(config: Any) -> None:
    """Refuse all but greedy decoding and sampling, and outputs that do not exist here.

    Args:
        config: as `generate` prepared it, so that the model's own settings count too.
    """
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(
            f"generate: {mode.value.replace('_', ' ')} cannot be speculated on; set num_beams=1 "
            "and leave out what asks for it"
        )
    for name, way_out in _REFUSED_IN_CONFIG.items():
        if getattr(config, name, None):
            raise ValueError(
                f"generate: {name} cannot be honoured: {way_out}; set {name}=False if the model's "
                "generation config asks for it"
            )


def refuse_model_inputs(inputs: Mapping[str, Any], mask: torch.Tensor) -> None:
    """Refuse inputs of the model other than ids.

    Args:
        inputs: what `generate` hands to the model besides the ids.
        mask: bool ``[B, L]``, False at padding.
    """
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise ValueError(
            "generate: past_key_values holds tokens already; the decoder keeps its own cache, so "
            "give the whole prompt"
        )
    for name, value in inputs.items():
        if name in _WITHOUT_EFFECT or value is None or value is False or value == {}:
            continue
        if name == "position_ids" and _are_usual_positions(value, mask):
            continue
        if name == "token_type_ids" and not value.any():
            continue
        _refuse_input(name)


def refuse_other_inputs(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that are for the model alone, before an encoder runs on them.

    Args:
        arguments: all that `generate` has no parameter for.
    """
    settings = GenerationConfig()
    for name, value in arguments.items():
        if not (hasattr(settings, name) or name in _PARAMETERS or value is None or value is False):
            _refuse_input(name)


def _refuse_input(name: str) -> NoReturn:
    raise ValueError(
        f"generate: {name} is not used here, where the target reads ids alone; leave it out, or "
        "call the target's generate without custom_generate"
    )


def _are_usual_positions(positions: torch.Tensor, mask: torch.Tensor) -> bool:
    if positions.shape != mask.shape:  # axes of their own, which the model makes by itself
        return positions.ndim > 2
    usual = mask.cumsum(-1) - 1
    return bool(((positions == usual) | ~mask).all())


def refuse_dropped(speculate: Callable[..., Any]) -> None:
    """Refuse arguments of `generate` that it does not hand on to ``speculate`` as they were.

    They are left in its frame alone. A streamer is told that nothing comes, or its reader would
    wait for ever.
    """
    frame = inspect.currentframe()
    while frame is not None:
        given = frame.f_locals
        if frame.f_code.co_name == "generate" and given.get("custom_generate") is speculate:
            for name, way_out in _DROPPED.items():
                if given.get(name) is None:
                    continue
                if name == "streamer":
                    given[name].end()
                raise ValueError(f"generate: {name} does not reach custom_generate; {way_out}")
            refuse_other_inputs(given["kwargs"])
            return
        frame = frame.f_back


def refuse_streamer(streamer: Any, texts: int) -> None:
    """Refuse to mix several texts in one stream."""
    if streamer is not None and texts > 1:
        raise ValueError(
            f"generate: streamer takes one text at a time and there are {texts}; call generate "
            "for each"
        )


def length(
    given: Mapping[str, Any], prompts: Sequence[Prompt], target: PreTrainedModel
) -> dict[str, int]:
    """What to tell transformers about the length, settled in the order in which it does.

    Args:
        given: ``max_new_tokens``, ``max_length`` and ``generation_config`` as ``generate`` got
            them.
        prompts: which have to be shorter than ``max_length``.
        target: whose own generation config counts last.

    Returns:
        One argument; none if a config says all.
    """
    configs = (given.get("generation_config"), target.generation_config)
    for name in ("max_new_tokens", "max_length"):
        for source in (given, *(vars(config) for config in configs if config is not None)):
            if source.get(name) is not None:
                value = integer(source[name], name, least=1)
                longest = max(len(prompt.padded) for prompt in prompts)
                if name == "max_length" and value <= longest:
                    raise ValueError(
                        f"generate: max_length is {value} and the prompt has {longest} tokens; "
                        "give max_new_tokens, or a greater max_length"
                    )
                return {name: value} if source is given else {}
    return {"max_new_tokens": DEFAULT_NEW_TOKENS}


def refuse_lengths(ids: Sequence[int], remaining: int, target: PreTrainedModel) -> None:
    """Refuse ids out of range, no place for new tokens, and more than the context holds.

    Args:
        ids: the prompt's, without padding.
        remaining: most new tokens.
        target: the model.
    """
    if not ids:
        raise ValueError("generate: prompt is empty; give at least one token")
    size = target.get_input_embeddings().weight.shape[0]
    if min(ids) < 0 or max(ids) >= size:
        wrong = next(i for i in ids if not 0 <= i < size)
        raise ValueError(f"generate: prompt holds id {wrong}, outside the target's 0..{size - 1}")
    if remaining < 1:
        raise ValueError(
            f"generate: {remaining} new tokens are asked for after a prompt of {len(ids)}; give at "
            "least 1 with max_new_tokens"
        )
    limit = context_length(target)
    if limit is not None and len(ids) + remaining > limit:
        raise ValueError(
            f"generate: {len(ids)} prompt tokens and {remaining} new ones exceed the target's "
            f"context of {limit}; shorten the prompt or lower max_new_tokens"
        )


def context_length(model: PreTrainedModel) -> int | None:
    """Most tokens that a model can read, where its config says so (XLNet's says -1)."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None
