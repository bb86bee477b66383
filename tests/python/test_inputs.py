"""What both interfaces of `generate` accept, what they refuse by name, and what they return."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from transformers import (
    BatchEncoding,
    CLIPVisionConfig,
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import SHAPE, TOKENIZER, lively, tiny

GREEDY = {"do_sample": False, "max_new_tokens": 8}
METHODS = tuple(tt.methods.METHODS)


@pytest.fixture(scope="module")
def target():
    return lively()


@pytest.fixture(scope="module")
def drafter():
    return tt.ModelDrafter(lively(1), TOKENIZER)


@pytest.fixture(scope="module")
def decoder(target, drafter):
    return tt.SpeculativeDecoder(target, TOKENIZER, drafter)


def speculate(**changes):
    return tt.custom_generate(
        draft_model=lively(1), draft_tokenizer=TOKENIZER, target_tokenizer=TOKENIZER, **changes
    )


def encoded(text: str = "to be") -> BatchEncoding:
    return TOKENIZER(text, return_tensors="pt")


# ---- inputs that are not ids ----


@pytest.fixture(scope="module")
def llava():
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4,
    )  # fmt: skip
    text = LlamaConfig(**SHAPE, initializer_range=0.2)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=200)
    ).eval()


def test_images_are_refused_by_both_interfaces(llava):
    images = {"pixel_values": torch.zeros(1, 3, 8, 8)}
    with pytest.raises(ValueError, match=r"^generate: pixel_values is not used here"):
        llava.generate(**encoded(), **images, custom_generate=speculate(), **GREEDY)
    decoder = tt.SpeculativeDecoder(llava, TOKENIZER)
    with pytest.raises(ValueError, match=r"^generate: pixel_values is not used here"):
        decoder.generate("to be", **images, **GREEDY)
    expected = llava.generate(**encoded(), **GREEDY)
    assert torch.equal(decoder.generate("to be", **GREEDY).sequences, expected)
    ours = llava.generate(**encoded(), custom_generate=speculate(), **GREEDY)
    assert torch.equal(ours, expected)


def test_inputs_that_change_what_the_model_computes_are_refused(target):
    ids = encoded().input_ids
    for name, value in (
        ("position_ids", torch.arange(3, 3 + ids.shape[1])[None]),
        ("inputs_embeds", torch.zeros(1, ids.shape[1], 32)),
    ):
        with pytest.raises(ValueError, match=rf"^generate: {name} is not used here"):
            target.generate(ids, **{name: value}, custom_generate=speculate(), **GREEDY)
    usual = {"position_ids": torch.arange(ids.shape[1])[None]}
    expected = target.generate(ids, **usual, **GREEDY)
    ours = target.generate(ids, **usual, custom_generate=speculate(), **GREEDY)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", ["output_scores", "output_logits", "output_hidden_states"])
def test_outputs_that_do_not_exist_here_are_refused(name, target):
    options = {"return_dict_in_generate": True, name: True}
    with pytest.raises(ValueError, match=rf"^generate: {name} cannot be honoured"):
        target.generate(**encoded(), custom_generate=speculate(), **options, **GREEDY)
    own = lively()
    setattr(own.generation_config, name, True)
    with pytest.raises(ValueError, match=rf"{name} cannot be honoured.*set {name}=False"):
        own.generate(**encoded(), custom_generate=speculate(), **GREEDY)
    with pytest.raises(ValueError, match=rf"{name} cannot be honoured.*set {name}=False"):
        tt.SpeculativeDecoder(own, TOKENIZER).generate("to be", **GREEDY)


def test_a_list_that_generate_would_take_for_true_is_refused(target, decoder):
    rows = TOKENIZER(["xy", "cd"], return_tensors="pt")
    with pytest.raises(ValueError, match=r"^generate: do_sample is a list.*decoder.generate"):
        target.generate(**rows, custom_generate=decoder, do_sample=[True, False], max_new_tokens=2)
    decoder.generate(rows, do_sample=[True, False], max_new_tokens=2)


def test_arguments_that_generate_does_not_pass_on_are_refused(target):
    streamer = TextIteratorStreamer(TOKENIZER, timeout=5)
    with pytest.raises(ValueError, match=r"^generate: streamer does not reach custom_generate"):
        target.generate(**encoded(), custom_generate=speculate(), streamer=streamer, **GREEDY)
    assert isinstance("".join(streamer), str)  # its reader does not wait forever
    with pytest.raises(ValueError, match=r"^generate: assistant_model does not reach"):
        target.generate(
            **encoded(), custom_generate=speculate(), assistant_model=lively(1), **GREEDY
        )


def test_the_ways_out_for_a_streamer_stream_the_text(target, decoder):
    inputs = encoded()
    expected = target.generate(**inputs, **GREEDY)[0, inputs.input_ids.shape[1] :]
    calls = {
        r"functools.partial\(decoder, streamer=streamer\) as custom_generate": lambda streamer: (
            target.generate(**inputs, custom_generate=partial(decoder, streamer=streamer), **GREEDY)
        ),
        r"decoder.generate\(streamer=streamer\)": lambda streamer: decoder.generate(
            inputs, streamer=streamer, **GREEDY
        ),
        r"tt.custom_generate\(...\) takes a streamer": lambda streamer: target.generate(
            **inputs, custom_generate=speculate(streamer=streamer), **GREEDY
        ),
    }
    for named, call in calls.items():
        streamer = TextIteratorStreamer(TOKENIZER, timeout=5)
        with pytest.raises(ValueError, match=named):
            target.generate(**inputs, custom_generate=decoder, streamer=streamer, **GREEDY)
        streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True, timeout=5)
        call(streamer)
        assert "".join(streamer) == TOKENIZER.decode(expected)


def test_they_are_refused_through_a_wrapper_too(target):
    callable_ = speculate()
    streamer = TextIteratorStreamer(TOKENIZER, timeout=5)
    for wrapped in (lambda *args, **kwargs: callable_(*args, **kwargs), callable_.__call__):
        with pytest.raises(ValueError, match=r"^generate: streamer does not reach"):
            target.generate(**encoded(), custom_generate=wrapped, streamer=streamer, **GREEDY)


def test_a_cache_that_may_change_the_logits_is_refused(target):
    class Coarse(DynamicCache):
        pass

    for cache, refused in ((Coarse(config=target.config), True), (DynamicCache(), False)):
        options = {"past_key_values": cache, "custom_generate": speculate(), **GREEDY}
        if refused:
            with pytest.raises(ValueError, match="past_key_values is a Coarse"):
                target.generate(**encoded(), **options)
        else:
            expected = target.generate(**encoded(), **GREEDY)
            assert torch.equal(target.generate(**encoded(), **options), expected)


def test_a_streamer_is_ended_when_a_call_fails(decoder, target):
    def failing(round_):
        raise ZeroDivisionError

    for prompt, options, error in (
        ([1, 9999], {}, ValueError),
        ("to be", {"watch": failing}, ZeroDivisionError),
    ):
        streamer = TextIteratorStreamer(TOKENIZER, timeout=5)
        with pytest.raises(error):
            decoder.generate(prompt, streamer=streamer, **options, **GREEDY)
        assert isinstance("".join(streamer), str)
    streamer = TextIteratorStreamer(TOKENIZER, timeout=5)
    with pytest.raises(ValueError, match="seed is -1"):
        target.generate(
            **encoded(), custom_generate=speculate(streamer=streamer), seed=-1, **GREEDY
        )
    assert isinstance("".join(streamer), str)


def test_a_target_put_in_training_mode_later_is_refused():
    model = lively(attention_dropout=0.5)
    decoder = tt.SpeculativeDecoder(model, TOKENIZER)
    callable_ = speculate()
    model.generate(**encoded(), custom_generate=callable_, **GREEDY)
    model.train()
    with pytest.raises(ValueError, match=r"in training mode.*call model.eval\(\)"):
        decoder.generate("to be", **GREEDY)
    with pytest.raises(ValueError, match=r"in training mode.*call model.eval\(\)"):
        model.generate(**encoded(), custom_generate=callable_, **GREEDY)


# ---- lengths ----


def test_lengths_have_the_precedence_of_generate():
    prompt = encoded().input_ids.shape[1]
    own = lively()
    own.generation_config.max_new_tokens = 9
    other = lively()
    other.generation_config.max_length = 20
    cases = (
        (lively(), {}, 128),
        (lively(), {"max_length": 11}, 11 - prompt),
        (lively(), {"generation_config": GenerationConfig(max_length=12)}, 12 - prompt),
        (lively(), {"generation_config": GenerationConfig(max_new_tokens=7)}, 7),
        (own, {}, 9),
        (own, {"max_new_tokens": 4}, 4),
        (own, {"generation_config": GenerationConfig(max_new_tokens=7)}, 7),
        (other, {}, 20 - prompt),
    )
    for model, options, expected in cases:
        decoder = tt.SpeculativeDecoder(model, TOKENIZER)
        plain = {"do_sample": False, "eos_token_id": 258} | options
        output = decoder.generate("to be", **plain)
        if output.stats.finish_reason == "length":
            assert output.stats.tokens == expected, options
        if options or model is not cases[0][0]:
            reference = model.generate(**encoded(), **plain)
            assert torch.equal(output.sequences, reference), options


def test_a_prompt_longer_than_max_length_is_refused(decoder):
    with pytest.raises(ValueError, match=r"^generate: max_length is 3 and the prompt has 5"):
        decoder.generate("to be", max_length=3)


# ---- prompts ----


def test_a_padded_tensor_is_read_as_generate_reads_it(decoder, target):
    ids = encoded().input_ids
    padded = torch.cat((torch.full((1, 3), 99), ids), 1)
    options = GREEDY | {"pad_token_id": 99}
    expected = target.generate(padded, **options)
    output = decoder.generate(padded, **options)
    assert torch.equal(output.sequences, expected)
    assert torch.equal(output.sequences[:, 3:], target.generate(ids, **options))


def test_what_a_tokenizer_returns_is_a_prompt(decoder):
    expected = decoder.generate("to be", **GREEDY).sequences
    for prompt in (
        encoded(),
        TOKENIZER("to be"),
        encoded().input_ids.numpy(),
        encoded().input_ids[0].numpy().astype(np.int32),
        encoded().input_ids[0].numpy().astype(">i4"),
        encoded().input_ids[0].numpy()[::-1].copy()[::-1],
        BatchEncoding({**TOKENIZER("to be"), "attention_mask": [1.0] * 5}),
        BatchEncoding({**TOKENIZER("to be"), "attention_mask": [2] * 5}),
        [np.int64(i) for i in TOKENIZER("to be").input_ids],
        list(encoded().input_ids[0]),
    ):
        assert torch.equal(decoder.generate(prompt, **GREEDY).sequences, expected), type(prompt)
    rows = {
        "input_ids": [[7, 7, *TOKENIZER("to be").input_ids]],
        "attention_mask": [[0, 0] + [1] * len(TOKENIZER("to be").input_ids)],
    }
    assert torch.equal(decoder.generate(rows, **GREEDY).sequences[:, 2:], expected)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (b"The cat", TypeError, "prompt is a bytes; give text"),
        (bytearray(b"The cat"), TypeError, "prompt is a bytearray"),
        ([b"The cat"], TypeError, "prompt is a bytes"),
        (torch.tensor([True, False]), TypeError, "prompt is a torch.bool tensor"),
        ([True, False], TypeError, "prompt is a bool"),
        (np.array([0.5]), TypeError, "prompt is a torch.float64 tensor"),
        (np.array(["a"]), TypeError, "prompt is a ndarray"),
        (torch.zeros(0, 3, dtype=torch.int64), ValueError, "prompt is empty"),
        ([1.0, 2.0], TypeError, "prompt is a float"),
        (None, TypeError, "prompt is a NoneType"),
        ({"role": "user", "content": "x"}, TypeError, "a mapping with role, content"),
        ([["a", "b"]], TypeError, "prompt holds a list that holds prompts itself"),
        ({"input_ids": [[1]], "token_type_ids": [[1]]}, ValueError, "holds token_type_ids"),
        ({"input_ids": None}, TypeError, "prompt holds a NoneType as input_ids"),
        ({"input_ids": []}, TypeError, "prompt holds a list as input_ids"),
        ({"input_ids": [[0.5]]}, TypeError, "prompt holds input_ids that are not integers"),
        ([10**30], ValueError, "prompt holds an id beyond 64 bits"),
        ({"input_ids": [[1]], "pixel_values": 3}, ValueError, "prompt holds pixel_values"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, ValueError, "different shapes"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, ValueError, "prompt is empty"),
    ],
)
def test_invalid_prompts_are_refused(prompt, error, message, decoder):
    with pytest.raises(error, match=rf"^generate: .*{message}"):
        decoder.generate(prompt, **GREEDY)


# ---- arguments ----


@pytest.mark.parametrize("method", METHODS)
def test_numpy_integers_are_integers(method, target):
    decoder = tt.SpeculativeDecoder(
        target, TOKENIZER, tt.ModelDrafter(lively(1), TOKENIZER), method=method,
        draft_length=np.int32(3),
    )  # fmt: skip
    ours = decoder.generate("x", seed=np.int64(3), max_new_tokens=np.int16(5), do_sample=True)
    plain = decoder.generate("x", seed=3, max_new_tokens=5, do_sample=True)
    assert torch.equal(ours.sequences, plain.sequences)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: d.generate("x", max_new_tokens=5.0), TypeError, "max_new_tokens is 5.0"),
        (lambda d: d.generate("x", max_new_tokens="5"), TypeError, "max_new_tokens is '5'"),
        (lambda d: d.generate("x", max_new_tokens=True), TypeError, "max_new_tokens is True"),
        (lambda d: d.generate("x", max_length=9.5), TypeError, "generate: max_length is 9.5"),
        (lambda d: d.generate("x", temprature=1), ValueError, "did you mean temperature"),
        (lambda d: d.generate("x", method="tli"), ValueError, "given to SpeculativeDecoder"),
        (lambda d: d.generate(**encoded()), ValueError, r"input_ids .*: generate\(inputs\)"),
        (lambda d: tt.SpeculativeDecoder(d.target_model, TOKENIZER, tt.ModelDrafter), TypeError,
         "drafter is the class ModelDrafter; give an object"),
        (lambda d: d.generate("x", generation_config={}), TypeError, "generation_config is a dict"),
        (lambda d: d.generate("x", stop_strings=5), TypeError, "generate: stop_strings is 5"),
        (lambda d: d.generate("x", stop_strings=[""]), TypeError, "stop_strings is"),
        (lambda d: d.generate("x", logits_processor=5), TypeError, "logits_processor is an int"),
        (lambda d: d.generate("x", watch=5), TypeError, "generate: watch is 5; give"),
        (lambda d: d.generate("x", streamer=5), TypeError, "generate: streamer is an int"),
        (lambda d: d.generate("x", seed=1.5), TypeError, "generate: seed is 1.5, a float"),
        (lambda d: d.generate("x", seed=2**63), ValueError, "seed is 9223372036854775808"),
        (lambda d: tt.SpeculativeDecoder(d.target_model, TOKENIZER, draft_length=2.5), TypeError,
         "SpeculativeDecoder: draft_length is 2.5, a float; give an integer"),
        (lambda d: tt.SpeculativeDecoder(d.target_model, TOKENIZER, lively(1)), TypeError,
         r"drafter is a LlamaForCausalLM; pass ModelDrafter\(model, tokenizer\)"),
        (lambda d: tt.SpeculativeDecoder(d.target_model, TOKENIZER, "smollm2"), TypeError,
         "drafter is a str"),
        (lambda d: tt.ModelDrafter("smollm2-135m", TOKENIZER), TypeError,
         "ModelDrafter: model is a str"),
        (lambda d: tt.ModelDrafter(d.target_model, None), TypeError, "tokenizer is a NoneType"),
        (lambda d: tt.SpeculativeDecoder(d.target_model, None), TypeError,
         "tokenizer is a NoneType"),
        (lambda d: tt.SpeculativeDecoder(d.target_model, TOKENIZER, method=3), TypeError,
         "SpeculativeDecoder: method is 3"),
        (lambda d: tt.SpeculativeDecoder.from_pretrained(None), TypeError,
         "from_pretrained: target is None"),
        (lambda d: tt.SpeculativeDecoder.from_pretrained(d.target_model), TypeError,
         "from_pretrained: target is a LlamaForCausalLM"),
        (lambda d: tt.SpeculativeDecoder.from_pretrained("x", 3), TypeError,
         "from_pretrained: draft is an int"),
        (lambda d: tt.custom_generate(draft_model="x", draft_tokenizer=TOKENIZER,
                                      target_tokenizer=TOKENIZER), TypeError, "model is a str"),
        (lambda d: tt.methods.Slrs(lookahead=1.5), TypeError, "Slrs: lookahead is 1.5"),
        (lambda d: tt.methods.Slrs(strings=0), ValueError, "Slrs: strings is 0"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(make, error, message, decoder):
    with pytest.raises(error, match=message):
        make(decoder)


def test_a_token_added_to_the_tokenizer_alone_is_left_out():
    """Sampling, greedy and every method, with a tokenizer longer than the models."""
    tokenizer = toys.byte_level_tokenizer([("a", "b"), ("Ġ", "a")])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens(["zebra"])
    target = lively()
    assert len(tokenizer) > target.config.vocab_size
    expected = target.generate(**encoded(), **GREEDY)
    for method in METHODS:
        drafter = tt.ModelDrafter(lively(1), tokenizer)
        decoder = tt.SpeculativeDecoder(target, tokenizer, drafter, method=method, draft_length=3)
        sampled = decoder.generate("to be", do_sample=True, max_new_tokens=20, seed=0)
        assert int(sampled.sequences.max()) < target.config.vocab_size
        assert torch.equal(decoder.generate("to be", **GREEDY).sequences, expected)
    vocabulary = decoder.vocabulary
    assert len(vocabulary) == target.config.vocab_size
    assert vocabulary.decode(vocabulary.encode(b"a zebra")) == b"a zebra"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64, "meta"])
def test_the_defaults_of_torch_do_not_matter(method, default, target):
    def run() -> list:
        drafter = tt.ModelDrafter(draft, draft_tokenizer)
        decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, draft_length=3)
        options = {"do_sample": True, "max_new_tokens": 10, "seed": 5}
        output = decoder.generate("to be", **options)
        assert output.stats.proposed > 0
        return output.sequences.tolist()

    draft_tokenizer = toys.byte_level_tokenizer([("t", "h"), ("b", "e")])
    draft = lively(1).to(torch.bfloat16)
    expected = run()
    try:
        if default == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(default)
        found = run()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert found == expected


# ---- stop strings, streamers ----

READABLE = {"do_sample": False, "max_new_tokens": 20, "suppress_tokens": list(range(95, 259))}
"""ASCII alone, so that what is decoded is what is matched."""


def test_stop_strings_of_arguments_and_configs_end_the_text(target, decoder):
    free = decoder.generate("abc", **READABLE)
    stop = free.text[4:6]
    ends = free.text[: free.text.index(stop) + len(stop)]
    own = lively()
    own.generation_config.stop_strings = [stop]
    config = GenerationConfig(**READABLE, stop_strings=[stop])
    plain = READABLE
    drafter = tt.ModelDrafter(lively(1), TOKENIZER)
    outputs = [
        decoder.generate("abc", stop_strings=stop, **plain),
        decoder.generate("abc", stop_strings=[stop], tokenizer=TOKENIZER, **plain),
        decoder.generate("abc", generation_config=config),
        tt.SpeculativeDecoder(own, TOKENIZER, drafter).generate("abc", **plain),
    ]
    for output in outputs:
        assert output.text == ends
        assert output.stats.finish_reason == "stop_string"
    for options in ({"stop_strings": stop}, {"stop_strings": [stop], "tokenizer": TOKENIZER}):
        ids = target.generate(**encoded("abc"), custom_generate=speculate(), **options, **plain)
        new = ids[0, encoded("abc").input_ids.shape[1] :]
        assert TOKENIZER.decode(new, clean_up_tokenization_spaces=False) == ends


def test_empty_stop_strings_are_ignored(decoder):
    plain = decoder.generate("abc", **READABLE).text
    assert decoder.generate("abc", stop_strings=[], **READABLE).text == plain


def test_a_tokenizer_of_another_model_is_noticed(caplog):
    tt.ModelDrafter(lively(vocab_size=100), TOKENIZER)
    assert "the tokenizer has 259 tokens and the model 100 rows" in caplog.text


def test_a_pipeline_stops_at_its_stop_sequence(target, decoder):
    free = decoder.generate("abc", **READABLE).text
    stop = free[4:6]
    pipe = pipeline("text-generation", model=target, tokenizer=TOKENIZER)
    plain = READABLE | {"stop_sequence": stop}
    expected = pipe("abc", **plain)
    assert pipe("abc", custom_generate=speculate(), **plain) == expected
    assert expected[0]["generated_text"].endswith(stop)


def test_a_streamer_takes_one_text(target, decoder):
    streamer = TextStreamer(TOKENIZER)
    with pytest.raises(ValueError, match=r"^generate: streamer takes one text .* there are 2"):
        decoder.generate("x", streamer=streamer, num_return_sequences=2, do_sample=True)
    with pytest.raises(ValueError, match=r"^generate: streamer takes one text .* there are 2"):
        decoder.generate(["x", "y"], streamer=streamer)
    rows = TOKENIZER(["xy", "cd"], return_tensors="pt")
    with pytest.raises(ValueError, match=r"^generate: streamer takes one text .* there are 2"):
        target.generate(**rows, custom_generate=speculate(streamer=streamer), **GREEDY)


# ---- results ----


def test_a_batch_gives_lists_and_a_single_prompt_does_not(decoder):
    ids = TOKENIZER("ab").input_ids
    for prompt in ("ab", ids, torch.tensor(ids), np.array(ids)):
        assert isinstance(decoder.generate(prompt, **GREEDY).text, str)
    for prompt in (
        ["ab"],
        [ids],
        [TOKENIZER("ab")],
        torch.tensor([ids]),
        TOKENIZER("ab", return_tensors="pt"),
    ):
        output = decoder.generate(prompt, **GREEDY)
        assert isinstance(output.text, list)
        assert isinstance(output.stats, list)


def test_statistics_become_json(decoder):
    stats = decoder.generate("ab", **GREEDY).stats
    read = json.loads(json.dumps(stats.to_dict()))
    assert read["tokens"] == 8
    assert read["acceptance_rate"] == stats.acceptance_rate
    assert sum(read["accepted_per_round"].values()) == stats.target_forwards
    assert json.loads(json.dumps(asdict(stats)))["method"] == "coupled"


def test_an_output_moves_to_a_device(decoder):
    output = decoder.generate("ab", **GREEDY)
    moved = output.to("cpu", torch.int32)
    assert moved.sequences.dtype == torch.int32
    assert (moved.text, moved.stats) == (output.text, output.stats)


def test_finish_reasons(target):
    decoder = tt.SpeculativeDecoder(target, TOKENIZER)
    text = decoder.generate("ab", **GREEDY)
    assert text.stats.finish_reason == "length"
    second = int(text.sequences[0, -7])
    ended = decoder.generate("ab", eos_token_id=second, **GREEDY)
    assert ended.stats.finish_reason == "eos"
    assert int(ended.sequences[0, -1]) == second
    late = decoder.generate("ab", max_time=0.0, **GREEDY)
    assert (late.stats.finish_reason, late.stats.tokens) == ("time", 1)


def test_the_version_is_the_packages():
    assert tt.__version__ == "0.1.0"


@pytest.mark.parametrize("eos", [265, [0, 265], -1])
def test_eos_ids_that_the_tokenizer_lacks_are_ignored(eos):
    model = tiny()
    model.generation_config.eos_token_id = eos
    output = tt.SpeculativeDecoder(model, TOKENIZER).generate("ab", **GREEDY)
    assert torch.equal(output.sequences, model.generate(**encoded("ab"), **GREEDY))


@pytest.mark.parametrize("eos", [np.int64(5), torch.tensor(5), torch.tensor([5, 7])])
def test_ends_of_turn_of_any_integer_type(eos):
    model = lively(pad_token_id=None)
    model.generation_config.pad_token_id = None
    rows = TOKENIZER(["xy", "cd"], return_tensors="pt")
    options = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": eos}
    expected = model.generate(**rows, **options)
    assert torch.equal(model.generate(**rows, **options, custom_generate=speculate()), expected)


def test_tokenizers_without_an_end_of_turn_work():
    tokenizer = toys.byte_level_tokenizer()
    tokenizer.eos_token = None
    model = tiny(eos_token_id=None, pad_token_id=None)
    output = tt.SpeculativeDecoder(model, tokenizer).generate(["ab", "c"], max_new_tokens=4)
    assert output.sequences.shape == (2, 6)
