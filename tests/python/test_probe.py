"""Models whose logits depend on how they are read are refused; all others pass the probe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import LlamaForCausalLM

import tokentiming as tt
from tests.support.small_models import HEAD, TOKENIZER, lively
from tokentiming.runners import masks
from tokentiming.runners.cache import ForestCache
from tokentiming.runners.probe import require_same_logits
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.tree import TEXT, Tree

BERT = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 128, "is_decoder": True,
}  # fmt: skip
LLAMA = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
       "max_position_embeddings": 128, "word_embed_proj_dim": 32}  # fmt: skip

REFUSED = {
    "Roberta": BERT,
    "Camembert": BERT,
    "XLMRoberta": BERT,
    "XLMWithLMHeadModel": {"emb_dim": 48, "n_layers": 2, "n_heads": 4, "causal": True},
    "XLNetLMHeadModel": {"d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "CpmAnt": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "dim_head": 16,
               "dim_ff": 32},
}  # fmt: skip
ACCEPTED = {
    "BertLMHeadModel": BERT,
    "GPT2LMHeadModel": GPT2,
    "CodeGen": GPT2 | {"rotary_dim": 4},
    "OPT": OPT,
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "GPTNeoX": {**LLAMA, "num_key_value_heads": None},
    "Llama": LLAMA,
    "Mistral": LLAMA | {"sliding_window": 4},
    "Qwen2": LLAMA,
    "Phi3": LLAMA | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "Olmo2": LLAMA | {"eos_token_id": 7, "pad_token_id": 1},
    "Cohere": LLAMA | {"bos_token_id": 5, "eos_token_id": 6},
}


def make(name: str, settings: dict) -> nn.Module:
    whole = name if name.endswith("Model") else f"{name}ForCausalLM"
    model_class = getattr(transformers, whole)
    torch.manual_seed(0)
    sizes = {"vocab_size": HEAD} | {key: v for key, v in settings.items() if v is not None}
    return model_class(model_class.config_class(**sizes)).eval()


@pytest.mark.parametrize("name", REFUSED)
def test_models_with_other_logits_in_pieces_are_refused_by_name(name):
    model = make(name, REFUSED[name])
    cause = "gives other logits when a text is read piece by piece|cannot be read piece by piece"
    for caller, construct in (
        ("SpeculativeDecoder", tt.SpeculativeDecoder),
        ("ModelDrafter", tt.ModelDrafter),
    ):
        with pytest.raises(ValueError, match=rf"^{caller}: {name}\w* ({cause})"):
            construct(model, TOKENIZER)


@pytest.mark.parametrize("name", ACCEPTED)
def test_other_models_give_the_ids_of_generate(name):
    model = make(name, ACCEPTED[name])
    drafter = tt.ModelDrafter(lively(1), TOKENIZER)
    decoder = tt.SpeculativeDecoder(model, TOKENIZER, drafter, draft_length=3)
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": 9}
    expected = model.generate(**TOKENIZER("to be", return_tensors="pt"), **options)
    assert torch.equal(decoder.generate("to be", **options).sequences, expected)


@pytest.mark.parametrize("fill", [-1e4, torch.finfo(torch.float32).min, -torch.inf])
def test_a_masked_part_of_the_head_does_not_hide_differences(fill):
    def mask(module, inputs, logits):
        return logits.masked_fill(torch.arange(logits.shape[-1]) >= HEAD // 2, fill)

    wrong = make("Roberta", BERT)
    wrong.lm_head.register_forward_hook(mask)
    with pytest.raises(ValueError, match="gives other logits"):
        tt.SpeculativeDecoder(wrong, TOKENIZER)
    right = make("Llama", LLAMA)
    right.lm_head.register_forward_hook(mask)
    tt.SpeculativeDecoder(right, TOKENIZER)


@pytest.mark.parametrize("name", ["MegatronBert", "Ernie", "RoFormer"])
def test_bidirectional_models_are_refused(name):
    """Encoders attend in both directions, so that a token changes the logits before it."""
    with pytest.raises(ValueError, match="gives other logits"):
        tt.SpeculativeDecoder(make(name, BERT | {"is_decoder": False}), TOKENIZER)


@pytest.mark.parametrize("name", ACCEPTED)
def test_models_that_count_positions_in_a_mask_read_no_forests(name):
    """Bloom (ALiBi) needs a mask of two dimensions, in which a tree cannot be written."""
    model = make(name, ACCEPTED[name])
    for _ in range(2):  # checked once, and remembered
        runner = TorchRunner(model)
        require_same_logits(model, runner, "here")
        assert runner.supports_forests is (name != "Bloom")
    if name == "Bloom":
        with pytest.raises(ValueError, match=r"^read: BloomForCausalLM gives other logits"):
            runner.read([[5]], [Tree([6, 7], [TEXT, TEXT])])


class Sequential(LlamaForCausalLM):
    """Ignores the given mask, as a custom attention might."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = torch.ones_like(attention_mask).tril(
                attention_mask.shape[3] - attention_mask.shape[2]
            )
        return super().forward(input_ids, attention_mask=attention_mask, **kwargs)


