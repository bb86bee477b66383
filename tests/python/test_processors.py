"""Logits processors and stopping criteria see what they would see in ``generate``."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
    generation,
)

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import TOKENIZER, lively
from tokentiming.generation import processors

METHODS = tuple(tt.methods.METHODS)
PAD = 258
PROMPTS = ("ab", "to be or not", "abc abc")
LENGTH = 14


def allowed_tokens(row: int, ids: torch.Tensor) -> list[int]:
    """Each row has tokens of its own, so that a wrong row is detected."""
    return list(range(20 + 10 * row, 90 + 10 * row))


OPTIONS = {
    "nothing": {},
    "guidance_scale": {"guidance_scale": 2.0},
    "sequence_bias": {"sequence_bias": [[[40], 3.0], [[41, 42], -5.0]]},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "repetition_penalty below 1": {"repetition_penalty": 0.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[i] for i in range(1, 100)]},
    "min_length": {"min_length": 20},
    "min_new_tokens": {"min_new_tokens": 9},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": allowed_tokens},
    "forced_bos_token_id": {"forced_bos_token_id": 66},
    "forced_eos_token_id": {"forced_eos_token_id": 0},
    "remove_invalid_values": {"remove_invalid_values": True},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (4, 1.9)},
    "suppress_tokens": {"suppress_tokens": list(range(40, 120))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(1, 200))},
    "renormalize_logits": {"renormalize_logits": True},
    "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=6.0)},
    "SynthID": {"watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=3, keys=[4, 9])},
    "temperature": {"temperature": 0.7},
    "top_h": {"top_h": 0.4},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.9},
    "epsilon_cutoff": {"epsilon_cutoff": 0.01},
    "eta_cutoff": {"eta_cutoff": 0.01},
}
"""All that ``generate`` makes a processor of; the ids are those of greedy decoding."""

WATERMARKS = {"watermarking_config", "SynthID"}
EOS_LIKELY = {"min_length", "min_new_tokens"}


@pytest.fixture(scope="module")
def target():
    return lively()


@pytest.fixture(scope="module")
def ending():
    """A target with a high probability of ending its turn."""
    model = lively(attention_bias=False)
    with torch.no_grad():
        model.lm_head.weight[0] = model.lm_head.weight.mean(0) * 40
    return model


def batch() -> dict[str, torch.Tensor]:
    """The prompts padded on the left, with a pad id that is not the end of turn."""
    rows = [TOKENIZER(text).input_ids for text in PROMPTS]
    longest = max(map(len, rows))
    ids = [[PAD] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def speculate(target, method: str = "coupled", draft_length: int = 4):
    """Half of the drafts are right: the draft is the target, but for some noise."""
    draft = lively()
    with torch.no_grad():
        for p in draft.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(5)) * 0.03)
    return tt.custom_generate(
        draft_model=draft, draft_tokenizer=TOKENIZER, target_tokenizer=TOKENIZER,
        method=method, draft_length=draft_length,
    )  # fmt: skip


def deterministic(name: str) -> dict:
    """Sampling from one token, so that the methods differ; greedy where that hides the option."""
    sampling = {"do_sample": False} if name in WATERMARKS else {"do_sample": True, "top_k": 1}
    return {"max_new_tokens": LENGTH, "pad_token_id": PAD} | sampling | OPTIONS[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_row_of_a_padded_batch_gives_what_generate_gives(name, target, ending):
    model = ending if name in EOS_LIKELY else target
    options = deterministic(name)
    expected = model.generate(**batch(), **options)
    if name not in ("nothing", *without_effect_here()):
        plain = model.generate(**batch(), do_sample=False, max_new_tokens=LENGTH, pad_token_id=PAD)
        assert expected.tolist() != plain.tolist(), f"{name} has no effect: nothing is tested"
    ours = model.generate(**batch(), custom_generate=speculate(model), **options)
    assert ours.tolist() == expected.tolist()
    for row, ids in enumerate(expected.tolist()):
        if name == "prefix_allowed_tokens_fn":
            break  # alone every row is row 0
        alone = {key: values[row : row + 1] for key, values in batch().items()}
        single = model.generate(**alone, custom_generate=speculate(model), **options)
        assert single[0].tolist() == ids[: single.shape[1]]


def without_effect_here() -> set[str]:
    """Options that cannot change which token is the best one, or act after one token of prompt."""
    return {
        "forced_bos_token_id", "remove_invalid_values", "renormalize_logits", "temperature",
        "top_h", "top_p", "min_p", "epsilon_cutoff", "eta_cutoff", "typical_p",
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["guidance_scale", "prefix_allowed_tokens_fn"])
def test_processors_with_state_are_right_under_every_method(name, method, target):
    options = deterministic(name)
    expected = target.generate(**batch(), **options)
    ours = target.generate(**batch(), custom_generate=speculate(target, method), **options)
    assert ours.tolist() == expected.tolist()


def test_every_processor_that_generate_makes_is_known():
    """A new one in transformers has to be put on one of the lists."""
    elsewhere = {
        "AlternatingCodebooksLogitsProcessor", "BarkEosPrioritizerLogitsProcessor",
        "ClassifierFreeGuidanceLogitsProcessor", "DiaClassifierFreeGuidanceLogitsProcessor",
        "DiaEOSChannelFilterLogitsProcessor", "DiaEOSDelayPatternLogitsProcessor",
        "WhisperNoSpeechDetection", "WhisperTimeStampLogitsProcessor",
    }  # fmt: skip
    with_state = {
        generation.PrefixConstrainedLogitsProcessor,
        generation.SynthIDTextWatermarkLogitsProcessor,
        generation.UnbatchedClassifierFreeGuidanceLogitsProcessor,
    }
    known = processors.STATELESS | with_state
    everything = {
        kind
        for kind in vars(generation.logits_process).values()
        if isinstance(kind, type) and issubclass(kind, LogitsProcessor)
    }
    missing = {kind.__name__ for kind in everything - known - {LogitsProcessor}}
    assert missing <= elsewhere


class Counting(LogitsProcessor):
    """Records its inputs; its k-th call adds a pattern of its own to the scores."""

    def __init__(self, size: float = 8.0) -> None:
        self.size = size
        self.shown: list[list[int]] = []

    def __call__(self, input_ids, scores):
        self.shown.append(input_ids[0].tolist())
        return scores + self.size * torch.cos(torch.arange(scores.shape[1]) * len(self.shown))


@pytest.mark.parametrize("method", METHODS)
def test_a_processor_is_called_once_for_each_emitted_position(method, target):
    ours, theirs = Counting(), Counting()
    inputs = TOKENIZER("to be or not", return_tensors="pt")
    options = {"do_sample": True, "top_k": 1, "max_new_tokens": LENGTH}
    expected = target.generate(**inputs, logits_processor=[theirs], **options)
    found = target.generate(
        **inputs, logits_processor=[ours], custom_generate=speculate(target, method), **options
    )
    assert found.tolist() == expected.tolist()
    assert ours.shown == theirs.shown
    assert len(ours.shown) == LENGTH


@pytest.mark.parametrize("method", ["coupled", "tli"])
def test_it_is_not_called_after_the_end(method, target):
    processor = Counting(0.0)
    stop = []

    class AfterFive(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            stop.append(input_ids.shape[1])
            return torch.tensor([len(stop) == 5])

    decoder = tt.SpeculativeDecoder(target, TOKENIZER, tt.ModelDrafter(lively(), TOKENIZER),
                                    method=method, draft_length=4)  # fmt: skip
    output = decoder.generate(
        "ab", do_sample=True, top_k=1, logits_processor=[processor], stopping_criteria=[AfterFive()]
    )
    assert output.stats.tokens == len(processor.shown) == len(stop) == 5
    assert output.stats.finish_reason == "criterion"
    assert output.stats.accepted > 0


@pytest.mark.parametrize("method", ["coupled", "pushforward"])
def test_rows_do_not_inherit_state(method, target):
    """For copies of one prompt, for several prompts, and for the rows of a batch."""
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, tt.ModelDrafter(lively(), TOKENIZER),
                                    method=method, draft_length=4)  # fmt: skip
    options = {"do_sample": True, "top_k": 1, "max_new_tokens": 8, "seed": 0}
    alone = decoder.generate("ab", logits_processor=[Counting()], **options).text
    several = decoder.generate(
        "ab", logits_processor=[Counting()], num_return_sequences=2, **options
    )
    assert several.text == [alone, alone]
    assert decoder.generate(["ab", "ab"], logits_processor=[Counting()], **options).text == [
        alone,
        alone,
    ]


def test_criteria_of_rows_do_not_inherit_state(target):
    class AfterThree(StoppingCriteria):
        calls = 0

        def __call__(self, input_ids, scores, **kwargs):
            self.calls += 1
            return torch.tensor([self.calls == 3])

    decoder = tt.SpeculativeDecoder(target, TOKENIZER)
    output = decoder.generate(["ab", "cd"], stopping_criteria=[AfterThree()], max_new_tokens=9)
    assert [stats.tokens for stats in output.stats] == [3, 3]


def test_what_cannot_be_copied_is_refused_by_name_for_several_rows(target):
    class Locked(LogitsProcessor):
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, input_ids, scores):
            return scores

    decoder = tt.SpeculativeDecoder(target, TOKENIZER)
    options = {"logits_processor": [Locked()], "max_new_tokens": 2}
    assert decoder.generate("ab", **options).stats.tokens == 2
    with pytest.raises(ValueError, match=r"^generate: logits processor Locked cannot be copied"):
        decoder.generate(["ab", "cd"], **options)


def test_processors_and_criteria_that_share_an_object_share_its_copies(target):
    """Each row has its own counter, and all of the row's steps see it."""

    class Counter(LogitsProcessor):
        def __init__(self) -> None:
            self.box = [0]

        def __call__(self, input_ids, scores):
            self.box[0] += 1
            return scores

    class Pointing(LogitsProcessor):
        def __init__(self, box) -> None:
            self.box = box

        def __call__(self, input_ids, scores):
            wanted = torch.tensor([40 + self.box[0]])
            return torch.full_like(scores, -torch.inf).index_fill(1, wanted, 0.0)

    class AtFour(StoppingCriteria):
        def __init__(self, box) -> None:
            self.box = box

        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), self.box[0] == 4)

    def steps() -> dict:
        counter = Counter()
        return {
            "logits_processor": [counter, Pointing(counter.box)],
            "stopping_criteria": [AtFour(counter.box)],
        }

    options = {"do_sample": False, "max_new_tokens": 9, "pad_token_id": PAD}
    expected = target.generate(**batch(), **steps(), **options)
    ours = target.generate(**batch(), **steps(), custom_generate=speculate(target), **options)
    assert ours.tolist() == expected.tolist()
    assert ours[0, -4:].tolist() == [41, 42, 43, 44]


