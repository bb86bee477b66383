"""What coupling promises beyond the target's distribution: one text for a seed, and more accepted
drafts.
"""

from __future__ import annotations

from tests.support import toys

TARGET = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])
DRAFT = toys.letters(["<eos>", "b", "a", "aa", "c", "bc", "abc"])


def test_a_seed_gives_one_text_whatever_the_drafter():
    target, waiting = toys.TableModel(len(TARGET), 1), toys.TableModel(len(TARGET), 1)
    waiting.synchronizes = True
    for seed in range(300):
        drafters = [
            None,
            toys.RandomDrafter(DRAFT, seed),
            toys.RandomDrafter(TARGET, seed),
            toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2)),
        ]
        texts = [toys.decode(target, TARGET, d, seed=seed, remaining=12) for d in drafters]
        texts.append(toys.decode(waiting, TARGET, drafters[-1], seed=seed, remaining=12))
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
