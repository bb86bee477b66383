"""Problems that users of other engines reported: seeds, distributions and logits processors.

Each row of ``REPORTS`` is a public report in the issue tracker of its repository. The case and the
outcome are described in our words, and the tests use inputs of our own.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import LogitsProcessor

import tokentiming as tt
from tests.support import toys
from tests.support.reported import (
    OTHER,
    PROMPT,
    TOKENIZER,
    Reports,
    alone,
    one_thread,
    speculation,
    tiny,
    told,
    written,
)

REPORTS = Reports(
    {
        "vllm-project/vllm#22987": (
            "a fixed seed and a repetition penalty give other text with a draft",
            "a seed gives one text with any drafter or none, penalties and warpers included",
        ),
        "vllm-project/vllm#6038": (
            "the seed of a request is ignored once there is a draft",
            "a seed fixes the text, whatever ran before; another seed gives another",
        ),
        "NVIDIA/TensorRT-LLM#19487": (
            "requests without a seed share one random stream and come out equal",
            "each call and each row draws anew; torch's generator determines all draws",
        ),
        "huggingface/transformers#32867": (
            "a draft that is verified by probabilities it was not drawn from biases the text",
            "the target's own distribution, for a draft with another distribution",
        ),
        "vllm-project/vllm#18902": (
            "penalties are silently ignored once there is a draft",
            "the ids of generate with the same penalty",
        ),
        "vllm-project/vllm#38202": (
            "a bias on single tokens is ignored once there is a draft",
            "the ids of generate with the same sequence_bias",
        ),
        "vllm-project/vllm#32642": (
            "a least length is ignored once there is a draft",
            "the ids of generate with the same min_new_tokens",
        ),
        "vllm-project/vllm#27969": (
            "a drafted token outside a grammar crashes the engine",
            "it is rejected; the ids of generate with the same prefix_allowed_tokens_fn",
        ),
        "vllm-project/vllm#42744": (
            "min_p is left out where drafted tokens are judged",
            "every emitted token is within min_p, and the seed's text is the same",
        ),
        "sgl-project/sglang#26330": (
            "a logits processor of the user's own is not called once there is a draft",
            "it is called for every emitted token",
        ),
        "ml-explore/mlx-examples#1255": (
            "logits processors are not used once there is a draft",
            "they are, by either way in",
        ),
        "ml-explore/mlx-lm#1175": (
            "logits processors see tokens that were rejected, or miss accepted ones",
            "they see what precedes each token; one that remembers sees each place once",
        ),
    }
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def target():
    return tiny()


@pytest.fixture(scope="module")
def drafter():
    return tt.ModelDrafter(tiny(seed=1, vocab_size=len(OTHER)), OTHER)


# ---- seeds and distributions ----


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.1, "repetition_penalty": 1.3},
        {"temperature": 0.7, "top_p": 0.5, "repetition_penalty": 1.05},
        {"top_k": 8, "no_repeat_ngram_size": 2},
    ],
)
@REPORTS.met("vllm-project/vllm#22987")
def test_a_seed_s_text_is_the_same_with_a_draft(target, drafter, options):
    options = {"do_sample": True, "max_new_tokens": 16, **options}
    without = tt.SpeculativeDecoder(target, TOKENIZER)
    drafted = tt.SpeculativeDecoder(target, TOKENIZER, drafter, draft_length=4)
    texts = []
    for seed in range(3):
        output = drafted.generate(PROMPT, seed=seed, **options)
        assert torch.equal(
            output.sequences, without.generate(PROMPT, seed=seed, **options).sequences
        )
        assert output.stats.drafted > 8
        texts.append(output.text)
    assert len(set(texts)) > 1


@pytest.mark.parametrize("method", ["coupled", "slem", "pushforward", "tli"])
@REPORTS.met("vllm-project/vllm#6038")
def test_a_request_s_seed_fixes_its_text(target, method):
    inputs = TOKENIZER(PROMPT, return_tensors="pt")
    options = {
        "do_sample": True,
        "max_new_tokens": 16,
        "custom_generate": speculation(method=method),
    }
    first = target.generate(**inputs, seed=42, **options)
    between = target.generate(**inputs, **options)
    again = target.generate(**inputs, seed=42, **options)
    assert torch.equal(first, again)
    assert not torch.equal(first, between)
    assert not torch.equal(first, target.generate(**inputs, seed=43, **options))


@REPORTS.met("NVIDIA/TensorRT-LLM#19487")
def test_calls_and_rows_without_a_seed_differ(target, drafter):
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, draft_length=4)
    options = {"do_sample": True, "max_new_tokens": 8}
    torch.manual_seed(5)
    texts = [decoder.generate(PROMPT, **options).text for _ in range(3)]
    texts += decoder.generate([PROMPT] * 2, num_return_sequences=2, **options).text
    assert len(set(texts)) == 7
    torch.manual_seed(5)
    assert decoder.generate(PROMPT, **options).text == texts[0]


@pytest.mark.parametrize("method", ["coupled", "slem", "pushforward", "tli"])
@REPORTS.met("huggingface/transformers#32867")
def test_a_draft_with_another_distribution_does_not_bias_the_text(method):
    """First tokens of 1,000 texts: total variation from the target's probabilities."""
    vocabulary = toys.letters(["a", "b", "c", "d"])
    target = toys.TableModel(4, seed=1, sharpness=0.7)
    draft = toys.TableModel(4, seed=19, sharpness=1.2)
    probabilities, theirs = target.table[0, 0].exp(), draft.table[0, 0].exp()
    favourite = int(theirs.argmax())
    assert theirs[favourite] > 1.8 * probabilities[favourite]
    assert theirs[favourite] < 0.8
    drafter = toys.TableDrafter(vocabulary, draft)
    counts = Counter(
        toys.decode(target, vocabulary, drafter, method=method, row=row, remaining=2)[0]
        for row in range(1000)
    )
    shares = torch.tensor([counts[i] / 1000 for i in range(4)])
    assert (shares - probabilities).abs().sum() / 2 < 0.04


