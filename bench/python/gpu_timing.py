"""Timing on a GPU, by its own events."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from timing import Seconds, summary

WARM_UP = 3
Run = Callable[[int], Any]
"""Works on the set of inputs of that number."""
CALLS = 20
"""In a graph, at least: what starting it takes on the device is shared among them."""
HEAD_START = 200_000
"""Cycles, some 0.1 ms, that the device spins while the host queues what is to be timed."""


def seconds(run: Run, sets: int, rounds: int, *, captured: bool) -> Seconds:
    """Seconds a call, every call on the next set of inputs, so that they come from memory.

    Where the way can be captured, a graph of calls for each set is replayed, which leaves out what
    the host takes to launch; ways that wait for the device are timed call by call.
    """
    for k in range(max(WARM_UP, sets)):
        run(k % sets)
    torch.cuda.synchronize()
    if not captured:
        return summary([_elapsed(lambda k=k: run(k % sets)) for k in range(rounds)])
    graph = torch.cuda.CUDAGraph()
    turns = -(-CALLS // sets)
    with torch.cuda.graph(graph):  # results live until the graph has gone
        kept = [run(k) for _ in range(turns) for k in range(sets)]
    for _ in range(WARM_UP):
        graph.replay()
    samples = [_elapsed(graph.replay) / len(kept) for _ in range(rounds)]
    del kept
    return summary(samples)


def interleaved(
    ways: Sequence[tuple[str, Run, bool]], sets: int, rounds: int
) -> dict[str, Seconds]:
    """Each way in turn, three times over, so that a change of clock meets all alike."""
    parts: dict[str, list[Seconds]] = {name: [] for name, _, _ in ways}
    for _ in range(3):
        for name, run, captured in ways:
            parts[name].append(seconds(run, sets, -(-rounds // 3), captured=captured))
    return {
        name: Seconds(
            statistics.median(s.median for s in found),
            min(s.low for s in found),
            max(s.high for s in found),
        )
        for name, found in parts.items()
    }


def copy_bandwidth(size: int = 1 << 30, rounds: int = 15) -> float:
    """Bytes a second, read and written ones counted alike, of a copy on the device."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    time = seconds(lambda _: target.copy_(source), 1, rounds, captured=False)
    return 2 * size / time.median


def _elapsed(run: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(HEAD_START)  # or an idle device would stamp the start and wait for the host
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3
