"""Real weights, float32: for any draft, the ids are those of the target alone."""

from __future__ import annotations

import pytest
import torch

import tokentiming as tt
from tests.support import prompts, toys
from tokentiming import noise
from tokentiming.methods import METHODS, Coupled

MARGIN = 1e-3
"""A pass over several tokens and one over a single token differ by up to 1e-4 in a logit."""


class CheckedDrafter(tt.ModelDrafter):
    """Asserts the invariant of every round: the draft's context spells the committed bytes."""

    def begin(self, prompt, target_tokenizer, warpers):
        super().begin(prompt, target_tokenizer, warpers)
        self.rounds = 0

    def propose(self, asked, choose, grow):
        super().propose(asked, choose, grow)
        for one, reader in zip(asked, self.texts, strict=True):
            if one.draft.limit:
                assert self.vocabulary.decode(reader.context) == one.text
            assert one.place.state.offset == len(one.text)
        self.rounds += 1


@pytest.fixture(scope="module")
def pairs(smollm2, gemma):
    return {"smollm2->gemma": (gemma, smollm2), "gemma->smollm2": (smollm2, gemma)}


def greedy_alone(model, tokenizer, prompt: str, length: int) -> list[int]:
    """Ids of the target's own ``generate``, after asserting that no rounding could change them."""
    ids = tokenizer(prompt, return_tensors="pt")
    output = model.generate(
        **ids,
        do_sample=False,
        max_new_tokens=length,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(output.logits).topk(2, dim=-1).values
    margin = float((best[..., 0] - best[..., 1]).min())
    assert margin > MARGIN, f"{prompt!r} has a margin of {margin}: choose another prompt"
    return output.sequences[0].tolist()


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


def coupled_margin(choices: list[tuple[torch.Tensor, list]], vocabulary) -> float:
    """Smallest lead of a race's winner over the second token, in nats."""
    shares = [noise.candidates(scores, vocabulary, at, 2).shares for scores, at in choices]
    return min(float((first / second).log()) for first, second in torch.cat(shares))


def check_coupled(target, draft, texts, length, monkeypatch) -> None:
    model, tokenizer = target
    choices: list[tuple[torch.Tensor, list]] = []
    choose = Coupled.bound.choose_target

    def recording(self, scores, places):
        choices.append((scores.clone(), places))
        return choose(self, scores, places)

    decoder = tt.SpeculativeDecoder(model, tokenizer, draft_length=3)

    def generate(source, text: str, seed: int) -> list[int]:
        decoder.drafter = source
        options = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "max_new_tokens": length}
        return decoder.generate(text, seed=seed, **options).sequences[0].tolist()

    drafter = CheckedDrafter(*draft)
    random = toys.RandomDrafter(drafter.vocabulary)
    for text in texts:
        for seed in range(5):  # the first seed whose races have leads larger than rounding
            choices.clear()
            with monkeypatch.context() as patch:
                patch.setattr(Coupled.bound, "choose_target", recording)
                expected = generate(None, text, seed)
            if coupled_margin(choices, decoder.vocabulary) > MARGIN:
                break
        else:
            pytest.fail(f"{text!r} has a margin below {MARGIN} for every seed")
        assert generate(random, text, seed) == expected, (text, seed)
        assert generate(drafter, text, seed) == expected, (text, seed)


def test_the_first_prompt(pairs, monkeypatch):
    """The checks of ``TestSmoke``, at a length that is fast enough for every run."""
    check_greedy(*pairs["gemma->smollm2"], prompts.SMOKE[:1], 6)
    check_coupled(*pairs["gemma->smollm2"], prompts.SMOKE[:1], 6, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["smollm2->gemma", "gemma->smollm2"])
class TestSmoke:
    def test_greedy_ids_are_those_of_the_target_alone(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.SMOKE, 12)

    def test_greedy_decoding_is_the_same_for_all_methods(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.SMOKE[:1], 8, sorted(METHODS))

    def test_coupled_ids_do_not_depend_on_the_drafter(self, pairs, pair, monkeypatch):
        check_coupled(*pairs[pair], prompts.SMOKE[:3], 12, monkeypatch)


@pytest.mark.matrix
@pytest.mark.parametrize("pair", ["smollm2->gemma", "gemma->smollm2"])
class TestMatrix:
    def test_greedy_ids_are_those_of_the_target_alone(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.CONTINUATIONS, 64)

    def test_greedy_decoding_is_the_same_for_all_methods(self, pairs, pair):
        check_greedy(*pairs[pair], prompts.CONTINUATIONS, 16, sorted(METHODS))

    def test_coupled_ids_do_not_depend_on_the_drafter(self, pairs, pair, monkeypatch):
        check_coupled(*pairs[pair], prompts.CONTINUATIONS[::3], 64, monkeypatch)


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
