"""New prompts of a batch are read together, without logits, in passes over similar lengths."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma4ForCausalLM, Gemma4TextConfig, LlamaConfig, LlamaForCausalLM

from tests.python.test_torch_runner import CASES, SIZES, make, rows_read
from tests.support.forests import full_pass, path_logits
from tokentiming.runners import NativeRunner, TorchRunner
from tokentiming.runners.joint import JOINT, joint_texts
from tokentiming.tokens.tree import TEXT, Tree

LENGTHS = [40, 37, 3, 30, 75, 71, 20, 18]


def random_texts(lengths: list[int], seed: int) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(61) for _ in range(length)] for length in lengths]


def test_prompts_of_similar_lengths_are_read_in_one_pass():
    runner = TorchRunner(make("llama"))
    shapes = rows_read(runner)
    trees = [Tree([5, 6], [TEXT, TEXT])] * len(LENGTHS)
    runner.read(random_texts(LENGTHS, 1), trees)
    assert shapes == [(2, 39), (1, 29), (2, 74), (2, 19), (8, 5)], "3 tokens wait for the last pass"


def test_passes_over_several_prompts_hold_no_more_rows_than_a_chunk():
    runner = TorchRunner(make("llama"), prefill_chunk=64)
    shapes = rows_read(runner)
    runner.read(random_texts([33, 33, 33, 100], 2), [Tree()] * 4)
    assert shapes == [(2, 32), (1, 32), (1, 64), (1, 35), (4, 1)]


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_logits_are_those_of_a_full_pass(kind, attention):
    model = make(kind, attention)
    runner, reference = TorchRunner(model), full_pass(model)
    texts = random_texts(LENGTHS, 3)
    tree = Tree([5, 6, 7], [TEXT, TEXT, 1])
    for logits, text in zip(runner.read(texts, [tree] * len(texts)), texts, strict=True):
        torch.testing.assert_close(logits, path_logits(reference, text, tree), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [[50], [50, 48]])
def test_tokens_before_the_last_need_no_logits(lengths):
    model = make("gemma3")
    runner = TorchRunner(model, prefill_chunk=16)
    rows: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    runner.read(random_texts(lengths, 4), [Tree()] * len(lengths))
    assert (rows[-1], set(rows[:-1])) == (1, {0})


def test_layers_that_need_the_last_row_only_read_no_others():
    sizes = {name: size for name, size in SIZES.items() if name != "initializer_range"}
    config = Gemma4TextConfig(
        **sizes | {"num_hidden_layers": 4}, head_dim=8, global_head_dim=8, sliding_window=8,
        num_kv_shared_layers=2, layer_types=["sliding_attention", "full_attention"] * 2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=61,
    )  # fmt: skip
    model = Gemma4ForCausalLM(config).eval()
    rows: list[int] = []
    model.model.layers[-1].register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    TorchRunner(model, prefill_chunk=16).read(random_texts([50], 6), [Tree()])
    assert set(rows) == {1}


def test_a_model_of_another_package_gets_a_number():
    class Own(LlamaForCausalLM):
        def forward(self, *args, logits_to_keep: int, **inputs):
            output = super().forward(*args, **inputs)
            output.logits = output.logits[:, -logits_to_keep:]
            return output

    model = Own(LlamaConfig(**SIZES)).eval()
    (text,) = random_texts([50], 7)
    (logits,) = TorchRunner(model, prefill_chunk=16).read([text], [Tree()])
    torch.testing.assert_close(logits, model(torch.tensor([text]), logits_to_keep=1).logits[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("passes", range(5))
def test_an_interrupted_read_can_be_repeated_but_not_extended(passes, error):
    model = make("llama")
    runner, reference = TorchRunner(model), full_pass(model)
    texts = random_texts(LENGTHS, 8)
    left = passes

    def interrupt(*_) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise error("interrupted")

    handle = model.register_forward_hook(interrupt)
    with pytest.raises(error):
        runner.read(texts, [Tree()] * len(texts))
    handle.remove()
    with pytest.raises(ValueError, match="not have been read to their end; call read first"):
        runner.extend([Tree([3], [TEXT])] * len(texts))
    (first, *_) = runner.read([[], *texts[1:]], [Tree()] * len(texts))
    assert len(first) == 0
    found = runner.read(texts, [Tree()] * len(texts))
    for logits, text in zip(found, texts, strict=True):
        torch.testing.assert_close(logits, reference(text)[-1:], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not NativeRunner.runs(make("llama").bfloat16()), reason="needs AVX2 and FMA")
def test_the_native_core_reads_prompts_together():
    model = make("llama").bfloat16()
    texts = random_texts(LENGTHS, 5)
    joint, apart = NativeRunner(model), NativeRunner(model)
    joint._most_rows = apart._most_rows = lambda: 512
    found = joint.read(texts, [Tree()] * len(texts))
    assert joint.forwards == 5
    for text, logits in zip(texts, found, strict=True):
        assert torch.equal(apart.read([text], [Tree()])[0], logits)


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(20, 200))
def test_joint_texts(counts, most):
    passes = joint_texts(counts, most)
    assert [i for joint in passes for i in joint] == [i for i, n in enumerate(counts) if n]

    def padded(joint: range) -> int:
        return max(counts[i] for i in joint) * len(joint)

    def padding(joint: range) -> int:
        return padded(joint) - sum(counts[i] for i in joint)

    for joint in passes:
        assert len(joint) == 1 or padded(joint) <= most
        assert padding(joint) <= JOINT * (len(joint) - 1)
    for before, after in pairwise(passes):
        more = range(before.start, after.start + 1)
        if before.stop == after.start and padded(more) <= most:
            assert padding(more) - padding(before) > JOINT, "a pass would be saved"
