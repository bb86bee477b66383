"""Properties of coupling besides the target's distribution: a seed determines the text, and more
drafts are accepted.
"""

from __future__ import annotations

from tests.support import toys
from tokentiming.engine.budget import FixedBudget

TARGET = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])
DRAFT = toys.letters(["<eos>", "b", "a", "aa", "c", "bc", "abc"])


def test_a_seed_gives_the_same_text_with_any_drafter():
    target = toys.TableModel(len(TARGET), 1)
    tree = FixedBudget(depth=3, nodes=8, width=3, candidates=3)
    for seed in range(300):
        drafters = [
            None,
            toys.RandomDrafter(DRAFT, seed),
            toys.RandomDrafter(TARGET, seed),
            toys.RandomDrafter(DRAFT, seed, branches=True),
            toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2)),
        ]
        texts = [toys.decode(target, TARGET, d, seed=seed, remaining=12) for d in drafters]
        for drafter in drafters[-2:]:
            options = {"seed": seed, "remaining": 12, "budget": tree}
            texts.append(toys.decode(target, TARGET, drafter, **options))
        assert all(text == texts[0] for text in texts)


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
