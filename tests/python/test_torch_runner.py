"""``TorchRunner``: logits in trees, of several texts, are those of a full pass over each path."""

from __future__ import annotations

import copy
import dataclasses
import doctest
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.support.forests import Rounds, full_pass, path_logits
from tokentiming.runners import attention, cache, masks
from tokentiming.runners.cache import ForestCache
from tokentiming.runners.forest import ForestRunner
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.tree import TEXT, Tree

VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "initializer_range": 0.2, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA = SIZES | {"head_dim": 8, "sliding_window": 5, "layer_types": ALTERNATING}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZES),
    "qwen2": ("Qwen2", SIZES),
    "qwen2 with windows": (
        "Qwen2",
        SIZES | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "gemma2": ("Gemma2", GEMMA),
    "gemma3": ("Gemma3", GEMMA),
    "mistral": ("Mistral", SIZES | {"sliding_window": 6}),
    "phi3": ("Phi3", SIZES),
    "gpt2": (
        "GPT2LMHead",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512,
         "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None},
    ),
    "gpt_neox": ("GPTNeoX", SIZES | {"num_key_value_heads": None}),
    "opt": (
        "OPT",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 48,
         "num_attention_heads": 4, "max_position_embeddings": 512, "word_embed_proj_dim": 32,
         "init_std": 0.2, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None},
    ),
    "llama4": (
        "Llama4",
        SIZES | {"head_dim": 8, "attention_chunk_size": 6, "num_local_experts": 2,
                 "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48,
                 "num_hidden_layers": 4},
    ),
}  # fmt: skip


CASES = [
    (kind, attention)
    for kind in KINDS
    for attention in ("sdpa", "eager")
    if (kind, attention) != ("gemma2", "sdpa")  # which transformers does not support
]


def make(kind: str, attention: str = "sdpa") -> torch.nn.Module:
    name, settings = KINDS[kind]
    whole = name if name.endswith("Head") else f"{name}ForCausalLM"
    model_class = getattr(transformers, f"{name}Model" if name.endswith("Head") else whole)
    config_class = model_class.config_class
    torch.manual_seed(3)
    config = config_class(**settings)
    config._attn_implementation = attention
    return model_class(config).eval()


def rounds(runner: ForestRunner, texts: int, seed: int, **options: Any) -> Rounds:
    return Rounds(runner, full_pass(runner.model), VOCABULARY, texts=texts, seed=seed, **options)


@pytest.mark.parametrize("texts", [1, 2, 4])
@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_logits_are_those_of_a_full_pass(kind, attention, texts):
    runner = TorchRunner(make(kind, attention))
    assert runner.supports_forests
    rounds(runner, texts, seed=texts).play(8)


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_chains_are_read_without_a_mask(kind, attention, monkeypatch):
    def refuse(*_: Any) -> Any:
        raise AssertionError("a chain needs no mask")

    monkeypatch.setattr(masks.Masks, "of", refuse)
    rounds(TorchRunner(make(kind, attention)), 1, seed=5, branches=False).play(12)


@pytest.mark.parametrize("set_before", [None, "0"])
def test_keys_and_values_are_not_copied_for_each_head(set_before, monkeypatch):
    def refuse(*_: Any) -> Any:
        raise AssertionError("keys are copied")

    setting = "TRANSFORMERS_SDPA_FORCE_GQA"
    monkeypatch.delenv(setting, raising=False)
    if set_before is not None:
        monkeypatch.setenv(setting, set_before)
    runner = TorchRunner(make("llama"))
    monkeypatch.setattr(transformers.integrations.sdpa_attention, "repeat_kv", refuse)
    tree = Tree([4, 5], [TEXT, TEXT])
    with nullcontext() if set_before is None else pytest.raises(AssertionError, match="copied"):
        runner.read([[1, 2, 3]], [tree])
    assert os.environ.get(setting) == set_before
    runner.model.register_forward_pre_hook(refuse)
    with pytest.raises(AssertionError, match="copied"):
        runner.read([[1, 2, 3, 4]], [tree])
    assert os.environ.get(setting) == set_before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_heads_give_the_same_bits(dtype, monkeypatch):
    monkeypatch.delenv(attention._SETTING, raising=False)
    model = make("llama").to(dtype)
    tokens = torch.arange(40).view(2, 20)
    mask = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, 1, 20, 20).clone()
    mask[0, 0, 12, 3:7] = False
    with torch.no_grad():
        copied = model(tokens, attention_mask=mask).logits
        with attention.shared_heads(torch.device("cpu"), rows=20):
            shared = model(tokens, attention_mask=mask).logits
    assert torch.equal(copied, shared)


