"""Values of arguments of `generate` that are refused before the target runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import tokentiming as tt
from tests.support.small_models import TOKENIZER, lively


@pytest.fixture(scope="module")
def decoder():
    target = lively()
    decoder = tt.SpeculativeDecoder(target, TOKENIZER)

    def fail(*_):
        pytest.fail("the target ran")

    target.register_forward_pre_hook(fail)
    return decoder


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("logits_processor", [1], TypeError, r"logits_processor\[0\] is 1, an int; give an obj"),
        ("stopping_criteria", [1], TypeError, r"stopping_criteria\[0\] is 1, an int; give an obj"),
        ("prefix_allowed_tokens_fn", 5, TypeError, "_fn is 5, an int; give a function"),
        ("max_time", "x", TypeError, "max_time is 'x', a str; give a number"),
        ("temperature", math.nan, ValueError, "temperature is nan; give a number"),
        ("top_p", "x", TypeError, "top_p is 'x', a str; give a number"),
        ("top_h", "x", TypeError, "top_h is 'x', a str; give a number"),
        ("min_p", True, TypeError, "min_p is True, a bool; give a number"),
        ("guidance_scale", "x", TypeError, "guidance_scale is 'x', a str; give a number"),
        ("repetition_penalty", -1, ValueError, "repetition_penalty is -1; give a positive number"),
        ("encoder_repetition_penalty", 0, ValueError, "penalty is 0; give a positive number"),
        ("top_k", 1.5, TypeError, "top_k is 1.5, a float; give an integer"),
        ("top_k", -1, ValueError, "top_k is -1; give at least 0"),
        ("no_repeat_ngram_size", True, TypeError, "no_repeat_ngram_size is True.*an integer"),
        ("min_length", "x", TypeError, "min_length is 'x'.*give an integer"),
        ("min_new_tokens", 1.5, TypeError, "min_new_tokens is 1.5.*give an integer"),
        ("num_return_sequences", "2", TypeError, "num_return_sequences is '2'.*give an integer"),
        ("num_return_sequences", 1.5, TypeError, "num_return_sequences is 1.5.*give an integer"),
        ("num_return_sequences", -1, ValueError, "num_return_sequences is -1; give at least 1"),
        ("forced_eos_token_id", 10**6, ValueError, "forced_eos_token_id holds 1000000, outside"),
        ("forced_bos_token_id", 10**6, ValueError, "forced_bos_token_id holds 1000000, outside"),
        ("forced_eos_token_id", "x", TypeError, "forced_eos_token_id is 'x'.*give an integer"),
        ("bad_words_ids", [[10**6]], ValueError, "bad_words_ids holds 1000000, outside"),
        ("sequence_bias", {(10**6,): 1.0}, ValueError, "sequence_bias holds 1000000, outside"),
        ("sequence_bias", [[[10**6], 1.0]], ValueError, "sequence_bias holds 1000000, outside"),
        ("bos_token_id", "x", TypeError, "bos_token_id is 'x'.*give an integer"),
        ("eos_token_id", "x", TypeError, "eos_token_id is 'x'.*give an integer"),
        ("eos_token_id", [[1]], TypeError, r"eos_token_id is \[1\].*give an integer"),
        ("pad_token_id", "x", TypeError, "pad_token_id is 'x'.*give an integer"),
        ("suppress_tokens", "a", TypeError, "suppress_tokens is 'a'.*give an integer"),
        ("suppress_tokens", 5, TypeError, "suppress_tokens is 5, an int; give a list of ids"),
        ("begin_suppress_tokens", ["a"], TypeError, "begin_suppress_tokens is 'a'.*give an int"),
        ("exponential_decay_length_penalty", 5, TypeError, r"is 5, an int; give \(start, factor"),
        ("exponential_decay_length_penalty", (1, "x"), TypeError, r"penalty\[1\] is 'x', a str"),
        ("watermarking_config", 5, TypeError, "is 5, an int; give a WatermarkingConfig"),
        ("position_ids", 5, ValueError, "position_ids is not used here"),
    ],
)
def test_values_are_refused(name, value, error, message, decoder):
    with pytest.raises(error, match=rf"^generate: .*{message}"):
        decoder.generate("to be", max_new_tokens=4, do_sample=True, **{name: value})


def test_processors_criteria_and_forced_ids_are_refused_by_custom_generate(decoder):
    inputs = TOKENIZER("to be", return_tensors="pt")
    for options, error, message in (
        ({"logits_processor": [1]}, TypeError, r"logits_processor\[\d\] is 1, an int"),
        ({"stopping_criteria": [1]}, TypeError, r"stopping_criteria\[\d\] is 1, an int"),
        ({"forced_eos_token_id": 10**6}, ValueError, "forced_eos_token_id holds 1000000"),
        (
            {"generation_config": GenerationConfig(forced_bos_token_id=10**6, max_new_tokens=4)},
            ValueError,
            "forced_bos_token_id holds 1000000",
        ),
    ):
        options = {"max_length": 9} | options
        with pytest.raises(error, match=rf"^generate: {message}"):
            decoder.target_model.generate(**inputs, custom_generate=decoder, **options)


@pytest.mark.parametrize(
    ("part", "error"), [("", ValueError), ([], ValueError), (None, TypeError), (3, TypeError)]
)
def test_an_invalid_prompt_of_a_list_is_named(part, error, decoder):
    with pytest.raises(error, match=r"^generate: prompt is .*\(prompt 1 of the list\)$"):
        decoder.generate(["to be", part], max_new_tokens=4)


class _Returning:
    def __init__(self, result):
        self.result = result

    def __call__(self, ids, scores):
        return self.result


@pytest.mark.parametrize(
    ("result", "returned"), [(None, "a NoneType"), (torch.zeros(2, 3), r"scores \[2, 3\]")]
)
def test_a_processor_that_returns_no_scores_is_named(result, returned):
    decoder = tt.SpeculativeDecoder(lively(), TOKENIZER)
    for steps in ([_Returning(result)], [_Returning(result), lambda ids, scores: scores]):
        with pytest.raises(
            ValueError, match=rf"^generate: logits processor _Returning returned {returned} for"
        ):
            decoder.generate("to be", max_new_tokens=4, logits_processor=steps)


@pytest.mark.parametrize("returned", [None, 1.0, "x"])
def test_a_criterion_that_returns_no_verdict_is_named(returned):
    decoder = tt.SpeculativeDecoder(lively(), TOKENIZER)
    with pytest.raises(TypeError, match=r"^generate: stopping criterion function returned a "):
        decoder.generate(
            "to be", max_new_tokens=4, stopping_criteria=[lambda ids, scores: returned]
        )


@pytest.mark.parametrize("returned", [None, 5, "x", [10**6], ["a"], [-300], [1.5]])
@pytest.mark.parametrize("prompt", ["to be", ["to be", "ab"]])
def test_a_constraint_that_returns_no_ids_is_named(returned, prompt):
    decoder = tt.SpeculativeDecoder(lively(), TOKENIZER)
    with pytest.raises(ValueError, match=r"^generate: prefix_allowed_tokens_fn returned .*0..258$"):
        decoder.generate(
            prompt, max_new_tokens=4, prefix_allowed_tokens_fn=lambda row, ids: returned
        )


def test_a_constraint_may_return_a_list_a_tensor_or_an_array():
    decoder = tt.SpeculativeDecoder(lively(), TOKENIZER)
    mask = torch.zeros(len(TOKENIZER), dtype=torch.bool)
    mask[5:7] = True
    for allowed in ([5, 6], (5, 6), torch.tensor([5, 6]), np.array([5, 6]), mask, [-254, -253]):
        options = {"prefix_allowed_tokens_fn": lambda row, ids, ids_=allowed: ids_}
        output = decoder.generate("to be", max_new_tokens=4, eos_token_id=None, **options)
        assert set(output.sequences[0, -4:].tolist()) <= {5, 6}


@pytest.mark.parametrize("part", [[10**6], "ab " * 1000])
def test_a_prompt_of_a_list_that_cannot_be_read_is_named(part, decoder):
    with pytest.raises(ValueError, match=r"^generate: .* \(prompt 1 of the list\)$"):
        decoder.generate(["to be", part], max_new_tokens=4)


def test_a_value_of_a_list_for_each_prompt_is_checked(decoder):
    with pytest.raises(TypeError, match=r"^generate: temperature is 'x', a str; give a number"):
        decoder.generate(["a", "b"], do_sample=True, temperature=[0.5, "x"], max_new_tokens=4)


NUMBER = torch.tensor(0.9)


@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": np.array([3, 4])},
        {"suppress_tokens": np.array([3, 4])},
        {"begin_suppress_tokens": [3]},
        {"no_repeat_ngram_size": False, "min_length": False},
        {"no_repeat_ngram_size": -1, "min_length": -1, "min_new_tokens": -1},
        {"top_p": NUMBER, "min_p": NUMBER, "typical_p": NUMBER, "max_time": torch.tensor(100)},
        {"exponential_decay_length_penalty": (3.0, 1.5)},
        {"stopping_criteria": [lambda ids, scores: 0]},
        {"temperature": NUMBER, "do_sample": False},
    ],
)
def test_what_transformers_accepts_is_accepted(options):
    target = lively()
    inputs = TOKENIZER("to be", return_tensors="pt")
    settings = {"do_sample": True, "max_new_tokens": 4, "pad_token_id": 0} | options
    target.generate(**inputs, **settings)
    tt.SpeculativeDecoder(target, TOKENIZER).generate("to be", **settings)
