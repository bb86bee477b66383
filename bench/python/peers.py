"""What one would use instead of the core.

Packages are imported where they are used: a machine with a GPU may lack those of the CPU cases.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Spans = list[tuple[int, int]]

# ---- align ----


def dtw_editdistance(draft: Sequence[bytes], target: Sequence[bytes], band: int) -> Spans:
    """As in the code published with arXiv 2510.15545: `editdistance` and a NumPy matrix."""
    import editdistance

    return _dtw_numpy(draft, target, band, editdistance.eval)


def dtw_rapidfuzz(draft: Sequence[bytes], target: Sequence[bytes], band: int) -> Spans:
    """The same recurrence over `rapidfuzz`."""
    from rapidfuzz.distance import Levenshtein

    return _dtw_numpy(draft, target, band, Levenshtein.distance)


def _dtw_numpy(
    draft: Sequence[bytes],
    target: Sequence[bytes],
    band: int,
    distance: Callable[[bytes, bytes], int],
) -> Spans:
    reach = max(band, abs(len(draft) - len(target)))
    costs = np.full((len(draft) + 1, len(target) + 1), np.inf)
    costs[0, 0] = 0
    for i in range(1, len(draft) + 1):
        for j in range(max(1, i - reach), min(len(target), i + reach) + 1):
            before = min(costs[i - 1, j - 1], costs[i - 1, j], costs[i, j - 1])
            costs[i, j] = distance(draft[i - 1], target[j - 1]) + before
    return _trace_back(costs.tolist())


def dtw_tightened(draft: Sequence[bytes], target: Sequence[bytes], band: int) -> Spans:
    """Our fastest version in Python: all distances in one call, and lists."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    distances = cdist(draft, target, scorer=Levenshtein.distance).tolist()
    rows, columns = len(draft), len(target)
    reach = max(band, abs(rows - columns))
    above: list[float] = [0] + [math.inf] * columns
    costs = [above]
    for i in range(rows):
        here = [math.inf] * (columns + 1)
        row = distances[i]
        for j in range(max(0, i - reach), min(columns, i + reach + 1)):
            here[j + 1] = row[j] + min(above[j], above[j + 1], here[j])
        costs.append(here)
        above = here
    return _trace_back(costs)


def _trace_back(costs: list[list[float]]) -> Spans:
    i, j = len(costs) - 1, len(costs[0]) - 1
    spans = [(i, 0)] * j
    while i > 0 and j > 0:
        low, high = spans[j - 1]
        spans[j - 1] = (min(low, i - 1), max(high, i))
        diagonal, up, left = costs[i - 1][j - 1], costs[i - 1][j], costs[i][j - 1]
        if diagonal <= up and diagonal <= left:
            i, j = i - 1, j - 1
        elif up <= left:
            i -= 1
        else:
            j -= 1
    return spans


# ---- verify ----


