"""The number of texts that run at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tokentiming.engine.request import Request
from tokentiming.runners import ModelRunner
from tokentiming.runners.forest import ForestRunner
from tokentiming.scalars import integer

_MOST = 16
"""Maximum number of texts at once by default."""

_NODES = 64
"""Proposed tokens of a text whose memory is counted."""


def batch_size_for(
    requests: Sequence[Request],
    runners: Sequence[ModelRunner],
    *,
    asked: int | None,
    supports_forests: bool,
) -> int:
    """The number of texts to run at once.

    Args:
        requests: of one call.
        runners: of the target, and of drafters that are models. Their caches grow with the texts.
        asked: the user's choice. None means as many as fit into half of the free memory, at most
            16.
        supports_forests: whether the models read several texts at once.

    Raises:
        TypeError: ``asked`` is not an integer.
        ValueError: it is below 1, above 1 for models that read one text at a time, or the caches of
            so many texts, or of a single one, do not fit into the free memory.
    """
    longest = max(len(request.prompt.ids) + request.remaining for request in requests)
    most = 1 if asked is None else integer(asked, "batch_size", least=1, caller="generate")
    most = min(most, len(requests))
    if most > 1 and not supports_forests:
        raise ValueError(
            f"generate: batch_size is {asked}, but {_name(runners[0])} or the draft "
            "reads one text at a time, since its attention takes no mask or its positions do not "
            "allow several; give batch_size=1, or load a flash model with "
            'attn_implementation="sdpa"'
        )
    free = free_bytes(runners[0].device)
    if free is None:
        free = sys.maxsize
    needed = _needed(runners, most, longest)
    if asked is None:  # a text may end early, so it is refused only if its end cannot be reached
        needed //= 2
    if needed > free:
        texts, fewer = (f"{most} texts", "batch_size or ") if most > 1 else ("a text", "")
        raise ValueError(
            f"generate: {texts} of up to {longest} tokens at once may need "
            f"{needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} are free; lower "
            f"{fewer}max_new_tokens"
        )
    if asked is None and supports_forests:
        sizes = range(1, min(len(requests), _MOST) + 1)
        fitting = [size for size in sizes if _needed(runners, size, longest) <= free // 2]
        return max(fitting, default=1)
    return most


def _needed(runners: Sequence[ModelRunner], texts: int, tokens: int) -> int:
    """Bytes of memory for texts of so many tokens: their ids, and the caches that are known."""
    needed = texts * tokens * torch.int64.itemsize
    for runner in runners:
        if isinstance(runner, ForestRunner) and runner.device == runners[0].device:
            read = min(tokens, runner.max_length or tokens)
            needed += runner.cache_bytes(texts, read + _NODES)
    return needed


def _name(runner: ModelRunner) -> str:
    return type(getattr(runner, "model", runner)).__name__


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that can be allocated; None if the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + held)
    try:  # with the page cache, which holds weights and can be dropped
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
