"""The operations as torch operators, ``torch.ops.tokentiming.*``.

They stand in for the functions of ``tokentiming.ops`` under torch.compile and for tensors without
memory, whose shapes they know; any other call goes straight to the core, which is faster by ten
microseconds. Their schemas take byte tables and maps apart into tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from tokentiming.ops.align import align
from tokentiming.ops.origins import Origins
from tokentiming.ops.sample import sample
from tokentiming.ops.transfer import restrict, transfer
from tokentiming.ops.verify import verify


class _Table(NamedTuple):
    bytes: Tensor
    offsets: Tensor


class _Expansions(NamedTuple):
    first: Tensor
    expansion_offsets: Tensor
    expansion_ids: Tensor


def _origins(offsets: Tensor | None, draft_ids: Tensor | None) -> Origins | None:
    return None if offsets is None or draft_ids is None else Origins(offsets, draft_ids)


@custom_op("tokentiming::align", mutates_args=(), device_types=("cpu", "cuda"))
def _align(
    draft_ids: Tensor,
    target_ids: Tensor,
    draft_bytes: Tensor,
    draft_starts: Tensor,
    target_bytes: Tensor,
    target_starts: Tensor,
    band: int,
    draft_offsets: Tensor | None,
    target_offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    result = align(
        draft_ids,
        target_ids,
        _Table(draft_bytes, draft_starts),
        _Table(target_bytes, target_starts),
        band=band,
        draft_offsets=draft_offsets,
        target_offsets=target_offsets,
    )
    return result.target_spans, result.cost


@_align.register_fake
def _(
    draft_ids: Tensor,
    target_ids: Tensor,
    draft_bytes: Tensor,
    draft_starts: Tensor,
    target_bytes: Tensor,
    target_starts: Tensor,
    band: int,
    draft_offsets: Tensor | None,
    target_offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    batch = [] if draft_offsets is None else [draft_offsets.shape[0] - 1]
    return (
        target_ids.new_empty((target_ids.shape[0], 2), dtype=torch.int32),
        target_ids.new_empty(batch, dtype=torch.int64),
    )


@custom_op("tokentiming::sample", mutates_args=(), device_types=("cpu", "cuda"))
def _sample(logits: Tensor, keys: Tensor, seed: int, states: Tensor) -> Tensor:
    return sample(logits, keys, seed=seed % 2**64, states=states)  # schemas have signed integers


@_sample.register_fake
def _(logits: Tensor, keys: Tensor, seed: int, states: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


@custom_op("tokentiming::verify", mutates_args=(), device_types=("cpu", "cuda"))
def _verify(
    draft_ids: Tensor,
    target_logits: Tensor | None,
    target_probs: Tensor | None,
    draft_logits: Tensor | None,
    draft_probs: Tensor | None,
    uniforms: Tensor | None,
    temperature: float,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    result = verify(
        draft_ids,
        target_logits=target_logits,
        target_probs=target_probs,
        draft_logits=draft_logits,
        draft_probs=draft_probs,
        uniforms=uniforms,
        temperature=temperature,
        offsets=offsets,
    )
    return result.tokens, result.accepted


@_verify.register_fake
def _(
    draft_ids: Tensor,
    target_logits: Tensor | None,
    target_probs: Tensor | None,
    draft_logits: Tensor | None,
    draft_probs: Tensor | None,
    uniforms: Tensor | None,
    temperature: float,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    columns: int | torch.SymInt
    if offsets is None:
        batch, columns = draft_ids.shape[0], draft_ids.shape[1] + 1
    elif draft_ids.is_cuda:
        batch, columns = offsets.shape[0] - 1, draft_ids.shape[0] + 1
    else:  # as wide as the longest chain, which only the offsets' values tell
        batch, columns = offsets.shape[0] - 1, torch.library.get_ctx().new_dynamic_size(min=1)
    return (
        draft_ids.new_empty((batch, columns), dtype=torch.int32),
        draft_ids.new_empty(batch, dtype=torch.int32),
    )


@custom_op("tokentiming::transfer", mutates_args=(), device_types=("cpu", "cuda"))
def _transfer(
    draft_probs: Tensor,
    draft_ids: Tensor,
    target_ids: Tensor,
    target_spans: Tensor,
    draft_bytes: Tensor,
    draft_starts: Tensor,
    target_bytes: Tensor,
    target_starts: Tensor,
    first: Tensor,
    expansion_offsets: Tensor,
    expansion_ids: Tensor,
    draft_offsets: Tensor | None,
    target_offsets: Tensor | None,
    columns: int,
    origin_offsets: Tensor | None = None,
    origin_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    result = transfer(
        draft_probs,
        draft_ids,
        target_ids,
        target_spans,
        _Table(draft_bytes, draft_starts),
        _Table(target_bytes, target_starts),
        _Expansions(first, expansion_offsets, expansion_ids),
        draft_offsets=draft_offsets,
        target_offsets=target_offsets,
        columns=columns,
        origins=_origins(origin_offsets, origin_ids),
    )
    return result.probs, result.cases


@_transfer.register_fake
def _(
    draft_probs: Tensor,
    draft_ids: Tensor,
    target_ids: Tensor,
    target_spans: Tensor,
    draft_bytes: Tensor,
    draft_starts: Tensor,
    target_bytes: Tensor,
    target_starts: Tensor,
    first: Tensor,
    expansion_offsets: Tensor,
    expansion_ids: Tensor,
    draft_offsets: Tensor | None,
    target_offsets: Tensor | None,
    columns: int,
    origin_offsets: Tensor | None = None,
    origin_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return (
        draft_probs.new_empty((target_ids.shape[0], columns)),
        draft_probs.new_empty(target_ids.shape[0], dtype=torch.int8),
    )


@custom_op("tokentiming::restrict", mutates_args=(), device_types=("cpu", "cuda"))
def _restrict(
    draft_probs: Tensor,
    exact: Tensor,
    columns: int,
    origin_offsets: Tensor | None = None,
    origin_ids: Tensor | None = None,
) -> Tensor:
    origins = _origins(origin_offsets, origin_ids)
    return restrict(draft_probs, exact, columns=columns, origins=origins)


@_restrict.register_fake
def _(
    draft_probs: Tensor,
    exact: Tensor,
    columns: int,
    origin_offsets: Tensor | None = None,
    origin_ids: Tensor | None = None,
) -> Tensor:
    return draft_probs.new_empty((draft_probs.shape[0], columns))
