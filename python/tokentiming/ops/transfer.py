"""From distributions over the draft's vocabulary to distributions over the target's."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.align import ByteTable
from tokentiming.ops.arguments import dtype_of, new, require_parts
from tokentiming.ops.devices import device_of, on_gpu
from tokentiming.ops.errors import ArgumentValueError
from tokentiming.ops.origins import Origins, tensors_of
from tokentiming.ops.recording import record
from tokentiming.ops.tracing import traced


class Expansions(Protocol):
    """The draft's vocabulary as the target spells it.

    The bytes of draft token ``d``, encoded by the target's tokenizer, are the tokens
    ``expansion_ids[expansion_offsets[d]:expansion_offsets[d + 1]]``.
    """

    @property
    def first(self) -> Tensor:
        """First of these tokens, or -1 where there are none: int32 or int64 ``[D]``."""

    @property
    def expansion_offsets(self) -> Tensor:
        """int64 ``[D + 1]``, non-decreasing."""

    @property
    def expansion_ids(self) -> Tensor:
        """All expansions end to end, of the dtype of ``first``: ``[E]``."""


class Transfer(NamedTuple):
    """Distributions of proxy tokens.

    probs
        float32 or float64 ``[M, V_t]``. Where the draft's probability has no expansion the row sums
        to less than 1.
    cases
        int8 ``[M]``: 0 point mass at the proxy token, 1 it starts with a draft token and ends
        within or with it, 2 it is a merge of several, 3 it continues inside one.
    """

    probs: Tensor
    cases: Tensor


def transfer(
    draft_probs: Tensor,
    draft_ids: Tensor,
    target_ids: Tensor,
    target_spans: Tensor,
    draft_vocab: ByteTable,
    target_vocab: ByteTable,
    expansions: Expansions,
    *,
    draft_offsets: Tensor | None = None,
    target_offsets: Tensor | None = None,
    columns: int | None = None,
    origins: Origins | None = None,
    out: Transfer | None = None,
) -> Transfer:
    """Move the draft's probabilities to proxy tokens along an alignment.

    For a proxy token ``t`` beside the draft tokens ``lo..hi-1``, with ``P_i`` the draft's
    distribution at its token ``d_i`` and ``first`` the first target token of a draft token's bytes:

    1. ``t`` starts where ``d_lo`` starts and ends within or with it: ``q(x)`` is the sum of
       ``P_lo(d)`` over ``first(d) = x``.
    2. ``t`` starts where ``d_lo`` starts and ends where ``d_(hi-1)``, a later one, ends: the same,
       and the product of all ``P_i(d_i)`` is taken from ``first(d_lo)`` (or, if that is -1, from
       the missing mass) and given to ``t``.
    3. ``t`` continues inside ``d_lo``: ``q`` is ``P_lo`` conditioned on expansions that begin with
       the proxy tokens already taken from ``d_lo`` and go on; ``x`` is what they go on with.
    0. Anything else, and a case without mass: ``q(t) = 1``.

    Byte offsets decide the case. A span that is not the one they speak of is of case 0, as is a
    proxy token without bytes beside a draft token that has some.

    Args:
        draft_probs: float32 or float64 ``[K, V_d]``, contiguous along the vocabulary; the
            distribution that each draft token was drawn from.
        draft_ids: int32 or int64 ``[K]``, contiguous, all below D.
        target_ids: proxy tokens, the same dtype, ``[M]``, contiguous.
        target_spans: int32 ``[M, 2]``, contiguous: draft tokens beside each proxy token, counted
            from the first of their own sequence, as ``align`` returns them; may be empty ranges.
        draft_vocab: bytes of the draft's tokens.
        target_vocab: bytes of the target's tokens.
        expansions: D entries, D <= V_d; columns of ``draft_probs`` from D on are not read.
        draft_offsets: int64 ``[B + 1]`` for a batch of B sequences laid end to end.
        target_offsets: the same for ``target_ids``; give both or neither.
        columns: V_t, by default as many as ``target_vocab`` has tokens; more where the model's head
            is padded.
        origins: ``Origins.of(expansions.first)``, needed on a GPU unless ``expansions`` has it as
            ``first_origins``, as a ``VocabularyMap`` does.
        out: tensors to fill instead of new ones; ``probs`` of the dtype of ``draft_probs``.

    Returns:
        Distributions and cases, new or ``out``. The result does not depend on the number of
        threads.

    Raises:
        TypeError: an argument has another dtype or is no tensor.
        ValueError: sizes disagree, an id or a span is out of range, offsets are malformed, a tensor
            is not contiguous where it must be or requires grad, or tensors are not all in CPU
            memory or all on one GPU; or, when ``out`` may have been written in part, what is read
            of ``draft_probs`` holds NaN, infinity or a negative probability, or of ``expansions``
            is out of range.

    On a GPU distributions and cases are the same to the last bit, and a sequence has at most 128
    tokens on a side. Values are not looked at by the host: where it would raise, the proxy token
    gets the case -1 and a distribution of zeros.

    Source: TokenTiming, arXiv 2510.15545.
    """
    if (draft_offsets is None) != (target_offsets is None):
        missing = "draft_offsets" if draft_offsets is None else "target_offsets"
        raise ArgumentValueError(
            f"transfer: {missing} is missing; give offsets for both sides or neither"
        )
    try:
        if origins is None and on_gpu(draft_probs):
            origins = getattr(expansions, "first_origins", None)
        if origins is None:
            origin_offsets = origin_ids = None
        else:
            origin_offsets, origin_ids = tensors_of("transfer", origins)
        if traced(draft_probs):
            return Transfer(
                *record(
                    "transfer",
                    out,
                    draft_probs=draft_probs,
                    draft_ids=draft_ids,
                    target_ids=target_ids,
                    target_spans=target_spans,
                    draft_bytes=draft_vocab.bytes,
                    draft_starts=draft_vocab.offsets,
                    target_bytes=target_vocab.bytes,
                    target_starts=target_vocab.offsets,
                    first=expansions.first,
                    expansion_offsets=expansions.expansion_offsets,
                    expansion_ids=expansions.expansion_ids,
                    draft_offsets=draft_offsets,
                    target_offsets=target_offsets,
                    columns=_width(target_vocab) if columns is None else columns,
                    origin_offsets=origin_offsets,
                    origin_ids=origin_ids,
                )
            )
        filled = out
        if filled is None:
            tokens = _core.length(target_ids, "transfer", "target_ids", "[M]")
            if columns is None:
                offsets = target_vocab.offsets
                size = _core.length(offsets, "transfer", "target_vocab.offsets", "[V + 1]")
                columns = max(size - 1, 0)
            columns = _core.columns(columns, "transfer")
            dtype, device = dtype_of("transfer", "draft_probs", draft_probs), device_of(draft_probs)
            filled = Transfer(
                new("transfer", "target_ids and columns", (tokens, columns), dtype, device),
                new("transfer", "target_ids", (tokens,), torch.int8, device),
            )
        _core.transfer(
            draft_probs,
            draft_ids,
            draft_offsets,
            target_ids,
            target_offsets,
            target_spans,
            draft_vocab.bytes,
            draft_vocab.offsets,
            target_vocab.bytes,
            target_vocab.offsets,
            expansions.first,
            expansions.expansion_offsets,
            expansions.expansion_ids,
            origin_offsets,
            origin_ids,
            columns,
            filled.probs,
            filled.cases,
        )
    except Exception:
        require_parts(
            "transfer",
            draft_vocab=draft_vocab,
            target_vocab=target_vocab,
            expansions=expansions,
            out=out,
        )
        raise
    return filled


def _width(vocab: ByteTable) -> int:
    """How many tokens a table of tensors without memory has; what is no table is refused later."""
    offsets = vocab.offsets
    return offsets.shape[0] - 1 if isinstance(offsets, Tensor) and offsets.ndim == 1 else 0


def restrict(
    draft_probs: Tensor,
    exact: Tensor,
    *,
    columns: int,
    origins: Origins | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Restrict distributions to the tokens that both vocabularies have, and normalise what is left.

    ``out[r, exact[d]]`` is ``draft_probs[r, d]`` over the sum of all that are shared.

    Args:
        draft_probs: float32 or float64 ``[R, V_d]``, contiguous along the vocabulary.
        exact: int32 or int64 ``[D]``, D <= V_d: the target token with the bytes of each draft
            token, or -1. Columns from D on are not read.
        columns: V_t, the width of the target's head.
        origins: ``Origins.of(exact)``, needed on a GPU.
        out: ``[R, V_t]`` of the dtype of ``draft_probs``, contiguous, to fill instead of a new
            tensor.

    Returns:
        Distributions over the target's vocabulary, ``[R, V_t]``.

    Raises:
        TypeError: an argument has another dtype or is no tensor.
        ValueError: sizes disagree; or, when ``out`` may have been written in part, a row holds NaN,
            infinity or a negative probability or has no mass on shared tokens, or ``exact`` is out
            of range.

    On a GPU ``origins`` stand for ``exact``. Values are not looked at by the host: a row that would
    raise becomes NaN throughout.

    Source: token-level intersection, arXiv 2502.05202, Algorithm 4.
    """
    if origins is None:
        origin_offsets = origin_ids = None
    else:
        origin_offsets, origin_ids = tensors_of("restrict", origins)
    if traced(draft_probs):
        restricted: Tensor = record(
            "restrict",
            out,
            draft_probs=draft_probs,
            exact=exact,
            columns=columns,
            origin_offsets=origin_offsets,
            origin_ids=origin_ids,
        )
        return restricted
    if out is None:
        columns = _core.columns(columns, "restrict")
        rows = _core.length(draft_probs, "restrict", "draft_probs", "[R, V_d]")
        dtype = dtype_of("restrict", "draft_probs", draft_probs)
        out = new(
            "restrict", "draft_probs and columns", (rows, columns), dtype, device_of(draft_probs)
        )
    _core.restrict(draft_probs, exact, columns, origin_offsets, origin_ids, out)
    return out
