"""A causal language model as drafter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming.drafters.base import Choose, DraftRequest, Grow
from tokentiming.drafters.draft import Draft
from tokentiming.runners import ModelRunner, NativeRunner, checks, runner_for
from tokentiming.runners.probe import require_same_logits
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.transcode import Context, unfinished
from tokentiming.tokens.tree import NO_TREE, TEXT, Tree
from tokentiming.tokens.vocabulary import Vocabulary


class ModelDrafter:
    """Any causal language model of transformers, with its own tokenizer and cache.

    Args:
        model: borrowed, never changed.
        tokenizer: the model's.
        runner: runs the model; by default the fastest one, ``runners.runner_for(model)``.

    Raises:
        TypeError: the model is not a causal language model of transformers, or ``runner`` is not a
            runner.
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
        checks.runner(runner, "ModelDrafter")
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
        self.weights = sum(map(torch.numel, model.parameters()))
        """Number of weights, from which the seconds of a pass are estimated at first."""
        self.texts: list[Reader] = []
        """The texts to draft for, each in this model's ids."""

    @property
    def forwards(self) -> int:
        return self.runner.forwards

    @property
    def supports_forests(self) -> bool:
        """Whether the model reads trees with branches, and several texts at once."""
        return self.runner.supports_forests

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        ids = prompt.ids_for(self.tokenizer, self.vocabulary, target_tokenizer)
        self.texts.append(Reader(ids, self.vocabulary, warpers))

    def drop(self, index: int) -> None:
        self.texts[index] = self.texts[-1]
        self.texts.pop()
        self.runner.drop(index)

    def reset(self) -> None:
        self.texts = []
        self.runner.reset()

    def propose(self, requests: Sequence[DraftRequest], choose: Choose, grow: Grow) -> None:
        """Draft as described by ``Drafter``, with one forward pass per level for all texts.

        A text longer than the model's context is read without its oldest part. A draft stays empty
        if the text ends inside a character whose bytes are not tokens of this vocabulary, or if
        there are no ids to read. An empty prompt has no ids if the tokenizer adds no
        beginning-of-text token.
        """
        reading = [
            reader.follow(text, self.runner.max_length)
            for reader, text in zip(self.texts, requests, strict=True)
        ]
        if not any(reading):
            return
        logits = self.runner.read(reading, [NO_TREE] * len(reading))
        rows = [(i, TEXT) for i, ids in enumerate(reading) if ids]
        while rows:
            places = [requests[i].place_after(node) for i, node in rows]
            candidates = choose(self._warped(logits), places)
            for row, ((i, node), values) in enumerate(zip(rows, candidates.rows(), strict=True)):
                if candidates.distributions is not None:
                    requests[i].draft.distributions[node] = candidates.distributions[row : row + 1]
                requests[i].draft.take(node, values)
            chosen = grow([text.draft for text in requests])
            rows = [(i, node) for i, nodes in enumerate(chosen) for node in nodes]
            if rows:
                logits = self.runner.extend(
                    [reader.grown(nodes) for reader, nodes in zip(self.texts, chosen, strict=True)]
                )

    def _warped(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """The scores ``[R, V]`` of all rows, each processed by the warpers of its text."""
        ids = torch.empty((1, 0), dtype=torch.int64, device=self.runner.device)  # warpers ignore it
        warped = []
        for reader, rows in zip(self.texts, logits, strict=True):
            if len(rows):
                rows = rows[:, : len(self.vocabulary)]
                rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
                warped.append(reader.warpers(ids, rows))
        return warped[0] if len(warped) == 1 else torch.cat(warped)


class Reader:
    """A text as a draft model reads it.

    Attributes:
        prompt: ids.
        warpers: of the text's scores.
    """

    def __init__(self, prompt: list[int], vocabulary: Vocabulary, warpers: Callable[..., Any]):
        self.prompt = prompt
        self.warpers = warpers
        self._vocabulary = vocabulary
        self._context = Context(vocabulary)
        self._dropped = 0  # ids that are no longer read
        self._followed = 0  # bytes of the text when the last draft began
        self._draft = Draft()
        self._read: dict[int, int] = {}  # node of the draft -> its number in the runner

    @property
    def context(self) -> list[int]:
        """The generated part in this model's ids, without the prompt."""
        return self._context.ids

    def follow(self, request: DraftRequest, max_length: int | None) -> list[int]:
        """The ids to read before a draft; empty if no draft is wanted or possible."""
        tail = unfinished(request.text)
        wanted = request.draft.limit > 0
        if not wanted or (tail and not self._vocabulary.can_spell(request.text[-tail:])):
            return []
        new = request.text[self._followed :]
        drafted = self._draft.along(new, self._vocabulary)
        self._context.extend([self._draft.ids[node] for node in drafted])
        self._followed = len(request.text)
        self._draft, self._read = request.draft, {TEXT: TEXT}
        ids = self.prompt + self._context.follow(request.text)
        if max_length is None:
            return ids
        read = self._window(ids, request.draft.limit, max_length)
        request.draft.limit = min(request.draft.limit, max_length - len(read))
        return read if request.draft.limit else []

    def _window(self, ids: list[int], levels: int, max_length: int) -> list[int]:
        """The last ids, so that ``levels`` more fit into the context if possible.

        Half of the context is freed at once, because the model has to read the other half again. A
        special id at the beginning stays, since some models need it.
        """
        first = [i for i in ids[:1] if i in self._vocabulary.special_ids]
        if len(ids) - self._dropped + min(levels, max_length // 4) > max_length:
            self._dropped = max(len(ids) - max_length // 2, 0)
        return [*first, *ids[len(first) + self._dropped :]] if self._dropped else ids

    def grown(self, nodes: Sequence[int]) -> Tree:
        """The given nodes as a tree in the runner's numbering."""
        parents = [self._read[self._draft.parents[node]] for node in nodes]
        self._read |= {node: len(self._read) - 1 + i for i, node in enumerate(nodes)}
        return Tree([self._draft.ids[node] for node in nodes], parents)
