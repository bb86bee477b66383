"""Rejection sampling along drafted chains."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import new, require_parts
from tokentiming.ops.devices import device_of
from tokentiming.ops.errors import ArgumentTypeError, ArgumentValueError
from tokentiming.ops.operators import (
    FLOAT32,
    FLOATS,
    IDS,
    INT64,
    WIDE,
    compiling,
    number,
    record,
    register,
    traced,
    without_memory,
)
from tokentiming.ops.tables import VocabularyMap


class Verification(NamedTuple):
    """The result of verifying B drafted chains.

    tokens
        int32 ``[B, K + 1]``: the accepted tokens of each chain, one additional token, then -1. For
        ragged chains K is the greatest length; on a GPU, where the host does not know it, it is T.
    accepted
        int32 ``[B]``: number of accepted drafted tokens, without the additional token.
    """

    tokens: Tensor
    accepted: Tensor


def verify(
    draft_ids: Tensor,
    *,
    target_logits: Tensor | None = None,
    target_probs: Tensor | None = None,
    draft_logits: Tensor | None = None,
    draft_probs: Tensor | None = None,
    uniforms: Tensor | None = None,
    temperature: float = 1.0,
    offsets: Tensor | None = None,
    temperatures: Tensor | None = None,
    draft_rows: Tensor | None = None,
    draft_map: VocabularyMap | None = None,
    out: Verification | None = None,
) -> Verification:
    """Accept a prefix of each drafted chain and draw the token after it, so that the distribution
    is ``p``.

    With ``p`` the target's distribution and ``q`` the proposal's, token ``x`` at position ``i`` is
    accepted while ``uniforms[i] < min(1, p(x) / q(x))``. At the first rejection one token is drawn
    from ``norm(max(p - q, 0))``; when all are accepted, one from ``p``. If ``max(p - q, 0)`` has no
    mass, the rejection itself is due to rounding, and the token is drawn from ``p``.

    Chains come padded (``draft_ids`` has two axes, every chain has K tokens) or ragged
    (``draft_ids`` has one axis, ``offsets`` separate the B chains; T tokens in all):

    ==================  ====================  ================
    argument            padded                ragged
    ==================  ====================  ================
    ``draft_ids``       ``[B, K]``            ``[T]``
    ``draft_*``         ``[B, K, V]``         ``[T, V]``
    ``target_*``        ``[B, K + 1, V]``     ``[T + B, V]``
    ``uniforms``        ``[B, K + 1]``        ``[T + B]``
    ``draft_rows``      ``[B, K]``            ``[T]``
    ==================  ====================  ================

    Args:
        draft_ids: int32 or int64, contiguous. -1 means that the draft drew from the mass that
            ``draft_probs`` lacks to sum to 1, or a token without an expansion in ``draft_map``;
            this counts as a rejection. Do not leave such a draw out: whether a position is drafted
            must not depend on the token drawn there. Beside ``draft_logits``, -1 needs a map.
        target_logits: float16, bfloat16, float32 or float64, contiguous along the vocabulary, rows
            at a constant stride; ``p`` is the softmax of them over ``temperature``.
        target_probs: ``p`` itself, in place of ``target_logits``; normalised up to rounding.
        draft_logits: ``q`` is the softmax of ``draft_logits / temperature``.
        draft_probs: ``q`` itself, taken as given: it may sum to less than 1. Without it and
            ``draft_logits`` each token was proposed with certainty: it is accepted with probability
            ``p(x)``, and on rejection another is drawn from ``p`` without ``x``.
        uniforms: float32 or float64, contiguous, in [0, 1). The last one of a chain draws its
            additional token, the others accept or reject its tokens. float64 resolves tokens of
            small probability. May be missing with ``temperature=0``, but not with ``temperatures``.
        temperature: 0 or more, for logits of the target and of the draft; refused beside
            ``target_probs``. At 0 the rule emits the lowest id of greatest logit, whatever ``q``
            is; no rows but those of ``target_logits`` are read.
        offsets: int64 ``[B + 1]``: chain ``b`` is ``draft_ids[offsets[b]:offsets[b + 1]]``, and its
            ``target_*`` rows begin at ``offsets[b] + b``.
        temperatures: float32 ``[B]``, contiguous: a temperature for each chain, in place of
            ``temperature``; some of them may be 0.
        draft_rows: the dtype of ``draft_ids``, contiguous: the row of each token in ``draft_*``,
            which is then a pool ``[R, V]`` of any number of rows.
        draft_map: the rows of ``draft_*`` have the draft's vocabulary, ``[..., V_d]``, and ``q`` is
            what ``transfer`` would make of them: ``q(x)`` is the sum of ``P(d)`` over ``first(d) =
            x``. A token with the same entry of ``draft_rows`` as the token before it continues
            inside an expansion, and ``q`` is ``P`` conditioned on the expansions that begin with
            the tokens of this run and have further ones. Two draws in succession from equal rows
            therefore need two rows in the pool. Mass without an expansion is missing, and a row
            without mass stays all 0. ``exact`` is not read, nor are columns of ``draft_*`` beyond
            the map's D tokens.
        out: tensors to fill instead of new ones; ``tokens`` may have more columns than needed.

    Returns:
        Tokens and counts, new or ``out``.

    Only necessary rows are read: none after a rejection, and one entry of each probability row
    before it. With ``draft_map`` these are the entries that the one entry is summed from, and of
    the row of the rejected token all; rows over the target's vocabulary are not written. The result
    does not depend on the number of threads. Arithmetic is in float32, or in float64 if one of the
    distributions is; block sums and the draw are in float64.

    Raises:
        TypeError: an argument is not a tensor or has another dtype, or not exactly one distribution
            of the target, or two of the draft, are given.
        ValueError: shapes that disagree, an id outside the vocabulary, a uniform outside [0, 1), a
            row that is read holds NaN, +inf or a negative probability, a row of the target or of
            logits has no mass, a tensor that is not contiguous where it must be or requires grad,
            or tensors are not all in CPU memory or all on one GPU. The message counts entries and
            rows over all chains: with K = 3 ``draft_ids[3]`` is the first token of chain 1.

    On a GPU rows are float16, bfloat16 or float32. The host does not read values: a chain
    that would raise, for what is read of it, gets ``accepted`` -1 and tokens -1.

    Source: Leviathan et al., arXiv 2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318.

    Token 1 is accepted, since 0.5 < 0.25 / 0.25; token 0 is not, since 0.5 >= 0.25 / 0.75, and
    token 1 is drawn from ``norm(max(p - q, 0))``:

    >>> verification = verify(
    ...     torch.tensor([[1, 0]]),
    ...     target_probs=torch.tensor([[[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]]),
    ...     draft_probs=torch.tensor([[[0.75, 0.25], [0.75, 0.25]]]),
    ...     uniforms=torch.full((1, 3), 0.5),
    ... )
    >>> verification.tokens.tolist(), verification.accepted.tolist()
    ([[1, 1, -1]], [1])
    """
    if (target_logits is None) == (target_probs is None):
        raise ArgumentTypeError("verify: give one of target_logits and target_probs")
    if draft_logits is not None and draft_probs is not None:
        raise ArgumentTypeError(
            "verify: draft_logits and draft_probs are both given; give at most one"
        )
    if temperatures is not None and not (isinstance(temperature, float) and temperature == 1.0):
        raise ArgumentTypeError("verify: temperature and temperatures are both given; give one")
    try:
        if draft_map is None and traced(draft_ids):
            return Verification(
                *_recorded(
                    out,
                    draft_ids=draft_ids,
                    target_logits=target_logits,
                    target_probs=target_probs,
                    draft_logits=draft_logits,
                    draft_probs=draft_probs,
                    uniforms=uniforms,
                    temperature=temperature,
                    offsets=offsets,
                    temperatures=temperatures,
                    draft_rows=draft_rows,
                )
            )
        filled = _new(draft_ids, offsets=offsets) if out is None else out
        _core.verify(
            draft_ids,
            target_logits,
            target_probs,
            draft_logits,
            draft_probs,
            uniforms,
            temperature,
            offsets,
            temperatures,
            draft_rows,
            draft_map,
            filled.tokens,
            filled.accepted,
        )
    except Exception:
        require_parts("verify", Verification, out)
        raise
    return filled


def _new(draft_ids: Tensor, *, offsets: Tensor | None = None, **_: object) -> Verification:
    shape = _shape(draft_ids, offsets)
    device = device_of(draft_ids)
    return Verification(
        new("verify", "draft_ids", shape, torch.int32, device),
        new("verify", "draft_ids", shape[:1], torch.int32, device),
    )


def _shape(draft_ids: Tensor, offsets: Tensor | None) -> tuple[int | torch.SymInt, ...]:
    """The shape of ``out.tokens``."""
    if not without_memory(draft_ids):
        return _core.verify_shape(draft_ids, offsets)
    if offsets is None:
        return draft_ids.shape[0], draft_ids.shape[1] + 1
    batch = offsets.shape[0] - 1
    if draft_ids.is_cuda:
        return batch, draft_ids.shape[0] + 1
    # The width is given by the longest chain, which depends on the values of the offsets.
    return batch, torch.library.get_ctx().new_dynamic_size(min=1)


def _recorded(out: Verification | None, **arguments: Any) -> Any:
    draft_ids, offsets = arguments["draft_ids"], arguments["offsets"]
    if isinstance(draft_ids, Tensor) and (draft_ids.ndim != 2) == (offsets is None):
        raise ArgumentValueError(
            "verify: offsets belong to draft_ids of shape [T]; draft_ids of shape [B, K] take none"
        )
    temperature = arguments["temperature"]
    if not compiling():
        temperature = number("verify", "temperature", temperature)
    if arguments["uniforms"] is None and temperature != 0:
        raise ArgumentValueError("verify: uniforms are missing; only temperature=0 needs none")
    if getattr(offsets, "is_meta", False):
        raise ArgumentValueError(
            "verify: offsets are meta tensors, and the result is as wide as they say"
        )
    return record("verify", out, **arguments)


register(
    verify,
    tuple[Tensor, Tensor],
    _new,
    {
        "draft_ids": ("[T] or [B, K]", IDS),
        "target_logits": ("[T + B, V] or [B, K + 1, V]", FLOATS),
        "target_probs": ("[T + B, V] or [B, K + 1, V]", FLOATS),
        "draft_logits": ("[T, V], [R, V] or [B, K, V]", FLOATS),
        "draft_probs": ("[T, V], [R, V] or [B, K, V]", FLOATS),
        "uniforms": ("[T + B] or [B, K + 1]", WIDE),
        "offsets": ("[B + 1]", INT64),
        "temperatures": ("[B]", FLOAT32),
        "draft_rows": ("[T] or [B, K]", IDS),
    },
    without=("draft_map",),
)
