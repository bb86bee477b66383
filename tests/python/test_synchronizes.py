"""Where reading a result waits for a GPU: a whole draft, then all rows together, two reads a round.

Runners on the CPU say here that they synchronize, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from tokentiming.engine.draft_length import FixedDraftLength
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, PreTrainedTokenizerFast

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import SIZES
from tokentiming import methods
from tokentiming.engine.loop import Decoding
from tokentiming.engine.request import Request
from tokentiming.noise import Noise
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.prompts import Prompt

TOKENIZER = toys.byte_level_tokenizer()
DRAFT_TOKENIZER = toys.byte_level_tokenizer([("t", "h"), ("th", "e")])
PROMPT = "To be, or not to be"


class Runner(TorchRunner):
    """A runner that synchronizes, or not, as it is told."""

    synchronizes = True


def runner(model: LlamaForCausalLM, synchronizes: bool) -> Runner:
    result = Runner(model)
    result.synchronizes = synchronizes
    return result


def small(seed: int, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)}, initializer_range=0.2)
    return LlamaForCausalLM(config).eval()


def drafter_of(
    seed: int, tokenizer: PreTrainedTokenizerFast = TOKENIZER, synchronizes: bool = True
) -> tt.ModelDrafter:
    model = small(seed, tokenizer)
    return tt.ModelDrafter(model, tokenizer, runner(model, synchronizes))


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "top_k": 20, "repetition_penalty": 1.1},
        {"do_sample": False},
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_the_text_is_the_same(options, same):
    options = {"max_new_tokens": 40} | options

    def generated(synchronizes: bool) -> tt.SpeculativeOutput:
        drafted_by = (0, TOKENIZER) if same else (1, DRAFT_TOKENIZER)
        drafter = drafter_of(*drafted_by, synchronizes=synchronizes)
        assert drafter.synchronizes is synchronizes
        target = small(0)
        return tt.SpeculativeDecoder(
            target, TOKENIZER, drafter, draft_length=4, runner=runner(target, synchronizes)
        ).generate(PROMPT, **options)

    together = generated(synchronizes=True)
    assert together.stats.proposed > 0
    assert not same or together.stats.accepted > 10
    one_by_one = generated(synchronizes=False)
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
    drafter = drafter_of(1, DRAFT_TOKENIZER, synchronizes=waits)
    vocabulary = tt.Vocabulary.from_tokenizer(TOKENIZER)
    seen: list[int] = []
    with looks(monkeypatch) as counter:
        request = Request(
            prompt=Prompt(TOKENIZER(PROMPT).input_ids),
            processors=LogitsProcessorList(),
            warpers=LogitsProcessorList(),
            end_reason=lambda ids: None,
            criteria_device=torch.device("cpu"),
            remaining=24,
            do_sample=name != "greedy",
            noise=Noise(1),
            config=None,
            watch=lambda round_: seen.append(counter.count),
        )
        method = methods.resolve("coupled" if name == "greedy" else name)
        target = runner(small(0), waits)
        decoding = Decoding(target, vocabulary, drafter, method, FixedDraftLength(5), request)
        decoding.run(TOKENIZER)
    assert decoding.stats.proposed > 20
    a_round = [after - before for before, after in pairwise(seen)]
    if waits:
        assert set(a_round[:-1]) == {2}  # the drafted tokens, and the emitted ones
    else:
        assert max(a_round) > 5
