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


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("ended", [1, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_an_error_in_a_callback_returns_the_finished_texts(size, ended, error, decoder, expected):
    stop = Stop(error, ended)
    with pytest.raises(error) as caught:
        decoder.generate(list(PROMPTS), batch_size=size, watch=stop, **GREEDY)
    partial = caught.value.partial
    assert isinstance(partial, tt.SpeculativeOutput)
    done = [i for i, tokens in stop.told.items() if tokens == GREEDY["max_new_tokens"]]
    assert len(done) == ended
    assert len(partial.text) == len(partial.stats) == len(partial.sequences) >= ended
    rows = partial.sequences.tolist()
    for i in done:
        whole = ids_of(PROMPTS[i]) + expected[i]
        assert any(row[: len(whole)] == whole for row in rows)
    assert all(stats.finish_reason == "length" for stats in partial.stats)
    assert all(stats.seconds > 0 < stats.target_forwards for stats in partial.stats)
    assert new_ids(decoder.generate(list(PROMPTS), **GREEDY)) == expected


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
def test_an_error_in_a_processor_returns_the_finished_texts(error, decoder, expected):
    failing = Failing(error, ids_of(PROMPTS[4]), calls=8)
    with pytest.raises(error) as caught:
        decoder.generate(list(PROMPTS), batch_size=2, logits_processor=[failing], **GREEDY)
    partial = caught.value.partial
    whole = [ids_of(p) + new for p, new in zip(PROMPTS, expected, strict=True)]
    rows = [row[: len(whole[i])] for i, row in enumerate(partial.sequences.tolist())]
    assert len(rows) >= 3
    assert rows == whole[: len(rows)]
    assert new_ids(decoder.generate(list(PROMPTS), **GREEDY)) == expected


def test_the_partial_output_is_empty_if_no_text_is_finished(decoder):
    def watch(round_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        decoder.generate(list(PROMPTS), watch=watch, **GREEDY)
    partial = caught.value.partial
    assert partial.text == partial.stats == []
    assert partial.sequences.shape == (0, 0)


def test_finished_greedy_and_sampled_texts_keep_the_order_of_the_prompts(decoder):
    """Greedy and sampled texts run one after the other."""
    stop = Stop(KeyboardInterrupt, 3)
    kinds = [False, True, False, True]
    options = GREEDY | {"do_sample": kinds, "seed": 1, "eos_token_id": 258}
    with pytest.raises(KeyboardInterrupt) as caught:
        decoder.generate(list(PROMPTS[:4]), batch_size=1, watch=stop, **options)
    rows = caught.value.partial.sequences.tolist()
    begun = [next(i for i in range(4) if row[:len(ids_of(PROMPTS[i]))] == ids_of(PROMPTS[i]))
             for row in rows]  # fmt: skip
    assert begun == [0, 1, 3]  # sampled texts run first


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