def test_functions_with_a_closure_are_refused_for_several_rows(target):
    calls = []

    def counting(input_ids, scores):
        calls.append(input_ids)
        return scores

    decoder = tt.SpeculativeDecoder(target, TOKENIZER)
    options = {"logits_processor": [counting], "max_new_tokens": 2}
    assert decoder.generate("ab", **options).stats.tokens == len(calls) == 2
    with pytest.raises(
        ValueError, match=r"^generate: logits processor .*counting is or has a function"
    ):
        decoder.generate(["ab", "cd"], **options)


@pytest.mark.parametrize("method", METHODS)
def test_processors_run_without_autograd(method, target):
    """As in ``generate``; a processor may call a model, as guidance does."""

    class Asking(LogitsProcessor):
        def __call__(self, input_ids, scores):
            assert not torch.is_grad_enabled()
            return scores + target(input_ids).logits[:, -1]

    drafter = tt.ModelDrafter(lively(1), TOKENIZER)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, draft_length=3)
    options = {"do_sample": True, "seed": 0, "max_new_tokens": 6}
    for asked in ({"guidance_scale": 2.0}, {"logits_processor": [Asking()]}):
        assert decoder.generate("to be", **asked, **options).stats.tokens == 6


def test_several_prompts_get_their_own_part_of_each_argument(target):
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, tt.ModelDrafter(lively(1), TOKENIZER))
    inputs = TOKENIZER(["xyz", "cde"], return_tensors="pt")
    negative = torch.tensor([TOKENIZER("qqq").input_ids, TOKENIZER("zz!").input_ids])
    for options in (
        {"guidance_scale": 2.5, "negative_prompt_ids": negative},
        {"prefix_allowed_tokens_fn": allowed_tokens},
    ):
        options |= {"do_sample": False, "max_new_tokens": LENGTH, "pad_token_id": PAD}
        expected = target.generate(**inputs, **options)
        assert decoder.generate(inputs.input_ids, **options).sequences.tolist() == expected.tolist()