def test_threads_share_the_setting_of_shared_heads(monkeypatch):
    monkeypatch.delenv(attention._SETTING, raising=False)
    cpu = torch.device("cpu")

    def enter_often() -> None:
        for _ in range(2000):
            with attention.shared_heads(cpu, rows=2):
                assert os.environ[attention._SETTING] == "1"

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(enter_often) for _ in range(8)]:
            done.result()
    with attention.shared_heads(cpu, rows=1):
        assert attention._SETTING not in os.environ


@pytest.mark.parametrize("chunk", [1, 7])
def test_long_texts_are_read_in_chunks(chunk):
    runner = TorchRunner(make("gemma3"), prefill_chunk=chunk)
    rounds(runner, 3, seed=chunk).play(6)
    ids = list(range(50))
    runner.reset()
    before = runner.forwards
    runner.read([ids], [Tree()])
    assert runner.forwards - before == -(-(50 - chunk) // chunk) + 1


def rows_read(runner: TorchRunner) -> list[tuple[int, ...]]:
    """Shapes ``(n, R)`` of the passes from now on."""
    shapes: list[tuple[int, ...]] = []
    runner.model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


def test_what_the_next_text_repeats_is_not_read_again():
    runner = TorchRunner(make("llama"))
    shapes = rows_read(runner)
    tree = Tree([5, 6, 7, 8], [TEXT, 0, TEXT, 2])
    runner.read([[1, 2, 3]], [tree])
    runner.extend([Tree([9], [3])])
    runner.read([[1, 2, 3, 7, 8, 9, 4]], [Tree()])  # a path through both trees
    runner.read([[1, 2, 3, 7, 8, 9, 4, 4]], [Tree.chain([5, 6])])
    runner.read([[1, 2, 3, 7, 8, 9, 4, 4, 5]], [Tree()])  # logits of the last are asked for again
    runner.read([[1, 2, 9]], [Tree()])
    assert shapes == [(1, 7), (1, 1), (1, 1), (1, 3), (1, 1), (1, 1)]
    assert runner.forwards == 6


def test_a_long_text_beside_others_is_read_alone_first():
    runner = TorchRunner(make("llama"))
    shapes = rows_read(runner)
    runner.read([list(range(40)), [3, 4]], [Tree(), Tree([5, 6], [TEXT, TEXT])])
    assert shapes == [(1, 39), (2, 4)]


def test_new_texts_come_last_and_the_last_takes_a_dropped_ones_index():
    model = make("gemma3")
    runner, reference = TorchRunner(model), full_pass(model)
    texts = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    shapes = rows_read(runner)
    runner.read(texts[:2], [Tree(), Tree()])
    runner.read(texts, [Tree(), Tree(), Tree([5, 6], [TEXT, TEXT])])
    runner.drop(0)
    del shapes[:]
    moved = [*texts[2], 6, 3]  # 6 was the second node of its tree
    found = runner.read([moved, [4, 5]], [Tree(), Tree()])
    assert shapes == [(2, 1)]
    torch.testing.assert_close(found[0][0], reference(moved)[-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][0], reference([4, 5])[-1], rtol=1e-5, atol=1e-5)


def test_a_reset_forgets_everything():
    model = make("llama")
    runner = TorchRunner(model)
    runner.read([[1, 2, 3], [4, 5]], [Tree(), Tree()])
    runner.reset()
    (found,) = runner.read([[1, 2]], [Tree()])
    torch.testing.assert_close(found, full_pass(model)([1, 2])[-1:])


def test_a_copy_has_a_cache_of_its_own():
    model = make("llama")
    runner = TorchRunner(model, prefill_chunk=3)
    runner.supports_forests = False
    runner.read([[1, 2, 3, 4, 5]], [Tree.chain([6])])
    other = copy.copy(runner)
    assert (other.model, other._prefill_chunk, other.supports_forests) == (model, 3, False)
    other.read([[7, 8, 9]], [Tree()])
    (found,) = runner.read([[1, 2, 3, 4, 5, 6, 7]], [Tree()])
    torch.testing.assert_close(found[0], full_pass(model)([1, 2, 3, 4, 5, 6, 7])[-1])


def test_texts_serve_inside_inference_mode_and_outside():
    model = make("gemma3")
    runner, reference = TorchRunner(model), full_pass(model)
    with torch.inference_mode():
        runner.read([[1, 2, 3], [4]], [Tree([5, 6], [TEXT, TEXT]), Tree()])
    found = runner.read([[1, 2, 3, 6, 7], [4, 5]], [Tree(), Tree()])
    torch.testing.assert_close(found[0][0], reference([1, 2, 3, 6, 7])[-1], rtol=1e-5, atol=1e-5)
    assert not found[0].is_inference()
    assert not found[0].requires_grad


def test_the_context_gets_the_rows_of_each_pass():
    rows: list[int] = []

    @contextmanager
    def context(count: int) -> Iterator[None]:
        rows.append(count)
        yield

    runner = TorchRunner(make("llama"), context=context)
    runner.read([[1, 2, 3], [4]], [Tree(), Tree.chain([5])])
    runner.extend([Tree.chain([6]), Tree()])
    assert rows == [6, 2]
    assert copy.copy(runner)._context is context


def test_rotary_tables_that_depend_on_the_largest_position_are_not_shared():
    """With LongRoPE a long text would change the positions of a short one in the same pass."""
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 4, "long_factor": [4.0, 5.0, 6.0, 7.0],
    }  # fmt: skip
    config = transformers.LlamaConfig(**SIZES | {"rope_parameters": rope})
    model = transformers.LlamaForCausalLM(config).eval()
    runner, reference = TorchRunner(model), full_pass(model)
    texts = [list(range(30)), [1, 2, 3], [4]]
    trees = [Tree(), Tree([5, 6], [TEXT, TEXT]), Tree()]
    for text, tree, logits in zip(texts, trees, runner.read(texts, trees), strict=True):
        expected = path_logits(reference, text, tree)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    first, second, third = runner.extend([Tree(), Tree([7], [1]), Tree()])
    assert first.shape == third.shape == (0, VOCABULARY)
    torch.testing.assert_close(second[0], reference([1, 2, 3, 6, 7])[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rope_type", ["dynamic", "default"])
def test_a_text_is_dropped_while_the_last_one_is_unread(rope_type):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 2.0}
    config = transformers.LlamaConfig(**SIZES | {"rope_parameters": rope})
    model = transformers.LlamaForCausalLM(config).eval()
    runner, reference = TorchRunner(model), full_pass(model)
    runner.read([[1, 2, 3], []], [Tree.chain([4]), Tree()])
    runner.drop(0)
    (logits,) = runner.read([[1, 5]], [Tree.chain([6])])
    expected = path_logits(reference, [1, 5], Tree.chain([6]))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_an_extension_by_nothing_reads_nothing():
    runner = TorchRunner(make("llama"))
    runner.read([[1], [2]], [Tree(), Tree.chain([3])])
    before = runner.forwards
    assert [logits.shape for logits in runner.extend([Tree(), Tree()])] == [(0, VOCABULARY)] * 2
    assert runner.forwards == before


def test_the_examples():
    for thing in (TorchRunner, masks.ancestors):
        (example,) = doctest.DocTestFinder(recurse=False).find(
            thing, globs=globals() | {"model": make("llama"), "ancestors": masks.ancestors}
        )
        assert example.examples
        assert not doctest.DocTestRunner().run(example).failed


# ---- interruptions ----


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_tokens_of_an_interrupted_pass_count_as_unread(error, layer):
    model = make("gemma3")
    runner = TorchRunner(model)
    play = rounds(runner, 3, seed=layer)

    def interrupt(*_: Any) -> None:
        raise error("interrupted")

    for _ in range(6):
        play.play(1)
        handle = model.model.layers[layer].register_forward_hook(interrupt)
        with pytest.raises(error):
            runner.extend([Tree([3], [TEXT]) for _ in play.texts])
        with pytest.raises(ValueError, match=r"^extend: .* call read first"):
            runner.extend([Tree() for _ in play.texts])
        with pytest.raises(error):
            runner.read([*play.texts, [1, 2]], [Tree.chain([1, 2])] * (1 + len(play.texts)))
        runner.drop(len(play.texts))
        handle.remove()


def test_an_interrupted_move_of_columns_leaves_the_kept_ones(monkeypatch):
    model = make("llama")
    runner = TorchRunner(model)
    play = rounds(runner, 1, seed=1)
    keep = ForestCache.keep

    def half_done(self: ForestCache, text: int, start: int, columns: Any) -> None:
        monkeypatch.setattr(self, "_states", lambda: iter(list(ForestCache._states(self))[:3]))
        keep(self, text, start, columns)
        monkeypatch.undo()
        raise KeyboardInterrupt

    play.texts = [[1, 2, 3]]
    play.read([Tree([4, 5, 6], [TEXT, TEXT, 1])])
    monkeypatch.setattr(ForestCache, "keep", half_done)
    play.texts = [[1, 2, 3, 5, 6, 7]]
    with pytest.raises(KeyboardInterrupt):
        play.read([Tree()])
    play.read([Tree()])


def test_a_text_without_ids_is_left_as_it_is():
    model = make("llama")
    runner, reference = TorchRunner(model), full_pass(model)
    runner.read([[1, 2, 3], [4]], [Tree(), Tree()])
    none, logits = runner.read([[], [4, 5]], [Tree(), Tree.chain([6])])
    assert none.shape == (0, VOCABULARY)
    torch.testing.assert_close(logits, path_logits(reference, [4, 5], Tree.chain([6])))
    read = []
    model.register_forward_pre_hook(lambda model, inputs: read.append(inputs[0].shape[1]))
    logits, none = runner.read([[1, 2, 3, 7], []], [Tree(), Tree()])
    assert read == [1]  # the new token alone
    assert none.shape == (0, VOCABULARY)
    torch.testing.assert_close(logits, path_logits(reference, [1, 2, 3, 7], Tree()))


def test_a_text_that_was_never_read_can_be_dropped():
    """As when a text ends before its draft was asked for."""
    model = make("llama")
    runner = TorchRunner(model)
    runner.read([[1, 2], [3]], [Tree(), Tree()])
    runner.drop(2)
    (logits, _) = runner.read([[1, 2, 4], [3, 5]], [Tree(), Tree()])
    torch.testing.assert_close(logits, path_logits(full_pass(model), [1, 2, 4], Tree()))


# ---- refusals ----


@pytest.mark.parametrize(
    ("texts", "trees", "message"),
    [
        ([], [], "at least one text"),
        ([[1]], [], "a tree for each"),
        ([[], []], [Tree(), Tree()], "all texts are empty"),
        ([[1]], [Tree()], "call drop"),
    ],
)
def test_texts_that_do_not_fit_are_refused(texts, trees, message):
    runner = TorchRunner(make("llama"))
    runner.read([[1], [2]], [Tree(), Tree()])
    with pytest.raises(ValueError, match=rf"^read: .*{message}"):
        runner.read(texts, trees)
    with pytest.raises(ValueError, match=r"^extend: 1 trees, for 2 texts"):
        runner.extend([Tree()])
    with pytest.raises(ValueError, match=r"^TorchRunner: prefill_chunk is 0"):
        TorchRunner(runner.model, prefill_chunk=0)
    for chunk in ("3", None, 1.5, True):
        with pytest.raises(TypeError, match=r"^TorchRunner: prefill_chunk is .*; give an integer"):
            TorchRunner(runner.model, prefill_chunk=chunk)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_mask_reads_chains_only(attention):
    model = make("llama")
    model.config._attn_implementation = attention
    runner = TorchRunner(model)
    assert not runner.supports_forests
    way_out = rf"LlamaForCausalLM.*'{attention}'.*attn_implementation='sdpa'"
    for texts, trees in (
        ([[1], [2]], [Tree(), Tree()]),
        ([[1]], [Tree([3, 4], [TEXT, TEXT])]),
    ):
        with pytest.raises(ValueError, match=rf"^read: {way_out}"):
            runner.read(texts, trees)
    model.config._attn_implementation = "sdpa"  # for the real one, which is not installed
    rounds(runner, 1, seed=2, branches=False).play(8)
    runner.read([[1, 2]], [Tree.chain([3])])
    runner.extend([Tree([4], [0])])
    model.config._attn_implementation = attention
    with pytest.raises(ValueError, match=rf"^extend: {way_out}"):
        runner.extend([Tree([5], [0])])


def test_windows_measured_in_columns_read_chains_only():
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY}
    for kinds, forests in ((["global"], True), (["local"], False)):
        config = transformers.GPTNeoConfig(**sizes, attention_types=[[kinds, 2]])
        assert TorchRunner(transformers.GPTNeoForCausalLM(config)).supports_forests is forests


