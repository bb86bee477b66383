"""Real weights, float32: for any draft, the ids are those of the target alone."""

from __future__ import annotations

import pytest
import torch

import tokentiming as tt
from tests.support import prompts, toys
from tests.support.alone import SAMPLED, greedy_alone, sampled_alone
from tokentiming.methods import METHODS


class CheckedDrafter(tt.ModelDrafter):
    """Asserts the invariant of every round: the draft's context spells the committed bytes."""

    def begin(self, prompt, target_tokenizer, warpers):
        super().begin(prompt, target_tokenizer, warpers)
        self.rounds = 0

    def propose(self, requests, choose, grow):
        super().propose(requests, choose, grow)
        for one, reader in zip(requests, self.texts, strict=True):
            if one.draft.limit:
                assert self.vocabulary.decode(reader.context) == one.text
            assert one.place.state.offset == len(one.text)
        self.rounds += 1


@pytest.fixture(scope="module")
def pairs(smollm2, gemma):
    return {"smollm2->gemma": (gemma, smollm2), "gemma->smollm2": (smollm2, gemma)}


def check_greedy(target, draft, texts, length, methods=()) -> None:
    """Compare with the target alone, under the default method and, for the model's drafts, others.

    Greedy decoding being one rule, other methods repeat what the default has shown.
    """
    model, tokenizer = target
    drafter = CheckedDrafter(*draft)
    random = toys.RandomDrafter(drafter.vocabulary)
    single_bytes = tt.Vocabulary.from_tokenizer(toys.byte_level_tokenizer())
    decoder = tt.SpeculativeDecoder(model, tokenizer, draft_length=3)
    accepted = {"model": 0, "prophet": 0}
    for text in texts:
        expected = greedy_alone(model, tokenizer, text, length)
        new = expected[len(tokenizer(text).input_ids) :]
        # proposes the known text byte by byte, with some wrong bytes
        prophet = toys.ProphetDrafter(single_bytes, decoder.vocabulary.decode(new))
        for name, source in (("model", drafter), ("random", random), ("prophet", prophet)):
            decoder.drafter = source
            output = decoder.generate(text, do_sample=False, max_new_tokens=length)
            assert output.sequences[0].tolist() == expected, (name, text)
            if name in accepted:
                accepted[name] += output.stats.accepted
        decoder.drafter = drafter
        for method in methods:
            decoder.method = tt.methods.resolve(method)
            output = decoder.generate(text, do_sample=False, max_new_tokens=length)
            assert output.sequences[0].tolist() == expected, (method, text)
            assert (output.stats.method, output.stats.exact) == (method, True)
        decoder.method = tt.methods.resolve("coupled")
        assert drafter.rounds > 0
    assert all(accepted.values()), "drafts are never accepted: nothing was tested"


def check_coupled(target, draft, texts, length) -> None:
    decoder = tt.SpeculativeDecoder(*target, draft_length=3)
    drafter = CheckedDrafter(*draft)
    random = toys.RandomDrafter(drafter.vocabulary)
    options = SAMPLED | {"max_new_tokens": length}
    for text in texts:
        decoder.drafter = None
        seed, expected = sampled_alone(decoder, text, options)
        for source in (random, drafter):
            decoder.drafter = source
            output = decoder.generate(text, seed=seed, **options)
            assert output.sequences[0].tolist() == expected, (text, seed)


def test_the_first_prompt(pairs):
    """The checks of ``TestSmoke``, at a length that is fast enough for every run."""
    check_greedy(*pairs["gemma->smollm2"], prompts.SMOKE[:1], 6)
    check_coupled(*pairs["gemma->smollm2"], prompts.SMOKE[:1], 6)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["smollm2->gemma", "gemma->smollm2"])
class TestSmoke:
    def test_greedy_ids_are_those_of_the_target_alone(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.SMOKE, 12)

    def test_greedy_decoding_is_the_same_for_all_methods(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.SMOKE[:1], 8, sorted(METHODS))

    def test_coupled_ids_do_not_depend_on_the_drafter(self, pairs, pair):
        check_coupled(*pairs[pair], prompts.SMOKE[:3], 12)


@pytest.mark.matrix
@pytest.mark.parametrize("pair", ["smollm2->gemma", "gemma->smollm2"])
class TestMatrix:
    def test_greedy_ids_are_those_of_the_target_alone(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.CONTINUATIONS, 64)

    def test_greedy_decoding_is_the_same_for_all_methods(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.CONTINUATIONS, 16, sorted(METHODS))

    def test_coupled_ids_do_not_depend_on_the_drafter(self, pairs, pair):
        check_coupled(*pairs[pair], prompts.CONTINUATIONS[::3], 64)


def test_models_are_not_changed(smollm2, gemma):
    def fingerprint(model):
        return {
            name: (p.data_ptr(), float(p.detach().double().sum()))
            for name, p in model.named_parameters()
        }

    before = [fingerprint(model) for model, _ in (smollm2, gemma)]
    configs = [model.config.to_json_string() for model, _ in (smollm2, gemma)]
    templates = [tokenizer.backend_tokenizer.to_str() for _, tokenizer in (smollm2, gemma)]
    decoder = tt.SpeculativeDecoder(*gemma, tt.ModelDrafter(*smollm2))
    decoder.generate("One, two,", max_new_tokens=8)
    assert before == [fingerprint(model) for model, _ in (smollm2, gemma)]
    assert configs == [model.config.to_json_string() for model, _ in (smollm2, gemma)]
    assert templates == [tokenizer.backend_tokenizer.to_str() for _, tokenizer in (smollm2, gemma)]


def test_custom_generate_gives_what_generate_gives(smollm2, gemma):
    model, tokenizer = gemma
    ids = tokenizer([prompts.SMOKE[0], prompts.SMOKE[1]], return_tensors="pt", padding=True,
                    padding_side="left")  # fmt: skip
    speculate = tt.custom_generate(
        draft_model=smollm2[0], draft_tokenizer=smollm2[1], target_tokenizer=tokenizer
    )
    options = {"do_sample": False, "max_new_tokens": 16}
    ours = model.generate(**ids, custom_generate=speculate, **options)
    assert torch.equal(ours, model.generate(**ids, **options))
