"""Draft lengths on a simulated clock: what pays is done, what does not is left."""

from __future__ import annotations

import random

import pytest
from tokentiming.engine.draft_length import (
    LONGEST,
    AdaptiveDraftLength,
    Costs,
    FixedDraftLength,
    Outcome,
)


def simulate(
    policy,
    *,
    odds: float,
    draft: float,
    row: float = 0.03,
    tokens: int = 400,
    synchronizes: bool = False,
) -> float:
    """Tokens a second where the target alone makes one; each token is accepted with ``odds``."""
    chance = random.Random(0)
    clock, made = 0.0, 0
    while made < tokens:
        confidences: list[float] = []
        limit = policy.begin_round()
        if limit and synchronizes:
            limit = min(limit, policy.length_ahead())
        while len(confidences) < limit:
            confidences.append(odds)
            if not synchronizes and not policy.wants_more(confidences):
                break
        kept = 0
        while kept < len(confidences) and chance.random() < odds:
            kept += 1
        drafting = draft * len(confidences)
        total = drafting + 1.0 + row * len(confidences)
        policy.observe(Outcome(confidences, kept, kept + 1, len(confidences) + 1, drafting, total))
        clock += total
        made += kept + 1
    return made / clock


def best_fixed(**world) -> float:
    return max(simulate(FixedDraftLength(length), **world) for length in range(LONGEST + 1))


@pytest.mark.parametrize("odds", [0.0, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("draft", [0.05, 0.2, 0.5, 1.5])
@pytest.mark.parametrize("synchronizes", [False, True])
def test_near_the_best_fixed_length_and_never_much_slower_than_alone(odds, draft, synchronizes):
    world = {"odds": odds, "draft": draft}
    speed = simulate(AdaptiveDraftLength(), synchronizes=synchronizes, **world)
    assert speed > 0.94
    assert speed > 0.8 * best_fixed(**world)


def test_a_draft_that_turns_good_is_taken_up_again():
    policy = AdaptiveDraftLength()
    simulate(policy, odds=0.0, draft=0.2, tokens=200)
    world = {"odds": 0.9, "draft": 0.2}
    assert simulate(policy, tokens=1000, **world) > 0.8 * best_fixed(**world)


def test_a_price_known_from_an_earlier_text_spares_the_first_drafts():
    costs = Costs()
    simulate(AdaptiveDraftLength(costs), odds=0.5, draft=1.5, tokens=60)
    assert AdaptiveDraftLength(costs).begin_round() == 0
    assert simulate(AdaptiveDraftLength(costs), odds=0.5, draft=1.5, tokens=8) == 1.0


def test_overconfidence_is_seen_through():
    """The draft says 0.99 and is right half of the time: drafts stay short."""
    costs = Costs()
    policy = AdaptiveDraftLength(costs)
    chance = random.Random(1)
    lengths = []
    for _ in range(200):
        confidences: list[float] = []
        limit = policy.begin_round()
        while len(confidences) < limit:
            confidences.append(0.99)
            if not policy.wants_more(confidences):
                break
        kept = 0
        while kept < len(confidences) and chance.random() < 0.5:
            kept += 1
        drafting = 0.2 * len(confidences)
        policy.observe(
            Outcome(confidences, kept, kept + 1, len(confidences) + 1, drafting, 1 + drafting)
        )
        lengths.append(len(confidences))
    assert max(lengths[50:]) <= 4


def test_costs_fit_a_line_through_the_plain_step():
    costs = Costs()
    for rows in (1, 8, 4, 1, 6):
        costs.observe(3, rows, 0.6, 2.0 + 0.1 * (rows - 1))
    assert costs.alone == pytest.approx(2.0)
    assert costs.row == pytest.approx(0.1)
    assert costs.drafted == pytest.approx(0.2)


def test_a_fixed_pace_always_wants_its_length():
    policy = FixedDraftLength(3)
    assert policy.begin_round() == 3
    assert policy.wants_more([0.01])
