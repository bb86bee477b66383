"""``ExactNativeRunner`` against the model written out, and which models it runs."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.python.test_native_runner import chain, error, pair, plain, random_nodes
from tests.support import rounded_llama
from tests.support.small_models import SIZES, random_ids
from tokentiming.runners import ExactNativeRunner, NativeRunner, TorchRunner, exact_runner_for
from tokentiming.tokens.tree import TEXT, Tree

FLIPPED = 0.02
"""Maximum ``error`` of a row in which another order of sums has changed a rounding."""

pytestmark = pytest.mark.skipif(
    not ExactNativeRunner.runs(pair("tied")[0]),
    reason="torch runs bfloat16 targets on processors where _native is not faster",
)


@torch.no_grad()
def written_out(model: nn.Module, ids: list[int]) -> torch.Tensor:
    return rounded_llama.logits(model, ids).float()


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Most rows have the same bits. In the others some sum was rounded the other way."""
    assert error(found, expected).max() < FLIPPED
    assert (found == expected).all(-1).float().mean() > 0.75


@pytest.mark.parametrize("kind", ["qwen2", "tied", "stretched", "wide heads"])
def test_logits_are_those_of_the_model_written_out(kind):
    model, _ = pair(kind)
    ids = random_ids(40)
    check(chain(ExactNativeRunner(model), ids, len(ids)), written_out(model, ids))


def test_logits_in_trees_are_those_of_the_model_written_out():
    model, _ = pair("qwen2")
    text, tree = random_ids(9), random_nodes(random.Random(4), 0, 12)
    (found,) = ExactNativeRunner(model).read([text], [tree])
    paths = [[], *([tree.tokens[n] for n in tree.path(node)] for node in range(len(tree)))]
    check(found, torch.cat([written_out(model, text + path)[-1:] for path in paths]))


def test_logits_are_as_close_to_those_of_torch_as_bfloat16_allows():
    model, _ = pair("qwen2")
    ids = random_ids(40)
    own, exact = plain(model, ids).float(), plain(model.float(), ids)
    model.bfloat16()
    found = chain(ExactNativeRunner(model), ids, len(ids))
    assert error(found, exact).mean() < 1.5 * error(own, exact).mean()
    assert error(found, own).max() < FLIPPED


def test_a_long_prompt_is_read_in_torch():
    model, _ = pair("qwen2")
    ids = random_ids(150)
    runner = ExactNativeRunner(model)
    (found,) = runner.read([ids], [Tree([7, 8], [TEXT, TEXT])])
    assert runner.forwards == 2, "the prompt, and its last token with the tree"
    expected = torch.stack([plain(model, [*ids, *more])[-1] for more in ([], [7], [8])])
    assert error(found, expected.float()).max() < FLIPPED


def test_a_row_has_the_same_bits_alone_and_with_others():
    model, _ = pair("tied")
    ids = random_ids(31)
    whole = chain(ExactNativeRunner(model), ids, 31)
    runner = ExactNativeRunner(model)
    for end in (1, 2, 5, 12, 31):
        assert torch.equal(chain(runner, ids[:end])[0], whole[end - 1])


def hooked() -> nn.Module:
    model, _ = pair("tied")
    hook(model)
    return model


def patched() -> nn.Module:
    model, _ = pair("tied")
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: x
    return model


