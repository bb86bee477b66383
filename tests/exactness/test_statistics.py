"""Chi-square tests of the output of the unmodified loop against the target's own distribution."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from scipy.stats import chi2

from tests.support import toys
from tokentiming.methods import METHODS
from tokentiming.noise import Noise, Stream

DRAWS = 100_000
TARGET = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])
DRAFT = toys.letters(["<eos>", "a", "b", "ab", "bca", "c"])
MODEL = toys.TableModel(len(TARGET), seed=1, sharpness=0.8)
END = TARGET.eos_ids[0]
EXACT = sorted(set(METHODS) - {"tokentiming"})


def triples(method: str, draws: int) -> torch.Tensor:
    """How often which three tokens followed which two: ``[3, V, V, V * V * V]``.

    Triples lie end to end in a text, from its first, second or third token on; those that began
    alike are counted together. ``draws`` are taken in all three ways. After an end of turn comes
    nothing but itself.
    """
    size, remaining = len(TARGET), 20
    counts = torch.zeros((3, size, size, size**3), dtype=torch.int64)
    drafter = toys.TableDrafter(DRAFT, toys.TableModel(size, seed=2, sharpness=0.8))
    row = drawn = 0
    while drawn < draws:
        new = toys.decode(
            MODEL, TARGET, drafter, method=method, row=row, remaining=remaining, draft_length=2
        )
        ids = [0, 0, *new, END, END]
        starts = range(min(len(new), remaining - 2))  # positions where any triple fits
        for i in starts:
            a, b, c, d, e = ids[i : i + 5]
            counts[i % 3, a, b, (c * size + d) * size + e] += 1
        drawn += len(starts)
        row += 1
    return counts


def distributions_of_triples() -> torch.Tensor:
    """The distributions of the target alone: ``[V * V, V * V * V]``."""
    distribution = MODEL.table.double().exp()
    then = distribution.clone()
    then[:, END] = torch.eye(len(TARGET), dtype=torch.float64)[END]
    joint = torch.einsum("abc,bcd,cde->abcde", distribution, then, then)
    return joint.reshape(len(TARGET) ** 2, -1)


def p_values(counts: torch.Tensor) -> list[float]:
    """Chi-square of each way of counting against the target's distributions, over all contexts
    together.

    Given the text before it a triple has the target's joint distribution, whatever came about
    earlier. The rarest of a context are pooled until five are expected.
    """
    return [p_value(way.flatten(0, 1)) for way in counts]


def p_value(counts: torch.Tensor) -> float:
    statistic, freedom = 0.0, 0
    for row, distribution in zip(counts, distributions_of_triples(), strict=True):
        expected, order = (distribution * row.sum()).sort()
        observed = row[order].double()
        pooled = int((expected.cumsum(0) < 5).sum()) + 1
        if pooled >= len(distribution):
            continue
        pool = torch.cat((expected[:pooled].sum()[None], expected[pooled:]))
        seen = torch.cat((observed[:pooled].sum()[None], observed[pooled:]))
        statistic += float(((seen - pool) ** 2 / pool).sum())
        freedom += len(pool) - 1
    return float(chi2.sf(statistic, freedom))


def drawn_from_the_distribution(counts: torch.Tensor, seed: int) -> torch.Tensor:
    """As many triples after each context, drawn from the target's distributions themselves."""
    generator = torch.Generator().manual_seed(seed)
    null = torch.zeros_like(counts)
    for way, drawn in zip(counts.flatten(1, 2), null.flatten(1, 2), strict=True):
        for row, into, distribution in zip(way, drawn, distributions_of_triples(), strict=True):
            if total := int(row.sum()):
                found = torch.multinomial(
                    distribution, total, replacement=True, generator=generator
                )
                into += torch.bincount(found, minlength=len(distribution))
    return null


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjustment for several tests."""
    adjusted, greatest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = greatest
    return adjusted


@pytest.fixture(scope="module")
def counts() -> dict[str, torch.Tensor]:
    with ProcessPoolExecutor(
        min(os.cpu_count() or 1, len(EXACT)),
        get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        return dict(zip(EXACT, pool.map(triples, EXACT, [DRAWS] * len(EXACT)), strict=True))


@pytest.mark.slow
def test_all_methods_pass_the_chi_square_tests(counts):
    found = {method: p_values(counts[method]) for method in EXACT}
    assert min(holm([p for ways in found.values() for p in ways])) > 0.01, found


@pytest.mark.slow
def test_draws_from_the_true_distribution_pass(counts):
    nulls = [drawn_from_the_distribution(counts[method], seed) for seed, method in enumerate(EXACT)]
    assert min(holm([p for null in nulls for p in p_values(null)])) > 0.01


def test_reused_noise_is_detected(monkeypatch):
    race = Noise.race
    monkeypatch.setattr(
        Noise, "race", lambda noise, scores, table, states: race(noise, scores, table, 0 * states)
    )
    assert min(p_values(triples("coupled", DRAWS // 10))) < 1e-9


@pytest.mark.parametrize("method", ["tli", "pushforward", "slrs"])
def test_a_repeating_stream_is_detected(method, monkeypatch):
    monkeypatch.setattr(Stream, "_fresh", lambda stream: torch.tensor([[stream._row, 1, 0]]))
    assert min(p_values(triples(method, DRAWS // 10))) < 1e-9
