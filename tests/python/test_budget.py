"""Budgets on a simulated clock: they draft and verify where it pays."""

from __future__ import annotations

import random

import pytest

from tokentiming import Draft
from tokentiming.drafters.draft import Visit
from tokentiming.engine.adaptive import DEEPEST, AdaptiveBudget
from tokentiming.engine.budget import (
    Budget,
    Drafted,
    FixedBudget,
    Outcome,
    best_first,
    best_nodes,
    path_probs,
)
from tokentiming.engine.costs import Costs, LinearCost
from tokentiming.engine.drafter_record import Payoff
from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT, Tree


class World:
    """A target that emits the first child of a node with ``odds``, and the second with ``second``.

    A pass of the target takes a second and ``row`` for each row beyond the texts' own, a level of
    drafting ``draft`` seconds. The draft says ``odds`` times ``boast``.
    """

    def __init__(
        self,
        *,
        odds: float,
        draft: float,
        row: float = 0.03,
        second: float = 0.0,
        boast: float = 1.0,
        texts: int = 1,
    ) -> None:
        self.odds, self.second, self.draft, self.row = odds, second, draft, row
        self.boast, self.texts = boast, texts
        self.chance = random.Random(0)
        self.longest = 0

    def round(self, budget: Budget) -> tuple[float, int]:
        """Seconds and tokens of one round."""
        limit = first_limit(budget, self.texts)
        drafts = [Draft(limit=limit) for _ in range(self.texts)]
        nodes = [[TEXT] for _ in drafts] if limit else []
        levels = 0
        while any(nodes):
            levels += 1
            for draft, of_draft in zip(drafts, nodes, strict=True):
                for node in of_draft:
                    told = [(1, self.odds * self.boast), (2, self.second * self.boast)]
                    draft.take(node, told[: budget.candidates])
            nodes = budget.grow(0, drafts, uncovered(drafts))
        calibrated = [budget.calibrate(0, draft) for draft in drafts]
        proposals = [
            Proposal(draft.tree, path_probs(draft.parents, confidences))
            for draft, confidences in zip(drafts, calibrated, strict=True)
        ]
        if limit:
            budget.propose(0, proposals)
        trimmed = budget.trim(proposals)
        tokens, visits = 0, []
        for draft, proposal in zip(drafts, trimmed, strict=True):
            emitted = self.emitted(draft)
            node, tokens = TEXT, tokens + 1
            for rank, child in enumerate(emitted):
                node = proposal.tree.child(node, child) if node is not None else None
                tokens += node is not None
                at = emitted[:rank]
                visits.append(self.visit(draft, at, child))
            if _children(draft, _node(draft, emitted)):
                visits.append(self.visit(draft, emitted, None))
        rows = self.texts * (1 + max(len(proposal.tree) for proposal in trimmed))
        self.longest = max(len(proposal.tree) for proposal in trimmed)
        total = levels * self.draft + 1.0 + self.row * (rows - self.texts)
        budget.observe(
            Outcome(
                self.texts, rows, tokens, total,
                [
                    Drafted(
                        levels * self.draft, levels, sum(len(draft.expanded) for draft in drafts),
                        visits, sum(len(proposal.tree) for proposal in trimmed),
                        tokens - self.texts,
                    )
                ],
            )
        )  # fmt: skip
        return total, tokens

    def emitted(self, draft: Draft) -> list[int]:
        """The path of drafted tokens that the target emits."""
        path: list[int] = []
        while children := _children(draft, _node(draft, path)):
            draw = self.chance.random()
            token = 1 if draw < self.odds else 2 if draw < self.odds + self.second else None
            if token not in [draft.ids[child] for child in children]:
                break
            path.append(token)
        return path

    def visit(self, draft: Draft, path: list[int], token: int | None) -> Visit:
        children = _children(draft, _node(draft, path))
        ids = [draft.ids[child] for child in children]
        found = None if token is None else ids.index(token)
        return Visit([draft.confidences[child] for child in children], found, len(path))

    def speed(self, budget: Budget, tokens: int = 400) -> float:
        """Tokens a second for each text, where the target alone makes one."""
        clock, made = 0.0, 0
        while made < tokens * self.texts:
            seconds, more = self.round(budget)
            clock, made = clock + seconds, made + more
        return made / clock / self.texts


def first_limit(budget: Budget, texts: int = 1) -> int:
    """The deepest level of the only drafter in a new round."""
    budget.begin_round(texts)
    return budget.limit(0, [0.0] * texts, unread=0)