# ---- processors ----


def odd_then_even(row: int, ids: torch.Tensor) -> list[int]:
    """A grammar: odd ids after even ones, and the other way round."""
    return list(range(2 - int(ids[-1]) % 2, len(TOKENIZER), 2))


PROCESSED = {
    "vllm-project/vllm#18902": {"repetition_penalty": 1.8},
    "vllm-project/vllm#38202": {"sequence_bias": [[[i], 4.0] for i in range(90, 100)]},
    "vllm-project/vllm#32642": {"min_new_tokens": 9, "eos_token_id": list(range(20, 220))},
    "vllm-project/vllm#27969": {"prefix_allowed_tokens_fn": odd_then_even},
}


@pytest.mark.parametrize("number", PROCESSED)
@REPORTS.met(*PROCESSED)
def test_processors_apply_to_drafted_tokens(target, number):
    plain = {"suppress_tokens": None, "no_repeat_ngram_size": 0}
    free = alone(target, PROMPT, **plain)
    options = {**plain, **PROCESSED[number]}
    expected = alone(target, PROMPT, **options)
    assert len(expected) > 8
    assert expected != free
    ids, stats = written(told(target, free), PROMPT, **options)
    assert ids == expected
    assert stats.accepted < stats.proposed  # the draft does not apply the processor
    ids, stats = written(told(target, expected, 5), PROMPT, **options)
    assert ids == expected
    assert stats.accepted > 0


@REPORTS.met("vllm-project/vllm#42744")
def test_min_p_holds_for_drafted_tokens(target):
    sharp = tiny()
    sharp.lm_head.weight.data *= 12  # a few likely tokens, and many unlikely ones
    options = {"do_sample": True, "min_p": 0.5, "max_new_tokens": 24, "top_k": 0}
    anything = tt.SpeculativeDecoder(sharp, TOKENIZER).generate(
        PROMPT, seed=1, do_sample=True, top_k=0, max_new_tokens=24
    )
    start = len(TOKENIZER(PROMPT).input_ids)
    drafted = told(sharp, anything.sequences[0, start:].tolist(), 6)
    output = drafted.generate(PROMPT, seed=1, **options)
    probabilities = sharp(output.sequences).logits[0, start - 1 : -1].softmax(-1)
    chosen = probabilities.gather(1, output.sequences[0, start:, None])[:, 0]
    assert (chosen >= 0.499 * probabilities.max(1).values).all()
    assert output.stats.proposed > output.stats.accepted
    without = tt.SpeculativeDecoder(sharp, TOKENIZER).generate(PROMPT, seed=1, **options)
    assert torch.equal(output.sequences, without.sequences)


class NotTheOneBefore(LogitsProcessor):
    """Forbids ids near the last one, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[int]] = []

    def __call__(self, input_ids, scores):
        self.shown.append(input_ids[0].tolist())
        last = int(input_ids[0, -1])
        scores = scores.clone()
        scores[:, max(last - 40, 0) : last + 40] = -torch.inf
        return scores


@pytest.mark.parametrize("way", ["decoder", "custom_generate"])
@REPORTS.met("sgl-project/sglang#26330", "ml-explore/mlx-examples#1255")
def test_a_users_own_processor_is_called_for_every_token(target, way):
    inputs = TOKENIZER(PROMPT, return_tensors="pt")
    options = {"do_sample": False, "max_new_tokens": 20}
    expected = target.generate(**inputs, **options, logits_processor=[NotTheOneBefore()])
    assert not torch.equal(expected, target.generate(**inputs, **options))
    own = NotTheOneBefore()
    options["logits_processor"] = [own]
    if way == "decoder":
        new = expected[0, inputs.input_ids.shape[1] :].tolist()
        sequences = told(target, new, 6).generate(PROMPT, **options).sequences
    else:
        sequences = target.generate(**inputs, **options, custom_generate=speculation())
    assert torch.equal(sequences, expected)
    ids = expected[0].tolist()
    for length in range(inputs.input_ids.shape[1], len(ids)):
        assert ids[:length] in own.shown


class EveryOther(LogitsProcessor):
    """Counts its calls: every other call allows only ids below 130."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        if len(self.lengths) % 2:
            return scores
        return scores.index_fill(1, torch.arange(130, scores.shape[1]), -torch.inf)


@pytest.mark.parametrize("method", ["greedy", "coupled", "pushforward", "tli"])
@REPORTS.met("ml-explore/mlx-lm#1175")
def test_a_processor_with_state_sees_each_position_once(target, method):
    sampled = method != "greedy"
    options = {"do_sample": sampled, "max_new_tokens": 20, "eos_token_id": None}
    decoder = tt.SpeculativeDecoder(
        target,
        TOKENIZER,
        tt.ModelDrafter(tiny(), TOKENIZER),  # equal to the target except for the processor
        method=method if sampled else "coupled",
        draft_length=5,
    )
    own = EveryOther()
    output = decoder.generate(PROMPT, seed=2, logits_processor=[own], **options)
    start = len(TOKENIZER(PROMPT).input_ids)
    assert own.lengths == list(range(start, start + 20))
    assert max(output.sequences[0, start + 1 :: 2]) < 130
    assert 0 < output.stats.accepted < output.stats.proposed


def test_every_report_has_its_test():
    REPORTS.check()
