"""The output distribution of the real loop, over all its random choices, is the target's."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from itertools import product

import pytest

from tests.support import toys
from tests.support.enumeration import distance, enumerated
from tests.support.pairs import DRAFT, PAIRS, TARGET, Adversary, Forester, Gram, models
from tokentiming import methods
from tokentiming.engine.budget import FixedBudget
from tokentiming.methods import Coupled, PointMass, Pushforward, Slem, Slrs, Tli, TokenTiming
from tokentiming.tokens.tree import Tree

EXACT = 1e-12
JUDGING = {
    "tli": Tli(),
    "pushforward": Pushforward(),
    "slrs": Slrs(),
    "slrs, two tokens": Slrs(lookahead=2),
    "point mass": PointMass(),
}


def slow_for(*names: str) -> list:
    """The methods, those named here marked slow."""
    return [pytest.param(m, marks=pytest.mark.slow) if m in names else m for m in JUDGING]


def distribution_and_target(method, pair: str, *, support: int = 4, **options):
    draft, target = PAIRS[pair]
    target_model, draft_model = models(pair, support)
    drafter = toys.TableDrafter(draft, draft_model)
    distribution = enumerated(method, target_model, target, drafter, **options)
    return distribution, target_model.joint(3, target.eos_ids)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("draft_length", [1, 2])
@pytest.mark.parametrize("method", slow_for("slrs, two tokens", "point mass"))
def test_rejection_methods_are_exact(method, pair, draft_length):
    distribution, target = distribution_and_target(JUDGING[method], pair, draft_length=draft_length)
    assert distance(distribution, target) < EXACT


@pytest.mark.parametrize("method", JUDGING)
def test_a_draft_may_stop_after_an_unlikely_token(method):
    class Wary(FixedBudget):
        def grow(self, source, drafts, covered):
            sure = [d.confidences[-1:] > [0.4] for d in drafts]
            return [
                nodes if s else []
                for nodes, s in zip(super().grow(source, drafts, covered), sure, strict=True)
            ]

    distribution, target = distribution_and_target(
        JUDGING[method], "crossing", budget=Wary(depth=2)
    )
    assert distance(distribution, target) < EXACT


@pytest.mark.parametrize("pair", ["crossing", "merging"])
@pytest.mark.parametrize("method", slow_for("slrs, two tokens", "point mass", "pushforward"))
def test_row_by_row_verification_is_exact(method, pair):
    """Rows are verified one by one if a logits processor keeps state between calls."""
    distribution, target = distribution_and_target(JUDGING[method], pair, emitted_only=True)
    assert distance(distribution, target) < EXACT


class Fragile(toys.ToyModel):
    """Fails after some of the tokens that it may draw, and does not fail after others."""

    def __init__(self, model: Gram, fatal: int) -> None:
        self._model = model
        self._fatal = fatal
        self.failures = 0

    def after(self, ids):
        if ids[-1] == self._fatal:
            self.failures += 1
            raise RuntimeError("out of memory")
        return self._model.after(ids)


@pytest.mark.draft_fails
@pytest.mark.parametrize("fatal", [1, 2])
@pytest.mark.parametrize("method", sorted(JUDGING.keys() - {"slrs"}))  # slrs draws after the draft
def test_a_failure_that_depends_on_the_draw_keeps_the_output_exact(method, fatal):
    model, draft_model = models("crossing")
    fragile = Fragile(draft_model, fatal)
    drafter = toys.TableDrafter(DRAFT, fragile)
    distribution = enumerated(JUDGING[method], model, TARGET, drafter, fails=None)
    assert distance(distribution, model.joint(3, TARGET.eos_ids)) < EXACT
    assert fragile.failures > 0


@pytest.mark.parametrize("alignment", ["dtw", "bytes"])
def test_tokentiming_is_exact_between_equal_vocabularies(alignment):
    method = TokenTiming(alignment)
    distribution, target = distribution_and_target(method, "same")
    assert method.bind(TARGET, TARGET).exact
    assert not method.bind(DRAFT, TARGET).exact
    assert not method.exact
    assert distance(distribution, target) < EXACT


@pytest.mark.parametrize("method", [Coupled(), Slem()], ids=["coupled", "slem"])
def test_matching_methods_are_exact_for_any_draft(method):
    """Each string of two tokens is proposed in turn; no state is used in two races."""
    model = Gram(len(TARGET), seed=1, support=4)
    expected = model.joint(3, TARGET.eos_ids)
    for drawn in product(range(len(DRAFT)), repeat=2):
        adversary = Adversary(DRAFT, drawn)
        distribution = enumerated(method, model, TARGET, adversary, emitted_only=True)
        assert distance(distribution, expected) < EXACT, drawn


@pytest.mark.parametrize("method", JUDGING)
def test_rejection_methods_accept_drafters_without_distributions(method):
    model = Gram(len(TARGET), seed=1, support=4)
    for drawn in [(1, 2), (3, 4), (5, 1), (4, 0), (0,)]:
        distribution = enumerated(JUDGING[method], model, TARGET, Adversary(DRAFT, drawn))
        assert distance(distribution, model.joint(3, TARGET.eos_ids)) < EXACT, drawn


def test_the_toy_pair_covers_all_difficult_cases():
    """Missed draws, ends of turn, expansions of several tokens, rejections in every place."""
    seen: Counter[str] = Counter()

    class Watching(Pushforward.bound):
        def verify(self, rows):
            (tokens,) = super().verify(rows)
            emitted = list(tokens)
            proposal = rows[0].proposal
            accepted = len(emitted) - 1
            seen["missed"] += proposal.missed and accepted == len(proposal.ids)
            seen["end of turn"] += TARGET.eos_ids[0] in proposal.ids[:accepted]
            seen["all accepted"] += accepted == len(proposal) > 0
            for j in range(min(len(proposal.ids), accepted + 1)):
                lacking = float(self.distribution(proposal, j).sum()) < 1
                seen[f"{'accepted' if j < accepted else 'rejected'} at {j}"] += 1
                seen["mass is missing"] += lacking
            return [iter(emitted)]

    class Watched(Pushforward):
        bound = Watching

    distribution_and_target(Watched(), "crossing")
    for what in ("missed", "end of turn", "all accepted", "mass is missing"):
        assert seen[what] > 0, what
    for j in range(2):
        assert seen[f"accepted at {j}"] > 0
        assert seen[f"rejected at {j}"] > 0


def test_slrs_refuses_too_many_strings():
    with pytest.raises(ValueError, match=r"^Slrs: lookahead of 2 draft tokens makes at least"):
        distribution_and_target(Slrs(lookahead=2, strings=5), "crossing")


# ---- trees ----

A, B, AB, ALSO_A, END = 1, 2, 3, 4, 0
TREES = {
    "siblings": Tree([A, B], [-1, -1]),
    "branches with equal bytes": Tree([AB, A, B], [-1, -1, 1]),
    "branches that share an offset": Tree([A, B, A], [-1, -1, 1]),
    "the same bytes twice": Tree([A, ALSO_A, B], [-1, -1, 1]),
    "a token twice": Tree([A, A, A], [-1, 0, 1]),
    "an end of turn as a leaf": Tree([A, END, END], [-1, -1, 0]),
    "the right path last": Tree([B, AB, A], [-1, -1, -1]),
}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("method", [Coupled(), Slem()], ids=["coupled", "slem"])
def test_trees_are_exact(method, tree):
    model = Gram(len(TARGET), seed=1, support=2)
    budget = FixedBudget(depth=3, nodes=8, candidates=4)
    forester = Forester(TARGET, TREES[tree])
    distribution = enumerated(method, model, TARGET, forester, budget=budget, remaining=2)
    assert distance(distribution, model.joint(2, TARGET.eos_ids)) < EXACT


@pytest.mark.parametrize("tree", TREES)
def test_trees_walked_row_by_row_are_exact(tree):
    model = Gram(len(TARGET), seed=1, support=4)
    budget = FixedBudget(depth=3, nodes=8, candidates=4)
    distribution = enumerated(
        Coupled(), model, TARGET, Forester(TARGET, TREES[tree]), budget=budget, emitted_only=True
    )
    assert distance(distribution, model.joint(3, TARGET.eos_ids)) < EXACT


@pytest.mark.parametrize("method", [Slem(), Tli(), Pushforward(), Slrs()])
def test_two_texts_of_a_batch_are_exact_and_independent(method):
    """The joint distribution of both texts is the product of their distributions."""
    pair = "crossing" if isinstance(method, Slem) else "merging"
    draft, target = PAIRS[pair]
    target_model, draft_model = models(pair, 2)
    distribution = enumerated(
        method, target_model, target, toys.TableDrafter(draft, draft_model),
        remaining=1, draft_length=1, texts=2, batch_size=2,
    )  # fmt: skip
    alone = target_model.joint(1, target.eos_ids)
    together = {left + right: alone[left] * alone[right] for left in alone for right in alone}
    assert distance(distribution, together) < EXACT


# ---- tokentiming ----


class Recording(TokenTiming.bound):
    """Records for each verified token what had been emitted before it, and its supposed
    distribution.
    """

    def __init__(self, method, *parts) -> None:
        super().__init__(method, *parts)
        self.history: tuple[int, ...] = ()
        method.events = self.events = []

    def verify(self, rows):
        (tokens,) = super().verify(rows)
        emitted = list(tokens)
        proposal = rows[0].proposal
        for j, token in enumerate(proposal.ids[: len(emitted)]):
            distribution = tuple(proposal.probs[j].tolist())
            self.events.append((self.history + tuple(emitted[:j]), distribution, token))
        self.history += tuple(emitted)
        return [iter(emitted)]


class Recorded(TokenTiming):
    """``events`` are those of the last run."""

    bound = Recording
    events: list[tuple]


def deviation_and_bound(alignment: str, pair: str) -> tuple[float, float]:
    """Total variation of the joint distribution, and the sum over positions of E[TV(true
    distribution of x, q)].
    """
    method = Recorded(alignment)
    probs: dict[tuple, dict[int, Fraction]] = defaultdict(lambda: defaultdict(Fraction))

    def observe(weight: Fraction) -> None:
        for history, distribution, token in method.events:
            probs[history, distribution][token] += weight

    distribution, target = distribution_and_target(method, pair, observe=observe)
    bound = Fraction(0)
    for (_, q), drawn in probs.items():
        reached = sum(drawn.values())
        lacking = 1 - sum(map(Fraction, q))
        apart = sum(abs(drawn[x] / reached - Fraction(p)) for x, p in enumerate(q))
        bound += reached * (apart + abs(lacking)) / 2
    deviation = (
        sum(
            abs(distribution.get(x, 0) - target.get(x, 0))
            for x in distribution.keys() | target.keys()
        )
        / 2
    )
    return float(deviation), float(bound)


@pytest.mark.parametrize("alignment", ["dtw", "bytes"])
@pytest.mark.parametrize("pair", ["crossing", "merging"])
def test_tokentiming_stays_within_its_error_bound(pair, alignment):
    deviation, bound = deviation_and_bound(alignment, pair)
    assert 1e-3 < deviation < bound


def test_tokentiming_is_exact_where_nothing_merges(monkeypatch):
    finer = toys.letters(["<eos>", "b", "a"])
    monkeypatch.setitem(PAIRS, "finer", (toys.letters(["a", "<eos>", "ab", "b", "aa"]), finer))
    deviation, bound = deviation_and_bound("bytes", "finer")
    assert deviation < EXACT
    assert bound < EXACT


def test_all_methods_are_covered():
    enumerated_here = {Coupled, Slem, TokenTiming, *map(type, JUDGING.values())}
    assert set(methods.METHODS.values()) <= enumerated_here
