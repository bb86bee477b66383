"""What the untouched loop emits, counted: no method is told from draws of the target's own law."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from scipy.stats import chi2

import toys
from tokentiming.methods import METHODS
from tokentiming.noise import Noise, State, Stream

DRAWS = 100_000
TARGET = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])
DRAFT = toys.letters(["<eos>", "a", "b", "ab", "bca", "c"])
MODEL = toys.TableModel(len(TARGET), seed=1, sharpness=0.8)
EXACT = sorted(set(METHODS) - {"tokentiming"})


def transitions(method: str, draws: int) -> torch.Tensor:
    """How often each token followed each two: ``[V, V, V]``. Sequences are short, so many begin."""
    counts = torch.zeros((len(TARGET),) * 3, dtype=torch.int64)
    drafter = toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), seed=2, sharpness=0.8))
    row = drawn = 0
    while drawn < draws:
        new = toys.decode(MODEL, TARGET, drafter, method=method, row=row, room=20, draft_length=2)
        ids = [0, 0, *new]
        for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
            counts[a, b, c] += 1
        drawn += len(ids) - 2
        row += 1
    return counts


def p_value(counts: torch.Tensor) -> float:
    """Chi-square of transition counts against the target's laws, over all contexts together.

    The laws of single tokens given the two before them make up the joint law of the sequence. Rare
    tokens of a context are pooled until five of them are expected.
    """
    statistic, freedom = 0.0, 0
    for row, scores in zip(counts.view(-1, len(TARGET)), MODEL.table.view(-1, len(TARGET))):  # noqa: B905
        expected, order = (scores.double().exp() * row.sum()).sort()
        observed = row[order].double()
        pooled = int((expected.cumsum(0) < 5).sum()) + 1
        if pooled >= len(TARGET):
            continue
        pool = torch.cat((expected[:pooled].sum()[None], expected[pooled:]))
        seen = torch.cat((observed[:pooled].sum()[None], observed[pooled:]))
        statistic += float(((seen - pool) ** 2 / pool).sum())
        freedom += len(pool) - 1
    return float(chi2.sf(statistic, freedom))


def drawn_from_the_law(counts: torch.Tensor, seed: int) -> torch.Tensor:
    """As many transitions out of each context, drawn from the target's laws themselves."""
    generator = torch.Generator().manual_seed(seed)
    null = torch.zeros_like(counts)
    for a in range(len(TARGET)):
        for b in range(len(TARGET)):
            if total := int(counts[a, b].sum()):
                law = MODEL.table[a, b].exp()
                tokens = torch.multinomial(law, total, replacement=True, generator=generator)
                null[a, b] = torch.bincount(tokens, minlength=len(TARGET))
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
        return dict(zip(EXACT, pool.map(transitions, EXACT, [DRAWS] * len(EXACT)), strict=True))


def test_no_method_is_told_from_the_target(counts):
    adjusted = holm([p_value(counts[method]) for method in EXACT])
    assert min(adjusted) > 0.01, dict(zip(EXACT, adjusted, strict=True))


def test_draws_from_the_law_itself_pass_just_so(counts):
    nulls = [drawn_from_the_law(counts[method], seed) for seed, method in enumerate(EXACT)]
    assert min(holm([p_value(null) for null in nulls])) > 0.01


def test_the_same_noise_used_twice_is_caught(monkeypatch):
    race = Noise.race
    monkeypatch.setattr(
        Noise, "race", lambda noise, scores, table, state: race(noise, scores, table, State())
    )
    assert p_value(transitions("coupled", DRAWS // 10)) < 1e-9


@pytest.mark.parametrize("method", ["tli", "pushforward", "slrs"])
def test_a_stream_that_repeats_is_caught(method, monkeypatch):
    monkeypatch.setattr(Stream, "_fresh", lambda stream: torch.tensor([[stream._row, 1, 0]]))
    assert p_value(transitions(method, DRAWS // 10)) < 1e-9
