"""Prompts, processors and criteria as transformers' ``generate`` prepares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    StopStringCriteria,
)

from tokentiming.generation import arguments
from tokentiming.generation.lengths import refuse_lengths
from tokentiming.generation.processors import for_row
from tokentiming.generation.values import Allowed, refuse_ids, refuse_values
from tokentiming.tokens.prompts import Prompt


@dataclass(frozen=True)
class Batch:
    """Rows that share one call of ``generate``."""

    rows: Sequence[Prompt]
    processors: LogitsProcessorList
    """For the whole batch."""
    criteria: StoppingCriteriaList
    config: Any
    """The generation config, with the model's own settings and the defaults in it."""

    @classmethod
    def of(
        cls,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: Any,
        model_kwargs: Mapping[str, Any],
        *,
        prompt: Prompt | None = None,
    ) -> Batch:
        """The arguments of a ``custom_generate`` callable as a batch; unused ones are refused.

        Args:
            input_ids: int64 ``[B, L]``, padding included.
            logits_processor: for the batch.
            stopping_criteria: for the batch.
            generation_config: the prepared one.
            model_kwargs: the other inputs of the model.
            prompt: the source of all rows, if it is known.
        """
        arguments.refuse_config(generation_config)
        mask = model_kwargs.get("attention_mask")
        kept = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
        arguments.refuse_model_inputs(model_kwargs, kept)
        rows = [
            replace(prompt or Prompt([]), ids=ids[row].tolist(), given=ids.tolist())
            for ids, row in zip(input_ids, kept, strict=True)
        ]
        return cls(rows, logits_processor, stopping_criteria, generation_config)

    @property
    def remaining(self) -> int:
        """Maximum number of new tokens of a row."""
        return int(self.config.max_length) - len(self.rows[0].padded)

    def check(self, target: PreTrainedModel) -> None:
        """Refuse prompts that the target cannot read, and values that fail while it runs."""
        steps = {"logits_processor": self.processors, "stopping_criteria": self.criteria}
        refuse_values(vars(self.config) | steps)
        refuse_ids(vars(self.config), target.get_input_embeddings().weight.shape[0])
        for row in self.rows:
            refuse_lengths(row.ids, self.remaining, target)

    def split(
        self, *, alone: bool
    ) -> list[tuple[Prompt, LogitsProcessorList, StoppingCriteriaList]]:
        """Each row with processors and criteria of its own.

        Args:
            alone: whether there is only one row in the call. It gets the original objects, so that
                the user can read their state afterwards.
        """
        if alone:
            return [(self.rows[0], self.processors, self.criteria)]
        size = len(self.rows)
        return [
            (row, *for_row(self.processors, self.criteria, i, size))
            for i, row in enumerate(self.rows)
        ]

    def stopping_at(self, strings: str | list[str] | None, tokenizer: Any) -> Batch:
        """The batch with stop strings among its criteria."""
        if not strings:
            return self
        criterion = StopStringCriteria(tokenizer, strings)
        return replace(self, criteria=StoppingCriteriaList([*self.criteria, criterion]))


def prepare(target: PreTrainedModel, prompt: Prompt, generate_kwargs: Mapping[str, Any]) -> Batch:
    """The batch that ``target.generate`` prepares for a prompt, with a row for each sequence."""
    ids = torch.tensor([prompt.padded], device=target.device)
    kwargs = dict(generate_kwargs)
    config = kwargs.get("generation_config")
    refuse_values((vars(config) if config is not None else {}) | kwargs)
    if kwargs.get("prefix_allowed_tokens_fn") is not None:
        size = target.get_input_embeddings().weight.shape[0]
        kwargs["prefix_allowed_tokens_fn"] = Allowed(kwargs["prefix_allowed_tokens_fn"], size)
    if prompt.mask is not None:
        kwargs["attention_mask"] = torch.tensor([prompt.mask], device=target.device)
    batch: Any = target.generate(ids, custom_generate=_Preparation(prompt), **kwargs)
    return cast(Batch, batch)


class _Preparation:
    """A ``custom_generate`` callable that returns what it is called with."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Batch:
        steps = logits_processor, stopping_criteria
        return Batch.of(input_ids, *steps, generation_config, model_kwargs, prompt=self._prompt)
