"""A budget that a user asks for, and checks of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tokentiming.drafters.draft import Draft
from tokentiming.engine.budget import MOST_CANDIDATES, Budget, FixedBudget, Outcome
from tokentiming.methods import Method, Proposal
from tokentiming.scalars import integer, refuse_class, type_of

_METHODS = ("begin", "begin_round", "limit", "grow", "calibrate", "propose", "trim", "observe")


class CheckedBudget:
    """Refuses invalid answers of a budget; otherwise a drafter that uses them would fail.

    Errors that the budget raises pass through.

    Args:
        budget: a user's.

    Raises:
        TypeError: it lacks a member of ``Budget``, or ``candidates`` is not an integer.
        ValueError: ``candidates`` is not in 1..16.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._name = type(budget).__name__
        missing = [n for n in _METHODS if not callable(getattr(budget, n, None))]
        if not hasattr(budget, "candidates") or isinstance(budget, type) or missing:
            raise TypeError(
                f"SpeculativeDecoder: budget is {type_of(budget)}, without "
                f"{', '.join(missing) or 'candidates'}; give a tt.FixedBudget(...), or an object "
                "with all members of tt.Budget"
            )
        self._candidates("SpeculativeDecoder")

    @property
    def candidates(self) -> int:
        """Read each time: a budget may change it."""
        return self._candidates("generate")

    def _candidates(self, caller: str) -> int:
        name = f"candidates of budget {self._name}"
        count = integer(self._budget.candidates, name, least=1, caller=caller)
        if count > MOST_CANDIDATES:
            raise ValueError(f"{caller}: {name} is {count}; give at most {MOST_CANDIDATES}")
        return count

    def begin(self) -> None:
        self._budget.begin()

    def begin_round(self, texts: int) -> None:
        self._budget.begin_round(texts)

    def limit(self, source: int, covered: Sequence[float], *, unread: int) -> int:
        limit = self._budget.limit(source, covered, unread=unread)
        return integer(limit, f"limit of budget {self._name}", least=0)

    def grow(
        self, source: int, drafts: Sequence[Draft], covered: Sequence[Mapping[int, float]]
    ) -> list[list[int]]:
        grown: Any = self._budget.grow(source, drafts, covered)
        self._check_list("grow", grown, len(drafts), "a list of nodes for each draft")
        for nodes, draft in zip(grown, drafts, strict=True):
            open_nodes = draft.open_nodes()
            if not isinstance(nodes, list) or not all(node in open_nodes for node in nodes):
                self._refuse("grow", nodes, f"a list of nodes of draft.open_nodes(), {open_nodes}")
            if len(set(nodes)) < len(nodes):
                self._refuse("grow", nodes, "each node once")
        return list(grown)

    def calibrate(self, source: int, draft: Draft) -> list[float]:
        estimates: Any = self._budget.calibrate(source, draft)
        self._check_list("calibrate", estimates, len(draft), "a probability for each token")
        for estimate in estimates:
            if not isinstance(estimate, float | int) or not 0 <= estimate <= 1:
                self._refuse("calibrate", estimate, "probabilities")
        return list(estimates)

    def propose(self, source: int, proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        return self._checked("propose", self._budget.propose(source, proposals), len(proposals))

    def trim(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        return self._checked("trim", self._budget.trim(proposals), len(proposals))

    def observe(self, outcome: Outcome) -> None:
        self._budget.observe(outcome)

    def _checked(self, method: str, proposals: Any, count: int) -> list[Proposal]:
        self._check_list(method, proposals, count, "a Proposal for each text")
        for proposal in proposals:
            if not isinstance(proposal, Proposal):
                self._refuse(method, proposal, "a Proposal for each text")
        return list(proposals)

    def _check_list(self, method: str, answer: Any, count: int, wanted: str) -> None:
        if not isinstance(answer, Sequence) or len(answer) != count:
            self._refuse(method, answer, f"{wanted}, {count} in all")

    def _refuse(self, method: str, answer: Any, wanted: str) -> NoReturn:
        raise ValueError(
            f"generate: {method} of budget {self._name} returned {answer!r}; return {wanted}"
        )


def fixed_budget(
    method: Method, *, budget: Budget | None, draft_length: int | None
) -> Budget | None:
    """The budget that a user asks for; None if it is to adapt.

    Raises:
        TypeError: ``draft_length`` is not an integer, or ``budget`` is not a budget.
        ValueError: it is negative, both are given, or the budget makes trees and the method
            proposes chains.
    """
    if draft_length is not None:
        if budget is not None:
            raise ValueError("SpeculativeDecoder: give one of budget and draft_length")
        depth = integer(draft_length, "draft_length", least=0, caller="SpeculativeDecoder")
        return FixedBudget(depth=depth)
    if budget is None:
        return None
    refuse_class(budget, "budget", caller="SpeculativeDecoder")
    checked = CheckedBudget(budget)
    if checked.candidates > 1 and not method.branches:
        raise ValueError(
            f"SpeculativeDecoder: method {method.name} proposes chains and the budget has "
            f"{checked.candidates} candidates; give candidates=1, or the method coupled or slem"
        )
    return checked
