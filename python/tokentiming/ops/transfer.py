"""Conversion of distributions over the draft's vocabulary to the target's vocabulary."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import dtype_of, new, require_parts
from tokentiming.ops.devices import device_of
from tokentiming.ops.errors import ArgumentTypeError
from tokentiming.ops.tables import ByteTable, VocabularyMap


class Transfer(NamedTuple):
    """Distributions of proxy tokens.

    probs
        float32 or float64 ``[M, V_t]``. Where the draft's probability has no expansion the row sums
        to less than 1.
    cases
        int8 ``[M]``: 0 point mass at the proxy token; 1 the token starts with a draft token and
        ends within or with it; 2 it is a merge of several draft tokens; 3 it continues inside one.
    """

    probs: Tensor
    cases: Tensor


def transfer(
    draft_probs: Tensor | None = None,
    *,
    draft_ids: Tensor,
    target_ids: Tensor,
    target_spans: Tensor,
    draft_table: ByteTable,
    target_table: ByteTable,
    vocabulary_map: VocabularyMap,
    draft_offsets: Tensor | None = None,
    target_offsets: Tensor | None = None,
    columns: int | None = None,
    draft_logits: Tensor | None = None,
    temperature: float = 1.0,
    out: Transfer | None = None,
) -> Transfer:
    """Move the draft's probabilities to proxy tokens along an alignment.

    Let ``t`` be a proxy token aligned with the draft tokens ``lo..hi-1``, ``P_i`` the draft's
    distribution at its token ``d_i``, and ``first`` the first target token of a draft token's
    bytes:

    1. ``t`` starts where ``d_lo`` starts and ends within or with it: ``q(x)`` is the sum of
       ``P_lo(d)`` over ``first(d) = x``.
    2. ``t`` starts where ``d_lo`` starts and ends where a later token ``d_(hi-1)`` ends: as in case
       1, and the product of all ``P_i(d_i)`` is moved from ``first(d_lo)`` (or, if that is -1, from
       the missing mass) to ``t``.
    3. ``t`` continues inside ``d_lo``: ``q`` is ``P_lo`` conditioned on expansions that begin with
       the proxy tokens already taken from ``d_lo`` and have further tokens; ``x`` is the next one.
    0. Anything else, and a case without mass: ``q(t) = 1``.

    Byte offsets decide the case. A span that disagrees with them is of case 0, as is a proxy token
    without bytes that is aligned with a draft token that has bytes.

    Args:
        draft_probs: float16, bfloat16, float32 or float64 ``[K, V_d]``, contiguous along the
            vocabulary; the distribution that each draft token was drawn from.
        draft_ids: int32 or int64 ``[K]``, contiguous, all below D.
        target_ids: proxy tokens, the same dtype, ``[M]``, contiguous.
        target_spans: int32 ``[M, 2]``, contiguous: the range of draft tokens aligned with each
            proxy token, counted from the first one of their sequence, as ``align`` returns it; it
            may be empty.
        draft_table: bytes of the draft's tokens.
        target_table: bytes of the target's tokens.
        vocabulary_map: the draft's D tokens in the target's, D <= V_d; columns of ``draft_*`` from
            D on are not read.
        draft_offsets: int64 ``[B + 1]`` for a batch of B sequences laid end to end.
        target_offsets: the same for ``target_ids``; give both or neither.
        columns: V_t, by default as many as ``target_table`` has tokens; more where the model's head
            is padded.
        draft_logits: in place of ``draft_probs``, which are then the softmax of ``draft_logits /
            temperature`` over the D tokens.
        temperature: greater than 0, for logits.
        out: tensors to fill instead of new ones; ``probs`` of float64 if the draft's rows are, else
            of float32.

    Returns:
        Distributions and cases, new or ``out``. The result does not depend on the number of
        threads.

    Raises:
        TypeError: an argument is not a tensor, of another dtype, or not a ``ByteTable`` or
            ``VocabularyMap``; or not exactly one of ``draft_probs`` and ``draft_logits`` is given.
        ValueError: sizes disagree, an id or a span is out of range, offsets are malformed, a tensor
            is not contiguous where it must be or requires grad, or tensors are not all in CPU
            memory or all on one GPU; or, when ``out`` may have been written in part, what is read
            of ``draft_probs`` holds NaN, infinity or a negative probability, or of
            ``vocabulary_map`` is out of range; or a row of ``draft_logits`` holds NaN or +inf or
            has no finite logit.

    On a GPU distributions and cases are the same to the last bit, but for the rounding of a
    softmax; a sequence has at most 128 tokens on a side, and logits may not be float64. The host
    does not read values: where it would raise, the proxy token gets the case -1 and a distribution
    of zeros.

    Source: TokenTiming, arXiv 2510.15545.

    Draft tokens ``a``, ``b``, ``ab`` are spelled as target tokens ``a``, ``b``, and ``a`` ``b``:

    >>> letters = torch.tensor(list(b"abab"), dtype=torch.uint8)
    >>> exact = torch.tensor([0, 1, -1], dtype=torch.int32)
    >>> first = torch.tensor([0, 1, 0], dtype=torch.int32)
    >>> expansion_ids = torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    >>> moved = transfer(
    ...     torch.tensor([[0.5, 0.25, 0.25]]),
    ...     draft_ids=torch.tensor([2]),
    ...     target_ids=torch.tensor([0, 1]),
    ...     target_spans=torch.tensor([[0, 1], [0, 1]], dtype=torch.int32),
    ...     draft_table=ByteTable(letters, torch.tensor([0, 1, 2, 4])),
    ...     target_table=ByteTable(letters, torch.tensor([0, 1, 2])),
    ...     vocabulary_map=VocabularyMap(exact, first, torch.tensor([0, 1, 2, 4]), expansion_ids),
    ... )
    >>> moved.probs.tolist(), moved.cases.tolist()
    ([[0.75, 0.25], [0.0, 1.0]], [1, 3])
    """
    rows = _one_of("transfer", draft_probs, draft_logits)
    try:
        filled = _new(rows, target_ids, target_table, columns) if out is None else out
        _core.transfer(
            draft_probs,
            draft_logits,
            temperature,
            draft_ids,
            target_ids,
            target_spans,
            draft_table,
            target_table,
            vocabulary_map,
            draft_offsets,
            target_offsets,
            columns,
            filled.probs,
            filled.cases,
        )
    except Exception:
        require_parts("transfer", Transfer, out)
        raise
    return filled


def _one_of(function: str, draft_probs: Tensor | None, draft_logits: Tensor | None) -> Tensor:
    """The draft's rows, given as probabilities or as logits."""
    if draft_probs is not None and draft_logits is None:
        return draft_probs
    if draft_logits is not None and draft_probs is None:
        return draft_logits
    raise ArgumentTypeError(f"{function}: give one of draft_probs and draft_logits")


