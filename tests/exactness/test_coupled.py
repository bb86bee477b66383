"""The law of `coupled` and `slem` is the target's, whatever is drafted."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

import toys
from tokentiming.noise import Noise, State

DRAWS = 20_000
TARGET = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])
DRAFT = toys.letters(["<eos>", "b", "a", "aa", "c", "bc", "abc"])


def p_value(**options) -> float:
    """Chi-square of the first two tokens over many sequences against their exact joint law."""
    target = toys.TableModel(len(TARGET), seed=1)
    law = target.law([0, 0], 2)
    law[0] = 0  # after the end of turn there is no second token
    law[0, 0] = target.table[0, 0, 0].exp()
    counts = torch.zeros_like(law)
    for row in range(DRAWS):
        drafter = toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), seed=2))
        first, second = [*toys.decode(target, TARGET, drafter, row=row, **options), 0][:2]
        counts[first, second] += 1
    possible = law > 0
    return chisquare(counts[possible], law[possible] / law.sum() * DRAWS).pvalue


@pytest.fixture(autouse=True)
def quick_tables(monkeypatch):
    tables: dict[tuple[int, int], toys.TableModel] = {}
    make = toys.TableModel

    def cached(size: int, seed: int) -> toys.TableModel:
        return tables.setdefault((size, seed), make(size, seed))

    monkeypatch.setattr(toys, "TableModel", cached)


@pytest.mark.parametrize("method", ["coupled", "slem"])
def test_the_first_two_tokens_have_the_targets_law(method):
    assert p_value(method=method) > 1e-3


def test_the_same_noise_used_twice_is_caught(monkeypatch):
    race = Noise.race
    monkeypatch.setattr(
        Noise, "race", lambda noise, scores, table, state: race(noise, scores, table, State())
    )
    assert p_value(method="coupled") < 1e-9


def test_a_seed_gives_one_text_whatever_the_drafter():
    target = toys.TableModel(len(TARGET), 1)
    for seed in range(300):
        drafters = [
            None,
            toys.RandomDrafter(DRAFT, seed),
            toys.RandomDrafter(TARGET, seed),
            toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2)),
        ]
        texts = [toys.decode(target, TARGET, d, seed=seed, room=12) for d in drafters]
        assert all(text == texts[0] for text in texts)


def test_coupling_accepts_more_than_independent_draws():
    target = toys.TableModel(len(TARGET), 1)
    drafter = toys.TableDrafter(TARGET, toys.TableModel(len(TARGET), 1))
    accepted = {"coupled": 0, "slem": 0}
    for method in accepted:
        for seed in range(200):

            def watch(round_, method=method):
                accepted[method] += round_.accepted

            toys.decode(target, TARGET, drafter, method=method, seed=seed, room=8, watch=watch)
    assert accepted["coupled"] > 1.5 * accepted["slem"]
