"""What the time and the tokens of a benchmark's runs are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tokentiming.bench.cells import by_prompts, by_system, proposed_per_pass, stats_of, target_alone
from tokentiming.bench.records import Line

REST = "rest"
"""Bookkeeping: what no stage counts."""


def stages(lines: Sequence[Line]) -> dict[tuple[float, str], dict[str, float]]:
    """Seconds per token in each stage, by temperature and system; ``REST`` is the remainder.

    Systems without statistics, which are those of transformers, are left out.
    """
    found = {}
    for key, group in by_system(lines).items():
        stats = list(stats_of(group))
        if stats:
            parts = [one["stage_seconds"] for one in stats]
            sums = {name: sum(part[name] for part in parts) for name in parts[0]}
            # Texts of a batch share their passes, so that their times add up to more than the run.
            total = sum(one["seconds"] for one in stats)
            sums[REST] = max(total - sum(sums.values()), 0.0)
            seconds = sum(line["seconds"] for line in group)
            tokens = sum(line["tokens"] for line in group)
            found[key] = {name: part / total * seconds / tokens for name, part in sums.items()}
    return found


def acceptance(lines: Sequence[Line]) -> dict[tuple[float, str], list[float]]:
    """Share of rounds that accept at least 1, 2, ... proposed tokens, by temperature and system.

    Systems that accepted no token are left out.
    """
    found = {}
    for key, group in by_system(lines).items():
        rounds: dict[int, int] = defaultdict(int)
        for stats in stats_of(group):
            for accepted, count in stats["accepted_per_round"].items():
                rounds[int(accepted)] += count  # JSON has made the number a string
        total = sum(rounds.values())
        depths = range(1, max(rounds, default=0) + 1)
        if depths:
            found[key] = [sum(rounds[n] for n in rounds if n >= d) / total for d in depths]
    return found


def sources(lines: Sequence[Line]) -> dict[tuple[float, str], dict[str, float]]:
    """Tokens per pass of the target and text, by temperature and system, and by who proposed them.

    The token that the target itself adds in each pass counts as the target's. Systems without
    drafters are left out, and files that do not tell drafters apart.
    """
    found = {}
    for key, group in by_system(lines).items():
        names = key[1].partition("/")[2].split("+")
        accepted = dict.fromkeys(names, 0)
        rounds = 0
        for stats in stats_of(group):
            rounds += sum(stats["accepted_per_round"].values())
            for drafter, count in stats.get("accepted_from", {}).items():
                accepted[names[int(drafter)]] += count  # JSON has made the number a string
        if sum(accepted.values()):
            found[key] = {"target": 1.0} | {n: count / rounds for n, count in accepted.items()}
    return found


def budgets(lines: Sequence[Line]) -> dict[tuple[float, str], list[tuple[float, float]]]:
    """Proposed tokens for each pass and text, and the ratio over the target alone.

    A pair for each prompt, or for each group that ran together; by temperature and system. Systems
    without drafters are left out, and those of transformers.
    """
    reference = target_alone(lines)
    found = {}
    for key, group in by_system(lines).items():
        alone = reference[key[0]]
        pairs = [
            (proposed_per_pass(cell.lines), alone[prompts].seconds / cell.seconds)
            for prompts, cell in by_prompts(group).items()
            if prompts in alone
        ]
        known = [(proposed, ratio) for proposed, ratio in pairs if proposed is not None]
        if any(proposed for proposed, _ in known):
            found[key] = known
    return found
