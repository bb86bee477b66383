"""Budgets of a user's own: the example in the documentation, and answers that are refused."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest

import tokentiming as tt
from tests.support.batches import near
from tests.support.small_models import TOKENIZER, lively

DOCS = Path(__file__).parents[2] / "docs"
GREEDY = {"do_sample": False, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def target():
    return lively()


@pytest.fixture(scope="module")
def drafter(target):
    return tt.ModelDrafter(near(target), TOKENIZER)


def test_the_example_of_the_documentation_adapts(target, drafter):
    section = (DOCS / "drafters.md").read_text("utf-8").split("## A budget of your own")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    names = {"tt": tt, "model": target, "tokenizer": TOKENIZER, "drafter": drafter}
    exec(code, names)
    expected = tt.SpeculativeDecoder(target, TOKENIZER).generate("to be or not", **GREEDY)
    assert names["decoder"].generate("to be or not", **GREEDY).text == expected.text
    budget = names["Steps"]()
    levels = []
    output = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=budget).generate(
        "to be or not", watch=lambda round_: levels.append(budget.levels), **GREEDY
    )
    assert output.stats.accepted > 0
    assert {-1, 2} <= {after - before for before, after in pairwise([5, *levels])}


def test_a_budget_sees_what_each_round_did(target, drafter):
    class Seen(tt.FixedBudget):
        def __init__(self, **shape):
            super().__init__(**shape)
            self.outcomes: list[tt.Outcome] = []

        def observe(self, outcome):
            self.outcomes.append(outcome)

    budget: tt.Budget = Seen(depth=3)
    stats = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=budget).generate(
        "to be", **GREEDY
    ).stats  # fmt: skip
    assert sum(outcome.tokens for outcome in budget.outcomes) == stats.tokens
    drafted = [outcome.drafted[0] for outcome in budget.outcomes]
    assert all(isinstance(one, tt.Drafted) for one in drafted)
    assert sum(one.accepted for one in drafted) == stats.accepted
    assert sum(one.nodes for one in drafted) == stats.proposed


def own(method: str, answer) -> tt.FixedBudget:
    """A budget with another answer of one of its methods."""
    members = {method: lambda self, *args, **kwargs: answer}
    return type("Mine", (tt.FixedBudget,), members)(depth=3, candidates=2)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("limit", None),
        ("limit", -1),
        ("limit", 2.5),
        ("grow", None),
        ("grow", []),
        ("grow", [0]),
        ("grow", [[99]]),
        ("grow", [[-1]]),
        ("grow", [["a"]]),
        ("grow", [[0, 0]]),  # this would draft without end
        ("calibrate", None),
        ("calibrate", []),
        ("calibrate", [2.0] * 6),
        ("calibrate", [math.nan] * 6),
        ("propose", None),
        ("propose", []),
        ("propose", [3]),
        ("trim", None),
        ("trim", []),
        ("trim", [3]),
    ],
)
def test_an_invalid_answer_names_the_budget_and_not_the_draft(
    method, answer, target, drafter, caplog
):
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=own(method, answer))
    with pytest.raises((TypeError, ValueError), match=rf"^generate: {method} of budget Mine"):
        decoder.generate("to be", **GREEDY)
    assert "draft" not in caplog.text


@pytest.mark.parametrize("method", ["begin", "begin_round", "limit", "grow", "calibrate",
                                    "propose", "trim", "observe"])  # fmt: skip
def test_an_error_of_a_budget_passes_through(method, target, drafter, caplog):
    def failing(self, *args, **kwargs):
        raise ZeroDivisionError

    budget = type("Mine", (tt.FixedBudget,), {method: failing})(depth=3, candidates=2)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=budget)
    with pytest.raises(ZeroDivisionError) as caught:
        decoder.generate("to be", **GREEDY)
    assert caught.value.partial.stats[0].finish_reason is None
    assert "draft" not in caplog.text


@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        (0, ValueError, "is 0; give at least 1"),
        (17, ValueError, "is 17; give at most 16"),
        (2.5, TypeError, "is 2.5, a float"),
        (None, TypeError, "is None, a NoneType"),
    ],
)
def test_an_invalid_number_of_candidates_is_refused(candidates, error, message, target):
    budget = tt.FixedBudget(depth=3)
    budget.candidates = candidates
    name = "SpeculativeDecoder: candidates of budget FixedBudget"
    with pytest.raises(error, match=f"^{name} {message}"):
        tt.SpeculativeDecoder(target, TOKENIZER, budget=budget)


def test_what_a_budget_lacks_is_named(target):
    class Mine:
        candidates = 1

        def limit(self, source, covered, *, unread):
            return 3

    with pytest.raises(TypeError, match=r"budget is a Mine, without begin, begin_round, grow, "):
        tt.SpeculativeDecoder(target, TOKENIZER, budget=Mine())


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("budget", tt.FixedBudget),
        ("drafter", tt.SuffixDrafter),
        ("drafter", [tt.SuffixDrafter]),
    ],
)
def test_a_class_is_refused_with_the_way_out(argument, given, target):
    name = (given[0] if isinstance(given, list) else given).__name__
    message = rf"{argument} is the class {name}; give an object, such as {name}\(\.\.\.\)$"
    with pytest.raises(TypeError, match=rf"^SpeculativeDecoder: {message}"):
        tt.SpeculativeDecoder(target, TOKENIZER, **{argument: given})


def test_the_error_for_a_method_of_chains_names_the_way_out(target, drafter):
    budget = tt.FixedBudget(depth=2, candidates=2)
    with pytest.raises(ValueError, match=r"give candidates=1, or the method coupled or slem$"):
        tt.SpeculativeDecoder(target, TOKENIZER, drafter, method="tli", budget=budget)


def test_candidates_may_change(target, drafter):
    class Changing(tt.FixedBudget):
        def begin_round(self, texts):
            self.candidates = 3 - self.candidates

    budget = Changing(depth=2, nodes=6, candidates=1)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=budget)
    sizes = []
    read = decoder.runner.read
    decoder.runner.read = lambda texts, trees: sizes.append(len(trees[0])) or read(texts, trees)
    decoder.generate("to be or not", **GREEDY)
    assert {2} < set(sizes)
    assert max(sizes) > 2
