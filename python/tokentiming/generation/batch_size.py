"""The number of texts that run at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tokentiming.engine.request import Request
from tokentiming.scalars import integer

_MOST = 16
"""Maximum number of texts at once by default."""


def batch_size_for(
    requests: Sequence[Request],
    target: PreTrainedModel,
    *,
    asked: int | None,
    supports_forests: bool,
) -> int:
    """The number of texts to run at once.

    Args:
        requests: of one call.
        target: the target model, whose cache grows with the texts.
        asked: the user's choice. None means as many as fit into half of the free memory, at most
            16.
        supports_forests: whether the models read several texts at once.

    Raises:
        TypeError: ``asked`` is not an integer.
        ValueError: it is below 1, above 1 for models that read one text at a time, or the target's
            cache for so many texts does not fit into the free memory.
    """
    longest = max(len(request.prompt.ids) + request.remaining for request in requests)
    text_bytes = longest * token_bytes(target)
    free = free_bytes(target.device)
    if asked is None:
        if not supports_forests:
            return 1
        fit = _MOST if free is None else max(free // 2 // max(text_bytes, 1), 1)
        return min(len(requests), _MOST, fit)
    size = min(integer(asked, "batch_size", least=1, caller="generate"), len(requests))
    if size > 1 and not supports_forests:
        raise ValueError(
            f"generate: batch_size is {asked}, but {type(target).__name__} or the draft reads one "
            "text at a time, since its attention takes no mask or its positions do not allow "
            'several; give batch_size=1, or load a flash model with attn_implementation="sdpa"'
        )
    if free is not None and size * text_bytes > free:
        raise ValueError(
            f"generate: batch_size {size} texts of up to {longest} tokens need "
            f"{size * text_bytes / 2**30:.1f} GiB of cache and {free / 2**30:.1f} are free; lower "
            "batch_size or max_new_tokens"
        )
    return size


def token_bytes(model: PreTrainedModel) -> int:
    """Bytes of keys and values for each token, all layers together."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * key_heads * size * model.dtype.itemsize)


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
