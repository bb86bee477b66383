"""Values of arguments of `generate` that are refused before the target runs."""

from __future__ import annotations

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
        ("logits_processor", [1], TypeError, r"logits_processor\[0\] is a int; give objects"),
        ("stopping_criteria", [1], TypeError, r"stopping_criteria\[0\] is a int; give objects"),
        ("prefix_allowed_tokens_fn", 5, TypeError, "_fn is a int; give a function"),
        ("max_time", "x", TypeError, "max_time is 'x', a str; give seconds"),
        ("num_return_sequences", "2", TypeError, "num_return_sequences is '2'.*give an integer"),
        ("num_return_sequences", 1.5, TypeError, "num_return_sequences is 1.5.*give an integer"),
        ("num_return_sequences", -1, ValueError, "num_return_sequences is -1; give at least 1"),
        ("forced_eos_token_id", 10**6, ValueError, "forced_eos_token_id is 1000000, outside the"),
        ("forced_bos_token_id", 10**6, ValueError, "forced_bos_token_id is 1000000, outside the"),
        ("eos_token_id", "x", TypeError, "eos_token_id is 'x'.*give an integer"),
        ("pad_token_id", "x", TypeError, "pad_token_id is 'x'.*give an integer"),
        ("suppress_tokens", "a", TypeError, "suppress_tokens is 'a'.*give an integer"),
        ("begin_suppress_tokens", ["a"], TypeError, "begin_suppress_tokens is 'a'.*give an int"),
        ("forced_eos_token_id", "x", TypeError, "forced_eos_token_id is 'x'.*give an integer"),
    ],
)
def test_values_are_refused(name, value, error, message, decoder):
    with pytest.raises(error, match=rf"^generate: .*{message}"):
        decoder.generate("to be", max_new_tokens=4, do_sample=True, **{name: value})


def test_processors_criteria_and_forced_ids_are_refused_by_custom_generate(decoder):
    inputs = TOKENIZER("to be", return_tensors="pt")
    for options, error, message in (
        ({"logits_processor": [1]}, TypeError, r"logits_processor\[\d\] is a int"),
        ({"stopping_criteria": [1]}, TypeError, r"stopping_criteria\[\d\] is a int"),
        ({"forced_eos_token_id": 10**6}, ValueError, "forced_eos_token_id is 1000000"),
        (
            {"generation_config": GenerationConfig(forced_bos_token_id=10**6, max_new_tokens=4)},
            ValueError,
            "forced_bos_token_id is 1000000",
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
