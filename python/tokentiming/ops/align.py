"""Dynamic time warping between two tokenizations."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import new, require_parts
from tokentiming.ops.devices import device_of
from tokentiming.ops.errors import ArgumentValueError
from tokentiming.ops.recording import record
from tokentiming.ops.tracing import traced


class ByteTable(Protocol):
    """A vocabulary as a table ``id -> bytes``.

    Token ``id`` is ``bytes[offsets[id]:offsets[id + 1]]``.
    """

    @property
    def bytes(self) -> Tensor:
        """All tokens' bytes end to end, uint8 ``[N]``."""

    @property
    def offsets(self) -> Tensor:
        """Where each token begins, and N, int64 ``[V + 1]``, non-decreasing."""


class Alignment(NamedTuple):
    """A path between draft tokens and target tokens.

    target_spans
        int32 ``[M, 2]`` (``[T, 2]`` for a batch with T target tokens in all): for each target
        token the half-open range of draft tokens beside it, counted from the first draft token of
        its own sequence. Ranges are never empty; the first starts at 0, the last ends at K, and
        each starts where the one before ended or one token earlier.
    cost
        int64, 0-dimensional (``[B]`` for a batch): the byte edits summed along the path.
    """

    target_spans: Tensor
    cost: Tensor


def align(
    draft_ids: Tensor,
    target_ids: Tensor,
    draft_vocab: ByteTable,
    target_vocab: ByteTable,
    *,
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
        draft_vocab: bytes of the draft's tokens; a ``Vocabulary`` is one.
        target_vocab: bytes of the target's tokens.
        band: how far, in tokens, the path may stray from the diagonal; 0 or more.
        draft_offsets: int64 ``[B + 1]`` for a batch of B sequences laid end to end in
            ``draft_ids``: sequence ``b`` is ``draft_ids[draft_offsets[b]:draft_offsets[b + 1]]``.
            Without offsets there is one sequence.
        target_offsets: the same for ``target_ids``; give both or neither.
        out: tensors to fill instead of new ones.

    Returns:
        The spans and the cost, new or ``out``.

    Raises:
        TypeError: an argument has another dtype or is no tensor.
        ValueError: an id outside its vocabulary, a negative band, malformed offsets, a tensor that
            is not contiguous, tensors that are not all in CPU memory or all on one GPU, or one side
            of a pair empty and the other not.

    On a GPU a sequence has at most 128 tokens on a side and a token at most 2048 bytes. Values are
    not looked at by the host: a pair that would raise, or goes beyond these limits, gets the cost
    -1 and spans of -1.

    Source: TokenTiming, arXiv 2510.15545; band after Sakoe and Chiba, 1978.
    """
    if (draft_offsets is None) != (target_offsets is None):
        missing = "draft_offsets" if draft_offsets is None else "target_offsets"
        raise ArgumentValueError(
            f"align: {missing} is missing; give offsets for both sides or neither"
        )
    try:
        if traced(draft_ids):
            return Alignment(
                *record(
                    "align",
                    out,
                    draft_ids=draft_ids,
                    target_ids=target_ids,
                    draft_bytes=draft_vocab.bytes,
                    draft_starts=draft_vocab.offsets,
                    target_bytes=target_vocab.bytes,
                    target_starts=target_vocab.offsets,
                    band=band,
                    draft_offsets=draft_offsets,
                    target_offsets=target_offsets,
                )
            )
        filled = out
        if filled is None:
            tokens = _core.length(target_ids, "align", "target_ids", "[M]")
            shape: tuple[int, ...] = ()
            if target_offsets is not None:
                offsets = _core.length(target_offsets, "align", "target_offsets", "[B + 1]")
                shape = (max(offsets - 1, 0),)
            device = device_of(target_ids)
            filled = Alignment(
                new("align", "target_ids", (tokens, 2), torch.int32, device),
                new("align", "target_offsets", shape, torch.int64, device),
            )
        _core.align(
            draft_ids,
            draft_offsets,
            target_ids,
            target_offsets,
            draft_vocab.bytes,
            draft_vocab.offsets,
            target_vocab.bytes,
            target_vocab.offsets,
            band,
            filled.target_spans,
            filled.cost,
        )
    except Exception:
        require_parts("align", draft_vocab=draft_vocab, target_vocab=target_vocab, out=out)
        raise
    return filled
