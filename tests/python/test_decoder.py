"""The user's interface: prompts, outputs, statistics, and errors before any model runs."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    DynamicCache,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    TextStreamer,
)

import tokentiming as tt
from tests.support import toys
from tests.support.small_models import HEAD as SIZE
from tests.support.small_models import TOKENIZER, tiny
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.tree import Tree


class NeverRun(torch.nn.Module):
    """Replaces a model's first layer, and fails if the model runs."""

    def forward(self, *args, **kwargs):
        raise AssertionError("the model ran before the arguments were checked")


@pytest.fixture(scope="module")
def target():
    return tiny()


@pytest.fixture(scope="module")
def decoder(target):
    return tt.SpeculativeDecoder(target, TOKENIZER, tt.ModelDrafter(tiny(seed=1), TOKENIZER))


def generate_alone(target, text: str, **options) -> torch.Tensor:
    return target.generate(**TOKENIZER(text, return_tensors="pt"), **options)


# ---- outputs ----


def test_greedy_ids_equal_those_of_generate(target, decoder):
    for text in ("a", "hello there", "日本"):
        expected = generate_alone(target, text, do_sample=False, max_new_tokens=20)
        assert torch.equal(
            decoder.generate(text, do_sample=False, max_new_tokens=20).sequences, expected
        )


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[5], [7, 8]]},
        {"min_new_tokens": 10},
        {"eos_token_id": [0, 17]},
    ],
)
def test_transformers_own_processors_are_applied(target, options):
    own = toys.ProphetDrafter(decoder_vocabulary(target), b"")
    expected = generate_alone(target, "ab ab", do_sample=False, max_new_tokens=24, **options)
    own.continuation = own.vocabulary.decode(expected[0, 4:].tolist())
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, own, draft_length=4)
    output = decoder.generate("ab ab", do_sample=False, max_new_tokens=24, **options)
    assert torch.equal(output.sequences, expected)


def decoder_vocabulary(target) -> tt.Vocabulary:
    return tt.SpeculativeDecoder(target, TOKENIZER).vocabulary


def test_sliding_windows_roll_back(target):
    sliding = tiny(MistralForCausalLM, MistralConfig, sliding_window=8)
    drafter = tt.ModelDrafter(
        tiny(MistralForCausalLM, MistralConfig, 1, sliding_window=8), TOKENIZER
    )
    decoder = tt.SpeculativeDecoder(sliding, TOKENIZER, drafter, draft_length=5)
    expected = generate_alone(sliding, "hello sliding", do_sample=False, max_new_tokens=40)
    output = decoder.generate("hello sliding", do_sample=False, max_new_tokens=40)
    assert torch.equal(output.sequences, expected)


@pytest.mark.parametrize("window", [None, 6])
def test_a_cached_model_gives_the_logits_of_a_fresh_one(window):
    kind = (
        (LlamaForCausalLM, LlamaConfig) if window is None else (MistralForCausalLM, MistralConfig)
    )
    model = tiny(*kind, **({} if window is None else {"sliding_window": window}))
    cached = TorchRunner(model)
    generator = torch.Generator().manual_seed(0)
    ids = [1, 2, 3]
    for _ in range(60):
        cut = int(torch.randint(0, min(len(ids), 12), (), generator=generator))
        more = torch.randint(1, SIZE, (1 + cut % 4,), generator=generator).tolist()
        ids = (ids[: len(ids) - cut] or [1]) + more
        ids = ids[-100:]
        keep = min(len(more), len(ids))
        with torch.inference_mode():
            fresh = model(torch.tensor([ids]), past_key_values=DynamicCache(config=model.config))
        (logits,) = cached.read(
            [ids[: len(ids) - keep + 1]], [Tree.chain(ids[len(ids) - keep + 1 :])]
        )
        torch.testing.assert_close(logits, fresh.logits[0, -keep:])


def test_prompts_of_every_form(decoder):
    ids = TOKENIZER("hi").input_ids
    options = {"do_sample": False, "max_new_tokens": 6}
    single = decoder.generate("hi", **options)
    for prompt in (ids, torch.tensor(ids), torch.tensor([ids]), ["hi"]):
        assert torch.equal(decoder.generate(prompt, **options).sequences, single.sequences)
    two = decoder.generate(["hi", "hello"], **options)
    assert len(two.text) == len(two.stats) == 2
    assert two.text[0] == single.text
    assert two.sequences.shape[0] == 2


