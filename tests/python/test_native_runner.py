"""``NativeRunner`` against the same models in float32, with weights rounded in the same way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.support.small_models import SIZES, random_ids
from tokentiming.runners import runner_for
from tokentiming.runners.native import NativeRunner
from tokentiming.runners.native_module import is_fast
from tokentiming.runners.torch import TorchRunner

NEAR = {"rtol": 1e-3, "atol": 1e-3}
LONGER = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}

pytestmark = pytest.mark.skipif(
    not is_fast(), reason="NativeRunner needs AVX2 and FMA; tests/native tests that it refuses"
)


def twin(model: nn.Module) -> nn.Module:
    """The model in float32 with the weights of its linear layers rounded to 8 bits."""
    result = copy.deepcopy(model).float()
    for layer in result.modules():
        if isinstance(layer, nn.Linear):
            scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
            layer.weight = nn.Parameter((layer.weight / scale).round() * scale)  # unties a head
    return result


def pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """A random model in bfloat16, and its twin."""
    torch.manual_seed(3)
    if kind == "qwen2":  # with biases
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    elif kind == "tied":
        model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    elif kind == "stretched":
        model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LONGER))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=16, attention_bias=True))
    for parameter in model.parameters():  # norms of 1 and biases of 0 would hide errors
        nn.init.normal_(parameter, std=0.3)
    model = model.to(torch.bfloat16).eval()
    return model, twin(model)


@pytest.mark.parametrize("kind", ["qwen2", "tied", "stretched", "wide heads"])
def test_logits_equal_those_of_the_twin(kind):
    model, precise = pair(kind)
    native, reference = NativeRunner(model), TorchRunner(precise)
    # 230 tokens: more than one pass reads
    for count, keep in ((5, 5), (6, 1), (230, 200), (9, 3)):
        expected = reference.logits(random_ids(count), keep)
        torch.testing.assert_close(native.logits(random_ids(count), keep), expected, **NEAR)


def test_truncated_tokens_leave_no_trace():
    model, _ = pair("tied")
    ids = random_ids(40)
    expected = NativeRunner(model).logits(ids)
    native = NativeRunner(model)
    native.logits([*ids[:25], 1, 2, 3])
    native.logits(ids[:30])
    native.logits([*ids[:10], 7])
    assert torch.equal(native.logits(ids), expected)
    native.reset()
    assert torch.equal(native.logits(ids), expected)
    assert native.forwards == 5


def test_a_row_does_not_depend_on_those_read_with_it():
    model, _ = pair("qwen2")
    ids = random_ids(31)
    whole = NativeRunner(model).logits(ids, 31)
    native = NativeRunner(model)
    for end in (1, 2, 5, 12, 31):
        assert torch.equal(native.logits(ids[:end])[0], whole[end - 1])


def test_real_weights(smollm2):
    model, tokenizer = smollm2
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    text = "Speculative decoding lets a small model guess and a large one verify. Größe, 你好, 🐍!"
    ids = tokenizer(text).input_ids
    expected = TorchRunner(twin(rounded)).logits(ids, len(ids))
    torch.testing.assert_close(NativeRunner(rounded).logits(ids, len(ids)), expected, **NEAR)


def gemma() -> nn.Module:
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8)).to(torch.bfloat16)


def hooked() -> nn.Module:
    model, _ = pair("tied")
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    return model


def adapted() -> nn.Module:
    class Adapter(nn.Linear):
        pass

    model, _ = pair("tied")
    model.model.layers[0].mlp.up_proj = Adapter(48, 72, bias=False, dtype=torch.bfloat16)
    return model


def sliding() -> nn.Module:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, layer_types=kinds)
    return Qwen2ForCausalLM(config).to(torch.bfloat16)


def rotating_by_length() -> nn.Module:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    config = LlamaConfig(**SIZES, rope_parameters=dynamic)
    return LlamaForCausalLM(config).to(torch.bfloat16)


def test_rounding_to_8_bits_hardly_changes_the_distribution(smollm2):
    model, tokenizer = smollm2
    ids = tokenizer("The capital of France is Paris. The capital of Italy is Rome.").input_ids
    distribution = TorchRunner(model).logits(ids, len(ids)).softmax(-1)
    native = NativeRunner(copy.deepcopy(model).to(torch.bfloat16))
    distance = (native.logits(ids, len(ids)).softmax(-1) - distribution).abs().sum(-1) / 2
    assert distance.mean() < 0.05


@pytest.mark.parametrize(
    "make", [gemma, hooked, adapted, sliding, rotating_by_length, lambda: pair("tied")[1]]
)
def test_other_models_use_the_torch_runner(make):
    assert type(runner_for(make().eval())) is TorchRunner


def test_a_call_with_ids_out_of_range_reads_nothing():
    model, _ = pair("tied")
    native = NativeRunner(model)
    ids = random_ids(10)
    native.logits(ids)
    with pytest.raises(ValueError, match=r"^transformer: ids\[1\] is 101, outside 0\.\.100"):
        native.logits([*ids, 4, 101])
    assert torch.equal(native.logits([*ids, 4]), NativeRunner(model).logits([*ids, 4]))
