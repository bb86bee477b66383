"""Reading values of a tensor synchronizes with a GPU: once per level of drafting and per round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM, LogitsProcessorList

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import lively
from tokentiming import methods
from tokentiming.engine.budget import FixedBudget
from tokentiming.engine.loop import Decoding
from tokentiming.engine.request import Request
from tokentiming.engine.text import Text
from tokentiming.noise import Noise
from tokentiming.runners import TorchRunner
from tokentiming.tokens.prompts import Prompt

TOKENIZER = toys.byte_level_tokenizer()
DRAFT_TOKENIZER = toys.byte_level_tokenizer([("t", "h"), ("th", "e")])
PROMPTS = ("To be, or not to be", "a", "hello there", "to be")
BUDGETS = {
    "chain": FixedBudget(depth=5),
    "tree": FixedBudget(depth=4, nodes=12, width=3, candidates=4),
}


class Reads(TorchDispatchMode):
    """Counts the reads of values of tensors; a model's own do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.in_model = False

    def read(self) -> None:
        self.count += not self.in_model

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.read()
        return function(*args, **(kwargs or {}))


@contextmanager
def reads(monkeypatch) -> Iterator[Reads]:
    counter = Reads()
    tolist, forward = torch.Tensor.tolist, LlamaForCausalLM.forward

    def counted(tensor):
        counter.read()
        return tolist(tensor)

    def uncounted(*args, **kwargs):
        counter.in_model = True
        try:
            return forward(*args, **kwargs)
        finally:
            counter.in_model = False

    with monkeypatch.context() as patch, counter:
        patch.setattr(torch.Tensor, "tolist", counted)
        patch.setattr(LlamaForCausalLM, "forward", uncounted)
        yield counter


def request(index: int, *, do_sample: bool, seed: int, watch) -> Request:
    return Request(
        prompt=Prompt(TOKENIZER(PROMPTS[index]).input_ids),
        processors=LogitsProcessorList(),
        warpers=LogitsProcessorList(),
        end_reason=lambda ids: None,
        criteria_device=torch.device("cpu"),
        remaining=24,
        do_sample=do_sample,
        noise=Noise(seed),
        index=index,
        config=None,
        watch=watch,
    )


@pytest.mark.parametrize(("texts", "seeds"), [(1, 1), (4, 1), (4, 2)])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ["greedy", "coupled", "slem"])
def test_a_round_reads_values_once_per_level_and_once_more(name, budget, texts, seeds, monkeypatch):
    draft = lively(1, vocab_size=len(DRAFT_TOKENIZER))
    drafter = tt.ModelDrafter(draft, DRAFT_TOKENIZER, TorchRunner(draft))
    method = methods.Greedy() if name == "greedy" else methods.resolve(name)
    seen: list[tuple[int, int]] = []
    with reads(monkeypatch) as counter:

        def watch(round_):
            if round_.index == 0:
                seen.append((counter.count, drafter.forwards))

        target = TorchRunner(lively(vocab_size=len(TOKENIZER)))
        vocabulary = tt.Vocabulary.from_tokenizer(TOKENIZER)
        generated = [
            Text(
                request(i, do_sample=name != "greedy", seed=i % seeds, watch=watch),
                vocabulary,
                tt.Stats(name, exact=True),
            )
            for i in range(texts)
        ]
        Decoding(
            target, vocabulary, [drafter], method, BUDGETS[budget],
            target_tokenizer=TOKENIZER, batch_size=texts,
        ).run(generated)  # fmt: skip
    assert all(text.stats.proposed > 20 for text in generated)
    rounds = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(seen)]
    deepest = max(levels for _, levels in rounds)
    assert {"chain": 3, "tree": 2}[budget] < deepest <= {"chain": 5, "tree": 4}[budget]
    assert [count for count, _ in rounds] == [levels + 1 for _, levels in rounds]
