"""Errors that end a batch, errors after which the target continues alone, and refused arguments."""

from __future__ import annotations

import pytest
from transformers import LogitsProcessor

import tokentiming as tt
from tests.support.batches import (
    CHAIN,
    PAD,
    PROMPTS,
    TREE,
    alone,
    ids_of,
    near,
    new_ids,
    padded,
)
from tests.support.small_models import TOKENIZER, lively

GREEDY = {"do_sample": False, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def target():
    return lively(pad_token_id=PAD)


@pytest.fixture(scope="module")
def decoder(target):
    drafter = tt.ModelDrafter(near(target), TOKENIZER)
    return tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=TREE)


@pytest.fixture(scope="module")
def expected(target) -> list[list[int]]:
    return [alone(target, prompt, **GREEDY) for prompt in PROMPTS]


# ---- errors on the way ----


class Stop:
    """Raises in the last round of a number of texts."""

    def __init__(self, error: type[BaseException], ended: int) -> None:
        self.error, self.left = error, ended
        self.told: dict[int, int] = {}

    def __call__(self, round_) -> None:
        self.told[round_.index] = self.told.get(round_.index, 0) + len(round_.tokens)
        self.left -= self.told[round_.index] == GREEDY["max_new_tokens"]
        if self.left == 0:
            raise self.error


