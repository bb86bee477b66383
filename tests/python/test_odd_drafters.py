"""Drafters that break their protocol, and drafts that could break a target."""

from __future__ import annotations

import pytest
import torch

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import TOKENIZER, lively

LETTERS = toys.letters(["a", "b", "c", "d"])
GREEDY = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def target():
    return lively()


@pytest.fixture(scope="module")
def expected(target) -> list[str]:
    return tt.SpeculativeDecoder(target, TOKENIZER).generate(["ab", "to be"], **GREEDY).text


def generated(target, drafter, **options) -> tt.SpeculativeOutput:
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, **options)
    return decoder.generate(["ab", "to be"], **GREEDY)


class Odd(toys.Drafter):
    def fill(self, text, draft):
        draft.extend([5, 6][: draft.limit])


def odd(**members) -> Odd:
    """A drafter with some members replaced."""
    return type("Odd", (Odd,), members)(tt.Vocabulary.from_tokenizer(TOKENIZER))


def broken(*args):
    raise RuntimeError("out of order")


@pytest.mark.draft_fails
@pytest.mark.parametrize("member", ["begin", "drop", "propose", "reset"])
def test_an_error_in_any_member_leaves_the_texts_to_the_target(member, target, expected):
    assert generated(target, odd(**{member: broken})).text == expected


@pytest.mark.draft_fails
@pytest.mark.parametrize(
    "fill",
    [
        lambda self, text, draft: draft.extend([5], 99),
        lambda self, text, draft: draft.ids.append(5),
        lambda self, text, draft: draft.take(-1, [(5, 2.0)]),
        lambda self, text, draft: draft.take(-1, [(5, float("nan"))]),
        lambda self, text, draft: draft.extend([10**6]),
    ],
)
@pytest.mark.parametrize("budget", [None, tt.FixedBudget(depth=3, nodes=6, candidates=3)])
def test_what_is_no_tree_is_not_proposed(fill, budget, target, expected):
    output = generated(target, odd(fill=fill), budget=budget)
    assert output.text == expected
    assert all("Draft.check" in stats.draft_failure for stats in output.stats)


@pytest.mark.draft_fails
@pytest.mark.parametrize("budget", [None, tt.FixedBudget(depth=3, nodes=6, candidates=3)])
@pytest.mark.parametrize(
    ("fill", "grown", "error"),
    [
        (lambda draft: draft.take(-1, [(5, 0.5)]), 1, "grow: drafts are not those of the requests"),
        (lambda draft: draft.take(77, [(5, 0.5)]), 2, "Draft.check"),
        (lambda draft: draft.ids.append(5), 2, "Draft.check"),
    ],
)
def test_what_cannot_be_grown_leaves_the_texts_to_the_target(
    fill, grown, error, budget, target, expected
):
    def propose(self, requests, choose, grow):
        for one in requests:
            fill(one.draft)
        grow([one.draft for one in requests][:grown])

    output = generated(target, odd(propose=propose), budget=budget)
    assert output.text == expected
    assert all(error in stats.draft_failure for stats in output.stats)


@pytest.mark.draft_fails
@pytest.mark.parametrize("failing", range(4))
@pytest.mark.parametrize("budget", [None, tt.FixedBudget(depth=3, nodes=6, candidates=3)])
def test_a_drafter_that_fails_for_one_text_drafts_for_the_others(failing, budget, target):
    class Sometimes(tt.ModelDrafter):
        def begin(self, prompt, *args):
            if prompt.ids == TOKENIZER(prompts[failing]).input_ids:
                raise RuntimeError("out of order")
            super().begin(prompt, *args)

    prompts = ["ab", "to be", "x", "a b"]
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, Sometimes(target, TOKENIZER), budget=budget)
    plain = tt.SpeculativeDecoder(target, TOKENIZER)
    options = {"do_sample": False, "max_new_tokens": 20, "stop_strings": "a"}
    for batch_size in (4, 2):
        output = decoder.generate(prompts, batch_size=batch_size, **options)
        assert output.text == plain.generate(prompts, **options).text
        failed = [stats.draft_failure is not None for stats in output.stats]
        assert failed == [index == failing for index in range(4)]


@pytest.mark.draft_fails
def test_a_drafter_that_failed_learns_nothing_from_the_texts_it_lost(target, expected, caplog):
    output = generated(target, odd(learn=broken))
    assert output.text == expected
    assert len(caplog.records) == 1


def test_a_drafter_without_all_members_is_refused_by_their_names(target):
    class Old:
        vocabulary = None

        def propose(self, *args):
            """Takes anything."""

    with pytest.raises(TypeError, match=r"drafter Old has no forwards, begin, drop, reset; give"):
        tt.SpeculativeDecoder(target, TOKENIZER, Old())


class Undefined(toys.ToyModel):
    """Emits no "d", and has no scores after one."""

    value = torch.nan

    def after(self, ids):
        scores = torch.tensor([0.0, 0.0, 0.0, -torch.inf])
        return torch.full((4,), self.value) if ids[-1] == 3 else scores


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("method", ["coupled", "slem", "tli", "pushforward"])
def test_scores_behind_a_rejected_token_are_no_error(method, value):
    class Proposes(toys.Drafter):
        def fill(self, text, draft):
            draft.extend([3])

    model = Undefined()
    model.value = value
    options = {"remaining": 6, "ends": False, "method": method}
    drafted = toys.decode(model, LETTERS, Proposes(LETTERS), **options)
    assert len(drafted) == 6
    if method in ("coupled", "slem"):
        assert drafted == toys.decode(model, LETTERS, None, **options)


def test_caches_are_freed_after_a_call_and_after_an_error(target):
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, tt.ModelDrafter(lively(1), TOKENIZER))
    decoder.generate(["ab", "to be"], **GREEDY)
    assert not decoder.runner._texts
    assert not decoder.drafter.runner._texts

    def interrupt(round_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder.generate(["ab", "to be"], watch=interrupt, **GREEDY)
    assert not decoder.runner._texts
    assert not decoder.drafter.runner._texts


def test_a_target_that_reads_chains_takes_the_first_path_of_a_tree(target, expected):
    vocabulary = tt.Vocabulary.from_tokenizer(TOKENIZER)
    drafter = toys.RandomDrafter(vocabulary, branches=True)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter)
    decoder.runner.supports_forests = False
    texts = [decoder.generate(prompt, **GREEDY) for prompt in ("ab", "to be")]
    assert [output.text for output in texts] == expected
    assert all(output.stats.draft_failure is None for output in texts)


def test_custom_generate_takes_a_batch_size(target):
    speculate = tt.custom_generate(
        draft_model=lively(1), draft_tokenizer=TOKENIZER, target_tokenizer=TOKENIZER
    )
    ids = torch.tensor([[5, 6], [7, 8]])
    plain = target.generate(ids, **GREEDY)
    assert torch.equal(
        target.generate(ids, custom_generate=speculate, batch_size=1, **GREEDY), plain
    )


@pytest.mark.parametrize("budget", [8, "deep"])
def test_what_is_no_budget_is_refused(budget, target):
    with pytest.raises(
        TypeError,
        match=r"^SpeculativeDecoder: budget is (an int|a str), without begin, .*; give a tt.Fixed",
    ):
        tt.SpeculativeDecoder(target, TOKENIZER, budget=budget)
