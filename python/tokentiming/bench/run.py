"""Runs systems side by side, interleaved prompt by prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch

from tokentiming.bench.difference import difference
from tokentiming.bench.pair import Pair
from tokentiming.bench.prompts import Prompt, sampling_at
from tokentiming.bench.records import Key, Line, Records
from tokentiming.bench.statistics import loops
from tokentiming.bench.systems import GENERATE, Generated, System
from tokentiming.generation.lengths import refuse_lengths

_WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Step:
    """One run: some prompts through one system."""

    temperature: float
    repeat: int
    system: System
    prompts: Sequence[Prompt]

    @property
    def key(self) -> Key:
        names = tuple(prompt.name for prompt in self.prompts)
        return Key(self.temperature, self.repeat, self.system.name, names)

    @property
    def category(self) -> str:
        """That of all prompts, or "mixed"."""
        categories = {prompt.category for prompt in self.prompts}
        return categories.pop() if len(categories) == 1 else "mixed"


@dataclass(frozen=True)
class Plan:
    """What to run.

    Args:
        systems: the target alone first.
        prompts: all prompts.
        temperatures: 0 is greedy decoding.
        length: maximum number of new tokens of each prompt.
        repeats: runs of each system and prompt.
        batch_size: number of prompts that run together.

    Raises:
        ValueError: a temperature is negative or not finite, or peers are to run in batches.
    """

    systems: Sequence[System]
    prompts: Sequence[Prompt]
    temperatures: Sequence[float]
    length: int
    repeats: int = 1
    batch_size: int = 1

    def __post_init__(self) -> None:
        for temperature in self.temperatures:
            sampling_at(temperature)
        peers = [system.name for system in self.systems if system.is_peer]
        if peers and self.batch_size > 1:
            raise ValueError(
                f"Plan: batch_size is {self.batch_size}, but {', '.join(peers)} of transformers "
                "takes one prompt at a time; give a batch size of 1, or no peers"
            )

    def steps(self) -> Iterator[Step]:
        """All runs, in order: the systems take turns at each prompt."""
        starts = range(0, len(self.prompts), self.batch_size)
        groups = [self.prompts[start : start + self.batch_size] for start in starts]
        for temperature in self.temperatures:
            systems = [system for system in self.systems if system.runs_at(temperature)]
            for group in groups:
                for repeat in range(self.repeats):
                    for system in systems:
                        yield Step(temperature, repeat, system, group)

    def remaining(self, records: Records) -> list[Step]:
        """The runs that a file does not hold."""
        return [step for step in self.steps() if step.key not in records]


class Bench:
    """Runs a plan.

    Args:
        plan: what to run.
        pair: the models of the systems.
        records: the file that takes the runs.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        plan: Plan,
        pair: Pair,
        records: Records,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._plan = plan
        self._pair = pair
        self._records = records
        self._clock = clock

    def run(self, watch: Callable[[Step], None] = lambda step: None) -> None:
        """Run what the file does not hold yet, and append it.

        At each temperature every system first generates a few tokens that are not timed. Greedy
        ids are compared with those of ``generate`` before a run is recorded.

        Args:
            watch: called before each run.

        Raises:
            ValueError: a prompt and its new tokens exceed the target's context.
            RuntimeError: a draft failed, or greedy ids of ours are not those of the target alone
                and rounding does not explain it.
        """
        remaining = self._plan.remaining(self._records)
        if remaining:
            self._check_lengths()
        for _, steps in groupby(remaining, key=lambda step: step.temperature):
            warm: set[str] = set()
            for step in steps:
                watch(step)
                if step.system.name not in warm:
                    warm.add(step.system.name)
                    self._warm_up(step)
                self._records.append(self._line(step))

    def _check_lengths(self) -> None:
        """Refuse prompts that are too long before the first run, not after hours."""
        for prompt in self._plan.prompts:
            ids = self._pair.prompt_ids(prompt.text)
            try:
                refuse_lengths(ids, self._plan.length, self._pair.target[0])
            except ValueError as error:
                raise ValueError(f"{error} (prompt {prompt.name})") from error

    def _warm_up(self, step: Step) -> None:
        texts = ["Warm up."] * len(step.prompts)
        options: dict[str, Any] = {"temperature": step.temperature, "seed": 0}
        try:
            step.system.generate(texts, length=_WARM_UP_TOKENS, **options)
        except Exception:
            if not step.system.is_peer:  # the run of a peer fails in the same way and records it
                raise

    def _line(self, step: Step) -> Line:
        """The record of a run: what it is known by, and what was measured or why it failed."""
        line: Line = {**step.key._asdict(), "category": step.category}
        texts = [prompt.text for prompt in step.prompts]
        try:
            start = self._clock()
            generated = step.system.generate(
                texts,
                length=self._plan.length,
                temperature=step.temperature,
                seed=step.repeat,
            )
            self._settle()
            seconds = self._clock() - start
        except Exception as error:
            if not step.system.is_peer:
                raise
            return line | {"error": f"{type(error).__name__}: {error}"}
        return line | {
            "seconds": seconds,
            "tokens": sum(map(len, generated.ids)),
            "forwards": generated.forwards,
            "loops": [loops(ids) for ids in generated.ids],
            "differences": self._differences(step, generated),
            "ids": generated.ids,
            "stats": generated.stats,
        }

    def _settle(self) -> None:
        """Wait for the device, where passes run asynchronously."""
        if self._pair.target[0].device.type == "cuda":
            torch.cuda.synchronize()

    def _differences(self, step: Step, generated: Generated) -> list[Line | None]:
        """Where greedy ids differ from those of ``generate``; None for each text that is equal."""
        if step.temperature or step.system.name == GENERATE:
            return [None] * len(step.prompts)
        expected = self._records[step.key._replace(repeat=0, system=GENERATE)]["ids"]
        rows = zip(step.prompts, expected, generated.ids, strict=True)
        return [self._compared(step.system, *row) for row in rows]

    def _compared(
        self, system: System, prompt: Prompt, expected: list[int], found: list[int]
    ) -> Line | None:
        if expected == found:
            return None
        target = self._pair.target[0]
        ids = self._pair.prompt_ids(prompt.text)
        left, right = (torch.tensor(ids + new, device=target.device) for new in (expected, found))
        where = difference(target, left, right, len(ids))
        tie = where is not None and where.is_tie(target.dtype)
        if not tie and not system.is_peer:
            at = "one text ends before the other"
            if where is not None:
                at = f"after {where.position} tokens the logits are {abs(where.gap):.3f} apart"
            raise RuntimeError(
                f"{system.name} on {prompt.name}: greedy ids are not those of the target alone: "
                f"{at}, which rounding does not explain"
            )
        return {"tie": tie} | ({} if where is None else asdict(where))
