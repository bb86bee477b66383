"""``GraphedModel`` against ``CachedModel``; its recordings are real where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from small_models import SIZES, random_ids
from tokentiming import graphed_model
from tokentiming.cache import CachedModel
from tokentiming.graphed_model import GraphedModel

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
        ],
    ),
]


def make(kind: str, device: str) -> torch.nn.Module:
    torch.manual_seed(5)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES)).to(device).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES)).to(device).eval()


def graphed(model: torch.nn.Module) -> GraphedModel:
    """On the CPU, where nothing can be recorded, a pass is its own recording."""
    return GraphedModel(model, (lambda run: run) if model.device.type == "cpu" else None)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_logits_are_the_models_own(kind, device, monkeypatch):
    monkeypatch.setattr(graphed_model, "_FIRST_CAPACITY", 24)  # so that it grows on the way
    model = make(kind, device)
    ours, reference = graphed(model), CachedModel(model)
    ids = random_ids(60)
    asked = [
        (ids[:1], 1),
        (ids[:9], 2),
        *((ids[:n], 1) for n in range(10, 20)),
        ([*ids[:12], 7], 1),  # taken back, and on with another token
        ([*ids[:12], 7, 8, 9], 3),
        (ids[:14], 2),
        *((ids[:n], 1) for n in range(20, 40)),
        (ids, 5),
        (ids, 1),  # all of it known
        (random_ids(5), 1),
    ]
    for read, keep in asked:
        expected = reference.logits(read, keep)
        torch.testing.assert_close(ours.logits(read, keep), expected, rtol=1e-4, atol=1e-5)
    assert ours.forwards == len(asked)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make_reader", [graphed, CachedModel])
def test_steps_are_read_before_they_are_known(make_reader, device, monkeypatch):
    monkeypatch.setattr(graphed_model, "_FIRST_CAPACITY", 20)  # so that it grows at a step
    model = make("llama", device)
    ours, reference = make_reader(model), CachedModel(model)
    ids = random_ids(40)

    def check(logits: torch.Tensor, read: list[int]) -> None:
        torch.testing.assert_close(logits, reference.logits(read), rtol=1e-4, atol=1e-5)

    check(ours.logits(ids[:12]), ids[:12])
    for n in range(12, 26):
        check(ours.step(torch.tensor(ids[n : n + 1], device=device)), ids[: n + 1])
    ours.identify([*ids[12:20], 100])  # of the rest it is never told
    check(ours.logits(ids[:30]), ids[:30])
    check(ours.logits([*ids[:16], 5, 6]), [*ids[:16], 5, 6])
    check(ours.step(torch.tensor([7], device=device)), [*ids[:16], 5, 6, 7])
    check(ours.logits(ids[:18]), ids[:18])  # nor what that was


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_does_not_write_over_the_one_before(device):
    ours = graphed(make("llama", device))
    ids = random_ids(8)
    ours.logits(ids[:6])
    first = ours.logits(ids[:7])
    kept = first.clone()
    ours.logits(ids)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("device", DEVICES)
def test_after_a_reset_nothing_is_left(device):
    model = make("qwen2", device)
    ours = graphed(model)
    ours.logits(random_ids(30))
    ours.reset()
    ids = random_ids(9)
    torch.testing.assert_close(ours.logits(ids), CachedModel(model).logits(ids))


def test_only_models_on_a_gpu_that_attend_to_all_tokens_alike(monkeypatch):
    llama = make("llama", "cpu")
    assert not GraphedModel.runs(llama)
    gemma = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8))
    for model in (llama, gemma):
        monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert GraphedModel.runs(llama)
    assert not GraphedModel.runs(gemma)  # its windows slide
