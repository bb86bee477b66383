"""``CudaGraphRunner`` against ``TorchRunner``; its recordings are real where there is a GPU."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

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

from tests.support.small_models import SIZES, random_ids
from tokentiming.runners import NativeRunner, runner_for
from tokentiming.runners import cuda_graph as cuda_graph_module
from tokentiming.runners.cuda_graph import CudaGraphRunner, Pass, cuda_graph, cuda_graph_or_torch
from tokentiming.runners.torch import TorchRunner

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def make(kind: str, device: str) -> torch.nn.Module:
    torch.manual_seed(5)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES)).to(device).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES)).to(device).eval()


def graphed(model: torch.nn.Module, capacity: int = 1024) -> CudaGraphRunner:
    """On the CPU, where nothing can be recorded, a pass is its own recording."""
    record = (lambda run: run) if model.device.type == "cpu" else None
    return CudaGraphRunner(model, record, capacity=capacity)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_logits_are_the_models_own(kind, device):
    model = make(kind, device)
    ours, reference = graphed(model, capacity=24), TorchRunner(model)  # it grows on the way
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
@pytest.mark.parametrize(
    "make_runner",
    [lambda model: graphed(model, capacity=20), TorchRunner],  # the first grows at a step
    ids=["graphed", "torch"],
)
def test_steps_are_read_before_they_are_known(make_runner, device):
    model = make("llama", device)
    ours, reference = make_runner(model), TorchRunner(model)
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
    torch.testing.assert_close(ours.logits(ids), TorchRunner(model).logits(ids))


def test_only_models_on_a_gpu_that_attend_to_all_tokens_alike(monkeypatch):
    llama = make("llama", "cpu")
    assert not CudaGraphRunner.runs(llama)
    gemma = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8))
    for model in (llama, gemma):
        monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert CudaGraphRunner.runs(llama)
    assert not CudaGraphRunner.runs(gemma)  # its windows slide


@pytest.mark.parametrize(
    ("attention", "runs"),
    [
        ("sdpa", True),
        ("eager", True),
        ("flash_attention_2", False),  # it would attend to the whole of a static cache
        ("flash_attention_3", False),
        ("kernels-community/flash-attn", False),
        ("flex_attention", False),
        (None, False),
    ],
)
def test_only_attention_that_goes_by_a_mask(attention, runs, monkeypatch):
    llama = make("llama", "cpu")
    monkeypatch.setattr(type(llama), "device", torch.device("cuda"))
    llama.config._attn_implementation = attention
    assert CudaGraphRunner.runs(llama) is runs


# ---- recordings that fail ----


def refuse(run: Pass) -> Pass:
    """Fails where a capture does: on the way, with a part of the pass done."""
    run()
    raise RuntimeError("not while the stream is capturing")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "tokentiming.runners.cuda_graph"]


def test_the_recording_is_made_with_the_model():
    recorded: list[Pass] = []

    def record(run: Pass) -> Pass:
        recorded.append(run)
        return run

    model = make("llama", "cpu")
    ours = CudaGraphRunner(model, record)
    assert len(recorded) == 1
    assert ours.forwards == 0
    ids = random_ids(4)
    torch.testing.assert_close(ours.logits(ids), TorchRunner(model).logits(ids))
    assert len(recorded) == 1


def test_a_model_that_cannot_be_recorded_is_read_as_it_is(caplog):
    model = make("llama", "cpu")
    with pytest.raises(RuntimeError, match="capturing"):
        CudaGraphRunner(model, refuse)
    with caplog.at_level(logging.WARNING):
        ours = cuda_graph_or_torch(model, refuse)
        assert type(ours) is TorchRunner
        ours.logits(random_ids(5))
    (warning,) = warnings_of(caplog)
    assert warning == (
        "LlamaForCausalLM cannot be recorded as a CUDA graph and is run without, which is slower "
        "(RuntimeError: not while the stream is capturing)"
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_runner_of_a_model_is_known_when_it_is_made(fails, monkeypatch, caplog):
    model = make("llama", "cpu")
    monkeypatch.setattr(NativeRunner, "runs", lambda model: False)
    monkeypatch.setattr(CudaGraphRunner, "runs", lambda model: True)
    monkeypatch.setattr(
        cuda_graph_module, "cuda_graph", lambda run, device: refuse(run) if fails else run
    )
    with caplog.at_level(logging.WARNING):
        ours = runner_for(model)
    assert type(ours) is (TorchRunner if fails else CudaGraphRunner)
    assert len(warnings_of(caplog)) == fails
    ids = random_ids(5)
    torch.testing.assert_close(ours.logits(ids), TorchRunner(model).logits(ids))


def test_a_copy_has_a_cache_and_a_recording_of_its_own(monkeypatch):
    monkeypatch.setattr(cuda_graph_module, "cuda_graph", lambda run, device: run)
    model = make("llama", "cpu")
    ours = CudaGraphRunner(model)
    ids = random_ids(20)
    ours.logits(ids)
    again = copy.copy(ours)
    assert type(again) is CudaGraphRunner
    assert again.model is model
    again.logits(ids[10:])
    torch.testing.assert_close(ours.logits([*ids, 3]), TorchRunner(model).logits([*ids, 3]))


def test_where_a_later_recording_fails_the_logits_are_the_models_own(caplog):
    model = make("qwen2", "cpu")
    attempts = 0

    def record(run: Pass) -> Pass:
        nonlocal attempts
        attempts += 1
        return run if attempts == 1 else refuse(run)

    ours, reference = CudaGraphRunner(model, record, capacity=10), TorchRunner(model)
    ids = random_ids(60)

    def check(logits: torch.Tensor, read: list[int]) -> None:
        torch.testing.assert_close(logits, reference.logits(read), rtol=1e-4, atol=1e-5)

    with caplog.at_level(logging.WARNING):
        for n in range(6, 14):  # grows at logits
            check(ours.logits(ids[:n]), ids[:n])
        for n in range(13, 60):  # grows at a step, twice
            check(ours.step(torch.tensor(ids[n : n + 1])), ids[: n + 1])
        ours.identify(ids[13:])
        check(ours.logits([*ids[:30], 7]), [*ids[:30], 7])
    assert attempts == 2
    assert len(warnings_of(caplog)) == 1


def test_the_cache_serves_inside_inference_mode_and_outside():
    model = make("llama", "cpu")
    ids = random_ids(24)
    with torch.inference_mode():
        ours = graphed(model, capacity=10)
        ours.logits(ids[:12])  # grows
    for n in range(13, 24):
        expected = TorchRunner(model).logits(ids[:n])
        torch.testing.assert_close(ours.logits(ids[:n]), expected, rtol=1e-4, atol=1e-5)


# ---- how a CUDA graph is recorded ----


class Cuda:
    """Stands in for what ``cuda_graph`` uses of ``torch.cuda``; keeps account of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = 0
        self.streams = {0: "default 0", 1: "default 1"}
        self.log: list[tuple[Any, ...]] = []
        self.fails = False
        for name, stand_in in {
            "device": self.device,
            "current_stream": lambda: self.stream_of(self.streams[self.current]),
            "Stream": lambda: self.stream_of(f"side {self.current}"),
            "stream": self.stream,
            "graph": self.graph,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.log.append(("replay",))),
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def stream_of(self, name: str) -> Any:
        return SimpleNamespace(
            name=name, wait_stream=lambda other: self.log.append(("wait", name, other.name))
        )

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before = self.streams[self.current]
        self.streams[self.current] = stream.name
        try:
            yield
        finally:
            self.streams[self.current] = before

    @contextmanager
    def graph(self, graph: Any, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.log.append(("capture", stream.name, capture_error_mode))
        self.streams[self.current] = stream.name
        yield  # PyTorch's own leaves its stream only if the capture's end does not fail
        if self.fails:
            raise RuntimeError("the capture was invalidated")

    def run(self) -> torch.Tensor:
        self.log.append(("run", self.current, self.streams[self.current]))
        return torch.tensor([len(self.log)])


def test_a_recording_is_of_the_models_device_and_of_this_thread(monkeypatch):
    cuda = Cuda(monkeypatch)
    replay = cuda_graph(cuda.run, torch.device("cuda:1"))
    run = ("run", 1, "side 1")
    assert cuda.log == [
        ("wait", "side 1", "default 1"),
        run,
        run,
        run,
        ("capture", "side 1", "thread_local"),
        run,
        ("wait", "default 1", "side 1"),
    ]
    assert replay() is replay()
    assert cuda.log[-2:] == [("replay",)] * 2


@pytest.mark.parametrize("fails_at", ["the pass", "the end of the capture"])
def test_a_capture_that_fails_leaves_device_and_stream_as_they_were(fails_at, monkeypatch):
    cuda = Cuda(monkeypatch)
    cuda.fails = fails_at == "the end of the capture"

    def run() -> torch.Tensor:
        if fails_at == "the pass" and cuda.log[-1][0] == "capture":
            raise RuntimeError("not while the stream is capturing")
        return cuda.run()

    with pytest.raises(RuntimeError, match="captur"):
        cuda_graph(run, torch.device("cuda:1"))
    assert cuda.current == 0
    assert cuda.streams == {0: "default 0", 1: "default 1"}


def test_a_model_is_recorded_on_its_own_device(monkeypatch):
    devices: list[torch.device] = []
    monkeypatch.setattr(
        cuda_graph_module, "cuda_graph", lambda run, device: devices.append(device) or run
    )
    CudaGraphRunner(make("llama", "cpu"))
    assert devices == [torch.device("cpu")]
