"""``CudaGraphRunner`` against full passes; its recordings are real only on a GPU."""

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

from tests.support.forests import Rounds, full_pass
from tests.support.small_models import SIZES
from tokentiming.runners import NativeRunner, runner_for
from tokentiming.runners import cuda_graph as cuda_graph_module
from tokentiming.runners.cuda_graph import CudaGraphRunner, Pass, cuda_graph
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.tree import Tree

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
VOCABULARY = SIZES["vocab_size"]


def make(kind: str, device: str) -> torch.nn.Module:
    torch.manual_seed(5)
    sizes = SIZES | {"initializer_range": 0.2}
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**sizes)).to(device).eval()
    if kind == "gemma3":
        layers = ["sliding_attention", "full_attention", "sliding_attention"]
        config = Gemma3TextConfig(**sizes, head_dim=8, sliding_window=5, layer_types=layers)
        return Gemma3ForCausalLM(config).to(device).eval()
    return LlamaForCausalLM(LlamaConfig(**sizes)).to(device).eval()


def graphed(model: torch.nn.Module, capacity: int = 1024) -> CudaGraphRunner:
    """On the CPU, where nothing can be recorded, a pass is its own recording."""
    record = (lambda run: run) if model.device.type == "cpu" else None
    return CudaGraphRunner(model, record, capacity=capacity)


def rounds(runner: TorchRunner, texts: int = 1, **options: Any) -> Rounds:
    tolerance = 1e-5 if runner.device.type == "cpu" else 1e-3
    reference = full_pass(runner.model)
    return Rounds(
        runner, reference, VOCABULARY, texts=texts, seed=texts, tolerance=tolerance, **options
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("texts", [1, 2, 3])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_logits_are_the_models_own(kind, texts, device):
    runner = graphed(make(kind, device), capacity=24)  # the cache grows during the test
    play = rounds(runner, texts)
    play.play(6)
    runner.reset()
    play.texts = []
    play.play(6)


@pytest.mark.parametrize("device", DEVICES)
def test_chains_are_replayed_too(device):
    rounds(graphed(make("llama", device), capacity=24), branches=False).play(12)


def test_passes_that_read_prompts_are_not_recorded():
    runner = graphed(make("llama", "cpu"))
    runner.read([list(range(30)), list(range(1, 30))], [Tree(), Tree()])
    assert (runner.forwards, list(runner._recordings)) == (2, [(2, 1)])


@pytest.mark.parametrize("device", DEVICES)
def test_a_pass_does_not_write_over_the_logits_of_the_one_before(device):
    runner = graphed(make("llama", device))
    (first,) = runner.read([[1, 2, 3]], [Tree()])
    kept = first.clone()
    runner.read([[1, 2, 3, 4]], [Tree()])
    assert torch.equal(first, kept)


def test_only_models_on_a_gpu(monkeypatch):
    for kind in ("llama", "gemma3"):
        model = make(kind, "cpu")
        assert not CudaGraphRunner.runs(model)
        monkeypatch.setattr(type(model), "device", torch.device("cuda"))
        assert CudaGraphRunner.runs(model)


@pytest.mark.parametrize(
    ("attention", "runs"),
    [
        ("sdpa", True),
        ("eager", True),
        ("flash_attention_2", False),  # it would attend to the whole of the cache
        ("flash_attention_3", False),
        ("kernels-community/flash-attn", False),
        ("flex_attention", False),
        (None, False),
    ],
)
def test_only_attention_that_accepts_a_mask(attention, runs, monkeypatch):
    llama = make("llama", "cpu")
    monkeypatch.setattr(type(llama), "device", torch.device("cuda"))
    llama.config._attn_implementation = attention
    assert CudaGraphRunner.runs(llama) is runs


# ---- what is recorded, and when ----


class Recorder:
    """Counts recordings and replays."""

    def __init__(self, fails_from: int = 99) -> None:
        self.recordings = self.replays = 0
        self.fails_from = fails_from

    def __call__(self, run: Pass) -> Pass:
        self.recordings += 1
        if self.recordings > self.fails_from:
            run()  # fails as a capture does, after a part of the pass
            raise RuntimeError("not while the stream is capturing")

        def replay() -> torch.Tensor:
            self.replays += 1
            return run()

        return replay


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "tokentiming.runners.cuda_graph"]


