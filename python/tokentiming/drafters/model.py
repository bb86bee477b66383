"""A causal language model as drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming.drafters.base import Choice, Choose, Draft, WantsMore
from tokentiming.noise import State
from tokentiming.runners import checks
from tokentiming.runners.cuda_graph import CudaGraphRunner, cuda_graph_or_torch
from tokentiming.runners.native import NativeRunner
from tokentiming.runners.probe import refuse_unfaithful
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.transcode import Context, unfinished
from tokentiming.tokens.vocabulary import Vocabulary


class ModelDrafter:
    """Any causal language model of transformers, with its own tokenizer and cache.

    Args:
        model: borrowed, never changed.
        tokenizer: the model's.

    Raises:
        TypeError: the model is no causal language model of transformers.
        ValueError: the model keeps a recurrent state, gives other logits when it is read piece by
            piece, or is where the core cannot read its scores; or the tokenizer's kind is unknown.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        checks.causal_model(model, "ModelDrafter")
        checks.rolls_back(model, "ModelDrafter")
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(
            tokenizer,
            eos_token_ids=model.generation_config.eos_token_id,
            rows=model.get_input_embeddings().weight.shape[0],
        )
        self._reader = reader(model)
        if isinstance(self._reader, TorchRunner) and not model.training:
            refuse_unfaithful(model, self._reader, "ModelDrafter")
        self._prompt: list[int] = []
        self._context = Context(self.vocabulary)

    @property
    def synchronizes(self) -> bool:
        return self._reader.synchronizes

    @property
    def forwards(self) -> int:
        return self._reader.forwards

    @property
    def context(self) -> list[int]:
        """The generated part as this model reads it: prompt not included."""
        return self._context.ids

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        self._prompt = prompt.ids_for(self.tokenizer, self.vocabulary, target_tokenizer)
        self._context = Context(self.vocabulary)
        self._warpers = warpers
        self._reader.reset()

    def propose(
        self, text: bytes, state: State, limit: int, choose: Choose, wants_more: WantsMore
    ) -> Draft:
        """Draft as described by ``Drafter``.

        Nothing is drafted inside a character whose bytes have no tokens of their own here, nor
        beyond the model's context, nor where there is nothing to read yet: a tokenizer without a
        beginning-of-text token makes no ids of an empty prompt.
        """
        tail = unfinished(text)
        if tail and not self.vocabulary.can_spell(text[-tail:]):
            return Draft()
        read = self._prompt + self._context.follow(text)
        if not read:
            return Draft()
        if self._reader.max_length is not None:
            limit = max(min(limit, self._reader.max_length - len(read)), 0)
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
        self._reader.identify(draft.drawn)
        self._context.extend(draft.ids)
        return draft

    def _choices(self, read: list[int], state: State, choose: Choose) -> Iterator[Choice]:
        """Token after token, whatever they are, without a look at them."""
        device = self._reader.device
        advances = self.vocabulary.on(device).advances
        ids = torch.empty((1, 0), dtype=torch.int64, device=device)  # warpers do not look at them
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
            states = states + advances[token]
            logits = self._reader.step(token)


def reader(model: PreTrainedModel) -> TorchRunner | NativeRunner:
    """The quickest way to read a draft model."""
    if NativeRunner.runs(model):
        return NativeRunner(model)
    if CudaGraphRunner.runs(model):
        return cuda_graph_or_torch(model)
    return TorchRunner(model)
