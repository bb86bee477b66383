"""Texts longer than the context of the draft model."""

from __future__ import annotations

import itertools

import pytest

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import TOKENIZER, lively
from tokentiming.drafters.base import DraftRequest
from tokentiming.drafters.draft import Draft
from tokentiming.drafters.model import Reader
from tokentiming.noise import Noise, Place, State

CONTEXT = 32
PROMPTS = ["to be or not to be", "ab"]
BUDGETS = [
    tt.FixedBudget(depth=4),
    tt.FixedBudget(depth=4, nodes=12, width=3, candidates=3),
    tt.FixedBudget(depth=100),
]


@pytest.fixture(scope="module")
def target():
    return lively()


@pytest.fixture
def draft(monkeypatch):
    """A model with a short context that records the positions it reads."""
    model = lively(seed=1, max_position_embeddings=CONTEXT)
    model.load_state_dict(lively().state_dict())
    model.positions = []
    rotary = model.model.rotary_emb
    rotary.register_forward_pre_hook(
        lambda _, args, kwargs: model.positions.append(int(kwargs["position_ids"].max())),
        with_kwargs=True,
    )
    return model


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True, "seed": 3}])
def test_a_text_beyond_the_drafts_context_stays_the_targets(budget, options, target, draft):
    settings = {**options, "max_new_tokens": 5 * CONTEXT, "eos_token_id": None}
    alone = tt.SpeculativeDecoder(target, TOKENIZER).generate(PROMPTS, **settings)
    drafter = tt.ModelDrafter(draft, TOKENIZER)
    draft.positions.clear()
    rounds = []
    output = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=budget).generate(
        PROMPTS, **settings, watch=rounds.append
    )
    assert output.text == alone.text
    assert max(draft.positions) < CONTEXT
    assert all(stats.draft_failure is None for stats in output.stats)
    assert sum(one.accepted for one in rounds[len(rounds) // 2 :]) > 0


@pytest.mark.parametrize("method", ["tli", "slem", "pushforward"])
def test_other_methods_draft_beyond_the_context(method, target, draft):
    drafter = tt.ModelDrafter(draft, TOKENIZER)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, draft_length=4)
    output = decoder.generate(
        PROMPTS[0], max_new_tokens=3 * CONTEXT, eos_token_id=None, do_sample=True, seed=0
    )
    assert output.stats.draft_failure is None
    assert max(draft.positions) < CONTEXT
    assert output.stats.drafted > 2 * CONTEXT


LETTERS = toys.letters(["a", "b", "<eos>"])


def reads(prompt: list[int], steps: int, levels: int) -> list[list[int]]:
    """What a reader has the model read while its text grows by a letter at a time."""
    reader = Reader(prompt, LETTERS, None)
    place = Place(Noise(0), State())
    found = []
    for step in range(steps):
        draft = Draft(limit=levels)
        request = DraftRequest(b"ab" * (step // 2) + b"a" * (step % 2), place, draft, LETTERS)
        ids = reader.follow(request, 16)
        assert len(ids) + draft.limit <= 16
        found.append(ids)
    return found


def test_the_older_half_is_dropped_at_once():
    found = reads([0] * 5, 30, levels=3)
    assert all(found)
    for before, after in itertools.pairwise(found):
        assert after[:-1] == before or len(after) == 8
    slides = [n for n, (a, b) in enumerate(itertools.pairwise(found)) if b[:-1] != a]
    assert len(slides) == 4  # once in six letters, since three levels have to fit
    assert all(after - before >= 6 for before, after in itertools.pairwise(slides))


def test_a_special_id_at_the_beginning_is_kept():
    end = LETTERS.eos_ids[0]
    found = reads([end] + [0] * 5, 30, levels=3)
    assert all(ids[0] == end and end not in ids[1:] for ids in found)
    assert min(map(len, found)) == 6
    assert max(map(len, found)) == 13


def test_a_long_prompt_is_read_from_its_last_part():
    assert reads([0] * 20 + [1], 1, levels=3) == [[0] * 7 + [1]]
