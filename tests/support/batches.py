"""Prompts of mixed lengths, drafters for several texts, and the target alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import TOKENIZER, lively
from tokentiming.engine.budget import FixedBudget

PROMPTS = (
    "ab",
    "to be or not to be, that is the question",  # longer than any window here
    "abc abc",
    "日本",
    "x",
    "hello there, a few words more",
    "a b ab a b ab",
)
PAD = 258
OTHER = toys.byte_level_tokenizer([("a", "b"), ("ab", "c"), ("b", "c"), ("t", "o")])
"""A tokenizer for drafts that differs from the target's."""

CHAIN = FixedBudget(depth=4)
TREE = FixedBudget(depth=4, nodes=12, width=3, candidates=4)


class RightPathLast(toys.Drafter):
    """Knows the continuation of each prompt, and proposes wrong paths before the right one.

    Args:
        vocabulary: the target's.
        continuations: the prompt's ids -> the new ones.
    """

    def __init__(
        self, vocabulary: tt.Vocabulary, continuations: dict[tuple[int, ...], list[int]]
    ) -> None:
        super().__init__(vocabulary)
        self._continuations = continuations
        self._texts: list[list[int]] = []

    def begin(self, prompt, target_tokenizer, warpers) -> None:
        self._texts.append(self._continuations[tuple(prompt.ids)])

    def drop(self, index: int) -> None:
        self._texts[index] = self._texts[-1]
        self._texts.pop()

    def reset(self) -> None:
        self._texts = []

    def propose(self, requests, choose, grow) -> None:
        for one, ids in zip(requests, self._texts, strict=True):
            spelled = [len(self.vocabulary.decode(ids[:n])) for n in range(len(ids) + 1)]
            right = ids[spelled.index(len(one.text)) :][: one.draft.limit]
            for wrong in (1, 2) if right else ():
                if wrong != right[0]:
                    one.draft.extend([wrong, wrong][: one.draft.limit], -1)
            one.draft.extend(right, -1)


def ids_of(prompt: str) -> list[int]:
    return TOKENIZER(prompt).input_ids


def alone(target: PreTrainedModel, prompt: str, **options) -> list[int]:
    """The new ids of ``target.generate`` for a single prompt."""
    ids = torch.tensor([ids_of(prompt)])
    return target.generate(ids, attention_mask=torch.ones_like(ids), **options)[
        0, ids.shape[1] :
    ].tolist()


def new_ids(output: tt.SpeculativeOutput, prompts: Sequence[str] = PROMPTS) -> list[list[int]]:
    """The new ids of each text, one after another if a prompt has several."""
    each = len(output.stats) // len(prompts)
    begins = [len(ids_of(prompt)) for prompt in prompts for _ in range(each)]
    return [
        row[begin : begin + stats.tokens]
        for row, begin, stats in zip(output.sequences.tolist(), begins, output.stats, strict=True)
    ]


def padded(prompts: Sequence[str], side: str) -> dict[str, torch.Tensor]:
    """What a tokenizer makes of several prompts; the pad id is an ordinary token too."""
    rows = [ids_of(prompt) for prompt in prompts]
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        pads = longest - len(row)
        left, right = (pads, 0) if side == "left" else (0, pads)
        ids.append([PAD] * left + row + [PAD] * right)
        mask.append([0] * left + [1] * len(row) + [0] * right)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def near(target: PreTrainedModel) -> PreTrainedModel:
    """A draft that is often right: the target with some noise."""
    draft = type(target)(target.config).eval()
    draft.load_state_dict(target.state_dict())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.02)
    return draft


def _right_path_last(target: PreTrainedModel, vocabulary: tt.Vocabulary, **options) -> tt.Drafter:
    texts = {tuple(ids_of(prompt)): alone(target, prompt, **options) for prompt in PROMPTS}
    return RightPathLast(vocabulary, texts)


Source = Callable[..., "tt.Drafter | None"]

SOURCES: dict[str, Source] = {
    "none": lambda target, vocabulary, **options: None,
    "a model": lambda target, vocabulary, **options: tt.ModelDrafter(near(target), TOKENIZER),
    "a model of another vocabulary": lambda target, vocabulary, **options: tt.ModelDrafter(
        lively(1, vocab_size=len(OTHER)), OTHER
    ),
    "random trees": lambda target, vocabulary, **options: toys.RandomDrafter(
        vocabulary, branches=True
    ),
    "the right path last": _right_path_last,
    "earlier text": lambda target, vocabulary, **options: tt.SuffixDrafter(PROMPTS[:3], shortest=1),
}
"""Drafters for a target; ``options`` are those of greedy decoding."""