def test_chat_messages_go_through_each_models_own_template(target):
    draft_tokenizer = toys.byte_level_tokenizer()
    ours = toys.byte_level_tokenizer()
    ours.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    draft_tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    drafter = tt.ModelDrafter(tiny(seed=1), draft_tokenizer)
    decoder = tt.SpeculativeDecoder(target, ours, drafter)
    prompts = []
    output = decoder.generate(
        [{"role": "user", "content": "hi"}],
        max_new_tokens=3,
        watch=lambda round_: prompts.append(draft_tokenizer.decode(drafter.texts[0].prompt)),
    )
    assert ours.decode(output.sequences[0, :4]) == "[hi]"
    assert set(prompts) == {"<hi>"}
    assert not drafter.texts


def test_statistics_add_up(decoder):
    stats = decoder.generate("count", do_sample=False, max_new_tokens=30).stats
    assert stats.tokens == 30
    assert sum(stats.accepted_per_round.values()) == stats.target_forwards
    assert sum(n * rounds for n, rounds in stats.accepted_per_round.items()) == stats.accepted
    assert stats.accepted <= stats.proposed
    assert 0 < sum(stats.stage_seconds.values()) <= stats.seconds
    assert stats.exact
    assert stats.tokens_per_second > 0


def test_seeds_and_torchs_generator_determine_the_text(decoder):
    def sample(**options):
        return decoder.generate("x", do_sample=True, max_new_tokens=12, **options).sequences

    assert torch.equal(sample(seed=3), sample(seed=3))
    assert not torch.equal(sample(seed=3), sample(seed=4))
    torch.manual_seed(7)
    first = sample()
    torch.manual_seed(7)
    assert torch.equal(first, sample())


def test_several_returns_differ_and_do_not_depend_on_the_drafter(target, decoder):
    options = {"do_sample": True, "seed": 1, "max_new_tokens": 10, "num_return_sequences": 3}
    rows = decoder.generate("x", **options).sequences.tolist()
    assert len({tuple(row) for row in rows}) == 3
    without = tt.SpeculativeDecoder(target, TOKENIZER).generate("x", **options)
    assert without.sequences.tolist() == rows


def test_padding_of_the_head_is_never_drawn(target):
    class Padding(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, len(TOKENIZER) :] = 50.0
            return scores

    decoder = tt.SpeculativeDecoder(target, TOKENIZER)
    output = decoder.generate(
        "x", do_sample=True, seed=0, max_new_tokens=20, logits_processor=[Padding()]
    )
    assert int(output.sequences.max()) < len(TOKENIZER)


@pytest.fixture(scope="module")
def padded_head():
    """A model whose head has larger logits at its padding than at its tokens."""
    model = tiny(tie_word_embeddings=False, initializer_range=0.2)
    with torch.no_grad():
        model.lm_head.weight[len(TOKENIZER) :] = 50 * model.lm_head.weight[: SIZE - len(TOKENIZER)]
    return model


@pytest.mark.parametrize("method", ["coupled", "slem", "tli", "pushforward", "slrs"])
@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.4}])
def test_warpers_keep_tokens_and_no_padding_of_the_head(method, options, padded_head):
    prompt = "to be"
    ids = torch.tensor([TOKENIZER(prompt).input_ids])
    logits = padded_head(ids).logits[:, -1]
    assert int(logits.argmax()) >= len(TOKENIZER)
    kept = {"top_k": 0, "top_p": 1.0, **options}
    probs = expected_probs(logits[:, : len(TOKENIZER)], **kept)
    drafter = tt.ModelDrafter(tiny(seed=1), TOKENIZER)
    decoder = tt.SpeculativeDecoder(padded_head, TOKENIZER, drafter, method=method, draft_length=2)
    draws = 400
    output = decoder.generate(
        prompt, do_sample=True, max_new_tokens=2, seed=0, num_return_sequences=draws, **kept
    )
    counts = torch.bincount(output.sequences[:, ids.shape[1]], minlength=SIZE)
    assert int(counts[len(TOKENIZER) :].sum()) == 0
    distance = (counts[: len(TOKENIZER)] / draws - probs).abs().sum()
    assert distance < 3 * float((probs > 0).sum() / draws) ** 0.5


