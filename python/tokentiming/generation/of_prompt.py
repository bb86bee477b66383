"""The arguments of a call of ``generate`` for one of its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

_SAMPLING = frozenset(
    {
        "do_sample",
        "epsilon_cutoff",
        "eta_cutoff",
        "min_p",
        "no_repeat_ngram_size",
        "repetition_penalty",
        "temperature",
        "top_h",
        "top_k",
        "top_p",
        "typical_p",
    }
)
"""Arguments that may be lists, a value for each prompt."""


def of_prompt(generate_kwargs: Mapping[str, Any], index: int, prompts: int) -> dict[str, Any]:
    """The arguments of a batch for one of its prompts."""
    kwargs = dict(generate_kwargs)
    for name in _SAMPLING & kwargs.keys():
        if isinstance(kwargs[name], list | tuple):
            if len(kwargs[name]) != prompts:
                raise ValueError(
                    f"generate: {name} is a list of {len(kwargs[name])} for {prompts} prompts; "
                    "give one value for each, or one for all"
                )
            kwargs[name] = kwargs[name][index]
    for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
        if prompts > 1 and kwargs.get(name) is not None:
            kwargs[name] = kwargs[name][index : index + 1]
    allowed = kwargs.get("prefix_allowed_tokens_fn")
    if prompts > 1 and callable(allowed):
        first = index * int(kwargs.get("num_return_sequences") or 1)
        kwargs["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(first + row, ids)
    return kwargs


def stop_strings_of(
    generate_kwargs: dict[str, Any], target: PreTrainedModel
) -> str | list[str] | None:
    """Stop strings of a generation config: the argument's or the model's own.

    They are removed from the arguments, because transformers needs the tokenizer for them and does
    not pass it on to a callable.
    """
    generate_kwargs.pop("tokenizer", None)
    for config in (generate_kwargs.get("generation_config"), target.generation_config):
        strings: str | list[str] | None = getattr(config, "stop_strings", None)
        if strings is not None:
            generate_kwargs["stop_strings"] = None
            return strings
    return None
