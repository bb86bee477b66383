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

class Transformer:
    """A model's forward pass. It keeps the tensors that it borrows alive.

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
        /,
    ) -> None: ...
    def length(self) -> int:
        """Return the number of tokens read so far."""

    def truncate(self, length: int, /) -> None:
        """Forget all but the first ``length`` tokens."""

    def read(self, ids: Tensor, logits: Tensor, /) -> None:
        """Read ids, int64 ``[R]``, and fill logits, float32 ``[keep, V]``, of the last ``keep``.

        Nothing has been read if an argument is refused.
        """