def test_small_modules_are_copied_and_constant_closures_are_no_state(target):
    class Guide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, size):
            self.calls += 1
            return 8 * torch.cos(torch.arange(size) * self.calls)

    class Guided(LogitsProcessor):
        def __init__(self) -> None:
            self.guide = Guide()

        def __call__(self, input_ids, scores):
            return scores + self.guide(scores.shape[1])

    def scaled(factor: float):
        return lambda input_ids, scores: scores * factor

    def counted():
        calls = 0

        def count(input_ids, scores):
            nonlocal calls
            calls += 1
            return scores

        return count

    options = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": PAD}
    for make in (lambda: [Guided()], lambda: [scaled(2.0)]):
        expected = target.generate(**batch(), logits_processor=make(), **options)
        ours = target.generate(
            **batch(), logits_processor=make(), custom_generate=speculate(target), **options
        )
        assert ours.tolist() == expected.tolist()
    with pytest.raises(ValueError, match="is or has a function with a closure"):
        target.generate(
            **batch(), logits_processor=[counted()], custom_generate=speculate(target), **options
        )


@pytest.mark.parametrize("do_sample", [True, False])
def test_scores_of_a_whole_batch_are_refused(do_sample, target):
    class WholeBatch(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores + torch.zeros(3, 1)

    with pytest.raises(
        ValueError, match=r"returned scores \[3, 259\] for scores \[1, 259\]; return the"
    ):
        target.generate(
            **batch(), logits_processor=[WholeBatch()], custom_generate=speculate(target),
            do_sample=do_sample, max_new_tokens=3, pad_token_id=PAD,
        )  # fmt: skip


def test_models_in_a_processor_are_shared_by_its_copies(target):
    class Holding(LogitsProcessor):
        def __init__(self, model) -> None:
            self.model = model

        def __call__(self, input_ids, scores):
            seen.append(self.model)
            return scores

    seen: list = []
    tt.SpeculativeDecoder(target, TOKENIZER).generate(
        ["ab", "cd"], logits_processor=[Holding(target)], max_new_tokens=2
    )
    assert len(seen) == 4
    assert all(model is target for model in seen)


@pytest.mark.parametrize("method", ["coupled", "tli"])
def test_scores_may_be_changed_in_place(method, target):
    class InPlace(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores[:, 60:] = -torch.inf
            scores -= 1
            return scores

    inputs = TOKENIZER("ab", return_tensors="pt")
    options = {"do_sample": True, "top_k": 1, "max_new_tokens": 9}
    expected = target.generate(**inputs, logits_processor=[InPlace()], **options)
    ours = target.generate(
        **inputs, logits_processor=[InPlace()], custom_generate=speculate(target, method), **options
    )
    assert ours.tolist() == expected.tolist()


def test_a_subclass_of_a_warper_may_have_state():
    class Odd(generation.TemperatureLogitsWarper):
        pass

    assert not processors.warpers([Odd(0.5)])
    assert processors.have_state([Odd(0.5)])
    assert not processors.have_state([generation.TemperatureLogitsWarper(0.5)])


def test_given_pad_tokens_are_returned(ending):
    options = {"do_sample": True, "top_k": 1, "max_new_tokens": LENGTH, "pad_token_id": 77}
    expected = ending.generate(**batch(), **options)
    ours = ending.generate(**batch(), custom_generate=speculate(ending), **options)
    assert 77 in expected
    assert ours.tolist() == expected.tolist()


def test_toys_see_rows_one_by_one():
    """Rejection methods emit the same tokens if rows are verified together or one by one."""
    vocabulary = toys.letters(["<eos>", "a", "b", "ab"])
    target, draft = toys.TableModel(4, 1), toys.TableModel(4, 2)
    for method in ("tli", "pushforward", "slrs", "tokentiming"):
        for seed in range(40):
            texts = [
                toys.decode(
                    target, vocabulary, toys.TableDrafter(vocabulary, draft),
                    method=method, seed=seed, remaining=9, emitted_only=one_by_one,
                )
                for one_by_one in (False, True)
            ]  # fmt: skip
            assert texts[0] == texts[1]
