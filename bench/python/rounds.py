"""Rounds of decoding: recorded by a budget, and what they would take by a model of costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from tokentiming.drafters import Draft
from tokentiming.engine.budget import Budget, Outcome
from tokentiming.engine.costs import Costs, LinearCost
from tokentiming.methods import Proposal

ALONE = "alone"
CHAINS = {"cpu": "adaptive-chain", "gpu": "gpu-chain"}
"""The shapes that others are compared with, by the model of costs."""
SAMPLES = 3
"""Sizes measured less often do not count, unless all are."""


@dataclass(frozen=True)
class CostModel:
    """What passes cost, in any unit."""

    target: Callable[[float], float]
    """The cost of a pass over so many rows, verification included."""
    draft: Callable[[float], float]
    """The cost of a level of so many rows."""

    def drafting(self, outcome: Outcome) -> float:
        return sum(
            drafted.levels * self.draft(drafted.rows / drafted.levels)
            for drafted in outcome.drafted
            if drafted.levels
        )

    def total(self, outcome: Outcome) -> float:
        return self.target(outcome.rows) + self.drafting(outcome)

    def retimed(self, outcome: Outcome) -> Outcome:
        """The round with the times of this model."""
        drafted = [
            replace(one, seconds=one.levels * self.draft(one.rows / max(one.levels, 1)))
            for one in outcome.drafted
        ]
        return replace(outcome, drafted=drafted, total=self.total(outcome))

    def speed(self, rounds: Sequence[Outcome]) -> float:
        """Tokens in the time of a pass that proposes nothing."""
        cost = sum(self.total(outcome) for outcome in rounds)
        return sum(outcome.tokens for outcome in rounds) * self.target(1) / cost


GPU_LEVEL, GPU_ROWS = 0.1, 64
GPU_ROW = 0.002
"""What the adaptive trees are told that a row costs."""
GPU = CostModel(
    target=lambda rows: max(1.0, rows / GPU_ROWS),
    draft=lambda rows: GPU_LEVEL * max(1.0, rows / GPU_ROWS),
)
"""Passes cost the same up to 64 rows, where memory bandwidth bounds them."""


def measured(rounds: Sequence[Outcome]) -> CostModel:
    """The medians of these rounds, in seconds."""
    return CostModel(
        target=medians((outcome.rows, outcome.total - outcome.drafting) for outcome in rounds),
        draft=medians(
            (drafted.rows / drafted.levels, drafted.seconds / drafted.levels)
            for outcome in rounds
            for drafted in outcome.drafted
            if drafted.levels
        ),
    )


def medians(samples: Iterable[tuple[float, float]]) -> Callable[[float], float]:
    """Seconds by size: a median for each whole size, and straight lines between them."""
    groups: dict[int, list[float]] = defaultdict(list)
    for size, seconds in samples:
        groups[round(size)].append(seconds)
    often = [size for size, group in groups.items() if len(group) >= SAMPLES]
    sizes = sorted(often or groups)
    middle = [statistics.median(groups[size]) for size in sizes]
    return lambda size: float(np.interp(size, sizes, middle))


class KnownCosts(Costs):
    """Costs that are known, and that measurements do not change.

    Args:
        base: of a pass of the target and of a level of the draft.
        slope: of a row in each, in units of its base.
    """

    def __init__(self, base: tuple[float, float], slope: float) -> None:
        super().__init__()
        self.target, self._draft = (KnownLinearCost(one, slope * one) for one in base)

    def draft(self, source: int) -> LinearCost:
        return self._draft

    def without_draft(self, texts: int) -> float:
        return self.target.base + texts * self.target.slope

    def observe_target(self, texts: int, rows: int, seconds: float) -> None:
        """The costs are known."""


class KnownLinearCost(LinearCost):
    def __init__(self, base: float, slope: float) -> None:
        super().__init__(share=0.0)
        self.base, self.slope, self.known = base, slope, True

    def observe(self, passes: int, rows: int, seconds: float) -> None:
        """The line is known."""


@dataclass(frozen=True)
class Shape:
    """A shape of proposals."""

    budget: Callable[[], Budget]
    """Makes the budget of a text."""
    costs: CostModel | None = None
    """What the budget is told that rounds took; None if that is what they took."""


class Recorder:
    """A budget that passes another one on, and keeps the rounds that it observes.

    It keeps no round that reads a prompt, since its time does not predict later ones.
    """

    def start(self, shape: Shape) -> None:
        """Start on a text, whose proposals have this shape."""
        self._costs = shape.costs
        self._budget = shape.budget()
        self.rounds: list[Outcome] = []

    @property
    def candidates(self) -> int:
        return self._budget.candidates

    def begin(self) -> None:
        self._budget.begin()

    def begin_round(self, texts: int) -> None:
        self._budget.begin_round(texts)

    def limit(self, source: int, covered: Sequence[float], *, unread: int) -> int:
        return self._budget.limit(source, covered, unread=unread)

    def grow(
        self, source: int, drafts: Sequence[Draft], covered: Sequence[Mapping[int, float]]
    ) -> list[list[int]]:
        return self._budget.grow(source, drafts, covered)

    def calibrate(self, source: int, draft: Draft) -> list[float]:
        return self._budget.calibrate(source, draft)

    def propose(self, source: int, proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        return self._budget.propose(source, proposals)

    def trim(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        return self._budget.trim(proposals)

    def observe(self, outcome: Outcome) -> None:
        if not outcome.reads_prompt:
            kept = [replace(drafted, visits=()) for drafted in outcome.drafted]
            self.rounds.append(replace(outcome, drafted=kept, emitted=()))
        if self._costs is not None:
            outcome = self._costs.retimed(outcome)
        self._budget.observe(outcome)


def mean_tokens(rounds: Sequence[Outcome]) -> float:
    """Tokens for each pass of the target."""
    return statistics.mean(outcome.tokens for outcome in rounds)


@dataclass
class Results:
    """What the shapes gave at one temperature."""

    rounds: dict[str, dict[str, list[Outcome]]] = field(default_factory=dict)
    """Of each prompt and shape."""
    differing: dict[str, list[str]] = field(default_factory=dict)
    """Of each shape the prompts whose ids are not those of the target alone."""

    def all_rounds(self, shape: str | None = None) -> list[Outcome]:
        """Those of a shape, or of all shapes."""
        return [
            outcome
            for of_prompt in self.rounds.values()
            for name, rounds in of_prompt.items()
            if shape in (None, name)
            for outcome in rounds
        ]

    def plain(self) -> dict[str, Any]:
        """The rounds, for JSON."""
        return {
            prompt: {shape: [asdict(one) for one in rounds] for shape, rounds in of_prompt.items()}
            for prompt, of_prompt in self.rounds.items()
        }

    def models(self) -> dict[str, CostModel]:
        return {"cpu": measured(self.all_rounds()), "gpu": GPU}

    def figures(self, shape: str, models: dict[str, CostModel]) -> dict[str, Any]:
        """Of one shape: per-prompt values of what is averaged over prompts, and means per round."""
        of_prompts = list(self.rounds.values())
        rounds = self.all_rounds(shape)
        found: dict[str, Any] = {
            "tokens": [mean_tokens(group[shape]) for group in of_prompts],
            "levels": statistics.mean(sum(d.levels for d in one.drafted) for one in rounds),
            "draft_rows": statistics.mean(sum(d.rows for d in one.drafted) for one in rounds),
            "target_rows": statistics.mean(outcome.rows for outcome in rounds),
            "differing": self.differing[shape],
        }
        for name, model in models.items():
            speeds = [model.speed(group[shape]) for group in of_prompts]
            chains = [model.speed(group[CHAINS[name]]) for group in of_prompts]
            found[f"{name}_over_alone"] = speeds
            found[f"{name}_over_chain"] = [a / b for a, b in zip(speeds, chains, strict=True)]
        return found
