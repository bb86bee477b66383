"""Statistics of texts in a batch, and rates of nothing."""

from __future__ import annotations

import json
from collections import Counter

import pytest

import tokentiming as tt
from tests.support.batches import CHAIN, near
from tests.support.small_models import TOKENIZER, lively
from tests.support.toys import RandomDrafter

GREEDY = {"do_sample": False, "max_new_tokens": 12}
LONG = [f"{name} is a prompt of more tokens than are read together" for name in ("a", "bc", "def")]


@pytest.fixture(scope="module")
def target():
    return lively()


def drafters(target) -> dict[str, tt.Drafter | None]:
    random = RandomDrafter(tt.Vocabulary.from_tokenizer(TOKENIZER))
    return {"none": None, "a model": tt.ModelDrafter(near(target), TOKENIZER), "random": random}


@pytest.mark.parametrize("name", ["none", "a model", "random"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_tokens_per_forward_of_a_batch_leaves_out_passes_that_read_prompts(name, size, target):
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafters(target)[name], budget=CHAIN)
    rounds: Counter[int] = Counter()
    output = decoder.generate(
        LONG, batch_size=size, watch=lambda round_: rounds.update([round_.index]), **GREEDY
    )
    for i, stats in enumerate(output.stats):
        assert stats.rounds == rounds[i]
        assert stats.tokens_per_forward == stats.tokens / rounds[i] >= 1
        assert stats.tokens == stats.accepted + stats.rounds
        assert stats.target_forwards >= stats.rounds
    if size == 1:
        assert all(stats.target_forwards == stats.rounds for stats in output.stats)
    else:  # passes that read the prompts of the first batch count for all of them
        assert output.stats[0].target_forwards > output.stats[0].rounds


def test_rates_of_nothing_are_none(target):
    stats = tt.SpeculativeDecoder(target, TOKENIZER).generate("ab", **GREEDY).stats
    assert (stats.proposed, stats.acceptance_rate, stats.point_mass_rate) == (0, None, None)
    read = json.loads(json.dumps(stats.to_dict()))
    assert (read["acceptance_rate"], read["rounds"]) == (None, 12)


@pytest.mark.parametrize("accepted", [0, 3])
def test_rates_of_something_are_shares(accepted):
    stats = tt.Stats("tokentiming", exact=False, proposed=6, accepted=accepted)
    stats.transfer_cases = {"within": 3, "point mass": 1}
    assert stats.acceptance_rate == accepted / 6
    assert stats.point_mass_rate == 0.25
