"""Prompts, processors and criteria as transformers' ``generate`` prepares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    StopStringCriteria,
)

from tokentiming import scalars
from tokentiming.engine.request import Request, Round
from tokentiming.generation import arguments
from tokentiming.generation.lengths import refuse_lengths
from tokentiming.generation.processors import (
    criteria_device,
    end_reason,
    for_row,
    have_state,
    warpers,
    without_padding,
)
from tokentiming.generation.values import Allowed, refuse_ids, refuse_values
from tokentiming.noise import Noise, draw_seed
from tokentiming.tokens.prompts import Prompt

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


def requests_of(
    batches: Sequence[Batch],
    target: PreTrainedModel,
    *,
    tokens: int,
    seed: int | list[int] | None,
    watch: Callable[[Round], None],
) -> list[Request]:
    """A request for each row of the batches.

    Args:
        batches: of one call.
        target: the target model.
        tokens: number of ids that may be drawn.
        seed: of all rows, or a list with one for each prompt; None draws one.
        watch: called with each round.

    Raises:
        ValueError: the target cannot read a prompt, or a processor cannot be copied.
    """
    for i, batch in enumerate(batches):
        _check(batch, target, place=i if len(batches) > 1 else None)
    size = sum(len(batch.rows) for batch in batches)
    prompts = sum(len(b.rows) // (b.config.num_return_sequences or 1) for b in batches)
    noises = _noises(seed, size, prompts=prompts)
    rows = [(batch, *row) for batch in batches for row in batch.split(alone=size == 1)]
    return [
        Request(
            prompt=prompt,
            processors=(
                without_padding(processors, tokens) if batch.config.do_sample else processors
            ),
            warpers=warpers(processors),
            end_reason=end_reason(criteria),
            criteria_device=criteria_device(criteria, target.device),
            remaining=batch.remaining,
            do_sample=bool(batch.config.do_sample),
            noise=noises[i],
            index=i,
            config=batch.config,
            watch=watch,
            emitted_only=have_state(processors),
        )
        for i, (batch, prompt, processors, criteria) in enumerate(rows)
    ]


def _check(batch: Batch, target: PreTrainedModel, *, place: int | None) -> None:
    """Check a batch; an error names the place of its prompt in a list."""
    try:
        batch.check(target)
    except ValueError as error:
        if place is None:
            raise
        raise ValueError(f"{error} (prompt {place} of the list)") from None


def _noises(seed: int | list[int] | None, rows: int, prompts: int) -> list[Noise]:
    """The random choices of each row.

    Rows with the same seed differ by their index. With a seed for each prompt, rows are numbered
    within each prompt.
    """
    if not isinstance(seed, list | tuple):
        number = draw_seed() if seed is None else scalars.seed(seed)
        return [Noise(number, row) for row in range(rows)]
    if len(seed) not in (prompts, rows):
        raise ValueError(
            f"generate: seed is a list of {len(seed)} for {prompts} prompts; give one for each"
        )
    each = rows // len(seed)
    return [Noise(scalars.seed(number), row) for number in seed for row in range(each)]


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