class Adapted(nn.Module):
    """A linear layer with an adapter, which has the weight of the layer as well."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x.mean()


def adapted() -> nn.Module:
    model, _ = pair("tied")
    adapt(model)
    return model


def changed(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model, _ = pair("tied")
        change(model)
        return model

    return make


def set_at(path: str, value: object) -> Callable[[], nn.Module]:
    """A model of which an attribute, at a dotted path, has another value."""
    *parents, name = path.split(".")

    def change(model: nn.Module) -> None:
        found = model
        for parent in parents:
            found = found[int(parent)] if parent.isdigit() else getattr(found, parent)
        setattr(found, name, value)

    return changed(change)


BFLOAT16 = torch.bfloat16
OTHERS = {
    "hook": hooked,
    "forward of an instance": patched,
    "adapter": adapted,
    "attention": set_at("config._attn_implementation", "flex_attention"),
    "attention of a layer": changed(
        lambda model: setattr(
            model.model.layers[1].self_attn, "config", copy.deepcopy(model.config)
        )
    ),
    "bias of the head": set_at("lm_head.bias", nn.Parameter(torch.ones(101, dtype=BFLOAT16))),
    "fewer layers": set_at("config.num_hidden_layers", 2),
    "norm": set_at("model.norm", nn.LayerNorm(SIZES["hidden_size"], dtype=BFLOAT16)),
    "no norm": set_at("model.norm", nn.Identity()),
    "activation": set_at("model.layers.0.mlp.act_fn", nn.GELU()),
    "epsilon": set_at("model.layers.0.input_layernorm.variance_epsilon", 1.0),
    "scaling": set_at("model.layers.0.self_attn.scaling", 1.0),
    "no mask": set_at("model.layers.0.self_attn.is_causal", False),
    "longest embedding": set_at("model.embed_tokens.max_norm", 0.1),
    "heads": set_at("config.num_attention_heads", 2),
    "larger head": set_at("lm_head", nn.Linear(SIZES["hidden_size"], 128, False, dtype=BFLOAT16)),
    "head size": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=12)).bfloat16().eval(),
    "float32": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)).eval(),
}
"""Models that the native core would compute wrongly, or not at all."""


@pytest.mark.parametrize("kind", OTHERS)
def test_torch_runs_models_that_compute_something_else(kind):
    model = OTHERS[kind]()
    assert type(exact_runner_for(model)) is TorchRunner
    assert not NativeRunner.runs(model) or kind == "attention"


def test_torch_runs_models_whose_class_or_whose_hooks_compute_something_else(monkeypatch):
    model, _ = pair("tied")
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert type(exact_runner_for(model)) is TorchRunner
    hook.remove()
    assert type(exact_runner_for(model)) is ExactNativeRunner
    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", lambda self, x: x)
    assert type(exact_runner_for(model)) is TorchRunner


def test_models_of_its_kind_are_run_natively():
    assert type(exact_runner_for(pair("tied")[0])) is ExactNativeRunner


def hook(model: nn.Module) -> None:
    model.lm_head.register_forward_hook(lambda *_: None)


def adapt(model: nn.Module) -> None:
    mlp = model.model.layers[0].mlp
    mlp.up_proj = Adapted(mlp.up_proj)


def replace_a_weight(model: nn.Module) -> None:
    model.model.norm.weight = nn.Parameter(model.model.norm.weight.detach().clone())


def convert(model: nn.Module) -> None:
    model.float()


def rotate_differently(model: nn.Module) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.1)


def rotate_longer(model: nn.Module) -> None:
    model.model.rotary_emb.attention_scaling = 2.0


def attend_differently(model: nn.Module) -> None:
    model.model.layers[0].self_attn.scaling = 0.9


@pytest.mark.parametrize(
    "change",
    [
        hook,
        adapt,
        replace_a_weight,
        convert,
        rotate_differently,
        rotate_longer,
        attend_differently,
    ],
)
def test_a_model_that_was_changed_is_refused_at_the_next_text(change):
    model, _ = pair("qwen2")
    runner = ExactNativeRunner(model)
    chain(runner, [1, 2, 3])
    change(model)
    runner.reset()
    with pytest.raises(RuntimeError, match=r"was replaced, or a hook.*pass runner=TorchRunner"):
        chain(runner, [1, 2, 3])


def test_weights_changed_in_place_are_used():
    model, _ = pair("qwen2")
    runner = ExactNativeRunner(model)
    chain(runner, [1, 2, 3])
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    runner.reset()
    ids = random_ids(9)
    check(chain(runner, ids, 9), written_out(model, ids))