def test_passes_are_recorded_once_for_each_number_of_texts_and_rows():
    recorder = Recorder()
    runner = CudaGraphRunner(make("llama", "cpu"), recorder, capacity=64)
    assert recorder.recordings == 0  # lazily
    text = [1, 2, 3]
    for count in (1, 2, 3, 4):  # rows: 4, then 2, 4, 4, 8, padded to powers of two
        runner.read([text], [Tree.chain(range(count))])
        text = [*text, 0]
    assert (recorder.recordings, recorder.replays) == (2, 4)
    runner.read([text, [4], [5]], [Tree()] * 3)  # padded to four texts
    runner.read([text, [4, 5], [5, 6], [7]], [Tree()] * 4)
    assert (recorder.recordings, recorder.replays) == (3, 6)
    runner.reset()
    runner.read([list(range(40))], [Tree()])  # more rows than any recording: an ordinary pass
    assert (recorder.recordings, recorder.replays) == (3, 6)
    runner.read([list(range(41))], [Tree()])
    assert (recorder.recordings, recorder.replays) == (4, 7)
    runner.read([list(range(65))], [Tree()])  # grows, so that all are recorded again
    runner.read([list(range(66))], [Tree()])
    assert recorder.recordings > 4


def test_a_text_read_alone_does_not_write_over_others():
    """Padding to four texts is for a pass over all of them only."""
    recorder = Recorder()
    runner = CudaGraphRunner(make("llama", "cpu"), recorder)
    rounds(runner, 3).play(10)
    assert recorder.replays


def test_a_model_that_cannot_be_recorded_is_read_by_ordinary_passes(caplog):
    recorder = Recorder(fails_from=0)
    runner = CudaGraphRunner(make("llama", "cpu"), recorder)
    with caplog.at_level(logging.WARNING):
        rounds(runner, 2).play(6)
    assert recorder.recordings == 1
    (warning,) = warnings_of(caplog)
    assert warning == (
        "LlamaForCausalLM cannot be recorded as a CUDA graph and is run without, which is slower "
        "(RuntimeError: not while the stream is capturing)"
    )


def test_logits_are_right_after_a_later_recording_fails(caplog):
    recorder = Recorder(fails_from=2)
    runner = CudaGraphRunner(make("qwen2", "cpu"), recorder, capacity=10)
    with caplog.at_level(logging.WARNING):
        rounds(runner, 2).play(10)
    assert recorder.recordings == 3
    assert recorder.replays
    assert len(warnings_of(caplog)) == 1


def test_a_model_that_gives_other_logits_in_forests_is_read_without_masks():
    recorder = Recorder()
    runner = CudaGraphRunner(make("llama", "cpu"), recorder)
    runner.supports_forests = False
    rounds(runner, branches=False).play(6)
    assert recorder.recordings == 0


def test_a_copy_has_a_cache_and_recordings_of_its_own(monkeypatch):
    monkeypatch.setattr(cuda_graph_module, "cuda_graph", lambda run, device: run)
    runner = CudaGraphRunner(make("llama", "cpu"))
    runner.supports_forests = False
    play = rounds(runner, branches=False)
    play.play(2)
    other = copy.copy(runner)
    assert (type(other), other.model, other.supports_forests) == (
        CudaGraphRunner,
        runner.model,
        False,
    )
    other.read([[7, 8, 9]], [Tree()])
    play.play(2)


def test_the_cache_serves_inside_inference_mode_and_outside():
    runner = graphed(make("gemma3", "cpu"), capacity=10)
    play = rounds(runner, 2)
    with torch.inference_mode():
        play.play(3)
    play.play(3)


def test_the_runner_of_a_model_on_a_gpu(monkeypatch):
    model = make("llama", "cpu")
    monkeypatch.setattr(NativeRunner, "runs", lambda model: False)
    monkeypatch.setattr(CudaGraphRunner, "runs", lambda model: True)
    assert type(runner_for(model)) is CudaGraphRunner


# ---- how a CUDA graph is recorded ----


class Cuda:
    """Replaces the parts of ``torch.cuda`` that ``cuda_graph`` uses, and records the calls."""

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
        yield  # PyTorch's own does not leave its stream if the end of the capture fails
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
    CudaGraphRunner(make("llama", "cpu")).read([[1]], [Tree()])
    assert devices == [torch.device("cpu")]