def expected_probs(logits: torch.Tensor, *, top_k: int, top_p: float, min_p: float = 0.0):
    """The distribution ``[V]`` of logits ``[1, V]``, by definition."""
    probs = logits[0].softmax(0)
    order = probs.argsort(descending=True)
    before = probs[order].cumsum(0) - probs[order]
    kept = torch.zeros(len(probs), dtype=torch.bool)
    kept[order[: top_k or None]] = True
    kept[order[before >= top_p]] = False
    kept &= probs >= min_p * probs.max()
    return torch.where(kept, probs, 0) / probs[kept].sum()


def test_stop_strings_end_the_text_there(target, decoder):
    free = decoder.generate("abc", do_sample=False, max_new_tokens=20)
    stop = free.text[4:6]
    stopped = decoder.generate("abc", do_sample=False, max_new_tokens=20, stop_strings=[stop])
    assert stopped.text == free.text[: free.text.index(stop) + len(stop)]


def test_a_streamer_gets_the_text_and_watchers_the_rounds(decoder, capsys):
    rounds = []
    output = decoder.generate(
        "abc",
        do_sample=False,
        max_new_tokens=12,
        streamer=TextStreamer(TOKENIZER, skip_prompt=True),
        watch=rounds.append,
    )
    assert capsys.readouterr().out.strip() == output.text.strip()
    new = output.sequences[0, len(TOKENIZER("abc").input_ids) :].tolist()
    assert [token for round_ in rounds for token in round_.tokens] == new


def test_the_drafters_end_of_turn_proposes_the_targets(target):
    class Ends(toys.Drafter):
        def fill(self, text, draft):
            draft.extend([0])

    decoder = tt.SpeculativeDecoder(target, TOKENIZER, Ends(decoder_vocabulary(target)))

    class OnlyEnd(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([0]), 0.0)

    output = decoder.generate("x", do_sample=True, logits_processor=[OnlyEnd()])
    assert output.stats.accepted == output.stats.tokens == 1


@pytest.mark.parametrize("method", tt.methods.METHODS)
def test_every_method_runs_on_models(target, method):
    """Between tokenizers that differ, and heads that are padded."""
    draft_tokenizer = toys.byte_level_tokenizer([("a", "b"), ("ab", "c"), ("b", "c")])
    drafter = tt.ModelDrafter(tiny(seed=1), draft_tokenizer)
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, method=method, draft_length=3)
    options = {"do_sample": True, "temperature": 0.9, "top_k": 60, "max_new_tokens": 40}
    output = decoder.generate("abc ab", seed=3, **options)
    assert torch.equal(output.sequences, decoder.generate("abc ab", seed=3, **options).sequences)
    assert int(output.sequences.max()) < len(TOKENIZER)
    assert output.stats.proposed > 0
    assert output.stats.exact == (method != "tokentiming")
    assert sum(output.stats.transfer_cases.values()) == (
        output.stats.proposed if method == "tokentiming" else 0
    )
    greedy = decoder.generate("abc ab", do_sample=False, max_new_tokens=20)
    expected = generate_alone(target, "abc ab", do_sample=False, max_new_tokens=20)
    assert torch.equal(greedy.sequences, expected)
    assert greedy.stats.exact


# ---- errors ----


def test_an_unknown_method_is_refused_with_the_known_ones(target):
    with pytest.raises(ValueError, match="is 'magic'; choose one of coupled, pushforward, slem"):
        tt.SpeculativeDecoder(target, TOKENIZER, method="magic")
    with pytest.raises(ValueError, match="method is 'magic'"):
        tt.custom_generate(
            draft_model=target,
            draft_tokenizer=TOKENIZER,
            target_tokenizer=TOKENIZER,
            method="magic",
        )


def test_recurrent_states_are_refused_by_name():
    jamba = JambaForCausalLM(
        JambaConfig(
            vocab_size=SIZE,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            num_experts=2,
            mamba_d_state=4,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
            pad_token_id=0,
        )
    ).eval()
    with pytest.raises(ValueError, match="JambaForCausalLM keeps a recurrent state"):
        tt.ModelDrafter(jamba, TOKENIZER)
    with pytest.raises(ValueError, match="JambaForCausalLM keeps a recurrent state"):
        tt.SpeculativeDecoder(jamba, TOKENIZER)


