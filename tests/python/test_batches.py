"""Greedy texts of a batch equal the texts of separate calls."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import tokentiming as tt
from tests.support.batches import (
    CHAIN,
    PAD,
    PROMPTS,
    SOURCES,
    TREE,
    alone,
    ids_of,
    new_ids,
    padded,
)
from tests.support.small_models import TOKENIZER, tiny
from tokentiming.runners import TorchRunner

LIVELY = {"initializer_range": 0.2, "vocab_size": len(TOKENIZER), "pad_token_id": PAD}
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 6}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            "head_dim": 8,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
}
GREEDY = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": list(range(0, 250, 12))}
"""Several ends of turn, so that texts end at different rounds."""


@pytest.fixture(scope="module", params=KINDS)
def target(request):
    model, config, changes = KINDS[request.param]
    return tiny(model, config, **LIVELY | changes)


@pytest.fixture(scope="module")
def expected(target) -> list[list[int]]:
    return [alone(target, prompt, **GREEDY) for prompt in PROMPTS]


def decoder_of(target, source: str, budget=TREE, **options) -> tt.SpeculativeDecoder:
    plain = tt.SpeculativeDecoder(target, TOKENIZER)
    drafter = SOURCES[source](target, plain.vocabulary, **GREEDY)
    return tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=budget, **options)


def test_the_texts_end_at_different_rounds(expected):
    assert len(set(map(len, expected))) > 2


@pytest.mark.parametrize(("texts", "batch_size"), [(2, 2), (5, 5), (7, 3)])
@pytest.mark.parametrize("source", SOURCES)
def test_rows_are_those_of_generate(source, texts, batch_size, target, expected):
    decoder = decoder_of(target, source)
    output = decoder.generate(list(PROMPTS[:texts]), batch_size=batch_size, **GREEDY)
    assert new_ids(output, PROMPTS[:texts]) == expected[:texts]
    accepted, proposed, tokens = (
        sum(getattr(stats, name) for stats in output.stats)
        for name in ("accepted", "proposed", "tokens")
    )
    assert (proposed > 0) == (source != "none")
    if source in ("a model", "the right path last"):
        assert 2 * accepted > tokens


@pytest.mark.parametrize("budget", [None, CHAIN], ids=["adaptive", "chain"])
def test_texts_do_not_depend_on_the_budget(budget, target, expected):
    decoder = decoder_of(target, "a model", budget)
    for _ in range(2):  # the second call knows the costs
        assert new_ids(decoder.generate(list(PROMPTS), batch_size=4, **GREEDY)) == expected


@pytest.mark.parametrize("source", ["a model", "random trees"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_is_not_read(side, source, target, expected):
    rows = padded(PROMPTS, side)
    length = rows["input_ids"].shape[1]
    ours = target.generate(**rows, custom_generate=decoder_of(target, source), **GREEDY)
    assert torch.equal(ours[:, :length], rows["input_ids"])
    for row, ids in zip(ours[:, length:].tolist(), expected, strict=True):
        assert row == ids + [PAD] * (len(row) - len(ids))
    if side == "left":  # generate reads on after the padding on the right
        assert torch.equal(ours, target.generate(**rows, **GREEDY))


def test_a_batch_takes_fewer_passes_than_its_texts(target):
    decoder = decoder_of(target, "none")
    passes = decoder.runner.forwards
    options = GREEDY | {"eos_token_id": None, "max_new_tokens": 10}
    decoder.generate([PROMPTS[0]] * 6, batch_size=6, **options)
    assert decoder.runner.forwards - passes == 10


def test_the_default_runs_texts_together(target):
    decoder = decoder_of(target, "none")
    passes = decoder.runner.forwards
    options = GREEDY | {"eos_token_id": None, "max_new_tokens": 10}
    decoder.generate([PROMPTS[0]] * 6, **options)
    assert decoder.runner.forwards - passes == 10


class Counted(TorchRunner):
    """Counts the rows that it reads, padding left out."""

    rows = 0

    def _read(self, rows, first, wanted):
        self.rows += sum(map(len, rows))
        return super()._read(rows, first, wanted)


def test_no_token_is_read_twice(target):
    """Neither the target nor an accurate draft does so when texts end and others start."""
    runner, drafting = Counted(target), Counted(target)
    drafter = tt.ModelDrafter(target, TOKENIZER, drafting)
    for source in (None, drafter):
        decoder = tt.SpeculativeDecoder(target, TOKENIZER, source, budget=CHAIN, runner=runner)
        runner.rows = drafting.rows = 0
        output = decoder.generate(list(PROMPTS), batch_size=3, **GREEDY)
        lengths = [
            len(ids_of(prompt)) + stats.tokens
            for prompt, stats in zip(PROMPTS, output.stats, strict=True)
        ]
        if source is None:
            assert runner.rows == sum(length - 1 for length in lengths)
        else:
            for stats in output.stats:  # only the last draft of a text is not accepted whole
                assert sum(n for kept, n in stats.accepted_per_round.items() if kept < 4) <= 1
            assert runner.rows <= sum(lengths) + 4 * len(PROMPTS)  # drafts beyond an end
            assert drafting.rows <= sum(lengths) + 4 * len(PROMPTS)
