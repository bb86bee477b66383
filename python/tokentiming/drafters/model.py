"""A causal language model as drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming import checks
from tokentiming.cache import CachedModel
from tokentiming.devices import send
from tokentiming.drafters.base import Choice, Choose, Draft, WantsMore
from tokentiming.graphed_model import GraphedModel
from tokentiming.native_model import NativeModel
from tokentiming.noise import State
from tokentiming.prompts import Prompt
from tokentiming.transcode import follow, unfinished
from tokentiming.vocabulary import Vocabulary


class ModelDrafter:
    """Any causal language model of transformers, with its own tokenizer and cache.

    Args:
        model: borrowed, never changed.
        tokenizer: the model's.

    Raises:
        ValueError: the model keeps a recurrent state or is where the core cannot read its scores,
            or the tokenizer's kind is unknown.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        checks.device(model, "ModelDrafter")
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(
            tokenizer, eos_token_ids=model.generation_config.eos_token_id
        )
        self._reader = reader(model)
        self._prompt: list[int] = []
        self._context: list[int] = []

    @property
    def in_one_go(self) -> bool:
        return self._reader.looking_waits

    @property
    def forwards(self) -> int:
        return self._reader.forwards

    @property
    def context(self) -> list[int]:
        """The generated part as this model reads it: prompt not included."""
        return self._context

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        self._prompt = prompt.ids_for(self.tokenizer, target_tokenizer)
        self._context = []
        self._warpers = warpers
        self._reader.reset()

    def propose(
        self, text: bytes, state: State, limit: int, choose: Choose, wants_more: WantsMore
    ) -> Draft:
        """Draft as described by ``Drafter``.

        Nothing is drafted inside a character whose bytes have no tokens of their own here, nor
        beyond the model's context.
        """
        tail = unfinished(text)
        if tail and not self.vocabulary.can_spell(text[-tail:]):
            return Draft()
        self._context = follow(self._context, text, self.vocabulary)
        read = self._prompt + self._context
        room = limit if self._reader.max_length is None else self._reader.max_length - len(read)
        limit = max(min(limit, room), 0)
        choices = islice(self._choices(read, state, choose), limit)
        draft = Draft()
        if self.in_one_go:
            draft.take(list(choices), self.vocabulary.special_ids)
        else:
            for choice in choices:
                if not draft.take([choice], self.vocabulary.special_ids):
                    break
                if len(draft.ids) == limit or not wants_more(draft.confidences):
                    break
        self._reader.identify(draft.drawn)
        self._context = self._context + draft.ids
        return draft

    def _choices(self, read: list[int], state: State, choose: Choose) -> Iterator[Choice]:
        """Token after token, whatever they are, without a look at them."""
        device = self._reader.device
        advances = self.vocabulary.on(device).advances
        ids = send(torch.tensor([read]), device)
        states = state.on(device)
        logits = self._reader.logits(read)
        while True:
            logits = logits[:, : len(self.vocabulary)]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            scores = self._warpers(ids, logits)
            choice = choose(scores, states)
            if choice is None:
                return
            yield choice
            token = choice.token.clamp(min=0)  # where there is none the draft has ended, unseen
            ids = torch.cat((ids, token[None]), 1)
            states = states + advances[token]
            logits = self._reader.step(token)


def reader(model: PreTrainedModel) -> CachedModel | GraphedModel | NativeModel:
    """The quickest way to read a draft model."""
    if NativeModel.runs(model):
        return NativeModel(model)
    if GraphedModel.runs(model):
        return GraphedModel(model)
    return CachedModel(model)
