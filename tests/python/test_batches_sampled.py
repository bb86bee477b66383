"""Sampled texts of a batch equal the texts of separate calls."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import tokentiming as tt
from tests.support.batches import CHAIN, OTHER, PAD, PROMPTS, TREE, near, new_ids, padded
from tests.support.small_models import TOKENIZER, lively

METHODS = tuple(tt.methods.METHODS)
SAMPLED = {"do_sample": True, "temperature": 1.3, "max_new_tokens": 16, "eos_token_id": [0, 17]}
SEEDS = [5, 2**62, 5, 0, 11, 7, 3]
BUDGETS = {"chain": CHAIN, "tree": TREE}


@pytest.fixture(scope="module")
def target():
    return lively(pad_token_id=PAD)


def another_vocabulary(target) -> tt.ModelDrafter:
    return tt.ModelDrafter(lively(1, vocab_size=len(OTHER)), OTHER)


def often_right(target) -> tt.ModelDrafter:
    return tt.ModelDrafter(near(target), TOKENIZER)


def decoder_of(target, method="coupled", budget=TREE, drafter=another_vocabulary):
    draft = drafter(target) if drafter else None
    return tt.SpeculativeDecoder(target, TOKENIZER, draft, method=method, budget=budget)


def texts(decoder, prompts=PROMPTS, **options) -> list[list[int]]:
    return new_ids(decoder.generate(list(prompts), **SAMPLED | options), prompts)


# ---- coupled and slem: the draft changes nothing ----


@pytest.fixture(scope="module", params=["coupled", "slem"])
def matching(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def of_one_seed(target, matching) -> list[list[int]]:
    """Without a draft, one after another."""
    return texts(decoder_of(target, matching, drafter=None), seed=3, batch_size=1)


@pytest.fixture(scope="module")
def of_seeds(target, matching) -> list[list[int]]:
    """Each prompt alone, with the seed that is listed for it, without a draft."""
    plain = decoder_of(target, matching, drafter=None)
    return [
        texts(plain, [prompt], seed=seed)[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_seed_gives_the_same_texts(budget, batch_size, target, matching, of_one_seed):
    decoder = decoder_of(target, matching, BUDGETS[budget])
    output = decoder.generate(list(PROMPTS), seed=3, batch_size=batch_size, **SAMPLED)
    assert new_ids(output) == of_one_seed
    assert all(stats.proposed for stats in output.stats if stats.tokens > 2)
    assert sum(stats.accepted for stats in output.stats) > 0


def test_rows_of_one_seed_are_independent(target, matching):
    """Equal prompts get different texts under one seed, and the same under equal seeds."""
    decoder = decoder_of(target, matching)
    of_one = texts(decoder, ["ab"] * 4, seed=9, batch_size=4)
    assert all(left[:4] != right[:4] for left, right in pairwise(of_one))
    of_equal = texts(decoder, ["ab"] * 4, seed=[9] * 4, batch_size=4)
    assert of_equal == [of_one[0]] * 4


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_listed_seed_gives_the_same_text_as_its_prompt_alone(
    budget, batch_size, target, matching, of_seeds
):
    decoder = decoder_of(target, matching, BUDGETS[budget])
    assert texts(decoder, seed=SEEDS, batch_size=batch_size) == of_seeds


@pytest.mark.parametrize("order", [range(7)[::-1], [3, 1, 6, 0, 5, 2, 4]])
def test_texts_do_not_depend_on_the_order_of_prompts(order, target, matching, of_seeds):
    decoder = decoder_of(target, matching)
    prompts, seeds = [PROMPTS[i] for i in order], [SEEDS[i] for i in order]
    found = texts(decoder, prompts, seed=seeds, batch_size=3)
    assert found == [of_seeds[i] for i in order]


@pytest.mark.parametrize("side", ["left", "right"])
def test_listed_seeds_of_a_padded_batch(side, target, matching, of_seeds):
    rows = padded(PROMPTS, side)
    length = rows["input_ids"].shape[1]
    decoder = decoder_of(target, matching)
    ours = target.generate(**rows, custom_generate=decoder, seed=SEEDS, batch_size=4, **SAMPLED)
    for row, ids in zip(ours[:, length:].tolist(), of_seeds, strict=True):
        assert row == ids + [PAD] * (len(row) - len(ids))


# ---- all methods ----


@pytest.mark.parametrize("drafter", [another_vocabulary, often_right])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_text_in_a_batch_and_alone(method, drafter, target):
    decoder = decoder_of(target, method, CHAIN, drafter)
    options = SAMPLED | {"top_k": 4}
    together = decoder.generate(list(PROMPTS), seed=SEEDS, batch_size=4, **options)
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        single = decoder.generate([prompt], seed=seed, **options)
        assert new_ids(single, [prompt]) == [new_ids(together)[i]]
        assert single.stats[0].accepted_per_round == together.stats[i].accepted_per_round
    assert sum(stats.proposed for stats in together.stats) > 50
    assert drafter is another_vocabulary or sum(s.accepted for s in together.stats) > 10
    assert {stats.method for stats in together.stats} == {method}


@pytest.mark.parametrize("method", METHODS)
def test_several_returns_of_several_prompts(method, target):
    decoder = decoder_of(target, method, CHAIN)
    options = {"num_return_sequences": 3, "batch_size": 4}
    prompts = PROMPTS[:3]
    found = texts(decoder, prompts, seed=SEEDS[:3], **options)
    assert len({tuple(ids) for ids in found}) == 9
    for i, prompt in enumerate(prompts):
        assert texts(decoder, [prompt], seed=[SEEDS[i]], **options) == found[3 * i : 3 * i + 3]
    rows = padded(prompts, "left")
    returned = target.generate(
        **rows, custom_generate=decoder, seed=SEEDS[:3], num_return_sequences=3, **SAMPLED
    )
    for row, ids in zip(returned[:, rows["input_ids"].shape[1] :].tolist(), found, strict=True):
        assert row == ids + [PAD] * (len(row) - len(ids))


# ---- a value for each prompt ----

LISTS = {
    "temperature": [0.5, 1.0, 2.5],
    "do_sample": [True, False, True],
    "top_k": [1, 5, 200],
    "top_p": [0.2, 0.9, 1.0],
    "repetition_penalty": [1.0, 2.5, 0.7],
}


@pytest.mark.parametrize("names", [*([name] for name in LISTS), list(LISTS)], ids="+".join)
@pytest.mark.parametrize("method", ["coupled", "tli"])
def test_arguments_listed_for_each_prompt(method, names, target):
    prompts, seeds = PROMPTS[:3], SEEDS[:3]
    decoder = decoder_of(target, method, CHAIN)
    listed = {name: LISTS[name] for name in names}
    together = texts(decoder, prompts, seed=seeds, batch_size=3, **listed)
    for i, prompt in enumerate(prompts):
        of_prompt = {name: LISTS[name][i] for name in names}
        assert texts(decoder, [prompt], seed=[seeds[i]], **of_prompt) == [together[i]]
    assert together != texts(decoder, prompts, seed=seeds)


@pytest.mark.parametrize("name", [*LISTS, "seed"])
def test_a_list_of_a_wrong_length_is_refused_by_name(name, target):
    decoder = decoder_of(target)
    values = [1, 1] if name == "seed" else LISTS[name][:2]
    with pytest.raises(ValueError, match=rf"^generate: {name} is a list of 2 for 3 prompts"):
        decoder.generate(list(PROMPTS[:3]), **SAMPLED | {name: values})
    if name == "seed":
        rows = padded(PROMPTS[:3], "left")
        with pytest.raises(ValueError, match=r"^generate: seed is a list of 2 for 3 prompts"):
            target.generate(**rows, custom_generate=decoder, seed=values, **SAMPLED)


def test_torchs_generator_determines_the_texts_of_a_batch(target):
    decoder = decoder_of(target)
    torch.manual_seed(4)
    first = texts(decoder)
    assert texts(decoder) != first
    torch.manual_seed(4)
    assert texts(decoder, batch_size=2) == first
