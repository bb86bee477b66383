"""The CPU runner for draft models; see tokentiming.runners.native and tokentiming.runners.linear.

A wrong type or dtype raises TypeError, any other wrong argument ValueError. The message begins with
the function's name and names the argument.
"""

from typing import Any

from torch import Tensor

def linear(input: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, /) -> None:
    """Write ``input @ weight.T + bias`` to ``out``, reading each weight once for all rows.

    Sums are accumulated in float32 and rounded once, to nearest even. A row of ``out`` depends on
    its own row of ``input`` only. Fast if ``linear_is_fast()``; correct and slow otherwise. The GIL
    is released.

    Args:
        input: bfloat16 ``[R, K]``; R is meant to be at most a dozen or so.
        weight: bfloat16 ``[N, K]``.
        bias: bfloat16 ``[N]``, or None.
        out: bfloat16 ``[R, N]``; shares memory with no input.

    All tensors are contiguous, in CPU memory, and do not require grad.
    """

def linear_is_fast() -> bool:
    """Whether this processor has AVX2 and FMA (x86-64), which ``Transformer`` needs."""

def variants() -> list[str]:
    """The instruction sets that this processor runs, the fastest first.

    They are ``amx``, ``avx512bf16``, ``avx512``, ``avx2`` and ``portable``. All functions use the
    first one; ``portable`` has ``linear`` only.
    """

class Transformer:
    """A model's forward pass over several sequences. It keeps the tensors that it borrows alive.

    A sequence has committed tokens, and pending nodes, which form a tree behind them: all that was
    read since the last ``keep`` or ``truncate``, numbered in the order of reading. Every function
    raises ValueError, and changes nothing, if there is no sequence of the given index.

    Raises ValueError if the processor lacks AVX2 and FMA (x86-64).

    Args:
        embedding: bfloat16 ``[V, hidden]``.
        layers: tuples (attention_norm, query, key, value, output, mlp_norm, gate, up, down). Norms
            are bfloat16 ``[hidden]``; all others are pairs (weight, bias or None), bfloat16
            ``[out, in]`` and ``[out]``.
        final_norm: bfloat16 ``[hidden]``.
        head: bfloat16 ``[V, hidden]``.
        rotation: radians per position, ``head_size / 2`` of them.
        rotation_scale: factor of the rotation's cosines and sines.
        heads: query heads.
        key_heads: heads of keys and values, a divisor of ``heads``.
        norm_epsilon: added to the mean square in norms.
        rounded: whether projections have their weights rounded to 8 bits, or 4, and their inputs to
            8, and all else is float32. Otherwise every operation rounds its results to bfloat16,
            where torch does.
    """

    def __init__(
        self,
        embedding: Tensor,
        layers: list[tuple[Any, ...]],
        final_norm: Tensor,
        head: Tensor,
        rotation: list[float],
        rotation_scale: float,
        heads: int,
        key_heads: int,
        norm_epsilon: float,
        rounded: bool,
        /,
    ) -> None: ...
    def sequences(self) -> int:
        """Return the number of sequences."""

    def length(self, sequence: int, /) -> int:
        """Return the number of committed tokens."""

    def pending(self, sequence: int, /) -> int:
        """Return the number of pending nodes."""

    def read(
        self,
        tokens: Tensor,
        parents: Tensor,
        offsets: Tensor,
        logits: Tensor,
        wanted: Tensor,
        /,
    ) -> None:
        """Read rows, which become pending, and fill the logits of the wanted rows.

        A row attends to its sequence's committed tokens, its ancestors and itself. All rows share
        passes over the weights. The GIL is released. Nothing has been read if an argument is
        refused.

        Args:
            tokens: int64 ``[T]``; those of sequence s are ``offsets[s]`` to ``offsets[s + 1] - 1``.
            parents: int32 ``[T]``, each the index of an earlier pending node of the row's sequence,
                where rows are numbered on from the nodes that were pending before; -1: the row
                follows the committed tokens directly.
            offsets: int64 ``[S + 1]``. More sequences than there are add empty ones at the end;
                sequences without offsets have no rows.
            logits: float32 ``[W, V]``; row w follows row ``wanted[w]``.
            wanted: int64 ``[W]``, ascending.
        """

    def keep(self, sequence: int, nodes: Tensor, /) -> None:
        """Commit the nodes of a path, int64 ``[n]``, and forget all other pending nodes.

        Raises ValueError, and changes nothing, unless the first node follows the committed tokens
        and each is the parent of the next.
        """

    def commit(self, sequence: int, keys: Tensor, values: Tensor, /) -> None:
        """Commit further tokens, whose keys and values were computed elsewhere.

        Raises ValueError, and changes nothing, if the sequence has pending nodes.

        Args:
            sequence: index.
            keys: float32 ``[layers, T, key_heads * head_size]``, rotated.
            values: like ``keys``.
        """

    def truncate(self, sequence: int, length: int, /) -> None:
        """Forget the pending nodes, and all but the first ``length`` committed tokens."""

    def drop(self, sequence: int, /) -> None:
        """Forget a sequence; the last one takes its index."""

    def clear(self) -> None:
        """Forget all sequences."""