def uncovered(drafts: list[Draft]) -> list[dict[int, float]]:
    """Nothing is proposed by another drafter."""
    return [dict.fromkeys(range(TEXT, len(draft)), 0.0) for draft in drafts]


def _children(draft: Draft, node: int) -> list[int]:
    return [child for child, parent in enumerate(draft.parents) if parent == node]


def _node(draft: Draft, path: list[int]) -> int:
    node: int | None = TEXT
    for token in path:
        node = draft.tree.child(node, token)
    return node


def best_chain(**world) -> float:
    return max(World(**world).speed(FixedBudget(depth=depth)) for depth in range(DEEPEST + 1))


@pytest.mark.parametrize("odds", [0.0, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("draft", [0.05, 0.2, 0.5, 1.5])
def test_speed_is_near_the_best_chain_and_not_far_below_no_draft(odds, draft):
    speed = World(odds=odds, draft=draft).speed(AdaptiveBudget(candidates=1))
    assert speed > 0.94
    assert speed > 0.8 * best_chain(odds=odds, draft=draft)


@pytest.mark.parametrize("draft", [0.05, 0.2])
def test_further_candidates_pay_if_they_are_emitted(draft):
    world = {"odds": 0.5, "second": 0.3, "draft": draft, "row": 0.02}
    chain = World(**world).speed(AdaptiveBudget(candidates=1), 2000)
    assert World(**world).speed(AdaptiveBudget(candidates=2), 2000) > 1.05 * chain


def test_drafting_resumes_when_the_draft_improves():
    budget = AdaptiveBudget(candidates=1)
    World(odds=0.0, draft=0.2).speed(budget, 200)
    world = {"odds": 0.9, "draft": 0.2}
    assert World(**world).speed(budget, 1000) > 0.8 * best_chain(**world)


def test_a_drafter_that_never_pays_is_hardly_probed():
    """Over many short calls, a useless drafter costs less than 2%."""
    budget = AdaptiveBudget(candidates=1)
    world = World(odds=0.02, draft=0.15)
    world.speed(budget, 300)
    clock, made = 0.0, 0
    for _ in range(30):
        budget.begin()
        for _ in range(40):
            seconds, tokens = world.round(budget)
            clock, made = clock + seconds, made + tokens
    assert made / clock > 0.98


def test_a_drafter_that_failed_on_one_text_is_asked_on_the_next():
    budget = AdaptiveBudget(candidates=1)
    good, bad = World(odds=0.8, draft=0.1), World(odds=0.0, draft=0.1)
    for _ in range(4):
        budget.begin()
        good.speed(budget, 100)
    budget.begin()
    bad.speed(budget, 60)
    budget.begin()
    assert first_limit(budget) == DEEPEST


def test_known_costs_avoid_drafts_that_do_not_pay():
    costs = Costs()
    world = {"odds": 0.5, "draft": 1.5}
    World(**world).speed(AdaptiveBudget(costs, candidates=1), 60)
    assert first_limit(AdaptiveBudget(costs, candidates=1)) == 0
    assert World(**world).speed(AdaptiveBudget(costs, candidates=1), 8) == 1.0


def test_overconfidence_is_corrected():
    """The draft's confidences are twice the true probabilities; drafts stay short."""
    budget = AdaptiveBudget(candidates=1)
    world = World(odds=0.5, draft=0.2, boast=1.98)
    lengths = []
    for _ in range(200):
        world.round(budget)
        lengths.append(world.longest)
    assert max(lengths[50:]) <= 4


@pytest.mark.parametrize("row", [0.01, 0.05, 0.125])
def test_a_batch_proposes_less_where_rows_cost_more(row):
    """In a large batch rows are expensive, and the budget shrinks proposals to nothing."""
    world = World(odds=0.6, draft=0.1, row=row, texts=8)
    budget = AdaptiveBudget(candidates=1)
    assert world.speed(budget, 200) > 0.94
    if row == 0.125:  # a row costs as much as a text's own
        assert world.longest == 0


def test_a_line_fits_base_and_slope():
    line = LinearCost(share=0.03)
    assert not line.known
    for passes, rows in ((1, 1), (1, 8), (2, 4), (1, 1), (1, 6)):
        line.observe(passes, rows, 2.0 * passes + 0.1 * rows)
    assert line.base == pytest.approx(2.0, rel=0.02)
    assert line.slope == pytest.approx(0.1, rel=0.1)


def test_without_different_numbers_of_rows_the_slope_is_the_prior():
    line = LinearCost(share=0.1)
    for _ in range(20):
        line.observe(1, 4, 1.4)
    assert line.base == pytest.approx(1.0, rel=0.01)
    assert line.slope == pytest.approx(0.1, rel=0.01)


def test_a_negative_slope_is_replaced_by_zero():
    line = LinearCost(share=0.1)
    for rows in (1, 8, 1, 8):
        line.observe(1, rows, 1.0 - 0.01 * rows)
    assert line.slope == 0.0
    assert 0.9 < line.base < 1.0


def test_a_single_long_pass_hardly_changes_the_costs_and_a_slower_machine_does():
    line = LinearCost(share=0.1)
    for _ in range(20):
        line.observe(1, 1, 0.01)
    line.observe(1, 1, 5.0)
    assert line.base + line.slope < 0.015
    for _ in range(40):
        line.observe(1, 1, 0.1)
    assert line.base + line.slope == pytest.approx(0.1, rel=0.1)


def test_a_node_with_a_higher_estimate_than_its_parent_is_not_kept_without_it():
    tree = Tree([1, 2, 3, 4], [TEXT, TEXT, 0, 1])
    budget = FixedBudget(depth=9, nodes=2, candidates=2)
    (kept,) = budget.trim([Proposal(tree, [0.2, 0.6, 0.9, 0.5])])
    assert kept.tree == Tree([2, 4], [TEXT, 0])


def test_the_best_nodes_are_limited_by_their_parents():
    tree = Tree([1, 2, 3, 4], [TEXT, TEXT, 0, 1])
    proposal = Proposal(tree, [0.2, 0.6, 0.9, 0.5])
    assert [best_nodes(proposal, n) for n in range(5)] == [
        [], [1], [1, 3], [0, 1, 3], [0, 1, 2, 3]
    ]  # fmt: skip


def test_a_fixed_chain_always_has_its_length():
    budget = FixedBudget(depth=3)
    assert [budget.limit(source, [1.0], unread=0) for source in range(2)] == [3, 3]
    world = World(odds=0.01, draft=0.1)
    world.round(budget)
    assert world.longest == 3


def test_a_fixed_tree_takes_the_best_nodes():
    budget = FixedBudget(depth=2, nodes=3, width=2, candidates=2)
    world = World(odds=0.5, second=0.4, draft=0.1)
    world.round(budget)
    assert world.longest == 3
    draft = Draft(limit=2)
    draft.take(TEXT, [(1, 0.5), (2, 0.4)])
    assert budget.grow(0, [draft], uncovered([draft])) == [[0, 1]]
    draft.take(0, [(1, 0.9), (2, 0.05)])
    draft.take(1, [(1, 0.5), (2, 0.1)])
    assert budget.grow(0, [draft], uncovered([draft])) == [[]]  # the draft has its maximum depth
    probs = path_probs(draft.parents, draft.confidences)
    (trimmed,) = budget.trim([Proposal(draft.tree, probs)])
    assert list(trimmed.tree.tokens) == [1, 2, 1]
    assert list(trimmed.tree.parents) == [TEXT, TEXT, 0]


def test_best_first_takes_parents_before_children():
    assert best_first([0.5, 0.5, 0.5]) == [0, 1, 2]


@pytest.mark.parametrize(
    "wrong", [{"depth": -1}, {"depth": 1, "width": 0}, {"depth": 1, "candidates": 17}]
)
def test_invalid_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^FixedBudget: (depth|width|candidates) is"):
        FixedBudget(**wrong)


def test_a_drafter_is_asked_for_what_is_not_covered():
    budget = AdaptiveBudget(candidates=1)
    World(odds=0.8, draft=0.5).speed(budget, 100)
    for covered, limit in ((0.0, DEEPEST), (0.1, DEEPEST), (0.9, 0), (1.0, 0)):
        budget.begin_round(1)
        assert budget.limit(0, [covered], unread=0) == limit, covered


def test_nodes_are_grown_for_what_is_not_covered():
    budget = AdaptiveBudget(candidates=2)
    World(odds=0.6, second=0.3, draft=0.05).speed(budget, 100)
    draft = Draft(limit=9)
    draft.take(TEXT, [(1, 0.6), (2, 0.3)])
    for first, second, grown in ((0.0, 0.0, [0, 1]), (1.0, 0.0, [1]), (1.0, 0.6, [])):
        budget.begin_round(1)
        budget.limit(0, [0.0], unread=0)
        assert budget.grow(0, [draft], [{TEXT: 0.0, 0: first, 1: second}]) == [grown]


def test_a_large_draft_is_not_tried_in_a_batch_at_once():
    """Its first round would read all prompts, which a level of it would not repay."""
    for size, texts, limit in ((0.1, 8, DEEPEST), (0.5, 8, 0), (1.5, 1, DEEPEST)):
        budget = AdaptiveBudget(Costs([size]))
        if texts > 1:
            assert first_limit(budget, texts) == 0, "a step without a draft is measured first"
            budget.observe(Outcome(texts, texts, texts, 1.0, [Drafted()]))
        assert {first_limit(budget, texts) for _ in range(100)} == {limit}


def test_a_token_that_another_drafter_disputes_is_learned_to_be_unlikely():
    budget = AdaptiveBudget()
    merged = Proposal.merge([Proposal(Tree([token], [TEXT]), [0.6]) for token in (1, 2)])
    for _ in range(30):
        budget.begin_round(1)
        for source in range(2):
            budget.limit(source, [0.6], unread=0)
        budget.propose(1, [merged])
        budget.observe(Outcome(1, 3, 2, 1.0, [Drafted(), Drafted()], emitted=[[2, 0]]))
    corrected = budget.propose(1, [merged])[0]
    assert corrected.estimates[0] < 0.3
    assert corrected.estimates[1] == 0.6


def test_a_drafter_without_a_model_is_not_expected_to_read():
    for sizes, drafts in (([0.1], False), ([], True)):
        budget = AdaptiveBudget(Costs(sizes))
        for _ in range(2):
            budget.begin_round(4)
            limit = budget.limit(0, [0.0] * 4, unread=20_000)
            budget.observe(Outcome(4, 4, 4, 1.0, [Drafted()]))
        assert bool(limit) == drafts


@pytest.mark.parametrize(("reading", "pause"), [(0.0, 8), (0.05, 8), (0.4, 40), (50.0, 300)])
def test_a_probe_that_has_to_read_texts_comes_later(reading, pause):
    """It may take 1% of the time, but what a text takes to read says little of the next ones."""
    payoff = Payoff(texts=1)
    limits = [payoff.limit(DEEPEST, could_pay=False, reading=reading) for _ in range(pause + 1)]
    assert limits == [0] * pause + [Payoff.PROBE]


@pytest.mark.parametrize(("unread", "pause"), [(0, 8), (400, 40)])
def test_the_pause_before_a_probe_counts_the_unread_tokens(unread, pause):
    budget = AdaptiveBudget()
    for outcome in (
        Outcome(1, 2, 1, 1.5, [Drafted(0.5, 1, 1, read=500)]),  # 0.001 s a token
        Outcome(1, 1, 1, 1.0, [Drafted()]),
        Outcome(1, 2, 1, 3.0, [Drafted(2.0, 1, 1)]),  # a level that cannot pay
    ):
        budget.begin_round(1)
        budget.limit(0, [0.0], unread=0)
        budget.observe(outcome)
    limits = []
    for _ in range(pause + 1):
        budget.begin_round(1)
        limits.append(budget.limit(0, [0.0], unread=unread))
        budget.observe(Outcome(1, 1, 1, 1.0, [Drafted()]))
    assert limits == [0] * pause + [Payoff.PROBE]


@pytest.mark.parametrize(
    ("unread", "drafts"), [(0, True), (1000, True), (2000, True), (3000, False), (20_000, False)]
)
def test_a_batch_reads_its_texts_only_if_they_can_gain_it(unread, drafts):
    budget = AdaptiveBudget()
    budget.begin_round(1)
    budget.limit(0, [0.0], unread=500)
    budget.observe(Outcome(1, 2, 1, 1.5, [Drafted(0.5, 1, 1, read=500)]))  # 0.001 s a token
    for _ in range(2):  # measures a step without a draft
        budget.begin_round(4)
        budget.limit(0, [0.0] * 4, unread=unread)
        budget.observe(Outcome(4, 4, 4, 1.0, [Drafted()]))
    budget.begin_round(4)
    assert bool(budget.limit(0, [0.0] * 4, unread=unread)) == drafts