def transformers_verify(
    draft_ids: Tensor, draft_logits: Tensor, target_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Emitted tokens and how many were accepted, for one chain ``[1, K]``."""
    from transformers.generation.utils import _speculative_sampling

    # Some releases take whether the draft ended the text.
    parameters = inspect.signature(_speculative_sampling).parameters
    options = {"is_done_candidate": False} if "is_done_candidate" in parameters else {}
    length = draft_ids.shape[1]
    return _speculative_sampling(draft_ids, draft_logits, length, target_logits, **options)


def torch_verify(
    draft_ids: Tensor, draft_logits: Tensor, target_logits: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """One chain ``[1, K]`` with given uniforms and an inverse-CDF draw: tokens and count."""
    q, p = draft_logits[0].softmax(-1), target_logits[0].softmax(-1)
    column = draft_ids[0, :, None]
    accepted = uniforms[0, :-1] * q.gather(1, column)[:, 0] < p[:-1].gather(1, column)[:, 0]
    count = accepted.int().cumprod(0).sum()
    weights = p[count] if count == len(q) else (p[count] - q[count]).clamp_(min=0)
    token = inverse_transform(weights, uniforms[0, -1])
    return torch.cat([draft_ids[0, :count], token[None]])[None], count


def torch_verify_batch(
    draft_ids: Tensor, draft_logits: Tensor, target_logits: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """A batch of chains, every row normalised: tokens ``[B, K + 1]`` and counts. Never waits."""
    q, p = draft_logits.float().softmax(-1), target_logits.float().softmax(-1)
    drafted = draft_ids.shape[1]
    ratio_p = p[:, :-1].gather(2, draft_ids[..., None])[..., 0]
    ratio_q = q.gather(2, draft_ids[..., None])[..., 0]
    count = (uniforms[:, :-1] * ratio_q < ratio_p).int().cumprod(1).sum(1)
    q = torch.cat([q, torch.zeros_like(q[:, :1])], 1)
    last = count[:, None, None].expand(-1, 1, p.shape[2])
    weights = (p.gather(1, last) - q.gather(1, last))[:, 0].clamp_(min=0).double().cumsum(-1)
    threshold = uniforms[:, -1:].double() * weights[:, -1:]
    token = torch.searchsorted(weights, threshold, right=True)
    positions = torch.arange(drafted + 1, device=draft_ids.device)
    padded = torch.cat([draft_ids, draft_ids[:, :1]], 1)
    tokens = torch.where(positions < count[:, None], padded, -1)
    return tokens.scatter(1, count[:, None], token), count


def inverse_transform(weights: Tensor, uniform: Tensor) -> Tensor:
    """The first token at which the running sum exceeds the uniform times the total."""
    reached = weights.double().cumsum(-1)
    return torch.searchsorted(reached, uniform.double() * reached[-1], right=True)


# ---- sample ----


def torch_exponentials(logits: Tensor) -> Tensor:
    """Noise for `torch_sample`: Exp(1) variates."""
    return torch.empty_like(logits).exponential_()


def torch_sample(logits: Tensor, exponentials: Tensor) -> Tensor:
    """The exponential race as inference engines write it."""
    return logits.softmax(-1).div_(exponentials).argmax(-1)


# ---- walk ----


def python_walk(
    picked: Tensor, tokens: Tensor, parents: Tensor, offsets: Tensor
) -> list[list[int]]:
    """The tokens emitted in each tree, by a dictionary of its nodes."""
    picks, ids, above = picked.tolist(), tokens.tolist(), parents.tolist()
    emitted = []
    for b, (begin, end) in enumerate(pairwise(offsets.tolist())):
        children: dict[tuple[int, int], int] = {}
        for i in range(begin, end):
            children.setdefault((above[i], ids[i]), i - begin)
        node: int | None = -1
        path = []
        while node is not None:
            path.append(picks[begin + b + node + 1])
            node = children.get((node, path[-1]))
        emitted.append(path)
    return emitted


class EveryPath:
    """All paths from the root to a leaf compared at once, as in Medusa and EAGLE.

    All trees have one shape, and siblings have different tokens.
    """

    def __init__(self, parents: Sequence[int], device: str) -> None:
        paths = []
        for leaf in sorted(set(range(len(parents))) - set(parents)):
            path = [leaf]
            while parents[path[0]] >= 0:
                path.insert(0, parents[path[0]])
            paths.append(path)
        depth = max(map(len, paths))
        nodes = torch.tensor([[*path, *[-1] * (depth - len(path))] for path in paths])
        self._is_node = (nodes >= 0).to(device)
        self._nodes = nodes.clamp(min=0).to(device)
        self._rows = torch.nn.functional.pad(nodes + 1, (1, 0)).to(device)

    def __call__(self, picked: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Emitted tokens ``[B, depth + 1]``, and how many of them are accepted, ``[B]``.

        The arguments are ``[B, nodes + 1]`` and ``[B, nodes]``.
        """
        matches = tokens[:, self._nodes] == picked[:, self._rows[:, :-1]]
        lengths = (matches & self._is_node).int().cumprod(-1).sum(-1)
        accepted, best = lengths.max(-1)
        return picked.gather(1, self._rows[best]), accepted


# ---- candidates ----


def torch_candidates(logits: Tensor, exponentials: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The tokens that lead the race, and their shares."""
    weights = logits.softmax(-1).div_(exponentials)
    best, ids = weights.topk(count)
    return ids, best / weights.sum(-1, keepdim=True)


# ---- transfer ----


class TorchTransfer:
    """Plain torch, given what `first` and the expansions say and each proxy token's case."""

    def __init__(self, first: Tensor, expansions: Sequence[Sequence[int]]) -> None:
        self._kept = torch.nonzero(first >= 0)[:, 0]
        self._first = first[self._kept]
        width = max(map(len, expansions)) + 1
        self._expansions = torch.tensor([[*e, *[-1] * (width - len(e))] for e in expansions])

    def __call__(
        self,
        rows: Tensor,
        draft_ids: list[int],
        target_ids: list[int],
        spans: Spans,
        cases: list[int],
        out: Tensor,
    ) -> Tensor:
        """Fill ``out [M, V_t]`` with the distributions of the proxy tokens."""
        out.zero_()
        for j, ((lo, hi), case) in enumerate(zip(spans, cases, strict=True)):
            if case in (1, 2):
                out[j].index_add_(0, self._first, rows[lo, self._kept])
            if case == 2:
                merged = rows[range(lo, hi), draft_ids[lo:hi]].prod()
                out[j, self._expansions[draft_ids[lo], 0]] -= merged
                out[j, target_ids[j]] += merged
            elif case == 3:
                begin = max(k for k in range(j) if spans[k][0] == lo and cases[k] != 3)
                taken = torch.tensor(target_ids[begin:j])
                follows = self._expansions[:, len(taken)]
                goes_on = (self._expansions[:, : len(taken)] == taken).all(1) & (follows >= 0)
                out[j].index_add_(0, follows[goes_on], rows[lo, goes_on])
                out[j] /= out[j].sum()
            elif case == 0:
                out[j, target_ids[j]] = 1
        return out


def torch_restrict(rows: Tensor, shared: Tensor, places: Tensor, out: Tensor) -> Tensor:
    """Draft columns `shared` moved to target columns `places`, normalised."""
    out.zero_()
    out[:, places] = rows[:, shared]
    return out.div_(out.sum(-1, keepdim=True))
