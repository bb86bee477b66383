"""The native core's operations on tensors.

Every function borrows its tensors without a copy, releases the GIL while it works, and gives the
same result on any number of threads. Inputs may be torch tensors or anything with ``__dlpack__``
(NumPy arrays, say) in CPU memory; results are torch tensors. An error's message begins with the
function's name and names the argument; nothing has been written when one is raised.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

# torch comes first: it loads an OpenMP runtime, and the core then joins it. In the other order each
# would bring a pool of threads of its own.
import torch
from torch import Tensor

from tokentiming import _core

__all__ = ["Alignment", "ByteTable", "align", "linear", "linear_is_fast", "sample"]


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
            is not contiguous or not in CPU memory, or one side of a pair empty and the other not.

    Source: TokenTiming, arXiv 2510.15545; band after Sakoe and Chiba, 1978.
    """
    if (draft_offsets is None) != (target_offsets is None):
        missing = "draft_offsets" if draft_offsets is None else "target_offsets"
        raise ValueError(f"align: {missing} is missing; give offsets for both sides or neither")
    if out is None:
        shape = () if draft_offsets is None else (max(len(draft_offsets) - 1, 0),)
        out = Alignment(
            torch.empty((len(target_ids), 2), dtype=torch.int32),
            torch.empty(shape, dtype=torch.int64),
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
        out.target_spans,
        out.cost,
    )
    return out


def sample(
    logits: Tensor,
    keys: Tensor,
    *,
    seed: int,
    states: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Draw one token a row by an exponential race on noise that other models can share.

    Row ``r`` draws ``argmax_v logits[r, v] - log E(seed, states[r], keys[v])``, where the ``E`` are
    independent Exp(1) variates from Philox 4x32-10: token ``v`` is drawn with probability
    ``softmax(logits[r])[v]``. Equal states and equal keys meet equal noise, so that two models that
    give a text similar probabilities mostly draw the same token. ``-inf`` is never drawn; ties go
    to the lowest id. The result depends on the arguments alone, not on threads or processor.

    Args:
        logits: float16, bfloat16, float32 or float64 ``[R, V]``, contiguous along the vocabulary;
            rows may be any distance apart. Unnormalised log-probabilities, after temperature.
        keys: int64 ``[N]``, N <= V: one 64-bit key a token. Ids from N on are padding of the
            model's head; they are not read and never drawn.
        seed: the stream, in [0, 2^64).
        states: int64 ``[R, 3]``: index of the row's sequence, bytes generated so far, zero-byte
            tokens generated so far; the last two below 2^32.
        out: int64 ``[R]`` to fill instead of a new tensor.

    Returns:
        Token ids, int64 ``[R]``.

    Raises:
        TypeError: an argument has another dtype or is no tensor.
        ValueError: NaN, +inf or no finite logit in a row (the message names it), a state or seed
            out of range, sizes that disagree, logits that require grad, a tensor not in CPU memory.

    Source: A* sampling, NeurIPS 2014; shared noise, arXiv 2408.07978; Philox, SC 2011.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"sample: seed is {seed}; it must be in [0, 2**64)")
    if out is None:
        out = torch.empty(len(logits), dtype=torch.int64)
    _core.sample(logits, keys, seed, states, out)
    return out


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """A linear layer over a few rows, reading the weights once for all of them.

    ``out = input @ weight.T + bias``, summed in float32 and rounded once. A row of the result depends
    on its own row of the input alone, whatever the number of rows. Fast where ``linear_is_fast()``.

    Args:
        input: bfloat16 ``[R, K]``, contiguous; meant for R of a dozen or so.
        weight: bfloat16 ``[N, K]``, contiguous.
        bias: bfloat16 ``[N]``, contiguous, or None.
        out: bfloat16 ``[R, N]`` to fill instead of a new tensor.

    Returns:
        bfloat16 ``[R, N]``.

    Raises:
        TypeError: an argument has another dtype or is no tensor.
        ValueError: shapes disagree, or a tensor is not contiguous, requires grad, or is not in CPU
            memory.
    """
    if out is None:
        out = torch.empty((len(input), len(weight)), dtype=torch.bfloat16)
    _core.linear(input, weight, bias, out)
    return out


def linear_is_fast() -> bool:
    """Whether this processor has a fast ``linear`` (x86-64 with AVX2 and FMA)."""
    return _core.linear_is_fast()
