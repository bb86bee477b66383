"""Dynamic time warping between two tokenizations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, empty_strided

from tokentiming import _core
from tokentiming.ops.arguments import refuse_shape, require_parts
from tokentiming.ops.devices import device_of
from tokentiming.ops.tables import ByteTable


class Alignment(NamedTuple):
    """A path between draft tokens and target tokens.

    target_spans
        int32 ``[M, 2]`` (``[T, 2]`` for a batch with T target tokens in all): for each target
        token the half-open range of draft tokens aligned with it, counted from the first draft
        token of its own sequence. Ranges are never empty; the first starts at 0, the last ends at
        K, and each starts where the previous one ended or one token earlier.
    cost
        int64, 0-dimensional (``[B]`` for a batch): the byte edits summed along the path.
    """

    target_spans: Tensor
    cost: Tensor


def align(
    *,
    draft_ids: Tensor,
    target_ids: Tensor,
    draft_table: ByteTable,
    target_table: ByteTable,
    band: int = 8,
    draft_offsets: Tensor | None = None,
    target_offsets: Tensor | None = None,
    out: Alignment | None = None,
) -> Alignment:
    """Find the dynamic-time-warping path between two tokenizations of nearly the same bytes.

    With ``i`` over draft tokens and ``j`` over target tokens,
    ``C[i, j] = levenshtein(i, j) + min(C[i-1, j-1], C[i-1, j], C[i, j-1])`` on the tokens' bytes,
    within ``|i - j| <= max(band, |K - M|)``; ties go to the predecessor named first. Two empty
    sides align at cost 0.

    Args:
        draft_ids: int32 or int64 ``[K]``, contiguous.
        target_ids: the same dtype, ``[M]``, contiguous.
        draft_table: bytes of the draft's tokens, such as ``draft_vocabulary.table``.
        target_table: bytes of the target's tokens.
        band: maximum distance of the path from the diagonal, in tokens; 0 or more.
        draft_offsets: int64 ``[B + 1]`` for a batch of B sequences laid end to end in
            ``draft_ids``: sequence ``b`` is ``draft_ids[draft_offsets[b]:draft_offsets[b + 1]]``.
            Without offsets there is one sequence.
        target_offsets: the same for ``target_ids``; give both or neither.
        out: tensors to fill instead of new ones.

    Returns:
        The spans and the cost, new or ``out``.

    Raises:
        TypeError: an argument is not a tensor, not a ``ByteTable``, or of another dtype.
        ValueError: an id outside its vocabulary, a negative band, malformed offsets, a tensor that
            is not contiguous, tensors that are not all in CPU memory or all on one GPU, or one side
            of a pair empty and the other not.

    On a GPU a sequence has at most 128 tokens on a side and a token at most 2048 bytes. Without
    offsets a longer sequence is a ``ValueError``. The host does not read values: any other pair
    that would raise, or exceeds these limits, gets the cost -1 and spans of -1.

    Source: TokenTiming, arXiv 2510.15545; band after Sakoe and Chiba, 1978.

    The draft spells "token" as ``to``, ``ken``, the target as ``tok``, ``e``, ``n``:

    >>> table = ByteTable(
    ...     torch.tensor(list(b"tokentoken"), dtype=torch.uint8), torch.tensor([0, 2, 5, 8, 9, 10])
    ... )
    >>> alignment = align(
    ...     draft_ids=torch.tensor([0, 1]),
    ...     target_ids=torch.tensor([2, 3, 4]),
    ...     draft_table=table,
    ...     target_table=table,
    ... )
    >>> alignment.target_spans.tolist(), alignment.cost
    ([[0, 1], [0, 1], [1, 2]], tensor(5))
    """
    try:
        filled = _new(target_ids, target_offsets) if out is None else out
        _core.align(
            draft_ids,
            target_ids,
            draft_table,
            target_table,
            band,
            draft_offsets,
            target_offsets,
            filled.target_spans,
            filled.cost,
        )
    except Exception:
        require_parts("align", Alignment, out)
        raise
    return filled


def _new(target_ids: Tensor, target_offsets: Tensor | None) -> Alignment:
    spans, cost = _core.align_shapes(target_ids, target_offsets)
    device = device_of(target_ids)
    try:  # not two calls of new(), which would add a tenth to the time of align
        return Alignment(
            empty_strided(spans, (2, 1), dtype=torch.int32, device=device),
            empty_strided(cost, (1,) if cost else (), dtype=torch.int64, device=device),
        )
    except RuntimeError as error:
        refuse_shape("align", "target_ids and target_offsets", [spans, cost], error)
        raise
