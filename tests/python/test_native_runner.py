"""``NativeRunner`` against the same models in float32, with numbers rounded in the same way."""

from __future__ import annotations

import copy
import math
import random

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
from tokentiming.tokens.tree import TEXT, Tree

ROUNDED = 0.03
"""Maximum ``error`` of a row that an input rounded to another neighbour has moved."""
LONGER = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}

pytestmark = pytest.mark.skipif(
    not is_fast(), reason="NativeRunner needs AVX2 and FMA; tests/native tests that it refuses"
)


class Rounded(nn.Module):
    """A linear layer whose weights and inputs are rounded in groups of 32, as ``_native`` does."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        outputs, self.inputs = layer.weight.shape
        groups = self.grouped(layer.weight.detach().float(), fill=math.nan).double()
        bits = next(bits for bits in (4, 8) if self.fits(groups, bits) or bits == 8)
        weight = self.rounded(groups, bits).reshape(outputs, -1)[:, : self.inputs]
        self.weight = nn.Parameter(weight.float())
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = self.grouped(x, fill=0.0)
        largest = groups.abs().amax(-1, keepdim=True)
        values = (groups * (127 / largest)).nan_to_num().round()
        rounded = (values * (largest / 127)).flatten(-2)[..., : self.inputs]
        return nn.functional.linear(rounded, self.weight, self.bias)

    @staticmethod
    def grouped(x: torch.Tensor, *, fill: float) -> torch.Tensor:
        padded = nn.functional.pad(x, (0, -x.shape[-1] % 32), value=fill)
        return padded.unflatten(-1, (-1, 32))

    @staticmethod
    def rounded(groups: torch.Tensor, bits: int) -> torch.Tensor:
        low = groups.nan_to_num(math.inf).amin(-1, keepdim=True)
        high = groups.nan_to_num(-math.inf).amax(-1, keepdim=True)
        fraction, exponent = torch.frexp((high - low) / (2**bits - 1))
        scale = torch.ldexp((fraction * 2**8).ceil(), exponent - 8)  # a bfloat16, rounded up
        return low + ((groups - low) / scale + 0.5).floor() * scale

    @classmethod
    def fits(cls, groups: torch.Tensor, bits: int) -> bool:
        error = (cls.rounded(groups, bits) - groups).square().nansum()
        return bool(error <= 0.02**2 * groups.square().nansum())


def twin(model: nn.Module) -> nn.Module:
    """The model in float32 with the numbers of its linear layers rounded."""
    result = copy.deepcopy(model).float()
    for name, layer in list(result.named_modules()):
        if isinstance(layer, nn.Linear):
            result.set_submodule(name, Rounded(layer))
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


def plain(model: nn.Module, ids: list[int]) -> torch.Tensor:
    """Logits after each id, by one forward without a cache."""
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def error(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Root mean square error of the logits ``[n, V]`` of each row, in standard deviations.

    It is about 1e-7 until the order of float32 sums decides to which of its neighbours an input is
    rounded. This moves the logits of its row and of later rows a little.
    """
    return (found - expected).square().mean(-1).sqrt() / expected.std(-1)


def chain(runner: NativeRunner, ids: list[int], keep: int = 1) -> torch.Tensor:
    """Logits after the last ``keep`` ids."""
    known = len(ids) - keep + 1
    return runner.read([ids[:known]], [Tree.chain(ids[known:])])[0]


def of_tree(model: nn.Module, text: list[int], tree: Tree) -> torch.Tensor:
    """Logits after a text and after each node of its tree."""
    paths = [[tree.tokens[n] for n in tree.path(node)] for node in range(TEXT, len(tree))]
    return torch.stack([plain(model, text + path)[-1] for path in paths])


def random_nodes(rng: random.Random, known: int, count: int) -> Tree:
    """New nodes behind ``known`` ones."""
    parents = [rng.randrange(TEXT, known + node) for node in range(count)]
    return Tree(rng.sample(range(SIZES["vocab_size"]), count), parents)


