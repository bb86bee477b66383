"""How many texts run at once, and the memory that this takes."""

from __future__ import annotations

import pytest
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    FalconConfig,
    FalconForCausalLM,
)

import tokentiming as tt
from tests.support.small_models import TOKENIZER, lively, tiny
from tokentiming.generation import batch_size
from tokentiming.runners import NativeRunner, TorchRunner
from tokentiming.tokens.tree import TEXT, Tree

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
DEEPSEEK = {
    "intermediate_size": 32, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 2,
    "topk_group": 2, "num_experts_per_tok": 2, "first_k_dense_replace": 3, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12,
    "num_key_value_heads": 4,
}  # fmt: skip
MODELS = {
    "grouped": lambda: lively(),
    "one key head": lambda: tiny(FalconForCausalLM, FalconConfig, **SMALL, multi_query=True),
    "keys and values differ": lambda: tiny(
        DeepseekV3ForCausalLM, DeepseekV3Config, **SMALL, **DEEPSEEK
    ),
}


@pytest.fixture
def free(monkeypatch):
    """Sets the memory that seems to be free."""

    def set_bytes(count: int) -> None:
        monkeypatch.setattr(batch_size, "free_bytes", lambda device: count)

    return set_bytes


def allocated(runner: TorchRunner) -> int:
    return sum(states.nbytes for states in runner._cache._states())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("texts", "tokens"), [(1, 20), (1, 600), (2, 300), (3, 20), (5, 300)])
def test_a_cache_never_takes_more_memory_than_counted(name, texts, tokens):
    model = MODELS[name]()
    tt.SpeculativeDecoder(model, TOKENIZER)  # its probe finds the size of a token
    runner = TorchRunner(model)
    most = 0
    for length in [*range(1, tokens, 13), tokens]:
        runner.read([[5] * length] * texts, [Tree([6] * 24, [TEXT] * 24)] * texts)
        most = max(most, allocated(runner))
    counted = runner.cache_bytes(texts, tokens + 24)
    assert counted // 4 < most <= counted


@pytest.mark.skipif(not NativeRunner.runs(lively().bfloat16()), reason="needs AVX2 and FMA")
def test_the_native_cache_is_counted():
    config = lively().config
    runner = NativeRunner(lively().bfloat16())
    size = config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2 * 4
    assert runner.cache_bytes(3, 100) == 2 * 3 * 100 * size


@pytest.mark.parametrize("asked", [None, 1, 2, 8])
@pytest.mark.parametrize("drafted", [False, True])
def test_what_does_not_fit_is_refused_before_a_model_runs(asked, drafted, free):
    target, draft = lively(), lively(seed=1)
    drafter = tt.ModelDrafter(draft, TOKENIZER) if drafted else None
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter)
    runners = [decoder.runner, *([drafter.runner] if drafted else [])]
    texts = asked or 1
    length = 5 + 40
    caches = sum(one.cache_bytes(texts, length + batch_size._NODES) for one in runners)
    needed = texts * length * 8 + caches
    if asked is None:  # without the memory that doubling may add
        needed //= 2
    prompts = ["to be"] * 8
    options = {"max_new_tokens": 40, "do_sample": False, "batch_size": asked}
    free(needed)
    decoder.generate(prompts, **options)
    for model in (target, draft):
        model.register_forward_pre_hook(lambda *_: pytest.fail("a model ran"))
    free(needed - 1)
    who = "a text" if texts == 1 else f"{texts} texts"
    what = "max_new_tokens" if texts == 1 else "batch_size or max_new_tokens"
    with pytest.raises(ValueError, match=f"^generate: {who} of up to 45 tokens .* lower {what}$"):
        decoder.generate(prompts, **options)


def test_a_change_of_dtype_is_counted():
    model = lively()
    tt.SpeculativeDecoder(model, TOKENIZER)
    before = TorchRunner(model).cache_bytes(1, 100)
    model.bfloat16()
    assert TorchRunner(model).cache_bytes(1, 100) == before // 2


def test_an_absurd_length_is_refused():
    decoder = tt.SpeculativeDecoder(lively(max_position_embeddings=10**15), TOKENIZER)
    with pytest.raises(ValueError, match=r"^generate: a text of up to 10000000000005 tokens"):
        decoder.generate("to be", max_new_tokens=10**13)


@pytest.mark.parametrize(("share", "expected"), [(2.0, 8), (1.0, 4), (0.5, 2), (0.25, 1)])
def test_by_default_the_texts_fit_into_half_of_the_free_memory(share, expected, free):
    decoder = tt.SpeculativeDecoder(lively(), TOKENIZER)
    eight = 8 * 45 * 8 + decoder.runner.cache_bytes(8, 45 + batch_size._NODES)
    free(int(share * eight))
    most = []
    read = decoder.runner.read
    decoder.runner.read = lambda texts, trees: most.append(len(texts)) or read(texts, trees)
    decoder.generate(["to be"] * 8, max_new_tokens=40, do_sample=False)
    assert max(most) == expected
