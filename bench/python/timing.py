"""Timing the ways of a case against each other: a CPU by its clock, a GPU by its events."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from case import Case, Run

SAMPLE_SECONDS = 2e-3
"""On a CPU, shorter calls are repeated until a sample takes this long, far above the clock's."""
WARM_UP = 3
CALLS = 20
"""Calls in a CUDA graph, at least: they share the time that the device takes to start it."""
HEAD_START = 200_000
"""Cycles, about 0.1 ms, that the GPU spins while the host enqueues what is timed."""


@dataclass(frozen=True)
class Seconds:
    """Seconds a call: the median of all samples, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """In milliseconds."""
        return f"{self.median * 1e3:.0f} ({self.low * 1e3:.0f}-{self.high * 1e3:.0f})"

    def __truediv__(self, count: int) -> Seconds:
        return Seconds(self.median / count, self.low / count, self.high / count)


def summary(samples: list[float]) -> Seconds:
    if len(samples) < 2:
        return Seconds(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Seconds(median, low, high)


def interleaved(case: Case, device: str, rounds: int) -> dict[str, Seconds]:
    """Time the ways of a case in turn, so that changes of the machine affect all alike."""
    return _on_cpu(case, rounds) if device == "cpu" else _on_gpu(case, rounds)


def copy_bandwidth(device: str, size: int = 0, rounds: int = 0) -> float:
    """Bytes a second of a large copy, bytes read and written both counted.

    On a CPU the copy uses all of torch's threads.
    """
    size = size or (256 << 20 if device == "cpu" else 1 << 30)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    rounds = rounds or (9 if device == "cpu" else 15)
    if device == "cpu":
        samples = [_sample(lambda: target.copy_(source), 1) for _ in range(rounds)]
    else:
        for _ in range(WARM_UP):
            target.copy_(source)
        samples = [_elapsed(lambda: target.copy_(source)) for _ in range(rounds)]
    return 2 * size / statistics.median(samples)


# ---- CPU ----


def _on_cpu(case: Case, rounds: int) -> dict[str, Seconds]:
    """Time each way once a round."""
    runs = {name: _cycling(run, case.sets) for name, run in case.ways.items()}
    calls = {name: _calls_a_sample(run) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                samples[name].append(_sample(run, calls[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: summary(values) for name, values in samples.items()}


def _cycling(run: Run, sets: int) -> Callable[[], object]:
    """A function without arguments that takes the next set at each call."""
    turn = itertools.cycle(range(sets))
    return lambda: run(next(turn))


def _calls_a_sample(run: Callable[[], object]) -> int:
    calls = 1
    while (seconds := _sample(run, calls) * calls) < SAMPLE_SECONDS:
        calls = max(2 * calls, int(calls * SAMPLE_SECONDS / max(seconds, 1e-9)))
    return calls


def _sample(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


# ---- GPU ----


def _on_gpu(case: Case, rounds: int) -> dict[str, Seconds]:
    """Time each way three times, in turn."""
    parts: dict[str, list[Seconds]] = {name: [] for name in case.ways}
    for _ in range(3):
        for name, run in case.ways.items():
            captured = name not in case.synchronizing
            parts[name].append(_gpu_seconds(run, case.sets, -(-rounds // 3), captured=captured))
    return {
        name: Seconds(
            statistics.median(s.median for s in found),
            min(s.low for s in found),
            max(s.high for s in found),
        )
        for name, found in parts.items()
    }


def _gpu_seconds(run: Run, sets: int, rounds: int, *, captured: bool) -> Seconds:
    """Seconds a call.

    A way that can be captured is timed as a replayed CUDA graph of calls, which excludes the time
    that the host takes to launch. Other ways are timed call by call.
    """
    for k in range(max(WARM_UP, sets)):
        run(k % sets)
    torch.cuda.synchronize()
    if not captured:
        return summary([_elapsed(lambda k=k: run(k % sets)) for k in range(rounds)])
    graph = torch.cuda.CUDAGraph()
    turns = -(-CALLS // sets)
    with torch.cuda.graph(graph):  # results live until the graph is deleted
        kept = [run(k) for _ in range(turns) for k in range(sets)]
    for _ in range(WARM_UP):
        graph.replay()
    samples = [_elapsed(graph.replay) / len(kept) for _ in range(rounds)]
    del kept
    return summary(samples)


def captures(run: Run) -> bool:
    """Whether a CUDA graph can capture a call of a way; it must have run before."""
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            run(0)
    except RuntimeError as error:
        print(f"not captured: {error}"[:200])
        return False
    return True


def _elapsed(run: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(HEAD_START)  # else an idle device records the start and waits for the host
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3
