"""Objects with state serve one call at a time; a second call is refused; copies have own state."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import LogitsProcessor

import tokentiming as tt
from tests.support.small_models import TOKENIZER, lively
from tokentiming.engine.in_use import exclusive

OPTIONS = {"do_sample": False, "max_new_tokens": 12}


def decoder(**changes) -> tt.SpeculativeDecoder:
    drafter = tt.ModelDrafter(lively(1), TOKENIZER)
    return tt.SpeculativeDecoder(lively(), TOKENIZER, drafter, **changes)


@pytest.mark.parametrize("method", tt.methods.METHODS)
def test_with_two_threads_each_text_is_right_or_refused(method):
    shared = decoder(method=method)
    prompts = ["to be", "or not to be, that is"]
    expected = [shared.generate(prompt, **OPTIONS).sequences.tolist() for prompt in prompts]
    found: list[bool | str] = []
    ready = threading.Barrier(2)

    def attempt(i: int) -> bool | str:
        try:
            output = shared.generate(prompts[i], **OPTIONS)
        except RuntimeError as error:
            return str(error)
        return output.sequences.tolist() == expected[i]

    def run(i: int) -> None:
        ready.wait()
        found.extend(attempt(i) for _ in range(12))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    refused = [message for message in found if isinstance(message, str)]
    assert all(message.startswith("generate: this decoder is in use") for message in refused)
    assert refused
    assert all(right for right in found if not isinstance(right, str))


def test_two_decoders_may_share_models_in_two_threads():
    target, draft = lively(), lively(1)
    prompts = ["to be", "or not to be, that is"]
    texts: dict[int, list] = {0: [], 1: []}
    decoders = [
        tt.SpeculativeDecoder(target, TOKENIZER, tt.ModelDrafter(draft, TOKENIZER)) for _ in prompts
    ]
    expected = [target.generate(TOKENIZER(p, return_tensors="pt").input_ids, **OPTIONS)
                for p in prompts]  # fmt: skip

    def run(i: int) -> None:
        texts[i] = [decoders[i].generate(prompts[i], **OPTIONS).sequences for _ in range(8)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(texts[i]) == 8
        assert all(torch.equal(ids, expected[i]) for ids in texts[i])


def test_a_callback_may_not_use_the_same_decoder():
    shared = decoder()

    class Again(LogitsProcessor):
        def __call__(self, input_ids, scores):
            shared.generate("x", **OPTIONS)
            return scores

    class Streamer:
        def put(self, value):
            shared.generate("x", **OPTIONS)

        def end(self):
            pass

    callbacks = (
        {"watch": lambda round_: shared.generate("x", **OPTIONS)},
        {"streamer": Streamer()},
        {"logits_processor": [Again()]},
    )
    for callback in callbacks:
        with pytest.raises(RuntimeError, match=r"^generate: this decoder is in use"):
            shared.generate("ab", **OPTIONS, **callback)
    assert shared.generate("ab", **OPTIONS).stats.tokens == 12  # it is free again


@pytest.mark.parametrize("shared", ["drafter", "streamer"])
def test_shared_objects_of_two_decoders_are_refused_by_name(shared):
    class Streamer:
        def put(self, value):
            pass

        def end(self):
            pass

    objects = {
        "drafter": tt.ModelDrafter(lively(1), TOKENIZER),
        "streamer": Streamer(),
    }

    def made() -> tuple[tt.SpeculativeDecoder, dict]:
        parts = {
            "drafter": tt.ModelDrafter(lively(1), TOKENIZER),
            shared: objects[shared],
        }
        streamer = parts.pop("streamer", None)
        return tt.SpeculativeDecoder(lively(), TOKENIZER, **parts), {"streamer": streamer}

    (outer, outer_options), (inner, inner_options) = made(), made()

    def again(round_):
        inner.generate("x", **OPTIONS, **inner_options)

    with pytest.raises(RuntimeError, match=rf"^generate: this {shared} is in use"):
        outer.generate("ab", **OPTIONS, **outer_options, watch=again)


@pytest.mark.parametrize("method", [kind() for kind in tt.methods.METHODS.values()])
def test_two_decoders_may_share_a_method(method):
    outer, inner = (decoder(method=method, draft_length=3) for _ in range(2))
    options = {"do_sample": True, "top_k": 8, "seed": 3, "max_new_tokens": 12}
    expected = [one.generate("to be", **options).sequences for one in (outer, inner)]
    found: list[torch.Tensor] = []

    def again(round_):
        found.append(inner.generate("to be", **options).sequences)

    found.append(outer.generate("to be", **options, watch=again).sequences)
    assert torch.equal(found.pop(), expected[0])
    assert found
    assert all(torch.equal(ids, expected[1]) for ids in found)


def test_a_decoder_is_a_callable_for_generate():
    shared = decoder()
    inputs = TOKENIZER(["to be", "or no"], return_tensors="pt")
    options = {"do_sample": True, "seed": 5, "max_new_tokens": 12, "stop_strings": ["qq"]}
    ours = shared.generate(inputs, **options)
    ids = shared.target_model.generate(**inputs, custom_generate=shared, **options)
    assert torch.equal(ids, ours.sequences)
    out = shared.target_model.generate(
        **inputs, custom_generate=shared, return_dict_in_generate=True, **options
    )
    assert out.text == ours.text
    assert [one.finish_reason for one in out.stats] == [one.finish_reason for one in ours.stats]
    with pytest.raises(ValueError, match=r"^generate: custom_generate is a decoder for another"):
        lively(2).generate(**inputs, custom_generate=shared, **options)


def test_a_custom_generate_callable_is_refused_in_use():
    target = lively()
    speculate = tt.custom_generate(
        draft_model=lively(1), draft_tokenizer=TOKENIZER, target_tokenizer=TOKENIZER
    )
    inputs = TOKENIZER("ab", return_tensors="pt")

    class Again(LogitsProcessor):
        def __call__(self, input_ids, scores):
            target.generate(**inputs, custom_generate=speculate, **OPTIONS)
            return scores

    with pytest.raises(RuntimeError, match=r"^generate: this decoder is in use"):
        target.generate(**inputs, custom_generate=speculate, logits_processor=[Again()], **OPTIONS)


def test_objects_are_free_after_an_error_and_while_others_are_held():
    one, other = object(), object()
    with pytest.raises(ZeroDivisionError), exclusive(decoder=one):
        raise ZeroDivisionError
    in_use = pytest.raises(RuntimeError, match="this drafter is in use")
    with (
        exclusive(decoder=one, drafter=None),
        exclusive(decoder=other, drafter=None),
        in_use,
        exclusive(drafter=one),
    ):
        pass
    with exclusive(decoder=one):
        pass


# ---- copies ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_work_and_have_state_of_their_own(how, dtype):
    """In bfloat16 the core runs the draft, with weights of its own."""
    drafter = tt.ModelDrafter(lively(1).to(dtype), TOKENIZER)
    original = tt.SpeculativeDecoder(lively().to(dtype), TOKENIZER, drafter, draft_length=3)
    expected = original.generate("ab", **OPTIONS)
    copied = how(original)
    assert copied.target_model is not original.target_model

    def in_between(round_):
        again = copied.generate("ab", **OPTIONS)
        assert torch.equal(again.sequences, expected.sequences)
        assert again.stats.proposed > 0

    output = original.generate("ab", **OPTIONS, watch=in_between)
    assert torch.equal(output.sequences, expected.sequences)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_custom_generate_can_be_copied(how):
    target = lively()
    speculate = how(
        tt.custom_generate(
            draft_model=lively(1).to(torch.bfloat16),
            draft_tokenizer=TOKENIZER,
            target_tokenizer=TOKENIZER,
        )
    )
    inputs = TOKENIZER("ab", return_tensors="pt")
    expected = target.generate(**inputs, **OPTIONS)
    assert torch.equal(target.generate(**inputs, custom_generate=speculate, **OPTIONS), expected)
    again = how(speculate)  # with a decoder in it
    assert torch.equal(target.generate(**inputs, custom_generate=again, **OPTIONS), expected)


FORKS = """
import os, sys, torch
import tokentiming as tt
from tests.support.small_models import TOKENIZER, lively

decoder = tt.SpeculativeDecoder(
    lively(), TOKENIZER, tt.ModelDrafter(lively(1).to(torch.bfloat16), TOKENIZER)
)
logits, keys = torch.randn(64, 50000), torch.arange(50000)
states = torch.zeros(64, 3, dtype=torch.int64)

def work():
    torch.randn(700, 700) @ torch.randn(700, 700)
    ids = tt.ops.sample(logits, keys, seed=0, states=states).tolist()
    return ids, decoder.generate("ab", max_new_tokens=8, do_sample=False).sequences.tolist()

expected = work()  # starts the threads that a forked process lacks
child = os.fork()
if not child:
    os._exit(0 if work() == expected else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_works_and_does_not_hang():
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", FORKS], timeout=120, env=environment, cwd=root)
    assert run.returncode == 0