def finished(partial: tt.SpeculativeOutput) -> list[int]:
    """Indices of the texts that have ended."""
    return [i for i, stats in enumerate(partial.stats) if stats.finish_reason is not None]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("ended", [1, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_an_error_in_a_callback_has_all_texts_so_far(size, ended, error, decoder, expected):
    stop = Stop(error, ended)
    with pytest.raises(error) as caught:
        decoder.generate(list(PROMPTS), batch_size=size, watch=stop, **GREEDY)
    partial = caught.value.partial
    assert isinstance(partial, tt.SpeculativeOutput)
    assert len(partial.text) == len(partial.stats) == len(partial.sequences) == len(PROMPTS)
    new = new_ids(partial)
    assert new == [ids[: len(part)] for ids, part in zip(expected, new, strict=True)]
    told = [i for i, tokens in stop.told.items() if tokens == GREEDY["max_new_tokens"]]
    assert len(told) == ended
    assert set(told) <= set(finished(partial))
    for i, stats in enumerate(partial.stats):
        assert stats.finish_reason == ("length" if i in finished(partial) else None)
        begun = stats.tokens > 0
        assert begun == (stats.seconds > 0) == (stats.target_forwards > 0)
        assert sum(n * count for n, count in stats.accepted_per_round.items()) == stats.accepted
        assert sum(stats.accepted_per_round.values()) + stats.accepted >= stats.tokens
    begun = sum(stats.tokens > 0 for stats in partial.stats)
    assert len(finished(partial)) <= begun <= len(finished(partial)) + size
    assert new_ids(decoder.generate(list(PROMPTS), **GREEDY)) == expected


class Late:
    """Interrupts after a number of rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def __call__(self, round_) -> None:
        self.rounds -= 1
        if self.rounds < 0:
            raise KeyboardInterrupt


class Failing(LogitsProcessor):
    """Raises once a text that begins in some way has so many new tokens."""

    def __init__(self, error: type[BaseException], begins: list[int], calls: int) -> None:
        self.error, self.begins, self.calls = error, begins, calls

    def __call__(self, input_ids, scores):
        failing = input_ids[0, : len(self.begins)].tolist() == self.begins
        if failing and input_ids.shape[1] >= len(self.begins) + self.calls:
            raise self.error
        return scores


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_a_processor_has_all_texts_so_far(error, decoder, expected):
    failing = Failing(error, ids_of(PROMPTS[4]), calls=8)
    with pytest.raises(error) as caught:
        decoder.generate(list(PROMPTS), batch_size=2, logits_processor=[failing], **GREEDY)
    partial = caught.value.partial
    new = new_ids(partial)
    assert new == [ids[: len(part)] for ids, part in zip(expected, new, strict=True)]
    assert finished(partial) == [i for i, ids in enumerate(new) if len(ids) == 16]
    assert len(finished(partial)) >= 3
    assert new[6] == []  # its turn had not come
    assert partial.text[6] == ""
    assert new_ids(decoder.generate(list(PROMPTS), **GREEDY)) == expected


def test_a_partial_output_may_hold_no_finished_text(decoder, expected):
    with pytest.raises(KeyboardInterrupt) as caught:
        decoder.generate(list(PROMPTS), batch_size=2, watch=Late(0), **GREEDY)
    partial = caught.value.partial
    assert finished(partial) == []
    lengths = [stats.tokens for stats in partial.stats]
    assert all(lengths[:2])
    assert lengths[2:] == [0] * 5
    whole = [ids_of(p) + new for p, new in zip(PROMPTS, expected, strict=True)]
    for i, row in enumerate(partial.sequences.tolist()):
        known = len(ids_of(PROMPTS[i])) + lengths[i]
        assert row == whole[i][:known] + [PAD] * (len(row) - known)


def test_a_partial_output_of_greedy_and_sampled_texts_has_the_order_of_the_prompts(decoder):
    """Sampled texts run first, then greedy ones."""
    stop = Stop(KeyboardInterrupt, 3)
    kinds = [False, True, False, True]
    options = GREEDY | {"do_sample": kinds, "seed": 1, "eos_token_id": 258}
    with pytest.raises(KeyboardInterrupt) as caught:
        decoder.generate(list(PROMPTS[:4]), batch_size=1, watch=stop, **options)
    assert finished(caught.value.partial) == [0, 1, 3]
    new = new_ids(caught.value.partial, PROMPTS[:4])
    whole = new_ids(decoder.generate(list(PROMPTS[:4]), batch_size=1, **options), PROMPTS[:4])
    assert new == [whole[0], whole[1], [], whole[3]]


@pytest.mark.parametrize("method", ["coupled", "pushforward"])
def test_a_partial_text_is_the_beginning_of_the_whole_text(method, target):
    """The target samples any bytes, so that some texts stop inside a character."""
    drafter = tt.ModelDrafter(near(target), TOKENIZER)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, budget=CHAIN)
    cut = 0
    for seed in range(8):
        options = {"max_new_tokens": 24, "do_sample": True, "seed": seed, "batch_size": 3}
        with pytest.raises(KeyboardInterrupt) as caught:
            decoder.generate(list(PROMPTS), watch=Late(3 * seed), **options)
        partial = caught.value.partial
        whole = decoder.generate(list(PROMPTS), **options).text
        assert all(one.startswith(part) for one, part in zip(whole, partial.text, strict=True))
        plain = [TOKENIZER.decode(ids, skip_special_tokens=True) for ids in new_ids(partial)]
        cut += sum(not one.startswith(part) for one, part in zip(whole, plain, strict=True))
    assert cut


# ---- a drafter that fails ----


class FailingDrafter(tt.ModelDrafter):
    """Raises in its n-th round, or at the n-th beginning of a text."""

    rounds = begins = 10**6

    def begin(self, *args):
        self.begins -= 1
        if self.begins == 0:
            raise RuntimeError("no such prompt")
        super().begin(*args)

    def propose(self, *args):
        self.rounds -= 1
        if self.rounds == 0:
            raise RuntimeError("out of memory")
        super().propose(*args)


@pytest.mark.draft_fails
@pytest.mark.parametrize("method", tt.methods.METHODS)
def test_a_drafter_that_fails_in_a_batch_leaves_its_texts_to_the_target(method, target, expected):
    drafter = FailingDrafter(near(target), TOKENIZER)
    drafter.rounds = 3
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, budget=CHAIN)
    output = decoder.generate(list(PROMPTS), batch_size=3, **GREEDY)
    assert new_ids(output) == expected
    failures = [stats.draft_failure for stats in output.stats]
    assert failures == ["RuntimeError: out of memory"] * 3 + [None] * 4
    assert all(stats.accepted > 0 for stats in output.stats[3:])  # later texts may try again


@pytest.mark.draft_fails
def test_a_text_that_a_drafter_cannot_begin_continues_without_it(target, expected):
    drafter = FailingDrafter(near(target), TOKENIZER)
    drafter.begins = 2
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=TREE)
    output = decoder.generate(list(PROMPTS), batch_size=3, **GREEDY)
    assert new_ids(output) == expected
    failures = [stats.draft_failure for stats in output.stats]
    assert failures == [None, "RuntimeError: no such prompt"] + [None] * 5
    assert [stats.accepted > 0 for stats in output.stats] == [True, False] + [True] * 5


# ---- the size of a batch ----


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "batch_size is 0; give at least 1"),
        (-1, ValueError, "batch_size is -1; give at least 1"),
        (2.0, TypeError, "batch_size is 2.0"),
        (True, TypeError, "batch_size is True"),
    ],
)
def test_invalid_batch_sizes_are_refused(size, error, message, decoder, target):
    with pytest.raises(error, match=rf"^generate: {message}"):
        decoder.generate(["a", "b"], batch_size=size, **GREEDY)
    rows = padded(["ab", "cd"], "left")
    with pytest.raises(error, match=rf"^generate: {message}"):
        target.generate(**rows, custom_generate=decoder, batch_size=size, **GREEDY)
