"""Where a look at a result waits for a GPU: drafts in one go, verdicts together, two looks a round.

The CPU plays the GPU here: it says that looking waits, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, PreTrainedTokenizerFast

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import SIZES
from tokentiming import methods
from tokentiming.engine.draft_length import FixedDraftLength
from tokentiming.engine.loop import Decoding, Request
from tokentiming.noise import Noise
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.prompts import Prompt

TOKENIZER = toys.byte_level_tokenizer()
DRAFT_TOKENIZER = toys.byte_level_tokenizer([("t", "h"), ("th", "e")])
PROMPT = "To be, or not to be"


@pytest.fixture(autouse=True)
def synchronizes(monkeypatch) -> None:
    monkeypatch.setattr(TorchRunner, "synchronizes", True)


def small(seed: int, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)}, initializer_range=0.2)
    return LlamaForCausalLM(config).eval()


def own_drafter() -> tt.ModelDrafter:
    return tt.ModelDrafter(small(1, DRAFT_TOKENIZER), DRAFT_TOKENIZER)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "top_k": 20, "repetition_penalty": 1.1},
        {"do_sample": False},
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_the_text_is_the_same(options, same, monkeypatch):
    options = {"max_new_tokens": 40} | options
    drafter = tt.ModelDrafter(small(0), TOKENIZER) if same else own_drafter()
    decoder = tt.SpeculativeDecoder(small(0), TOKENIZER, drafter, draft_length=4)
    assert drafter.synchronizes
    together = decoder.generate(PROMPT, **options)
    assert together.stats.proposed > 0
    assert not same or together.stats.accepted > 10
    monkeypatch.setattr(TorchRunner, "synchronizes", False)
    one_by_one = decoder.generate(PROMPT, **options)
    alone = tt.SpeculativeDecoder(small(0), TOKENIZER).generate(PROMPT, **options)
    assert together.text == one_by_one.text == alone.text


class Looks(TorchDispatchMode):
    """Counts the looks at values of tensors; a model's own do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.in_model = False

    def look(self) -> None:
        self.count += not self.in_model

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.look()
        return function(*args, **(kwargs or {}))


@contextmanager
def looks(monkeypatch) -> Iterator[Looks]:
    counter = Looks()
    tolist, forward = torch.Tensor.tolist, LlamaForCausalLM.forward

    def counted(tensor):
        counter.look()
        return tolist(tensor)

    def unwatched(*args, **kwargs):
        counter.in_model = True
        try:
            return forward(*args, **kwargs)
        finally:
            counter.in_model = False

    with monkeypatch.context() as patch, counter:
        patch.setattr(torch.Tensor, "tolist", counted)
        patch.setattr(LlamaForCausalLM, "forward", unwatched)
        yield counter


@pytest.mark.parametrize("name", ["greedy", "coupled", "slem"])
@pytest.mark.parametrize("waits", [True, False])
def test_a_round_looks_twice(name, waits, monkeypatch):
    monkeypatch.setattr(TorchRunner, "synchronizes", waits)
    drafter = own_drafter()
    vocabulary = tt.Vocabulary.from_tokenizer(TOKENIZER)
    seen: list[int] = []
    with looks(monkeypatch) as counter:
        request = Request(
            Prompt(TOKENIZER(PROMPT).input_ids),
            LogitsProcessorList(),
            LogitsProcessorList(),
            lambda ids: None,
            torch.device("cpu"),
            24,
            name != "greedy",
            Noise(1),
            lambda round_: seen.append(counter.count),
        )
        method = methods.resolve("coupled" if name == "greedy" else name)
        target = TorchRunner(small(0))
        decoding = Decoding(target, vocabulary, drafter, method, FixedDraftLength(5), request)
        decoding.run(TOKENIZER)
    assert decoding.stats.proposed > 20
    a_round = [after - before for before, after in pairwise(seen)]
    if waits:
        assert set(a_round[:-1]) == {2}  # the drafted tokens, and the emitted ones
    else:
        assert max(a_round) > 5