# ---- mistakes that the rounds detect ----

ANCESTORS, ROWS, KEEP = masks.ancestors, masks.Rows.of, ForestCache.keep
WRITTEN = cache.ForestLayer._written


def seen_by_siblings(parents: Any) -> Any:
    above = ANCESTORS(parents)
    for node, parent in enumerate(parents):
        above[node] |= np.array([p == parent and i < node for i, p in enumerate(parents)], bool)
    return above


def positions_by_row(*args: Any) -> masks.Rows:
    rows = ROWS(*args)
    return dataclasses.replace(rows, positions=rows.columns)


def reversed_path(self: ForestCache, text: int, start: int, columns: Any) -> None:
    KEEP(self, text, start, columns[::-1])


def other_text(self: cache.ForestLayer, states: Any, fresh: torch.Tensor) -> torch.Tensor:
    return WRITTEN(self, states, fresh).roll(1, 0)


def window_of_columns(self: Any, kind: str, seen: Any, rows: masks.Rows, place: Any) -> Any:
    if kind == "full_attention":
        return seen
    return seen & (rows.columns[:, :, None] - torch.arange(seen.shape[2]) < self._window)


MISTAKES = {
    "a node that sees its sibling": (masks, "ancestors", seen_by_siblings),
    "a position by row instead of by depth": (masks.Rows, "of", staticmethod(positions_by_row)),
    "a path kept in the wrong order": (ForestCache, "keep", reversed_path),
    "one text that reads another's columns": (cache.ForestLayer, "_written", other_text),
    "a window counted in columns": (masks.Masks, "_limited", window_of_columns),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_detected(mistake, monkeypatch):
    monkeypatch.setattr(*MISTAKES[mistake])
    runner = TorchRunner(make("gemma3"))
    with pytest.raises(AssertionError):
        rounds(runner, 3, seed=1).play(8)
