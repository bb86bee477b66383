"""Real weights, float32: a batch of prompts gives each the text of the target alone."""

from __future__ import annotations

import pytest

import tokentiming as tt
from tests.support import prompts, toys
from tests.support.alone import SAMPLED, greedy_alone, sampled_alone
from tests.support.batches import CHAIN, OTHER, TREE, RightPathLast
from tests.support.small_models import lively

GREEDY = {"do_sample": False}


@pytest.fixture(scope="module", params=["smollm2->gemma", "gemma->smollm2"])
def pair(request, smollm2, gemma):
    """The target and the draft."""
    return (gemma, smollm2) if request.param == "smollm2->gemma" else (smollm2, gemma)


class Greedy:
    """The texts of a pair and what they should be; ``length`` new tokens."""

    def __init__(self, pair, texts: list[str], length: int) -> None:
        (self.model, self.tokenizer), self.draft = pair
        self.texts, self.length = texts, length
        self.prompts = [self.tokenizer(text).input_ids for text in texts]
        self.expected = [greedy_alone(self.model, self.tokenizer, text, length) for text in texts]

    def decoder(self, source: str) -> tt.SpeculativeDecoder:
        decoder = tt.SpeculativeDecoder(self.model, self.tokenizer, budget=TREE)
        decoder.drafter = {
            "model": lambda: tt.ModelDrafter(*self.draft),
            "random trees": lambda: toys.RandomDrafter(decoder.vocabulary, branches=True),
            "earlier text": lambda: tt.SuffixDrafter(self.texts),
            "useless model": lambda: tt.ModelDrafter(lively(1, vocab_size=len(OTHER)), OTHER),
            "right path last": lambda: RightPathLast(
                decoder.vocabulary,
                {
                    tuple(prompt): ids[len(prompt) :]
                    for prompt, ids in zip(self.prompts, self.expected, strict=True)
                },
            ),
        }[source]()
        return decoder

    def check(self, source: str, batch_size: int) -> None:
        decoder = self.decoder(source)
        output = decoder.generate(
            self.texts, batch_size=batch_size, max_new_tokens=self.length, **GREEDY
        )
        rows = output.sequences.tolist()
        for row, prompt, ids, stats in zip(
            rows, self.prompts, self.expected, output.stats, strict=True
        ):
            assert row[: len(ids)] == ids, (source, batch_size)
            assert stats.tokens == len(ids) - len(prompt)
            assert stats.draft_failure is None
        accepted = sum(stats.accepted for stats in output.stats)
        assert sum(stats.proposed for stats in output.stats) > 0
        if source in ("model", "right path last"):
            assert accepted > 0

    def check_padding(self, side: str) -> None:
        inputs = self.tokenizer(self.texts, return_tensors="pt", padding=True, padding_side=side)
        ours = self.model.generate(
            **inputs,
            custom_generate=self.decoder("model"),
            max_new_tokens=self.length,
            **GREEDY,
        )
        longest = inputs["input_ids"].shape[1]
        for row, prompt, ids in zip(ours.tolist(), self.prompts, self.expected, strict=True):
            new = ids[len(prompt) :]
            assert row[longest : longest + len(new)] == new, side


@pytest.mark.slow
def test_greedy_texts_do_not_depend_on_the_batch(pair):
    greedy = Greedy(pair, prompts.SCRIPTS[::4] + prompts.SCRIPTS[-1:], 6)
    greedy.check("model", 3)
    greedy.check("right path last", 7)
    greedy.check("earlier text", 3)
    greedy.check_padding("right")


@pytest.mark.matrix
def test_greedy_texts_of_all_scripts(pair):
    """The last prompt is beyond Gemma's window, as target and as draft."""
    greedy = Greedy(pair, prompts.SCRIPTS, 24)
    assert len(greedy.prompts[-1]) > 512
    for batch_size in (1, 2, 8, 24):
        greedy.check("model", batch_size)
    for source in ("random trees", "useless model", "right path last", "earlier text"):
        for batch_size in (2, 24):
            greedy.check(source, batch_size)
    for side in ("left", "right"):
        greedy.check_padding(side)


def check_sampled(pair, texts: list[str], length: int) -> None:
    """Texts for a seed are equal without a draft, with chains and with trees, in any batch."""
    (model, tokenizer), draft = pair
    options = SAMPLED | {"max_new_tokens": length}
    alone = tt.SpeculativeDecoder(model, tokenizer)
    found = [sampled_alone(alone, text, options) for text in texts]
    seeds = [seed for seed, _ in found]
    drafter = tt.ModelDrafter(*draft)
    for method in ("coupled", "slem"):
        for source, budget in ((None, CHAIN), (drafter, CHAIN), (drafter, TREE)):
            decoder = tt.SpeculativeDecoder(model, tokenizer, source, method=method, budget=budget)
            for batch_size in (1, 8):
                output = decoder.generate(texts, seed=seeds, batch_size=batch_size, **options)
                for row, (_, ids) in zip(output.sequences.tolist(), found, strict=True):
                    assert row[: len(ids)] == ids, (method, budget, batch_size)
                accepted = sum(stats.accepted for stats in output.stats)
                assert (accepted > 0) == (source is not None)


@pytest.mark.slow
def test_sampled_texts_do_not_depend_on_draft_and_batch(pair):
    check_sampled(pair, prompts.SMOKE[:3], 8)


@pytest.mark.matrix
def test_sampled_texts_of_all_scripts(pair):
    check_sampled(pair, prompts.SCRIPTS[::3], 24)