@pytest.mark.parametrize("kind", ["qwen2", "tied", "stretched", "wide heads"])
def test_logits_equal_those_of_the_twin(kind):
    model, precise = pair(kind)
    native = NativeRunner(model)
    found, expected = [], []
    # 230 tokens: more than one pass over the weights reads
    for count, keep in ((5, 5), (6, 1), (230, 200), (9, 3)):
        found.append(chain(native, random_ids(count), keep))
        expected.append(plain(precise, random_ids(count))[-keep:])
    of_rows = error(torch.cat(found), torch.cat(expected))
    assert of_rows.quantile(0.1) < 1e-5
    assert of_rows.max() < ROUNDED


def test_gates_of_any_magnitude():
    model, _ = pair("tied")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight.mul_(1000)
            layer.mlp.up_proj.weight.div_(1000)
    expected = plain(twin(model), random_ids(9))
    assert error(chain(NativeRunner(model), random_ids(9), 9), expected).max() < ROUNDED


@pytest.mark.parametrize("kind", ["qwen2", "stretched"])
def test_logits_of_trees_equal_those_of_the_twin(kind):
    model, precise = pair(kind)
    native, rng = NativeRunner(model), random.Random(5)
    texts = [random_ids(40), random_ids(3)]
    trees = [random_nodes(rng, 0, 12), random_nodes(rng, 0, 7)]
    found = native.read(texts, trees)
    expected = [of_tree(precise, text, tree) for text, tree in zip(texts, trees, strict=True)]
    assert error(torch.cat(found), torch.cat(expected)).max() < ROUNDED


@pytest.mark.parametrize("kind", ["qwen2", "stretched", "wide heads"])
def test_a_prompt_read_in_torch_continues_in_the_native_module(kind, monkeypatch):
    """The twin reads the prompt, so that all weights are rounded in the same way."""
    model, precise = pair(kind)
    monkeypatch.setattr(NativeRunner, "_most_rows", lambda self: 20)
    native = NativeRunner(model)
    native._prefill_chunk = 16
    native.model = precise
    long, short = random_ids(40), random_ids(9)
    rng = random.Random(6)
    trees = [random_nodes(rng, 0, 5), random_nodes(rng, 0, 4)]
    found = native.read([long, short], trees)
    expected = [of_tree(precise, long, trees[0]), of_tree(precise, short, trees[1])]
    assert error(torch.cat(found), torch.cat(expected)).max() < ROUNDED
    assert native.forwards == 4, "three chunks of the long prompt, and what follows both"
    native.drop(1)
    assert error(chain(native, long[:30]), plain(precise, long[:30])[-1:]).max() < ROUNDED


def test_truncated_tokens_do_not_affect_later_logits():
    model, _ = pair("tied")
    ids = random_ids(40)
    expected = chain(NativeRunner(model), ids)
    native = NativeRunner(model)
    chain(native, [*ids[:25], 1, 2, 3])
    chain(native, ids[:30])
    chain(native, [*ids[:10], 7])
    assert torch.equal(chain(native, ids), expected)
    native.reset()
    assert torch.equal(chain(native, ids), expected)
    assert native.forwards == 5


def test_a_row_does_not_depend_on_those_read_with_it():
    model, _ = pair("qwen2")
    ids = random_ids(31)
    whole = chain(NativeRunner(model), ids, 31)
    native = NativeRunner(model)
    for end in (1, 2, 5, 12, 31):
        assert torch.equal(chain(native, ids[:end])[0], whole[end - 1])