def test_unsupported_models_are_refused(target):
    with pytest.raises(TypeError, match="model is a Linear"):
        tt.SpeculativeDecoder(torch.nn.Linear(2, 2), TOKENIZER)
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=SIZE, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).eval()
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        tt.SpeculativeDecoder(t5, TOKENIZER)
    with pytest.raises(ValueError, match=r"in training mode.*call model.eval\(\)"):
        tt.SpeculativeDecoder(tiny().train(), TOKENIZER)
    with pytest.raises(ValueError, match=r"^SpeculativeDecoder: .* is on meta.*\.to\('cpu'\)"):
        tt.SpeculativeDecoder(tiny().to("meta"), TOKENIZER)
    with pytest.raises(ValueError, match=r"^ModelDrafter: .* is on meta"):
        tt.ModelDrafter(tiny().to("meta"), TOKENIZER)


def test_models_on_a_gpu_need_a_build_for_it(monkeypatch):
    model = tiny()
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr(tt.ops, "has_cuda", lambda: False)
    with pytest.raises(ValueError, match="built without CUDA"):
        tt.SpeculativeDecoder(model, TOKENIZER)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("", {}, ValueError, "prompt is empty"),
        ([], {}, ValueError, "prompt is empty"),
        (torch.zeros(1, 0, dtype=torch.int64), {}, ValueError, "prompt is empty"),
        (3.5, {}, TypeError, "prompt is a float"),
        (torch.tensor([0.5]), {}, TypeError, r"torch.float32 tensor of shape \[1\]"),
        (torch.zeros(1, 2, dtype=torch.int64, device="meta"), {}, ValueError, "prompt is on meta"),
        ([1, SIZE], {}, ValueError, f"id {SIZE}, outside the target's 0..{SIZE - 1}"),
        ([1, -1], {}, ValueError, "id -1, outside"),
        ([{"role": "user", "content": "x"}], {}, ValueError, "no chat template"),
        ("x", {"max_new_tokens": -3}, ValueError, "max_new_tokens is -3; give at least 1"),
        ("x", {"max_new_tokens": 0}, ValueError, "max_new_tokens is 0; give at least 1"),
        ("x", {"max_new_tokens": 256}, ValueError, "exceed the target's context of 256"),
        ("x", {"seed": -1}, ValueError, "seed is -1"),
        ("x", {"num_beams": 3}, ValueError, "beam search cannot be speculated on"),
        ("x", {"attention_mask": torch.ones(1, 1)}, ValueError, "attention_mask cannot be"),
        ("x", {"output_scores": True}, ValueError, "output_scores cannot be honoured"),
        (["x", "y"], {"streamer": object()}, ValueError, "one text at a time and there are 2"),
    ],
)
def test_bad_input_is_refused_before_any_model_runs(prompt, options, error, message):
    models = [tiny(), tiny(seed=1)]
    decoder = tt.SpeculativeDecoder(models[0], TOKENIZER, tt.ModelDrafter(models[1], TOKENIZER))
    for model in models:
        model.model.layers[0] = NeverRun()
    with pytest.raises(error, match=rf"^generate: .*{message}"):
        decoder.generate(prompt, **options)


def test_a_negative_draft_length_is_refused(target):
    with pytest.raises(ValueError, match="draft_length is -1; give at least 0"):
        tt.SpeculativeDecoder(target, TOKENIZER, draft_length=-1)


def test_the_decoder_goes_on_after_an_interruption(target, decoder):
    class InterruptionError(Exception):
        pass

    def interrupt(round_):
        raise InterruptionError

    expected = generate_alone(target, "again", do_sample=False, max_new_tokens=10)
    with pytest.raises(InterruptionError):
        decoder.generate("again", do_sample=False, max_new_tokens=10, watch=interrupt)
    output = decoder.generate("again", do_sample=False, max_new_tokens=10)
    assert torch.equal(output.sequences, expected)


def test_custom_generate_passes_arguments_on(target):
    rounds = []
    speculate = tt.custom_generate(
        draft_model=tiny(seed=1),
        draft_tokenizer=TOKENIZER,
        target_tokenizer=TOKENIZER,
        stop_strings="zz",
        streamer=type("Streamer", (), {"put": rounds.append, "end": lambda self: None})(),
    )
    inputs = TOKENIZER("hi", return_tensors="pt")
    options = {"do_sample": True, "max_new_tokens": 6, "custom_generate": speculate}
    first = target.generate(**inputs, seed=4, **options)
    again = target.generate(**inputs, seed=4, return_dict_in_generate=True, **options)
    assert torch.equal(first, again.sequences)
    assert again.stats[0].tokens == 6
    assert rounds
