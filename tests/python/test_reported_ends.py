"""Problems that users of other engines reported: ends and streaming inside an accepted draft.

Each row of ``REPORTS`` is a public report in the issue tracker of its repository. The case and the
outcome are described in our words, and the tests use inputs of our own.
"""

from __future__ import annotations

from itertools import chain
from threading import Thread

import pytest
import torch
from transformers import LogitsProcessor, StopStringCriteria, TextIteratorStreamer

import tokentiming as tt
from tests.support.reported import (
    ENGLISH,
    OTHER,
    PROMPT,
    TOKENIZER,
    Reports,
    alone,
    one_thread,
    tiny,
    told,
    written,
)

REPORTS = Reports(
    {
        "huggingface/transformers#47912": (
            "an end of turn inside an accepted draft does not end the text",
            "the text ends there: ids, stream and finish_reason",
        ),
        "LostRuins/koboldcpp#1276": (
            "drafted tokens behind the end of turn are sent to the client",
            "none is emitted or streamed",
        ),
        "huggingface/transformers#48039": (
            "a stop string completed inside a draft is missed, or raises",
            "the text ends there, by either way in",
        ),
        "vllm-project/vllm#47616": (
            "the text is cut at a stop string, and the ids after it are returned",
            "ids and text end at the same token",
        ),
        "sgl-project/sglang#31599": (
            "the length limit hides a stop string that comes before it in one block",
            "what comes first ends the text, and finish_reason says which",
        ),
        "sgl-project/sglang#39826": (
            "tokens behind the end of turn are counted as generated",
            "stats count the emitted tokens only",
        ),
        "vllm-project/vllm#56101": (
            "the mean accepted length counts tokens behind the end of turn",
            "accepted tokens are emitted ones",
        ),
        "huggingface/transformers#46993": (
            "more tokens than max_new_tokens come out",
            "exactly that many, for any draft length",
        ),
        "ikawrakow/ik_llama.cpp#2358": (
            "fewer tokens than max_tokens come out",
            "exactly that many, for any draft length",
        ),
        "huggingface/transformers#46790": (
            "a model without an end of turn crashes",
            "the text goes on to its length, through ids that end turns elsewhere",
        ),
        "huggingface/transformers#30042": (
            "greedy text differs after a draft that was accepted in part",
            "the ids of generate, from one id as prompt and any share of right tokens",
        ),
        "Blaizzy/mlx-vlm#1076": (
            "characters of several tokens are streamed as replacement characters",
            "a streamer gets whole characters, in order and all of them",
        ),
        "google-deepmind/gemma#406": (
            "what a stream of several prompts should be is undefined",
            "two rows or several returns with a streamer are refused, naming streamer",
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
def free(target) -> list[int]:
    """Ids that the target writes on its own, each of them once."""
    ids = alone(target, PROMPT)
    assert len(set(ids)) == 20
    return ids


class Collected:
    """A streamer that keeps what it gets."""

    def __init__(self) -> None:
        self.puts: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.puts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


def speculation(**options):
    return tt.custom_generate(
        draft_model=tiny(),
        draft_tokenizer=TOKENIZER,
        target_tokenizer=TOKENIZER,
        draft_length=12,
        **options,
    )


# ---- the end of a text ----


@pytest.mark.parametrize("place", [0, 3, 10, 12, 13])
@REPORTS.met("huggingface/transformers#47912", "LostRuins/koboldcpp#1276")
def test_an_end_of_turn_inside_a_draft_ends_the_text(target, free, place):
    _, unbroken = written(told(target, free), PROMPT)
    assert max(unbroken.accepted_per_round) == 12  # one round goes past each place but the last
    streamer = Collected()
    end = free[place]
    expected = alone(target, PROMPT, eos_token_id=end)
    ids, stats = written(told(target, free), PROMPT, eos_token_id=end, streamer=streamer)
    assert ids == expected == free[: place + 1]
    assert [*chain(*streamer.puts[1:])] == ids
    assert streamer.ended == 1
    assert stats.finish_reason == "eos"


@REPORTS.met("huggingface/transformers#47912")
def test_an_end_of_turn_inside_a_draft_of_custom_generate(target, free):
    inputs = TOKENIZER(PROMPT, return_tensors="pt")
    options = {**ENGLISH, "max_new_tokens": 20, "eos_token_id": [free[4], free[9]]}
    ids = target.generate(**inputs, **options, custom_generate=speculation())
    assert ids[0, inputs.input_ids.shape[1] :].tolist() == free[:5]


@pytest.mark.parametrize("span", [(0, 2), (4, 6), (8, 11), (14, 15)])
@REPORTS.met("huggingface/transformers#48039", "vllm-project/vllm#47616")
def test_a_stop_string_inside_a_draft_ends_text_and_ids(target, free, span):
    stop = TOKENIZER.decode(free[slice(*span)])
    expected = alone(target, PROMPT, stop_strings=[stop], tokenizer=TOKENIZER)
    assert expected == free[: span[1]]
    output = told(target, free).generate(PROMPT, **ENGLISH, max_new_tokens=20, stop_strings=[stop])
    assert output.sequences[0, len(TOKENIZER(PROMPT).input_ids) :].tolist() == expected
    assert output.text == TOKENIZER.decode(expected)
    assert output.stats.finish_reason == "stop_string"


@pytest.mark.parametrize("way", ["custom_generate", "criterion"])
@REPORTS.met("huggingface/transformers#48039")
def test_stop_strings_beside_custom_generate(target, free, way):
    stop = TOKENIZER.decode(free[5:7])
    inputs = TOKENIZER(PROMPT, return_tensors="pt")
    options = {**ENGLISH, "max_new_tokens": 20}
    if way == "custom_generate":
        options["custom_generate"] = speculation(stop_strings=stop)
    else:
        options["custom_generate"] = speculation()
        options["stopping_criteria"] = [StopStringCriteria(TOKENIZER, [stop])]
    ids = target.generate(**inputs, **options)
    assert ids[0, inputs.input_ids.shape[1] :].tolist() == free[:7]


@pytest.mark.parametrize(("limit", "reason"), [(4, "length"), (5, "length"), (6, "stop_string")])
@REPORTS.met("sgl-project/sglang#31599")
def test_the_first_of_limit_and_stop_string_counts(target, free, limit, reason):
    stop = TOKENIZER.decode(free[4:6])  # all within one draft of 12 tokens
    options = {"stop_strings": [stop], "max_new_tokens": limit}
    ids, stats = written(told(target, free), PROMPT, **options)
    assert ids == free[: min(limit, 6)]
    assert stats.finish_reason == reason
    longer = {"stop_strings": [stop], "max_new_tokens": limit + 4}
    ids, stats = written(told(target, free), PROMPT, **longer)
    assert ids == free[:6]
    assert stats.finish_reason == "stop_string"


@pytest.mark.parametrize("place", [2, 7, 11])
@REPORTS.met("sgl-project/sglang#39826", "vllm-project/vllm#56101")
def test_nothing_after_the_end_is_counted(target, free, place):
    rounds = []
    decoder = told(target, free)
    ids, stats = written(decoder, PROMPT, eos_token_id=free[place], watch=rounds.append)
    assert stats.tokens == len(ids) == place + 1
    assert [*chain(*(round_.tokens for round_ in rounds))] == ids
    assert stats.accepted == sum(round_.accepted for round_ in rounds) <= stats.tokens
    assert all(len(round_.tokens) - round_.accepted in (0, 1) for round_ in rounds)
    assert stats.tokens_per_forward == len(ids) / len(rounds)


@pytest.mark.parametrize("limit", [1, 2, 5, 12, 13, 14])
@REPORTS.met("huggingface/transformers#46993", "ikawrakow/ik_llama.cpp#2358")
def test_the_text_has_the_requested_length(target, free, limit):
    for draft_length in (1, 4, 12):
        decoder = told(target, free, draft_length)
        ids, stats = written(decoder, PROMPT, max_new_tokens=limit)
        assert ids == free[:limit]
        assert stats.tokens == limit


@REPORTS.met("huggingface/transformers#46790")
def test_a_model_without_an_end_of_turn():
    class EveryThird(LogitsProcessor):
        """Id 0, which ends a turn in other models."""

        def __call__(self, input_ids, scores):
            if input_ids.shape[1] % 3:
                return scores
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([0]), 0.0)

    endless = tiny(eos_token_id=None)
    options = {"suppress_tokens": None, "no_repeat_ngram_size": 0, "eos_token_id": None}
    expected = alone(endless, PROMPT, logits_processor=[EveryThird()], **options)
    assert expected.count(0) > 4
    ids, _ = written(told(endless, expected), PROMPT, logits_processor=[EveryThird()], **options)
    assert ids == expected
    assert len(ids) == 20


@pytest.mark.parametrize("right", [1, 2, 5, 40])
@REPORTS.met("huggingface/transformers#30042")
def test_drafts_accepted_in_part(target, right):
    prompt = torch.tensor([[TOKENIZER.convert_tokens_to_ids("q")]])
    options = {**ENGLISH, "max_new_tokens": 40}
    expected = target.generate(prompt, **options)[0, 1:].tolist()
    draft = [i if (n + 1) % (right + 1) else expected[n - 1] for n, i in enumerate(expected)]
    output = told(target, draft, 8).generate(prompt[0], **options)
    assert output.sequences[0, 1:].tolist() == expected
    assert output.stats.accepted > 0
    assert (output.stats.accepted == output.stats.proposed) == (right == 40)


# ---- streams ----


class Writes(LogitsProcessor):
    """Forces the next byte of a text for any scores."""

    def __init__(self, text: str, start: int) -> None:
        self._ids = [TOKENIZER.convert_tokens_to_ids(c) for c in TOKENIZER.tokenize(text)]
        self._start = start

    def __call__(self, input_ids, scores):
        done = input_ids.shape[1] - self._start
        token = self._ids[done] if done < len(self._ids) else 0
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)


@pytest.mark.parametrize("draft_length", [0, 2, 7, 12])
@REPORTS.met("Blaizzy/mlx-vlm#1076")
def test_a_stream_of_characters_of_several_tokens(target, draft_length):
    text = "naïve 日本 🙂 ab"
    processors = [Writes(text, len(TOKENIZER(PROMPT).input_ids))]
    ids = TOKENIZER(text).input_ids
    assert len(ids) > len(text)
    streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True, skip_special_tokens=True)
    decoder = told(target, ids, draft_length)
    writer = Thread(
        target=decoder.generate,
        args=(PROMPT,),
        kwargs={
            "do_sample": False,
            "max_new_tokens": 60,
            "logits_processor": processors,
            "streamer": streamer,
        },
    )
    writer.start()
    pieces = list(streamer)
    writer.join()
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("rows", ["two prompts", "two returns"])
@REPORTS.met("google-deepmind/gemma#406")
def test_a_stream_of_several_rows_is_refused(target, rows):
    decoder = tt.SpeculativeDecoder(
        target, TOKENIZER, tt.ModelDrafter(tiny(vocab_size=len(OTHER)), OTHER)
    )
    options = {"do_sample": True, "max_new_tokens": 3}
    batch = 2 if rows == "two prompts" else 1
    if rows == "two returns":
        options["num_return_sequences"] = 2
    streamer = Collected()
    with pytest.raises(ValueError, match="streamer"):
        decoder.generate(["ab"] * batch, streamer=streamer, **options)
    inputs = TOKENIZER(["ab"] * batch, return_tensors="pt")
    speculate = speculation(streamer=streamer)
    with pytest.raises(ValueError, match="streamer"):
        target.generate(**inputs, **options, custom_generate=speculate)
    assert streamer.puts == []


def test_every_report_has_its_test():
    REPORTS.check()
