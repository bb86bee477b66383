"""Limits on the number of tokens: by the arguments, the prompt and the target's context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from tokentiming.runners.base import context_length, longrope_length
from tokentiming.scalars import integer
from tokentiming.tokens.prompts import Prompt

DEFAULT_NEW_TOKENS = 128


def length(
    given: Mapping[str, Any], prompts: Sequence[Prompt], target: PreTrainedModel
) -> dict[str, int]:
    """The length argument for transformers, resolved in transformers' order of precedence.

    Args:
        given: ``max_new_tokens``, ``max_length`` and ``generation_config`` as ``generate`` got
            them.
        prompts: all shorter than ``max_length``.
        target: its generation config comes last.

    Returns:
        One argument, or none if a config sets it.
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
    """Refuse ids out of range, limits below one new token, and texts longer than the context.

    Args:
        ids: the prompt's, without padding.
        remaining: maximum number of new tokens.
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
    _refuse_new_positions(ids, remaining, target)


def _refuse_new_positions(ids: Sequence[int], remaining: int, target: PreTrainedModel) -> None:
    """Refuse a text that grows past the length at which LongRoPE changes its rotary tables.

    The tables depend on the largest position of a pass, so proposed tokens would change them early.
    """
    original = longrope_length(target.config.get_text_config())
    if original is not None and len(ids) <= original < len(ids) + remaining:
        raise ValueError(
            f"generate: {len(ids)} prompt tokens and {remaining} new ones cross position "
            f"{original}, where LongRoPE changes the positions of all tokens; give at most "
            f"max_new_tokens={original - len(ids)}, or call the target's generate"
        )