def _new(
    rows: Tensor, target_ids: Tensor, target_table: ByteTable, columns: int | None
) -> Transfer:
    shape = _core.transfer_shape(target_ids, target_table, columns)
    dtype, device = dtype_of("transfer", "draft_probs", rows), device_of(rows)
    return Transfer(
        new("transfer", "target_ids and columns", shape, dtype, device),
        new("transfer", "target_ids", shape[:1], torch.int8, device),
    )


def restrict(
    draft_probs: Tensor | None,
    vocabulary_map: VocabularyMap,
    *,
    columns: int,
    draft_logits: Tensor | None = None,
    temperature: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    """Restrict distributions to the tokens that both vocabularies have, and normalise what is left.

    ``out[r, exact[d]]`` is ``draft_probs[r, d]`` divided by the sum over all shared tokens, with
    ``exact`` of ``vocabulary_map``.

    Args:
        draft_probs: float16, bfloat16, float32 or float64 ``[R, V_d]``, contiguous along the
            vocabulary; None beside ``draft_logits``.
        vocabulary_map: of the draft's D tokens, D <= V_d; only ``exact`` is read. Columns of
            ``draft_*`` from D on are not read.
        columns: V_t, the width of the target's head.
        draft_logits: in place of ``draft_probs``, which are then the softmax of ``draft_logits /
            temperature`` over the D tokens.
        temperature: greater than 0, for logits.
        out: ``[R, V_t]``, contiguous, to fill instead of a new tensor; of float64 if the draft's
            rows are, else of float32.

    Returns:
        Distributions over the target's vocabulary, ``[R, V_t]``.

    Raises:
        TypeError: an argument is not a tensor, of another dtype, or not a ``VocabularyMap``; or not
            exactly one of ``draft_probs`` and ``draft_logits`` is given.
        ValueError: sizes disagree; or, when ``out`` may have been written in part, a row holds NaN,
            infinity or a negative probability or has no mass on shared tokens, a row of logits
            holds NaN or +inf or has no finite logit, or ``exact`` is out of range.

    On a GPU logits may not be float64, and the host does not read values: a row that would raise
    becomes NaN throughout.

    Source: token-level intersection, arXiv 2502.05202, Algorithm 4.

    Of three draft tokens the last is not shared:

    >>> exact = torch.tensor([1, 0, -1], dtype=torch.int32)
    >>> vocabulary_map = VocabularyMap(exact, exact, torch.tensor([0, 1, 2, 2]), exact[:2])
    >>> restrict(torch.tensor([[0.25, 0.5, 0.25]]), vocabulary_map, columns=2)
    tensor([[0.6667, 0.3333]])
    """
    rows = _one_of("restrict", draft_probs, draft_logits)
    if out is None:
        shape = _core.restrict_shape(draft_probs, draft_logits, columns)
        dtype, device = dtype_of("restrict", "draft_probs", rows), device_of(rows)
        out = new("restrict", "draft_probs and columns", shape, dtype, device)
    _core.restrict(draft_probs, draft_logits, temperature, vocabulary_map, columns, out)
    return out