class Texts:
    """Texts and trees in a runner; each path is also read alone, from its start, as a chain."""

    def __init__(self, model: nn.Module) -> None:
        self.runner, self.alone = NativeRunner(model), NativeRunner(model)
        self.texts: list[list[int]] = []
        self.trees: list[Tree] = []

    def read(self, trees: list[Tree]) -> None:
        self.trees = trees
        found = self.runner.read(self.texts, trees)
        self._check(found, [TEXT] * len(trees))

    def extend(self, trees: list[Tree]) -> None:
        firsts = [len(tree) for tree in self.trees]
        self.trees = [
            Tree([*old.tokens, *new.tokens], [*old.parents, *new.parents])
            for old, new in zip(self.trees, trees, strict=True)
        ]
        self._check(self.runner.extend(trees), firsts)

    def drop(self, index: int) -> None:
        self.runner.drop(index)
        for own in (self.texts, self.trees):
            own[index] = own[-1]
            own.pop()

    def _check(self, found: list[torch.Tensor], firsts: list[int]) -> None:
        every = zip(self.texts, self.trees, found, firsts, strict=True)
        for text, tree, logits, first in every:
            assert len(logits) == len(tree) - first
            for row, node in zip(logits, range(first, len(tree)), strict=True):
                path = [tree.tokens[n] for n in tree.path(node)]
                self.alone.reset()
                assert torch.equal(row, chain(self.alone, text + path)[0])


@pytest.mark.parametrize("seed", range(4))
def test_rounds_over_several_texts_and_trees(seed):
    model, _ = pair("tied")
    pairs, rng = Texts(model), random.Random(seed)
    for _ in range(12):
        if not pairs.texts or rng.random() < 0.3:
            pairs.texts.append(random_ids(rng.randrange(1, 30)))
        pairs.read([random_nodes(rng, 0, rng.randrange(8)) for _ in pairs.texts])
        if rng.random() < 0.5:
            pairs.extend([random_nodes(rng, len(t), rng.randrange(4)) for t in pairs.trees])
        for text, tree in zip(pairs.texts, pairs.trees, strict=True):
            accepted = tree.path(rng.randrange(TEXT, len(tree)))
            text += [tree.tokens[node] for node in accepted]
            text.append(rng.randrange(SIZES["vocab_size"]))
            del text[rng.choice([60, len(text), len(text), 2]) :]
        if rng.random() < 0.2:
            pairs.drop(rng.randrange(len(pairs.texts)))


def test_real_weights(smollm2):
    """Of the first layer: an input rounded to another neighbour moves all inputs after it."""
    model, tokenizer = smollm2
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    rounded.model.layers = rounded.model.layers[:1]
    text = "Speculative decoding lets a small model guess and a large one verify. Größe, 你好, 🐍!"
    ids = tokenizer(text).input_ids
    of_rows = error(chain(NativeRunner(rounded), ids, len(ids)), plain(twin(rounded), ids))
    assert of_rows.median() < 1e-5
    assert of_rows.max() < ROUNDED


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


def test_rounding_hardly_changes_the_distribution(smollm2):
    model, tokenizer = smollm2
    ids = tokenizer("The capital of France is Paris. The capital of Italy is Rome.").input_ids
    distribution = plain(model, ids).softmax(-1)
    native = NativeRunner(copy.deepcopy(model).to(torch.bfloat16))
    distance = (chain(native, ids, len(ids)).softmax(-1) - distribution).abs().sum(-1) / 2
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
    chain(native, ids)
    with pytest.raises(ValueError, match=r"^transformer: tokens\[1\] is 101, outside 0\.\.100"):
        chain(native, [*ids, 4, 101])
    assert torch.equal(chain(native, [*ids, 4]), chain(NativeRunner(model), [*ids, 4]))


def test_texts_whose_first_pass_was_refused_can_be_read_and_dropped():
    model, _ = pair("tied")
    native = NativeRunner(model)
    good, wrong = random_ids(10), [3, 101]
    for texts in ([wrong], [good, wrong]):
        with pytest.raises(ValueError, match=r"^transformer: tokens\[\d+\] is 101"):
            native.read(texts, [Tree()] * len(texts))
    native.drop(0)
    found = native.read([good, [7]], [Tree(), Tree()])
    for text, logits in zip([good, [7]], found, strict=True):
        assert torch.equal(logits, chain(NativeRunner(model), text))
