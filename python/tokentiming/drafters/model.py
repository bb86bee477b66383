"""A causal language model as drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming.drafters.base import Choice, Choose, Draft, WantsMore
from tokentiming.noise import State
from tokentiming.runners import ModelRunner, NativeRunner, checks, runner_for
from tokentiming.runners.probe import require_same_logits
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.transcode import Context, unfinished
from tokentiming.tokens.vocabulary import Vocabulary


class ModelDrafter:
    """Any causal language model of transformers, with its own tokenizer and cache.

    Args:
        model: borrowed, never changed.
        tokenizer: the model's.
        runner: runs the model; by default the fastest one, ``runners.runner_for(model)``.

    Raises:
        TypeError: the model is not a causal language model of transformers.
        ValueError: the model keeps a recurrent state, gives other logits when it is read piece by
            piece, or is on a device whose memory the core cannot read; or the tokenizer's kind is
            unknown.

    Example:
        >>> drafter = ModelDrafter(draft_model, draft_tokenizer)
        >>> decoder = SpeculativeDecoder(target_model, target_tokenizer, drafter)
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, runner: ModelRunner | None = None
    ) -> None:
        checks.causal_model(model, "ModelDrafter")
        checks.rolls_back(model, "ModelDrafter")
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(
            tokenizer,
            eos_token_ids=model.generation_config.eos_token_id,
            rows=model.get_input_embeddings().weight.shape[0],
        )
        self.runner = runner_for(model) if runner is None else runner
        # The native runner does not run the model's own code.
        if runner is None and not isinstance(self.runner, NativeRunner) and not model.training:
            require_same_logits(model, self.runner, "ModelDrafter")
        self.prompt: list[int] = []
        """The current prompt in this model's ids."""
        self._context = Context(self.vocabulary)

    @property
    def synchronizes(self) -> bool:
        return self.runner.synchronizes

    @property
    def forwards(self) -> int:
        return self.runner.forwards

    @property
    def context(self) -> list[int]:
        """The generated part in this model's ids, without the prompt."""
        return self._context.ids

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        self.prompt = prompt.ids_for(self.tokenizer, self.vocabulary, target_tokenizer)
        self._context = Context(self.vocabulary)
        self._warpers = warpers
        self.runner.reset()

    def propose(
        self, text: bytes, state: State, limit: int, choose: Choose, wants_more: WantsMore
    ) -> Draft:
        """Draft as described by ``Drafter``.

        The draft is empty inside a character whose bytes have no tokens of their own here, beyond
        the model's context, and before there are ids to read: a tokenizer without a
        beginning-of-text token makes no ids of an empty prompt.
        """
        tail = unfinished(text)
        if tail and not self.vocabulary.can_spell(text[-tail:]):
            return Draft()
        read = self.prompt + self._context.follow(text)
        if not read:
            return Draft()
        if self.runner.max_length is not None:
            limit = max(min(limit, self.runner.max_length - len(read)), 0)
        choices = islice(self._choices(read, state, choose), limit)
        draft = Draft()
        if self.synchronizes:
            draft.take(list(choices), self.vocabulary.special_ids)
        else:
            for choice in choices:
                if not draft.take([choice], self.vocabulary.special_ids):
                    break
                if len(draft.ids) == limit or not wants_more(draft.confidences):
                    break
        self.runner.identify(draft.drawn)
        self._context.extend(draft.ids)
        return draft

    def _choices(self, read: list[int], state: State, choose: Choose) -> Iterator[Choice]:
        """Choices one after another, without reading their values."""
        device = self.runner.device
        advances = self.vocabulary.on(device).advances
        ids = torch.empty((1, 0), dtype=torch.int64, device=device)  # warpers ignore them
        states = state.on(device)
        logits = self.runner.logits(read)
        while True:
            logits = logits[:, : len(self.vocabulary)]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            scores = self._warpers(ids, logits)
            choice = choose(scores, states)
            if choice is None:
                return
            yield choice
            token = choice.token.clamp(min=0)  # a draft may have ended here, unread
            states = states + advances[token]
            logits = self.runner.step(token)
