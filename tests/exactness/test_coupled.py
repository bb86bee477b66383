"""Properties of coupling besides the target's distribution: a seed determines the text, and more
drafts are accepted.
"""

from __future__ import annotations

import pytest

import tokentiming as tt
from tests.support import toys
from tokentiming.engine.budget import FixedBudget
from tokentiming.engine.text import Text
from tokentiming.noise import State
from tokentiming.tokens.tree import Tree

TARGET = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])
DRAFT = toys.letters(["<eos>", "b", "a", "aa", "c", "bc", "abc"])


def texts_of(seed: int) -> list[list[int]]:
    """One text for each drafter and shape of proposals; the first has no draft."""
    target = toys.TableModel(len(TARGET), 1)
    tree = FixedBudget(depth=3, nodes=8, width=3, candidates=3)
    drafters = [
        None,
        toys.RandomDrafter(DRAFT, seed),
        toys.RandomDrafter(TARGET, seed),
        toys.RandomDrafter(DRAFT, seed, branches=True),
        toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2)),
    ]
    texts = [toys.decode(target, TARGET, d, seed=seed, remaining=12) for d in drafters]
    several = [
        toys.RandomDrafter(DRAFT, seed + 1, branches=True),
        tt.RecyclingDrafter(),
        toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2)),
    ]
    for drafter in [*drafters[-2:], several]:
        options = {"seed": seed, "remaining": 12, "budget": tree}
        texts.append(toys.decode(target, TARGET, drafter, **options))
    return texts


def test_a_seed_gives_the_same_text_with_any_drafter():
    for seed in range(300):
        texts = texts_of(seed)
        assert all(text == texts[0] for text in texts)


def of_node(text: Text, tree: Tree) -> list[State]:
    """A state for each node instead of for each number of bytes."""
    return [State(text._state.offset + node, 0) for node in range(len(tree) + 1)]


def of_depth(text: Text, tree: Tree) -> list[State]:
    """The state that a row would have if each token had one byte."""
    return [State(text._state.offset + depth, 0) for depth in [0, *tree.depths]]


@pytest.mark.parametrize("mistake", [of_node, of_depth])
def test_noise_keyed_in_another_way_is_detected(mistake, monkeypatch):
    monkeypatch.setattr(Text, "_states", mistake)
    wrong = sum(text != texts[0] for texts in map(texts_of, range(30)) for text in texts[1:])
    assert wrong > 30


def test_coupling_accepts_more_than_independent_draws():
    target = toys.TableModel(len(TARGET), 1)
    drafter = toys.TableDrafter(TARGET, toys.TableModel(len(TARGET), 1))
    accepted = {"coupled": 0, "slem": 0}
    for method in accepted:
        for seed in range(200):

            def watch(round_, method=method):
                accepted[method] += round_.accepted

            toys.decode(target, TARGET, drafter, method=method, seed=seed, remaining=8, watch=watch)
    assert accepted["coupled"] > 1.5 * accepted["slem"]
