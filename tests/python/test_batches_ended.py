"""Texts of a batch end independently, and criteria and processors see each text separately."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
import torch
from transformers import LogitsProcessor, StoppingCriteria

import tokentiming as tt
from tests.support.batches import (
    CHAIN,
    OTHER,
    PAD,
    PROMPTS,
    TREE,
    alone,
    ids_of,
    near,
    new_ids,
)
from tests.support.small_models import TOKENIZER, lively

GREEDY = {"do_sample": False, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def target():
    return lively(pad_token_id=PAD)


@pytest.fixture(scope="module")
def decoder(target):
    drafter = tt.ModelDrafter(near(target), TOKENIZER)
    return tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=TREE)


@pytest.fixture(scope="module")
def expected(target) -> list[list[int]]:
    return [alone(target, prompt, **GREEDY) for prompt in PROMPTS]


# ---- ends ----


def test_each_text_has_its_own_end_reason(decoder):
    """A stop string for one text, an end of turn for another, the length for the rest."""
    readable = GREEDY | {"suppress_tokens": list(range(95, 259))}
    free = decoder.generate(list(PROMPTS), **readable)
    ids = new_ids(free)
    end = next(i for i in ids[2][4:] if all(i not in row for row in (*ids[:2], *ids[3:])))
    stop = free.text[5][6:8]
    options = {"eos_token_id": end, "stop_strings": [stop], **readable}
    output = decoder.generate(list(PROMPTS), batch_size=3, **options)
    reasons = [stats.finish_reason for stats in output.stats]
    assert {"stop_string", "eos", "length"} == set(reasons)
    assert (reasons[2], reasons[5]) == ("eos", "stop_string")
    for i, prompt in enumerate(PROMPTS):
        single = decoder.generate(prompt, **options)
        assert single.text == output.text[i]
        assert single.stats.finish_reason == reasons[i]


def test_rows_are_padded_after_their_ends(decoder, expected):
    ends = [row[n] for n, row in enumerate(expected)]
    output = decoder.generate(list(PROMPTS), eos_token_id=ends, batch_size=3, **GREEDY)
    assert len({stats.tokens for stats in output.stats}) > 3
    for row, prompt, stats in zip(output.sequences.tolist(), PROMPTS, output.stats, strict=True):
        assert set(row[len(ids_of(prompt)) + stats.tokens :]) <= {PAD}


class After(StoppingCriteria):
    """Ends a text after some tokens; its count would be wrong if several texts shared it."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, input_ids, scores, **kwargs):
        self.calls -= 1
        return torch.full((len(input_ids),), self.calls == 0)


def test_a_criterion_with_a_counter_has_one_for_each_text(decoder, expected):
    output = decoder.generate(list(PROMPTS), stopping_criteria=[After(5)], **GREEDY)
    assert new_ids(output) == [row[:5] for row in expected]
    assert {stats.finish_reason for stats in output.stats} == {"criterion"}


# ---- processors and watchers ----


class Recording(LogitsProcessor):
    """Changes scores by the ids that it sees, and records them."""

    seen: ClassVar[list[list[int]]] = []  # of all copies

    def __call__(self, input_ids, scores):
        self.seen.extend(input_ids.tolist())
        return scores.index_fill(1, input_ids[0, -3:], -torch.inf)


@pytest.mark.parametrize("method", tt.methods.METHODS)
def test_a_processor_sees_the_ids_of_its_own_row(method, target):
    draft = tt.ModelDrafter(lively(1, vocab_size=len(OTHER)), OTHER)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, draft, method=method, budget=CHAIN)
    Recording.seen.clear()
    options = GREEDY | {"do_sample": True, "seed": 3, "logits_processor": [Recording()]}
    output = decoder.generate(list(PROMPTS), batch_size=4, **options)
    seen = sorted(Recording.seen)
    texts = [ids_of(p) + new for p, new in zip(PROMPTS, new_ids(output), strict=True)]
    begins = [len(ids_of(prompt)) for prompt in PROMPTS]
    # Once for each emitted token, with all that was emitted before it.
    assert seen == sorted(
        text[:n] for text, begin in zip(texts, begins, strict=True) for n in range(begin, len(text))
    )


def test_rows_with_a_processor_of_the_users_own_are_those_of_generate(target, decoder):
    options = GREEDY | {"logits_processor": [Recording()]}
    output = decoder.generate(list(PROMPTS), batch_size=3, **options)
    assert new_ids(output) == [alone(target, prompt, **options) for prompt in PROMPTS]
    assert sum(stats.accepted for stats in output.stats) > 20


def test_rounds_hold_the_index_of_their_text(decoder, expected):
    told: list[list[int]] = [[] for _ in PROMPTS]
    accepted: list[list[int]] = [[] for _ in PROMPTS]

    def watch(round_):
        told[round_.index] += round_.tokens
        accepted[round_.index].append(round_.accepted)

    output = decoder.generate(list(PROMPTS), batch_size=3, watch=watch, **GREEDY)
    assert told == expected
    for of_text, stats in zip(accepted, output.stats, strict=True):
        assert Counter(of_text) == stats.accepted_per_round
