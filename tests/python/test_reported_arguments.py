"""Problems that users of other engines reported: batches, inputs, concurrent calls and settings.

Each row of ``REPORTS`` is a public report in the issue tracker of its repository. The case and the
outcome are described in our words, and the tests use inputs of our own.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import LlamaForCausalLM

import tokentiming as tt
from tests.support.reported import (
    OTHER,
    PROMPT,
    TOKENIZER,
    Reports,
    alone,
    one_thread,
    speculation,
    tiny,
    written,
)

REPORTS = Reports(
    {
        "huggingface/transformers#32165": (
            "a batch of two is refused once there is a draft",
            "rows of any lengths, with the ids of generate for every processor",
        ),
        "TransformerLensOrg/TransformerLens#1612": (
            "padding in a prompt of ids is read as text",
            "it is found as generate finds it, and left out",
        ),
        "huggingface/transformers#37471": (
            "an image beside the prompt crashes assisted generation",
            "an input that is not used is refused by name",
        ),
        "vllm-project/vllm#9441": (
            "requests at the same time change each other's text",
            "a decoder serves one call; another at the same time is refused",
        ),
        "NVIDIA/TensorRT-LLM#18401": (
            "logits that do not exist under speculation are asked for, and the server hangs",
            "refused by name before a model runs, by either way in",
        ),
        "huggingface/transformers#40739": (
            "the number of tokens to draft does not reach the draft",
            "draft_length is kept in every round, and no model's config is written to",
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 6, "eos_token_id": list(range(60, 140))},
        {"bad_words_ids": [[i] for i in range(30, 60)]},
    ],
)
@REPORTS.met("huggingface/transformers#32165")
def test_rows_of_a_padded_batch(target, options):
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.pad_token, tokenizer.padding_side = "<eos>", "left"
    texts = ["ab", PROMPT, "in the"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    options = {"do_sample": False, "max_new_tokens": 12, **options}
    expected = target.generate(**inputs, **options)
    batch = target.generate(**inputs, **options, custom_generate=speculation())
    assert torch.equal(batch, expected)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@REPORTS.met("TransformerLensOrg/TransformerLens#1612")
def test_padding_in_a_prompt_of_ids(drafter, penalty):
    padding = TOKENIZER.convert_tokens_to_ids("!")
    target = tiny(pad_token_id=padding)
    ids = TOKENIZER("the inner").input_ids
    rows = torch.tensor([[padding] * 4 + ids, [ids[0]] * 4 + ids])
    options = {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": penalty}
    expected = target.generate(rows, **options)
    unpadded = target.generate(torch.tensor([ids]), **options)
    assert penalty > 1 or torch.equal(expected[:1, 4:], unpadded)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, draft_length=4)
    assert torch.equal(decoder.generate(rows, **options).sequences, expected)


@REPORTS.met("huggingface/transformers#37471")
def test_an_image_beside_the_prompt_is_refused():
    class Seeing(LlamaForCausalLM):
        def prepare_inputs_for_generation(self, *args, pixel_values=None, **kwargs):
            return super().prepare_inputs_for_generation(*args, **kwargs)

    seeing = tiny(Seeing)
    inputs = TOKENIZER(PROMPT, return_tensors="pt")
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="pixel_values"):
        seeing.generate(
            **inputs, pixel_values=image, max_new_tokens=3, custom_generate=speculation()
        )
    ids = seeing.generate(**inputs, max_new_tokens=3, custom_generate=speculation())
    assert ids.shape[1] == inputs.input_ids.shape[1] + 3


@pytest.mark.parametrize("place", ["callback", "thread"])
@REPORTS.met("vllm-project/vllm#9441")
def test_a_second_call_at_the_same_time_is_refused(target, drafter, place):
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, draft_length=4)
    refusals = []

    def second_call():
        with pytest.raises(RuntimeError, match="in use"):
            decoder.generate("another text", max_new_tokens=2)
        refusals.append(place)

    def watch(round_):
        if place == "callback":
            second_call()
        else:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(second_call).result()

    ids, stats = written(decoder, PROMPT, watch=watch)
    assert ids == alone(target, PROMPT)
    assert len(refusals) == stats.target_forwards
    assert written(decoder, PROMPT)[0] == ids  # it is free again


@pytest.mark.parametrize("way", ["decoder", "custom_generate"])
@pytest.mark.parametrize(
    "name", ["output_scores", "output_logits", "output_attentions", "output_hidden_states"]
)
@REPORTS.met("NVIDIA/TensorRT-LLM#18401")
def test_outputs_that_do_not_exist_are_refused(drafter, name, way):
    passes = []
    target = tiny()
    prompt = TOKENIZER(PROMPT, return_tensors="pt").input_ids
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter)
    target.register_forward_pre_hook(lambda model, rows: passes.append(rows))
    call = decoder.generate if way == "decoder" else target.generate
    inputs = {} if way == "decoder" else {"custom_generate": speculation()}
    with pytest.raises(ValueError, match=f"{name} cannot be honoured"):
        call(prompt, max_new_tokens=3, return_dict_in_generate=True, **{name: True}, **inputs)
    assert passes == []


@pytest.mark.parametrize("draft_length", [1, 3, 7])
@REPORTS.met("huggingface/transformers#40739")
def test_the_number_of_drafted_tokens_is_kept(target, draft_length):
    draft = tiny()
    configs = [target.config, target.generation_config, draft.config, draft.generation_config]
    before = [config.to_dict() for config in configs]
    decoder = tt.SpeculativeDecoder(
        target, TOKENIZER, tt.ModelDrafter(draft, TOKENIZER), draft_length=draft_length
    )
    rounds = 4
    tokens = rounds * (draft_length + 1)
    stats = decoder.generate(
        PROMPT, do_sample=False, max_new_tokens=tokens, eos_token_id=None
    ).stats
    assert stats.accepted_per_round == {draft_length: rounds}
    assert stats.drafted == rounds * draft_length
    assert [config.to_dict() for config in configs] == before
    with pytest.raises(ValueError, match="assistant_model cannot be honoured: the drafter is"):
        decoder.generate(PROMPT, assistant_model=draft)


def test_every_report_has_its_test():
    REPORTS.check()