def test_support_for_forests_is_probed():
    model = lively()
    model.__class__ = Sequential
    runner = TorchRunner(model)
    require_same_logits(model, runner, "here")
    assert not runner.supports_forests
    model = lively()
    runner = TorchRunner(model)
    runner.supports_forests = False  # as with attention that takes no mask
    require_same_logits(model, runner, "here")
    assert not runner.supports_forests
    runner = TorchRunner(model)
    require_same_logits(model, runner, "here")
    assert runner.supports_forests


def seen_by_siblings(parents):
    """Two nodes see one another if both follow the same."""
    own = ANCESTORS(parents)
    return own | (np.equal.outer(parents, parents) & np.tri(len(parents), dtype=bool))


def positions_by_row(*arguments):
    rows = ROWS(*arguments)
    return dataclasses.replace(rows, positions=rows.columns)


ANCESTORS, ROWS = masks.ancestors, masks.Rows.of


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (masks, "ancestors", seen_by_siblings),
        (masks.Rows, "of", staticmethod(positions_by_row)),
        (ForestCache, "keep", lambda *_: None),
    ],
)
def test_one_wrong_row_of_a_forest_is_noticed(owner, name, wrong, monkeypatch):
    monkeypatch.setattr(owner, name, wrong)
    runner = TorchRunner(lively())
    require_same_logits(runner.model, runner, "here")
    assert not runner.supports_forests


LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 4, "long_factor": [4.0, 5.0, 6.0, 7.0],
}  # fmt: skip


def test_texts_that_cross_the_longrope_limit_are_refused():
    """Its rotary tables depend on the largest position of a pass, including proposed tokens."""
    model = make("Llama", LLAMA | {"rope_parameters": LONGROPE})
    decoder = tt.SpeculativeDecoder(model, TOKENIZER, tt.ModelDrafter(model, TOKENIZER))
    options = {"do_sample": False, "eos_token_id": 9}
    for prompt, new in (("abcdef", 9), ("abcdefghijklmnopqrstuvw", 12)):
        inputs = TOKENIZER(prompt, return_tensors="pt")
        expected = model.generate(**inputs, max_new_tokens=new, **options)
        found = decoder.generate(prompt, max_new_tokens=new, **options)
        assert torch.equal(found.sequences, expected)
    with pytest.raises(ValueError, match=r"^generate: 5 prompt .* cross position 16.*tokens=11"):
        decoder.generate("abcdef", max_new_tokens=12, **options)


def test_a_prompt_beyond_the_longrope_limit_is_read_with_the_long_tables():
    """Its first pass has to go beyond the limit, whatever the size of a chunk."""
    model = make("Llama", LLAMA | {"rope_parameters": LONGROPE, "initializer_range": 0.3})
    options = {"do_sample": False, "eos_token_id": 9, "max_new_tokens": 8}
    prompts = [list(range(10, 10 + length)) for length in (17, 18, 40)]
    expected = [
        model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **options)[0]
        for ids in prompts
    ]
    for chunk in (1, 16, 512):
        runner = TorchRunner(model, prefill_chunk=chunk)
        decoder = tt.SpeculativeDecoder(model, TOKENIZER, runner=runner)
        together = decoder.generate(prompts, batch_size=3, **options).sequences
        for ids, row, wanted in zip(prompts, together, expected, strict=True):
            assert torch.equal(decoder.generate(ids, **options).sequences[0], wanted)
            assert torch.equal(row[: len(wanted)], wanted)


def test_longrope_of_one_layer_type_is_refused_too():
    layers = {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2}
    plain = {"rope_type": "default", "rope_theta": 1e4}
    rope = {"full_attention": LONGROPE | {"factor": 4.0}, "sliding_attention": plain}
    config = transformers.Gemma3TextConfig(
        **LLAMA | layers | {"head_dim": 8, "rope_parameters": rope}
    )
    decoder = tt.SpeculativeDecoder(transformers.Gemma3ForCausalLM(config).eval(), TOKENIZER)
    with pytest.raises(ValueError, match=r"^generate: 5 prompt .* cross position 16.*tokens=11"):
        decoder.generate([10, 11, 12, 13, 14], max_new_tokens=12, do_sample=False)


def test_a_text_beyond_the_context_of_mpt_is_refused():
    """Its config has another name for the context."""
    config = transformers.MptConfig(
        d_model=32, n_heads=4, n_layers=1, vocab_size=len(TOKENIZER), max_seq_len=40
    )
    decoder = tt.SpeculativeDecoder(transformers.MptForCausalLM(config).eval(), TOKENIZER)
    with pytest.raises(ValueError, match=r"^generate: 5 prompt .* exceed the target's context of"):
        decoder.generate([10, 11, 12, 13, 14], max_new_tokens=36, do_sample=False)


class Forgetful(LlamaForCausalLM):
    """Ignores its cache, as an unknown class might."""

    def forward(self, input_ids=None, **kwargs):
        kwargs.pop("past_key_values", None)
        kwargs.pop("position_ids", None)
        kwargs.pop("attention_mask", None)
        return super().forward(input_ids, use_cache=False)


