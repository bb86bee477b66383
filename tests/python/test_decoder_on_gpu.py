"""The loop with its models on a GPU: every method runs, with the properties it has on the CPU."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import SIZES
from tokentiming.methods import METHODS

pytestmark = pytest.mark.gpu

TOKENIZER = toys.byte_level_tokenizer()
DRAFT_TOKENIZER = toys.byte_level_tokenizer([("t", "h"), ("th", "e")])
PROMPT = "To be, or not to be"


def small(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES | {"vocab_size": 512}, initializer_range=0.2)
    return LlamaForCausalLM(config).to("cuda").eval()


def decoder(method: str = "coupled", drafted: bool = True) -> tt.SpeculativeDecoder:
    drafter = tt.ModelDrafter(small(1), DRAFT_TOKENIZER) if drafted else None
    return tt.SpeculativeDecoder(small(0), TOKENIZER, drafter, method=method, draft_length=4)


def test_greedy_ids_are_those_of_generate():
    ours = decoder()
    out = ours.generate(PROMPT, max_new_tokens=40, do_sample=False)
    ids = TOKENIZER(PROMPT, return_tensors="pt").to("cuda")
    expected = ours.target_model.generate(**ids, max_new_tokens=40, do_sample=False)
    assert out.sequences.tolist() == expected.tolist()


def test_coupled_ids_do_not_depend_on_the_drafter():
    options = {"max_new_tokens": 40, "do_sample": True, "seed": 3}
    drafted = decoder().generate(PROMPT, **options)
    assert drafted.stats.proposed > 0
    alone = decoder(drafted=False).generate(PROMPT, **options)
    assert drafted.sequences.tolist() == alone.sequences.tolist()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs(method):
    out = decoder(method).generate(PROMPT, max_new_tokens=24, do_sample=True, seed=1)
    assert out.stats.tokens == 24
    assert out.sequences.device.type == "cuda"


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.filterwarnings("always:called a synchronizing CUDA operation")
@pytest.mark.filterwarnings("default:Synchronization debug mode")
def test_a_round_synchronizes_for_drafted_and_emitted_tokens_only(method, monkeypatch):
    forward = LlamaForCausalLM.forward

    def unwatched(*args, **kwargs):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return forward(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("warn")

    ours = decoder(method)
    ours.generate(PROMPT, max_new_tokens=8, do_sample=True)  # records, and moves tables
    monkeypatch.setattr(LlamaForCausalLM, "forward", unwatched)
    waits: list[int] = []

    def run():
        torch.cuda.set_sync_debug_mode("warn")
        options = {"max_new_tokens": 40, "do_sample": True, "seed": 2}
        try:
            ours.generate(PROMPT, watch=lambda round_: waits.append(len(caught)), **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.warns(UserWarning, match="synchronizing") as caught:
        run()
    a_round = [after - before for before, after in pairwise(waits[:-1])]
    # TokenTiming also counts the cases of its transfer at the end of a round.
    assert max(a_round) == (3 if method == "tokentiming" else 2)
