"""Verification of trees of proposed tokens by the target's own tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, empty_strided

from tokentiming import _core
from tokentiming.ops.arguments import refuse_shape, require_parts
from tokentiming.ops.devices import device_of
from tokentiming.ops.operators import IDS, INT64, record, register, traced, without_memory


class Walk(NamedTuple):
    """The result of walking through B trees of proposed tokens with N nodes in all.

    tokens
        int64 ``[N + B]``: from ``offsets[b] + b`` on the tokens emitted for sequence ``b``, which
        are the accepted ones and an additional one, then -1.
    nodes
        int32 ``[N]``: from ``offsets[b]`` on the accepted nodes of tree ``b`` in order, then -1;
        counted from the first node of the tree.
    accepted
        int32 ``[B]``: number of accepted nodes of each tree.
    """

    tokens: Tensor
    nodes: Tensor
    accepted: Tensor


def walk(
    picked: Tensor,
    *,
    tokens: Tensor,
    parents: Tensor,
    offsets: Tensor,
    out: Walk | None = None,
) -> Walk:
    """Follow the tokens that the target has picked through trees of proposed tokens.

    The target has picked a token after the committed text of each of B sequences (the root of its
    tree) and after each proposed token (a node). A walk starts at the root. At each position it
    emits the picked token. If a child has this token, the child is accepted and the walk continues
    from it; otherwise the walk ends. Of several such children the first is taken. For any trees,
    the emitted tokens are those that the target alone would have picked.

    Args:
        picked: int64 ``[N + B]``, contiguous, 0 or more: the target's token at each row. The rows
            of tree ``b`` begin at ``offsets[b] + b``: its root, then its nodes.
        tokens: int32 or int64 ``[N]``, contiguous: the token of each node, the trees laid end to
            end. A node whose token is below 0 is never accepted.
        parents: int32 ``[N]``, contiguous: the index of each node's parent, counted from the first
            node of its tree; -1 for a child of the root. A parent comes before its children.
        offsets: int64 ``[B + 1]``: the nodes of tree ``b`` are ``offsets[b]`` to
            ``offsets[b + 1] - 1``.
        out: tensors to fill instead of new ones.

    Returns:
        Emitted tokens, accepted nodes and their numbers, new or ``out``.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: sizes that disagree, malformed offsets, a parent that is not before its node, a
            picked token below 0, a tensor that is not contiguous, or tensors that are not all in
            CPU memory or all on one GPU.

    On a GPU the results are the same. The host does not read values: a tree that would raise gets
    ``accepted`` -1 and -1 throughout ``tokens`` and ``nodes``. If its offsets are no range of the
    nodes, only ``accepted`` is written.

    Source: SpecInfer, arXiv 2305.09781, Algorithm 2 (VerifyGreedy).

    The tree proposes 5 or 7 after the text, 8 after the 5, and 9 or 6 after the 7. The target picks
    7, then 6, then 2:

    >>> path = walk(
    ...     torch.tensor([7, 8, 6, 1, 3, 2]),
    ...     tokens=torch.tensor([5, 7, 8, 9, 6]),
    ...     parents=torch.tensor([-1, -1, 0, 1, 1], dtype=torch.int32),
    ...     offsets=torch.tensor([0, 5]),
    ... )
    >>> path.tokens.tolist(), path.nodes.tolist(), path.accepted.tolist()
    ([7, 6, 2, -1, -1, -1], [1, 4, -1, -1, -1], [2])
    """
    try:
        if traced(picked):
            return Walk(
                *record("walk", out, picked=picked, tokens=tokens, parents=parents, offsets=offsets)
            )
        filled = _new(picked, tokens=tokens, offsets=offsets) if out is None else out
        _core.walk(picked, tokens, parents, offsets, filled.tokens, filled.nodes, filled.accepted)
    except Exception:
        require_parts("walk", Walk, out)
        raise
    return filled


def _new(picked: Tensor, *, tokens: Tensor, offsets: Tensor, **_: object) -> Walk:
    rows, nodes, batch = _shapes(picked, tokens, offsets)
    device = device_of(picked)
    try:  # not three calls of new(), which would add a fifth to the time of walk
        return Walk(
            empty_strided(rows, (1,), dtype=torch.int64, device=device),
            empty_strided(nodes, (1,), dtype=torch.int32, device=device),
            empty_strided(batch, (1,), dtype=torch.int32, device=device),
        )
    except RuntimeError as error:
        refuse_shape("walk", "tokens and offsets", [rows, nodes, batch], error)
        raise


def _shapes(
    picked: Tensor, tokens: Tensor, offsets: Tensor
) -> tuple[tuple[int | torch.SymInt], tuple[int | torch.SymInt], tuple[int | torch.SymInt]]:
    """The shapes of the results."""
    if not without_memory(picked):
        return _core.walk_shapes(tokens, offsets)
    nodes, batch = tokens.shape[0], offsets.shape[0] - 1
    return (nodes + batch,), (nodes,), (batch,)


register(
    walk,
    tuple[Tensor, Tensor, Tensor],
    _new,
    {
        "picked": ("[N + B]", INT64),
        "tokens": ("[N]", IDS),
        "parents": ("[N]", (torch.int32,)),
        "offsets": ("[B + 1]", INT64),
    },
)