class Stubborn(LlamaForCausalLM):
    """Cannot be read after a roll-back."""

    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        if input_ids.shape[1] == 3 and past_key_values.get_seq_length():
            raise IndexError("three tokens at a time are too many")
        return super().forward(input_ids, past_key_values=past_key_values, **kwargs)


@pytest.mark.parametrize("kind", [Forgetful, Stubborn])
def test_support_for_reading_in_pieces_is_probed(kind):
    model = lively()
    model.__class__ = kind
    with pytest.raises(ValueError, match=rf"^SpeculativeDecoder: {kind.__name__} "):
        tt.SpeculativeDecoder(model, TOKENIZER)


@pytest.mark.parametrize("settings", [
    {"num_beams": 3}, {"stop_strings": ["x"]}, {"penalty_alpha": 0.6, "top_k": 4},
    {"guidance_scale": 3.0}, {"use_cache": False}, {"max_new_tokens": 1}, {"eos_token_id": None},
    {"forced_eos_token_id": 0}, {"num_return_sequences": 2, "do_sample": True},
    {"output_scores": True}, {"temperature": 0.5}, {"min_length": 50},
    {"prompt_lookup_num_tokens": 2},
])  # fmt: skip
def test_a_models_own_settings_do_not_disturb_the_probe(settings, capfd):
    model = lively()
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    before = model.generation_config.to_dict()
    require_same_logits(model, TorchRunner(model), "here")
    assert capfd.readouterr() == ("", "")
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_passes(dtype):
    for seed in range(4):
        model = lively(seed).to(dtype)
        require_same_logits(model, TorchRunner(model), "here")


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_dynamic_8_bit_layers_pass():
    model = torch.ao.quantization.quantize_dynamic(lively(), {nn.Linear}, dtype=torch.qint8)
    require_same_logits(model, TorchRunner(model), "here")


def test_a_model_is_tried_once_and_no_random_number_is_drawn():
    model = lively()
    state = torch.get_rng_state()
    tt.SpeculativeDecoder(model, TOKENIZER)
    assert torch.equal(torch.get_rng_state(), state)
    model.model.layers[0] = nn.Module()  # cannot run
    tt.SpeculativeDecoder(model, TOKENIZER)


class Shifted(TorchRunner):
    """A runner of the user's own that reads each text without its first token."""

    def read(self, texts, trees):
        return super().read([text[1:] if len(text) > 1 else text for text in texts], trees)


def test_a_runner_of_the_users_own_is_checked_after_the_model_was_checked():
    model = lively()
    for _ in range(2):
        tt.SpeculativeDecoder(model, TOKENIZER)
        with pytest.raises(ValueError, match="SpeculativeDecoder: LlamaForCausalLM gives other"):
            tt.SpeculativeDecoder(model, TOKENIZER, runner=Shifted(model))


def test_a_runner_without_forests_says_nothing_of_one_with_them():
    model = lively()
    chains = TorchRunner(model)
    chains.supports_forests = False
    tt.SpeculativeDecoder(model, TOKENIZER, runner=chains)
    assert not chains.supports_forests
    runner = TorchRunner(model)
    tt.SpeculativeDecoder(model, TOKENIZER, runner=runner)
    assert runner.supports_forests


@pytest.mark.parametrize("make", [
    lambda model, runner: tt.SpeculativeDecoder(model, TOKENIZER, runner=runner),
    lambda model, runner: tt.ModelDrafter(model, TOKENIZER, runner=runner),
])  # fmt: skip
def test_what_is_no_runner_is_refused(make):
    model = lively()
    caller = r"^(SpeculativeDecoder|ModelDrafter)"
    for other in (5, "torch", model):
        with pytest.raises(TypeError, match=rf"{caller}: runner is a"):
            make(model, other)
    with pytest.raises(TypeError, match=rf"{caller}: runner is the class TorchRunner; give an obj"):
        make(model, TorchRunner)


def test_a_runner_of_another_model_is_refused_by_its_logits():
    model = lively()
    tt.SpeculativeDecoder(model, TOKENIZER)
    with pytest.raises(ValueError, match="SpeculativeDecoder: LlamaForCausalLM gives other"):
        tt.SpeculativeDecoder(model, TOKENIZER, runner=TorchRunner(lively(seed=1)))


def test_a_runner_of_a_copy_or_a_wrapped_model_is_accepted():
    model = lively()
    expected = tt.SpeculativeDecoder(model, TOKENIZER).generate("ab", max_new_tokens=8)
    draft = tt.ModelDrafter(model, TOKENIZER, runner=TorchRunner(lively().bfloat16()))
    for runner in (TorchRunner(lively()), TorchRunner(torch.compile(model, backend="eager"))):
        decoder = tt.SpeculativeDecoder(model, TOKENIZER, draft, runner=runner)
        assert decoder.generate("ab", max_new_tokens=8).text == expected.text
